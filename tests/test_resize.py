import numpy as np
import pytest

from resnet_zclass.resize import resize_images


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_type_range_and_mean_are_kept(dtype):
    top = 255 if dtype == "uint8" else 60000 if dtype == "uint16" else 1.0
    images = (np.random.default_rng(0).random((2, 64, 48, 3)) * top).astype(dtype)
    small = resize_images(images, 16)
    assert small.shape == (2, 16, 16, 3)
    assert small.dtype == dtype
    assert small.min() >= images.min()
    assert small.max() <= images.max()
    np.testing.assert_allclose(small.mean((1, 2)), images.mean((1, 2)), rtol=0.02)


def test_fine_patterns_are_averaged_and_do_not_alias():
    checkers = np.indices((64, 64)).sum(0) % 2 * 200
    small = resize_images(checkers[None, ..., None].astype("uint8"), 16)
    assert abs(small.astype(int) - 100).max() <= 1


def test_a_ramp_stays_a_ramp():
    ramp = np.tile(np.arange(64, dtype="float32"), (64, 1))[None, ..., None]
    small = resize_images(ramp, 16)[0, :, :, 0]
    np.testing.assert_allclose(small[:, 1:-1], np.tile(1.5 + 4 * np.arange(1, 15), (16, 1)), atol=1e-4)


def test_channels_do_not_mix_and_images_of_the_size_are_left_alone():
    images = np.zeros((1, 32, 32, 4), "uint8")
    images[..., 2] = 77
    small = resize_images(images, 8)
    assert small[..., 2].min() == small[..., 2].max() == 77
    assert not small[..., [0, 1, 3]].any()
    assert resize_images(images, 32) is images


def test_integers_are_rounded_and_not_cut():
    pair = np.array([[3, 4], [4, 4]], "uint8").reshape(1, 2, 2, 1)  # mean 3.75
    assert resize_images(pair, 1).item() == 4
