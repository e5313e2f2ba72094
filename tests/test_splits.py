import numpy as np
import pytest

from resnet_zclass.errors import InputError
from resnet_zclass.splits import (
    SPLITS,
    carve_validation,
    fold_multi_label,
    shuffle_splits,
    split_by_group,
    split_in_folds,
    split_multi_label,
)


@pytest.mark.parametrize(("n", "counts"), [(20, (14, 3, 3)), (10, (7, 2, 1)), (3, (1, 1, 1))])
def test_groups_are_dealt_out_in_their_shares(n, counts):
    split = split_by_group(range(n))
    assert tuple((split == name).sum() for name in ("train", "val", "test")) == counts


@pytest.mark.parametrize("seed", range(5))
def test_no_group_stands_in_two_splits(seed):
    groups = np.random.default_rng(seed).integers(0, 12, 300)
    split = split_by_group(groups, seed=seed)
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert set(split) == {"train", "val", "test"}


def test_the_split_depends_on_the_seed_alone():
    groups = [f"bead{i}" for i in range(30)]
    order = np.random.default_rng(1).permutation(30)
    split = split_by_group(groups, seed=3)
    np.testing.assert_array_equal(split_by_group(np.array(groups)[order], seed=3), split[order])
    assert (split_by_group(groups, seed=4) != split).any()


def test_counts_instead_of_shares_leave_the_rest_to_test():
    split = split_by_group(range(10), train_num=5, val_num=2)
    assert [(split == name).sum() for name in ("train", "val", "test")] == [5, 2, 3]


def test_what_rounding_leaves_goes_to_the_splits_that_lost_most():
    split = split_by_group(range(9), fractions=(0.55, 0.25, 0.2))  # 4.95, 2.25 and 1.8 groups
    assert [(split == name).sum() for name in SPLITS] == [5, 2, 2]


@pytest.mark.parametrize(("train", "val"), [(8, 2), (10, 0), (0, 10)])
def test_counts_may_leave_nothing_to_other_splits(train, val):
    split = split_by_group(range(10), train_num=train, val_num=val)
    assert [(split == name).sum() for name in SPLITS] == [train, val, 0]


def test_two_folds_are_enough():
    assert np.bincount(split_in_folds(range(7), 2)).tolist() == [4, 3]


def test_folds_hold_every_group_once():
    groups = np.repeat(np.arange(11), 4)
    fold = split_in_folds(groups, n_folds=5)
    assert all(len(set(fold[groups == group])) == 1 for group in range(11))
    assert sorted(np.bincount(fold) // 4) == [2, 2, 2, 2, 3]


def test_groups_of_one_label_are_dealt_out_label_by_label():
    labels = np.repeat(["a", "b"], [20, 10])
    split = split_by_group(range(30), labels=labels, seed=2)
    assert [(split[labels == "a"] == name).sum() for name in ("train", "val", "test")] == [14, 3, 3]
    assert [(split[labels == "b"] == name).sum() for name in ("train", "val", "test")] == [7, 2, 1]
    fold = split_in_folds(range(30), 5, labels=labels)
    assert np.bincount(fold[labels == "b"]).tolist() == [2] * 5


def test_groups_of_several_labels_are_dealt_out_as_without_labels():
    groups, labels = np.repeat(np.arange(10), 3), np.tile([0, 1, 2], 10)
    np.testing.assert_array_equal(split_by_group(groups, labels=labels), split_by_group(groups))
    one_odd = np.tile([0, 0, 1], 10)
    np.testing.assert_array_equal(split_by_group(groups, labels=one_odd), split_by_group(groups))


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_several_labels_are_dealt_out_apart_from_the_others(seed):
    labels = np.array(["a", "a"] * 10 + ["b", "b"] * 10 + ["a", "b"] * 10)
    split = split_by_group(np.arange(60) // 2, labels=labels, seed=seed)
    for own in np.split(split, 3):
        assert [(own == name).sum() for name in SPLITS] == [14, 4, 2]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: split_by_group(range(9), (0.5, 0.2, 0.2)), "--fractions"),
        (lambda: split_by_group(range(9), (1.2, -0.1, -0.1)), "--fractions"),
        (lambda: split_by_group(range(9), train_num=8, val_num=2), "--train_num"),
        (lambda: split_by_group(range(9), train_num=-1, val_num=5), "--train_num"),
        (lambda: split_by_group(range(9), train_num=8), "--val_num"),
        (lambda: split_in_folds(range(4), 5), "--folds"),
        (lambda: split_in_folds(range(4), 1), "--folds"),
    ],
)
def test_impossible_splits_are_refused_by_name(call, named):
    with pytest.raises(InputError, match=named):
        call()


FRACTIONS = (0.7, 0.15, 0.15)


def draw_several(seed):
    """Targets of several labels, common to rare, and groups of one to several images."""
    rng = np.random.default_rng(seed)
    n, k = rng.integers(150, 400), rng.integers(3, 12)
    targets = (rng.random((n, k)) < np.geomspace(0.5, 0.01, k)).astype("float32")
    return targets, rng.integers(0, n // rng.integers(1, 4), n)


def off_shares(targets, split, shares=FRACTIONS):
    """Mean over labels of how far their images lie from the shares, where they are enough to have shares."""
    targets = targets[:, targets.sum(axis=0) >= 10]
    dealt = [targets[split == name].sum(axis=0) / targets.sum(axis=0) for name in SPLITS]
    return np.abs(np.array(dealt) - np.array(shares)[:, None]).mean()


@pytest.mark.parametrize("seed", range(20))
def test_several_labels_part_no_group_and_keep_the_sizes(seed):
    targets, groups = draw_several(seed)
    split, fold = split_multi_label(targets, groups, seed=seed), fold_multi_label(targets, groups, 5, seed=seed)
    largest = np.bincount(groups).max()
    for dealt in (split, fold):
        assert len({(g, d) for g, d in zip(groups, dealt, strict=True)}) == len(set(groups))
    sizes = np.array([(split == name).sum() for name in SPLITS])
    assert (np.abs(sizes - np.array(FRACTIONS) * len(groups)) <= largest).all()
    assert (np.abs(np.bincount(fold, minlength=5) - len(groups) / 5) <= largest).all()


@pytest.mark.parametrize("seed", range(20))
def test_a_label_of_three_groups_comes_into_every_split(seed):
    targets, groups = draw_several(seed)
    split, fold = split_multi_label(targets, groups, seed=seed), fold_multi_label(targets, groups, 3, seed=seed)
    n_groups = [len(set(groups[has > 0])) for has in targets.T]
    for n, has in zip(n_groups, targets.T > 0, strict=True):
        assert n < 3 or set(split[has]) == set(SPLITS)
        assert n < 3 or set(fold[has]) == {0, 1, 2}
        assert n < 1 or "train" in split[has]


def test_labels_keep_their_shares_better_than_by_chance():
    ours, chance, folds, folds_by_chance = [], [], [], []
    for seed in range(20):
        targets, groups = draw_several(seed)
        ours.append(off_shares(targets, split_multi_label(targets, groups, seed=seed)))
        chance.append(off_shares(targets, split_by_group(groups, seed=seed)))
        for collected, dealt in (
            (folds, fold_multi_label(targets, groups, 3, seed=seed)),
            (folds_by_chance, split_in_folds(groups, 3, seed=seed)),
        ):
            collected.append(off_shares(targets, np.array(SPLITS)[dealt], shares=(1 / 3, 1 / 3, 1 / 3)))
    assert np.mean(ours) < 0.5 * np.mean(chance)
    assert np.mean(folds) < 0.5 * np.mean(folds_by_chance)


def test_single_images_fill_the_splits_exactly():
    targets = np.random.default_rng(0).random((200, 6)) < 0.3
    assert [(split_multi_label(targets, range(200)) == name).sum() for name in SPLITS] == [140, 30, 30]
    assert np.bincount(fold_multi_label(targets, range(200), 7)).tolist() == [29] * 4 + [28] * 3


@pytest.mark.parametrize("has", [0, 1])
def test_the_largest_groups_go_first_so_that_small_ones_even_out(has):
    groups = [0] * 5 + [1, 2, 3, 4, 5]
    for seed in range(5):
        fold = fold_multi_label(np.full((10, 1), has), groups, 2, seed)
        assert np.bincount(fold).tolist() == [5, 5]


@pytest.mark.parametrize("seed", range(20))
def test_a_fold_overflows_by_half_a_group_at_most(seed):
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(30), rng.integers(1, 20, 30))
    fold = fold_multi_label(rng.random((len(groups), 4)) < 0.3, groups, 2, seed)
    assert np.bincount(fold).max() <= np.ceil(len(groups) / 2) + np.bincount(groups).max() / 2


@pytest.mark.parametrize("seed", range(10))
def test_labels_of_one_group_stay_in_training_whatever_other_labels_want(seed):
    targets = np.array([[0, 0, 1], [0, 0, 0], [1, 0, 1], [0, 1, 1]])
    assert split_multi_label(targets, range(4), seed=seed)[2:].tolist() == ["train", "train"]


def test_which_of_equal_folds_gets_the_largest_group_is_drawn():
    groups = ["a", "a", "a", "b"]
    assert {int(fold_multi_label(np.ones((4, 1)), groups, 2, seed)[0]) for seed in range(20)} == {0, 1}


def test_the_seed_is_0_where_none_is_given():
    targets, groups = draw_several(2)
    for deal in (
        lambda **seed: split_by_group(groups, **seed),
        lambda **seed: split_in_folds(groups, 4, **seed),
        lambda **seed: split_multi_label(targets, groups, **seed),
        lambda **seed: fold_multi_label(targets, groups, 4, **seed),
        lambda **seed: carve_validation(groups, **seed)[0],
        lambda **seed: shuffle_splits(np.resize(SPLITS, len(groups)), np.zeros(len(groups)), **seed),
    ):
        np.testing.assert_array_equal(deal(), deal(seed=0))
        assert (deal() != deal(seed=1)).any()


def test_a_share_of_nothing_gets_nothing():
    targets, groups = draw_several(0)
    assert set(split_multi_label(targets, groups, (0.8, 0.2, 0.0))) == {"train", "val"}
    assert set(split_multi_label(targets, groups, (0.0, 0.0, 1.0))) == {"test"}


def test_a_multi_label_split_depends_on_the_seed_alone():
    targets, groups = draw_several(1)
    order = np.random.default_rng(1).permutation(len(groups))
    split = split_multi_label(targets, groups, seed=3)
    np.testing.assert_array_equal(split_multi_label(targets[order], groups[order], seed=3), split[order])
    assert (split_multi_label(targets, groups, seed=4) != split).any()
    np.testing.assert_array_equal(
        fold_multi_label(targets, groups, 4, seed=3), fold_multi_label(targets, groups, 4, seed=3)
    )


def test_validation_takes_whole_groups_label_by_label_where_it_can():
    labels, groups = np.repeat(["a", "b", "c"], [40, 20, 8]), np.arange(68) // 2
    chosen, by_group = carve_validation(groups, 0.25, seed=1, labels=labels)
    assert by_group
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert [chosen[labels == label].sum() for label in "abc"] == [10, 4, 2]  # 5, 2 and 1 groups of two
    again, _ = carve_validation(groups, 0.25, seed=1, labels=labels)
    np.testing.assert_array_equal(chosen, again)
    assert (carve_validation(groups, 0.25, seed=2, labels=labels)[0] != chosen).any()


@pytest.mark.parametrize("seed", range(5))
def test_a_label_of_one_group_has_validation_taken_image_by_image(seed):
    labels, groups = np.repeat(["a", "b", "c"], [40, 6, 2]), np.repeat([0, 1, 2, 3, 4], [20, 20, 3, 3, 2])
    chosen, by_group = carve_validation(groups, 0.25, seed=seed, labels=labels)
    assert not by_group
    assert [chosen[labels == label].sum() for label in "abc"][::2] == [10, 1]
    assert chosen[labels == "b"].sum() in (1, 2)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("several", [False, True])
def test_a_label_of_one_image_stays_in_training(fraction, several):
    labels = np.array([0, 1, 1, 1, 2, 2, 2, 2])
    kind = {"targets": np.eye(3)[labels]} if several else {"labels": labels}
    chosen, by_group = carve_validation(range(8), fraction, **kind)
    assert by_group
    assert not chosen[0]
    assert 0 < chosen[1:4].sum() < 3
    assert 0 < chosen[4:].sum() < 4


def test_a_label_of_one_image_is_no_reason_to_part_groups():
    labels, groups = np.array([0] * 20 + [1]), np.array([*(np.arange(20) // 2), 99])
    for kind in ({"labels": labels}, {"targets": np.eye(2)[labels]}):
        chosen, by_group = carve_validation(groups, 0.2, **kind)
        assert by_group
        assert chosen.sum() == 4
        assert not chosen[-1]


@pytest.mark.parametrize("seed", range(20))
def test_every_label_of_two_images_or_more_is_in_training_and_validation(seed):
    targets, groups = draw_several(seed)
    chosen, by_group = carve_validation(groups, 0.15, seed, targets=targets)
    assert by_group == (not set(groups[chosen]) & set(groups[~chosen]))
    several = targets[:, targets.sum(axis=0) >= 2]
    assert several[chosen].any(axis=0).all()
    assert several[~chosen].any(axis=0).all()
    assert abs(chosen.mean() - 0.15) < 0.05


def test_validation_without_labels_needs_but_two_groups():
    chosen, by_group = carve_validation(np.repeat([0, 1], 10), 0.15)
    assert by_group
    assert chosen.sum() == 10
    assert carve_validation([0, 1], 0.5)[0].sum() == 1
    for targets in (None, np.zeros((20, 2))):
        chosen, by_group = carve_validation(np.zeros(20), 0.15, targets=targets)
        assert not by_group
        assert chosen.sum() == 3
    chosen, by_group = carve_validation(np.zeros(20), 0.9, targets=np.zeros((20, 2)))
    assert not by_group
    assert chosen.sum() == 18


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: split_multi_label(np.ones((9, 2)), range(9), (0.5, 0.2, 0.2)), "--fractions"),
        (lambda: split_multi_label(np.ones((9, 2)), range(9), (1.5, -0.5, 0)), "--fractions"),
        (lambda: fold_multi_label(np.ones((4, 2)), range(4), 5), "--folds"),
        (lambda: fold_multi_label(np.ones((4, 2)), range(4), 1), "--folds"),
        (lambda: carve_validation(range(4), 0.0), "--val_fraction"),
        (lambda: carve_validation(range(4), 1.0), "--val_fraction"),
        (lambda: carve_validation(range(1), 0.5), "two training images"),
        (lambda: carve_validation(range(3), 0.5, labels=[0, 1, 2]), "every label has one image"),
        (lambda: carve_validation(range(2), 0.9, targets=np.zeros((2, 1))), "No validation images"),
    ],
)
def test_impossible_multi_label_splits_are_refused_by_name(call, named):
    with pytest.raises(InputError, match=named):
        call()
