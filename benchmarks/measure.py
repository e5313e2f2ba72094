"""What the benchmarks share: timing a command, its peak memory, and writing down what was found on which machine."""

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
    """Prints rows as a table and writes them with the machine and the versions to `benchmarks/NAME.json`."""
    table = Table(title=name, title_justify="left")
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console().print(table)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    path = Path(__file__).with_name(f"{name}.json")
    path.write_text(json.dumps({"rows": rows, **facts, "machine": machine, "versions": versions}, indent=2) + "\n")
    print(f"written to {path}")


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
