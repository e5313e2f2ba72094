"""A progress bar on terminals, and silence elsewhere."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], title: str, total: int | None = None) -> Iterator[Item]:
    """Yields `items`, with a bar on standard error while they last; without a `title` there is none.

    >>> list(track([1, 2], "counting"))
    [1, 2]
    """
    from rich.console import Console
    from rich.progress import track as rich_track

    console = Console(stderr=True)
    hidden = not (title and console.is_terminal)
    yield from rich_track(items, title, total=total, console=console, disable=hidden, transient=True)
