"""A training that was killed goes on to the same end, whatever the moment."""

import contextlib
import errno
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn import write_drawn_set

import resnet_zclass as rz
from resnet_zclass import train, training_state
from resnet_zclass.backend import keras
from resnet_zclass.batches import training_batches
from resnet_zclass.callbacks import CHECKPOINT_FILE, CURVES_FILE, HISTORY_FILE, BestCheckpoint, build_callbacks
from resnet_zclass.errors import InputError
from resnet_zclass.schedules import plan_rates
from resnet_zclass.training_state import KeepState, count_epochs, find_state, list_states, read_state, write_state

EPOCHS = 14
SIDE = 4


@pytest.fixture(scope="module", autouse=True)
def quick_curves():
    """Instead of pictures, which take longer than these epochs, what would be drawn is written."""
    with pytest.MonkeyPatch.context() as patch:
        write = lambda history, path, *about: path.write_text(json.dumps([history, *about]))  # noqa: E731
        patch.setattr(rz.figures, "draw_curves", write)
        patch.setattr(train, "draw_preview", lambda *_: None)
        yield


# One round of a tiny network


def tiny_model(units=6):
    keras.utils.set_random_seed(3)
    inputs = keras.Input((SIDE,))
    hidden = keras.layers.Dense(units, activation="relu")(inputs)
    hidden = keras.layers.BatchNormalization()(keras.layers.Dropout(0.4)(hidden))
    return keras.Model(inputs, keras.layers.Dense(3, activation="softmax")(hidden))


def fit_tiny(folder, resume=False, model=None, rate=0.05, rates=None, optimizer="rmsprop", pace=None, **options):
    """Fits a round as `rounds.fit_round` does; returns the final weights and those of the optimizer."""
    folder.mkdir(exist_ok=True)
    model = model or tiny_model()
    found = find_state(folder) if resume else None
    first = found[1]["epoch"] if found else 0
    rng = np.random.default_rng(0)
    inputs, targets = rng.normal(size=(40, SIDE)).astype("float32"), np.eye(3, dtype="float32")[rng.integers(0, 3, 40)]
    batches, steps = training_batches(inputs, targets, 8, seed=0, first_epoch=first), 5
    fitted = keras.Model(model.inputs, model.outputs)
    fitted.compile(rz.rounds.build_optimizer(optimizer, rate), "categorical_crossentropy", jit_compile=False)
    callbacks = build_callbacks(folder, model, "loss", rates=rates, waits=pace is not None, **options)
    keep = KeepState(folder, callbacks, found, pace)
    fitted.fit(
        batches,
        steps_per_epoch=steps,
        epochs=EPOCHS,
        initial_epoch=first,
        shuffle=False,
        verbose=0,
        callbacks=[*callbacks, keep],
    )
    return fitted.get_weights() + [variable.numpy() for variable in fitted.optimizer.variables]


def stop_at(monkeypatch, owner, name, epoch):
    """Lets a method that is called at the end of an epoch raise what Ctrl-C raises, in that epoch."""
    original = getattr(owner, name)

    def stopping(self, now, logs=None):
        if now == epoch:
            raise KeyboardInterrupt
        original(self, now, logs)

    monkeypatch.setattr(owner, name, stopping)


def assert_equal(some, others):
    assert len(some) == len(others)
    for one, other in zip(some, others, strict=True):
        np.testing.assert_array_equal(one, other)


# Patience and plateau of `NOISY` would end elsewhere if a counter began again: see the test that says so.
NOISY = {"patience": 4, "rate": 0.01}
PLANNED = {"rates": plan_rates("cyclic", 0.1, EPOCHS, lr_decay=0.5, cycle_epochs=4, warmup_epochs=2), "patience": 99}
MOMENTS = {
    "before anything of the epoch is written": (BestCheckpoint, "on_epoch_end"),
    "between checkpoint and history": (keras.callbacks.CSVLogger, "on_epoch_end"),
    "between history and state": (KeepState, "on_epoch_end"),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Rounds that nobody interrupted, by their options: folder and weights."""
    folders = tmp_path_factory.mktemp("whole")
    return {
        name: (folders / name, fit_tiny(folders / name, **options))
        for name, options in (("noisy", NOISY), ("planned", PLANNED))
    }


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("epoch", [0, 5, 9])
def test_an_interrupted_round_ends_as_if_it_had_not_been(epoch, moment, whole, tmp_path, monkeypatch):
    folder, weights = whole["noisy"]
    assert len(pd.read_csv(folder / HISTORY_FILE)) > epoch + 1
    stop_at(monkeypatch, *MOMENTS[moment], epoch)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(tmp_path / "r", **NOISY)
    monkeypatch.undo()
    assert_equal(fit_tiny(tmp_path / "r", resume=True, **NOISY), weights)
    assert (tmp_path / "r" / HISTORY_FILE).read_bytes() == (folder / HISTORY_FILE).read_bytes()
    assert (tmp_path / "r" / CURVES_FILE).read_bytes() == (folder / CURVES_FILE).read_bytes()
    best, same = (keras.saving.load_model(path / CHECKPOINT_FILE).get_weights() for path in (folder, tmp_path / "r"))
    assert_equal(best, same)


class EveryFourth:
    """A pace at which a state is due after the epochs 1, 5, 9, ..."""

    def __init__(self):
        self._asked = 0

    def is_due(self):
        self._asked += 1
        return self._asked % 4 == 1

    def work(self):
        return contextlib.nullcontext()


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("epoch", [0, 5, 8, 9])
def test_a_round_whose_states_are_rare_ends_as_if_it_had_not_been_interrupted(
    epoch, moment, whole, tmp_path, monkeypatch
):
    folder, weights = whole["noisy"]
    stop_at(monkeypatch, *MOMENTS[moment], epoch)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(tmp_path / "r", pace=EveryFourth(), **NOISY)
    monkeypatch.undo()
    done = 1 + (epoch - 1) // 4 * 4 if epoch else 0
    assert count_epochs(tmp_path / "r") == done
    assert_equal(fit_tiny(tmp_path / "r", resume=True, pace=EveryFourth(), **NOISY), weights)
    assert count_epochs(tmp_path / "r") == len(pd.read_csv(folder / HISTORY_FILE))  # the last one is written whenever
    assert (tmp_path / "r" / HISTORY_FILE).read_bytes() == (folder / HISTORY_FILE).read_bytes()
    best, same = (keras.saving.load_model(path / CHECKPOINT_FILE).get_weights() for path in (folder, tmp_path / "r"))
    assert_equal(best, same)


def test_interrupted_again_and_again(whole, tmp_path, monkeypatch):
    folder, weights = whole["planned"]
    for epoch in (1, 2, 6, 13):
        stop_at(monkeypatch, KeepState, "on_epoch_end", epoch)
        with pytest.raises(KeyboardInterrupt):
            fit_tiny(tmp_path / "r", resume=True, **PLANNED)
        monkeypatch.undo()
    assert_equal(fit_tiny(tmp_path / "r", resume=True, **PLANNED), weights)
    assert (tmp_path / "r" / HISTORY_FILE).read_bytes() == (folder / HISTORY_FILE).read_bytes()


def test_a_round_that_its_early_stop_ended_does_not_go_on(whole):
    metadata = find_state(whole["noisy"][0])[1]
    assert metadata["stopped"]
    assert metadata["epoch"] == 12 < EPOCHS


@pytest.mark.parametrize("forgotten", [keras.callbacks.EarlyStopping, keras.callbacks.ReduceLROnPlateau])
def test_the_end_would_be_another_if_a_counter_were_lost(forgotten, whole, tmp_path, monkeypatch):
    """That the tests above would see it."""
    stop_at(monkeypatch, KeepState, "on_epoch_end", 9)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(tmp_path / "r", **NOISY)
    monkeypatch.undo()
    monkeypatch.setitem(training_state.REMEMBERED, forgotten, ())
    fit_tiny(tmp_path / "r", resume=True, **NOISY)
    assert (tmp_path / "r" / HISTORY_FILE).read_bytes() != (whole["noisy"][0] / HISTORY_FILE).read_bytes()


def test_tensorboard_goes_on_counting(tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stop_at(monkeypatch, keras.callbacks.CSVLogger, "on_epoch_end", 3)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(tmp_path / "r", **PLANNED)
    monkeypatch.undo()
    fit_tiny(tmp_path / "r", resume=True, **PLANNED)
    events = EventAccumulator(str(tmp_path / "r" / "train"), size_guidance={"tensors": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("epoch_loss")] == list(range(EPOCHS))


def test_a_better_checkpoint_of_an_epoch_that_was_lost_is_not_replaced_by_a_worse_one(tmp_path):
    folder = tmp_path
    logs = [{"loss": 0.5}, {"loss": 0.2}, {"loss": 0.4}, {"loss": 0.1}]
    model = tiny_model()
    checkpoint = BestCheckpoint(model, folder / CHECKPOINT_FILE, "loss")
    for epoch in (0, 1):
        checkpoint.on_epoch_end(epoch, logs[epoch])
    before = (folder / CHECKPOINT_FILE).read_bytes()
    again = BestCheckpoint(model, folder / CHECKPOINT_FILE, "loss")
    again.on_train_begin()
    again.on_epoch_end(2, logs[2])
    assert (folder / CHECKPOINT_FILE).read_bytes() == before
    again.on_epoch_end(3, logs[3])
    assert (folder / CHECKPOINT_FILE).read_bytes() != before


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "adadelta", "lion"])
def test_every_optimizer_goes_on(optimizer, tmp_path, monkeypatch):
    options = {"optimizer": optimizer, "rate": 0.01}
    weights = fit_tiny(tmp_path / "whole", **options)
    stop_at(monkeypatch, KeepState, "on_epoch_end", 5)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(tmp_path / "r", **options)
    monkeypatch.undo()
    assert_equal(fit_tiny(tmp_path / "r", resume=True, **options), weights)


# The files


def stop_tiny(folder, monkeypatch, epoch=4):
    stop_at(monkeypatch, KeepState, "on_epoch_end", epoch)
    with pytest.raises(KeyboardInterrupt):
        fit_tiny(folder, **NOISY)
    monkeypatch.undo()


def damage(path, how):
    content = path.read_bytes()
    if how == "cut off":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "a bit":
        at = content.index(b"NUMPY", 3000) + 200
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    elif how == "another format":
        arrays, metadata = read_state(path)
        write_state(path, arrays, metadata | {"format": 99})


@pytest.mark.parametrize("how", ["cut off", "empty", "a bit", "another format"])
def test_if_the_newest_state_is_damaged_the_one_before_is_taken(how, whole, tmp_path, monkeypatch, capsys):
    stop_tiny(tmp_path / "r", monkeypatch)
    assert [path.name for path in list_states(tmp_path / "r")] == ["state_000004.npz", "state_000003.npz"]
    damage(tmp_path / "r" / "state_000004.npz", how)
    assert_equal(fit_tiny(tmp_path / "r", resume=True, **NOISY), whole["noisy"][1])
    assert "state_000004.npz" in capsys.readouterr().out
    assert (tmp_path / "r" / HISTORY_FILE).read_bytes() == (whole["noisy"][0] / HISTORY_FILE).read_bytes()


@pytest.mark.parametrize("what", ["both states", "checkpoint cut off", "checkpoint gone"])
def test_a_round_that_lost_more_begins_anew_and_says_so(what, whole, tmp_path, monkeypatch, capsys):
    stop_tiny(tmp_path / "r", monkeypatch)
    if what == "both states":
        for path in list_states(tmp_path / "r"):
            damage(path, "empty")
    elif what == "checkpoint gone":
        (tmp_path / "r" / CHECKPOINT_FILE).unlink()
    else:
        damage(tmp_path / "r" / CHECKPOINT_FILE, "cut off")
    assert find_state(tmp_path / "r") is None
    assert "begins anew" in capsys.readouterr().out
    assert not list_states(tmp_path / "r")
    assert_equal(fit_tiny(tmp_path / "r", resume=True, **NOISY), whole["noisy"][1])


def test_a_checkpoint_of_unknown_origin_is_not_thrown_away(tmp_path):
    tiny_model().save(tmp_path / CHECKPOINT_FILE)
    with pytest.raises(InputError, match="--overwrite"):
        find_state(tmp_path)


def test_a_state_of_another_network_is_refused_with_both_sides(tmp_path, monkeypatch):
    stop_tiny(tmp_path / "r", monkeypatch)
    with pytest.raises(InputError, match=r"dense/kernel \(\(4, 7\), 'float32'\).*dense/kernel \(\(4, 6\), 'float32'\)"):
        fit_tiny(tmp_path / "r", resume=True, model=tiny_model(units=7), **NOISY)


def test_a_state_of_another_schedule_is_refused(tmp_path, monkeypatch):
    stop_tiny(tmp_path / "r", monkeypatch)
    with pytest.raises(InputError, match=r"ReduceLROnPlateau.*LearningRateScheduler"):
        fit_tiny(tmp_path / "r", resume=True, **PLANNED)


def test_a_state_is_read_as_it_was_written(tmp_path):
    arrays = {"model/0000/a": np.arange(6.0).reshape(2, 3), "optimizer/0000/b": np.array(3)}
    metadata = {"format": 1, "epoch": 2, "callbacks": [["EarlyStopping", {"best": float("inf"), "wait": None}]]}
    write_state(tmp_path / "state_000002.npz", arrays, metadata)
    again, facts = read_state(tmp_path / "state_000002.npz")
    assert facts == metadata
    assert list(again) == list(arrays)
    assert_equal(list(again.values()), list(arrays.values()))
    assert [path.name for path in tmp_path.iterdir()] == ["state_000002.npz"]


# Whole runs

WORDS = ["--model_name", "ResNet8", "--hidden", "8", "--dropout", "0.2", "--batch_size", "16", "--seed", "1"]
WORDS += ["--deterministic", "--epochs", "3", "--head_epochs", "2", "--feature_views", "2", "--no_evaluate"]


def run_train(*words):
    return train.main([*WORDS, *map(str, words)])


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """Words for a run of two rounds, and the folder of one that nobody interrupted."""
    folder = tmp_path_factory.mktemp("runs")
    data_path = write_drawn_set(folder / "set", n_per_class=15)
    backbone = rz.models.build_classifier((16, 16, 1), 3, "ResNet8", hidden=8).get_layer("backbone")
    backbone.save_weights(folder / "b.weights.h5")
    words = ["--data_path", data_path, "--weights", folder / "b.weights.h5", "--run_name", "run"]
    assert run_train(*words, "--save_logs_path", folder / "whole") == 0
    return words, folder / "whole" / "run"


def assert_same_run(run, other):
    assert_equal(*(keras.saving.load_model(path / "model.keras").get_weights() for path in (run, other)))
    for name in ("origin_model", "fine_tune_model"):
        assert (run / name / HISTORY_FILE).read_bytes() == (other / name / HISTORY_FILE).read_bytes()
    assert not list(other.rglob("*state_*"))


KILLER = """
import os, sys
from resnet_zclass import train, training_state
written = []
def write(path, arrays, metadata):
    written.append(path)
    if len(written) == 2:
        os._exit(77)
    original(path, arrays, metadata)
original, training_state.write_state = training_state.write_state, write
train.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(begun, tmp_path):
    words, run = begun
    words = [*words, "--save_logs_path", tmp_path]
    call = [sys.executable, "-c", KILLER, *WORDS, *map(str, words)]
    assert subprocess.run(call, capture_output=True).returncode == 77
    assert run_train(*words, "--resume") == 0
    assert_same_run(run, tmp_path / "run")


MOMENTS_OF_A_RUN = {  # module, function, at which of its calls
    "between the rounds": ("rounds", "fit_round", 2),
    "in round 2": ("training_state", "write_state", 4),
    "before the model is saved": ("train", "save_model", 1),
    "after the model is saved": ("train", "clear_states", 1),
}


@pytest.mark.parametrize("moment", MOMENTS_OF_A_RUN)
def test_an_interrupted_run_goes_on_to_the_same_end(moment, begun, tmp_path, monkeypatch, capsys):
    words, run = begun
    words = [*words, "--save_logs_path", tmp_path]
    module, name, call = MOMENTS_OF_A_RUN[moment]
    module, calls = getattr(rz, module), []
    original = getattr(module, name)

    def stopping(*args, **keywords):
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return original(*args, **keywords)

    monkeypatch.setattr(module, name, stopping)
    assert run_train(*words) == 130
    monkeypatch.undo()
    if moment == "in round 2":
        assert "--resume goes on from epoch 2 of run, round 2 of 2" in capsys.readouterr().err
        assert run_train(*words) == 2  # nothing is thrown away unasked
        assert "--resume" in capsys.readouterr().err
    assert run_train(*words, "--resume") == 0
    assert_same_run(run, tmp_path / "run")


@pytest.fixture(scope="module")
def stopped(begun, tmp_path_factory):
    """Folder of runs with one that was interrupted in its last epoch of round 1."""
    logs = tmp_path_factory.mktemp("stopped")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rz.training_state, "KeepState", _Stops)
        assert run_train(*begun[0], "--save_logs_path", logs) == 130
    return logs


@pytest.fixture
def unfinished(begun, stopped, tmp_path):
    """Words of a copy of that run."""
    shutil.copytree(stopped, tmp_path / "logs")
    return [*begun[0], "--save_logs_path", tmp_path / "logs"]


class _Stops(KeepState):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            raise KeyboardInterrupt


def test_a_round_that_its_early_stop_ended_is_passed_over(unfinished, tmp_path, monkeypatch):
    (path,) = list_states(tmp_path / "logs" / "run" / "origin_model")
    arrays, metadata = read_state(path)
    assert metadata["epoch"] == 1
    write_state(path, arrays, metadata | {"stopped": True})
    fitted = []

    def fit_round(*args, **_):
        fitted.extend(arg.folder for arg in args if isinstance(arg, rz.rounds.Round))
        raise KeyboardInterrupt

    monkeypatch.setattr(rz.rounds, "fit_round", fit_round)
    assert run_train(*unfinished, "--resume") == 130
    assert fitted == ["fine_tune_model"]


def test_other_options_are_refused_by_name(unfinished, capsys):
    assert run_train(*unfinished, "--resume", "--batch_size", 32, "--hidden", 8, 8) == 2
    err = capsys.readouterr().err
    assert "--batch_size was 16 and is 32, " in err or ", --batch_size was 16 and is 32" in err
    assert "--hidden was 8 and is 8 8" in err
    assert "epochs" not in err
    assert run_train(*unfinished, "--resume", "--folds", 2) == 2
    assert "--folds was 0 and is 2" in capsys.readouterr().err
    assert run_train(*unfinished, "--resume", "--overwrite") == 2
    assert "--resume" in capsys.readouterr().err
    assert run_train(*unfinished, "--resume", "--preview") == 2


def test_changed_data_are_refused_and_moved_data_are_not(unfinished, tmp_path, capsys):
    other = write_drawn_set(tmp_path / "other", n_per_class=15, seed=5)
    assert run_train(*unfinished, "--resume", "--data_path", other) == 2
    assert "45 images have other pixels" in capsys.readouterr().err
    fewer = write_drawn_set(tmp_path / "fewer", n_per_class=14)
    assert run_train(*unfinished, "--resume", "--data_path", fewer) == 2
    assert "are gone" in capsys.readouterr().err
    moved = write_drawn_set(tmp_path / "moved", n_per_class=15)
    assert run_train(*unfinished, "--resume", "--data_path", moved, "--epochs", 3) == 0
    assert rz.runs.read_run(tmp_path / "logs" / "run").options.data_path == str(moved)


def test_other_weights_to_start_from_are_refused(unfinished, begun, tmp_path, capsys):
    path = begun[0][3]
    before = path.read_bytes()
    keras.utils.set_random_seed(9)
    rz.models.build_classifier((16, 16, 1), 3, "ResNet8", hidden=8).get_layer("backbone").save_weights(path)
    try:
        assert run_train(*unfinished, "--resume") == 2
    finally:
        path.write_bytes(before)
    assert "--weights" in capsys.readouterr().err


def test_a_finished_run_is_said_to_be_and_evaluated_once(begun, tmp_path, capsys):
    words, run = begun
    words = [*words, "--save_logs_path", run.parent, "--resume"]
    before = (run / "model.keras").read_bytes()
    assert run_train(*words) == 0
    assert "finished" in capsys.readouterr().out
    assert not (run / "evaluation").exists()
    assert run_train(*words, "--evaluate") == 0
    scores = (run / "evaluation" / "metrics.json").stat().st_mtime_ns
    assert run_train(*words, "--evaluate") == 0
    assert (run / "evaluation" / "metrics.json").stat().st_mtime_ns == scores
    assert (run / "model.keras").read_bytes() == before


@pytest.mark.parametrize("there", ["nothing", "an empty folder", "opts.toml half written", "no epoch"])
def test_where_nothing_is_trained_the_run_begins(there, begun, tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(train, "train_rounds", lambda *args, **_: started.append(args) or 1 / 0)
    words = [*begun[0], "--save_logs_path", tmp_path, "--epochs", 2]
    run = tmp_path / "run"
    if there == "no epoch":
        assert run_train(*words, "--batch_size", 8) == 1
    elif there != "nothing":
        run.mkdir()
    if there == "opts.toml half written":
        (run / "opts.toml").write_text("batch_si")
    assert run_train(*words, "--resume") == 1
    assert "the run begins" in capsys.readouterr().out
    assert started
    assert "epochs = 2" in (run / "opts.toml").read_text()


def test_a_folder_of_something_else_is_left_alone(begun, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    assert run_train(*begun[0], "--save_logs_path", tmp_path, "--resume") == 2
    assert "not the folder of a run" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_go_on_with_the_one_that_was_interrupted(begun, tmp_path, monkeypatch, capsys):
    words = ["--data_path", begun[0][1], "--run_name", "run", "--folds", 2, "--epochs", 2, "--save_logs_path", tmp_path]
    trained, stops = [], [("fold_1", 1)]

    class Watched(KeepState):
        def on_epoch_begin(self, epoch, logs=None):
            trained.append((self._folder.parent.name, epoch))
            if trained[-1] in stops:
                raise KeyboardInterrupt

    monkeypatch.setattr(rz.training_state, "KeepState", Watched)
    assert run_train(*words) == 130
    first = (tmp_path / "run" / "fold_0" / "model.keras").read_bytes()
    trained.clear(), stops.clear()
    assert run_train(*words, "--resume") == 0
    assert trained == [("fold_1", 1)]
    assert (tmp_path / "run" / "fold_0" / "model.keras").read_bytes() == first
    assert len(pd.read_csv(tmp_path / "run" / "fold_1" / "fine_tune_model" / HISTORY_FILE)) == 2
    assert len(json.loads((tmp_path / "run" / "folds.json").read_text())["folds"]) == 2
    assert not list(tmp_path.rglob("*state_*"))
    assert run_train(*words, "--resume") == 0
    assert "finished" in capsys.readouterr().out
    assert trained == [("fold_1", 1)]
    (tmp_path / "run" / "folds.json").unlink()
    shutil.rmtree(tmp_path / "run" / "fold_0")
    monkeypatch.setattr(train, "train_rounds", lambda *_, **__: 1 / 0)
    assert run_train(*words, "--resume") == 1  # fold 0 begins anew, and leaves the others alone
    assert (tmp_path / "run" / "fold_1" / "model.keras").is_file()


@pytest.mark.parametrize("name", [CHECKPOINT_FILE, "state_000004.npz"])
def test_a_drive_that_is_away_for_a_moment_costs_nothing(name, tmp_path, monkeypatch):
    stop_tiny(tmp_path / "r", monkeypatch)
    before = sorted(path.name for path in (tmp_path / "r").iterdir())
    opened = zipfile.ZipFile

    def fail(path, *args, **keywords):
        if Path(path).name == name:
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *args, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(zipfile, "ZipFile", fail)
        with pytest.raises(OSError, match=name):
            find_state(tmp_path / "r")
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == before
    assert find_state(tmp_path / "r") is not None
