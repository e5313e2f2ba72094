"""Reads and writes the options of every command: defaults < `--opts` preset or file < flags.

A preset or options file is TOML. A file without tables holds the options of whichever command reads it (so a
run's own `opts.toml` can be given back to `train`). A preset, or a file with tables, holds `train`'s options at its
top and those of `simulate`, `make_dataset`, ... in a table of that name; a command without a table takes its defaults.
"""

import contextlib
import dataclasses
import difflib
import io
import shlex
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import tomli_w
import tyro

from resnet_zclass.errors import InputError
from resnet_zclass.options import (
    COMMANDS,
    DoctorOptions,
    EvaluateOptions,
    ExportOptions,
    MakeDatasetOptions,
    PredictOptions,
    PretrainOptions,
    ReportOptions,
    ServeOptions,
    SimulateOptions,
    TrainOptions,
)
from resnet_zclass.ranges import check_ranges

PRESETS_PATH = Path(__file__).parent / "presets"
DEFAULT_PRESET = "demo"
POSITIONAL = ("inputs", "runs", "run", "shell")  # options without a name

__all__ = [
    "COMMANDS",
    "DEFAULT_PRESET",
    "DoctorOptions",
    "EvaluateOptions",
    "ExportOptions",
    "MakeDatasetOptions",
    "PredictOptions",
    "PretrainOptions",
    "ReportOptions",
    "ServeOptions",
    "SimulateOptions",
    "TrainOptions",
    "as_command",
    "check_known",
    "list_changes",
    "load_options",
    "make_options",
    "parse_options",
    "pick",
    "preset_names",
    "require",
    "save_options",
]


def parse_options(name: str, argv: Sequence[str]) -> Any:
    """Returns the options of command `name`: defaults, then those of `--opts`, then the flags in `argv`.

    Raises:
        InputError: For an unknown option, a value of the wrong type, or an unknown preset or file.

    >>> parse_options("simulate", ["--planes", "13", "--z-step-um", "0.3"]).planes
    13
    >>> parse_options("simulate", ["--opts", "demo", "--photons", "500", "900"]).photons
    (500.0, 900.0)
    """
    source, argv = _take_opts(list(argv))
    default = load_options(name, source) if source else COMMANDS[name]()
    options = _parse(name, argv, default)
    check_ranges(dataclasses.asdict(options))
    return options


def make_options(name: str, source: str | Path = "", **options: Any) -> Any:
    """Returns the options of command `name` that keywords set, checked as flags are; else as of `source`, or defaults.

    Raises:
        InputError: For an unknown command or option, or a value of the wrong type.

    >>> make_options("make_dataset", source_path="stacks", fractions=[0.5, 0.25, 0.25]).source_path
    ('stacks',)
    >>> make_options("train", epochs=2.5)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: Error parsing --epochs: invalid literal for int() with base 10: '2.5'
    """
    check_known(str(name), COMMANDS, "there is no command")
    default = load_options(name, source) if source else COMMANDS[name]()
    names = [field.name for field in dataclasses.fields(default)]
    flags, others = {}, {}
    for key, value in options.items():
        check_known(key, names, f"{name} has no option")
        if value is None and getattr(COMMANDS[name](), key) is not None:
            raise InputError(f"{name}: {key} wants a value. Received: None.")
        if isinstance(getattr(COMMANDS[name](), key), bool) and not isinstance(value, bool):
            raise InputError(f"{name}: {key} wants True or False. Received: {value!r}.")
        if key in POSITIONAL:
            others[key] = _positional(name, key, value, getattr(default, key))
        elif value is None:
            others[key] = None
        else:
            flags[key] = [*map(_plain, value)] if isinstance(value, list | tuple) else _plain(value)
    return dataclasses.replace(_parse(name, _as_flags(flags), default), **others)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _positional(name: str, key: str, value: Any, default: Any) -> Any:
    """Text, or a tuple of texts, as the default is."""
    values = tuple(value) if isinstance(value, list | tuple) else (value,)
    is_one = not isinstance(default, tuple)
    if not all(isinstance(part, str | Path) for part in values) or (is_one and len(values) != 1):
        raise InputError(f"{name}: {key} wants {'a path' if is_one else 'paths'}. Received: {value!r}.")
    return str(values[0]) if is_one else tuple(map(str, values))


def load_options(name: str, source: str | Path) -> Any:
    """Returns the options of command `name` that a preset or TOML file sets; defaults where it is silent.

    Raises:
        InputError: If there is no such preset or file, or it holds what the command does not take.

    >>> load_options("simulate", "demo").planes
    13
    """
    path = _preset_or_file(str(source))
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also of text in no UTF-8, and of endless numbers
        raise InputError(f"{path} is not a TOML file: {error}") from error
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    unknown = sorted(set(tables) - set(COMMANDS))
    if unknown:
        raise InputError(f"{path}: there is no command {unknown[0]!r}; tables are named after {', '.join(COMMANDS)}.")
    top = {key: value for key, value in content.items() if key not in tables}
    whose = name if not tables and path.parent != PRESETS_PATH else "train"
    values = tables.get(name, top if name == whose else {})
    known = [field.name for field in dataclasses.fields(COMMANDS[name])]
    for key in values:
        check_known(key, known, f"{path}: {name} has no option")
    try:
        return _parse(name, _as_flags(values), COMMANDS[name]())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def check_known(name: str, known: Iterable[str], words: str) -> None:
    """Raises `InputError` with `words`, the name and the nearest of the known ones, unless it is one of them.

    >>> check_known("beed", ["bead", "yeast"], "there is no preset")
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: there is no preset 'beed'; is bead meant?
    """
    if name not in (known := list(known)):
        guess = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        raise InputError(
            f"{words} {name!r}; " + (f"is {guess[0]} meant?" if guess else f"there is {', '.join(known)}.")
        )


def save_options(path: str | Path, options: Any) -> None:
    """Writes options as TOML that `load_options` reads back. An option that is None is left out."""
    values = {key: value for key, value in dataclasses.asdict(options).items() if value is not None}
    Path(path).write_text(tomli_w.dumps(values), encoding="utf-8")


def preset_names() -> list[str]:
    """Names of the presets that come with the package.

    >>> "demo" in preset_names()
    True
    """
    return sorted(path.stem for path in PRESETS_PATH.glob("*.toml"))


def pick(options: Any, *names: str) -> dict[str, Any]:
    """The options of these names, as keywords.

    >>> pick(SimulateOptions(), "planes", "seed")
    {'planes': 39, 'seed': 0}
    """
    return {name: getattr(options, name) for name in names}


def list_changes(name: str, options: Any) -> dict[str, Any]:
    """The options of command `name` that are not as they are by default, by name.

    >>> list_changes("train", TrainOptions(flip=True))
    {'flip': True}
    """
    default = dataclasses.asdict(COMMANDS[name]())
    return {key: value for key, value in dataclasses.asdict(options).items() if value != default[key]}


def as_command(name: str, options: Any) -> str:
    """The command line that means these options.

    >>> as_command("train", TrainOptions(data_path="my beads", flip=True))
    "resnet-zclass train --data_path='my beads' --flip"
    """
    changed = {key: list(value) if isinstance(value, tuple) else value
               for key, value in list_changes(name, options).items() if value is not None}  # fmt: skip
    return " ".join(["resnet-zclass", name, *map(_quote, _as_flags(changed))])


def _quote(word: str) -> str:
    """A word as a shell takes it, with the quotes around the value of `--option=value` only."""
    option, sign, value = word.partition("=")
    return f"{option}={shlex.quote(value)}" if sign and option.startswith("--") else shlex.quote(word)


def require(options: Any, *names: str) -> None:
    """Raises `InputError` for the first of the options `names` that is empty."""
    for name in names:
        if getattr(options, name) in ("", None, ()):
            raise InputError(f"--{name} is missing.")


def _take_opts(argv: list[str]) -> tuple[str, list[str]]:
    """Splits `--opts [NAME]` off `argv`; a bare `--opts` means the default preset."""
    for i, word in enumerate(argv):
        if word == "--opts=":
            raise InputError(f"--opts= names no preset or file; the presets are {', '.join(preset_names())}.")
        if word.startswith("--opts="):
            return word.removeprefix("--opts="), argv[:i] + argv[i + 1 :]
        if word == "--opts":
            bare = i + 1 == len(argv) or argv[i + 1].startswith("--")
            return (DEFAULT_PRESET if bare else argv[i + 1]), argv[:i] + argv[i + (1 if bare else 2) :]
    return "", argv


def _preset_or_file(source: str) -> Path:
    if source in preset_names():
        return PRESETS_PATH / f"{source}.toml"
    if not Path(source).is_file():
        guess = difflib.get_close_matches(source, preset_names(), n=1)
        raise InputError(
            f"--opts: {source!r} is neither a file nor a preset; the presets are {', '.join(preset_names())}"
            + (f"; is {guess[0]} meant?" if guess else ".")
        )
    return Path(source)


def _as_flags(values: dict[str, Any]) -> list[str]:
    """Words of a command line that set `values`, so that files and flags are checked by one mechanism."""
    words = []
    for key, value in values.items():
        parts = value if isinstance(value, list) else [value]
        if key in POSITIONAL:
            words = [*map(str, parts), *words]  # first, or an option of several values takes them
        elif isinstance(value, bool):
            words.append(f"--{key}" if value else f"--no_{key}")
        elif isinstance(value, str):
            words.append(f"--{key}={value}")  # it may begin with a dash
        else:
            words += [f"--{key}", *map(str, parts)]
        is_listed = isinstance(value, list) or key in POSITIONAL
        if is_listed and any(isinstance(part, str) and part.startswith("-") for part in parts):
            raise InputError(f"{key}: names in a list cannot begin with a dash. Received: {' '.join(map(str, parts))}.")
    return words


def _parse(name: str, argv: list[str], default: Any) -> Any:
    for word in argv:
        if word != word.encode(errors="replace").decode() or "\0" in word:
            raise InputError(f"{word!a} is no text in UTF-8, which files of a run could not hold; call it otherwise.")
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                COMMANDS[name],
                prog=f"resnet-zclass {name}",
                description=(
                    f"{COMMANDS[name].__doc__}\n\n--opts PRESET|FILE.toml sets options from a preset "
                    f"({', '.join(preset_names())}) or a file; flags win over it. "
                    "--quiet prints warnings and errors alone; --debug shows tracebacks; --max_memory GB is what one "
                    "file may take when it is read, by default half of the memory there is."
                ),
                args=argv,
                default=default,
                use_underscores=True,
            )
    except SystemExit as exit_:
        if exit_.code in (0, None):
            raise
        for word in argv:
            if word.startswith("--") and f"Unrecognized options: {word}" in box.getvalue():
                names = [f"--{field.name}" for field in dataclasses.fields(COMMANDS[name])]
                check_known(word.split("=")[0].replace("-", "_").replace("__", "--", 1), names, f"{name} has no option")
        raise InputError(_message_in(box.getvalue())) from None


def _message_in(box: str) -> str:
    """The message in tyro's box of several lines, as one line, with its guess of what was meant."""
    rows = [row.strip("│| ") for row in box.splitlines() if row[:1] not in "╭╰+"]
    rules = [i for i, row in enumerate(rows) if row and set(row) <= set("─-")] or [len(rows)]
    if "╭" not in box and len(rules) > 1:  # a terminal of plain letters, where the title is a row
        rows, rules = rows[rules[0] + 1 :], [rule - rules[0] - 1 for rule in rules[1:]]
    message = " ".join(rows[: rules[0]])
    if len(rules) > 1 and rows[rules[0] + 1 :][:1] == ["Perhaps you meant:"]:
        message = f"{message.rstrip('.')}. Perhaps you meant {rows[rules[0] + 2]}."
    return message or "bad usage; see --help."
