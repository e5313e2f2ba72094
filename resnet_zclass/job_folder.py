"""A folder with one part per input, filled by many workers, that a job which is started again goes on with."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from resnet_zclass.dask_jobs import LOCAL, count_local_workers, map_tasks, open_client
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_replaceable, read_json, whole_file
from resnet_zclass.memory import given_limit_gb, limit_memory
from resnet_zclass.progress import count_up

# Readers of a folder of parts pass over names that begin so, and `*.csv` does not look into folders.
RECORD_FOLDER = "_job"
JOB_FILE = f"{RECORD_FOLDER}/job.json"  # which run and which options the parts belong to
DONE_FILE = f"{RECORD_FOLDER}/done.jsonl"  # which inputs are done, as they were then
FAILED_FILE = f"{RECORD_FOLDER}/failed.csv"


@dataclasses.dataclass(frozen=True)
class Input:
    """What one part is made from.

    Attributes:
        name: What it is called in results; different for every input.
        files: Its files, absolute.
        part_path: File or folder that its part is written to, absolute.
    """

    name: str
    files: tuple[Path, ...]
    part_path: Path

    def stamp(self) -> list[list[int]]:
        """Size and time of change of its files; empty if one cannot be looked at."""
        try:
            facts = [file.stat() for file in self.files]
        except OSError:
            return []
        return [[fact.st_size, fact.st_mtime_ns] for fact in facts]


@dataclasses.dataclass(frozen=True)
class Summary:
    """How a job went.

    Attributes:
        counts: What the task returned for each input that is done, now or before, by name.
        n_skipped: How many were done before.
        failed: One line for each input that failed, by name.
    """

    counts: dict[str, int]
    n_skipped: int
    failed: dict[str, str]


class JobFolder:
    """The parts of one job and the record of what is done.

    Args:
        path: The folder; it is made if it is not there.
        facts: What the parts depend on besides their inputs, for JSON.
        overwrite: Whether to start anew.

    Raises:
        InputError: If the folder holds something else, or parts that depend on other facts.
    """

    def __init__(self, path: str | Path, facts: Mapping[str, Any], overwrite: bool = False) -> None:
        self.path = Path(path).absolute()
        self._facts = json.loads(json.dumps(facts))
        known = read_facts(self.path)
        if known is None or overwrite:
            check_replaceable(self.path, overwrite, mark=JOB_FILE)
        elif known != self._facts:
            raise InputError(f"{path} {_tell_difference(known, self._facts)}; give --overwrite or another name.")
        self._is_anew = known is not None and overwrite

    def name_inputs(self, files: Mapping[str, Sequence[Path]], suffix: str = "") -> list[Input]:
        """The inputs of these names and files, each with a part of its own that ends in `suffix`."""
        absolute = {name: tuple(Path(file).absolute() for file in of) for name, of in files.items()}
        return [
            Input(name, of, self.path / f"{_name_part(os.path.normpath(of[0]))}{suffix}")
            for name, of in absolute.items()
        ]

    def read_done(self) -> dict[str, tuple[list, int]]:
        """Stamp and count of every input that is done, by the name of its part."""
        done: dict[str, tuple[list, int]] = {}
        if self._is_anew:
            return done
        with contextlib.suppress(FileNotFoundError), (self.path / DONE_FILE).open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError, TypeError):  # the line at which an earlier job was killed
                    name, stamp, count = json.loads(line)
                    done[name] = stamp, count
        return done

    def work_through(
        self,
        task: Callable[[Input, int | None], int],
        inputs: Sequence[Input],
        title: str,
        scheduler: str,
        workers: int | None = None,
    ) -> Summary:
        """Runs `task` for the inputs that are not done yet, on the workers of a scheduler.

        Args:
            task: Function of an input, and of the threads that it may compute with (None: those of its worker), that
                writes the part and returns a count, 0 where there is nothing to write.
            inputs: All inputs of the job.
            title: What it does, in a word.
            scheduler: As in `dask_jobs.open_client`.
            workers: Of the local cluster; default one per core.

        Raises:
            InputError: If every input failed.
        """
        done = self.read_done()
        counts = {
            i.name: done[i.part_path.name][1]
            for i in inputs
            if (was := done.get(i.part_path.name))
            and was[0] == i.stamp() != []
            and (i.part_path.exists() or not was[1])
        }
        n_skipped, failed = len(counts), {}
        todo = [i for i in inputs if i.name not in counts]
        if n_skipped:
            print(f"skipped: {n_skipped} of {len(inputs)} inputs, which are done and have not changed", flush=True)
        if todo:
            for item, stamp, count, reason in self._run(task, todo, title, scheduler, workers):
                if reason:
                    failed[item.name] = reason
                else:
                    counts[item.name] = count
                    self._record(item, stamp, count)
        self._write_failed(failed)
        others = set(done) - {i.part_path.name for i in inputs}
        if n_others := sum((self.path / name).exists() for name in others):
            print(f"note: {self.path} holds the parts of {n_others} other inputs too, of earlier jobs.")
        if failed and not counts:
            name, reason = next(iter(failed.items()))
            raise InputError(f"all {len(inputs)} inputs failed; the first: {name}: {reason}")
        return Summary({i.name: counts[i.name] for i in inputs if i.name in counts}, n_skipped, failed)

    def _start(self, todo: Sequence[Input]) -> None:
        """Makes the folder; removes parts that are to be written again, so that none of an older input is left."""
        if self._is_anew:  # now that workers are there; what was done before is gone only then
            shutil.rmtree(self.path)
            self._is_anew = False
        (self.path / RECORD_FOLDER).mkdir(parents=True, exist_ok=True)
        with whole_file(self.path / JOB_FILE) as partial:
            partial.write_text(json.dumps(self._facts, indent=2) + "\n", encoding="utf-8")
        done = self.path / DONE_FILE
        if done.is_file() and not done.read_bytes().endswith(b"\n"):
            with done.open("ab") as file:  # an earlier job was killed in the middle of a line
                file.write(b"\n")
        for item in todo:
            shutil.rmtree(item.part_path) if item.part_path.is_dir() else item.part_path.unlink(missing_ok=True)

    def _run(self, task: Callable, todo: Sequence[Input], title: str, scheduler: str, workers: int | None):
        """Yields `(input, stamp, count, reason)` as they are done, and says how far it is."""
        n_workers, threads = count_local_workers(workers, len(todo))
        work = _Task(task, threads if scheduler == LOCAL else None, given_limit_gb())
        stamps, n_failed = {item.name: item.stamp() for item in todo}, 0
        step = max(1, len(todo) // 10)
        with open_client(scheduler, n_workers) as client, count_up(title, total=len(todo)) as advance:
            self._start(todo)
            for n, (item, count, reason) in enumerate(map_tasks(client, work, todo, title), start=1):
                reason = reason.replace(str(item.files[0]), item.name)
                advance(1)
                n_failed += bool(reason)
                if reason:
                    print(f"warning: {item.name} failed: {reason}", file=sys.stderr, flush=True)
                if not sys.stderr.isatty() and (n % step == 0 or n == len(todo)):
                    print(f"{title}: {n} of {len(todo)}, {n_failed} failed", flush=True)
                yield item, stamps[item.name], count, reason

    def _record(self, item: Input, stamp: list, count: int) -> None:
        with (self.path / DONE_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps([item.part_path.name, stamp, count]) + "\n")

    def _write_failed(self, failed: Mapping[str, str]) -> None:
        (self.path / FAILED_FILE).unlink(missing_ok=True)
        if failed:
            write_failed(self.path / FAILED_FILE, failed)


@dataclasses.dataclass(frozen=True)
class _Task:
    """A task with the threads and memory it may use; workers import its class."""

    task: Callable[[Input, int | None], int]
    threads: int | None
    limit_gb: float | None

    def __call__(self, item: Input) -> int:
        with limit_memory(self.limit_gb):
            return self.task(item, self.threads)


def write_failed(path: str | Path, failed: Mapping[str, str]) -> None:
    """Writes the table `file,error` of inputs that failed."""
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "error"), *failed.items()])


def read_facts(path: str | Path) -> dict[str, Any] | None:
    """What the parts in a folder depend on; None if it is not the folder of a job.

    Raises:
        InputError: If the record is damaged.
    """
    path = Path(path) / JOB_FILE
    if not path.is_file():
        return None
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove the folder.") from error


def _name_part(name: str) -> str:
    """A name for the part of an input, different for every input and fit for every file system.

    >>> _name_part("day 1/_a.tif")
    'part-_a-dc8a2865'
    """
    stem = re.sub(r"[^\w.+-]+", "_", Path(name).stem).encode(errors="replace")[:100].decode(errors="ignore")
    return f"part-{stem}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:8]}"


def _tell_difference(known: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    """How a job differs from the one that a folder belongs to.

    >>> _tell_difference({"run": "a", "crop_px": 32}, {"run": "a", "crop_px": 24})
    'belongs to a job with crop_px 32, not 24'
    """
    key = next(key for key in {**known, **facts} if known.get(key) != facts.get(key))
    return f"belongs to a job with {key} {known.get(key)}, not {facts.get(key)}"
