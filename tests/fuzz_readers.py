"""Damages files at random and reads them: a value or an `InputError` must come of it, and nothing else.

`PYTHONPATH=. python tests/fuzz_readers.py tiff --minutes 10 --keep found`; the readers are those of
`fuzz_seeds.READERS`, or all. Files are read in forked processes, so that a crash of compiled code, an endless loop and
a flood of memory are known by their input.
"""

import argparse
import json
import mmap
import os
import random
import resource
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

from fuzz_seeds import READERS, HugeClaimError, Reader, attempt
from mutators import mutate

from resnet_zclass.errors import InputError
from resnet_zclass.memory import limit_memory

MAX_CLAIM = 2**27  # bytes; with more there is nothing to learn but how slow the machine is
LIMIT_S = 10
LIMIT_BYTES = 2 * 2**30  # of memory that grows
ROOM_BYTES = 2 * LIMIT_BYTES  # more than that a process does not get
CLAIM = "claims memory"
KEPT = 3  # inputs of each finding


def fuzz(name: str, n: int = 10**9, minutes: float = 1e9, seed: int = 0, keep: Path | None = None) -> dict:
    """Reads damaged files with a reader until `n` are read or the time is up.

    Args:
        name: Key of `READERS`.
        n: Number of files.
        minutes: Time.
        seed: Seed of all damage; a file depends on it and its number alone.
        keep: Folder for the inputs of findings.

    Returns:
        `execs`, `minutes`, and the numbers of files by what they did: `findings`, and `claims` of memory, for which it
        takes a limit of what a file may be.
    """
    reader, began, findings = READERS[name], time.monotonic(), {}
    reader.load()
    # In memory where that is possible; a reader that writes beside its file has a folder to itself.
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    try:
        (folder / "seeds").mkdir()
        if _in_child(lambda: reader.write(folder / "seeds")) != 0:
            raise RuntimeError(f"the seeds of {name} cannot be written")
        seeds = {path.name: path.read_bytes() for path in sorted((folder / "seeds").iterdir())}
        done, told = 0, began
        while done < n and time.monotonic() - began < 60 * minutes:
            stop = min(n, done + reader.batch)
            deadline = began + 60 * minutes
            done, found = _read_batch(reader, seeds, seed, done, stop, folder / "work", deadline)
            for number, path, words in found:
                numbers = findings.setdefault(words, [])
                numbers.append(number)
                if keep and len(numbers) <= KEPT and path.is_file():
                    keep.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, keep / f"{name}-{seed}-{number}-{path.name}")
            if time.monotonic() - told > 30:
                told = time.monotonic()
                print(f"{name}: {done} execs, {done / (told - began):.0f}/s, {len(findings)} findings", flush=True)
    finally:
        shutil.rmtree(folder)
    claims = {words: findings.pop(words) for words in list(findings) if words.startswith(CLAIM)}
    minutes = round((time.monotonic() - began) / 60, 2)
    return {"execs": done, "minutes": minutes, "findings": findings, "claims": claims}


def make_input(seeds: dict[str, bytes], seed: int, number: int) -> tuple[str, bytes]:
    """The name and content of a damaged file."""
    rng = random.Random(f"{seed}/{number}")
    name = rng.choice(list(seeds))
    return name, mutate(seeds[name], rng)


def judge(reader: Reader, path: Path) -> str:
    """What is wrong with how a file is read, in a line; empty if nothing is."""
    words = ""
    try:
        with limit_memory(MAX_CLAIM / 2**30):
            reader.read(path)
    except InputError as error:
        words = "" if str(error).strip() else "InputError without words"
    except HugeClaimError as error:
        words = f"{CLAIM} in {_place(error)}"
    except BaseException as error:
        words = f"{type(error).__name__} in {_place(error)}"
    grown = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - _base_bytes
    return f"{CLAIM} and gets it ({path.name})" if grown > LIMIT_BYTES else words


def _place(error: BaseException) -> str:
    """The innermost line of the package that an error, or its cause, came through."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/resnet_zclass/" in frame.filename] or frames
    return f"{Path(own[-1].filename).name}:{own[-1].lineno} {own[-1].name}"


_base_bytes = 0


def _read_batch(reader: Reader, seeds: dict, seed: int, start: int, stop: int, work: Path, deadline: float) -> tuple:
    """Reads files `start` to `stop` in one process; returns the next number, and what was found."""
    global _base_bytes
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    status = mmap.mmap(-1, 16)
    status[:] = struct.pack("<Qd", start, time.monotonic())
    report = work / "report.jsonl"

    def run() -> None:
        global _base_bytes
        pages = Path("/proc/self/statm").read_text().split()
        resource.setrlimit(resource.RLIMIT_AS, (int(pages[0]) * mmap.PAGESIZE + ROOM_BYTES,) * 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        _base_bytes = int(pages[1]) * mmap.PAGESIZE
        for number in range(start, stop):
            name, data = make_input(seeds, seed, number)
            path = work / str(number) / name
            path.parent.mkdir()
            path.write_bytes(data)
            status[:] = struct.pack("<Qd", number, time.monotonic())
            if words := judge(reader, path):
                with report.open("a") as file:
                    file.write(json.dumps([number, name, words]) + "\n")
                if "gets it" in words:  # its peak is that of the process
                    status[:] = struct.pack("<Qd", number + 1, time.monotonic())
                    return
            else:
                shutil.rmtree(path.parent)
            if time.monotonic() > deadline:
                break
        status[:] = struct.pack("<Qd", number + 1, time.monotonic())

    child = _fork(run)
    ended, words = 0, ""
    while not ended:
        time.sleep(0.02)
        ended, code = os.waitpid(child, os.WNOHANG)
        number, since = struct.unpack("<Qd", status[:])
        if not ended and time.monotonic() - since > LIMIT_S:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ended, words = child, f"hangs for over {LIMIT_S} s"
        elif ended and code:
            words = f"dies of signal {os.WTERMSIG(code)}" if os.WIFSIGNALED(code) else f"ends with {code >> 8}"
    number, _ = struct.unpack("<Qd", status[:])
    lines = report.read_text().splitlines() if report.is_file() else []
    found = [(number, work / str(number) / name, words) for number, name, words in map(json.loads, lines)]
    if words:
        path = work / str(number) / make_input(seeds, seed, number)[0]
        if not (reader.guard and isinstance(attempt(reader.guard, path), InputError)):
            found.append((number, path, f"{words} ({path.name})"))
        number += 1
    return number, found


def _in_child(call) -> int:
    return os.waitpid(_fork(call), 0)[1]


def _fork(call) -> int:
    """Starts a process that does something and ends, without what ends of processes do, such as the end of pytest."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if not os.environ.get("FUZZ_SHOW"):
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)
        call()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def main() -> int:
    """Fuzzes a reader, or all of them one after the other; 1 if anything is found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reader", choices=[*READERS, "all"])
    parser.add_argument("--minutes", type=float, default=1e9)
    parser.add_argument("--execs", type=int, default=10**9, help="number of files")
    parser.add_argument("--quick", action="store_true", help="a quarter of a batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the inputs of findings")
    parser.add_argument("--one", type=Path, help="only read this file, with all it prints")
    options = parser.parse_args()
    if options.one:
        READERS[options.reader].read(options.one)
        return 0
    found = False
    for name in READERS if options.reader == "all" else [options.reader]:
        n = READERS[name].batch // 4 if options.quick else options.execs
        result = fuzz(name, n, options.minutes, options.seed, options.keep)
        found |= bool(result["findings"])
        print(f"{name}: {result['execs']} execs in {result['minutes']} min, {len(result['findings'])} findings")
        for words, numbers in (result["findings"] | result["claims"]).items():
            print(f"  {words} [{len(numbers)} times, first {numbers[:3]}]")
    return int(found)


if __name__ == "__main__":
    sys.exit(main())
