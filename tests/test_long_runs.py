"""What happens in long trainings: numbers blow up, files vanish, disks fill up; and what must not grow does not."""

import errno
import gc
import os
import sys
import threading

import numpy as np
import psutil
import pytest
from drawn import draw_crops, write_drawn_set

import resnet_zclass as rz
from resnet_zclass import pack, predict, train
from resnet_zclass.backend import keras, tf
from resnet_zclass.batches import count_steps, training_batches
from resnet_zclass.callbacks import HISTORY_FILE, NAN_FILE, BestCheckpoint
from resnet_zclass.images import write_stack
from resnet_zclass.training_state import count_epochs

WORDS = ["--model_name", "ResNet8", "--hidden", "8", "--batch_size", "16", "--seed", "1", "--no_evaluate"]
GROWTH_MB = 30  # that caches and the garbage collector may take
WARM_UP = 10


@pytest.fixture(scope="module")
def drawn_set(tmp_path_factory):
    return write_drawn_set(tmp_path_factory.mktemp("data") / "set", n_per_class=30)


def run_train(data_path, logs, *words):
    call = ["--data_path", data_path, "--save_logs_path", logs, "--run_name", "run", *words]
    return train.main([*WORDS, *map(str, call)])


# A loss that is no number


@pytest.fixture
def blown_up(drawn_set, tmp_path, monkeypatch, capfd):
    """A run with a target that is NaN in the second step of the third epoch; its folder, and what it said."""
    original, at = training_batches, 2 * count_steps(54, 16) + 1

    def batches(*args, first_epoch=0, **keywords):
        data = original(*args, first_epoch=first_epoch, **keywords).enumerate(first_epoch * count_steps(54, 16))
        return data.map(lambda step, pair: (pair[0], tf.where(step == at, np.float32(np.nan), pair[1])))

    monkeypatch.setattr(rz.rounds, "training_batches", batches)
    assert run_train(drawn_set, tmp_path, "--epochs", 5) == 2
    return tmp_path / "run" / "fine_tune_model", capfd.readouterr().err


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(blown_up, drawn_set):
    folder, said = blown_up
    assert "the loss is no number at step 2 of epoch 3" in said
    assert "lower --learning_rate" in said
    assert str(folder / NAN_FILE) in said
    with np.load(folder / NAN_FILE, allow_pickle=False) as batch:
        assert batch["inputs"].shape == (14, 16, 16, 1)
        assert np.isnan(batch["targets"]).all()
        assert batch["targets"].shape == (14, 3)
        assert set(batch["step"]) == {2}
        assert batch["epoch"] == 3
    assert len((folder / HISTORY_FILE).read_text().splitlines()) == 1 + 2  # its head, and the epochs before
    assert count_epochs(folder) == 2
    arrays, _ = rz.training_state.read_state(folder / "state_000002.npz")
    assert all(np.isfinite(array).all() for array in arrays.values())


def test_the_batch_that_is_kept_is_the_one_of_that_step(tmp_path):
    inputs, targets = np.arange(40.0, dtype="float32").reshape(20, 2), np.eye(2, dtype="float32")[[0, 1] * 10]

    def batches(epoch):
        return training_batches(inputs, targets, 8, seed=3, first_epoch=epoch)

    callback = rz.callbacks.StopAtNaN(tmp_path, batches)
    callback.on_epoch_begin(4)
    callback.on_train_batch_end(0, {"loss": 0.5})
    with pytest.raises(rz.errors.InputError, match="step 3 of epoch 5"):
        callback.on_train_batch_end(2, {"loss": np.nan})  # two steps at once
    expected = list(batches(4).take(3))[1:]
    with np.load(tmp_path / NAN_FILE) as kept:
        np.testing.assert_array_equal(kept["inputs"], np.concatenate([step[0] for step in expected]))
        np.testing.assert_array_equal(kept["targets"], np.concatenate([step[1] for step in expected]))
        assert kept["step"].tolist() == [2] * len(expected[0][0]) + [3] * len(expected[1][0])


# Files that vanish, disks that fill up


def test_data_that_vanish_in_an_epoch_are_named_and_the_run_goes_on(drawn_set, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(pack, "MAX_IN_MEMORY_BYTES", 0)
    assert run_train(drawn_set, tmp_path / "whole", "--epochs", 4, "--deterministic") == 0
    pack_path = next(drawn_set.parent.glob("*.packed.h5"))
    whole = pack_path.read_bytes()
    original = BestCheckpoint.on_epoch_end

    def cut_off(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch == 1:
            os.truncate(pack_path, 4000)

    monkeypatch.setattr(BestCheckpoint, "on_epoch_end", cut_off)
    assert run_train(drawn_set, tmp_path, "--epochs", 4, "--deterministic") == 2
    (said,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert str(pack_path) in said
    assert "shorter" in said
    assert "--resume goes on from epoch" in said
    monkeypatch.setattr(BestCheckpoint, "on_epoch_end", original)
    pack_path.write_bytes(whole)
    assert run_train(drawn_set, tmp_path, "--epochs", 4, "--deterministic", "--resume") == 0
    runs = [keras.saving.load_model(path / "run" / "model.keras") for path in (tmp_path, tmp_path / "whole")]
    for mine, other in zip(*(model.get_weights() for model in runs), strict=True):
        np.testing.assert_array_equal(mine, other)


def test_a_full_disk_is_told_with_how_to_go_on(drawn_set, tmp_path, monkeypatch, capfd):
    original = rz.training_state.write_state

    def write(path, *state):
        if path.name == "state_000003.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        original(path, *state)

    monkeypatch.setattr(rz.training_state, "write_state", write)
    assert run_train(drawn_set, tmp_path, "--epochs", 5) == 2
    said = capfd.readouterr().err
    assert "state_000003.npz: No space left on device; when that is mended, --resume goes on from epoch 3" in said


# What must not grow


def measure():
    """Memory of this process in MB, its open files and its threads."""
    gc.collect()
    process = psutil.Process()
    return process.memory_info().rss / 1e6, process.num_fds(), threading.active_count()


def assert_flat(marks):
    """That after a warm-up nothing grows any more."""
    (rss, files, threads), later = marks[0], marks[1:]
    assert max(mark[0] for mark in later) - rss < GROWTH_MB, marks
    assert max(mark[1] for mark in later) <= files + 2, marks
    assert max(mark[2] for mark in later) <= threads + 2, marks


def train_long(data_path, logs, epochs):
    marks = []

    class Mark(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch >= WARM_UP and epoch % 10 == 0:
                marks.append(measure())

    build = rz.callbacks.build_callbacks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rz.callbacks, "build_callbacks", lambda *args, **words: [*build(*args, **words), Mark()])
        assert run_train(data_path, logs, "--epochs", epochs, "--patience", epochs) == 0
    return marks


def predict_often(run, folder, times):
    write_stack(folder / "crops.tif", draw_crops(n_per_class=2)[0])
    marks = []
    for number in range(times):
        words = [
            folder / "crops.tif",
            "--load_logs_path",
            run,
            "--pred_save_path",
            folder / "p.csv",
            "--overwrite",
            "--quiet",
        ]
        assert predict.main(list(map(str, words))) == 0
        if number >= WARM_UP and number % 10 == 0:
            marks.append(measure())
    return marks


@pytest.mark.skipif(sys.platform == "win32", reason="open files are counted otherwise there")
class TestNothingGrows:
    @pytest.mark.slow
    def test_in_many_epochs(self, drawn_set, tmp_path):
        assert_flat(train_long(drawn_set, tmp_path, epochs=41))

    @pytest.mark.slow
    def test_in_many_predictions(self, drawn_run, tmp_path):
        assert_flat(predict_often(drawn_run, tmp_path, times=41))

    @pytest.mark.long
    def test_in_200_epochs(self, drawn_set, tmp_path):
        assert_flat(train_long(drawn_set, tmp_path, epochs=200))

    @pytest.mark.long
    def test_in_1000_predictions(self, drawn_run, tmp_path):
        assert_flat(predict_often(drawn_run, tmp_path, times=1000))


@pytest.mark.parametrize("grown", [(GROWTH_MB + 1, 0, 0), (0, 3, 0), (0, 0, 3)])
def test_growth_would_be_seen(grown):
    first = np.array([500, 20, 8])
    assert_flat([first, first, first + np.array([GROWTH_MB - 1, 2, 2])])
    with pytest.raises(AssertionError):
        assert_flat([first, first + grown])
