import numpy as np
import pytest
from scipy import stats

from resnet_zclass.augment import apply_flip, apply_shift, apply_thin, apply_turn, build_augment
from resnet_zclass.errors import InputError

RNG = np.random.default_rng(0)
CROPS = RNG.integers(0, 60000, (6, 9, 9, 2)).astype("uint16")


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


def test_a_shift_moves_the_content_and_mirrors_what_comes_in():
    shifted = apply_shift(CROPS, np.tile([2, -3], (6, 1)))
    np.testing.assert_array_equal(shifted[:, 2:, :-3], CROPS[:, :-2, 3:])
    np.testing.assert_array_equal(shifted[:, 1, :-3], CROPS[:, 1, 3:])
    np.testing.assert_array_equal(shifted[:, 0, :-3], CROPS[:, 2, 3:])


def test_thinned_poisson_counts_are_poisson_of_the_thinned_mean():
    counts = RNG.poisson(40.0, (200, 16, 16, 1)).astype("uint16")
    thinned = apply_thin(counts + 100, np.full(200, 0.5), np.random.default_rng(1), camera_offset=100.0) - 100.0
    assert thinned.mean() == pytest.approx(20.0, rel=0.01)
    assert thinned.var() == pytest.approx(20.0, rel=0.03)
    expected = stats.poisson(20).pmf(np.arange(8, 33))
    observed = np.bincount(thinned.astype(int).ravel(), minlength=33)[8:33] / thinned.size
    np.testing.assert_allclose(observed, expected, atol=0.004)


def test_thinning_keeps_what_lies_below_the_offset():
    dark = np.full((1, 4, 4, 1), 90, "uint8")
    np.testing.assert_array_equal(apply_thin(dark, np.array([0.1]), RNG, camera_offset=100.0), dark)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_dtype_and_input_stay_as_they_are(dtype):
    crops = (CROPS / 256).astype(dtype)
    before = crops.copy()
    augment = build_augment(flip=True, turn=True, shift_px=3, thin=1.0 if dtype == "float32" else 0.5)
    assert augment(crops, np.random.default_rng(0)).dtype == dtype
    np.testing.assert_array_equal(crops, before)


def test_the_draw_depends_on_the_generator_alone():
    augment = build_augment(flip=True, shift_px=3, thin=0.5)
    first, second = (augment(CROPS, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (augment(CROPS, np.random.default_rng(6)) != first).any()


def test_nothing_asked_for_changes_nothing():
    np.testing.assert_array_equal(build_augment()(CROPS, RNG), CROPS)


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda: build_augment(shift_px=-1), "--shift_px"),
        (lambda: build_augment(thin=0.0), "--thin"),
        (lambda: build_augment(thin=1.5), "--thin"),
        (lambda: build_augment(thin=0.5)(CROPS.astype("float32"), RNG), "--thin"),
        (lambda: build_augment(turn=True)(CROPS[:, :5], RNG), "--turn"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(call, option):
    with pytest.raises(InputError, match=option):
        call()
