"""The workers of a training on several machines: who they are, and that all of them want the same."""

import contextlib
import dataclasses
import faulthandler
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resnet_zclass.errors import InputError

_MAX_BYTES = 1 << 20  # of what a worker says of itself
_RETRY_S = 0.5
_TELL_S = 5  # after a fault, for the others to come and hear of it


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Where the workers of a training are, and which of them this process is.

    Attributes:
        addresses: `host:port` of every worker; the first one is the chief, which writes the run.
        index: Number of this worker in them.

    >>> Cluster(("a:2222", "b:2222"), index=0).is_chief
    True
    """

    addresses: tuple[str, ...]
    index: int

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the one that writes."""
        return self.index == 0

    def name(self, index: int) -> str:
        """How messages call a worker."""
        return f"{'the chief' if index == 0 else f'worker {index}'} ({self.addresses[index]})"


def find_cluster(environment: Mapping[str, str] | None = None, read_slurm: Callable | None = None) -> Cluster | None:
    """The cluster that the environment of this process describes; None where there is none, or only one worker.

    Looks for `TF_CONFIG`; then for a step of Slurm's `srun` with several tasks; then for `WORKER_HOSTS`, a list
    `host:port,host:port`, with the number of this worker in `WORKER_INDEX`, in `JOB_COMPLETION_INDEX` (an indexed Job
    of Kubernetes) or at the end of `HOSTNAME` (a StatefulSet: `trainer-1`).

    Args:
        environment: Variables; default those of the process.
        read_slurm: Returns the addresses of the workers and the number of this one within a step of Slurm.

    Raises:
        InputError: If a variable is malformed.

    >>> find_cluster({"WORKER_HOSTS": "a:2222,b:2222", "WORKER_INDEX": "1"})
    Cluster(addresses=('a:2222', 'b:2222'), index=1)
    >>> find_cluster({}) is None
    True
    """
    environment = os.environ if environment is None else environment
    if environment.get("TF_CONFIG"):
        cluster = _parse_tf_config(environment["TF_CONFIG"])
    elif environment.get("SLURM_STEP_NUM_TASKS", "1") != "1" and read_slurm:
        cluster = Cluster(*read_slurm())
    elif environment.get("WORKER_HOSTS"):
        cluster = _parse_hosts(environment)
    else:
        return None
    return cluster if len(cluster.addresses) > 1 else None


def _parse_tf_config(text: str) -> Cluster:
    wanted = '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        kind, index = task["type"], int(task["index"])
        addresses = {job: list(jobs[job]) for job in jobs}
        if not 0 <= index < len(addresses[kind]):
            raise ValueError(f"task {index} of {len(addresses[kind])}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"TF_CONFIG is malformed ({type(error).__name__}: {error}); it must be {wanted}.") from error
    if others := set(addresses) - {"chief", "worker"}:
        raise InputError(
            f"TF_CONFIG: there is no use for tasks {', '.join(sorted(others))}; give chief and worker only."
        )
    chiefs, workers = addresses.get("chief", []), addresses.get("worker", [])
    if len(chiefs) > 1:
        raise InputError(f"TF_CONFIG names {len(chiefs)} chiefs; there is one, the other machines are workers.")
    return _check_addresses((*chiefs, *workers), index + (len(chiefs) if kind == "worker" else 0), "TF_CONFIG")


def _parse_hosts(environment: Mapping[str, str]) -> Cluster:
    addresses = tuple(word.strip() for word in environment["WORKER_HOSTS"].split(","))
    ordinal = re.search(r"-(\d+)$", environment.get("HOSTNAME", ""))
    named = environment.get("WORKER_INDEX") or environment.get("JOB_COMPLETION_INDEX") or (ordinal and ordinal[1])
    if not (named and re.fullmatch("[0-9]+", named) and int(named) < len(addresses)):
        raise InputError(
            f"WORKER_HOSTS names {len(addresses)} workers; WORKER_INDEX must say which of them, from 0, this one is. "
            f"Received: {named}."
        )
    return _check_addresses(addresses, int(named), "WORKER_HOSTS")


def _check_addresses(addresses: tuple[str, ...], index: int, source: str) -> Cluster:
    for address in addresses:
        found = re.fullmatch(r"([^\s:/]{1,253}|\[[0-9a-fA-F:]+\]):([0-9]{1,5})", str(address))
        if not found or not 0 < int(found[2]) < 65536:
            raise InputError(f"{source}: a worker's address is host:port. Received: {address}.")
        if addresses.count(address) > 1:
            raise InputError(f"{source} names {address} twice; every worker has an address of its own.")
    return Cluster(addresses, index)


def meet(cluster: Cluster, facts: Mapping[str, str], timeout_s: float) -> None:
    """Waits until all workers are there, and sees to it that all say the same of themselves.

    The chief listens at its address, before TensorFlow does; the others tell it their facts and hear its verdict.

    Args:
        cluster: The workers.
        facts: What must be equal everywhere: names of options and the like, and their values.
        timeout_s: How long to wait for the others.

    Raises:
        InputError: If a worker does not come in time, comes twice, or has other facts; all workers hear of it.
    """
    deadline = time.monotonic() + timeout_s
    with _listen(cluster.name(cluster.index), cluster.addresses[cluster.index]):
        pass  # TensorFlow is to listen there later, and says little if it cannot
    if cluster.is_chief:
        _gather(cluster, facts, deadline, timeout_s)
    else:
        _report(cluster, facts, deadline, timeout_s)


def _gather(cluster: Cluster, facts: Mapping[str, str], deadline: float, timeout_s: float) -> None:
    """The chief's part of `meet`."""
    numbers = range(1, len(cluster.addresses))
    present: dict[int, socket.socket] = {}
    faults: list[str] = []
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(_listen(cluster.name(0), cluster.addresses[0]))
        while len(_drop_gone(present)) < len(numbers):
            listener.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = stack.enter_context(listener.accept()[0])
            except TimeoutError:
                missing = ", ".join(cluster.name(index) for index in numbers if index not in present)
                faults.append(f"{missing} did not join within {timeout_s:g} s; start all workers.")
                break
            said = _receive(connection, min(deadline, time.monotonic() + 10))
            if said is None or type(said.get("index")) is not int or said["index"] not in numbers:
                connection.close()  # something else that tried the port
                continue
            if said["index"] in _drop_gone(present):
                faults.append(f"two processes say that they are {cluster.name(said['index'])}; each has its own index.")
                _send(connection, {"fault": faults[0]})
            else:
                present[said["index"]] = connection
                faults += _compare(cluster, said["index"], facts, said.get("facts"))
            if faults:
                deadline = min(deadline, time.monotonic() + _TELL_S)
        for connection in present.values():
            _send(connection, {"fault": faults[0] if faults else ""})
    if faults:
        raise InputError(faults[0])


def _report(cluster: Cluster, facts: Mapping[str, str], deadline: float, timeout_s: float) -> None:
    """The part of the other workers in `meet`."""
    host, port = _split_address(cluster.addresses[0])
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
        except (OSError, UnicodeError) as error:
            if time.monotonic() + _RETRY_S > deadline:
                raise InputError(
                    f"{cluster.name(0)} did not answer {cluster.name(cluster.index)} within {timeout_s:g} s ({error}); "
                    "start all workers."
                ) from error
            time.sleep(_RETRY_S)
            continue
        with connection:
            _send(connection, {"index": cluster.index, "facts": dict(facts)})
            said = _receive(connection, time.monotonic() + timeout_s + 10)
        if said is not None:
            break
        if time.monotonic() > deadline:
            raise InputError(f"{cluster.name(0)} ended before all workers had joined; its own output says why.")
        time.sleep(_RETRY_S)
    if said["fault"]:
        raise InputError(said["fault"])


def _drop_gone(present: dict[int, socket.socket]) -> dict[int, socket.socket]:
    """Forgets workers that have gone since they came, perhaps to come again."""
    for index, connection in list(present.items()):
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):  # there, and waiting
            with contextlib.suppress(ConnectionError):
                connection.recv(1, socket.MSG_PEEK)
            del present[index]
    return present


def _compare(cluster: Cluster, index: int, own: Mapping[str, str], other: object) -> list[str]:
    """What differs between the chief and a worker, as errors."""
    other = {str(name): str(value) for name, value in other.items()} if isinstance(other, dict) else {}
    return [
        f"{cluster.name(index)} has {name} {_shorten(other.get(name, 'nothing'))}, the chief "
        f"{_shorten(own.get(name, 'nothing'))}; all workers must have the same."
        for name in {**own, **other}
        if own.get(name) != other.get(name)
    ]


def _shorten(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}..."


def _listen(name: str, address: str) -> socket.socket:
    dual = {"family": socket.AF_INET6, "dualstack_ipv6": True} if socket.has_dualstack_ipv6() else {}
    try:
        return socket.create_server(("", _split_address(address)[1]), **dual)
    except OSError as error:
        raise InputError(f"{name} cannot listen at its port: {error.strerror}; give it another one.") from error


def _split_address(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def _send(connection: socket.socket, message: dict) -> None:
    connection.settimeout(10)
    with contextlib.suppress(OSError):  # it has gone; whoever waits for it says so
        connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket, deadline: float) -> dict | None:
    """One message; None if none came, or something else."""
    received = b""
    try:
        while not received.endswith(b"\n") and len(received) < _MAX_BYTES:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            part = connection.recv(65536)
            if not part:
                return None
            received += part
        message = json.loads(received)
        return message if isinstance(message, dict) else None
    except (OSError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def give_up_after(timeout_s: float, words: str) -> Iterator[None]:
    """Ends the process with an error line unless the block ends in time.

    For calls into TensorFlow that hold Python back, so that neither threads nor signal handlers could do it.
    """
    code = "import select, sys; select.select([sys.stdin], [], [], float(sys.argv[1]))[0] or sys.exit(sys.argv[2])"
    line = f"error: {words}; start all workers again with --resume."
    with (
        subprocess.Popen([sys.executable, "-c", code, str(timeout_s), line], stdin=subprocess.PIPE),
        Path(os.devnull).open("w") as nowhere,
    ):
        faulthandler.dump_traceback_later(timeout_s + 1, exit=True, file=nowhere)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()
