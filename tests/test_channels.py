from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from resnet_zclass.channels import group_channels, read_channels
from resnet_zclass.errors import InputError


def paths(*names):
    return [Path(name) for name in names]


def test_channels_come_in_the_order_asked_for():
    grouped = group_channels(paths("d/a_blue.png", "d/a_red.png", "d/b_red.png", "d/b_blue.png"), ("_red", "_blue"))
    assert grouped == {Path("d/a"): tuple(paths("d/a_red.png", "d/a_blue.png")),
                       Path("d/b"): tuple(paths("d/b_red.png", "d/b_blue.png"))}  # fmt: skip


def test_a_channel_within_the_name_is_no_channel():
    grouped = group_channels(paths("A_1_rfp_11_gfp.tif", "A_1_rfp_11_rfp.tif"), ("_gfp", "_rfp"))
    assert list(grouped) == [Path("A_1_rfp_11")]


def test_the_longest_end_wins():
    assert group_channels(paths("a_x.tif", "a_x_x.tif"), ("_x_x", "_x"))[Path("a")] == tuple(
        paths("a_x_x.tif", "a_x.tif")
    )


def test_channels_that_are_not_asked_for_are_left_out():
    assert group_channels(paths("a_red.png", "a_green.png"), ("_green",)) == {Path("a"): (Path("a_green.png"),)}


@pytest.mark.parametrize(
    ("names", "channels", "named"),
    [
        (("a_red.png", "a_green.png", "b_red.png"), ("_red", "_green"), "b_green"),
        (("a_red.png", "a_red.tif"), ("_red",), "a_red.tif"),
        (("a_red.png", "stray.png"), ("_red",), "stray.png"),
        (("a_red.png",), ("_red", "_red"), "--channels"),
        (("a_red.png",), ("",), "--channels"),
        (("_red.png",), ("_red",), "no name"),
    ],
)
def test_what_makes_no_whole_image_is_refused_by_name(names, channels, named):
    with pytest.raises(InputError, match=named):
        group_channels(paths(*names), channels)


def test_pixels_of_every_channel_keep_their_place_and_depth(tmp_path):
    rng = np.random.default_rng(0)
    planes = rng.integers(0, 65535, (3, 6, 5)).astype("uint16")
    files = [tmp_path / f"a_{c}.png" for c in range(3)]
    for file, plane in zip(files, planes, strict=True):
        iio.imwrite(file, plane)
    read = read_channels(files)
    assert read.dtype == np.uint16
    np.testing.assert_array_equal(read, np.moveaxis(planes, 0, -1)[None])


def test_a_tiff_of_several_channels_and_pages_is_read_as_it_is(tmp_path):
    pixels = np.random.default_rng(0).random((3, 8, 7, 2)).astype("float32")
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read_channels([tmp_path / "a.tif"]), pixels)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (np.zeros((8, 9), "uint8"), "share size"),
        (np.zeros((8, 8), "uint16"), "bit depth"),
        (np.zeros((8, 8, 3), "uint8"), "3 channels"),
    ],
)
def test_channels_that_do_not_fit_together_are_refused(other, named, tmp_path):
    iio.imwrite(tmp_path / "a_red.png", np.zeros((8, 8), "uint8"))
    iio.imwrite(tmp_path / "a_green.png", other)
    with pytest.raises(InputError, match=named):
        read_channels([tmp_path / "a_red.png", tmp_path / "a_green.png"])


def test_a_saturated_channel_of_a_tiff_is_no_alpha(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8)).astype("uint8")
    pixels[3] = 255
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata={"axes": "CYX"}, photometric="minisblack")
    assert read_channels([tmp_path / "a.tif"]).shape == (1, 8, 8, 4)
    tifffile.imwrite(tmp_path / "b.tif", np.moveaxis(pixels, 0, -1), photometric="rgb", extrasamples=["unassalpha"])
    assert read_channels([tmp_path / "b.tif"]).shape == (1, 8, 8, 3)
