import json
import shutil
import tomllib

import numpy as np
import pandas as pd
import pytest
import tifffile
from drawn import draw_crops, write_drawn_set

import resnet_zclass as rz
from resnet_zclass import evaluate, predict, train
from resnet_zclass.backend import keras
from resnet_zclass.loader import read_dataset
from resnet_zclass.opts import TrainOptions
from resnet_zclass.runs import read_run

FAST = ["--model_name", "ResNet8", "--hidden", "16", "--shift_px", "1", "--batch_size", "8", "--seed", "1"]


def run_train(*words):
    return train.main([*FAST, *map(str, words)])


@pytest.fixture(scope="module")
def drawn_set(tmp_path_factory):
    return write_drawn_set(tmp_path_factory.mktemp("data") / "set", n_per_class=30)


@pytest.fixture(scope="module")
def finished(drawn_set, tmp_path_factory):
    """A run trained for some epochs and evaluated."""
    logs = tmp_path_factory.mktemp("logs")
    assert run_train("--data_path", drawn_set, "--save_logs_path", logs, "--epochs", 12) == 0
    return logs / "ResNet8"


def test_a_run_holds_what_others_rely_on(finished):
    names = {path.relative_to(finished).as_posix() for path in finished.rglob("*") if path.is_file()}
    assert names >= {
        "opts.toml",
        "classes.csv",
        "model.keras",
        "fine_tune_model/best-loss.keras",
        "fine_tune_model/training_history.csv",
        "fine_tune_model/live.png",
        "evaluation/metrics.json",
        "evaluation/per_class.csv",
        "evaluation/confusion.csv",
    }
    assert list((finished / "fine_tune_model").glob("**/events.out.tfevents*"))
    assert not (finished / "origin_model").exists()
    assert tomllib.loads((finished / "opts.toml").read_text())["model_name"] == "ResNet8"


def test_beads_that_a_child_could_tell_apart_are_told_apart(finished):
    scores = json.loads((finished / "evaluation" / "metrics.json").read_text())
    assert scores["n"] == 18
    assert scores["accuracy"] > 0.9
    assert scores["baseline_accuracy"] > 0.5
    assert scores["mae_um"] == pytest.approx(0.1 * scores["mae_planes"])
    assert scores["split"] == "test"
    assert scores["n_seen"] == scores["n_groups_seen"] == 0


def test_the_model_is_the_epoch_with_the_least_validation_loss(finished, drawn_set):
    history = pd.read_csv(finished / "fine_tune_model" / "training_history.csv")
    data = read_dataset(drawn_set)
    val = data.indices("val")
    probabilities = predict.predict_probabilities(read_run(finished).load_model(), data.crops[val])
    loss = rz.metrics.cross_entropy(data.labels[val], probabilities)
    assert loss == pytest.approx(history.val_loss.min(), rel=1e-3)


def test_the_metrics_are_those_of_the_predictions_written(finished, drawn_set):
    table = pd.read_csv(finished / "evaluation" / "predictions.csv", dtype={"label": str, "true_label": str})
    scores = json.loads((finished / "evaluation" / "metrics.json").read_text())
    assert (table.label == table.true_label).mean() == pytest.approx(scores["accuracy"])
    probabilities = table.filter(regex="^p_").to_numpy()
    names = [name.removeprefix("p_") for name in table.filter(regex="^p_")]
    labels = table.true_label.map({name: k for k, name in enumerate(names)}).to_numpy()
    assert scores["ece"] == pytest.approx(rz.calibration.expected_calibration_error(labels, probabilities), abs=1e-6)
    assert 1 <= scores["set_size"] <= len(names) and scores["accuracy"] <= scores["set_coverage"] <= 1
    tempered = rz.calibration.apply_temperature(probabilities, scores["temperature"])
    assert scores["loss_tempered"] == pytest.approx(rz.metrics.cross_entropy(labels, tempered), rel=1e-4)
    assert (finished / "evaluation" / "reliability.png").is_file()
    confusion = pd.read_csv(finished / "evaluation" / "confusion.csv", index_col=0).to_numpy()
    assert np.trace(confusion) / confusion.sum() == pytest.approx(scores["accuracy"])
    assert pd.read_csv(finished / "evaluation" / "per_class.csv").n.sum() == len(table) == 18


def test_evaluating_another_split_or_set_gets_a_folder_of_its_own(finished, drawn_set, tmp_path):
    assert evaluate.main(["--load_logs_path", str(finished), "--split", "val"]) == 0
    assert json.loads((finished / "evaluation_val" / "metrics.json").read_text())["split"] == "val"
    other = write_drawn_set(tmp_path / "other", seed=9)
    assert evaluate.main(["--load_logs_path", str(finished), "--data_path", str(other)]) == 0
    assert json.loads((finished / "evaluation_other" / "metrics.json").read_text())["n"] == 12


def test_predictions_follow_the_contract_and_the_crops(finished, tmp_path):
    crops, labels = draw_crops(n_per_class=4, seed=5)
    tifffile.imwrite(tmp_path / "beads.tif", crops, photometric="minisblack")
    out = tmp_path / "out.csv"
    words = ["--load_logs_path", finished, tmp_path / "beads.tif", "--pred_save_path", out]
    assert predict.main([*map(str, words), "--pred_save_name", str(tmp_path / "p.npy")]) == 0
    table = pd.read_csv(out, dtype={"label": str})
    p = np.load(tmp_path / "p.npy")
    columns = ["file", "page", "label", "probability", "z_um", "z_um_sd", "p_00", "p_01", "p_02", "set", "unlike"]
    assert list(table.columns) == columns
    np.testing.assert_allclose(table[["p_00", "p_01", "p_02"]], p, atol=1e-6)
    np.testing.assert_allclose(table.z_um, p @ [0, 0.1, 0.2], atol=1e-6)
    assert table.page.tolist() == list(range(12))
    assert (table.label.astype(int) == labels).mean() > 0.8


def test_predictions_do_not_depend_on_what_else_is_predicted(finished, tmp_path):
    crops, _ = draw_crops(n_per_class=3, seed=6)
    run = read_run(finished)
    for i, crop in enumerate(crops):
        tifffile.imwrite(tmp_path / f"{i}.tif", crop)
    together, p = predict.predict_files(run, [tmp_path])
    assert len(together) == len(crops)
    for i in (0, 5):
        _, alone = predict.predict_files(run, [tmp_path / f"{i}.tif"])
        np.testing.assert_allclose(alone[0], p[together.file.tolist().index(str(tmp_path / f"{i}.tif"))], atol=1e-6)


def test_spots_cut_a_larger_page_where_they_say(finished, tmp_path):
    crops, _ = draw_crops(n_per_class=1, seed=7)
    page = np.full((40, 60), 5, "uint16")
    page[3:19, 30:46] = crops[0]
    page[20:36, 4:20] = crops[2]
    tifffile.imwrite(tmp_path / "page.tif", page)
    (tmp_path / "spots.csv").write_text("y,x\n10.5,37.5\n27.5,11.5\n")
    run = read_run(finished)
    table, p = predict.predict_files(run, [tmp_path / "page.tif"], spots=str(tmp_path / "spots.csv"))
    expected = predict.predict_probabilities(run.load_model(), crops[[0, 2], ..., None])
    np.testing.assert_allclose(p, expected, atol=1e-6)
    assert table[["y", "x"]].to_numpy().tolist() == [[10.5, 37.5], [27.5, 11.5]]


def test_two_rounds_go_on_from_pretrained_weights(drawn_set, tmp_path):
    source = rz.models.build_classifier((16, 16, 1), 3, "ResNet8", hidden=16)
    source.get_layer("backbone").save_weights(tmp_path / "b.weights.h5")
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--weights", tmp_path / "b.weights.h5"]
    assert run_train(*words, "--epochs", 2, "--freeze", "last_stage", "--no_evaluate") == 0
    run = tmp_path / "ResNet8"
    for folder in ("origin_model", "fine_tune_model"):
        assert (run / folder / "best-loss.keras").is_file()
        assert len(pd.read_csv(run / folder / "training_history.csv")) == 2
    first = keras.saving.load_model(run / "origin_model" / "best-loss.keras").get_layer("backbone")
    for ours, theirs in zip(first.weights, source.get_layer("backbone").weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    last = keras.saving.load_model(run / "model.keras").get_layer("backbone")
    moved = {
        ours.path.split("/")[-2].split("_")[0]
        for ours, theirs in zip(last.weights, first.weights, strict=True)
        if not np.array_equal(ours, theirs)
    }
    assert moved == {"conv4"}
    assert not (run / "evaluation").exists()


def test_every_training_batch_is_augmented(drawn_set):
    data = read_dataset(drawn_set)
    targets = rz.metrics.one_hot(data.labels, 3)
    model = rz.models.build_classifier((16, 16, 1), 3, "ResNet8", hidden=16)
    seen = []

    def augment(crops, rng):
        seen.append(len(crops))
        return crops

    options = TrainOptions(batch_size=8, optimizer="sgd", monitor="loss")
    fit = rz.opts.pick(options, *train.FIT_OPTIONS)
    round_ = rz.rounds.Round("fine_tune_model", "none", 2, 0.01)
    rz.rounds.fit_round(model, data.crops, targets, None, round_, lambda **_: [], fit, augment=augment)
    assert len(seen) >= 2 * -(-len(targets) // 8)  # two epochs, and what was fetched ahead
    assert max(seen) == 8


@pytest.fixture
def spied(drawn_set, tmp_path, monkeypatch):
    """What one short training gave to the functions it is made of."""
    seen = {}

    def spy(module, name):
        original = getattr(module, name)

        def wrapped(*args, **keywords):
            seen.setdefault(name, []).append((args, keywords))
            return original(*args, **keywords)

        monkeypatch.setattr(module, name, wrapped)

    spy(rz.prepare, "measure_pixels")
    spy(rz.rounds, "fit_round")
    spy(rz.baseline, "fit_baseline")
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--soft_labels", 0.7]
    assert run_train(*words, "--thin", 0.5) == 0
    return seen, read_dataset(drawn_set)


def test_normalisation_and_baseline_know_the_training_crops_alone(spied):
    seen, data = spied
    training = data.crops[data.indices("train")]
    measured = seen["measure_pixels"][0][0][0]
    np.testing.assert_array_equal(measured[np.arange(len(measured))], training)
    crops, labels = seen["fit_baseline"][0][0][:2]
    np.testing.assert_array_equal(crops[np.arange(len(crops))], training)
    np.testing.assert_array_equal(labels, data.labels[data.indices("train")])


def test_soft_labels_and_augmentation_reach_the_training_and_not_the_validation(spied):
    (_, crops, targets, (val_crops, val_targets), *_), keywords = spied[0]["fit_round"][0]
    augment = keywords["augment"]
    assert 0.4 < targets.max() < 0.8
    assert set(np.unique(val_targets)) == {0.0, 1.0}
    batch = crops[np.arange(8)]
    assert augment(batch, np.random.default_rng(0)).sum() < 0.95 * batch.sum()  # photons are taken away
    data = spied[1]
    np.testing.assert_array_equal(val_crops[np.arange(len(val_crops))], data.crops[data.indices("val")])


def test_thinning_is_on_for_counts_and_off_for_floats(drawn_set, tmp_path):
    words = ["--save_logs_path", tmp_path / "logs", "--epochs", 1, "--no_evaluate"]
    assert run_train("--data_path", drawn_set, *words, "--run_name", "counts") == 0
    folder = tmp_path / "floats"
    shutil.copytree(drawn_set, folder)
    for path in folder.glob("*/*/*.tif"):
        tifffile.imwrite(path, tifffile.imread(path).astype("float32") / 4000, photometric="minisblack")
    assert run_train("--data_path", folder, *words, "--run_name", "floats") == 0
    assert read_run(tmp_path / "logs" / "counts").options.thin == 0.3
    assert read_run(tmp_path / "logs" / "floats").options.thin == 1.0


def test_each_round_has_its_own_learning_rate(drawn_set, tmp_path):
    rz.models.build_classifier((16, 16, 1), 3, "ResNet8").get_layer("backbone").save_weights(tmp_path / "b.weights.h5")
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--weights", tmp_path / "b.weights.h5"]
    rates = ["--learning_rate", 0.01, "--fine_tune_learning_rate", 0.002]
    assert run_train(*words, *rates, "--epochs", 1, "--head_epochs", 3, "--no_evaluate") == 0
    histories = [pd.read_csv(tmp_path / "ResNet8" / f"{name}_model" / "training_history.csv") for name in
                 ("origin", "fine_tune")]  # fmt: skip
    assert [len(history) for history in histories] == [3, 1]
    assert [history.learning_rate[0] for history in histories] == pytest.approx([0.01, 0.002])


def test_identical_seeds_give_identical_runs(drawn_set, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--run_name", name, "--epochs", 1]
        assert run_train(*words, "--seed", seed, "--deterministic", "--no_evaluate") == 0
    a, b, c = (keras.saving.load_model(tmp_path / name / "model.keras").get_weights() for name in "abc")
    assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
    assert not all(np.array_equal(x, y) for x, y in zip(a, c, strict=True))


def test_the_learning_rate_and_the_optimizer_are_honoured(drawn_set, tmp_path):
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate"]
    assert run_train(*words, "--learning_rate", 0.0123, "--optimizer", "SGD") == 0
    history = pd.read_csv(tmp_path / "ResNet8" / "fine_tune_model" / "training_history.csv")
    assert history.learning_rate[0] == pytest.approx(0.0123)
    assert rz.rounds.build_optimizer("SGD", 0.1).__class__.__name__ == "SGD"


@pytest.mark.slow
def test_folds_test_every_crop_once_and_pool_them(drawn_set, tmp_path):
    assert run_train("--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--folds", 3) == 0
    run = tmp_path / "ResNet8"
    summary = json.loads((run / "folds.json").read_text())
    tables = [pd.read_csv(run / f"fold_{i}" / "evaluation" / "predictions.csv", dtype=str) for i in range(3)]
    pooled = pd.concat(tables)
    assert summary["pooled"]["n"] == len(pooled) == len(pooled.drop_duplicates(["file", "page"])) == 90
    assert summary["pooled"]["accuracy"] == pytest.approx((pooled.label == pooled.true_label).mean())
    assert summary["mean"]["accuracy"] == pytest.approx(np.mean([fold["accuracy"] for fold in summary["folds"]]))


@pytest.mark.slow
def test_a_fold_is_evaluated_later_on_its_own_test_crops(drawn_set, tmp_path):
    assert run_train("--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--folds", 3) == 0
    fold = tmp_path / "ResNet8" / "fold_1"
    before = pd.read_csv(fold / "evaluation" / "predictions.csv")
    assert evaluate.main(["--load_logs_path", str(fold)]) == 0
    pd.testing.assert_frame_equal(pd.read_csv(fold / "evaluation" / "predictions.csv"), before)


@pytest.mark.slow
def test_the_mean_of_the_folds_is_a_run_for_new_images_only(drawn_set, tmp_path, capsys):
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 2, "--folds", 2]
    assert run_train(*words) == 0
    crops = draw_crops(n_per_class=2, seed=11)[0][..., None]
    run, folds = read_run(tmp_path / "ResNet8"), [read_run(tmp_path / "ResNet8" / f"fold_{k}") for k in range(2)]
    mean, *single = (predict.predict_probabilities(one.load_model(), crops) for one in (run, *folds))
    np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=1e-6)
    assert run.calibration["n"] == 90 and run.familiar is not None
    assert evaluate.main(["--load_logs_path", str(run.path)]) == 2
    assert "--data_path names another set" in capsys.readouterr().err
    other = write_drawn_set(tmp_path / "other", seed=9)
    assert evaluate.main(["--load_logs_path", str(run.path), "--data_path", str(other)]) == 0


def test_views_are_averaged_only_where_training_took_them_for_equal(drawn_set, finished, tmp_path, capsys):
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 2]
    assert run_train(*words, "--flip", "--no_evaluate") == 0
    run = read_run(tmp_path / "ResNet8")
    crops = draw_crops(n_per_class=3, seed=12)[0]
    tifffile.imwrite(tmp_path / "beads.tif", crops, photometric="minisblack")
    table = [str(tmp_path / "beads.tif"), "--pred_save_path", str(tmp_path / "p.csv"), "--average_views"]
    assert predict.main(["--load_logs_path", str(run.path), *table, "--pred_save_name", str(tmp_path / "p.npy")]) == 0
    model = run.load_model()
    flips = [crops, crops[:, ::-1], crops[:, :, ::-1], crops[:, ::-1, ::-1]]
    expected = np.mean([predict.predict_probabilities(model, some[..., None]) for some in flips], axis=0)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), expected, atol=1e-6)
    assert evaluate.main(["--load_logs_path", str(run.path), "--average_views"]) == 0
    assert predict.main(["--load_logs_path", str(finished), *table, "--overwrite"]) == 2
    assert "trained without --flip and --turn" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_part_no_group(tmp_path):
    folder = write_drawn_set(tmp_path / "set", n_per_class=12)
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str)
    manifest["group"] = (manifest.group.str[4:].astype(int) % 12).astype(str)  # a bead at all planes
    manifest["split"] = manifest.file.str.split("/").str[0]
    manifest.to_csv(folder / "manifest.csv", index=False)
    assert run_train("--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--folds", 3) == 0
    for fold in range(3):
        split = pd.read_csv(tmp_path / "ResNet8" / f"fold_{fold}" / "split.csv")
        assert (split.groupby("group").split.nunique() == 1).all()
        assert set(split.split) == {"train", "val", "test"}


def test_a_set_split_anew_is_not_tested_on_what_was_trained(tmp_path, capfd):
    folder = write_drawn_set(tmp_path / "set")
    words = ["--data_path", folder, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate"]
    assert run_train(*words) == 0
    shutil.rmtree(folder)
    write_drawn_set(folder, seed=1)
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str)
    manifest.assign(group=manifest.group.sample(frac=1, random_state=0).to_numpy()).to_csv(
        folder / "manifest.csv", index=False
    )
    assert evaluate.main(["--load_logs_path", str(tmp_path / "ResNet8")]) == 2
    assert "changed" in capfd.readouterr().err


def test_a_set_by_another_name_is_still_the_runs_own(drawn_set, tmp_path):
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--folds", 3]
    assert run_train(*words) == 0
    fold = tmp_path / "ResNet8" / "fold_0"
    (tmp_path / "link").symlink_to(drawn_set)
    before = (fold / "evaluation" / "metrics.json").read_text()
    assert evaluate.main(["--load_logs_path", str(fold), "--data_path", str(tmp_path / "link")]) == 0
    assert json.loads((fold / "evaluation" / "metrics.json").read_text())["accuracy"] == json.loads(before)["accuracy"]
    assert not (fold / "evaluation_link").exists()


def test_sets_of_another_z_or_bit_depth_are_refused(finished, tmp_path, capfd):
    other = write_drawn_set(tmp_path / "z")
    manifest = pd.read_csv(other / "manifest.csv", dtype={"label": str})
    manifest.assign(z_um=5 * manifest.z_um).to_csv(other / "manifest.csv", index=False)
    assert evaluate.main(["--load_logs_path", str(finished), "--data_path", str(other)]) == 2
    assert "z" in capfd.readouterr().err
    crops, _ = draw_crops(n_per_class=1)
    tifffile.imwrite(tmp_path / "eight.tif", (crops // 4).astype("uint8"), photometric="minisblack")
    out = tmp_path / "o.csv"
    assert (
        predict.main(["--load_logs_path", str(finished), str(tmp_path / "eight.tif"), "--pred_save_path", str(out)])
        == 2
    )
    assert "uint16" in capfd.readouterr().err


def test_frames_of_spots_pick_the_page(finished, tmp_path):
    crops, _ = draw_crops(n_per_class=1, seed=7)
    movie = np.full((2, 40, 60), 5, "uint16")
    movie[0, 3:19, 30:46], movie[1, 20:36, 4:20] = crops[0], crops[2]
    tifffile.imwrite(tmp_path / "movie.tif", movie, photometric="minisblack")
    (tmp_path / "spots.csv").write_text("frame,y,x\n1,27.5,11.5\n0,10.5,37.5\n")
    run = read_run(finished)
    table, p = predict.predict_files(run, [tmp_path / "movie.tif"], spots=str(tmp_path / "spots.csv"))
    assert table.page.tolist() == [0, 1]
    expected = predict.predict_probabilities(run.load_model(), crops[[0, 2], ..., None])
    np.testing.assert_allclose(p, expected, atol=1e-6)
    (tmp_path / "spots.csv").write_text("frame,y,x\n2,27.5,11.5\n")
    with pytest.raises(ValueError, match="frame 2"):
        predict.predict_files(run, [tmp_path / "movie.tif"], spots=str(tmp_path / "spots.csv"))


def test_beads_in_a_larger_colour_page_are_cut_with_all_channels(tmp_path):
    crops, labels = draw_crops()
    for label in range(3):
        for split, some in (("train", slice(0, 12)), ("val", slice(12, 16)), ("test", slice(16, 20))):
            (tmp_path / "set" / split / str(label)).mkdir(parents=True)
            images = (crops[labels == label][some] // 8).astype("uint8")
            rgb = np.stack([images, images // 2, images // 4], axis=-1)
            tifffile.imwrite(tmp_path / "set" / split / str(label) / "a.tif", rgb, photometric="rgb")
    assert run_train("--data_path", tmp_path / "set", "--save_logs_path", tmp_path, "--epochs", 1) == 0
    page = np.zeros((40, 60, 3), "uint8")
    page[3:19, 30:46] = rgb[0]
    tifffile.imwrite(tmp_path / "page.tif", page, photometric="rgb")
    (tmp_path / "spots.csv").write_text("y,x\n10.5,37.5\n")
    run = read_run(tmp_path / "ResNet8")
    _, p = predict.predict_files(run, [tmp_path / "page.tif"], spots=str(tmp_path / "spots.csv"))
    np.testing.assert_allclose(p, predict.predict_probabilities(run.load_model(), rgb[:1]), atol=1e-6)


@pytest.mark.parametrize(
    "words",
    [["--pred_save_path", "in.tif", "--overwrite"], ["--pred_save_path", "p.npy", "--pred_save_name", "p.npy"],
     ["--pred_save_path", "o.csv", "--pred_save_name", "p.txt"], ["--pred_save_path", "folder", "--overwrite"]],
)  # fmt: skip
def test_predictions_are_never_written_over_inputs_folders_or_each_other(words, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tifffile.imwrite("in.tif", draw_crops(n_per_class=1)[0], photometric="minisblack")
    (tmp_path / "folder").mkdir()
    before = (tmp_path / "in.tif").read_bytes()
    assert predict.main(["--load_logs_path", str(finished), "in.tif", *words]) == 2
    assert (tmp_path / "in.tif").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "in.tif"]


def test_a_finished_run_is_kept_unless_told(finished, drawn_set, capsys):
    before = (finished / "model.keras").read_bytes()
    words = ["--data_path", drawn_set, "--save_logs_path", finished.parent, "--epochs", 1]
    assert run_train(*words) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (finished / "model.keras").read_bytes() == before


def test_interrupting_leaves_the_best_so_far_and_no_model(drawn_set, tmp_path, monkeypatch):
    def interrupt(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(rz.callbacks.LiveCurves, "on_epoch_end", interrupt)
    assert run_train("--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 5) == 130
    assert keras.saving.load_model(tmp_path / "ResNet8" / "fine_tune_model" / "best-loss.keras")
    assert not (tmp_path / "ResNet8" / "model.keras").exists()
    monkeypatch.undo()
    words = ["--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 1, "--no_evaluate"]
    assert run_train(*words) == 2  # its checkpoint is not thrown away unasked
    assert run_train(*words, "--overwrite") == 0


def test_a_loss_that_is_no_number_says_what_to_do(drawn_set, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(train, "one_hot", lambda labels, n, soft=0.0: np.full((len(labels), n), np.nan, "float32"))
    assert run_train("--data_path", drawn_set, "--save_logs_path", tmp_path, "--epochs", 2) == 2
    assert "lower --learning_rate" in capfd.readouterr().err


BAD_TRAIN = {
    "missing data": (["--data_path", "nowhere"], "nowhere"),
    "empty data path": (["--data_path", ""], "--data_path"),
    "unknown model": (["--model_name", "ResNet51"], "--model_name ResNet51"),
    "unknown monitor": (["--monitor", "val_acc"], "val_acc"),
    "unknown optimizer": (["--optimizer", "best"], "--optimizer best"),
    "unknown freeze": (["--freeze", "everything"], "everything"),
    "missing weights": (["--weights", "gone.weights.h5"], "gone.weights.h5"),
    "wrong number of classes": (["--num_class", "39"], "--num_class 39"),
    "no epochs": (["--epochs", "0"], "--epochs"),
    "no batch": (["--batch_size", "0"], "--batch_size"),
    "negative rate": (["--learning_rate", "-1"], "--learning_rate"),
    "thin above one": (["--thin", "2"], "--thin"),
    "one fold": (["--folds", "1"], "--folds"),
    "more folds than groups": (["--folds", "999"], "--folds"),
}


@pytest.mark.parametrize("case", BAD_TRAIN)
def test_bad_training_input_is_one_line_and_leaves_nothing(case, drawn_set, tmp_path, capfd):
    words, named = BAD_TRAIN[case]
    logs = tmp_path / "logs"
    assert run_train("--data_path", drawn_set, "--save_logs_path", logs, *words) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert named in err
    assert not logs.exists()


BAD_PREDICT = {
    "no run": (lambda run, tmp: [tmp / "a.tif", "--load_logs_path", tmp / "norun"], "norun"),
    "no input": (lambda run, tmp: ["--load_logs_path", run], "inputs"),
    "missing image": (lambda run, tmp: ["--load_logs_path", run, tmp / "gone.tif"], "gone.tif"),
    "empty folder": (lambda run, tmp: ["--load_logs_path", run, tmp], str),
    "small image": (lambda run, tmp: ["--load_logs_path", run, _image(tmp / "a.tif", (8, 8))], "a.tif"),
    "colour image": (lambda run, tmp: ["--load_logs_path", run, _image(tmp / "a.tif", (16, 16, 3))], "a.tif"),
}


def _image(path, shape):
    tifffile.imwrite(path, np.zeros(shape, "uint8"))
    return path


@pytest.mark.parametrize("case", BAD_PREDICT)
def test_bad_prediction_input_is_one_line_and_leaves_nothing(case, finished, tmp_path, capfd):
    words, named = BAD_PREDICT[case]
    out = tmp_path / "out.csv"
    assert predict.main([*map(str, words(finished, tmp_path)), "--pred_save_path", str(out)]) == 2
    err = capfd.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert (str(tmp_path) if named is str else named) in err
    assert not out.exists()


def test_evaluating_a_set_that_does_not_fit_is_refused(finished, tmp_path, capfd):
    for name, keywords in (("classes", {"n_classes": 4}), ("size", {"side_px": 20})):
        other = write_drawn_set(tmp_path / name, **keywords)
        assert evaluate.main(["--load_logs_path", str(finished), "--data_path", str(other)]) == 2
        assert str(other) in capfd.readouterr().err
        assert not (finished / f"evaluation_{name}").exists()


def test_options_are_the_only_place_of_defaults():
    assert TrainOptions().data_path == train.DEMO_PATH
