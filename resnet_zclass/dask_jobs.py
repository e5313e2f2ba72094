"""One task for each of many files, on the workers of a Dask cluster: on this machine, or on those of a scheduler.

Only names of files and counts travel through the scheduler. Workers read inputs and write results themselves, so they
must see the same file system, and have this package installed. A worker process does one task at a time; if it has
several threads, these are for the task to compute with.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import multiprocessing.resource_tracker
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from resnet_zclass.cores import count_cores
from resnet_zclass.errors import InputError
from resnet_zclass.extras import check_installed, need

Client = Any  # of distributed, which is an extra
Item = TypeVar("Item")

LOCAL = "local"
CONNECT_S = 10  # until a scheduler that does not answer is given up
LOOK_S = 10  # between two looks whether there are workers, while nothing comes back
WORKERLESS_S = 60  # until a cluster of this machine whose workers are gone, and that starts none, is given up
LEAST_IN_FLIGHT = 32  # enough for Dask to hold tasks back at the scheduler and for a cluster to see that it is to grow

# Of a worker with several threads: engines serve one task, and modules that load lazily must not be loaded by two.
_ONE_AT_A_TIME = threading.Lock()

LOST = "the Dask scheduler or the connection to it was lost; start the same command again, what is done is kept."

MODULES = ("distributed", "bokeh", "pyarrow")  # of the extra `dask`


def check_scheduler(scheduler: str, workers: int | None = None) -> None:
    """Refuses what can be seen to be wrong with `--dask_scheduler` and `--dask_workers` before anything is done.

    >>> check_scheduler("", workers=4)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: --dask_workers counts the workers of --dask_scheduler local; other schedulers \
have workers of their own.
    """
    if workers is not None and scheduler != LOCAL:
        raise InputError(
            "--dask_workers counts the workers of --dask_scheduler local; other schedulers have workers of their own."
        )
    if not scheduler:
        return
    check_installed(MODULES, extra="dask")
    if scheduler != LOCAL and not Path(scheduler).is_file() and not _is_address(scheduler):
        raise InputError(
            f"--dask_scheduler is {LOCAL}, an address such as tcp://host:8786, or a scheduler file that is there. "
            f"Received: {scheduler}."
        )
    if scheduler != LOCAL and Path(scheduler).is_file() and not _has_address(Path(scheduler)):
        raise InputError(f"--dask_scheduler {scheduler} is no file of a scheduler; start one with --scheduler-file.")


def _has_address(path: Path) -> bool:
    try:
        return isinstance(json.loads(path.read_text(encoding="utf-8"))["address"], str)
    except (ValueError, LookupError, TypeError):
        return False


def count_local_workers(workers: int | None, n_tasks: int) -> tuple[int, int]:
    """How many local workers to start, and how many threads each may compute with.

    >>> count_local_workers(2, n_tasks=1)[0]
    1
    """
    cores = count_cores()
    workers = max(1, min(workers or cores, n_tasks))
    return workers, max(1, cores // workers)


@contextlib.contextmanager
def open_client(scheduler: str, workers: int = 1) -> Iterator[Client]:
    """Yields a client of a cluster and says where its dashboard is.

    Args:
        scheduler: `"local"`, for a cluster of processes on this machine that lasts as long as the block; address of a
            scheduler, or path of the file that it wrote (`dask scheduler --scheduler-file`).
        workers: Processes of the local cluster, one thread each.

    Raises:
        InputError: If the scheduler does not answer within `CONNECT_S`.
    """
    distributed = need("distributed", extra="dask")
    with contextlib.ExitStack() as stack, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Port [0-9]+ is already in use")  # another is taken, and told below
        for name in ("distributed", "distributed.client", "distributed.scheduler", "distributed.nanny"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks of what is told below in a line
        if scheduler == LOCAL:
            # By default workers sample themselves every 10 ms, a sixth of what predicting small stacks costs.
            stack.enter_context(need("dask", extra="dask").config.set({"distributed.worker.profile.interval": "100ms"}))
            with _deaf_to_interrupts():
                cluster = distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    processes=True,
                    dashboard_address="127.0.0.1:8787",
                    silence_logs=logging.CRITICAL,
                )
                stack.enter_context(cluster)
            client = stack.enter_context(distributed.Client(cluster))
        else:
            client = stack.enter_context(_connect(distributed.Client, scheduler))
        threads = client.nthreads()
        has_dashboard = "dashboard" in client.scheduler_info()["services"]
        dashboard = client.dashboard_link if has_dashboard else "none"
        print(f"dask: {len(threads)} workers, {sum(threads.values())} threads; dashboard: {dashboard}", flush=True)
        if not threads:
            print("dask: the scheduler has no workers yet; the job begins with the first", flush=True)
        yield client


def map_tasks(
    client: Client, task: Callable[[Item], Any], items: Sequence[Item], title: str
) -> Iterator[tuple[Item, Any, str]]:
    """Yields every item with what `task` returns of it, and the reason where it failed, in the order they are done.

    Tasks whose worker was lost are given to another. Tasks that lost several workers are tried again at the end, each
    alone, since it may have been a neighbour that brought the worker down.

    Args:
        client: Of a running cluster.
        task: Function that workers can import; what it raises is the item's failure and nobody else's.
        items: What it is called with.
        title: What the dashboard calls it.

    Returns:
        Iterator of `(item, result, reason)`; the reason is one line, and empty where the task succeeded.

    Raises:
        InputError: If the scheduler is lost.
    """
    name, killed = f"{title}-{uuid.uuid4().hex}", []

    def room() -> int:
        return max(LEAST_IN_FLIGHT, 4 * sum(_count_threads(client).values()))

    with contextlib.closing(_run_bounded(client, task, items, name, room)) as outcomes:
        for item, result, reason, is_killed in outcomes:
            if is_killed:
                killed.append(item)
            else:
                yield item, result, reason
    with contextlib.closing(_run_bounded(client, task, killed, f"{name}-alone", lambda: 1)) as outcomes:
        for item, result, reason, _ in outcomes:
            yield item, result, reason


def describe(error: BaseException) -> str:
    """An error in one line.

    >>> describe(InputError("a.tif is empty.")), describe(KeyError("a"))
    ('a.tif is empty.', "KeyError: 'a'")
    """
    words = " ".join(str(error).split())[:500]
    return words if isinstance(error, InputError) else f"{type(error).__name__}: {words}".removesuffix(": ")


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Keeps Ctrl-C from the processes that are started in the block; it reaches this one when the block ends.

    A terminal sends it to all of them, and workers that are interrupted print tracebacks; the client stops them itself.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    multiprocessing.resource_tracker.ensure_running()  # which would open the ears of whoever starts it
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # what is started inherits it
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _is_address(scheduler: str) -> bool:
    host, _, port = scheduler.rpartition(":")
    return bool(host.rpartition("//")[2]) and port.rstrip("/").isdigit()


def _connect(client_class: type[Client], scheduler: str) -> Client:
    where = {"scheduler_file": scheduler} if Path(scheduler).is_file() else {"address": scheduler}
    try:
        return client_class(**where, timeout=CONNECT_S)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"--dask_scheduler {scheduler}: no scheduler answers there ({describe(error)}); start one with "
            "dask scheduler, or give local."
        ) from error


def _run_bounded(
    client: Client, task: Callable[[Item], Any], items: Sequence[Item], name: str, room: Callable[[], int]
) -> Iterator[tuple[Item, Any, str, bool]]:
    """Runs tasks, at most `room()` of them at a time; yields `(item, result, reason, whether its workers died)`."""
    waiting, running = enumerate(items), {}
    finished = need("distributed", extra="dask").as_completed()
    try:
        while True:
            for i, item in itertools.islice(waiting, max(0, room() - len(running))):
                future = client.submit(_attempt, task, item, key=(name, i), pure=False)
                running[future.key] = future, item
                finished.add(future)
            if not running:
                return
            future, item = running.pop(_wait_for_one(finished, client).key)
            yield item, *_read(future)
    finally:
        if running:
            with contextlib.suppress(Exception):  # nobody waits for these any more, nor for a scheduler that is gone
                client.cancel([future for future, _ in running.values()])


def _wait_for_one(finished: Any, client: Client) -> Any:
    """The next future that is done. While there is none, looks whether anybody is there to do it."""
    looked = seen = time.monotonic()
    while not finished.has_ready():
        time.sleep(0.005)
        if time.monotonic() - looked < LOOK_S:
            continue
        looked = time.monotonic()
        if _count_threads(client):
            seen = looked
        elif client.cluster is not None and looked - seen > WORKERLESS_S:
            raise InputError(
                "all Dask workers of this machine have ended and no other could be started (see whether memory or "
                "disk are full); start the same command again, what is done is kept."
            )
        elif client.cluster is None and looked - seen < 2 * LOOK_S:
            print("dask: the scheduler has no workers; the job goes on with the next", flush=True)
    return next(finished)


def _count_threads(client: Client) -> dict[str, int]:
    try:
        return client.nthreads()
    except OSError as error:
        raise InputError(LOST) from error


def _attempt(task: Callable[[Item], Any], item: Item) -> tuple[Any, str]:
    """Runs a task on a worker. A failure is a result: else Dask would keep its traceback, and stop what waits."""
    try:
        with _ONE_AT_A_TIME:
            return task(item), ""
    except Exception as error:
        return None, describe(error)


def _read(future: Any) -> tuple[Any, str, bool]:
    """Result, reason and whether the task lost its workers; waits if the worker that had the result is lost too."""
    distributed = need("distributed", extra="dask")
    try:
        return *future.result(), False
    except distributed.KilledWorker as error:
        return None, f"every worker that it was given to died ({error.allowed_failures + 1} of them).", True
    except (distributed.CancelledError, asyncio.CancelledError) as error:
        raise InputError(LOST) from error
    except Exception as error:  # the worker could not even begin
        return None, describe(error), False
