"""Files and folders that are written whole or not at all."""

import contextlib
import glob
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from resnet_zclass.errors import InputError


@contextlib.contextmanager
def whole_folder(path: str | Path, overwrite: bool = False, mark: str = "") -> Iterator[Path]:
    """Yields an empty folder that takes the name `path` when the block ends well and vanishes when it does not.

    The folder is filled under a hidden name beside `path`, so a run killed half-way never leaves half a
    folder under the real name.

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
    check_replaceable(path, overwrite, mark)
    path = Path(path).absolute()
    with _parents_of(path):
        partial = _partial_path(path)
        partial.mkdir()
        try:
            yield partial
            _swap(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _swap(partial: Path, path: Path) -> None:
    """Gives `partial` the name `path`; what had it goes, at no time half of it."""
    if not path.exists():
        partial.rename(path)
        return
    old = _partial_path(path.with_name(f"{path.name}.old"))
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)


@contextlib.contextmanager
def _parents_of(path: Path) -> Iterator[None]:
    """Makes the folders above `path`; those that it made go again, if empty, when the block fails."""
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
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
def whole_file(path: str | Path, lasting: bool = False) -> Iterator[Path]:
    """Yields a path to write to; the file takes the name `path` only when the block ends well.

    Its parents are made too, and removed again when it does not. The temporary name keeps the suffix of `path`,
    since writers choose the format by it. With `lasting` the file is on the disk, not in a cache of it, when it takes
    its name, so that not even a loss of power leaves a broken one.

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
            if lasting:
                _sync(partial)
            partial.replace(path)
            if lasting:
                _sync(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def _sync(path: Path) -> None:
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
        raise InputError(f"{path} is no JSON file ({error}).") from error


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def alone_at(path: str | Path) -> Iterator[None]:
    """Lets no other process into such a block for the same path, which need not exist.

    What a process that was killed left behind is passed over, where it ran on this machine.

    Raises:
        InputError: If another process is there.
    """
    path = Path(path).absolute()
    lock, host = path.with_name(f".{path.name}.lock"), socket.gethostname()
    with _parents_of(path):
        while True:
            try:
                with lock.open("x") as file:
                    file.write(f"{host} {os.getpid()}")
                break
            except FileExistsError as error:
                owner, _, pid = (lock.read_text() if lock.is_file() else "").partition(" ")
                if owner == host and pid.isdigit() and (int(pid) == os.getpid() or not _is_running(int(pid))):
                    lock.unlink(missing_ok=True)
                    continue
                raise InputError(
                    f"{path} is being written by process {pid} on {owner}; wait for it. If it is gone, remove {lock}."
                ) from error
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _partial_path(path: Path) -> Path:
    """A hidden name beside `path` for this process; what processes that were killed left under theirs is removed."""
    start = f".{path.stem}.partial-{socket.gethostname()}-"
    for left in path.parent.glob(f"{glob.escape(start)}*{glob.escape(path.suffix)}"):
        pid = left.name.removeprefix(start).removesuffix(path.suffix)
        if pid.isdigit() and (int(pid) == os.getpid() or not _is_running(int(pid))):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(f"{start}{os.getpid()}{path.suffix}")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
