"""The command `export`: what it writes agrees with the model, says what it is, or is not written at all."""

import json
import shutil
import sys

import numpy as np
import pytest
from drawn import write_drawn_set
from drawn_runs import THRESHOLDS

import resnet_zclass as rz
from resnet_zclass import engines, export, export_formats, extras
from resnet_zclass.backend import keras
from resnet_zclass.runs import read_run


def run_export(*words):
    return export.main(list(map(str, words)))


def error_of(capsys):
    """The one line on stderr of a command that failed."""
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ")
    return line


@pytest.fixture
def run_path(drawn_run, tmp_path):
    """A copy of the trained run, to export from and to damage."""
    return shutil.copytree(drawn_run, tmp_path / "beads")


@pytest.fixture(scope="module")
def exported(drawn_run, tmp_path_factory):
    """A copy of the trained run with its exports."""
    path = shutil.copytree(drawn_run, tmp_path_factory.mktemp("exported") / "beads")
    for name in export_formats.WRITERS:
        assert run_export("--load_logs_path", path, "--format", name) == 0
    return path


def test_exports_lie_in_the_run_and_nothing_else_does(exported):
    files = {"model.onnx", "model.xml", "model.bin", "model.tflite", "saved_model", "exports.json"}
    assert {path.name for path in (exported / "export").iterdir()} == files


@pytest.mark.parametrize("name", export_formats.WRITERS)
def test_an_export_predicts_what_the_run_does_on_images_it_has_not_seen(name, exported, tmp_path):
    data = rz.loader.read_dataset(write_drawn_set(tmp_path / "set", seed=7))
    expected = read_run(exported).load_model().predict(data.crops.astype(np.float32), verbose=0)
    engine = engines.load_engine(name, exported / "export" / engines.EXPORT_FILES[name])
    np.testing.assert_allclose(engine(data.crops), expected, atol=1e-4)


@pytest.mark.parametrize("name", export_formats.WRITERS)
def test_an_export_says_what_it_is(name, exported):
    facts = engines.read_metadata(name, exported / "export" / engines.EXPORT_FILES[name])
    assert facts["class_names"] == ["00", "01", "02"]
    np.testing.assert_allclose(facts["z_um"], [0, 0.1, 0.2])
    assert (facts["crop_shape"], facts["dtype"]) == ([16, 16, 1], "uint16")
    assert facts["thresholds"] is None
    assert (facts["several"], facts["int8"]) == (False, False)
    assert facts["model_sha256"] == engines.hash_file(exported / "model.keras")
    assert facts["resnet_zclass"] == rz.__version__


def test_the_table_of_exports_holds_what_was_measured(exported):
    table = engines.read_exports(exported)
    assert set(table) == set(export_formats.WRITERS)
    for name, entry in table.items():
        assert entry["file"] == engines.EXPORT_FILES[name]
        assert 0 <= entry["max_difference"] <= 1e-4
        assert entry["model_sha256"] == engines.hash_file(exported / "model.keras")
        assert min(entry["crops_per_s"], entry["keras_crops_per_s"], entry["size_mb"]) > 0
    assert engines.choose_engine(exported, "litert") == ("litert", exported / "export" / "model.tflite")


def test_thresholds_of_several_labels_and_their_channels_are_inside(several_run, tmp_path, capsys):
    path = tmp_path / "cells.tflite"
    assert run_export("--load_logs_path", several_run, "--format", "litert", "--save_path", path) == 0
    facts = engines.read_metadata("litert", path)
    assert facts["thresholds"] == THRESHOLDS.tolist()
    assert facts["several"] is True
    assert (facts["crop_shape"], facts["dtype"]) == ([16, 16, 4], "uint8")
    assert f"litert: {path}, " in capsys.readouterr().out
    assert not (several_run / "export").exists()  # another place was named


def write_perturbed(write):
    """A writer that moves one weight a little."""

    def write_other(model, path, metadata):
        other = keras.models.clone_model(model)
        weights = model.get_weights()
        weights[-1] = weights[-1] + np.array([0.2, 0, 0], weights[-1].dtype)
        other.set_weights(weights)
        write(other, path, metadata)

    return write_other


@pytest.mark.parametrize("name", ["onnx", "openvino", "tf_saved_model"])
def test_an_export_that_differs_fails_and_leaves_nothing(name, run_path, monkeypatch, capsys):
    monkeypatch.setitem(export_formats.WRITERS, name, write_perturbed(export_formats.WRITERS[name]))
    before = sorted(run_path.rglob("*"))
    assert run_export("--load_logs_path", run_path, "--format", name) == 2
    assert f"{name} differs from Keras by 0." in error_of(capsys)
    assert sorted(run_path.rglob("*")) == before


def test_an_export_that_differs_leaves_the_one_before_as_it_was(run_path, monkeypatch, capsys):
    words = ("--load_logs_path", run_path, "--format", "onnx")
    assert run_export(*words) == 0
    before = {path: path.read_bytes() for path in (run_path / "export").iterdir()}
    assert run_export(*words) == 2
    assert "--overwrite" in error_of(capsys)
    monkeypatch.setitem(export_formats.WRITERS, "onnx", write_perturbed(export_formats.WRITERS["onnx"]))
    assert run_export(*words, "--overwrite") == 2
    assert {path: path.read_bytes() for path in (run_path / "export").iterdir()} == before


def test_a_difference_that_shows_in_single_crops_alone_is_seen():
    crops, expected = np.zeros((70, 2, 2, 1)), np.full((70, 2), 0.5)
    wrong_alone = lambda crops: expected[: len(crops)] + 0.1 * (len(crops) == 1)  # noqa: E731
    wrong_in_threes = lambda crops: expected[: len(crops)] + 0.1 * (len(crops) == 3)  # noqa: E731
    not_a_number = lambda crops: np.full((len(crops), 2), np.nan)  # noqa: E731
    assert export.compare(wrong_alone, expected, crops) == pytest.approx(0.1)
    assert export.compare(wrong_in_threes, expected, crops) == pytest.approx(0.1)
    assert not export.compare(not_a_number, expected, crops) <= 1e-4


def test_another_set_can_check_an_export_if_its_classes_are_the_same(run_path, tmp_path, capsys):
    other = write_drawn_set(tmp_path / "other", seed=3)
    assert run_export("--load_logs_path", run_path, "--format", "onnx", "--data_path", other) == 0
    fewer = write_drawn_set(tmp_path / "fewer", n_classes=2)
    words = ("--load_logs_path", run_path, "--format", "litert", "--data_path", fewer)
    assert run_export(*words) == 2
    assert "--data_path" in error_of(capsys)


@pytest.fixture
def bare(drawn_run, tmp_path):
    """A classifier that is of no run."""
    return shutil.copyfile(drawn_run / "model.keras", tmp_path / "old.keras")


def test_a_bare_classifier_is_exported_with_numbers_for_names(bare, tmp_path, capsys):
    words = ("--load_logs_path", bare, "--format", "onnx", "--save_path")
    assert run_export(*words, tmp_path / "a.onnx") == 0
    out = capsys.readouterr().out
    assert "named 0 to 2" in out
    assert "noise" in out
    facts = engines.read_metadata("onnx", tmp_path / "a.onnx")
    assert (facts["class_names"], facts["several"]) == (["0", "1", "2"], False)
    assert facts["model_sha256"] == engines.hash_file(bare)
    assert facts["normalisation"].startswith("Raw pixels")
    set_path = write_drawn_set(tmp_path / "set")
    assert run_export(*words, tmp_path / "b.onnx", "--data_path", set_path) == 0
    assert "noise" not in capsys.readouterr().out
    assert engines.read_metadata("onnx", tmp_path / "b.onnx")["dtype"] == "uint16"


def test_the_model_file_of_a_run_is_the_run(run_path):
    assert run_export("--load_logs_path", run_path / "model.keras", "--format", "litert") == 0
    assert engines.read_metadata("litert", run_path / "export" / "model.tflite")["dtype"] == "uint16"


def test_constants_of_keras_applications_stay_constants(tmp_path, capsys):
    """The converter to ONNX takes their channel means, which are tensors, for inputs."""
    crop = keras.Input((8, 8, 3))
    x = keras.applications.resnet50.preprocess_input(crop)
    x = keras.applications.vgg16.preprocess_input(x) / 1000
    x = keras.layers.Dense(4, activation="softmax")(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(crop, x).save(tmp_path / "old.keras")
    words = ("--load_logs_path", tmp_path / "old.keras", "--format")
    assert run_export(*words, "onnx", "--save_path", tmp_path / "old.onnx") == 0
    assert run_export(*words, "openvino", "--save_path", tmp_path / "old.xml") == 0
    # It was not trained here, so nothing is claimed of its pixels.
    assert "want pixels scaled as in its training" in capsys.readouterr().out
    assert engines.read_metadata("onnx", tmp_path / "old.onnx")["normalisation"].startswith("Pixels scaled as")


def two_outputs(crop):
    return [keras.layers.GlobalAveragePooling2D()(crop), keras.layers.GlobalMaxPooling2D()(crop)]


ODD_MODELS = {
    "two outputs": ((8, 8, 1), two_outputs, "1 inputs and 2 outputs"),
    "no fixed size": ((None, None, 1), keras.layers.GlobalAveragePooling2D(), "fixed size"),
    "no classes": ((8, 8, 1), keras.layers.Conv2D(1, 1), "(None, classes)"),
    "no probabilities": ((8, 8, 1), keras.layers.GlobalAveragePooling2D(), "does not give probabilities"),
}


@pytest.mark.parametrize("case", ODD_MODELS)
def test_models_of_another_kind_are_refused(case, tmp_path, capsys):
    shape, layers, named = ODD_MODELS[case]
    crop = keras.Input(shape)
    keras.Model(crop, layers(crop)).save(tmp_path / "odd.keras")
    assert run_export("--load_logs_path", tmp_path / "odd.keras", "--save_path", tmp_path / "odd.onnx") == 2
    assert named in error_of(capsys)
    assert not (tmp_path / "odd.onnx").exists()


BAD = {
    "no run": (["--load_logs_path", "nowhere"], "nowhere"),
    "no path": ([], "--load_logs_path"),
    "unknown format": (["--load_logs_path", "{run}", "--format", "pickle"], "--format"),
    "wrong end": (["--load_logs_path", "{run}", "--save_path", "{tmp}/model.tflite"], ".onnx"),
    "a folder": (["--load_logs_path", "{run}", "--save_path", "{tmp}/taken.onnx"], "folder"),
    "int8 elsewhere": (["--load_logs_path", "{run}", "--format", "openvino", "--int8"], "--int8"),
    "drop beyond": (["--load_logs_path", "{run}", "--int8", "--max_accuracy_drop", "2"], "--max_accuracy_drop"),
    "bare without path": (["--load_logs_path", "{run}/fine_tune_model/best-loss.keras"], "--save_path"),
    "int8 without crops": (
        ["--load_logs_path", "{run}/fine_tune_model/best-loss.keras", "--save_path", "{tmp}/a.onnx", "--int8"],
        "--data_path",
    ),
    "no such set": (["--load_logs_path", "{run}", "--data_path", "{tmp}/none"], "--data_path"),
    "no author": (["--load_logs_path", "{run}", "--format", "bioimageio", "--license", "MIT"], "--author"),
    "no licence": (["--load_logs_path", "{run}", "--format", "bioimageio", "--author", "A B"], "--license"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case, run_path, tmp_path, capsys):
    words, named = BAD[case]
    (tmp_path / "taken.onnx").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert run_export(*(word.format(run=run_path, tmp=tmp_path) for word in words)) == 2
    assert named in error_of(capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("name", "modules"), export.NEEDS.items())
def test_a_missing_runtime_is_named_with_the_extra(name, modules, run_path, monkeypatch, capsys):
    about = ("--author", "A B", "--license", "MIT") if name == "bioimageio" else ()
    for module in modules:
        monkeypatch.setattr(extras, "is_installed", lambda other, module=module: other != module)
        assert run_export("--load_logs_path", run_path, "--format", name, *about) == 2
        assert f"{module} is not installed; pip install 'resnet_zclass[export]'" in error_of(capsys)
    assert not (run_path / "export").exists()


def test_modules_that_are_missing_are_seen_without_loading_them(monkeypatch):
    assert not extras.is_installed("no_such.runtime")
    assert extras.is_installed("onnxruntime")
    assert "antigravity" not in sys.modules and extras.is_installed("antigravity")
    assert "antigravity" not in sys.modules


def test_converters_print_nothing(run_path, capfd):
    assert run_export("--load_logs_path", run_path, "--format", "litert") == 0
    out, err = capfd.readouterr()
    assert len(out.splitlines()) == 1
    assert err == ""


def test_the_table_keeps_other_formats_and_is_refused_when_damaged(tmp_path):
    (tmp_path / "export").mkdir()
    entry = {"file": "a", "model_sha256": "0", "max_difference": 0, "int8": False}
    entry |= {"crops_per_s": 1, "keras_crops_per_s": 1}
    export.write_entry(tmp_path / "export", "onnx", entry)
    export.write_entry(tmp_path / "export", "litert", entry)
    assert set(json.loads((tmp_path / "export" / "exports.json").read_text())) == {"onnx", "litert"}
