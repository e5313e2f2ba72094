"""`resnet-zclass COMMAND ...`, the same as `python -m resnet_zclass.COMMAND ...`."""

import difflib
import importlib
import sys
from collections.abc import Sequence

from resnet_zclass import __version__
from resnet_zclass.opts import COMMANDS


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command named first in `argv`; returns its exit code.

    >>> main(["--help"])  # doctest: +ELLIPSIS
    usage: resnet-zclass {simulate,make_dataset,pretrain,train,evaluate,predict,...} [--help] ...
    0
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    usage = f"usage: resnet-zclass {{{','.join(COMMANDS)}}} [--help] ..."
    if argv[:1] == ["--version"]:
        print(f"resnet_zclass {__version__}")
        return 0
    while argv[:1] in (["--quiet"], ["--debug"]) and len(argv) > 1:
        argv = [*argv[1:], argv[0]]
    if argv[:1] in (["-h"], ["--help"]):
        print(usage)
        return 0
    name = argv[0].replace("-", "_") if argv else ""
    if name not in COMMANDS:
        guess = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f"is {guess[0]} meant? " if guess else ""
        print(f"error: {argv[0] if argv else 'no command'}: {meant}{usage}", file=sys.stderr)
        return 2
    return importlib.import_module(f"resnet_zclass.{name}").main(argv[1:])


if __name__ == "__main__":
    sys.exit(main())
