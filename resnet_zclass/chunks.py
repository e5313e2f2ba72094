"""Long NumPy work cut into chunks that run on all cores at once."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import lazy_loader as lazy

from resnet_zclass.cores import count_cores
from resnet_zclass.progress import track

threadpoolctl = lazy.load("threadpoolctl")


def map_chunks(work: Callable[[slice], None], n: int, size: int, title: str = "", threads: int | None = None) -> None:
    """Calls `work` with consecutive slices of `range(n)`, in several threads; returns when all are done.

    The matrix library is kept to one thread meanwhile: on crops its own threads cost more than they save.

    Args:
        work: Function that fills its slice of the arrays that take the result. It must let other threads run,
            as NumPy does while it computes.
        n: int >= 0, how much there is to do.
        size: int >= 1, length of a slice; the last one may be shorter.
        title: What the progress bar says; none is shown if this is empty.
        threads: How many at most, where each of them takes much memory; default one per core.

    >>> squares = [0] * 5
    >>> def fill(part):
    ...     squares[part] = [i * i for i in range(part.start, part.stop)]
    >>> map_chunks(fill, n=5, size=2)
    >>> squares
    [0, 1, 4, 9, 16]
    """
    parts = [slice(start, min(start + size, n)) for start in range(0, n, size)]
    with (
        threadpoolctl.threadpool_limits(limits=1, user_api="blas"),
        ThreadPoolExecutor(max_workers=min(count_cores(), threads or math.inf)) as pool,
    ):
        for _ in track(pool.map(work, parts), title, total=len(parts)):
            pass
