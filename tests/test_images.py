import time

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from resnet_zclass.errors import InputError
from resnet_zclass.images import list_images, read_pages, read_stack, write_stack

RNG = np.random.default_rng(0)


def random_pages(shape=(5, 12, 16), dtype="uint16"):
    return (RNG.random(shape) * 200).astype(dtype)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_written_stack_comes_back_pixel_by_pixel(tmp_path, dtype):
    pages = random_pages(dtype=dtype)
    write_stack(tmp_path / "a.tif", pages, z_step_um=0.1)
    assert read_pages(tmp_path / "a.tif").dtype == dtype
    np.testing.assert_array_equal(read_pages(tmp_path / "a.tif"), pages)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif").planes, pages)


def test_three_pages_are_no_colours(tmp_path):
    write_stack(tmp_path / "a.tif", random_pages((3, 12, 16)))
    assert read_pages(tmp_path / "a.tif").shape == (3, 12, 16)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "zlib", "tile": (16, 16)},
        {"ome": True, "metadata": {"axes": "TYX"}},
        {"metadata": None},
        {"byteorder": ">"},
        {"bigtiff": True},
    ],
    ids=lambda options: "-".join(options),
)
def test_other_kinds_of_tiff_are_read_alike(tmp_path, options):
    pages = random_pages((5, 32, 48))
    tifffile.imwrite(tmp_path / "a.tif", pages, **options)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif").planes, pages)
    assert read_stack(tmp_path / "a.tif").planes.dtype == np.dtype("uint16")


def test_pages_written_one_by_one_are_one_stack(tmp_path):
    pages = random_pages()
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in pages:
            writer.write(page, contiguous=False)
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif").planes, pages)


@pytest.mark.parametrize(
    ("stored", "read"),
    [("bool", "uint8"), ("int16", "uint16"), ("int32", "uint16"), ("uint32", "uint16"), ("float64", "float32")],
)
def test_other_types_keep_their_values(tmp_path, stored, read):
    pages = random_pages(dtype="uint8").astype(stored)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    assert read_pages(tmp_path / "a.tif").dtype == read
    np.testing.assert_array_equal(read_pages(tmp_path / "a.tif"), pages)


@pytest.mark.parametrize(("dtype", "value"), [("int16", -1), ("int32", 65536), ("complex64", 1)])
def test_values_that_would_change_are_refused(tmp_path, dtype, value):
    tifffile.imwrite(tmp_path / "a.tif", np.full((2, 8, 8), value, dtype), photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif"):
        read_pages(tmp_path / "a.tif")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    pages = np.zeros((2, 8, 8))
    pages[1, 2, 3] = value
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    with pytest.raises(InputError, match=r"a\.tif holds 1 pixels that are NaN or infinite"):
        read_pages(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("spacing", "unit", "step_um"),
    [
        (0.1, "um", 0.1),
        (0.125, "\\u00B5m", 0.125),
        (0.125, "micron", 0.125),
        (300.0, "nm", 0.3),
        (0.0002, "mm", 0.2),
        (-0.1, "um", 0.1),
        (0.1, None, 0.1),
        (1.0, "pixel", None),
        (0.0, "um", None),
    ],
)
def test_imagej_spacing_is_read_in_its_unit(tmp_path, spacing, unit, step_um):
    metadata = {"axes": "ZYX", "spacing": spacing} | ({"unit": unit} if unit else {})
    tifffile.imwrite(tmp_path / "a.tif", random_pages(), imagej=True, metadata=metadata)
    stack = read_stack(tmp_path / "a.tif")
    assert stack.z_step_um == (None if step_um is None else pytest.approx(step_um))
    assert ("ImageJ" in stack.z_step_source) == (step_um is not None)


@pytest.mark.parametrize(("size", "unit", "step_um"), [(0.2, None, 0.2), (250, "nm", 0.25), (0.3, "µm", 0.3)])
def test_ome_physical_size_is_read_in_its_unit(tmp_path, size, unit, step_um):
    metadata = {"axes": "ZYX", "PhysicalSizeZ": size} | ({"PhysicalSizeZUnit": unit} if unit else {})
    tifffile.imwrite(tmp_path / "a.ome.tif", random_pages(), ome=True, metadata=metadata)
    assert read_stack(tmp_path / "a.ome.tif").z_step_um == pytest.approx(step_um)
    assert read_stack(tmp_path / "a.ome.tif").z_step_source == "OME PhysicalSizeZ"


def test_without_metadata_the_z_step_is_unknown(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_pages())
    assert read_stack(tmp_path / "a.tif").z_step_um is None


def test_pixel_size_is_read_in_centimetres_too(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_pages(), resolution=(1e5, 1e5), resolutionunit="CENTIMETER")
    assert read_stack(tmp_path / "a.tif").pixel_um == pytest.approx(0.1)


def test_axes_that_cannot_be_planes_are_named(tmp_path):
    pages = random_pages((3, 4, 2, 8, 8))
    tifffile.imwrite(tmp_path / "a.tif", pages, imagej=True, metadata={"axes": "TZCYX"})
    with pytest.raises(InputError, match=r"a\.tif .*TZCYX"):
        read_stack(tmp_path / "a.tif")
    tifffile.imwrite(tmp_path / "b.tif", pages[:, :, 0], imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match=r"b\.tif has axes TZYX \(3 T x 4 Z\)"):
        read_stack(tmp_path / "b.tif")


def test_axes_of_length_one_do_not_count(tmp_path):
    pages = random_pages((1, 7, 1, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", pages, imagej=True, metadata={"axes": "TZCYX"})
    np.testing.assert_array_equal(read_stack(tmp_path / "a.tif").planes, pages[0, :, 0])


def test_channels_come_last(tmp_path):
    pages = random_pages((4, 2, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", pages, imagej=True, metadata={"axes": "ZCYX"})
    np.testing.assert_array_equal(read_pages(tmp_path / "a.tif"), np.moveaxis(pages, 1, -1))


def test_colour_is_no_stack(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", random_pages((5, 8, 8, 3), "uint8"), photometric="rgb")
    assert read_pages(tmp_path / "a.tif").shape == (5, 8, 8, 3)
    with pytest.raises(InputError, match=r"a\.tif holds colour"):
        read_stack(tmp_path / "a.tif")


def test_pages_of_mixed_shapes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(random_pages((8, 8)))
        writer.write(random_pages((8, 9)))
    with pytest.raises(InputError, match=r"a\.tif holds pages of mixed shapes"):
        read_pages(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "options", [{"imagej": True}, {"ome": True}, {}, {"compression": "lzw"}, {"metadata": None}], ids=str
)
@pytest.mark.parametrize("share", [0.95, 0.5, 0.1, 0.02, 0.0])
def test_a_file_cut_short_is_refused(tmp_path, options, share):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, random_pages((20, 64, 64)), **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InputError, match=r"a\.tif"):
        read_pages(path)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_single_images_cut_short_are_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    iio.imwrite(path, random_pages((64, 64), "uint8"))
    path.write_bytes(path.read_bytes()[:-600])
    with pytest.raises(InputError, match=rf"a\{suffix}"):
        read_pages(path)


def test_sixteen_bits_of_a_png_are_kept(tmp_path):
    image = RNG.integers(0, 65535, (16, 17), dtype="uint16")
    iio.imwrite(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_pages(tmp_path / "a.png"), image[None])


def test_alpha_goes_only_where_it_is_opaque(tmp_path):
    image = random_pages((8, 9, 4), "uint8")
    iio.imwrite(tmp_path / "rgby.png", image)
    np.testing.assert_array_equal(read_pages(tmp_path / "rgby.png"), image[None])
    image[..., 3] = 255
    iio.imwrite(tmp_path / "opaque.png", image)
    np.testing.assert_array_equal(read_pages(tmp_path / "opaque.png"), image[None, ..., :3])


def test_images_are_listed_by_name_without_other_files(tmp_path):
    (tmp_path / "below").mkdir()
    for name in ("b.tif", "a.png", "notes.txt", "._b.tif", "below/c.bmp"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.png", "b.tif"]
    assert [path.name for path in list_images(tmp_path, recursive=True)] == ["a.png", "b.tif", "c.bmp"]
    assert list_images(tmp_path / "b.tif") == [tmp_path / "b.tif"]
    for wrong in ("none.tif", "notes.txt"):
        with pytest.raises(InputError, match=wrong):
            list_images(tmp_path / wrong)


def test_pages_are_read_in_one_piece(tmp_path):
    pages = random_pages((20_000, 32, 32))
    write_stack(tmp_path / "a.tif", pages)
    best = np.inf
    for _ in range(3):
        start = time.perf_counter()
        read_pages(tmp_path / "a.tif")
        best = min(best, time.perf_counter() - start)
    assert len(pages) / best > 100_000


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "shape", "dtype", "z_step_um"),
    [
        ("beads/confocal_left_71z.tif", (71, 1024, 512), "uint8", 0.1),
        ("beads/confocal_4beads_41z.tif", (41, 150, 150), "uint8", 0.125),
        ("psf/lattice_psf.tif", (61, 128, 128), "uint16", None),
        ("psf/pyme_psf_astig.tif", (61, 61, 61), "float32", None),
        ("psf/widefield_psf-gfp_LZW_original.tif", (32, 250, 250), "uint16", None),
    ],
)
def test_real_stacks_are_read_right(shared_path, name, shape, dtype, z_step_um):
    stack = read_stack(shared_path / name)
    assert (stack.planes.shape, stack.planes.dtype.name, stack.z_step_um) == (shape, dtype, z_step_um)
