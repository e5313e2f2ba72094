"""Where the time of a round goes: its parts are timed where they stand, and a table at its end says what they took."""

import contextlib
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from resnet_zclass.backend import has_gpu, keras, tf
from resnet_zclass.files import whole_file

PROFILE_FILE = "profile.json"
TRACED_STEPS = (2, 11)  # first and last training step of a round in the trace; the first one compiles
MEANWHILE = ("load", "augment", "mix")  # done by threads of tf.data, while the step before is computed


class Clock:
    """Adds up what parts take, from any thread.

    Attributes:
        seconds: Seconds of every part so far.
        calls: How often each was timed.

    >>> clock = Clock()
    >>> with clock.time("load"):
    ...     pass
    >>> clock.calls
    {'load': 1}
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._lock, self._begun = threading.Lock(), time.perf_counter()

    @contextlib.contextmanager
    def time(self, part: str) -> Iterator[None]:
        """Counts the block to a part."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begun
                self.calls[part] = self.calls.get(part, 0) + 1

    def wrap(self, part: str, function: Callable | None) -> Callable | None:
        """The function, whose calls count to a part; None stays None."""
        if function is None:
            return None

        @functools.wraps(function)
        def timed(*args: Any, **keywords: Any) -> Any:
            with self.time(part):
                return function(*args, **keywords)

        return timed

    def rows(self) -> list[dict[str, Any]]:
        """What every part took since the clock was made: `part, seconds, share, calls, meanwhile`.

        Those that were not done meanwhile add up to the last of them, `total`; what no part was timed of is `rest`.
        """
        total = time.perf_counter() - self._begun
        own = {part: seconds for part, seconds in self.seconds.items() if part not in MEANWHILE}
        named = dict(sorted(own.items(), key=lambda item: -item[1]))
        named |= {"rest": total - sum(own.values()), "total": total}
        named |= {part: self.seconds[part] for part in MEANWHILE if part in self.seconds}
        return [
            {
                "part": part,
                "seconds": seconds,
                "share": seconds / total,
                "calls": self.calls.get(part),
                "meanwhile": part in MEANWHILE,
            }
            for part, seconds in named.items()
        ]


class TimedCrops:
    """Crops whose reading counts to the part `load`.

    Args:
        crops: Array `(N, ...)` or anything indexed like it.
        clock: What counts.
    """

    def __init__(self, crops: Any, clock: Clock):
        self._crops, self._clock = crops, clock
        self.shape, self.dtype = crops.shape, crops.dtype

    def __len__(self) -> int:
        return len(self._crops)

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        with self._clock.time("load"):
            return self._crops[indices]


def time_callbacks(callbacks: Sequence[keras.callbacks.Callback], clock: Clock) -> None:
    """Lets what callbacks do at the end of an epoch and of the training count to parts of their names."""
    for callback in callbacks:
        for event in ("on_epoch_end", "on_train_end"):
            setattr(callback, event, clock.wrap(type(callback).__name__, getattr(callback, event)))


def time_steps(model: keras.Model, clock: Clock) -> None:
    """Lets the training steps of a compiled model on one device count to parts, each step by itself.

    `wait`: for a batch; `transfer`: of it to the GPU; `compile`: the first step, which is traced and compiled;
    `compute`: all others, to their end. Steps do the same as without a clock, but the next one is not begun before.
    """

    @tf.function(jit_compile=bool(model.jit_compile), reduce_retracing=True)
    def step(batch):
        return model.train_step(batch)

    def timed_step(iterator):
        with clock.time("wait"):
            batch = next(iterator)
        with clock.time("transfer"), tf.device("GPU:0" if has_gpu() else "CPU:0"):
            batch = tf.nest.map_structure(tf.identity, batch) if has_gpu() else batch
        with clock.time("compute" if "compile" in clock.calls else "compile"):
            logs = step(batch)
            for value in logs.values():
                value.numpy()  # there only when the step is done
        return logs

    model.train_function = timed_step


def report(clock: Clock, path: Path, title: str) -> None:
    """Prints what a clock has counted as a table, and writes it to a JSON file."""
    rows = clock.rows()
    table = Table(title=title, title_justify="left")
    table.add_column("part")
    for name in ("seconds", "share", "calls", "ms per call"):
        table.add_column(name, justify="right")
    for i, row in enumerate(rows):
        calls = row["calls"]
        each = f"{1000 * row['seconds'] / calls:.2f}" if calls else ""
        name = f"meanwhile: {row['part']}" if row["meanwhile"] else row["part"]
        ends = row["part"] in ("rest", "total") or (i + 1 < len(rows) and rows[i + 1]["part"] == "rest")
        share = "" if row["meanwhile"] else f"{row['share']:.1%}"
        table.add_row(name, f"{row['seconds']:.2f}", share, str(calls or ""), each, end_section=ends)
    Console().print(table)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
