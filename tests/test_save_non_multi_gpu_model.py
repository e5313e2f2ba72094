"""The command: what it writes and prints, and that nothing is left where it refuses."""

import json
import subprocess
import sys
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
from drawn_legacy import ALIKE, CONVOLUTIONAL, draw_values, functional_config, predict, write_parallel

from resnet_zclass import keras_h5, save_non_multi_gpu_model
from resnet_zclass.backend import keras
from resnet_zclass.checkpoints import open_checkpoint, read_architecture
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import read_keras_h5
from resnet_zclass.rebuild import group_arrays
from resnet_zclass.save_non_multi_gpu_model import main


@pytest.fixture
def values():
    return draw_values(CONVOLUTIONAL)


@pytest.fixture
def old(tmp_path, values):
    return write_parallel(tmp_path / "old_multi-gpu.hdf5", CONVOLUTIONAL, values, frozen=("conv1",), suffix="_1")


@pytest.fixture
def images():
    return np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype(np.float32)


def run(*words):
    return main([str(word) for word in words])


def test_a_keras_file_opens_with_keras_alone(tmp_path, old, values, images, capsys):
    assert run("--weights_path", old, "--save_path", tmp_path / "new.keras") == 0
    model = keras.saving.load_model(tmp_path / "new.keras", safe_mode=True)
    expected = predict(CONVOLUTIONAL, values, images)
    np.testing.assert_allclose(model.predict_on_batch(images), expected, atol=1e-6)
    out = capsys.readouterr().out
    assert "conv1_1    ->  conv1: kernel (3, 3, 3, 4), bias (4,)" in out and "2 GPUs" in out
    assert "parity: 10 arrays, every one used once, sha256 " in out and "weights 0, of predictions" in out
    assert out.splitlines()[-1] == f"model: {tmp_path / 'new.keras'}"


@pytest.mark.parametrize("name", ["new.weights.h5", "new_non-multi-gpu.hdf5", "new.h5"])
def test_weights_load_into_the_same_model_of_todays_keras(tmp_path, old, values, images, name):
    assert run("--weights_path", old, "--save_path", tmp_path / name) == 0
    (tmp_path / "model.json").write_text(json.dumps(functional_config(CONVOLUTIONAL)))
    model, _ = read_architecture(tmp_path / "model.json")
    model.load_weights(tmp_path / name)
    np.testing.assert_allclose(model.predict_on_batch(images), predict(CONVOLUTIONAL, values, images), atol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["model.json", name, old.name])


def test_stored_predictions_are_compared(tmp_path, old, values, images, capsys):
    y = predict(CONVOLUTIONAL, values, images).astype(np.float32)
    np.savez(tmp_path / "right.npz", x=images, y=y)
    np.savez(tmp_path / "wrong.npz", x=images, y=y + 2e-4)
    np.savez(tmp_path / "shape.npz", x=images, y=y[:, :2])
    words = ("--weights_path", old, "--save_path", tmp_path / "new.keras", "--check_path")
    assert run(*words, tmp_path / "right.npz") == 0
    assert "on 5 stored images" in capsys.readouterr().out
    (tmp_path / "new.keras").unlink()
    for name, complaint in {"wrong": "predictions by up to 0.0002", "shape": "those stored of [(5, 2)]"}.items():
        assert run(*words, tmp_path / f"{name}.npz") == 2
        assert complaint in capsys.readouterr().err
        assert not (tmp_path / "new.keras").exists()
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object), y=y)
    assert run(*words, tmp_path / "pickled.npz") == 2
    assert "not a readable .npz" in capsys.readouterr().err


def test_a_file_that_does_not_keep_the_weights_is_not_left(tmp_path, old, monkeypatch, capsys):
    write = save_non_multi_gpu_model._write_and_read

    def spoil(plain, path, is_weights):
        again = write(plain, path, is_weights)
        again.weights[0].assign(again.weights[0] + 1e-7)
        return again

    monkeypatch.setattr(save_non_multi_gpu_model, "_write_and_read", spoil)
    assert run("--weights_path", old, "--save_path", tmp_path / "new.keras") == 2
    assert "nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [old]


def test_inspect_prints_the_layout_and_writes_nothing(tmp_path, old, capsys):
    assert run("--weights_path", old, "--inspect") == 0
    out = capsys.readouterr().out
    for line in (
        "form: whole model (HDF5)",
        "multi_gpu_model: 2 GPUs; the layers around the model are",
        "    Conv2D conv1 (frozen)",
        "  lambda_1: none",
        "    bn1_1/moving_variance:0 (4,) float32",
        "arrays: 10, 179 values",
    ):
        assert line in out.splitlines()
    assert list(tmp_path.iterdir()) == [old]


def test_inspect_knows_every_kind(tmp_path, capsys):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="fc")])
    model.save(tmp_path / "a.keras")
    model.save_weights(tmp_path / "a.weights.h5")
    write_parallel(tmp_path / "w.h5", whole=False)
    for name, words in {"a.keras": "Dense fc", "a.weights.h5": "(4, 2) float32", "w.h5": "configuration: none"}.items():
        assert run("--weights_path", tmp_path / name, "--inspect") == 0
        assert words in capsys.readouterr().out


BAD = {
    "no file": (["--weights_path", "{tmp}/none.h5"], "none.h5 is not there"),
    "no model": (["--weights_path", "{tmp}/note.txt"], "neither HDF5 nor a .keras file"),
    "no file named": (["--weights_path", ""], "--weights_path is missing"),
    "no name to write": (["--save_path", ""], "--save_path is missing"),
    "a name that says no form": (["--save_path", "{tmp}/new.pt"], "must end in .keras"),
    "over itself": (["--save_path", "{old}"], "is what is read"),
    "over itself by another way": (
        ["--save_path", "{tmp}/../{tmp.name}/old_multi-gpu.hdf5", "--overwrite"],
        "what is read",
    ),
    "a name that is only an end": (["--save_path", "{tmp}/.keras"], "must end in .keras"),
    "over another": (["--save_path", "{tmp}/there.keras"], "exists already"),
    "a model twice": (["--architecture", "{tmp}/a.json", "--model_name", "ResNet50"], "give one of them"),
    "half a model": (["--model_name", "ResNet50"], "--im_size is missing"),
    "no such backbone": (["--model_name", "R", "--im_size", "64", "--num_class", "3"], "--model_name R"),
    "no such architecture": (["--architecture", "{tmp}/none.json"], "--architecture"),
    "an architecture that is none": (["--architecture", "{tmp}/note.txt"], "--architecture"),
    "no old ResNet50": (["--modern_names"], "there is no old ResNet50"),
    "no stored predictions": (["--check_path", "{tmp}/note.txt"], "--check_path"),
    "another model": (["--model_name", "ResNet50", "--im_size", "32", "--num_class", "3"], "Without a partner"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_usage_is_one_line_and_leaves_nothing(tmp_path, old, capsys, case):
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "there.keras").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    words, complaint = BAD[case]
    words = [word.format(tmp=tmp_path, old=old) for word in words]
    start = [] if "--weights_path" in words else ["--weights_path", old]
    end = [] if "--save_path" in words else ["--save_path", tmp_path / "new.keras"]
    assert run(*start, *words, *end) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and complaint in error
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_whose_arrays_fit_twice_is_refused(tmp_path, capsys):
    net = tuple((c, settings | {"name": f"dense_{i}"}, v) for i, (c, settings, v) in enumerate(ALIKE))
    old = write_parallel(tmp_path / "old.hdf5", net, frozen=("dense_1",), whole=False)
    named = [(c, s | {"name": f"dense_{i + 4}"}, v) for i, (c, s, v) in enumerate(ALIKE)]
    (tmp_path / "a.json").write_text(json.dumps(functional_config(named)))
    words = ("--weights_path", old, "--save_path", tmp_path / "new.keras", "--architecture", tmp_path / "a.json")
    assert run(*words) == 2
    assert "several ways" in capsys.readouterr().err and not (tmp_path / "new.keras").exists()


def test_help_needs_no_tensorflow():
    code = "import sys; from resnet_zclass.save_non_multi_gpu_model import main; main(['--help'])"
    watch = "import atexit, sys; atexit.register(lambda: print('heavy' if 'tensorflow' in sys.modules else 'light'))"
    done = subprocess.run([sys.executable, "-c", f"{watch}; {code}"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "light" and "--modern_names" in done.stdout


def test_the_hdf5_form_lists_frozen_layers_of_nested_models_last():
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a"), keras.layers.Dense(2, name="b")])
    model = keras.Sequential([keras.Input((4,)), inner, keras.layers.Dense(2, name="top")])
    inner.get_layer("a").trainable = False
    groups = group_arrays(model)
    assert [a.name for a in groups[inner.name]] == ["b/kernel:0", "b/bias:0", "a/kernel:0", "a/bias:0"]
    assert [a.name for a in groups["top"]] == ["top/kernel:0", "top/bias:0"]


@pytest.mark.shared
@pytest.mark.parametrize(
    "variant",
    [
        *(
            f"keras224_tf113/{name}"
            for name in ("g2", "g2_partfrozen", "nested_g2", "seq_g2", "mimo_g2", "longnames_g2")
        ),
        "tfkeras_tf115/nested_g2_baseflag",
    ],
)
def test_the_hdf5_form_is_the_file_that_keras_2_wrote(shared_path, tmp_path, variant):
    folder = shared_path / "legacy" / variant
    plain = open_checkpoint(folder / "weights-best-acc_multi-gpu.hdf5")
    save_non_multi_gpu_model.save_plain(plain, tmp_path / "new.hdf5")
    ours, theirs = (read_keras_h5(path) for path in (tmp_path / "new.hdf5", folder / "inner_direct_weights.hdf5"))
    assert list(ours.groups) == list(theirs.groups)
    for name, arrays in ours.groups.items():
        assert [a.name for a in arrays] == [a.name for a in theirs.groups[name]]
        for a, b in zip(arrays, theirs.groups[name], strict=True):
            np.testing.assert_array_equal(a.values, b.values)
    with h5py.File(tmp_path / "new.hdf5") as a:
        assert all(isinstance(a.attrs[key], bytes) for key in ("backend", "keras_version"))  # Keras 2 decodes them
    with h5py.File(tmp_path / "new.hdf5") as a, h5py.File(folder / "inner_direct_weights.hdf5") as b:
        assert set(a.attrs) == set(b.attrs)


def test_destination_is_checked_before_the_file_is_read(tmp_path):
    with pytest.raises(InputError, match="must end in"):
        save_non_multi_gpu_model.check_destination(tmp_path / "a.txt", [tmp_path / "none.h5"])


def test_destination_is_not_written_over_unless_asked(tmp_path):
    (tmp_path / "a.keras").write_text("mine")
    save_non_multi_gpu_model.check_destination(tmp_path / "a.keras", [], overwrite=True)
    with pytest.raises(InputError, match="exists already"):
        save_non_multi_gpu_model.check_destination(tmp_path / "a.keras", [])


def test_the_table_joins_what_one_layer_has_from_one_place():
    long = "l" * 70
    names = [("a_1/w", "a/w"), ("a_1/b", "a/b"), ("a_1/w", "c/w"), (f"{long}/w", "d/w"), ("e/w", "e/w")]
    variables = [SimpleNamespace(name=path[-1], path=path, shape=(i,)) for i, (_, path) in enumerate(names)]
    arrays = [SimpleNamespace(old_name=old, name="other/w") for old, _ in names]
    arrays[-1] = SimpleNamespace(old_name=None, name="e/w")
    lines = save_non_multi_gpu_model.tabulate(SimpleNamespace(variables=variables, arrays=arrays))
    rows = [("a_1", "a: w (0,), b (1,)"), ("a_1", "c: w (2,)"), (long, "d: w (3,)"), ("e", "e: w (4,)")]
    assert lines == [f"  {source:<60}  ->  {target}" for source, target in rows]
    with pytest.raises(ValueError, match="shorter"):
        save_non_multi_gpu_model.tabulate(SimpleNamespace(variables=variables, arrays=arrays[:2]))


def test_a_model_of_several_inputs_and_outputs_is_compared_in_all(tmp_path, capsys):
    image, number = keras.Input((None, None, 2)), keras.Input((5,))
    pooled = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model([image, number], [keras.layers.Dense(3)(pooled), keras.layers.Dense(4)(number)])
    model.save(tmp_path / "old.keras")
    words = ("--weights_path", tmp_path / "old.keras", "--save_path", tmp_path / "new.keras", "--overwrite")
    assert run(*words) == 0
    assert "on 8 random images" in capsys.readouterr().out
    x, y = save_non_multi_gpu_model._draw(model)
    assert [a.shape for a in x] == [(8, 32, 32, 2), (8, 5)]
    assert all(a.min() >= 0 and a.max() < 1 and a.std() > 0.2 for a in x)
    pairs = {"x0": x[0], "x1": x[1], "y0": y[0], "y1": y[1]}
    cases = {
        "right": (pairs, 0, ""),
        "off": (pairs | {"y1": y[1] + 0.5}, 2, "predictions by up to 0.5 "),
        "first nan": (pairs | {"y0": y[0] * np.nan}, 2, "predictions by up to nan "),
        "last nan": (pairs | {"y1": y[1] * np.nan}, 2, "predictions by up to nan "),
        "one": ({key: pairs[key] for key in ("x0", "x1", "y0")}, 2, "those stored of [(8, 3)]"),
        "images": ({key: pairs[key] for key in ("x0", "y0", "y1")}, 2, "its images are (8, 32, 32, 2) float32"),
        "none": ({"x": x[0]}, 2, "must hold images x and predictions y"),
    }
    for name, (arrays, code, words_of_error) in cases.items():
        np.savez(tmp_path / f"{name}.npz", **arrays)
        assert run(*words, "--check_path", tmp_path / f"{name}.npz") == code
        assert words_of_error in capsys.readouterr().err


@pytest.mark.parametrize("name", ["new.keras", "new.weights.h5", "new.h5"])
def test_a_model_without_weights_has_none_that_differ(tmp_path, name):
    model = keras.Sequential([keras.Input((4,)), keras.layers.ReLU()])
    model.save(tmp_path / "old.keras")
    plain = open_checkpoint(tmp_path / "old.keras")
    line = save_non_multi_gpu_model.save_plain(plain, tmp_path / name)
    assert line.startswith("parity: 0 arrays") and "weights 0, of predictions on 8 random images 0" in line
    with pytest.raises(InputError, match="weights differ by up to 0, predictions by up to 1 "):
        save_non_multi_gpu_model.save_plain(plain, tmp_path / name, ([np.zeros((2, 4))], [np.ones((2, 4))]))


def test_the_largest_difference_knows_signs_and_what_is_no_number():
    largest = save_non_multi_gpu_model._largest
    nan, inf = np.nan, np.inf
    assert largest(np.array([1.0, -3.0]), np.array([1.5, -1.0])) == 2.0
    assert largest(np.array([1, 255], np.uint8), np.array([3, 254], np.uint8)) == 2.0
    assert largest(np.array([nan, inf, 2.0]), np.array([nan, inf, 2.0])) == 0.0
    assert largest(np.zeros(0), np.zeros(0)) == 0.0
    assert np.isnan(largest(np.array([nan, 1.0]), np.array([2.0, 1.0])))
    assert largest(np.array([inf]), np.array([-inf])) == inf


def test_files_that_may_keep_hdf5_busy_for_ever_are_tried_elsewhere_first(tmp_path, old, monkeypatch, capsys):
    def refuse(path):
        raise InputError(f"{path} does not answer.")

    monkeypatch.setattr(keras_h5, "check_answers", refuse)
    assert run("--weights_path", old, "--save_path", tmp_path / "new.keras") == 2
    assert f"{old} does not answer." in capsys.readouterr().err


def test_weights_that_cannot_be_read_back_leave_nothing(tmp_path, old, monkeypatch):
    def fail(*args, **keywords):
        raise OSError(5, "Input/output error")

    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(keras.Model, "load_weights", fail)
    assert run("--weights_path", old, "--save_path", tmp_path / "new.weights.h5") == 2
    assert sorted(tmp_path.rglob("*")) == before
