"""Memory: how much there is, and how much of it a file may claim before anything is allocated for it."""

import contextlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_zclass.errors import InputError

SHARE = 0.5  # of the machine's memory that one file may take where nothing else is said
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container

_limits_gb: list[float] = []  # the innermost `limit_memory` is last


def read_memory_gb() -> float:
    """Memory of this machine, or of its container, in GB; 0 where the system does not say."""
    try:
        installed_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, ValueError, OSError):
        return 0.0
    with contextlib.suppress(OSError, ValueError):
        return min(installed_gb, int(CGROUP_LIMIT.read_text()) / 2**30)
    return installed_gb


def read_free_memory_gb() -> float:
    """Memory that is free for programs in GB; 0 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) / 2**20
    except (OSError, StopIteration, ValueError):
        return 0.0


@contextlib.contextmanager
def limit_memory(limit_gb: float | None) -> Iterator[None]:
    """Sets what one file may claim in the block, for all threads; None: half of the memory there is.

    >>> with limit_memory(0.5):
    ...     check_claim(2**30, "a.tif")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: a.tif claims 1 GB of memory, more than the 0.5 GB that one file may take; cut it \
into smaller files, or allow more with --max_memory if it is what it says.
    """
    if limit_gb is not None:
        _limits_gb.append(limit_gb)
    try:
        yield
    finally:
        if limit_gb is not None:
            _limits_gb.pop()


def given_limit_gb() -> float | None:
    """What `limit_memory` set, to be handed on to other processes; None if nothing was."""
    return _limits_gb[-1] if _limits_gb else None


def check_claim(n_bytes: int, path: str | Path) -> None:
    """Raises `InputError` if a file would take more memory than one may.

    Args:
        n_bytes: What it says it holds, in bytes.
        path: The file.
    """
    limit_gb = _limits_gb[-1] if _limits_gb else SHARE * read_memory_gb() or np.inf
    if n_bytes > limit_gb * 2**30:
        raise InputError(
            f"{path} claims {n_bytes / 2**30:,.3g} GB of memory, more than the {limit_gb:.3g} GB that one file may "
            "take; cut it into smaller files, or allow more with --max_memory if it is what it says."
        )


def check_archive(path: str | Path) -> None:
    """Raises `InputError` if what a ZIP archive (`.keras`, `.npz`, `.xlsx`) holds would be too large when unpacked."""
    with contextlib.suppress(OSError, zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        check_claim(sum(member.file_size for member in archive.infolist()), path)
