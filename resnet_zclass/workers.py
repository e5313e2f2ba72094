"""A training by several processes: they meet, compare what they are to do, and one of them writes."""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import resnet_zclass as rz
from resnet_zclass.cluster import Cluster, meet
from resnet_zclass.cores import count_cores
from resnet_zclass.errors import InputError, LostWorkerError
from resnet_zclass.files import alone_at, hash_file
from resnet_zclass.loader import Dataset
from resnet_zclass.memory import given_limit_gb
from resnet_zclass.options import TrainOptions
from resnet_zclass.opts import save_options

# What may differ between workers: where things lie on their machines, and what only the chief does.
OWN_OPTIONS = ("data_path", "save_logs_path", "run_name", "overwrite", "workers")
SENT = (".keras", ".npz", ".toml", ".csv", ".json")  # of a run that is gone on with
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
# What a worker runs. On Linux it is told when the process that started it is gone.
_START = """
import contextlib, ctypes, runpy, signal, sys
with contextlib.suppress(Exception):
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
sys.argv[0] = "resnet_zclass.train"
runpy.run_module("resnet_zclass.train", run_name="__main__")
"""
LEAVE_S = 30  # for the other workers to end by themselves after one has failed


@contextlib.contextmanager
def take_part(
    cluster: Cluster | None,
    run_path: Path,
    begun: bool,
    facts: dict[str, str],
    multiGPU: bool,
    gpus: int | None,
    join_timeout_s: float,
) -> Iterator[tuple[Path, bool]]:
    """Trains in the block with all devices of this process, and with the other workers of a cluster if there is one.

    All workers do the same and come to the same; the chief alone writes the run, the others into a folder that is
    removed, and say nothing. A run that is gone on with is sent to them.

    Args:
        cluster: Of which this process is a worker; else None.
        run_path: Folder of the run.
        begun: Whether the run is there and gone on with, as the chief sees it.
        facts: What must be equal at all workers, see `list_facts`.
        multiGPU: Whether to use more than one device where there is no cluster.
        gpus: Devices of each process; None: all there are.
        join_timeout_s: How long to wait for other workers, in seconds.

    Yields:
        The folder to write to, and whether the run is gone on with.

    Raises:
        InputError: If a worker does not join or wants something else, or another process writes the same run.
        LostWorkerError: If another worker is gone.
    """
    with contextlib.ExitStack() as stack:
        if cluster is None or cluster.is_chief:
            stack.enter_context(alone_at(run_path))
        if cluster:
            print(f"waiting for {len(cluster.addresses)} workers; this is {cluster.name(cluster.index)}", flush=True)
            meet(cluster, facts, join_timeout_s)
        if cluster and not cluster.is_chief:
            folder = stack.enter_context(
                tempfile.TemporaryDirectory(prefix="resnet_zclass-", ignore_cleanup_errors=True)
            )
            run_path = Path(folder) / run_path.name
            stack.enter_context(contextlib.redirect_stdout(stack.enter_context(Path(os.devnull).open("w"))))
        stack.enter_context(rz.distribute.use_devices(multiGPU, gpus, cluster, join_timeout_s))
        sent = rz.distribute.share_bytes(_pack(run_path) if begun and rz.distribute.is_chief() else b"")
        if cluster and not cluster.is_chief:
            begun = _unpack(sent, run_path)
        yield run_path, begun


def _pack(run_path: Path) -> bytes:
    """All files of a run that going on with it needs; nothing without several workers."""
    if rz.distribute.count_workers() == 1:
        return b""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for path in run_path.rglob("*"):
            if path.suffix in SENT and not path.name.startswith("."):
                file.write(path, path.relative_to(run_path))
    return packed.getvalue()


def _unpack(sent: bytes, run_path: Path) -> bool:
    """Writes what the chief sent; whether it sent anything."""
    if sent:
        with zipfile.ZipFile(io.BytesIO(sent)) as file:
            file.extractall(run_path)
    return bool(sent)


def list_facts(options: TrainOptions, data: Dataset) -> dict[str, str]:
    """What must be equal at all workers of a training: options, data, versions; each in a word or number."""
    wanted = {k: v for k, v in dataclasses.asdict(options).items() if k not in OWN_OPTIONS}
    facts = {f"--{name}": json.dumps(value) for name, value in wanted.items()}
    rows = data.items[["file", "page", "label", "group", "split", "digest"]].astype(str).to_numpy()
    if Path(options.weights).is_file():
        facts["the file of --weights"] = hash_file(options.weights)[:16]
    facts["data"] = hashlib.sha256("\n".join("\t".join(row) for row in rows).encode()).hexdigest()[:16]
    versions = {"resnet_zclass": rz, "Keras": rz.backend.keras, "TensorFlow": rz.backend.tf}
    return facts | {name: module.__version__ for name, module in versions.items()}


def launch_workers(options: TrainOptions) -> None:
    """Trains with `options.workers` processes on this machine, which meet as those of several machines do.

    Each gets its share of the processor's cores and of the GPUs.

    Raises:
        InputError: If there are GPUs, but fewer than workers, or a worker failed because of its input.
        LostWorkerError: If a worker was killed.
        SystemExit: If the chief failed, which has said why.
    """
    with (
        tempfile.TemporaryDirectory(prefix="resnet_zclass-", ignore_cleanup_errors=True) as folder,
        contextlib.ExitStack() as stack,
    ):
        save_options(Path(folder) / "opts.toml", dataclasses.replace(options, workers=1))
        command = [sys.executable, "-c", _START, "--opts", str(Path(folder) / "opts.toml")]
        if (limit_gb := given_limit_gb()) is not None:
            command += ["--max_memory", str(limit_gb)]
        is_quiet = getattr(sys.stdout, "name", "") == os.devnull  # --quiet, which the chief would not know of
        reports = [None, *(Path(folder) / f"worker{i}.txt" for i in range(1, options.workers))]
        workers = [
            subprocess.Popen(
                command,
                env=environment | {"TMPDIR": folder},  # what killed workers leave goes with it
                stderr=stack.enter_context(report.open("w")) if report else None,
                stdout=subprocess.DEVNULL if report or is_quiet else None,
                start_new_session=True,  # Ctrl-C comes to this process, which passes it on
            )
            for environment, report in zip(share_machine(options.workers), reports, strict=True)
        ]
        first = _wait(workers)
        if first is None:
            return
        code = workers[first].returncode
        name = f"worker {first}" if first else "the chief"
        if code < 0:
            raise LostWorkerError(f"{name} was ended by {signal.Signals(-code).name}; --resume goes on.")
        if first == 0:
            raise SystemExit(code)
        if code == 130:
            raise LostWorkerError(f"{name} was interrupted; --resume goes on.")
        said = reports[first].read_text().splitlines() or [f"it ended with {code}"]
        raise (InputError if code == 2 else LostWorkerError)(f"{name}: {said[-1].removeprefix('error: ')}")


def share_machine(n: int) -> list[dict[str, str]]:
    """The environment of each of n workers: addresses on this machine, its cores, its GPUs."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    shares = {"TF_NUM_INTRAOP_THREADS": str(max(1, count_cores() // n))}
    gpus = [str(i) for i in range(rz.backend.count_gpus())]
    if gpus and len(gpus) < n:
        raise InputError(f"--workers {n}: TensorFlow sees {len(gpus)} GPUs here, and every worker wants one.")
    environments = []
    for index in range(n):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        own = {"CUDA_VISIBLE_DEVICES": ",".join(gpus[index::n])} if gpus else {}
        environments.append(os.environ | shares | own | {"TF_CONFIG": json.dumps(config)})
    return environments


def _wait(workers: list[subprocess.Popen]) -> int | None:
    """Waits for all to end; returns the number of the first that failed, or None. None of them is left behind."""

    def stop(*_):
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in _ENDING}
    first, deadline = None, None
    try:
        while None in [worker.poll() for worker in workers]:
            failed = [i for i, worker in enumerate(workers) if worker.returncode]
            if failed and first is None:
                first, deadline = failed[0], time.monotonic() + LEAVE_S
            if deadline and time.monotonic() > deadline:
                break
            time.sleep(0.1)
        return next((i for i, worker in enumerate(workers) if worker.returncode), None) if first is None else first
    except KeyboardInterrupt:
        _end(workers, signal.SIGINT)
        raise SystemExit(130) from None  # the chief has said it
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _end(workers, signal.SIGTERM)


def _end(workers: list[subprocess.Popen], how: signal.Signals) -> None:
    """Ends those that still run: asked every other second, since some of what they do swallows it, then by force."""
    asked, deadline = -math.inf, time.monotonic() + LEAVE_S
    while None in [worker.poll() for worker in workers]:
        now = time.monotonic()
        if now > asked + 2:
            for worker in workers:
                worker.send_signal(how if now < deadline else signal.SIGKILL)  # to no effect where it has ended
            asked = now
        time.sleep(0.05)
