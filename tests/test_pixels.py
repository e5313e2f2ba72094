import numpy as np
import pytest

from resnet_zclass import pixels as pixels_module
from resnet_zclass.pixels import Pixels, measure_pixels

CROPS = np.random.default_rng(0).integers(0, 4000, (6, 16, 16, 1)).astype("uint16")


def test_pixels_are_measured_as_they_are():
    pixels = measure_pixels(CROPS)
    assert (*pixels.low, *pixels.high) == pytest.approx(np.percentile(CROPS, [0.1, 99.9]))
    assert (pixels.offset,) == pixels.low
    assert (*pixels.mean, *pixels.spread) == pytest.approx((CROPS.mean(), CROPS.std()))
    roots = np.sqrt(np.maximum(CROPS - 50.0, 0))
    known = measure_pixels(CROPS, offset=50.0)
    assert (known.offset, *known.root_mean, *known.root_spread) == pytest.approx(
        (50, roots.mean(), roots.std()), rel=1e-4
    )
    eight_bit = measure_pixels(CROPS.astype("uint8"))
    assert (eight_bit.low, eight_bit.high) == ((0.0,), (255.0,))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_channel_is_measured_as_if_it_were_alone(dtype):
    crops = (np.random.default_rng(1).random((5, 8, 8, 4)) * [50, 100, 200, 250]).astype(dtype)
    together = measure_pixels(crops, offset=20.0)
    for channel in range(4):
        alone = measure_pixels(crops[..., channel : channel + 1], offset=20.0)
        for name in ("low", "high", "mean", "spread", "root_mean", "root_spread"):
            assert getattr(together, name)[channel] == getattr(alone, name)[0], name


def test_one_offset_is_found_for_all_channels_together():
    crops = CROPS + np.array([100, 900], "uint16")
    assert measure_pixels(crops).offset == pytest.approx(np.percentile(crops, 0.1))


def test_a_channel_that_is_empty_or_sparse_does_not_blow_up():
    crops = np.zeros((40, 8, 8, 3), "uint16")
    crops[..., 0] = 7
    crops[3, 2, 2, 1] = 4000  # less than a thousandth of the pixels
    pixels = measure_pixels(crops)
    assert pixels.low == (7.0, 0.0, 0.0)
    assert pixels.high == (8.0, 4000.0, 1.0)
    assert pixels.spread[0] == pixels.spread[2] == 1.0


class Counted:
    """Crops that say how many of them were asked for."""

    def __init__(self, shape):
        self.shape, self.asked = shape, 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, indices):
        self.asked = len(indices)
        return np.zeros((len(indices), *self.shape[1:]), "uint16")


@pytest.mark.parametrize(("n_bytes", "asked"), [(2**28, 20), (10 * 8 * 8 * 2 * 4, 10), (1, 1)])
def test_no_more_crops_are_looked_at_than_fit(monkeypatch, n_bytes, asked):
    monkeypatch.setattr(pixels_module, "MAX_SAMPLE_BYTES", n_bytes)
    crops = Counted((50, 8, 8, 2))
    measure_pixels(crops, n_sampled=20)
    assert crops.asked == asked


def test_a_set_is_dark_where_no_channel_has_light():
    crops = np.full((2, 4, 4, 2), [90, 100], "uint16")
    assert measure_pixels(crops, offset=100.0).is_dark
    crops[0, 0, 0, 1] = 101
    assert not measure_pixels(crops, offset=100.0).is_dark
    assert Pixels().is_dark
