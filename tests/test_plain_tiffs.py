import numpy as np
import pytest
import tifffile
from PIL import Image

from resnet_zclass import images
from resnet_zclass.errors import InputError
from resnet_zclass.images import read_pages
from resnet_zclass.plain_tiffs import read_plain_tiff

RNG = np.random.default_rng(0)


def random_image(shape=(9, 13), dtype="uint16"):
    return (RNG.random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"byteorder": ">"},
        {"metadata": None},
        {"metadata": {"axes": "YX"}},
        {"imagej": True},
        {"description": ""},
        {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER", "datetime": True},
    ],
    ids=str,
)
def test_plain_files_are_read_as_tifffile_reads_them(dtype, options, tmp_path):
    image = random_image(dtype=dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, photometric="minisblack", **options)
    found = read_plain_tiff(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, image)
    np.testing.assert_array_equal(found, tifffile.imread(tmp_path / "a.tif"))
    assert found.dtype == np.dtype(dtype)
    assert found.dtype.isnative


def test_a_file_of_pillow_is_plain(tmp_path):
    image = random_image()
    Image.fromarray(image).save(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_plain_tiff(tmp_path / "a.tif"), image)


@pytest.mark.parametrize(
    ("shape", "dtype", "options"),
    [
        ((4, 9, 13), "uint16", {}),
        ((4, 9, 13), "uint16", {"imagej": True, "metadata": {"axes": "ZYX"}}),
        ((1, 9, 13), "uint16", {}),
        ((9, 13, 3), "uint8", {"photometric": "rgb"}),
        ((9, 13), "uint16", {"compression": "zlib"}),
        ((9, 13), "uint16", {"bigtiff": True}),
        ((9, 13), "uint16", {"rowsperstrip": 3}),
        ((32, 32), "uint16", {"tile": (16, 16)}),
        ((9, 13), "uint16", {"ome": True}),
        ((9, 13), "int16", {}),
        ((9, 13), "uint32", {}),
        ((9, 13), "float64", {}),
        ((9, 13), "uint8", {"photometric": "miniswhite"}),
        ((9, 13), "uint16", {"description": "of another program"}),
        ((9, 13), "uint16", {"extratags": [(65000, "I", 1, 7, True)]}),
    ],
)
def test_all_others_are_left_to_tifffile(shape, dtype, options, tmp_path):
    image = random_image(shape, "uint8").astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", image, **{"photometric": "minisblack", **options})
    assert read_plain_tiff(tmp_path / "a.tif") is None
    np.testing.assert_array_equal(read_pages(tmp_path / "a.tif").reshape(shape), image)


def test_every_single_byte_is_judged_as_tifffile_judges_it(tmp_path, monkeypatch):
    """Whatever byte of the tags is damaged: the same pixels, or the same refusal."""
    path, image = tmp_path / "a.tif", random_image((3, 4))
    tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "YX"})
    whole = path.read_bytes()
    n_plain = 0
    for place in range(whole.index(image.tobytes())):
        for value in (0, 1, 255, whole[place] ^ 16):
            path.write_bytes(whole[:place] + bytes([value]) + whole[place + 1 :])
            found = read_plain_tiff(path)
            if found is not None:
                n_plain += 1
                with monkeypatch.context() as patch:
                    patch.setattr(images, "read_plain_tiff", lambda path: None)
                    np.testing.assert_array_equal(read_pages(path)[0], found, err_msg=f"byte {place} is {value}")
    assert n_plain > 20


@pytest.mark.parametrize("n_bytes", [0, 4, 8, 30, 200, -1])
def test_a_file_cut_short_is_refused(n_bytes, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_image())
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:n_bytes])
    assert read_plain_tiff(tmp_path / "a.tif") is None
    with pytest.raises(InputError, match=r"a\.tif"):
        read_pages(tmp_path / "a.tif")
