"""Settings for speed: what they change is the time."""

import json
import types

import numpy as np
import pandas as pd
import pytest
from drawn_runs import write_two_round_set

import resnet_zclass as rz
from resnet_zclass import rounds, train
from resnet_zclass.backbones import flat_layers
from resnet_zclass.backend import describe_devices, keras, tf
from resnet_zclass.options import TrainOptions
from resnet_zclass.runs import read_run

WORDS = ["--model_name", "ResNet8", "--hidden", "16", "--batch_size", "8", "--seed", "1", "--epochs", "2"]
WORDS += ["--flip", "--shift_px", "0", "--thin", "1", "--optimizer", "adam"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains a run of both rounds with more words, once for the same words; returns its folder."""
    folder = tmp_path_factory.mktemp("settings")
    given, done = write_two_round_set(folder), {}

    def get(*more):
        if more not in done:
            words = [*WORDS, *given, "--run_name", f"run{len(done)}", *more]
            assert train.main([str(word) for word in words]) == 0
            done[more] = folder / f"run{len(done)}"
        return done[more]

    return get


def read_curves(run_path):
    return [pd.read_csv(run_path / part / "training_history.csv") for part in ("origin_model", "fine_tune_model")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "tolerance"),
    [
        (("--steps_per_execution", 7), 1e-4),
        (("--jit_compile", "on"), 1e-3),
        (("--feature_views", 0), 1e-3),
    ],
)
def test_the_curves_stay(trained, more, tolerance):
    for curves in zip(read_curves(trained()), read_curves(trained(*more)), strict=True):
        names = ["loss", "val_loss"]
        np.testing.assert_allclose(*(curve[names] for curve in curves), rtol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_alike_and_leaves_a_model_of_32_bits(trained, precision):
    run_path = trained("--mixed_precision", precision)
    for curves in zip(read_curves(trained()), read_curves(run_path), strict=True):
        np.testing.assert_allclose(*(curve.val_loss for curve in curves), rtol=0.1)
    checkpoint = rz.models.load_model(run_path / "fine_tune_model" / "best-loss.keras")
    halves = {layer.compute_dtype for layer in flat_layers(checkpoint.get_layer("backbone"))}
    assert precision in halves
    assert checkpoint.outputs[0].dtype == "float32"
    model = rz.models.load_model(run_path / "model.keras")
    assert {layer.compute_dtype for layer in flat_layers(model)} == {"float32"}
    for ours, theirs in zip(model.get_weights(), checkpoint.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    scores = json.loads((run_path / "evaluation" / "metrics.json").read_text())
    assert scores["accuracy"] == pytest.approx(_score(read_run(run_path), model), abs=1e-6)


def _score(run, model):
    data = rz.loader.read_dataset(run.options.data_path)
    test = data.indices("test")
    probabilities = model.predict(data.crops[test], verbose=0)
    return (probabilities.argmax(axis=1) == data.labels[test]).mean()


@pytest.mark.slow
def test_half_precision_goes_on_where_it_was_interrupted(trained, monkeypatch, tmp_path):
    """Three epochs at once and two with one more, of 16 bits with a scaled loss, come to the same."""
    data_path = read_run(trained()).options.data_path
    words = [*WORDS, "--data_path", data_path, "--mixed_precision", "float16"]
    words += ["--no_evaluate", "--epochs", "3", "--save_logs_path", tmp_path, "--run_name"]
    assert train.main([*map(str, words), "whole"]) == 0

    class Interrupt(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    original = train.build_callbacks
    with monkeypatch.context() as patch:
        patch.setattr(train, "build_callbacks", lambda *a, **k: [*original(*a, **k), Interrupt()])
        assert train.main([*map(str, words), "parts"]) != 0
    assert train.main([*map(str, words), "parts", "--resume"]) == 0
    whole, parts = (tmp_path / name / "fine_tune_model" / "training_history.csv" for name in ("whole", "parts"))
    np.testing.assert_allclose(pd.read_csv(whole).loss, pd.read_csv(parts).loss, rtol=1e-5)


@pytest.mark.parametrize(
    ("asked", "gpu", "replicas", "compiled"),
    [
        ("auto", False, 1, False),
        ("auto", True, 1, True),
        ("auto", True, 2, False),
        ("on", False, 1, True),
        ("off", True, 1, False),
    ],
)
def test_xla_compiles_on_one_gpu_or_if_asked(monkeypatch, asked, gpu, replicas, compiled):
    monkeypatch.setattr(rounds, "has_gpu", lambda: gpu)
    monkeypatch.setattr(rz.distribute, "count_replicas", lambda: replicas)
    assert rounds.is_compiled(asked) == compiled


@pytest.mark.parametrize(("steps", "most", "found"), [(120, 16, 15), (122, 16, 2), (7, 16, 7), (13, 4, 1), (5, 1, 1)])
def test_steps_at_once_divide_those_of_an_epoch(steps, most, found):
    assert rounds.divide_steps(steps, most) == found


def test_steps_are_single_on_several_devices(monkeypatch):
    monkeypatch.setattr(rz.distribute, "count_replicas", lambda: 2)
    assert rounds.divide_steps(120, 16) == 1


def test_the_log_says_what_is_computed_with(monkeypatch):
    fit = rz.opts.pick(TrainOptions(mixed_precision="bfloat16", jit_compile="on"), *train.FIT_OPTIONS)
    pair = [types.SimpleNamespace(name=name) for name in ("one", "two")]
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 3)
    assert rounds.describe_settings(fit) == (
        "computes with: CPU, 3 threads, oneDNN off, bfloat16 and float32, XLA on, channels last"
    )
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    assert "oneDNN on" in describe_devices()
    monkeypatch.setattr(tf.config.threading, "get_intra_op_parallelism_threads", lambda: 0)
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    assert describe_devices().startswith("CPU, 1 thread, ")
    monkeypatch.setattr("resnet_zclass.backend.count_cores", lambda: 5)
    for word in ("many", "0"):
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", word)
        assert describe_devices().startswith("CPU, 5 threads, ")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert describe_devices().startswith("CPU, 5 threads, ")
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: list(pair))
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"device_name": "NVIDIA H100"})
    assert describe_devices() == "2 GPU (NVIDIA H100)"
