"""Commands: what `main()` does about bad input, Ctrl-C and faults (one line, an exit code), and how Python runs one."""

import contextlib
import dataclasses
import functools
import importlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from resnet_zclass.errors import InputError, LostWorkerError
from resnet_zclass.memory import limit_memory
from resnet_zclass.opts import make_options, parse_options
from resnet_zclass.ranges import check_ranges


def command(name: str) -> Callable[[Callable[[Any], None]], Callable[..., int]]:
    """Turns a function of one options object into a command's `main(argv=None)`, which returns the exit code.

    The code is 0 when done, 2 after bad usage or bad input (one line `error: ...` on stderr; the traceback too
    with `--debug`), 130 when interrupted, 1 after an error that nobody foresaw or when another worker is gone. With
    `--quiet` nothing is printed on stdout.
    """

    def wrap(body: Callable[[Any], None]) -> Callable[..., int]:
        @functools.wraps(body)
        def main(argv: Sequence[str] | None = None) -> int:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, signal.default_int_handler)  # see the package's __init__
            argv = list(sys.argv[1:] if argv is None else argv)
            debug, quiet = "--debug" in argv, "--quiet" in argv
            try:
                limit_gb, argv = take_memory(argv)
                options = parse_options(name, [word for word in argv if word not in ("--debug", "--quiet")])
                with silent_stdout() if quiet else contextlib.nullcontext(), limit_memory(limit_gb):
                    body(options)
                return 0
            except (Exception, KeyboardInterrupt) as error:
                if debug:
                    traceback.print_exc()
                code, line = _judge(error)
                print(line, file=sys.stderr)
                return code

        return main

    return wrap


def take_memory(argv: Sequence[str]) -> tuple[float | None, list[str]]:
    """Splits `--max_memory GB` off a command line.

    Raises:
        InputError: If it is no number above 0.

    >>> take_memory(["--max_memory", "8", "--seed", "1"])
    (8.0, ['--seed', '1'])
    """
    words, limits = [], []
    rest = iter(argv)
    for word in rest:
        option, sign, value = word.partition("=")
        if option.replace("-", "_") == "__max_memory":
            limits.append(value if sign else next(rest, ""))
        else:
            words.append(word)
    try:
        limit_gb = float(limits[-1]) if limits else None
        if limit_gb is not None and not limit_gb > 0:
            raise ValueError
    except ValueError as error:
        raise InputError(f"--max_memory is a number of GB above 0. Received: {limits[-1] or 'nothing'}.") from error
    return limit_gb, words


@contextlib.contextmanager
def silent_stdout() -> Iterator[None]:
    """Drops what the block prints; errors and warnings go to standard error and are seen."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def run(name: str, opts: str = "", **options: Any) -> None:
    """Runs a command from Python, with its options as keywords; errors are raised instead of told.

    Args:
        name: The command, such as `"train"`.
        opts: Preset or TOML file, as of `--opts`.
        options: Options of the command.

    Raises:
        InputError: For an unknown command or option, and for whatever the command refuses.

    >>> run("trian", data_path="train_data/mine")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: there is no command 'trian'; is train meant?
    >>> run("train", data_pth="train_data/mine")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: train has no option 'data_pth'; is data_path meant?
    """
    values = make_options(name, opts, **options)
    check_ranges(dataclasses.asdict(values))
    importlib.import_module(f"resnet_zclass.{name}").main.__wrapped__(values)


def _judge(error: BaseException) -> tuple[int, str]:
    """Exit code and the one line that is said of an error."""
    words = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return 130, f"interrupted{words and '; '}{words}"
    if isinstance(error, InputError):
        return 2, f"error: {words}"
    if isinstance(error, LostWorkerError):
        return 1, f"error: {words}"
    if isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError":
        return 2, "error: there is not enough memory; lower --batch_size, --im_size or --crop_px."
    if isinstance(error, OSError) and error.strerror:
        reason = " ".join(error.strerror.split())
        return 2, f"error: {error.filename}: {reason}" if error.filename else f"error: {reason}"
    return 1, f"error: a fault of resnet_zclass ({type(error).__name__}: {words[:300]}); --debug shows where."
