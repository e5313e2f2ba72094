"""Work that is done now and then, so that it takes a given share of the time at most."""

import contextlib
import math
import time
from collections.abc import Iterator


class Pace:
    """Says when work is due again.

    Args:
        share: Share of the time that the work may take, above 0.

    >>> pace = Pace(share=0.1)
    >>> pace.is_due()
    True
    >>> with pace.work():
    ...     time.sleep(0.01)
    >>> pace.is_due()
    False
    """

    def __init__(self, share: float):
        self._share, self._due_s = share, -math.inf

    def is_due(self) -> bool:
        """Whether the work has not been done yet, or long enough ago."""
        return time.monotonic() >= self._due_s

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """The block is the work."""
        begun = time.monotonic()
        yield
        ended = time.monotonic()
        self._due_s = ended + (ended - begun) * (1 / self._share - 1)
