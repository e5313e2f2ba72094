"""What a random split flatters: images that give their group away, but say nothing of the class."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from resnet_zclass import evaluate
from resnet_zclass.evaluate import compare_random, count_seen, predict_baseline
from resnet_zclass.headlines import list_warnings
from resnet_zclass.loader import Dataset
from resnet_zclass.pack import Subset
from resnet_zclass.splits import shuffle_splits


@pytest.fixture
def groups_alike(tmp_path):
    """32 groups in 4 classes, each of eight noisy copies of one pattern that has nothing to do with the class."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(32), 8)
    patterns = rng.uniform(100, 1000, (32, 6, 6, 1))
    crops = (patterns[group] + rng.normal(0, 10, (256, 6, 6, 1))).astype(np.uint16)
    label = np.array(list("abcd"))[group % 4]
    split = np.where(group < 16, "train", "test")
    classes = pd.DataFrame({"LabelText": list("abcd"), "LabelInteger": range(4), "z_um": np.nan})
    items = pd.DataFrame({"split": split, "label": label, "group": [f"g{k}" for k in group]})
    return Dataset(tmp_path, classes, items, crops)


def test_a_split_that_tears_groups_apart_flatters(groups_alike, capsys):
    test = groups_alike.indices("test")
    probabilities = predict_baseline(groups_alike, Subset(groups_alike.crops, test), seed=0).probabilities
    honest = np.mean(probabilities.argmax(axis=1) == groups_alike.labels[test])
    assert honest < 0.5  # chance is 0.25
    flattered = compare_random(groups_alike, "test", seed=0)
    assert flattered["baseline_random_accuracy"] > 0.95
    assert "note" not in capsys.readouterr().out
    alone = groups_alike.items.assign(group=range(256))
    compare_random(Dataset(groups_alike.path, groups_alike.classes, alone, groups_alike.crops), "test", seed=0)
    assert "every image is a group of its own" in capsys.readouterr().out


def test_a_random_split_has_the_sizes_of_the_one_given():
    rng = np.random.default_rng(1)
    splits, labels = rng.choice(["train", "val", "test"], 300), rng.integers(5, size=300)
    shuffled = shuffle_splits(splits, labels, seed=0)
    counts = [pd.crosstab(labels, some) for some in (splits, shuffled)]
    pd.testing.assert_frame_equal(*counts, check_names=False)
    assert (shuffled != splits).mean() > 0.3
    assert (shuffled == shuffle_splits(splits, labels, seed=0)).all()
    assert (shuffled != shuffle_splits(splits, labels, seed=1)).any()


def test_both_figures_stand_side_by_side(capsys):
    scores = {"n": 4, "accuracy": 0.9, "baseline_accuracy": 0.5, "baseline_random_accuracy": 0.75}
    evaluate.print_scores(scores, "a run")
    out = capsys.readouterr().out
    assert "0.750" in out and "share right by +0.250" in out


def test_what_training_saw_is_counted_and_told(groups_alike):
    items = groups_alike.items.assign(digest=[f"d{k}" for k in range(256)])
    items.loc[[3, 4], "split"] = "val"
    items.loc[200, "digest"] = "d0"  # of train
    items.loc[[201, 202], "digest"] = "d3"  # of val
    data = dataclasses.replace(groups_alike, items=items)
    test, val = data.indices("test"), data.indices("val")
    counts = count_seen(data, test, data, "test")
    assert (counts["n_seen"], counts["n_groups_seen"]) == (3, 0)
    assert "3 of 128 images are images that training saw too" in list_warnings(counts | {"n": 128})[0]
    counts = count_seen(data, val, data, "val")
    assert (counts["n_seen"], counts["n_groups_seen"]) == (0, 2)
    assert "2 of 2 images belong to groups that training saw too" in " ".join(list_warnings(counts | {"n": 2}))
    other = dataclasses.replace(data)
    counts = count_seen(other, test, data, "test")
    assert counts["n_seen"] == 3 and "n_groups_seen" not in counts


def test_a_copy_with_other_contrast_is_told_and_another_recording_of_a_bead_is_not(groups_alike):
    crops = np.random.default_rng(3).poisson(40, groups_alike.crops.shape).astype("uint16")
    items = groups_alike.items.assign(digest=[f"d{k}" for k in range(256)])
    data = dataclasses.replace(groups_alike, items=items, crops=crops.copy())
    test, train = data.indices("test"), data.indices("train")
    crops[test[:5]] = 100 + 7 * crops[train[:5]]
    assert count_seen(data, test, data, "test")["n_near_seen"] == 0
    copied = dataclasses.replace(data, crops=crops)
    counts = count_seen(copied, test, copied, "test")
    assert counts["n_near_seen"] == 5
    assert "5 of 128 images are all but images that training saw too" in list_warnings(counts | {"n": 128})[0]


def test_sets_of_several_labels_are_compared_too(groups_alike):
    several = np.array(["0 2", "1", "2", "3 1"])[groups_alike.labels]
    data = dataclasses.replace(groups_alike, items=groups_alike.items.assign(label=several), several=True)
    found = compare_random(data, "test", seed=0)
    assert found["baseline_random_micro_f1"] > 0.95
    assert "baseline_random_within_one" not in found
