"""What the sibling jobs ask of training: retraining, curated validation, folds by experiment, balance, previews."""

import json

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import draw_crops, write_drawn_set

import resnet_zclass as rz
from resnet_zclass import evaluate, make_dataset, predict, train
from resnet_zclass.loader import read_dataset
from resnet_zclass.opts import preset_names
from resnet_zclass.runs import read_run

FAST = ["--model_name", "ResNet8", "--hidden", "16", "--thin", "1", "--batch_size", "8", "--seed", "1"]


def run_train(*words):
    return train.main([*FAST, *map(str, words)])


def write_image_tree(folder, splits=("",), n_classes=3, n_per_class=12, names=None, seed=0):
    """Single images in a folder per class, named EXPERIMENT_NUMBER_CHANNEL; the second channel is noise."""
    rng = np.random.default_rng(seed)
    for number, split in enumerate(splits):
        crops, labels = draw_crops(n_classes, n_per_class, seed=seed + number)
        for i, (crop, label) in enumerate(zip(crops, labels, strict=True)):
            place = folder / split / (names[label] if names else f"class{label}")
            place.mkdir(parents=True, exist_ok=True)
            for channel, pixels in (("gfp", crop), ("rfp", rng.poisson(20, crop.shape).astype("uint16"))):
                tifffile.imwrite(place / f"day{i % 3}_{i:03d}_{channel}.tif", pixels)
    return folder


CHANNELS = ["--channels", "_gfp", "_rfp"]


@pytest.fixture(scope="module")
def image_set(tmp_path_factory):
    """A set made of single images of three experiments."""
    source = write_image_tree(tmp_path_factory.mktemp("source") / "cells")
    path = tmp_path_factory.mktemp("data") / "set"
    words = ["--layout", "images", "--source_path", source, "--data_path", path, "--group_regex", "^(day[0-9])"]
    assert make_dataset.main([*map(str, words), *CHANNELS]) == 0
    return path


@pytest.fixture(scope="module")
def first(image_set, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    assert run_train("--data_path", image_set, "--save_logs_path", logs, "--epochs", 6, "--no_evaluate") == 0
    return logs / "ResNet8"


def test_single_images_with_channels_become_a_set_pixel_by_pixel(image_set):
    data = read_dataset(image_set)
    assert data.crops.shape == (36, 16, 16, 2)
    assert list(data.classes.LabelText) == ["class0", "class1", "class2"]
    assert data.items.groupby("group").split.nunique().max() == 1
    assert set(data.items.group) == {"day0", "day1", "day2"}
    for i in (0, 17, 35):
        gfp = data.items.source[i]
        np.testing.assert_array_equal(data.crops[i, ..., 0], tifffile.imread(gfp))
        np.testing.assert_array_equal(data.crops[i, ..., 1], tifffile.imread(gfp.replace("_gfp", "_rfp")))


def test_folders_that_are_split_stay_split(tmp_path):
    source = write_image_tree(tmp_path / "cells", splits=("train", "validation"), n_per_class=4)
    words = ["--layout", "images", "--source_path", source, "--data_path", tmp_path / "set", *CHANNELS]
    assert make_dataset.main([*map(str, words)]) == 0
    data = read_dataset(tmp_path / "set")
    assert data.items.split.value_counts().to_dict() == {"train": 12, "val": 12}
    assert all(
        f"/{'validation' if row.split == 'val' else row.split}/" in row.source for row in data.items.itertuples()
    )


def test_channel_files_train_without_making_a_set_first(tmp_path):
    tree = write_image_tree(tmp_path / "cells", splits=("train", "val"), n_per_class=6)
    words = ["--data_path", tree, "--save_logs_path", tmp_path / "logs", "--epochs", 1, *CHANNELS]
    assert run_train(*words) == 0
    assert read_run(tmp_path / "logs" / "ResNet8").crop_shape == (16, 16, 2)
    assert (tmp_path / "logs" / "ResNet8" / "evaluation_val" / "metrics.json").is_file()


IMAGE_SPOILS = {
    "channel missing": (lambda f: next(f.glob("class1/*_rfp.tif")).unlink(), "_rfp"),
    "other size": (lambda f: iio.imwrite(next(f.glob("class1/*_gfp.tif")), np.zeros((9, 9), "uint16")), "_gfp.tif"),
    "no class folders": (lambda f: [p.rename(f.parent / p.name) for p in list(f.iterdir())], "two classes"),
    "stray file": (lambda f: (f / "class0" / "a.docx").write_text(""), "a.docx"),
}


@pytest.mark.parametrize("spoil", IMAGE_SPOILS)
def test_spoilt_folders_of_images_are_refused_by_name_and_write_nothing(spoil, tmp_path, capsys):
    action, named = IMAGE_SPOILS[spoil]
    source = write_image_tree(tmp_path / "cells", n_per_class=3)
    action(source)
    words = ["--layout", "images", "--source_path", source, "--data_path", tmp_path / "set", *CHANNELS]
    assert make_dataset.main([*map(str, words)]) == 2
    assert named in capsys.readouterr().err
    assert not (tmp_path / "set").exists()


def test_training_goes_on_where_a_run_ended(first, image_set, tmp_path, capsys):
    words = ["--data_path", image_set, "--save_logs_path", tmp_path, "--epochs", 1, "--learning_rate", 1e-9]
    assert run_train(*words, "--weights", first / "model.keras", "--shift_px", 0) == 0
    assert "head are trained further" in capsys.readouterr().out
    assert not (tmp_path / "ResNet8" / "origin_model").exists()
    before, after = (read_run(path).load_model() for path in (first, tmp_path / "ResNet8"))
    crops = read_dataset(image_set).crops[:8]
    trained = ("normalisation", "head")  # with hardly any learning rate only moving averages change
    for part in trained:
        for ours, theirs in zip(after.get_layer(part).weights, before.get_layer(part).weights, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert np.asarray(after(crops)).shape == (8, 3)


def test_other_classes_get_a_new_head_said_aloud(first, tmp_path, capsys):
    tree = write_image_tree(tmp_path / "cells", ("train", "val"), n_per_class=6, names=["a", "b", "class2"])
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate", *CHANNELS]
    assert run_train(*words, "--weights", first / "fine_tune_model" / "best-loss.keras") == 0
    said = capsys.readouterr().out
    assert "head is replaced" in said
    assert "class0, class1, class2" in said
    rounds = [tmp_path / "ResNet8" / folder / "best-loss.keras" for folder in ("origin_model", "fine_tune_model")]
    assert all(path.is_file() for path in rounds)
    frozen = rz.models.load_model(rounds[0]).get_layer("backbone").weights
    for ours, theirs in zip(frozen, read_run(first).load_model().get_layer("backbone").weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_curated_validation_folder_is_used_as_it_is(tmp_path, monkeypatch):
    tree = write_image_tree(tmp_path / "cells", ("train", "validation"), n_per_class=6)
    seen = {}
    original = rz.rounds.fit_round
    monkeypatch.setattr(rz.rounds, "fit_round", lambda *a, **k: seen.update(args=a) or original(*a, **k))
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate", *CHANNELS]
    assert run_train(*words, "--flip", "--noise", 0.5, "--brightness", 0.5) == 0
    data = read_dataset(tree, channels=CHANNELS[1:])
    crops, targets = seen["args"][3]
    val = data.indices("val")
    np.testing.assert_array_equal(crops[np.arange(len(crops))], data.crops[val])
    np.testing.assert_array_equal(targets, data.targets[val])


@pytest.mark.slow
def test_folds_by_experiment_leave_a_curated_validation_alone(tmp_path):
    tree = write_image_tree(tmp_path / "cells", ("train", "validation"), n_per_class=12)
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, *CHANNELS]
    assert run_train(*words, "--folds", 3, "--keep_val", "--group_regex", "^(day[0-9])") == 0
    tested = []
    for k in range(3):
        split = pd.read_csv(tmp_path / "ResNet8" / f"fold_{k}" / "split.csv")
        assert (split.split[split.file.str.startswith("validation")] == "val").all()
        rest = split[split.file.str.startswith("train")]
        assert rest.groupby("group").split.nunique().max() == 1
        assert set(rest.split) == {"train", "test"}
        tested += rest.file[rest.split == "test"].tolist()
    assert len(tested) == len(set(tested)) == 36
    summary = json.loads((tmp_path / "ResNet8" / "folds.json").read_text())
    accuracies = [fold["accuracy"] for fold in summary["folds"]]
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert summary["std"]["accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    assert summary["pooled"]["n"] == 36


def test_a_column_of_the_manifest_can_be_the_group(image_set, tmp_path):
    data = read_dataset(image_set, group="source")
    assert data.items.group.nunique() == 36
    assert run_train("--data_path", image_set, "--save_logs_path", tmp_path, "--group", "no") == 2


@pytest.mark.slow
def test_without_a_split_val_some_training_images_are_held_out(tmp_path, capsys):
    tree = write_image_tree(tmp_path / "cells", ("train",), n_per_class=12)
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, *CHANNELS]
    assert run_train(*words, "--val_fraction", 0.34, "--group_regex", "^(day[0-9])") == 0
    split = pd.read_csv(tmp_path / "ResNet8" / "split.csv")
    assert split.group[split.split == "val"].nunique() == 1
    assert split.groupby("group").split.nunique().max() == 1
    assert "flatters" in capsys.readouterr().out
    assert evaluate.main(["--load_logs_path", str(tmp_path / "ResNet8"), "--split", "val"]) == 0


def test_a_preview_draws_pictures_and_trains_nothing(image_set, tmp_path):
    words = ["--data_path", image_set, "--save_logs_path", tmp_path, "--preview", "--schedule", "cosine"]
    assert run_train(*words) == 0
    run = tmp_path / "ResNet8"
    for name in ("augmented.png", "class_counts.png", "learning_rate.png"):
        assert iio.imread(run / name).std() > 5
    assert not list(run.rglob("*.keras"))
    assert run_train(*words, "--epochs", 2) == 0  # a preview stands in nobody's way


def test_a_preview_never_replaces_a_run(first, image_set):
    words = ["--data_path", image_set, "--save_logs_path", first.parent, "--preview", "--overwrite"]
    assert run_train(*words) == 2
    assert (first / "model.keras").is_file()


def test_training_further_in_another_way_is_said_aloud(first, image_set, tmp_path, capsys):
    words = ["--data_path", image_set, "--save_logs_path", tmp_path, "--epochs", 1, "--scaling", "image"]
    assert run_train(*words, "--weights", first / "model.keras", "--no_evaluate") == 0
    assert "warning: --scaling was set" in capsys.readouterr().out


def test_training_further_warns_of_held_back_images_it_knows_and_of_no_others(tmp_path, capsys):
    tree = write_image_tree(tmp_path / "cells", ("train",), n_per_class=12)
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate", *CHANNELS]
    assert run_train(*words) == 0
    again = [*words, "--weights", tmp_path / "ResNet8" / "model.keras"]
    assert run_train(*again, "--run_name", "same") == 0
    assert "flatter" not in capsys.readouterr().out
    split = pd.read_csv(tmp_path / "ResNet8" / "split.csv")
    for label, rows in split[split.split == "train"].groupby("label"):
        (tree / "test" / label).mkdir(parents=True)
        for channel in ("gfp", "rfp"):
            name = rows.file.iloc[0].replace("_gfp", f"_{channel}")
            (tree / name).rename(tree / "test" / label / f"other_0_{channel}.tif")
    assert run_train(*again, "--run_name", "leaky") == 0
    assert "was trained on 3 images" in capsys.readouterr().out


@pytest.mark.slow
def test_groups_of_one_and_of_several_classes_are_dealt_out_together(tmp_path):
    tree = write_image_tree(tmp_path / "cells", ("train",), n_per_class=12)
    for file in sorted((tree / "train" / "class0").glob("*"))[:2]:
        file.rename(file.with_name(f"day9_{file.name.split('_', 1)[1]}"))
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--folds", 2, *CHANNELS]
    assert run_train(*words, "--group_regex", "^(day[0-9])") == 0
    summary = json.loads((tmp_path / "ResNet8" / "folds.json").read_text())
    assert summary["pooled"]["n"] == 36


def test_larger_images_are_not_searched_for_beads_by_a_run_of_whole_cells(first, tmp_path, capsys):
    tifffile.imwrite(tmp_path / "big.tif", np.zeros((40, 40, 2), "uint16"), planarconfig="contig")
    words = ["--load_logs_path", first, tmp_path / "big.tif", "--pred_save_path", tmp_path / "o.csv"]
    assert predict.main([*map(str, words)]) == 2
    assert "--spots" in capsys.readouterr().err


def test_rare_classes_are_drawn_more_often_and_weights_reach_the_loss(image_set, tmp_path, monkeypatch, capsys):
    seen = {}
    original = rz.rounds.fit_round
    monkeypatch.setattr(rz.rounds, "fit_round", lambda *a, **k: seen.update(k, args=a) or original(*a, **k))
    words = ["--data_path", image_set, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate"]
    assert run_train(*words, "--oversample", "class1", "--oversample_to", 20, "--class_weights", "balanced") == 0
    _, inputs, targets, *_ = seen["args"]
    counts = targets.sum(axis=0)
    assert counts[1] == 20
    assert counts[0] == counts[2] < 20
    assert len(inputs) == counts.sum()
    weights = seen["weigh"](np.eye(3, dtype="float32"))
    np.testing.assert_allclose(weights * counts, (weights * counts)[0], rtol=1e-5)
    assert "drawn per epoch" in capsys.readouterr().out


@pytest.mark.parametrize("option", ["--blur_px", "--crop", "--stretch", "--rotate_deg", "--cutmix"])
def test_a_z_job_refuses_what_changes_its_label_and_says_why(option, tmp_path, capsys):
    data = write_drawn_set(tmp_path / "set")
    words = ["--data_path", data, "--save_logs_path", tmp_path / "logs", "--epochs", 1]
    assert run_train(*words, option, 0.5) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {option} changes the z class")
    assert not (tmp_path / "logs").exists()


BAD = {
    "thresholds for one label": (["--thresholds", "fit"], "--thresholds"),
    "mixup with a sparse loss": (["--mixup", "0.2", "--loss", "sparse"], "--mixup"),
    "several-label loss": (["--loss", "asymmetric"], "--loss"),
    "several-label monitor": (["--monitor", "val_samples_f1"], "--monitor"),
    "too small for the network": (["--model_name", "InceptionResNetV2", "--im_size", "64"], "139"),
    "floor above the rate": (["--min_learning_rate", "1"], "--min_learning_rate"),
    "warm-up as long as the round": (["--schedule", "cosine", "--warmup_epochs", "9"], "--warmup_epochs"),
    "stem for other channels": (["--stem", "zero"], "--stem"),
    "unknown rare class": (["--oversample", "class9"], "--oversample"),
    "layer that is not": (["--freeze", "999"], "--freeze"),
    "weights of another network": (["--weights", "other.keras"], "--weights"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, image_set, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if case == "weights of another network":
        rz.models.build_classifier((16, 16, 2), 3, "ResNet14", hidden=16).save("other.keras")
    words, named = BAD[case]
    assert run_train("--data_path", image_set, "--save_logs_path", "logs", "--epochs", 2, *words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(err) == 1
    assert named in err[0]
    assert not (tmp_path / "logs").exists()


def test_a_class_absent_from_train_is_refused(tmp_path, capsys):
    tree = write_image_tree(tmp_path / "cells", ("train", "val"), n_per_class=2)
    for path in (tree / "train" / "class1").iterdir():
        path.unlink()
    (tree / "train" / "class1").rmdir()
    assert run_train("--data_path", tree, "--save_logs_path", tmp_path / "logs", *CHANNELS) == 2
    assert "class1" in capsys.readouterr().err


@pytest.mark.parametrize("channel", ["_gfp", "_rfp"])
def test_gray_images_become_a_set(channel, tmp_path):
    source = write_image_tree(tmp_path / "cells", n_per_class=6)
    words = ["--layout", "images", "--source_path", source, "--data_path", tmp_path / "set", "--channels", channel]
    assert make_dataset.main([*map(str, words)]) == 0
    data = read_dataset(tmp_path / "set")
    np.testing.assert_array_equal(data.crops[4, ..., 0], tifffile.imread(data.items.source[4]))


def test_classes_and_groups_may_be_called_none_or_hold_dollars(tmp_path):
    tree = write_image_tree(tmp_path / "cells", ("train", "val"), n_per_class=6, names=["NA", "None", "a$x_$"])
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, *CHANNELS]
    assert run_train(*words, "--run_name", "$y_$") == 0
    assert read_run(tmp_path / "$y_$").class_names == ["NA", "None", "a$x_$"]
    assert evaluate.main(["--load_logs_path", str(tmp_path / "$y_$"), "--split", "val"]) == 0


def test_an_expression_may_begin_with_a_dash(tmp_path):
    tree = write_image_tree(tmp_path / "cells", ("train", "val"), n_per_class=3)
    for file in list(tree.rglob("*.tif")):
        file.rename(file.with_name(f"cell-{file.name}"))
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate", *CHANNELS]
    assert run_train(*words, "--group_regex=-day[0-9]") == 0
    assert read_run(tmp_path / "ResNet8").options.group_regex == "-day[0-9]"


def test_a_run_is_not_trained_from_what_it_would_replace(first, image_set, capsys):
    words = ["--data_path", image_set, "--save_logs_path", first.parent, "--overwrite"]
    assert run_train(*words, "--weights", first / "model.keras") == 2
    assert "--run_name" in capsys.readouterr().err
    assert (first / "model.keras").is_file()


def test_training_alone_without_val_or_test_ends_well(tmp_path):
    tree = write_image_tree(tmp_path / "cells", ("train",), n_per_class=3)
    words = ["--data_path", tree, "--save_logs_path", tmp_path, "--epochs", 1, "--monitor", "loss", *CHANNELS]
    assert run_train(*words) == 0


def test_folds_that_cannot_all_be_trained_are_refused_before_the_first(tmp_path, capsys):
    tree = write_image_tree(tmp_path / "cells", ("train",), n_per_class=6)
    for file in (tree / "train" / "class2").glob("day2*"):
        file.unlink()
    words = ["--data_path", tree, "--save_logs_path", tmp_path / "logs", "--epochs", 1, "--folds", 3, *CHANNELS]
    assert run_train(*words, "--group_regex", "^(day[0-9])") == 2
    assert "class2" in capsys.readouterr().err
    assert not (tmp_path / "logs").exists()


def test_presets_of_all_jobs_are_there():
    jobs = {"demo", "bead", "yeast", "seedlings", "hpa_resnet50", "hpa_resnet152", "hpa_inception", "hpa_cnn"}
    assert set(preset_names()) == jobs
