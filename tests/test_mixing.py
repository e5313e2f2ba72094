import numpy as np
import pytest
from scipy import stats

from resnet_zclass import mixing
from resnet_zclass.errors import InputError
from resnet_zclass.mixing import apply_cutmix, apply_mixup, build_mix, draw_cutmix, draw_mixup

RNG = np.random.default_rng(0)
DTYPES = ("uint8", "uint16", "float32")
PARTNERS = np.array([3, 0, 1, 2, 4])
ONE_HOT = np.eye(5, dtype="float32")
SEVERAL_HOT = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]], "float32")


def crops_of(dtype, shape=(5, 8, 6, 3)):
    high = np.iinfo(dtype).max if dtype != "float32" else 1000
    return np.random.default_rng(2).integers(0, high, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("targets", [ONE_HOT, SEVERAL_HOT])
def test_mixup_mixes_pixels_and_targets_by_the_same_share(dtype, targets):
    crops, kept = crops_of(dtype), np.array([0.0, 0.25, 0.5, 0.75, 0.375])
    mixed, mixed_targets = apply_mixup(crops, targets, PARTNERS, kept)
    share = kept[:, None, None, None]
    expected = share * crops.astype(float) + (1 - share) * crops[PARTNERS]
    np.testing.assert_array_equal(mixed, expected if dtype == "float32" else np.rint(expected))
    np.testing.assert_array_equal(mixed_targets, kept[:, None] * targets + (1 - kept[:, None]) * targets[PARTNERS])
    np.testing.assert_array_equal(mixed[4], crops[4])  # its own partner


def test_shares_of_mixup_are_beta_distributed_one_per_image():
    partners, kept = draw_mixup(np.random.default_rng(0), (4000, 8, 8, 1), 0.4)
    assert sorted(partners) == list(range(4000))
    assert stats.kstest(kept, stats.beta(0.4, 0.4).cdf).pvalue > 0.01


@pytest.mark.parametrize("shape", [(400, 17, 17, 1), (400, 8, 30, 3), (50, 1, 1, 1)])
@pytest.mark.parametrize("targets_per_image", [1, 2])
def test_cutmix_targets_carry_the_exact_share_of_pasted_pixels(shape, targets_per_image):
    n = shape[0]
    crops = np.broadcast_to(np.arange(n, dtype="uint16")[:, None, None, None], shape)  # every image its own number
    targets = np.repeat(np.eye(n), targets_per_image, axis=1)
    partners, boxes = draw_cutmix(np.random.default_rng(1), shape, 1.0)
    mixed, mixed_targets = apply_cutmix(crops, targets, partners, boxes)
    for image, target in zip(mixed, mixed_targets, strict=True):
        counted = np.bincount(image[..., 0].ravel(), minlength=n) / image[..., 0].size
        np.testing.assert_allclose(target, np.repeat(counted, targets_per_image), rtol=0, atol=1e-15)


def test_cutmix_pastes_the_box_and_nothing_else():
    crops = crops_of("uint16")
    boxes = np.array([[2, 5, 1, 4], [0, 8, 0, 6], [0, 0, 0, 0], [7, 8, 5, 6], [1, 2, 0, 6]])
    mixed, _ = apply_cutmix(crops, ONE_HOT, PARTNERS, boxes)
    expected = crops.copy()
    for i, (top, bottom, left, right) in enumerate(boxes):
        expected[i, top:bottom, left:right] = crops[PARTNERS[i], top:bottom, left:right]
    np.testing.assert_array_equal(mixed, expected)


def test_boxes_of_cutmix_have_the_area_that_was_drawn_and_lie_anywhere_within():
    height, width = 100, 200
    partners, boxes = draw_cutmix(np.random.default_rng(0), (4000, height, width, 1), 0.7)
    top, bottom, left, right = boxes.T
    assert sorted(partners) == list(range(4000))
    assert 0 == top.min() <= left.min() == 0
    assert (bottom.max(), right.max()) == (height, width)
    assert ((top <= bottom) & (left <= right)).all()
    np.testing.assert_allclose((right - left) / width, (bottom - top) / height, atol=0.5 / height + 0.5 / width)
    side = (right - left) / width
    drawn = np.quantile(1 - stats.beta(0.7, 0.7).rvs(100_000, random_state=0), [0.1, 0.3, 0.5, 0.7, 0.9]) ** 0.5
    np.testing.assert_allclose(np.quantile(side, [0.1, 0.3, 0.5, 0.7, 0.9]), drawn, atol=0.03)
    free = (height - (bottom - top)) > 20
    places = top[free] / (height - (bottom - top))[free]
    assert stats.kstest(places, "uniform", alternative="two-sided").statistic < 0.04


@pytest.mark.parametrize("strengths", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("target_dtype", ["float32", "float64"])
def test_dtypes_and_inputs_stay_and_the_seed_decides(strengths, dtype, target_dtype):
    crops, targets = crops_of(dtype), ONE_HOT.astype(target_dtype)
    before = crops.copy(), targets.copy()
    mix = build_mix(**strengths)
    (mixed, mixed_targets), again = (mix(crops, targets, np.random.default_rng(3)) for _ in range(2))
    assert (mixed.dtype, mixed.shape) == (crops.dtype, crops.shape)
    assert (mixed_targets.dtype, mixed_targets.shape) == (targets.dtype, targets.shape)
    np.testing.assert_array_equal(mixed, again[0])
    np.testing.assert_array_equal(mixed_targets, again[1])
    np.testing.assert_array_equal(crops, before[0])
    np.testing.assert_array_equal(targets, before[1])
    assert (mix(crops, targets, np.random.default_rng(4))[1] != mixed_targets).any()
    np.testing.assert_allclose(mixed_targets.sum(axis=1), 1, rtol=1e-6)
    assert (mixed_targets >= 0).all()


def test_no_pixel_wraps_around():
    crops = np.zeros((200, 4, 4, 1), "uint8")
    crops[::2] = 255
    ends = np.arange(200) % 2 == 0
    mixed, targets = build_mix(mixup=0.4)(crops, np.eye(2, dtype="float32")[ends.astype(int)], RNG)
    np.testing.assert_array_equal(mixed, np.rint(255 * targets[:, 1])[:, None, None, None] * np.ones((1, 4, 4, 1)))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_batch_of_one_stays_as_it_is(kind):
    crops = crops_of("float32", (1, 8, 6, 3)) / 7
    mixed, targets = build_mix(**{kind: 0.5})(crops, ONE_HOT[:1], RNG)
    np.testing.assert_array_equal(mixed, crops)
    np.testing.assert_array_equal(targets, ONE_HOT[:1])


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_several_labels_stay_within_0_and_1(kind):
    _, targets = build_mix(**{kind: 1.0})(crops_of("uint8"), SEVERAL_HOT, np.random.default_rng(0))
    assert targets.min() >= 0
    assert targets.max() <= 1
    assert (targets != SEVERAL_HOT).any()


def test_what_is_applied_does_not_depend_on_the_order_of_the_batch():
    crops, order = crops_of("uint16"), np.array([4, 2, 0, 1, 3])
    place = np.argsort(order)  # where each image went
    _, kept = draw_mixup(np.random.default_rng(0), crops.shape, 0.5)
    _, boxes = draw_cutmix(np.random.default_rng(0), crops.shape, 1.0)
    for apply, drawn in ((apply_mixup, kept), (apply_cutmix, boxes)):
        expected = apply(crops, ONE_HOT, PARTNERS, drawn)
        shuffled = apply(crops[order], ONE_HOT[order], place[PARTNERS[order]], drawn[order])
        for one, other in zip(expected, shuffled, strict=True):
            np.testing.assert_array_equal(other, one[order])


def test_both_take_turns_with_equal_chance(monkeypatch):
    seen = []
    for name, (draw, _) in list(mixing.KINDS.items()):
        monkeypatch.setitem(mixing.KINDS, name, (draw, lambda x, y, *_, name=name: (seen.append(name) or x, y)))
    mix, rng = build_mix(mixup=0.2, cutmix=1.0), np.random.default_rng(0)
    for _ in range(1000):
        mix(np.zeros((2, 4, 4, 1), "uint8"), np.eye(2), rng)
    assert set(seen) == {"mixup", "cutmix"}
    assert stats.binomtest(seen.count("mixup"), 1000).pvalue > 0.01


def test_nothing_asked_for_is_none():
    assert build_mix() is None
    assert build_mix(mixup=0, cutmix=0.0) is None


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
@pytest.mark.parametrize("value", [-0.1, float("nan"), float("inf")])
def test_impossible_strengths_are_refused_by_name(name, value):
    with pytest.raises(InputError, match=f"^--{name} must lie in .* Received: --{name} "):
        build_mix(**{name: value})


@pytest.mark.parametrize("targets", [np.arange(5), ONE_HOT.astype(int), np.arange(5.0)])
def test_targets_that_are_no_shares_are_refused(targets):
    with pytest.raises(InputError, match="Received: "):
        build_mix(mixup=0.2)(crops_of("uint8"), targets, RNG)
