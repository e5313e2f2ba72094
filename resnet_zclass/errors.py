"""What a command says and returns when its input is bad or it is interrupted."""

import errno

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


def is_passing(error: BaseException) -> bool:
    """Whether it was the machine that failed, so that nothing is known about the file that was read.

    >>> is_passing(OSError(errno.EIO, "Input/output error")), is_passing(ValueError("not a zip file"))
    (True, False)
    """
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in PASSING)


class LostWorkerError(RuntimeError):
    """Another worker of a training on several machines is gone; the run can go on with `--resume`."""
