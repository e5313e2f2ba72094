"""Curves of a training under way: a picture in its folder and, in a notebook, one that is replaced in place."""

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass import figures
from resnet_zclass.backend import keras
from resnet_zclass.pace import Pace

DRAWN_SHARE = 0.01  # of the time of a training that may go into its pictures


class LiveCurves(keras.callbacks.Callback):
    """Draws loss, a score and the learning rate of all epochs so far, and marks the best one.

    That happens after an epoch, unless a picture has just been drawn: a hundredth of the time goes into pictures. The
    last one shows all epochs.

    The picture is written to a file; in a notebook it is shown too and replaced in place. The score is the one that
    is watched, else the macro-F1 where images have several labels, else the accuracy.

    Args:
        path: PNG file to write.
        title: Title of the picture.
        monitor: Name of the number that tells the best epoch.
        mode: `"min"` or `"max"`: which values of it are better.

    Attributes:
        history: Values of all epochs so far by their names.
    """

    def __init__(self, path: Path, title: str = "", monitor: str = "val_loss", mode: str = "min"):
        super().__init__()
        self._path, self._title, self._monitor, self._mode = path, title, monitor, mode
        self.history: dict[str, list[float]] = {}
        self._shown = None
        self._pace, self._is_drawn = Pace(DRAWN_SHARE), True

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Takes the epoch up, and draws if it is time."""
        for name, value in logs.items():
            self.history.setdefault(name, []).append(float(value))
        self._is_drawn = False
        if self._pace.is_due():
            self._draw()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Draws what is not drawn yet, and all of it as SVG too."""
        if not self._is_drawn:
            self._draw()
        self._draw_to(self._path.with_suffix(".svg"))

    def _draw(self) -> None:
        with self._pace.work():
            self._draw_to(self._path)
            self._show()
        self._is_drawn = True

    def _draw_to(self, path: Path) -> None:
        best, title = self._best_epoch(), self._title
        if best is not None:
            title += f"   best {self._monitor}: {self.history[self._monitor][best]:.4g} at epoch {best + 1}"
        figures.draw_curves(self.history, path, title.strip(), self._score(), best)

    def _best_epoch(self) -> int | None:
        values = np.array(self.history.get(self._monitor, []), float)
        values = -values if self._mode == "max" else values
        return int(np.nanargmin(values)) if np.isfinite(values).any() else None

    def _score(self) -> str:
        watched = self._monitor.removeprefix("val_")
        if watched in figures.SCORES:
            return watched
        return "macro_f1" if "val_samples_f1" in self.history else "accuracy"

    def _show(self) -> None:
        display = notebook_display()
        if display is None:
            return
        image = display.Image(data=self._path.read_bytes(), format="png", width=900)
        if self._shown is None:
            self._shown = display.display(image, display_id=True)
        else:
            self._shown.update(image)


def notebook_display() -> Any | None:
    """The module `IPython.display` if this process is the kernel of a notebook, else None.

    IPython is no dependency, and a process that has not loaded it is no kernel.

    >>> notebook_display() is None
    True
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if getattr(shell, "kernel", None) is None:
        return None
    return importlib.import_module("IPython.display")
