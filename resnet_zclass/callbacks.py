"""What happens at the end of an epoch: one callback answers one question; rates are functions of the epoch."""

import math
from collections.abc import Callable
from pathlib import Path

from resnet_zclass import figures
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_file

# What a round can watch, and whether less or more of it is better.
MONITORS = {"val_loss": "min", "val_accuracy": "max", "loss": "min", "accuracy": "max"}

CHECKPOINT_FILE = "best-loss.keras"
HISTORY_FILE = "training_history.csv"
CURVES_FILE = "live.png"


def cosine_decay(learning_rate: float, epochs: int) -> Callable[[int], float]:
    """A learning rate that falls from `learning_rate` towards 0 along half a cosine over `epochs` epochs.

    Source: Loshchilov & Hutter, SGDR, ICLR 2017, equation 5 without restarts.

    >>> [round(cosine_decay(1.0, epochs=4)(epoch), 3) for epoch in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    """
    return lambda epoch: learning_rate * 0.5 * (1 + math.cos(math.pi * min(epoch / epochs, 1)))


def smooth_decay(learning_rate: float, lr_decay: float) -> Callable[[int], float]:
    """A learning rate that is multiplied by `lr_decay` every epoch.

    >>> [smooth_decay(1.0, lr_decay=0.5)(epoch) for epoch in range(3)]
    [1.0, 0.5, 0.25]
    """
    return lambda epoch: learning_rate * lr_decay**epoch


def check_monitor(monitor: str, has_validation: bool) -> None:
    """Raises `InputError` unless `monitor` is a number that a round will know.

    Keras only warns of a name it does not know, and then writes a checkpoint every epoch.
    """
    if monitor not in MONITORS:
        raise InputError(f"--monitor must be one of {', '.join(MONITORS)}. Received: {monitor}.")
    if monitor.startswith("val_") and not has_validation:
        raise InputError(
            f"--monitor {monitor} wants a split val, which the set lacks; make it with a share of val, or watch loss."
        )


class BestCheckpoint(keras.callbacks.Callback):
    """Saves a model, whole and atomically, whenever the monitored value is better than ever before.

    Unlike `keras.callbacks.ModelCheckpoint` it can save another model than the one being fitted (the whole
    classifier while only its head is fitted on stored features), and a kill leaves the last good file.

    Args:
        model_to_save: The classifier.
        path: `.keras` file to write.
        monitor: A name in `MONITORS`.
    """

    def __init__(self, model_to_save: keras.Model, path: Path, monitor: str):
        super().__init__()
        self._model_to_save, self._path, self._monitor = model_to_save, path, monitor
        self._sign = 1 if MONITORS[monitor] == "min" else -1
        self._best = math.inf

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves if better."""
        value = self._sign * logs[self._monitor]
        if value < self._best:
            self._best = value
            with whole_file(self._path) as partial:
                self._model_to_save.save(partial)


class LiveCurves(keras.callbacks.Callback):
    """Draws loss and accuracy of all epochs so far to a picture, each epoch.

    Args:
        path: PNG file to write.
        title: Title of the picture.
    """

    def __init__(self, path: Path, title: str):
        super().__init__()
        self._path, self._title = path, title
        self._history: dict[str, list[float]] = {}

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Draws."""
        for name, value in logs.items():
            self._history.setdefault(name, []).append(float(value))
        figures.draw_curves(self._history, self._path, self._title)


def build_callbacks(
    folder: Path,
    model_to_save: keras.Model,
    monitor: str = "val_loss",
    patience: int = 10,
    schedule: str = "plateau",
    learning_rate: float = 1e-3,
    epochs: int = 30,
    lr_decay: float = 0.95,
    title: str = "",
) -> list[keras.callbacks.Callback]:
    """The callbacks of one round.

    Args:
        folder: Folder of the round; gets `best-loss.keras`, `training_history.csv`, `live.png`, TensorBoard events.
        model_to_save: The whole classifier.
        monitor: What the checkpoint, the early stop and the plateau watch.
        patience: Epochs without a better monitor before the round stops.
        schedule: `"plateau"` (times 0.2 after half the patience without a better monitor), `"cosine"` or `"smooth"`.
        learning_rate: Learning rate of the first epoch (cosine).
        epochs: Epochs of the round (cosine).
        lr_decay: Factor per epoch (smooth).
        title: Title of the curves.
    """
    mode = MONITORS[monitor]
    if schedule == "plateau":
        wait = max(1, patience // 2)
        rate = keras.callbacks.ReduceLROnPlateau(monitor, factor=0.2, patience=wait, mode=mode, verbose=1)
    else:
        of_epoch = (
            cosine_decay(learning_rate, epochs) if schedule == "cosine" else smooth_decay(learning_rate, lr_decay)
        )
        rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: of_epoch(epoch))
    return [
        BestCheckpoint(model_to_save, folder / CHECKPOINT_FILE, monitor),
        rate,
        keras.callbacks.EarlyStopping(monitor, patience=patience, mode=mode, verbose=1),
        keras.callbacks.CSVLogger(folder / HISTORY_FILE),
        keras.callbacks.TensorBoard(folder, write_graph=False),
        keras.callbacks.TerminateOnNaN(),
        LiveCurves(folder / CURVES_FILE, title),
    ]
