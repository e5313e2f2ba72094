"""What a command says and returns when its input is bad or it is interrupted."""

import errno
import os
from pathlib import Path

# Of the machine or the network rather than of a file: reading it again may succeed, so it is not to be called damaged.
PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EACCES,
    errno.EPERM,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
}


class InputError(ValueError):
    """Bad input or bad usage: one line that names the file or option and what to do about it.

    `main()` of every command prints it as `error: ...` and exits 2. Python callers catch it as a `ValueError`.
    """


def raise_passing(error: BaseException, path: str | Path) -> None:
    """Raises an error again, with the file's name, if it was the machine that failed and nothing is known of the file.

    >>> raise_passing(ValueError("not a zip file"), "a.npz")
    >>> raise_passing(OSError(errno.EIO, "Input/output error"), "a.npz")
    Traceback (most recent call last):
    OSError: [Errno 5] Input/output error: 'a.npz'
    """
    if isinstance(error, MemoryError):
        raise error
    if isinstance(error, OSError) and error.errno in PASSING:
        raise OSError(error.errno, os.strerror(error.errno), str(path)) from error


class LostWorkerError(RuntimeError):
    """Another worker of a training on several machines is gone; the run can go on with `--resume`."""
