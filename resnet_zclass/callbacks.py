"""What happens at the end of an epoch: one callback answers one question."""

import itertools
import json
import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from resnet_zclass import distribute, metrics
from resnet_zclass.backend import keras, tf
from resnet_zclass.errors import InputError, raise_passing
from resnet_zclass.figures import draw_confusion
from resnet_zclass.files import whole_file
from resnet_zclass.gallery import AUGMENTED_FILE
from resnet_zclass.live import DRAWN_SHARE, LiveCurves
from resnet_zclass.pace import Pace
from resnet_zclass.schedules import Rates

# What a round can watch, and whether less or more of it is better.
MONITORS = {
    "val_loss": "min",
    "val_accuracy": "max",
    "val_macro_f1": "max",
    "val_samples_f1": "max",
    "val_micro_f1": "max",
    "loss": "min",
    "accuracy": "max",
}
# Those that say something only of images with several labels, or only of those with one.
SEVERAL_MONITORS = ("val_samples_f1", "val_micro_f1")
SINGLE_MONITORS = ("accuracy",)

CHECKPOINT_FILE = "best-loss.keras"
HISTORY_FILE = "training_history.csv"
CURVES_FILE = "live.png"
NAN_FILE = "nan_batch.npz"


def check_monitor(monitor: str, has_validation: bool, several: bool = False) -> None:
    """Raises `InputError` unless `monitor` is a number that a round will know.

    Keras only warns of a name it does not know, and then writes a checkpoint every epoch.

    Args:
        monitor: Name to check.
        has_validation: Whether there is a split val.
        several: Whether an image can have several labels.

    >>> check_monitor("val_macro_f1", has_validation=True)
    >>> check_monitor("val_micro_f1", has_validation=True)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --monitor val_micro_f1 is val_accuracy where images have one label; watch that.
    """
    if monitor not in MONITORS:
        raise InputError(f"--monitor must be one of {', '.join(MONITORS)}. Received: {monitor}.")
    if monitor.startswith("val_") and not has_validation:
        raise InputError(
            f"--monitor {monitor} wants a split val, which the set lacks; make it with a share of val, or watch loss."
        )
    if monitor in SEVERAL_MONITORS and not several:
        raise InputError(f"--monitor {monitor} is val_accuracy where images have one label; watch that.")
    if monitor in SINGLE_MONITORS and several:
        raise InputError(f"--monitor {monitor} says little of images with several labels; watch val_macro_f1.")


class AgreedStatistics(keras.callbacks.Callback):
    """Gives all devices the same statistics of BatchNormalization before the model is validated and saved."""

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Averages them."""
        distribute.average_statistics(self.model)


class ValidationScores(keras.callbacks.Callback):
    """Predicts the validation set once an epoch and tells all later callbacks its scores.

    Puts `val_loss`, `val_accuracy`, `val_macro_f1`, and where images have several labels `val_samples_f1` and
    `val_micro_f1` (labels: probabilities of 0.5 and more) into the `logs` of the epoch. Keras hands one and the same
    dict to its callbacks in their order, so this one comes before those that read it; `fit` gets no validation data.

    The loss is that of the probabilities, as in `metrics.json`, which Keras cuts at 1e-7. Its own `evaluate` looks
    behind a last softmax or sigmoid at the logits, and is higher where what is right has a probability below that.

    Args:
        inputs: Validation inputs, array `(N, ...)`, or anything indexed like it.
        targets: float array `(N, K)`.
        loss: Keras loss, or a function of targets and probabilities; returns the mean or a value per image.
        several: Whether an image can have several labels.
        batch_size: Inputs per step.

    Attributes:
        confusion: Confusion matrix `(K, K)` of the last epoch; None before, and where images have several labels.
    """

    def __init__(
        self,
        inputs: np.ndarray,
        targets: np.ndarray,
        loss: Callable,
        several: bool = False,
        batch_size: int = 64,
    ):
        super().__init__()
        self._inputs, self._targets = inputs, np.asarray(targets, np.float32)
        if len(inputs) != len(targets):
            raise ValueError(f"inputs and targets must be of one length. Received: {len(inputs)} and {len(targets)}.")
        self._loss, self._several, self._batch_size = loss, several, batch_size
        self.confusion: np.ndarray | None = None

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Predicts and scores."""
        probabilities = distribute.predict(self.model, self._inputs, self._batch_size)
        # Called as a whole, a Keras loss would divide by the number of devices.
        loss = self._loss.call if isinstance(self._loss, keras.losses.Loss) else self._loss
        logs["val_loss"] = float(keras.ops.mean(loss(self._targets, probabilities)))
        if self._several:
            scores = metrics.multi_label_metrics(self._targets, probabilities, thresholds=0.5)
            names = ("accuracy", "macro_f1", "samples_f1", "micro_f1")
        else:
            scores = metrics.classification_metrics(self._targets.argmax(axis=1), probabilities)
            names = ("accuracy", "macro_f1")
            self.confusion = metrics.confusion_matrix(
                self._targets.argmax(axis=1), probabilities.argmax(axis=1), self._targets.shape[1]
            )
        known = np.isfinite(probabilities).all()  # else a broken model would still have some of the classes right
        logs.update({f"val_{name}": float(scores[name]) if known else math.nan for name in names})


class BestCheckpoint(keras.callbacks.Callback):
    """Saves a model, whole and atomically, whenever the monitored value is better than ever before.

    Unlike `keras.callbacks.ModelCheckpoint` it can save another model than the one being fitted (the whole
    classifier while only its head is fitted on stored features), and a kill leaves the last good file. The file says
    how good it is, so that a training that goes on from an earlier epoch never replaces it by a worse one.

    Args:
        model_to_save: The classifier.
        path: `.keras` file to write.
        monitor: A name in `MONITORS`.
        waits: Whether a better model waits in memory until `write_best` is called or the training ends: where an
            epoch is over sooner than the file is written. Of the classifier, what is fitted alone may change then.
    """

    def __init__(self, model_to_save: keras.Model, path: Path, monitor: str, waits: bool = False):
        super().__init__()
        self._model_to_save, self._path, self._monitor, self._waits = model_to_save, path, monitor, waits
        self._sign = 1 if MONITORS[monitor] == "min" else -1
        self._best = math.inf
        self._waiting: tuple[list[np.ndarray], dict] | None = None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Takes up what a training that was interrupted has saved."""
        score = read_score(self._path)
        self._best = math.inf if score is None else self._sign * score

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Saves if better."""
        value = self._sign * logs[self._monitor]
        if value < self._best:
            self._best = value
            facts = {"epoch": epoch, self._monitor: float(logs[self._monitor])}
            if self._waits:
                self._waiting = self.model.get_weights(), facts
            else:
                self._write(facts)

    def on_train_end(self, logs: dict | None = None) -> None:
        """Writes the best model if it still waits."""
        self.write_best()

    def write_best(self) -> None:
        """Writes the best model if it still waits."""
        if self._waiting is None:
            return
        now, (best, facts) = self.model.get_weights(), self._waiting
        self.model.set_weights(best)
        self._write(facts)
        self.model.set_weights(now)
        self._waiting = None

    def _write(self, facts: dict) -> None:
        with whole_file(self._path) as partial:
            self._model_to_save.save(partial)
            with zipfile.ZipFile(partial, "a") as archive:  # a comment is in nobody's way
                archive.comment = json.dumps(facts).encode()


class StopAtNaN(keras.callbacks.Callback):
    """Stops the training as soon as the loss is no number, before anything of the epoch is written.

    What the round has left is the last good state, and the batch for whoever wants to look at it.

    Args:
        folder: Folder of the round; gets `nan_batch.npz`: `inputs`, `targets`, the `step` of each of them, `epoch`.
        batches: Function of an epoch; returns its training batches and those after it, as they were.

    Raises:
        InputError: If the loss is no number.
    """

    def __init__(self, folder: Path, batches: Callable[[int], Iterable]):
        super().__init__()
        self._folder, self._batches, self._epoch, self._done = folder, batches, 0, 0

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Counts the steps of the epoch anew."""
        self._epoch, self._done = epoch, 0

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Looks at the loss of the steps since the last look, which may be several."""
        first, self._done = self._done, batch + 1
        if math.isfinite((logs or {}).get("loss", 0.0)):
            return
        path = self._folder / NAN_FILE
        if distribute.is_chief():
            steps = list(itertools.islice(self._batches(self._epoch), first, self._done))
            inputs, targets = (np.concatenate([np.asarray(step[i]) for step in steps]) for i in (0, 1))
            numbers = np.repeat(np.arange(first, self._done) + 1, [len(step[0]) for step in steps])
            with whole_file(path) as partial:
                np.savez(partial, inputs=inputs, targets=targets, step=numbers, epoch=self._epoch + 1)
        raise InputError(
            f"{self._folder}: the loss is no number at step {self._done} of epoch {self._epoch + 1}; lower "
            f"--learning_rate, or look at the batch in {path}. What was trained before is kept."
        )


class TensorBoardPictures(keras.callbacks.Callback):
    """Shows pictures in TensorBoard: augmented images once, the confusion of the validation set now and then.

    Args:
        folder: Folder of the round, where TensorBoard's events lie.
        validation: What predicts the validation set, if there is one and images have one label.
        augmented: Picture of augmented images, if there is one.
    """

    def __init__(self, folder: Path, validation: ValidationScores | None = None, augmented: Path | None = None):
        super().__init__()
        self._folder, self._validation, self._augmented = folder, validation, augmented
        self._pace, self._writer = Pace(DRAWN_SHARE), None

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Shows the augmented images."""
        self._writer = tf.summary.create_file_writer(str(self._folder / "pictures"))
        if self._augmented is not None and self._augmented.is_file():
            self._show("augmented images", self._augmented.read_bytes(), 0)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Shows the confusion, if it is time."""
        if self._validation is None or self._validation.confusion is None or not self._pace.is_due():
            return
        with self._pace.work():
            path = self._folder / "confusion_val.png"
            names = [str(k) for k in range(len(self._validation.confusion))]
            draw_confusion(self._validation.confusion, names, path)
            self._show("confusion of split val", path.read_bytes(), epoch)
            for made in (path, path.with_suffix(".svg")):
                made.unlink()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes the file."""
        if self._writer:
            self._writer.close()

    def _show(self, name: str, png: bytes, epoch: int) -> None:
        with self._writer.as_default():
            tf.summary.image(name, tf.image.decode_png(png, channels=3)[None], step=epoch)


def read_score(checkpoint_path: Path) -> float | None:
    """The monitored value of a file that `BestCheckpoint` wrote; None if it is missing, damaged or another's."""
    try:
        with zipfile.ZipFile(checkpoint_path) as archive:
            facts = json.loads(archive.comment) if archive.testzip() is None else {}
        return next((float(value) for name, value in facts.items() if name in MONITORS), None)
    except Exception as error:  # zipfile and zlib raise a dozen kinds
        raise_passing(error, checkpoint_path)  # or a drive that was away for a moment would cost the checkpoint
        return None


def build_callbacks(
    folder: Path,
    model_to_save: keras.Model,
    monitor: str = "val_loss",
    patience: int = 10,
    rates: Rates | None = None,
    floor: float = 0.0,
    title: str = "",
    validation: ValidationScores | None = None,
    traced: tuple[int, int] | None = None,
    waits: bool = False,
    batches: Callable[[int], Iterable] | None = None,
) -> list[keras.callbacks.Callback]:
    """The callbacks of one round, in their order.

    Args:
        folder: Folder of the round; gets `best-loss.keras`, `training_history.csv`, `live.png`, TensorBoard events.
        model_to_save: The whole classifier.
        monitor: What the checkpoint, the early stop and the plateau watch.
        patience: Epochs without a better monitor before the round stops.
        rates: Learning rate as a function of the epoch, from `schedules.plan_rates`; None: the plateau, times 0.2
            after half the patience without a better monitor.
        floor: The least learning rate of the plateau.
        title: Title of the curves.
        validation: What scores the validation set, if there is one.
        traced: First and last training step of a trace for TensorBoard's profiler, if one is wanted.
        waits: Whether the best model waits in memory, see `BestCheckpoint`.
        batches: Makes the training batches once more, see `StopAtNaN`.
    """
    mode = MONITORS[monitor]
    if rates is None:
        wait = max(1, patience // 2)
        rate = keras.callbacks.ReduceLROnPlateau(monitor, factor=0.2, patience=wait, mode=mode, min_lr=floor, verbose=1)
    else:
        rate = keras.callbacks.LearningRateScheduler(lambda epoch, _: rates(epoch))
    return [
        AgreedStatistics(),
        *([validation] if validation else []),
        BestCheckpoint(model_to_save, folder / CHECKPOINT_FILE, monitor, waits),
        rate,
        keras.callbacks.EarlyStopping(monitor, patience=patience, mode=mode, verbose=1),
        keras.callbacks.CSVLogger(folder / HISTORY_FILE),
        keras.callbacks.TensorBoard(folder, write_graph=True, profile_batch=traced or 0),
        TensorBoardPictures(folder, validation, folder.parent / AUGMENTED_FILE),
        *([StopAtNaN(folder, batches)] if batches else []),
        LiveCurves(folder / CURVES_FILE, title, monitor, mode),
    ]
