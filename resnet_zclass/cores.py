"""How many cores this process may use."""

import os


def count_cores() -> int:
    """Cores that this process may run on, which a job of a cluster may not have all of.

    >>> count_cores() >= 1
    True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
