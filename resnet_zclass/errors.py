"""What a command says and returns when its input is bad or it is interrupted."""


class InputError(ValueError):
    """Bad input or bad usage: one line that names the file or option and what to do about it.

    `main()` of every command prints it as `error: ...` and exits 2. Python callers catch it as a `ValueError`.
    """


class LostWorkerError(RuntimeError):
    """Another worker of a training on several machines is gone; the run can go on with `--resume`."""
