import numpy as np
import pytest
from scipy import ndimage, stats

from resnet_zclass.errors import InputError
from resnet_zclass.warp import (
    affine_maps,
    apply_affine,
    apply_flip,
    apply_shift,
    apply_turn,
    draw_affine,
    draw_shift,
    to_pixels,
)

RNG = np.random.default_rng(0)
CROPS = RNG.integers(0, 60000, (6, 9, 9, 2)).astype("uint16")
DTYPES = ("uint8", "uint16", "float32")


def map_of(n=1, degrees=0.0, factors=(1.0, 1.0), side=1.0, centre_px=(0.0, 0.0)):
    return affine_maps(np.full(n, degrees), np.tile(factors, (n, 1)), np.full(n, side), np.tile(centre_px, (n, 1)))


def ramp(height, width, axis, dtype="float32"):
    """Crop whose pixels are 8 times their row (axis 0) or column (axis 1)."""
    return (8 * np.indices((height, width))[axis])[None, :, :, None].astype(dtype)


def test_flips_mirror_only_where_drawn():
    flipped = apply_flip(CROPS[:2], np.array([[False, True], [False, False]]))
    np.testing.assert_array_equal(flipped[0], CROPS[0, :, ::-1])
    np.testing.assert_array_equal(flipped[1], CROPS[1])


def test_four_quarter_turns_are_none():
    turned = CROPS
    for _ in range(4):
        turned = apply_turn(turned, np.ones(6, int))
    np.testing.assert_array_equal(turned, CROPS)
    np.testing.assert_array_equal(apply_turn(CROPS, np.full(6, 2)), CROPS[:, ::-1, ::-1])


def test_only_square_crops_are_turned():
    with pytest.raises(InputError, match="--turn"):
        apply_turn(CROPS[:, :5], np.ones(6, int))


def test_a_shift_moves_the_content_and_mirrors_what_comes_in():
    shifted = apply_shift(CROPS, np.tile([2, -3], (6, 1)))
    np.testing.assert_array_equal(shifted[:, 2:, :-3], CROPS[:, :-2, 3:])
    np.testing.assert_array_equal(shifted[:, 1, :-3], CROPS[:, 1, 3:])
    np.testing.assert_array_equal(shifted[:, 0, :-3], CROPS[:, 2, 3:])


def test_shifts_reach_their_bounds_and_not_beyond():
    shifts = draw_shift(np.random.default_rng(0), (1000, 9, 9, 1), 3)
    assert set(np.unique(shifts)) == set(range(-3, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side_px", [8, 9, 150])
@pytest.mark.parametrize("quarters", [-1, 1, 2, 3])
def test_rotation_by_right_angles_is_rot90(dtype, side_px, quarters):
    crops = RNG.integers(0, 256, (2, side_px, side_px, 3)).astype(dtype)
    rotated = apply_affine(crops, map_of(2, degrees=90 * quarters))
    rounding = 256 * np.finfo(dtype).eps if dtype == "float32" else 0
    np.testing.assert_allclose(rotated, np.rot90(crops, quarters, axes=(1, 2)), rtol=0, atol=rounding)


def test_half_a_turn_of_a_crop_that_is_not_square():
    np.testing.assert_array_equal(apply_affine(CROPS[:, :4], map_of(6, degrees=180)), CROPS[:, 3::-1, ::-1])


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("factor", [1.25, 2.0])
def test_a_stretched_ramp_is_less_steep_and_its_middle_stays(axis, factor):
    crop, factors = ramp(9, 13, axis), np.ones(2)
    factors[axis] = factor
    middle = crop.mean()
    stretched = apply_affine(crop, map_of(factors=factors))
    np.testing.assert_allclose(stretched, (crop - middle) / factor + middle, rtol=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_shrunk_ramp_is_steeper_and_goes_on_mirrored(axis):
    crop, factors = ramp(9, 13, axis), np.ones(2)
    factors[axis] = 0.5
    top = crop.max()
    beyond = (crop - top / 2) / 0.5 + top / 2
    folded = np.where(beyond > top, 2 * top - beyond, np.abs(beyond))
    np.testing.assert_array_equal(apply_affine(crop, map_of(factors=factors)), folded)


def test_a_window_of_a_ramp_is_that_part_of_it_scaled_up():
    centre_px = (2.0, -1.0)  # rows 4..8 and columns 2.5..8.5 (edges of pixels) of 8 x 12 pixels
    for axis, (first, n) in enumerate([(4.0, 8), (2.0, 12)]):
        window = apply_affine(ramp(8, 12, axis), map_of(side=0.5, centre_px=centre_px))
        expected_px = first + (np.arange(n) + 0.5) / 2 - 0.5
        line = window[0, :, 0, 0] if axis == 0 else window[0, 0, :, 0]
        inside = expected_px <= n - 1  # the last row lies a quarter of a pixel beyond the last centre
        np.testing.assert_array_equal(line[inside], 8 * expected_px[inside])
        np.testing.assert_array_equal(line[~inside], 8 * (2 * (n - 1) - expected_px[~inside]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 16, 16, 3), (5, 9, 14, 1), (5, 1, 6, 2)])
def test_affine_maps_agree_with_scipy(dtype, shape):
    crops = np.random.default_rng(0).integers(0, 256, shape).astype(dtype)
    maps = draw_affine(np.random.default_rng(1), shape, rotate_deg=180, stretch=1.0, crop=0.5)
    middle = (np.array(shape[1:3]) - 1) / 2
    expected = np.empty(shape)
    for crop, affine, target in zip(crops.astype(float), maps, expected, strict=True):
        linear, offset = affine[:, :2], affine[:, 2] + middle - affine[:, :2] @ middle
        for channel in range(shape[3]):
            ndimage.affine_transform(
                crop[..., channel], linear, offset, output=target[..., channel], order=1, mode="mirror"
            )
    mapped = apply_affine(crops, maps)
    if dtype == "float32":
        np.testing.assert_allclose(mapped, expected, rtol=1e-5, atol=1e-4)
    else:
        assert np.abs(mapped - expected).max() <= 0.5 + 1e-4  # rounded once


def test_rotation_stretch_and_window_are_one_map_in_that_order():
    point, degrees, factors, side, centre_px = np.array([1.0, 2.0]), 30.0, np.array([2.0, 0.5]), 0.5, np.array([3.0, 1])
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    within_window = side * point + centre_px
    before_stretch = within_window / factors
    before_rotation = np.array([[cos, sin], [-sin, cos]]) @ before_stretch
    affine = map_of(degrees=degrees, factors=factors, side=side, centre_px=centre_px)[0]
    np.testing.assert_allclose(affine @ [*point, 1], before_rotation, rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_identity_is_exact_bit_by_bit(dtype):
    crops = (CROPS / 7).astype(dtype)
    if dtype == "float32":
        crops[0, 4, 4] = (np.inf, np.nan)
    maps = draw_affine(np.random.default_rng(0), crops.shape)
    np.testing.assert_array_equal(maps, np.tile(np.eye(2, 3), (6, 1, 1)))
    assert apply_affine(crops, maps).tobytes() == crops.tobytes()


def test_angles_and_factors_are_spread_as_asked():
    shape = (4000, 32, 32, 1)
    rotated = draw_affine(np.random.default_rng(0), shape, rotate_deg=30)
    degrees = np.rad2deg(np.arctan2(rotated[:, 0, 1], rotated[:, 0, 0]))
    assert np.abs(degrees).max() <= 30
    np.testing.assert_allclose(np.quantile(degrees, [0.0, 0.25, 0.5, 0.75, 1.0]), [-30, -15, 0, 15, 30], atol=1.5)
    stretched = draw_affine(np.random.default_rng(0), shape, stretch=0.5)
    logs = -np.log(stretched[:, [0, 1], [0, 1]]) / np.log(1.5)
    assert np.abs(logs).max() <= 1
    np.testing.assert_allclose(np.quantile(logs, [0.0, 0.25, 0.5, 0.75, 1.0]), [-1, -0.5, 0, 0.5, 1], atol=0.05)
    assert abs(np.corrcoef(logs.T)[0, 1]) < 0.05  # height and width apart


def test_windows_lie_anywhere_within_the_image_up_to_its_borders():
    shape = (4000, 20, 40, 1)
    maps = draw_affine(np.random.default_rng(0), shape, crop=0.4)
    sides = maps[:, 0, 0]
    assert 0.6 <= sides.min() < 0.61
    assert 0.99 < sides.max() <= 1
    places = maps[:, :, 2] / (1 - sides[:, None]) / shape[1:3]  # -1/2: at the upper or left border, 1/2: at the other
    assert np.abs(places).max() <= 0.5 + 1e-12
    assert stats.kstest(places.ravel() + 0.5, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.05


def test_crops_are_mapped_alone_as_in_a_batch_and_in_any_order():
    maps = draw_affine(np.random.default_rng(3), CROPS.shape, rotate_deg=40, stretch=0.3, crop=0.3)
    mapped, order = apply_affine(CROPS, maps), RNG.permutation(6)
    np.testing.assert_array_equal(apply_affine(CROPS[order], maps[order]), mapped[order])
    np.testing.assert_array_equal(apply_affine(CROPS[2:3], maps[2:3]), mapped[2:3])


def test_what_is_uniform_stays_so_up_to_the_last_count():
    for dtype in ("uint8", "uint16"):
        full = np.full((8, 30, 20, 3), np.iinfo(dtype).max, dtype)
        maps = draw_affine(np.random.default_rng(0), full.shape, rotate_deg=180, stretch=1.0, crop=0.9)
        np.testing.assert_array_equal(apply_affine(full, maps), full)


def test_pixels_are_rounded_and_clipped_and_floats_left_alone():
    values = np.array([-2.0, 1.6, 70000.0])
    assert to_pixels(values.copy(), np.dtype("uint16")).tolist() == [0, 2, 65535]
    assert to_pixels(values.copy(), np.dtype("float32")).tolist() == values.astype("float32").tolist()
