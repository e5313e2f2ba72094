"""Files and folders that are written whole or not at all."""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from resnet_zclass.errors import InputError


@contextlib.contextmanager
def whole_folder(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields an empty folder that takes the name `path` when the block ends well and vanishes when it does not.

    The folder is filled under a hidden name beside `path`, so a run killed half-way never leaves half a
    folder under the real name.

    Args:
        path: The folder to make. Its parents are made too.
        overwrite: Whether an existing, non-empty folder is replaced.

    Raises:
        InputError: If `path` holds something already and `overwrite` is false.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with whole_folder(Path(tmp) / "set") as folder:
    ...         _ = (folder / "a.txt").write_text("a")
    ...     os.listdir(Path(tmp) / "set")
    ['a.txt']
    """
    path = Path(path).absolute()
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file, not a folder; choose another name.")
    if path.exists() and any(path.iterdir()) and not overwrite:
        raise InputError(f"{path} exists already; choose another name or give --overwrite.")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{path.name}.partial-", dir=path.parent))
    partial.chmod(0o755)
    try:
        yield partial
        if path.exists():
            shutil.rmtree(path)
        partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextlib.contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """Yields a path to write to; the file takes the name `path` only when the block ends well.

    The temporary name keeps the suffix of `path`, since writers choose the format by it.

    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     with whole_file(Path(tmp) / "a.txt") as partial:
    ...         _ = partial.write_text("a")
    ...     (Path(tmp) / "a.txt").read_text()
    'a'
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
