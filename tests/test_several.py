"""Several labels per image, from a folder of channel files to predictions."""

import dataclasses
import json
import shutil

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
from drawn_labels import CHANNELS, NAMES, draw_cell, draw_labels, write_labelled_folder
from sklearn.metrics import f1_score

import resnet_zclass as rz
from resnet_zclass import evaluate, predict, train
from resnet_zclass.backend import keras
from resnet_zclass.runs import read_run

FAST = ["--model_name", "CNN", "--hidden", "32", "--scaling", "range", "--thin", "1", "--shift_px", "1", "--flip",
        "--batch_size", "16", "--optimizer", "adam", "--learning_rate", "3e-3", "--channels", *CHANNELS]  # fmt: skip


def run_train(*words):
    return train.main([*FAST, *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_labelled_folder(tmp_path_factory.mktemp("data") / "cells", n_images=240)


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    words = ["--data_path", folder, "--save_logs_path", logs, "--epochs", 14, "--monitor", "val_macro_f1"]
    assert run_train(*words, "--run_name", "cells") == 0
    return logs / "cells"


@pytest.fixture(scope="module")
def scores(finished):
    return json.loads((finished / "evaluation" / "metrics.json").read_text())


def test_labels_that_can_be_seen_are_learnt(scores):
    assert scores["macro_f1"] > 0.75
    assert scores["n"] == 36
    assert set(scores) >= {"loss", "accuracy", "samples_f1", "micro_f1", "baseline_macro_f1"}
    assert set(scores["per_class"]) == set(NAMES)


def test_the_metrics_are_scikit_learns_of_the_predictions_written(finished, scores, folder):
    table = pd.read_csv(finished / "evaluation" / "predictions.csv", keep_default_na=False)
    truth, predicted = (
        np.array([[name in cell.split(";") for name in NAMES] for cell in table[column]])
        for column in ("true_label", "label")
    )
    for average in ("macro", "micro", "samples"):
        expected = f1_score(truth, predicted, average=average, zero_division=np.nan)
        assert scores[f"{average}_f1"] == pytest.approx(expected)
    assert scores["accuracy"] == pytest.approx((truth == predicted).all(axis=1).mean())
    targets = pd.read_csv(folder / "labels.csv", dtype=str).set_index("Id").Target
    for row, labels in zip(table.itertuples(), truth, strict=True):
        assert set(np.flatnonzero(labels)) == set(map(int, targets[row.file.removesuffix("_red.png")].split()))


def test_thresholds_are_the_best_on_validation_and_are_used(finished, folder):
    run = read_run(finished)
    data = run.read_own_set()
    val = data.indices("val")
    p = predict.predict_probabilities(run.load_model(), data.crops[val])
    np.testing.assert_allclose(run.thresholds, rz.metrics.fit_thresholds(data.targets[val], p), atol=1e-5)
    best = rz.metrics.multi_label_metrics(data.targets[val], p, run.thresholds)["macro_f1"]
    assert best >= rz.metrics.multi_label_metrics(data.targets[val], p, 0.5)["macro_f1"]
    assert (run.thresholds != 0.5).any()


def test_half_as_threshold_is_kept(folder, tmp_path):
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate"]
    assert run_train(*words, "--thresholds", "half") == 0
    assert (read_run(tmp_path / "CNN").thresholds == 0.5).all()


def test_the_epoch_kept_is_the_one_with_the_best_f1_of_the_table(finished):
    history = pd.read_csv(finished / "fine_tune_model" / "training_history.csv")
    run = read_run(finished)
    data = run.read_own_set()
    val = data.indices("val")
    p = predict.predict_probabilities(run.load_model(), data.crops[val])
    kept = rz.metrics.multi_label_metrics(data.targets[val], p, 0.5)["macro_f1"]
    assert kept == pytest.approx(history.val_macro_f1.max(), abs=1e-6)
    assert history.val_macro_f1.max() > history.val_macro_f1.iloc[0]


def test_new_channel_files_are_predicted_as_images(finished, tmp_path):
    rng = np.random.default_rng(5)
    sets = draw_labels(12, seed=5)
    for k, labels in enumerate(sets):
        cell = draw_cell(labels, rng)
        for c, channel in enumerate(CHANNELS):
            iio.imwrite(tmp_path / f"{k:02d}{channel}.png", cell[..., c])
    out = tmp_path / "out.csv"
    assert predict.main(["--load_logs_path", str(finished), str(tmp_path), "--pred_save_path", str(out)]) == 0
    table = pd.read_csv(out, dtype={"id": str, "target": str}, keep_default_na=False)
    assert table.id.tolist() == [f"{k:02d}" for k in range(12)]
    run = read_run(finished)
    p = table[[f"p_{name}" for name in NAMES]].to_numpy()
    for row, above in zip(table.itertuples(), p >= run.thresholds, strict=True):
        assert row.label == ";".join(np.array(NAMES)[above])
        assert row.target == " ".join(map(str, np.flatnonzero(above)))
    assert (
        np.mean([set(map(int, target.split())) == labels for target, labels in zip(table.target, sets, strict=True)])
        > 0.4
    )
    (tmp_path / "03_blue.png").unlink()
    assert (
        predict.main(["--load_logs_path", str(finished), str(tmp_path), "--pred_save_path", str(tmp_path / "b")]) == 2
    )


def test_another_folder_is_all_test_and_the_own_set_as_it_was(finished, tmp_path, scores):
    other = write_labelled_folder(tmp_path / "other", n_images=15, seed=3)
    (other / "classes.csv").unlink()  # the run knows its names
    assert evaluate.main(["--load_logs_path", str(finished), "--data_path", str(other)]) == 0
    assert json.loads((finished / "evaluation_other" / "metrics.json").read_text())["n"] == 15
    assert evaluate.main(["--load_logs_path", str(finished)]) == 0
    assert json.loads((finished / "evaluation" / "metrics.json").read_text()) == scores


def test_a_copy_of_the_own_folder_is_not_tested_on_what_was_trained(finished, folder, tmp_path, scores):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for file in copy.glob("0*.png"):
        file.rename(file.with_name(f"renamed{file.name}"))
    table = pd.read_csv(copy / "labels.csv", dtype=str)
    table.assign(Id="renamed" + table.Id).to_csv(copy / "labels.csv", index=False)
    assert evaluate.main(["--load_logs_path", str(finished), "--data_path", str(copy)]) == 0
    again = json.loads((finished / "evaluation_copy" / "metrics.json").read_text())
    assert again["n_seen"] == 0
    of_own_set = ("data_path", "n_groups_seen")  # names of groups in another folder may mean others
    assert again == {k: v for k, v in scores.items() if k not in of_own_set} | {"data_path": again["data_path"]}


def test_training_further_with_another_seed_keeps_the_test_images_out(finished, folder, tmp_path):
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate", "--seed", 7]
    assert run_train(*words, "--weights", finished / "model.keras") == 0
    before, after = (pd.read_csv(path / "split.csv").set_index("file").split for path in (finished, tmp_path / "CNN"))
    assert (before == after[before.index]).all()


def test_labels_that_were_changed_are_noticed(finished, folder):
    table = (folder / "labels.csv").read_text()
    try:
        (folder / "labels.csv").write_text(table.replace(",0\n", ",1\n"))
        assert evaluate.main(["--load_logs_path", str(finished)]) == 2
    finally:
        (folder / "labels.csv").write_text(table)


def test_thresholds_decide_what_is_written_and_scored(finished):
    run = dataclasses.replace(read_run(finished))
    run.classes["threshold"] = [0.2, 0.5, 0.9, 0.5]
    p = np.array([[0.3, 0.4, 0.95, 0.1], [0.1, 0.6, 0.8, 0.5]])
    table = predict.build_table(run, [{"file": "a", "page": 0}, {"file": "b", "page": 0}], p)
    assert table.label.tolist() == ["nucleus;spots", "rim;fibres"]
    assert table.target.tolist() == ["0 2", "1 3"]
    truth = np.array([[1, 0, 1, 0], [0, 1, 0, 1]])
    whole = np.broadcast_to(run.thresholds, p.shape)
    assert evaluate.score(truth, evaluate.Predicted(p, whole))["accuracy"] == 1
    assert evaluate.score(truth, evaluate.Predicted(p, np.full_like(p, 0.5)))["accuracy"] < 1


def test_images_of_another_size_are_never_searched_for_beads(finished, tmp_path):
    big = write_labelled_folder(tmp_path / "big", n_images=2, side_px=64)
    words = ["--load_logs_path", str(finished), str(big), "--pred_save_path", str(tmp_path / "o.csv")]
    assert predict.main(words) == 2


def test_models_load_with_plain_keras_and_give_independent_probabilities(finished, folder):
    data = read_run(finished).read_own_set()
    for path in (finished / "model.keras", finished / "fine_tune_model" / "best-loss.keras"):
        p = np.asarray(keras.saving.load_model(path)(data.crops[:5]))
        assert not np.allclose(p.sum(axis=1), 1)
        np.testing.assert_allclose(p, np.asarray(read_run(finished).load_model()(data.crops[:5])), atol=1e-6)


def test_images_larger_than_im_size_are_packed_at_it_and_predicted_alike(tmp_path):
    folder = write_labelled_folder(tmp_path / "cells", n_images=30, side_px=48)
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--im_size", 24]
    assert run_train(*words) == 0
    run = read_run(tmp_path / "CNN")
    assert run.crop_shape == (24, 24, 4)
    assert run.resized
    assert list(tmp_path.glob("*24px*.h5"))
    table, p = predict.predict_files(run, [folder])
    data = run.read_own_set()
    again = predict.predict_probabilities(run.load_model(), data.crops[np.arange(30)])
    order = [list(table.file).index(str(folder / file)) for file in data.items.file]
    np.testing.assert_allclose(p[order], again, atol=1e-6)
    other = write_labelled_folder(tmp_path / "small", n_images=5, side_px=20, seed=9)
    assert evaluate.main(["--load_logs_path", str(tmp_path / "CNN"), "--data_path", str(other)]) == 0


def test_images_that_have_the_models_size_already_make_it_the_size_of_all(tmp_path):
    folder = write_labelled_folder(tmp_path / "cells", n_images=30, side_px=24)
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--im_size", 24, "--no_evaluate"]
    assert run_train(*words) == 0
    big = write_labelled_folder(tmp_path / "big", n_images=3, side_px=48)
    table, _ = predict.predict_files(read_run(tmp_path / "CNN"), [big])
    assert len(table) == 3


def test_a_set_larger_than_memory_is_trained_from_its_pack_with_the_same_result(folder, tmp_path, monkeypatch):
    results = []
    for limit in (2**31, 0):
        monkeypatch.setattr(rz.pack, "MAX_IN_MEMORY_BYTES", limit)
        logs = tmp_path / str(limit)
        assert run_train("--data_path", folder, "--save_logs_path", logs, "--epochs", 1, "--mixup", 0.3) == 0
        results.append(json.loads((logs / "CNN" / "evaluation" / "metrics.json").read_text()))
    assert results[0].pop("data_path") == results[1].pop("data_path")
    assert results[0] == results[1]


@pytest.mark.slow
def test_folds_pool_every_image_with_the_thresholds_of_its_fold(folder, tmp_path):
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 2, "--folds", 2]
    assert run_train(*words) == 0
    summary = json.loads((tmp_path / "CNN" / "folds.json").read_text())
    tables = [pd.read_csv(tmp_path / "CNN" / f"fold_{k}" / "evaluation" / "predictions.csv", keep_default_na=False)
              for k in range(2)]  # fmt: skip
    table = pd.concat(tables)
    assert sorted(table.file) == sorted(path.name for path in folder.glob("*_red.png"))
    truth, predicted = (
        np.array([[name in cell.split(";") for name in NAMES] for cell in table[column]])
        for column in ("true_label", "label")
    )
    assert summary["pooled"]["macro_f1"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert summary["mean"]["macro_f1"] == pytest.approx(np.mean([fold["macro_f1"] for fold in summary["folds"]]))


@pytest.mark.parametrize("loss", ["focal", "asymmetric"])
def test_other_losses_learn_too(loss, folder, tmp_path):
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 6, "--no_evaluate", "--loss", loss]
    assert run_train(*words, "--mixup", 0.2, "--class_weights", "balanced", "--schedule", "cyclic") == 0
    history = pd.read_csv(tmp_path / "CNN" / "fine_tune_model" / "training_history.csv")
    assert history.loss.iloc[-1] < 0.8 * history.loss.iloc[0]
    best = keras.saving.load_model(tmp_path / "CNN" / "fine_tune_model" / "best-loss.keras")
    assert not best.compiled  # so that nobody needs this package's losses to load it


BAD = {
    "sparse loss": (["--loss", "sparse"], "--loss"),
    "f1 of nothing": (["--monitor", "accuracy"], "--monitor"),
    "unknown rare class": (["--oversample", "rims"], "--oversample"),
    "number of classes": (["--num_class", "9"], "--num_class"),
    "missing channel": (["--channels", "_red", "_violet"], "_violet"),
    "unknown names": (["--class_names", "nothing.csv"], "--class_names"),
    "unknown group": (["--group", "plate"], "--group"),
    "keep what is not": (["--folds", "3", "--keep_val"], "--keep_val"),
    "loss of another kind": (["--loss", "categorical_crossentropy"], "--loss"),
    "small for the network": (["--model_name", "InceptionResNetV2", "--im_size", "64"], "139"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, folder, tmp_path, capsys):
    words, named = BAD[case]
    base = ["--data_path", folder, "--save_logs_path", tmp_path / "logs", "--epochs", 1]
    if case == "keep what is not":
        table = pd.read_csv(folder / "labels.csv", dtype=str).assign(split="train")
        table.to_csv(tmp_path / "t.csv", index=False)
        base += ["--label_table", tmp_path / "t.csv"]
    assert run_train(*base, *words) == 2
    err = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(err) == 1
    assert named in err[0]
    assert not (tmp_path / "logs").exists()
