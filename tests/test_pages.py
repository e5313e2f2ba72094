"""Files read in runs of pages: the same pixels and the same complaints as of files read whole."""

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from resnet_zclass import images
from resnet_zclass.channels import open_channels, read_channels
from resnet_zclass.errors import InputError
from resnet_zclass.images import open_pages, read_pages, write_stack

RNG = np.random.default_rng(0)


def random_pages(shape=(7, 12, 16), dtype="uint16"):
    return (RNG.random(shape) * 200).astype(dtype)


def read_runs(path, n):
    with open_pages(path) as pages:
        runs = list(pages.runs(n))
    assert [len(run) for run in runs[:-1]] == [n] * (len(runs) - 1)
    read = np.concatenate(runs)
    assert (read.shape, read.dtype) == (pages.shape, pages.dtype)
    return read


KINDS = {
    "one piece": ((7, 12, 16), {"imagej": True, "metadata": {"axes": "ZYX"}}),
    "big endian": ((7, 12, 16), {"byteorder": ">"}),
    "plain pages": ((7, 12, 16), {"metadata": None}),
    "compressed": ((7, 12, 16), {"compression": "zlib", "photometric": "minisblack"}),
    "tiles": ((7, 32, 48), {"compression": "zlib", "tile": (16, 16)}),
    "colour": ((7, 8, 9, 3), {"photometric": "rgb"}),
    "compressed colour": ((7, 8, 9, 3), {"photometric": "rgb", "compression": "lzw"}),
    "colour planes": ((7, 3, 8, 9), {"photometric": "rgb", "planarconfig": "separate"}),
    "channels first": ((3, 7, 12, 16), {"ome": True, "metadata": {"axes": "CTYX"}, "photometric": "minisblack"}),
    "channels between": (
        (7, 3, 2, 12, 16),
        {"ome": True, "metadata": {"axes": "TCZYX"}, "photometric": "minisblack", "compression": "zlib"},
    ),
    "channels of ImageJ": ((7, 2, 12, 16), {"imagej": True, "metadata": {"axes": "ZCYX"}}),
    "colour in channels": ((2, 8, 9, 3), {"ome": True, "metadata": {"axes": "CYXS"}, "photometric": "rgb"}),
    "one page": ((12, 16), {}),
}


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_runs_of_pages_are_the_pages(kind, dtype, tmp_path):
    shape, options = KINDS[kind]
    pixels = random_pages(shape, dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, **options)
    whole = read_pages(tmp_path / "a.tif")
    assert whole.dtype == dtype
    for n in (1, 3, 100):
        np.testing.assert_array_equal(read_runs(tmp_path / "a.tif", n), whole)
    channel = {"colour planes": 1, "channels first": 0, "channels between": 1, "channels of ImageJ": 1}.get(kind)
    if kind != "colour in channels":  # is read as it always was, whatever that means
        expected = pixels if channel is None else np.moveaxis(pixels, channel, -1)
        np.testing.assert_array_equal(whole.ravel(), expected.ravel())


@pytest.mark.parametrize(("stored", "read"), [("bool", "uint8"), ("int32", "uint16"), ("float64", "float32")])
def test_other_types_keep_their_values_in_every_run(stored, read, tmp_path):
    pixels = random_pages(dtype="uint8").astype(stored)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack")
    assert read_runs(tmp_path / "a.tif", 3).dtype == read
    np.testing.assert_array_equal(read_runs(tmp_path / "a.tif", 3), pixels)


def test_pages_written_one_by_one_are_read_in_runs(tmp_path):
    pixels = random_pages()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pixels:
            writer.write(page, contiguous=False)
    np.testing.assert_array_equal(read_runs(tmp_path / "a.tif", 3), pixels)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("hole", [False, True])
def test_alpha_is_judged_by_all_pages(compression, hole, tmp_path):
    pixels = random_pages((7, 8, 9, 4), "uint8")
    pixels[..., 3] = 255
    pixels[6, 0, 0, 3] -= hole
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], compression=compression
    )
    np.testing.assert_array_equal(read_runs(tmp_path / "a.tif", 2), pixels if hole else pixels[..., :3])


def test_single_images_are_one_page(tmp_path):
    image = random_pages((8, 9, 4), "uint8")
    image[..., 3] = 255
    iio.imwrite(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_runs(tmp_path / "a.png", 5), image[None, ..., :3])


def write_faulty(path, fault):
    pixels = np.zeros((7, 64, 64), {"range": "int32", "type": "complex64"}.get(fault, "float32"))
    if fault == "no number":
        pixels[1, 0, 0], pixels[6, 1, 1] = np.nan, np.inf
    if fault == "range":
        pixels[1], pixels[2], pixels[6] = 5, 70000, -3
    options = {
        "page cut short": {"compression": "zlib"},
        "one piece cut short": {"imagej": True, "metadata": {"axes": "ZYX"}},
    }.get(fault, {})
    tifffile.imwrite(path, pixels, photometric="minisblack", **options)
    if "cut short" in fault:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("fault", ["no number", "range", "type", "cut short", "page cut short", "one piece cut short"])
@pytest.mark.parametrize("n", [1, 4, 100])
def test_faults_are_said_of_the_whole_file(fault, n, tmp_path):
    write_faulty(tmp_path / "a.tif", fault)
    with pytest.raises(InputError) as whole:
        read_pages(tmp_path / "a.tif")
    with pytest.raises(InputError) as in_runs:
        read_runs(tmp_path / "a.tif", n)
    assert str(in_runs.value) == str(whole.value)


def test_pages_in_one_piece_are_not_read_before_they_are_asked_for(tmp_path, monkeypatch):
    write_stack(tmp_path / "a.tif", random_pages((100, 16, 16)))
    asked = []
    original = tifffile.FileHandle.read_array

    def read_array(self, dtype, count=-1, *args, **keywords):
        asked.append(count)
        return original(self, dtype, count, *args, **keywords)

    monkeypatch.setattr(tifffile.FileHandle, "read_array", read_array)
    with open_pages(tmp_path / "a.tif") as pages:
        next(pages.runs(10))
    assert asked == [10 * 16 * 16]


def test_a_run_has_as_many_pages_as_fit(tmp_path, monkeypatch):
    write_stack(tmp_path / "a.tif", random_pages((9, 16, 16)))
    monkeypatch.setattr(images, "RUN_BYTES", 4 * 16 * 16 * 2 + 1)
    with open_pages(tmp_path / "a.tif") as pages:
        assert pages.run_length == 4
    monkeypatch.setattr(images, "RUN_BYTES", 1)
    with open_pages(tmp_path / "a.tif") as pages:
        assert pages.run_length == 1


def test_what_goes_wrong_between_two_runs_is_no_fault_of_the_file(tmp_path):
    write_stack(tmp_path / "a.tif", random_pages())
    with pytest.raises(KeyError), open_pages(tmp_path / "a.tif") as pages:
        next(pages.runs(2))
        raise KeyError("of another")


def test_channel_files_are_read_in_runs_side_by_side(tmp_path):
    planes = random_pages((3, 7, 12, 16))
    paths = [tmp_path / f"a_{c}.tif" for c in range(3)]
    for path, pixels in zip(paths, planes, strict=True):
        tifffile.imwrite(path, pixels, compression="zlib", photometric="minisblack")
    with open_channels(paths) as pages:
        runs = list(pages.runs(3))
    assert pages.shape == (7, 12, 16, 3)
    np.testing.assert_array_equal(np.concatenate(runs), read_channels(paths))
    np.testing.assert_array_equal(np.concatenate(runs), np.moveaxis(planes, 0, -1))


def test_damage_is_said_of_the_channel_that_has_it(tmp_path):
    paths = [tmp_path / f"a_{c}.tif" for c in range(2)]
    for path in paths:
        tifffile.imwrite(path, random_pages((20, 64, 64)), metadata=None)
    paths[1].write_bytes(paths[1].read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"a_1\.tif"), open_channels(paths) as pages:
        list(pages.runs(3))


@pytest.mark.parametrize("other", [(6, 12, 16), (7, 12, 17), (7, 12, 16, 3)])
def test_channel_files_that_do_not_fit_are_refused_before_any_run(other, tmp_path):
    write_stack(tmp_path / "a_0.tif", random_pages())
    tifffile.imwrite(tmp_path / "a_1.tif", random_pages(other), photometric="rgb" if len(other) == 4 else "minisblack")
    paths = [tmp_path / "a_0.tif", tmp_path / "a_1.tif"]
    with pytest.raises(InputError) as whole:
        read_channels(paths)
    with pytest.raises(InputError) as in_runs, open_channels(paths):
        pass
    assert str(in_runs.value) == str(whole.value)
