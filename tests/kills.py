"""Kills real trainings in every way and at any moment, resumes them, and compares their end with one left alone.

    python tests/kills.py [--runs 40] [--kills 3] [--seed 0] [--folder DIR] [--json FILE]

Every training is a process of its own, a small one of two rounds on simulated beads. It is stopped `--kills` times in a
way of `WAYS`, each time at a moment drawn at random, gone on with by `--resume`, and at last let come to its end. Final
weights, best checkpoints, histories and tables must then be those of a training that nobody stopped, bit by bit, and
nothing may be left of what was begun. On a small disk (`--folder`, below a gigabyte free) a full disk is a full disk;
elsewhere files just cannot grow.
"""

import argparse
import collections
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np

ROUNDS = ("origin_model", "fine_tune_model")
SET = ["--planes", "5", "--per_class", "40", "--crop_px", "16", "--ceiling_crops", "0"]
JOB = ["--model_name", "ResNet8", "--hidden", "32", "--dropout", "0.2", "--batch_size", "16", "--no_evaluate"]
TWO_ROUNDS = ["--head_epochs", "6", "--epochs", "10", "--patience", "4", "--deterministic", "--resume", "--quiet"]
SMALL_DISK = 2**30
LARGEST_FILE = 40_000  # bytes; the model alone has more

# How a training is stopped: by a signal after some seconds, or by itself at one of the files that it writes.
SIGNALS = {"SIGINT": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}
AT_A_FILE = ("SIGKILL between files", "SIGKILL within a file", "full disk", "loss of power")
WAYS = (*SIGNALS, *AT_A_FILE)
CODES = {"SIGINT": 130, "SIGTERM": -signal.SIGTERM, "full disk": 2}  # the others: -SIGKILL


class Files:
    """In a training: counts what it does to files below a folder, and does something at one of these moments.

    Args:
        folder: The folder.
        moment: At which of them; None: never.
        act: What is done then.
    """

    EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree")

    def __init__(self, folder, moment=None, act=None):
        self._folder, self._moment, self._act, self.count = str(folder), moment, act, 0
        self.synced = {}
        sync = os.fsync

        def note_sync(descriptor):
            sync(descriptor)
            found = os.fstat(descriptor)
            self.synced[found.st_ino] = found.st_mtime_ns

        os.fsync = note_sync
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR) if event == "open" else event in self.EVENTS
        if not writes or not str(args[0]).startswith(self._folder):
            return
        self.count += 1
        if self.count == self._moment:
            self._act(self)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fill_disk(folder):
    """Lets no file grow any more: by ballast on a small disk, else by a limit of this process."""
    if shutil.disk_usage(folder).free < SMALL_DISK:
        with contextlib.suppress(OSError), (folder / "ballast").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))
    else:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, LARGEST_FILE))


def start(words, folder, way=None, moment=None, delay_s=0.0):
    """Forks a training; returns its process number. Its words go to `log`, what it did to files to `files.json`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1), os.dup2(log, 2)

        def note(files):
            (folder / "files.json").write_text(json.dumps({"count": files.count, "synced": files.synced}))

        acts = {
            "SIGKILL between files": lambda files: die(),
            "SIGKILL within a file": lambda files: threading.Timer(delay_s, die).start(),
            "full disk": lambda files: fill_disk(folder),
            "loss of power": lambda files: [note(files), die()],
        }
        files = Files(folder / "runs", moment, acts.get(way))
        from resnet_zclass import train

        code = train.main(words)
        note(files)
    finally:
        os._exit(code)


def finish(pid):
    """Waits for a training; returns its exit code, below 0 for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def stop(words, folder, way, rng, seconds, n_files):
    """Trains until it is stopped in one way, in `seconds` or at one of `n_files` at most; returns the exit code.

    That is 0 if it came to its end before.
    """
    began = time.time_ns()
    moment = int(rng.integers(1, n_files + 1)) if way in AT_A_FILE else None
    pid = start(words, folder, way, moment, float(rng.uniform(0, 0.02)))
    if way in SIGNALS:
        ends = time.monotonic() + float(rng.uniform(0, seconds))
        while time.monotonic() < ends:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.002)
        os.kill(pid, SIGNALS[way])
    code = finish(pid)
    (folder / "ballast").unlink(missing_ok=True)
    if way == "loss of power" and code:
        lose_power(folder, began, rng)
    return code


def lose_power(folder, began, rng):
    """Cuts off every file that was written since a process began, and not brought to the disk."""
    synced = json.loads((folder / "files.json").read_text())["synced"]
    for path in filter(Path.is_file, (folder / "runs").rglob("*")):
        found = path.stat()
        if found.st_mtime_ns >= began and synced.get(str(found.st_ino)) != found.st_mtime_ns:
            os.truncate(path, int(rng.choice([0, found.st_size // 2])))


def tell_progress(run_path):
    """Where a run will go on, such as `2:3` for epoch 3 of round 2."""
    from resnet_zclass.training_state import count_epochs

    if (run_path / "model.keras").is_file():
        return "end"
    done = [count_epochs(run_path / name) for name in ROUNDS]
    return f"2:{done[1] + 1}" if done[1] else f"1:{done[0] + 1}"


def read_weights(path):
    """All arrays of a `.keras` file, and its comment, which holds the score of a best checkpoint."""
    arrays = {}
    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as weights:
        weights.visititems(lambda name, item: arrays.update({name: item[()]} if isinstance(item, h5py.Dataset) else {}))
        return arrays, archive.comment


def list_differences(run_path, whole_path):
    """What of a run is not as in one that nobody stopped; empty if nothing."""
    odd = []
    for name in ("model.keras", *(f"{name}/best-loss.keras" for name in ROUNDS)):
        (mine, comment), (other, other_comment) = (read_weights(path / name) for path in (run_path, whole_path))
        same = mine.keys() == other.keys() and all(np.array_equal(mine[key], other[key]) for key in mine)
        odd += [name] if not same or comment != other_comment else []
    for name in (
        "split.csv",
        "classes.csv",
        "crops.json",
        "calibration.json",
        *(f"{r}/training_history.csv" for r in ROUNDS),
    ):
        odd += [name] if (run_path / name).read_bytes() != (whole_path / name).read_bytes() else []
    hidden = [path.name for path in [*run_path.parent.glob(".*"), *run_path.rglob(".*"), *run_path.rglob("state_*")]]
    return odd + [f"left: {name}" for name in hidden]


def make_job(folder):
    """Makes a set and a model to begin with; returns the words of a training but its name."""
    from resnet_zclass import simulate, train

    pid = os.fork()
    if not pid:
        code = simulate.main(["--data_path", str(folder / "set"), *SET, "--quiet"])
        source = ["--save_logs_path", str(folder), "--run_name", "source", "--epochs", "1", "--quiet"]
        os._exit(code or train.main(["--data_path", str(folder / "set"), *JOB, *source]))
    assert finish(pid) == 0
    weights = ["--weights", str(folder / "source" / "model.keras")]
    return ["--data_path", str(folder / "set"), "--save_logs_path", str(folder / "runs"), *JOB, *TWO_ROUNDS, *weights]


def run_campaign(folder, runs, kills, seed):
    """Stops and resumes trainings; returns a row for every run."""
    job = make_job(folder)
    began = time.monotonic()
    assert finish(start([*job, "--run_name", "whole"], folder)) == 0, (folder / "log").read_text()
    seconds, n_files = time.monotonic() - began, json.loads((folder / "files.json").read_text())["count"]
    print(f"left alone: {seconds:.1f} s, {n_files} moments at files", flush=True)
    rows, ways = [], [WAYS[(seed + i) % len(WAYS)] for i in range(runs * kills)]
    for number in range(runs):
        rng, row, path = np.random.default_rng([seed, number]), {"run": number, "stops": []}, folder / "runs" / "run"
        words = [*job, "--run_name", "run"]
        for way in ways[number * kills : (number + 1) * kills]:
            left = 1 - 0.3 * len(row["stops"])  # of a training that goes on less is left
            code = stop(words, folder, way, rng, left * seconds, max(1, int(left * n_files)))
            if code == 0:
                break  # it came to its end before
            expected = code == CODES.get(way, -signal.SIGKILL)
            said = "" if expected else f" ({code}: {(folder / 'log').read_text()[-300:]})"
            row["stops"].append([way, tell_progress(path), said])
        code = finish(start(words, folder))
        odd = (
            [f"resume: {code}: {(folder / 'log').read_text()[-300:]}"]
            if code
            else list_differences(path, path.with_name("whole"))
        )
        row["odd"] = odd + [said for *_, said in row["stops"] if said]
        rows.append(row)
        print(
            number,
            "; ".join(f"{way}, goes on at {at}" for way, at, _ in row["stops"]),
            row["odd"] or "same",
            flush=True,
        )
        shutil.rmtree(path, ignore_errors=True)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--kills", type=int, default=3, help="of every run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; default a temporary folder")
    parser.add_argument("--json", type=Path, help="file for the rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as tmp:
        rows = run_campaign(Path(tmp).resolve(), options.runs, options.kills, options.seed)
    counts = collections.Counter(way for row in rows for way, *_ in row["stops"])
    odd = collections.Counter(way for row in rows if row["odd"] for way, *_ in row["stops"])
    for way in WAYS:
        print(f"{way:<24}{counts[way]:>5} stops, {odd[way]} in a run with another end")
    print(f"{len(rows)} runs, {counts.total()} stops, {sum(bool(row['odd']) for row in rows)} runs with another end")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["odd"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
