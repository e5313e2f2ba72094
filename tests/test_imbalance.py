import numpy as np
import pytest

from resnet_zclass.errors import InputError
from resnet_zclass.imbalance import (
    class_weights,
    count_labels,
    describe_counts,
    effective_numbers,
    image_weights,
    oversample,
)

NAMES = ["nucleus", "golgi", "cytosol"]
ONE = np.eye(3)[np.repeat([0, 1, 2], [100, 7, 40])]


def drawn_counts(targets, *args, **keywords):
    drawn = oversample(targets, *args, **keywords)
    assert (np.bincount(drawn, minlength=len(targets)) >= 1).all()
    return count_labels(targets[drawn]).tolist()


@pytest.mark.parametrize(
    ("rare", "to", "expected"),
    [
        ((), None, [100, 7, 40]),
        ((), 50, [100, 50, 50]),
        ((), 5, [100, 7, 40]),
        (["golgi"], None, [100, 70, 40]),  # mean of 100 and 40
        (["golgi", "cytosol"], None, [100, 100, 100]),
        (["golgi"], 60, [100, 60, 40]),
        (["golgi"], 3, [100, 7, 40]),
        (["nucleus"], None, [100, 7, 40]),  # more than the others have
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_rare_classes_are_drawn_up_to_their_number(rare, to, expected, seed):
    counts = drawn_counts(ONE, NAMES, rare, to, seed=seed)
    np.testing.assert_allclose(counts, expected, atol=1)


def test_nothing_asked_draws_every_image_once():
    np.testing.assert_array_equal(oversample(ONE, NAMES), np.arange(len(ONE)))


def test_draws_are_right_on_average_for_every_image():
    draws = np.mean(
        [np.bincount(oversample(ONE, NAMES, ["golgi", "cytosol"], 50, seed=seed)) for seed in range(400)], axis=0
    )
    np.testing.assert_allclose(draws[:100], 1)
    np.testing.assert_allclose(draws[100:107], 50 / 7, atol=0.1)
    np.testing.assert_allclose(draws[107:], 50 / 40, atol=0.1)


def test_an_image_of_several_rare_labels_takes_the_largest_factor():
    targets = np.zeros((22, 3))
    targets[:20, 0] = 1
    targets[:4, 1] = 1  # 4 images; the two of class 2 are among them
    targets[:2, 2] = 1
    draws = np.bincount(oversample(targets, NAMES, ["golgi", "cytosol"], 8))
    assert draws.tolist() == [4, 4, 2, 2] + [1] * 18  # 8/2, 8/4, and images without a rare label or with none


def test_a_rare_class_without_images_is_skipped():
    targets = np.eye(3)[[0, 0, 0, 1]]
    assert drawn_counts(targets, NAMES, ["cytosol", "golgi"], 3) == [3, 3, 0]
    assert drawn_counts(targets, NAMES, to=3) == [3, 3, 0]


def test_an_image_of_frequent_labels_only_is_never_left_out():
    assert drawn_counts(np.ones((50, 3)), NAMES, NAMES, 5) == [50, 50, 50]


def test_draws_depend_on_the_seed_alone():
    first, again, other = (oversample(ONE, NAMES, ["golgi"], 50, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert len(first) != len(other) or (first != other).any()


def test_neighbouring_images_are_drawn_independently_of_each_other():
    draws = {np.bincount(oversample(ONE, NAMES, ["cytosol"], 50, seed=seed))[107:].tobytes() for seed in range(20)}
    assert len(draws) == 20  # one lot for images in a fixed order would have but four patterns


def test_balanced_and_effective_weights_have_their_closed_form_and_mean_one():
    counts = np.array([5000, 300, 20, 0])
    balanced, effective = class_weights(counts, "balanced"), class_weights(counts, "effective")
    np.testing.assert_allclose(balanced[:3] * counts[:3], counts.sum() / 3)
    inverse = (1 - 0.999) / (1 - 0.999 ** counts[:3])
    np.testing.assert_allclose(effective[:3] / effective[0], inverse / inverse[0])
    for weights in (balanced, effective, class_weights(counts, "none")):
        assert (counts * weights).sum() / counts.sum() == pytest.approx(1)
        assert weights[3] == 1
    np.testing.assert_array_equal(class_weights(counts, "none"), 1)
    assert 1 < effective[1] / effective[0] < balanced[1] / balanced[0]
    np.testing.assert_array_equal(class_weights(np.zeros(2), "balanced"), 1)


def test_effective_numbers_lie_between_one_and_the_count():
    counts = np.array([1, 2, 50, 10**5])
    numbers = effective_numbers(counts)
    assert numbers[0] == pytest.approx(1)
    assert ((numbers[1:] < counts[1:]) & (numbers[1:] <= 1000)).all()
    np.testing.assert_allclose(effective_numbers(counts[:3], beta=1 - 1e-9), counts[:3], rtol=1e-4)


def test_the_weight_of_an_image_is_the_mean_over_its_labels():
    weights = np.array([0.5, 2.0, 6.0])
    targets = np.array([[1, 0, 0], [0, 1, 1], [0.9, 0.1, 0], [0, 0, 0]])
    found = image_weights(targets, weights)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [0.5, 4.0, 0.65, 1.0])
    one = np.eye(3)[np.repeat([0, 1, 2], [50, 30, 20])]
    assert image_weights(one, class_weights([50, 30, 20], "balanced")).mean() == pytest.approx(1)


def test_the_table_has_a_line_per_class_and_columns_of_the_splits_there_are():
    names = [f"class {k}" for k in range(50)]
    counts = np.arange(50) * 100
    lines = describe_counts(names, {"test": counts, "train": counts}, counts + 1, np.ones(50))
    assert len(lines) == 51
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["class", "train", "test", "drawn", "per", "epoch", "effective", "number", "weight"]
    assert lines[50].split() == ["class", "49", "4900", "4900", "4901", "992.6", "1.00"]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: oversample(ONE, NAMES, ["goldi"]), "--oversample goldi.*golgi"),
        (lambda: oversample(ONE, NAMES, ["xyz"]), "nucleus, golgi, cytosol"),
        (lambda: oversample(ONE, NAMES, NAMES), "--oversample_to"),
        (lambda: oversample(ONE, NAMES, to=0), "--oversample_to"),
        (lambda: oversample(ONE, NAMES, ["golgi"], to=-3), "--oversample_to"),
        (lambda: class_weights([1, 2], "heavy"), "--class_weights.*balanced"),
    ],
)
def test_what_cannot_be_balanced_is_refused_by_name(call, named):
    with pytest.raises(InputError, match=named):
        call()


def test_targets_are_left_as_they_are():
    before = ONE.copy()
    oversample(ONE, NAMES, to=50)
    np.testing.assert_array_equal(ONE, before)
