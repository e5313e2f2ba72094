"""Files and folders that are written whole or not at all."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from resnet_zclass.errors import InputError

CLOCK_S = 2.0  # by which the times of files and of processes may be apart
LONG_NAME = 120  # bytes; file systems take 255
LOCK_WRITTEN_S = 1.0  # a lock that is made says within this time whose it is


@contextlib.contextmanager
def whole_folder(path: str | Path, overwrite: bool = False, mark: str = "") -> Iterator[Path]:
    """Yields an empty folder that takes the name `path` when the block ends well and vanishes when it does not.

    The folder is filled under a hidden name beside `path`, and is on the disk, not in a cache of it, when it takes its
    name: neither a process that is killed nor a loss of power leaves half a folder under the real name.

    Args:
        path: The folder to make. Its parents are made too.
        overwrite: Whether an existing, non-empty folder is replaced.
        mark: Name of a file by which such a folder is known to be of the kind that may be replaced.

    Raises:
        InputError: If `path` holds something already and `overwrite` is false, or it lacks the mark.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with whole_folder(Path(tmp) / "set") as folder:
    ...         _ = (folder / "a.txt").write_text("a")
    ...     os.listdir(Path(tmp) / "set")
    ['a.txt']
    """
    path = Path(path).absolute()
    if path.is_symlink():  # which stays, with what it points to replaced
        path = path.resolve()
    _bring_back(path)
    check_replaceable(path, overwrite, mark)
    with _parents_of(path):
        partial = _partial_path(path)
        partial.mkdir()
        try:
            yield partial
            for made in [*partial.rglob("*"), partial]:
                sync(made)
            _swap(partial, path)
            sync(path.parent)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _swap(partial: Path, path: Path) -> None:
    """Gives `partial` the name `path`; what had it goes, at no time half of it."""
    if not path.exists():
        partial.rename(path)
        return
    old = _partial_path(path.with_name(f"{path.name}.old"))
    with contextlib.suppress(OSError):
        os.utime(path)  # or it would look older than this process, and so like somebody else's leftover
    try:
        path.rename(old)
        partial.rename(path)
    except BaseException:
        if not path.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)  # files that others hold open on network drives go later


def _bring_back(path: Path) -> None:
    """Gives a folder its name again if the process that was replacing it was killed between the two renames."""
    start = _start_of_partial(path.with_name(f"{path.name}.old"))
    for old in path.parent.glob(f"{glob.escape(start)}*.old"):
        if not path.exists() and _is_left(old):
            old.rename(path)


@contextlib.contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Makes the folders above `path`; those that it made go again, if empty, when the block fails.

    Raises:
        InputError: If the block may not write there.
        OSError: If the disk is full or fails; it names `path` instead of what lies hidden beside it.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.lstat(path)  # before anything is written that could not have its name
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InputError(f"{path} cannot be written ({error.strerror}); choose another name.") from error
        yield
    except BaseException as error:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError) and error.errno and str(path.with_name(_start_of_partial(path))) in str(error):
            reason = os.strerror(error.errno)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise OSError(error.errno, reason, str(path)) from error
            raise InputError(f"{path} cannot be written ({reason}); choose another name.") from error
        raise


def check_replaceable(path: str | Path, overwrite: bool = False, mark: str = "") -> None:
    """Raises `InputError` unless `whole_folder` may write to `path`; arguments as there."""
    path = Path(path).absolute()
    for folder in (path, *path.parents):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file, not a folder; choose another name.")
    if not path.exists() or not any(path.iterdir()):
        return
    if not overwrite:
        raise InputError(f"{path} exists already; choose another name or give --overwrite.")
    if mark and not (path / mark).is_file():
        raise InputError(f"{path} has no {mark}, so it holds something else than what is written; choose another name.")


def check_output(path: str | Path, overwrite: bool = False) -> None:
    """Raises `InputError` unless a file may be written to `path`."""
    path = Path(path).absolute()
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the name of a file.")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; choose another name or give --overwrite.")
    for folder in path.parents:
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{path}: {folder} is a file, not a folder; choose another name.")


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to; the file takes the name `path` only when the block ends well.

    Its parents are made too, and removed again when it does not. The temporary name keeps the suffix of `path`,
    since writers choose the format by it. The file is on the disk, not in a cache of it, when it takes its name:
    not even a loss of power leaves a broken one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with whole_file(Path(tmp) / "a.txt") as partial:
    ...         _ = partial.write_text("a")
    ...     (Path(tmp) / "a.txt").read_text()
    'a'
    """
    path = Path(path).absolute()
    with _parents_of(path):
        partial = _partial_path(path)
        try:
            yield partial
            sync(partial)
            partial.replace(path)
            sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    if os.name == "nt":  # which cannot do so with folders
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_json(path: str | Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: If it cannot be opened.
        InputError: If it is no JSON in UTF-8, or nested too deeply.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file ({error}); bring it back, or remove it.") from error


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone_at(path: str | Path) -> Iterator[None]:
    """Lets no other process into such a block for the same path, which need not exist.

    What a process that was killed left behind, there or below, is removed, where it ran on this machine.

    Raises:
        InputError: If another process is there.
    """
    path = Path(path).absolute()
    lock, host = path.with_name(f".{path.name}.lock"), socket.gethostname()
    with _parents_of(path):
        while not _write_lock(lock, f"{host} {os.getpid()}"):
            owner, _, pid = (words := _read_lock(lock)).partition(" ")
            if words and not (
                owner == host and pid.isdigit() and (int(pid) == os.getpid() or _is_gone(int(pid), lock))
            ):
                raise InputError(
                    f"{path} is being written by process {pid} on {owner}; wait for it. If it is gone, remove {lock}."
                )
            _remove_lock(lock, words)
        partials = f"*{glob.escape(_of_partials())}*"
        _remove_left([*path.parent.glob(f"{glob.escape(_start_of_partial(path))}*"), *path.rglob(partials)])
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _write_lock(lock: Path, words: str) -> bool:
    """Makes the file `lock`, which says whose it is; whether there was none before."""
    try:
        with lock.open("x") as file:
            file.write(words)
        sync(lock)
    except FileExistsError:
        return False
    return True


def _read_lock(lock: Path) -> str:
    """What a lock says; empty if it is gone, or its owner was killed before it could say anything."""
    words, ends = "", time.monotonic() + LOCK_WRITTEN_S
    while lock.is_file() and not words and time.monotonic() < ends:
        time.sleep(0.01)
        with contextlib.suppress(FileNotFoundError):
            words = lock.read_text()
    return words


def _remove_lock(lock: Path, words: str) -> None:
    """Removes a lock whose owner is gone, unless another process has put its own in its place meanwhile."""
    mine = lock.with_name(f"{lock.name}.{os.getpid()}")
    with contextlib.suppress(FileNotFoundError):
        lock.rename(mine)
        mine.unlink() if mine.read_text() == words else mine.rename(lock)


def _partial_path(path: Path) -> Path:
    """A hidden name beside `path` for this process; what processes that were killed left under theirs is removed."""
    start = _start_of_partial(path)
    own = path.with_name(f"{start}{os.getpid()}{path.suffix}")
    _remove_left(path.parent.glob(f"{glob.escape(start)}*"), own)
    return own


def _start_of_partial(path: Path) -> str:
    stem = path.stem
    if len(os.fsencode(stem)) > LONG_NAME:  # which would be too long with more
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    return f".{stem}{_of_partials()}"


def _of_partials() -> str:
    return f".partial-{socket.gethostname()}-"


def _remove_left(partials: Iterable[Path], own: Path | None = None) -> None:
    """Removes what processes that were killed left of these partial files and folders, and `own` if it is there."""
    for left in partials:
        if left == own or _is_left(left):
            is_folder = left.is_dir() and not left.is_symlink()
            shutil.rmtree(left, ignore_errors=True) if is_folder else left.unlink(missing_ok=True)


def _is_left(partial: Path) -> bool:
    """Whether a hidden file or folder is of a process that is gone."""
    pid = partial.name.rpartition(_of_partials())[2].partition(".")[0]
    return pid.isdigit() and _is_gone(int(pid), partial)


def _is_gone(pid: int, left: Path) -> bool:
    """Whether the process that wrote a file has ended; its number may be another's by now."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    with contextlib.suppress(FileNotFoundError):
        return _read_start(pid) > left.stat().st_mtime + CLOCK_S
    return True


def _read_start(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 where the system does not say."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        lines = Path("/proc/stat").read_text().splitlines()
        booted = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
        return booted + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, StopIteration):
        return 0.0
