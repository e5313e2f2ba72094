"""Completion of commands, options and their values in shells."""

import argparse
import dataclasses
import sys
import typing

import shtab

from resnet_zclass.command import command
from resnet_zclass.options import COMMANDS, CompletionOptions
from resnet_zclass.opts import POSITIONAL, preset_names

# Ends of names of options that are folders or files.
FOLDERS_AND_FILES = ("_path", "label_table", "class_names", "architecture", "documentation", "opts", "weights", "spots")
FOLDERS_AND_FILES += ("runs", "run", "inputs")


@command("completion")
def main(options: CompletionOptions) -> None:
    """Prints the script for the shell named by the options."""
    print(shtab.complete(build_parser(), options.shell))


def build_parser() -> argparse.ArgumentParser:
    """What shells complete: every command, its options, and the values of those that have a list of them.

    >>> sorted(build_parser().parse_args(["export", "--format", "onnx"])._get_kwargs())[0]
    ('format', 'onnx')
    """
    parser = argparse.ArgumentParser("resnet-zclass")
    commands = parser.add_subparsers()
    for name, options in COMMANDS.items():
        sub = commands.add_parser(name, help=options.__doc__.split("\n")[0])  # without help shtab leaves it out
        sub.add_argument("--opts", choices=preset_names()).complete = shtab.FILE
        for option in ("--quiet", "--debug", "--max_memory"):
            sub.add_argument(option, action="store_true", default=argparse.SUPPRESS)
        for field in dataclasses.fields(options):
            _add(sub, field)
    return parser


def _add(parser: argparse.ArgumentParser, field: dataclasses.Field) -> None:
    if field.type is bool:
        for option in (f"--{field.name}", f"--no_{field.name}"):
            parser.add_argument(option, action="store_true", default=argparse.SUPPRESS)
        return
    settings = {"default": argparse.SUPPRESS}
    if choices := _choices(field.type):
        settings["choices"] = choices
    if field.name in POSITIONAL:
        argument = parser.add_argument(field.name, nargs="*", **settings)
    else:
        argument = parser.add_argument(f"--{field.name}", **settings)
    if field.name.endswith(FOLDERS_AND_FILES) and not choices:
        argument.complete = shtab.FILE


def _choices(kind: object) -> list[str]:
    """The values of a `Literal`, or of one within other types.

    >>> _choices(typing.Literal["a", "b"] | None)
    ['a', 'b']
    """
    if typing.get_origin(kind) is typing.Literal:
        return [str(value) for value in typing.get_args(kind)]
    return [value for part in typing.get_args(kind) if not isinstance(part, str) for value in _choices(part)]


if __name__ == "__main__":
    sys.exit(main())
