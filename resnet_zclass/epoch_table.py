"""What a training says while it goes on: a table with trends on a terminal, a line per epoch elsewhere."""

import math
import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from resnet_zclass.backend import keras
from resnet_zclass.pace import Pace

SHOWN_SHARE = 0.005  # of the time of a training that may go into its table
LEVELS = "▁▂▃▄▅▆▇█"
PLAIN_LEVELS = "_.-=+*#@"  # where the terminal knows no others
TREND = 30  # epochs that a trend goes back


class EpochTable(keras.callbacks.Callback):
    """Tells how a round goes: on a terminal in one table that stays in place, elsewhere in a line per epoch.

    Args:
        title: What it is.
        monitor: Name of the number that tells the best epoch.
        mode: `"min"` or `"max"`: which values of it are better.
        console: Where to tell it; default standard output as it is when training begins.
    """

    def __init__(self, title: str = "", monitor: str = "val_loss", mode: str = "min", console: Console | None = None):
        super().__init__()
        self._title, self._monitor, self._mode, self._console = title, monitor, mode, console
        self._history: dict[str, list[float]] = {}
        self._live: Live | None = None
        self._pace = Pace(SHOWN_SHARE)
        self._first = self._step = 0
        self._seconds: list[float] = []
        self._began = 0.0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Opens the table, on a terminal."""
        self._console = self._console or Console()
        if self._console.is_terminal:
            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()

    def on_epoch_begin(self, epoch: int, logs: dict | None = None) -> None:
        """Starts the clock."""
        self._step, self._began = 0, time.monotonic()
        self._first = epoch if not self._seconds else self._first

    def on_train_batch_end(self, batch: int, logs: dict | None = None) -> None:
        """Counts the step; the numbers themselves stay on the device until the epoch ends."""
        self._step = batch + 1
        if self._live and self._pace.is_due():
            with self._pace.work():
                self._live.update(self._render(), refresh=True)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Takes the epoch up and tells it."""
        self._seconds.append(time.monotonic() - self._began)
        for name, value in logs.items():
            self._history.setdefault(name, []).append(float(value))
        self._step = 0
        if self._live is None:
            self._console.print(self._line(epoch), markup=False, highlight=False, soft_wrap=True)
        elif self._pace.is_due():
            with self._pace.work():
                self._live.update(self._render(), refresh=True)

    def close(self) -> None:
        """Leaves the table as it was last; a training that is broken off has to, or the cursor stays hidden."""
        if self._live:
            self._live.update(self._render(), refresh=True)
            self._live.stop()
            self._live = None

    def on_train_end(self, logs: dict | None = None) -> None:
        """Closes."""
        self.close()

    def _mode_of(self, name: str) -> str:
        return self._mode if name == self._monitor else "min" if "loss" in name else "max"

    def _line(self, epoch: int) -> str:
        numbers = [f"{name} {values[-1]:.4g}" for name, values in self._history.items()]
        mark = "  best" if find_best(self._history.get(self._monitor, []), self._mode) == len(self._seconds) - 1 else ""
        return f"epoch {epoch + 1}/{self.params['epochs']}  {self._seconds[-1]:.1f} s  {'  '.join(numbers)}{mark}"

    def _render(self) -> Group:
        done, epochs, steps = self._first + len(self._seconds), self.params["epochs"], self.params["steps"]
        words = f"{self._title}  epoch {min(done + (self._step > 0), epochs)}/{epochs}".strip()
        words += f", step {self._step}/{steps}" if self._step else ""
        if self._seconds:
            each = sum(self._seconds[-10:]) / len(self._seconds[-10:])
            words += f"; {each:.1f} s an epoch, {format_time(each * (epochs - done))} left"
        table = Table()
        for head in ("", "now", "best", "at epoch"):
            table.add_column(head, justify="left" if not head else "right", no_wrap=True)
        table.add_column("trend", no_wrap=True)
        levels = LEVELS if (self._console.encoding or "").lower().startswith("utf") else PLAIN_LEVELS
        for name, values in self._history.items():
            best = None if name == "learning_rate" else find_best(values, self._mode_of(name))
            cells = ("", "") if best is None else (f"{values[best]:.4g}", str(self._first + best + 1))
            style = "bold" if name == self._monitor else ""
            table.add_row(name, f"{values[-1]:.4g}", *cells, draw_trend(values, levels), style=style)
        return Group(Text(words), table)


def find_best(values: Sequence[float], mode: str) -> int | None:
    """Index of the best of some values; None where there is none that is a number.

    >>> find_best([3.0, float("nan"), 1.0, 2.0], "min")
    2
    """
    known = [k for k, value in enumerate(values) if math.isfinite(value)]
    if not known:
        return None
    return (min if mode == "min" else max)(known, key=values.__getitem__)


def draw_trend(values: Sequence[float], levels: str = LEVELS, longest: int = TREND) -> str:
    """The last values as a row of blocks, from the least to the largest of them; a gap where one is no number.

    >>> draw_trend([4, 3, float("nan"), 2, 1], "12345678")
    '86 31'
    """
    values = list(values)[-longest:]
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return " " * len(values)
    low, span = min(known), (max(known) - min(known)) or 1.0
    height = len(levels) - 1
    return "".join(levels[round((v - low) / span * height)] if math.isfinite(v) else " " for v in values)


def format_time(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours too.

    >>> format_time(75), format_time(3725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
