"""A progress bar on terminals, and silence elsewhere."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
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
    if title and console.is_terminal:
        items = rich_track(items, title, total=total, console=console, transient=True)
    yield from items


@contextlib.contextmanager
def count_up(title: str, total: float) -> Iterator[Callable[[float], None]]:
    """Yields a function that moves a bar on standard error by a part of `total`; without a `title` there is none.

    >>> with count_up("counting", total=2) as advance:
    ...     advance(0.5)
    """
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not (title and console.is_terminal):
        yield lambda amount: None
        return
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda amount: progress.advance(task, amount)
