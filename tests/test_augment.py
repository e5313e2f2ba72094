import numpy as np
import pytest
from scipy import ndimage, stats

from resnet_zclass import augment as module
from resnet_zclass.augment import (
    KINDS,
    STRENGTHS,
    Z_UNSAFE,
    apply_blur,
    apply_brightness,
    apply_colour,
    apply_contrast,
    apply_noise,
    apply_thin,
    build_augment,
    check_z_safe,
    draw_blur,
    draw_colour,
    draw_factors,
    draw_noise,
    sample_sheet,
)
from resnet_zclass.errors import InputError

RNG = np.random.default_rng(0)
CROPS = RNG.integers(0, 60000, (6, 9, 9, 2)).astype("uint16")
DTYPES = ("uint8", "uint16", "float32")
ON = {
    "flip": True,
    "turn": True,
    "rotate_deg": 20.0,
    "shift_px": 3,
    "stretch": 0.2,
    "crop": 0.2,
    "brightness": 0.3,
    "contrast": 0.3,
    "colour": 0.2,
    "blur_px": 1.0,
    "thin": 0.5,
    "noise": 0.3,
}
PURE = [  # an apply function, and parameters of six crops drawn for it
    (apply_brightness, draw_factors(np.random.default_rng(1), CROPS.shape, 0.5)),
    (apply_contrast, draw_factors(np.random.default_rng(1), CROPS.shape, 0.5)),
    (apply_colour, draw_colour(np.random.default_rng(1), CROPS.shape, 0.5)),
    (apply_blur, draw_blur(np.random.default_rng(1), CROPS.shape, 2.0)),
    (apply_noise, draw_noise(np.random.default_rng(1), CROPS.shape, 0.5)),
]


def random_crops(dtype, shape=(6, 9, 9, 2)):
    high = np.iinfo(dtype).max if dtype != "float32" else 1000
    return np.random.default_rng(2).integers(0, high, shape, endpoint=True).astype(dtype)


def rounded(values, dtype):
    """What integer pixels become: rounded to even, clipped to the range. Floats are left alone."""
    if dtype == "float32":
        return values
    return np.clip(np.rint(values), np.iinfo(dtype).min, np.iinfo(dtype).max)


@pytest.mark.parametrize("dtype", DTYPES)
def test_brightness_multiplies_each_crop_by_its_factor(dtype):
    crops, factors = random_crops(dtype), np.array([0.25, 0.5, 1.0, 1.25, 1.5, 1.75])
    expected = rounded(crops.astype(float) * factors[:, None, None, None], dtype)
    np.testing.assert_array_equal(apply_brightness(crops, factors), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_colour_multiplies_each_channel_by_its_gain(dtype):
    crops, gains = random_crops(dtype), np.array([0.5, 0.75, 1.0, 1.25, 1.5, 1.75] * 2).reshape(6, 2)
    expected = rounded(np.stack([crops[..., c].astype(float) * gains[:, None, None, c] for c in (0, 1)], -1), dtype)
    np.testing.assert_array_equal(apply_colour(crops, gains), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_contrast_turns_about_the_mean_of_each_channel_of_each_crop(dtype):
    low, high = np.array([[10, 100], [20, 60]])[:, :, None], np.array([[30, 180], [40, 70]])[:, :, None]
    crops = np.concatenate([low, high], axis=2).transpose(0, 2, 1)[:, :, None, :].astype(dtype)  # (2, 2, 1, 2)
    contrasted = apply_contrast(crops, np.array([1.5, 0.5]))
    np.testing.assert_array_equal(contrasted[0, :, 0].T, [[5, 35], [80, 200]])
    np.testing.assert_array_equal(contrasted[1, :, 0].T, rounded(np.array([[25, 35], [62.5, 67.5]]), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_blur_is_the_gaussian_filter_of_every_channel(dtype):
    crops, sigmas_px = random_crops(dtype), np.array([0.0, 0.3, 0.7, 1.1, 2.0, 3.0])
    expected = np.stack(
        [
            ndimage.gaussian_filter(crop.astype("float32"), (sigma, sigma, 0), mode="mirror")
            for crop, sigma in zip(crops, sigmas_px, strict=True)
        ]
    )
    np.testing.assert_array_equal(apply_blur(crops, sigmas_px), rounded(expected, dtype))
    np.testing.assert_array_equal(apply_blur(crops, sigmas_px)[0], crops[0])


def test_noise_has_the_share_that_was_drawn_of_each_crops_own_spread():
    crops = np.random.default_rng(0).normal(500, [[[[10]]], [[[40]]]], (2, 200, 200, 1)).astype("float32")
    unit = np.random.default_rng(1).standard_normal(crops.shape, "float32")
    added = apply_noise(crops, 0.5 * unit).astype(float) - crops
    np.testing.assert_allclose(added, 0.5 * unit * crops.std(axis=(1, 2, 3), keepdims=True), atol=1e-3)
    assert added[0].std() == pytest.approx(5, rel=0.02)
    assert added[1].std() == pytest.approx(20, rel=0.02)


def test_noise_is_gaussian_and_its_spread_uniform_up_to_the_strength():
    noise = draw_noise(np.random.default_rng(0), (500, 30, 30, 1), 0.2).reshape(500, -1)
    spreads = noise.std(axis=1)
    assert stats.kstest(spreads / 0.2, "uniform").pvalue > 0.01
    assert stats.kstest((noise / spreads[:, None]).ravel()[::50], "norm").pvalue > 0.01


def test_noise_leaves_a_flat_crop_flat():
    flat = np.full((1, 9, 9, 1), 77, "uint8")
    np.testing.assert_array_equal(apply_noise(flat, draw_noise(RNG, flat.shape, 10.0)), flat)


@pytest.mark.parametrize("draw", [draw_factors, draw_colour])
def test_factors_are_uniform_about_one(draw):
    factors = draw(np.random.default_rng(0), (4000, 9, 9, 2), 0.3)
    assert factors.shape == ((4000,) if draw is draw_factors else (4000, 2))
    assert stats.kstest(factors.ravel(), stats.uniform(0.7, 0.6).cdf).pvalue > 0.01
    if draw is draw_colour:
        assert abs(np.corrcoef(factors.T)[0, 1]) < 0.05  # each channel by itself


def test_blur_is_uniform_up_to_the_strength():
    assert stats.kstest(draw_blur(np.random.default_rng(0), (4000, 9, 9, 2), 1.5) / 1.5, "uniform").pvalue > 0.01


def test_thinned_poisson_counts_are_poisson_of_the_thinned_mean():
    counts = np.random.default_rng(0).poisson(40.0, (200, 16, 16, 1)).astype("uint16")
    thinned = apply_thin(counts + 100, np.full(200, 0.5), np.random.default_rng(1), camera_offset=100.0) - 100.0
    assert thinned.mean() == pytest.approx(20.0, rel=0.01)
    assert thinned.var() == pytest.approx(20.0, rel=0.03)
    expected = stats.poisson(20).pmf(np.arange(8, 33))
    observed = np.bincount(thinned.astype(int).ravel(), minlength=33)[8:33] / thinned.size
    np.testing.assert_allclose(observed, expected, atol=0.004)


def test_thinning_keeps_what_lies_below_the_offset():
    dark = np.full((1, 4, 4, 1), 90, "uint8")
    np.testing.assert_array_equal(apply_thin(dark, np.array([0.1]), RNG, camera_offset=100.0), dark)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_what_passes_the_range_is_clipped_and_does_not_wrap_around(dtype):
    top = np.iinfo(dtype).max
    crops = np.full((1, 4, 4, 3), top, dtype)
    crops[0, 0] = 0
    assert (apply_brightness(crops, np.array([1.9]))[0, 1:] == top).all()
    assert (apply_colour(crops, np.full((1, 3), 1.9))[0, 1:] == top).all()
    np.testing.assert_array_equal(apply_contrast(crops, np.array([1.9])), crops)
    for sign, end in ((1, top), (-1, 0)):
        assert (apply_noise(crops, np.full(crops.shape, sign * 10.0)) == end).all()


@pytest.mark.parametrize(("apply", "drawn"), PURE)
def test_crops_are_changed_alone_as_in_a_batch_and_in_any_order(apply, drawn):
    changed, order = apply(CROPS, drawn), RNG.permutation(6)
    assert all((one != own).any() for one, own in zip(changed, CROPS, strict=True))
    np.testing.assert_array_equal(apply(CROPS[order], drawn[order]), changed[order])
    np.testing.assert_array_equal(apply(CROPS[2:3], drawn[2:3]), changed[2:3])


@pytest.mark.parametrize(("name", "dtype"), [(n, d) for n in ON for d in DTYPES if (n, d) != ("thin", "float32")])
@pytest.mark.parametrize("channels", [1, 3])
def test_each_kind_keeps_dtype_and_inputs_and_treats_crops_apart(name, dtype, channels):
    crops = np.repeat(random_crops(dtype, (1, 12, 12, channels)) // 2, 8, axis=0)
    before = crops.copy()
    augmented = build_augment(**{name: ON[name]})(crops, np.random.default_rng(0))
    assert augmented.dtype == dtype
    assert augmented.shape == crops.shape
    np.testing.assert_array_equal(crops, before)
    n_different = len(np.unique(augmented.reshape(8, -1), axis=0))
    may_coincide = name in ("flip", "turn", "shift_px", "blur_px")  # a Gaussian of less than 1/8 px is one pixel
    assert n_different > 1 if may_coincide else n_different == 8


@pytest.mark.parametrize("dtype", DTYPES)
def test_all_kinds_together_keep_dtype_and_inputs(dtype):
    crops = random_crops(dtype, (6, 12, 12, 3))
    before = crops.copy()
    augment = build_augment(**ON if dtype != "float32" else ON | {"thin": 1.0})
    augmented = augment(crops, np.random.default_rng(0))
    assert (augmented.dtype, augmented.shape) == (crops.dtype, crops.shape)
    np.testing.assert_array_equal(crops, before)


def test_crops_need_not_be_square_but_to_turn():
    crops = random_crops("uint8", (4, 10, 14, 1))
    assert build_augment(**ON | {"turn": False})(crops, np.random.default_rng(0)).shape == crops.shape
    with pytest.raises(InputError, match="--turn"):
        build_augment(turn=True)(crops, RNG)


def test_the_draw_depends_on_the_generator_alone():
    augment = build_augment(**ON)
    first, second = (augment(CROPS, np.random.default_rng(5)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert (augment(CROPS, np.random.default_rng(6)) != first).any()


def test_nothing_asked_for_changes_nothing_and_draws_nothing():
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(build_augment(camera_offset=100.0)(CROPS, rng), CROPS)
    assert rng.random() == np.random.default_rng(0).random()


def test_kinds_are_applied_in_order_geometry_light_photons_noise():
    rng, twin = np.random.default_rng(7), np.random.default_rng(7)
    crops = build_augment(**ON, camera_offset=50.0)(CROPS, rng)
    expected, shape = CROPS, CROPS.shape
    expected = module.apply_flip(expected, module.draw_flip(twin, shape))
    expected = module.apply_turn(expected, module.draw_turn(twin, shape))
    expected = module.apply_affine(expected, module.draw_affine(twin, shape, rotate_deg=20.0, stretch=0.2, crop=0.2))
    expected = module.apply_shift(expected, module.draw_shift(twin, shape, 3))
    expected = apply_brightness(expected, draw_factors(twin, shape, 0.3))
    expected = apply_contrast(expected, draw_factors(twin, shape, 0.3))
    expected = apply_colour(expected, draw_colour(twin, shape, 0.2))
    expected = apply_blur(expected, draw_blur(twin, shape, 1.0))
    expected = apply_thin(expected, module.draw_thin(twin, shape, 0.5), twin, camera_offset=50.0)
    expected = apply_noise(expected, draw_noise(twin, shape, 0.3))
    np.testing.assert_array_equal(crops, expected)


def test_every_strength_belongs_to_one_kind_and_has_a_test():
    names = [name for kind in KINDS for name in kind.strengths]
    assert sorted(names) == sorted(STRENGTHS)
    assert set(names) == {*ON, "camera_offset"}


@pytest.mark.parametrize("name", ON)
def test_strengths_out_of_range_are_refused_by_name(name):
    _, least, most = STRENGTHS[name]
    for value in (least - 1, most + 1, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"^--{name} must lie in .* Received: --{name} ") as refusal:
            build_augment(**{name: value})
        assert "\n" not in str(refusal.value)
    build_augment(**{name: most})


@pytest.mark.parametrize(
    ("call", "option"),
    [
        (lambda: build_augment(thin=0.0), "--thin"),
        (lambda: build_augment(crop=1.0), "--crop"),
        (lambda: build_augment(brightness=1.0), "--brightness"),
        (lambda: build_augment(thin=0.5, camera_offset=-1.0), "--camera_offset"),
        (lambda: build_augment(thin=0.5)(CROPS.astype("float32"), RNG), "--thin"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(call, option):
    with pytest.raises(InputError, match=option):
        call()


def test_a_z_job_may_have_what_keeps_focus():
    kept = {k: v for k, v in ON.items() if k not in Z_UNSAFE} | {"mixup": 0.2}
    assert set(kept) >= {"flip", "turn", "shift_px", "brightness", "contrast", "noise", "thin"}
    assert check_z_safe(kept) is None
    assert check_z_safe(dict.fromkeys(Z_UNSAFE, 0.0) | {"blur_px": 0}) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("blur_px", "out of focus"),
        ("stretch", "out of focus"),
        ("crop", "out of focus"),
        ("rotate_deg", "interpolated"),
        ("cutmix", "another plane"),
    ],
)
def test_a_z_job_is_refused_what_changes_its_label_and_told_why(name, reason):
    with pytest.raises(InputError, match=f"^--{name} .*{reason}.* Set it to 0. Received: --{name} 0.5.$"):
        check_z_safe({"flip": True, name: 0.5})


def test_a_sheet_shows_originals_and_different_views_of_each():
    crops = random_crops("uint8", (11, 8, 6, 3))
    sheet = sample_sheet(crops, build_augment(noise=0.5), np.random.default_rng(0), n_images=3, n_views=4)
    assert sheet.shape == (3, 5, 8, 6, 3)
    np.testing.assert_array_equal(sheet[:, 0], crops[[0, 5, 10]])
    assert len(np.unique(sheet.reshape(15, -1), axis=0)) == 15
    again = sample_sheet(crops, build_augment(noise=0.5), np.random.default_rng(0), n_images=3, n_views=4)
    np.testing.assert_array_equal(again, sheet)
    assert len(sample_sheet(crops[:2], build_augment(noise=0.5), RNG)) == 2
