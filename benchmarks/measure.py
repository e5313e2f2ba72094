"""What the benchmarks share: timing a command, its peak memory, and writing down what was found on which machine."""

import contextlib
import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

PACKAGES = ("resnet_zclass", "tensorflow", "keras", "numpy", "scikit-learn")
PEERS = ("onnxruntime", "openvino", "torch", "torchvision", "jax")  # named where they are installed


def run_command(words: list[str], cwd: Path | None = None) -> dict[str, float]:
    """Runs `python` with `words`; returns its wall and processor time in s and its peak memory in GB, of it alone.

    The memory is that of the largest child of a helper process, so every call has a helper of its own. Processor time
    counts what the command's own processes took, and hardly changes when others keep the machine busy.
    """
    code = (
        "import json, resource, subprocess, sys, time\n"
        "start = time.perf_counter()\n"
        "done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=sys.stderr)\n"
        "seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "result = {'seconds': seconds, 'cpu_seconds': used.ru_utime + used.ru_stime, 'peak_gb': used.ru_maxrss / 1e6}\n"
        "print(json.dumps(result | {'code': done.returncode}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], cwd=cwd, stdout=subprocess.PIPE, text=True)
    result = json.loads(done.stdout)
    if result.pop("code"):
        raise SystemExit(f"failed: python {' '.join(map(str, words))}")
    return result


def report(name: str, rows: list[dict], **facts: object) -> None:
    """Prints rows as a table and writes them to `benchmarks/NAME.json`, with command, machine and versions.

    Facts named `command`, `machine` or `versions` stand for these: of another machine, where the rows are from there.
    `python -m benchmarks.results` puts the tables of all these files into `RESULTS.md`.
    """
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*map(format_value, row.values()))
    Console().print(table)
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    found = {"rows": rows, "command": " ".join(["python -m", f"benchmarks.{name}", *words])}
    found |= {"machine": describe_machine(), "versions": list_versions()} | facts
    path = Path(__file__).with_name(f"{name}.json")
    path.write_text(json.dumps(found, indent=2) + "\n")
    print(f"written to {path}")


def format_value(value: object) -> str:
    """A number as tables show it.

    >>> [format_value(value) for value in (0.97312, 12345.6, 12345, "flat")]
    ['0.973', '12,346', '12,345', 'flat']
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.3g}"


def describe_machine() -> dict[str, object]:
    """Processor, cores and Python."""
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    processor = names[0] if names else platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version()}


def list_versions() -> dict[str, str]:
    """Versions of this package, of what it stands on, and of those peers that are installed."""
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    for package in PEERS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions


def time_epochs(seconds: list[float]) -> object:
    """A Keras callback that appends what the training steps of every epoch take, without other callbacks, in s."""
    from resnet_zclass.backend import keras

    moments = {}

    def note(name: str) -> None:
        moments[name] = time.perf_counter()

    return keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: note("begin"),
        on_train_batch_end=lambda batch, logs: note("end"),
        on_epoch_end=lambda epoch, logs: seconds.append(moments["end"] - moments["begin"]),
    )


def peak_memory_gb() -> float:
    """Peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def median_seconds(words: list[str], repeats: int = 5) -> float:
    """Median wall time of a Python command in s; one run before it warms the disk's cache."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return sorted(times[1:])[repeats // 2]
