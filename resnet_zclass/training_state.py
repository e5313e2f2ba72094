"""The state of a round after an epoch, in files of its own, from which a training that was killed goes on.

A state holds all that the next epoch depends on and that seed and epoch do not tell: every variable of the model and of
its optimizer, and what the callbacks remember. Keras' own `BackupAndRestore` keeps the first alone.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass.arrays import read_arrays
from resnet_zclass.backend import keras
from resnet_zclass.callbacks import CHECKPOINT_FILE, BestCheckpoint, read_score
from resnet_zclass.distribute import is_chief
from resnet_zclass.errors import InputError
from resnet_zclass.files import sync, whole_file
from resnet_zclass.live import LiveCurves
from resnet_zclass.memory import check_archive
from resnet_zclass.pace import Pace
from resnet_zclass.rebuild import digest_weights

FORMAT = 1
KEPT = 2  # generations: if the newest is damaged, there is the one before
METADATA = "metadata"  # name of the array that holds the metadata as JSON

# What callbacks remember from epoch to epoch. BestCheckpoint finds its best value in the file that it wrote.
REMEMBERED: dict[type, tuple[str, ...]] = {
    keras.callbacks.EarlyStopping: ("wait", "best", "best_epoch", "stopped_epoch"),
    keras.callbacks.ReduceLROnPlateau: ("wait", "best", "cooldown_counter"),
    LiveCurves: ("history",),
}

Arrays = dict[str, np.ndarray]
Metadata = dict[str, Any]


def capture(fitted: keras.Model, callbacks: Sequence[keras.callbacks.Callback], epoch: int) -> tuple[Arrays, Metadata]:
    """What a later process needs to go on after an epoch.

    Args:
        fitted: The compiled model that is being fitted.
        callbacks: Its callbacks, which have seen the end of the epoch already.
        epoch: Number of epochs done.

    Returns:
        Arrays of all variables, and what JSON can hold: `epoch`, whether the round has `stopped`, `learning_rate`, and
        the `callbacks` with what they remember.
    """
    arrays = {name: variable.numpy() for name, variable in _name_variables(fitted).items()}
    metadata = {
        "format": FORMAT,
        "epoch": epoch,
        "stopped": fitted.stop_training,
        "learning_rate": float(keras.ops.convert_to_numpy(fitted.optimizer.learning_rate)),
        "callbacks": [_remember(callback) for callback in callbacks],
    }
    return arrays, json.loads(json.dumps(metadata, default=lambda number: np.asarray(number).item()))


def restore(
    fitted: keras.Model, callbacks: Sequence[keras.callbacks.Callback], arrays: Arrays, metadata: Metadata
) -> None:
    """Gives model, optimizer and callbacks the state that `capture` took.

    Callbacks forget everything in their `on_train_begin`, so this has to happen after that.

    Raises:
        InputError: If there is a variable or a callback too many or too few, or one of another shape or type.
    """
    if not fitted.optimizer.built:
        with keras.name_scope(fitted.optimizer.name, caller=fitted.optimizer):  # as its first step does
            fitted.optimizer.build(fitted.trainable_variables)
    variables = _name_variables(fitted)
    wanted = {name: (tuple(variable.shape), variable.dtype) for name, variable in variables.items()}
    found = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
    if wanted != found:
        raise InputError(
            "the state of the training is not of this model; --overwrite begins anew. "
            f"{_list_facts('The model has', wanted, found)}; {_list_facts('the state has', found, wanted)}."
        )
    before, now = ([name for name, *_ in pairs] for pairs in (metadata["callbacks"], map(_remember, callbacks)))
    if before != now:
        raise InputError(f"the state of the training has the callbacks {before}, the round has {now}.")
    for name, variable in variables.items():
        variable.assign(arrays[name])
    for callback, (_, memory) in zip(callbacks, metadata["callbacks"], strict=True):
        _remind(callback, memory)


def write_state(path: str | Path, arrays: Arrays, metadata: Metadata) -> None:
    """Writes a state to an uncompressed `.npz`, whole or not at all, so that it outlives a loss of power too."""
    text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    digest = np.frombuffer(_digest(arrays, text).encode(), np.uint8)
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays, **{METADATA: text, "digest": digest})


def read_state(path: str | Path) -> tuple[Arrays, Metadata]:
    """Reads what `write_state` wrote.

    Raises:
        InputError: If the file is missing, damaged, or of another format.
    """
    arrays = read_arrays(path)
    try:
        text, digest = arrays.pop(METADATA), arrays.pop("digest").tobytes().decode()
        metadata = json.loads(text.tobytes())
        known = metadata["format"] == FORMAT
    except Exception as error:  # whatever the arrays of something else lead to
        raise InputError(f"{path} is damaged ({type(error).__name__})") from error
    if not known:
        raise InputError(f"{path} was written by another version of resnet_zclass")
    if digest != _digest(arrays, text):
        raise InputError(f"{path} is damaged (its digest is another)")
    return arrays, metadata


def find_state(folder: Path) -> tuple[Arrays, Metadata] | None:
    """The newest state of a round that can be read, or None if the round has to begin anew; says aloud what is odd.

    Args:
        folder: Folder of the round, which may be missing.

    Raises:
        InputError: If there is a checkpoint that nobody knows how to go on from.
    """
    paths, checkpoint_path = list_states(folder), folder / CHECKPOINT_FILE
    whole = read_score(checkpoint_path) is not None
    if paths and not whole:
        print(f"note: {checkpoint_path} is missing or damaged, so its round begins anew.")
        checkpoint_path.unlink(missing_ok=True)
    for path in paths if whole else ():
        check_archive(path)  # one that is too large is no reason to begin anew
        try:
            return read_state(path)
        except InputError as error:
            print(f"note: {error}; the state before it is tried.")
    if not paths and not whole and checkpoint_path.exists():
        raise InputError(f"{checkpoint_path} comes without a state to go on from; --overwrite begins anew.")
    if whole:
        print(f"note: {folder} has no whole state to go on from, so its round begins anew.")
    remove_states(folder)  # or a later one of them would be taken for the newest after the next interruption
    return None


def list_states(folder: Path) -> list[Path]:
    """The files with states of a round, the newest first."""
    return sorted(folder.glob("state_*.npz"), reverse=True)


def count_epochs(folder: Path) -> int:
    """Number of whole epochs after which a round can go on."""
    return max((int(path.stem.removeprefix("state_")) for path in list_states(folder)), default=0)


def remove_states(folder: Path, keep: Sequence[str] = ()) -> None:
    """Removes the states of a round but those with the names `keep`, and what killed processes left of some."""
    for path in [*list_states(folder), *folder.glob(".state_*.npz")]:
        if path.name not in keep:
            path.unlink(missing_ok=True)


class KeepState(keras.callbacks.Callback):
    """Writes the state of a round at the end of every epoch, and goes on from one that was found.

    With a pace, epochs that are over soon are passed by; what is lost with them when the training is interrupted is
    trained again. The best model is written before a state, so that no state knows of a better one than there is.

    Of several workers, the chief alone writes.

    It has to be the last callback, to see what the others remember of the epoch, and to come after their
    `on_train_begin`, in which they forget everything.

    Args:
        folder: Folder of the round.
        others: The other callbacks of the round.
        found: What `find_state` found.
        pace: When a state is due; default after every epoch.
    """

    def __init__(
        self,
        folder: Path,
        others: Sequence[keras.callbacks.Callback],
        found: tuple[Arrays, Metadata] | None = None,
        pace: Pace | None = None,
    ):
        super().__init__()
        self._folder, self._others, self._found = folder, others, found
        self._pace, self._passed_by = pace, 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Goes on from the state that was found."""
        if self._found is not None:
            restore(self.model, self._others, *self._found)
            self._found[0].clear()  # as large as the model, and done with
        self._found = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Writes the state if it is due."""
        if self._pace is None:
            self._write(epoch + 1)
        elif self._pace.is_due():
            with self._pace.work():
                self._write(epoch + 1)
            self._passed_by = 0
        else:
            self._passed_by = epoch + 1

    def on_train_end(self, logs: dict | None = None) -> None:
        """Writes the state of the last epoch if it was passed by."""
        if self._passed_by:
            self._write(self._passed_by)

    def _write(self, n_epochs: int) -> None:
        if not is_chief():
            return
        for callback in self._others:
            if isinstance(callback, BestCheckpoint):
                callback.write_best()
            if isinstance(callback, keras.callbacks.CSVLogger):
                sync(callback.filename)  # nobody writes it again if this is the last epoch
        path = self._folder / f"state_{n_epochs:06d}.npz"
        write_state(path, *capture(self.model, self._others, n_epochs))
        known = [other.name for other in list_states(self._folder) if other.name <= path.name]
        remove_states(self._folder, keep=known[:KEPT])


def _name_variables(fitted: keras.Model) -> dict[str, keras.Variable]:
    """All variables under names without the numbers that Keras counts up within a process."""
    return {
        f"{part}/{i:04d}/{re.sub(r'_[0-9]+(?=[_/]|$)', '', variable.path)}": variable
        for part, variables in (("model", fitted.variables), ("optimizer", fitted.optimizer.variables))
        for i, variable in enumerate(variables)
    }


def _remember(callback: keras.callbacks.Callback) -> tuple[str, dict[str, Any]]:
    """Name of a callback's class, and what it remembers."""
    memory = {name: getattr(callback, name) for name in REMEMBERED.get(type(callback), ())}
    if isinstance(callback, keras.callbacks.CSVLogger):
        path = Path(callback.filename)
        memory["written"] = path.read_bytes().decode() if path.is_file() else ""
    return type(callback).__name__, memory


def _remind(callback: keras.callbacks.Callback, memory: dict[str, Any]) -> None:
    """Gives a callback back what it remembered."""
    if isinstance(callback, keras.callbacks.CSVLogger):
        # Rows of epochs after the state go; then the file is opened once more, behind its last row.
        Path(callback.filename).write_bytes(memory["written"].encode())
        callback.append = True
        callback.on_train_begin()
    for name in REMEMBERED.get(type(callback), ()):
        setattr(callback, name, memory[name])


def _list_facts(words: str, facts: dict[str, Any], others: dict[str, Any]) -> str:
    odd = [f"{name} {facts[name]}" for name in facts if facts[name] != others.get(name)]
    return (
        f"{words} {', '.join(odd[:3])}{f' and {len(odd) - 3} more' if len(odd) > 3 else ''}"
        if odd
        else (f"{words} nothing that is missing there")
    )


def _digest(arrays: Arrays, text: np.ndarray) -> str:
    names = np.frombuffer("\n".join(arrays).encode(), np.uint8)
    return digest_weights(text, names, *arrays.values())
