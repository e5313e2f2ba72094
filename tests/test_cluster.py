import contextlib
import json
import socket
import subprocess
import sys
import threading
import time

import pytest

from resnet_zclass.cluster import Cluster, find_cluster, meet
from resnet_zclass.errors import InputError

TASK = {"type": "worker", "index": 1}


def tf_config(task=TASK, **jobs):
    return {"TF_CONFIG": json.dumps({"cluster": jobs, "task": task})}


def test_a_cluster_without_a_chief_is_led_by_its_first_worker():
    cluster = find_cluster(tf_config(worker=["a:1", "b:1", "c:1"]))
    assert cluster == Cluster(("a:1", "b:1", "c:1"), index=1)
    assert not cluster.is_chief


@pytest.mark.parametrize(("task", "index"), [({"type": "chief", "index": 0}, 0), ({"type": "worker", "index": "1"}, 2)])
def test_a_chief_counts_before_the_workers(task, index):
    assert find_cluster(tf_config(task, chief=["c:1"], worker=["a:1", "b:1"])) == Cluster(("c:1", "a:1", "b:1"), index)


@pytest.mark.parametrize(
    "environment", [{}, {"TF_CONFIG": ""}, tf_config({"type": "worker", "index": 0}, worker=["a:1"])]
)
def test_one_worker_is_no_cluster(environment):
    assert find_cluster(environment) is None


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TF_CONFIG": "{"}, "TF_CONFIG is malformed"),
        ({"TF_CONFIG": "[]"}, "TF_CONFIG is malformed"),
        ({"TF_CONFIG": '{"cluster": {"worker": ["a:1", "b:1"]}}'}, "KeyError: 'task'"),
        (tf_config({"type": "worker", "index": 2}, worker=["a:1", "b:1"]), "task 2 of 2"),
        (tf_config({"type": "worker", "index": -1}, worker=["a:1", "b:1"]), "task -1 of 2"),
        (tf_config({"type": "boss", "index": 0}, worker=["a:1", "b:1"]), "KeyError: 'boss'"),
        (tf_config(worker=["a:1", "b:1"], ps=["p:1"]), "no use for tasks ps"),
        (tf_config(worker=["a:1", "b:1"], chief=["c:1", "d:1"]), "names 2 chiefs"),
        (tf_config(worker=["a:1", "b"]), "address is host:port. Received: b."),
        (tf_config(worker=["a:1", "b:x"]), "address is host:port. Received: b:x."),
        (tf_config(worker=["a:1", "b:99999"]), "address is host:port. Received: b:99999."),
        (tf_config(worker=["a:1", "b:0"]), "address is host:port. Received: b:0."),
        ({"WORKER_HOSTS": "a:1,b:1", "WORKER_INDEX": "²"}, "Received: ²."),
        (tf_config(worker=["a:1", "a:1"]), "names a:1 twice"),
        ({"WORKER_HOSTS": "a:1,b:1"}, "WORKER_INDEX must say which"),
        ({"WORKER_HOSTS": "a:1,b:1", "WORKER_INDEX": "2"}, "Received: 2."),
        ({"WORKER_HOSTS": "a:1,,b:1", "WORKER_INDEX": "0"}, "WORKER_HOSTS: a worker's address is host:port"),
    ],
)
def test_what_describes_no_cluster_is_refused_by_name(environment, message):
    with pytest.raises(InputError, match=r"^(TF_CONFIG|WORKER_HOSTS)") as raised:
        find_cluster(environment)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    "own", [{"WORKER_INDEX": "1"}, {"JOB_COMPLETION_INDEX": "1"}, {"HOSTNAME": "trainer-1"}, {"HOSTNAME": "a-b-1"}]
)
def test_pods_know_their_place_in_the_list_of_hosts(own):
    assert find_cluster({"WORKER_HOSTS": "t-0.s:2222, t-1.s:2222"} | own) == Cluster(("t-0.s:2222", "t-1.s:2222"), 1)


def test_slurm_is_asked_only_within_a_step_of_several_tasks():
    def read_slurm():
        return ("n1:1", "n2:1"), 1

    assert find_cluster({"SLURM_STEP_NUM_TASKS": "2"}, read_slurm) == Cluster(("n1:1", "n2:1"), 1)
    assert find_cluster({"SLURM_STEP_NUM_TASKS": "1"}, read_slurm) is None
    assert find_cluster({"SLURM_NTASKS": "2"}, read_slurm) is None  # a batch script outside srun is one process


@pytest.fixture
def addresses():
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in sockets)


def meet_all(addresses, facts, timeout_s=10.0, indices=None):
    """What `meet` raised at each of several workers that come one after the other; None where it raised nothing."""
    said = {}

    def take_part(place, index):
        try:
            said[place] = meet(Cluster(addresses, index), facts[index], timeout_s)
        except InputError as error:
            said[place] = str(error)

    indices = range(len(addresses)) if indices is None else indices
    threads = [threading.Thread(target=take_part, args=pair) for pair in enumerate(indices)]
    for thread in reversed(threads):  # the chief comes last
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return [said[place] for place in range(len(threads))]


def test_workers_that_want_the_same_meet(addresses):
    assert meet_all(addresses, [{"--batch_size": "16", "data": "ab"}] * 3) == [None] * 3


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"--seed": "1", "data": "ab"}, "has --seed 1, the chief 0"),
        ({"--seed": "0", "data": "cd"}, "has data cd, the chief ab"),
        ({"--seed": "0"}, "has data nothing, the chief ab"),
        ({"--seed": "0", "data": "ab", "--more": "1"}, "has --more 1, the chief nothing"),
    ],
)
def test_a_worker_that_wants_something_else_is_named_to_all(addresses, other, message):
    own = {"--seed": "0", "data": "ab"}
    said = meet_all(addresses, [own, own, other])
    assert f"worker 2 ({addresses[2]}) {message}" in said[0]
    assert said == [said[0]] * 3


def test_a_worker_that_does_not_come_is_named_to_all(addresses):
    said = meet_all(addresses, [{}] * 3, timeout_s=1.0, indices=[0, 2])
    assert said[0] == said[1] == f"worker 1 ({addresses[1]}) did not join within 1 s; start all workers."


def test_a_chief_that_does_not_come_is_named(addresses):
    (said,) = meet_all(addresses, [{}] * 3, timeout_s=1.0, indices=[1])
    assert f"the chief ({addresses[0]}) did not answer worker 1" in said


def test_two_processes_of_one_number_are_refused(addresses):
    said = meet_all(addresses, [{}] * 3, indices=[0, 1, 1])
    assert all("two processes say that they are worker 1" in line for line in said)


def test_what_is_no_worker_is_passed_over(addresses):
    host, port = addresses[0].split(":")
    thread = threading.Thread(target=meet, args=(Cluster(addresses[:2], 0), {}, 10.0))
    thread.start()
    for noise in (
        b"GET / HTTP/1.0\r\n\r\n",
        b"[1]\n",
        b'{"index": 7}\n',
        b'{"index": "1"}\n',
        b'{"index": true}\n',
        b"[" * 9999,
        b"",
    ):
        for _ in range(100):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(noise)
                break
            time.sleep(0.05)
    meet(Cluster(addresses[:2], 1), {}, 10.0)
    thread.join(10)
    assert not thread.is_alive()


def test_a_worker_that_comes_again_before_all_are_there_is_taken(addresses):
    host, port = addresses[0].split(":")
    said = []
    chief = threading.Thread(target=lambda: said.append(meet(Cluster(addresses, 0), {}, 10.0)))
    chief.start()
    time.sleep(0.3)
    with socket.create_connection((host, int(port))) as gone:
        gone.sendall(b'{"index": 1, "facts": {}}\n')
        time.sleep(0.3)
    again = threading.Thread(target=meet, args=(Cluster(addresses, 1), {}, 10.0))
    again.start()
    time.sleep(0.3)
    meet(Cluster(addresses, 2), {}, 10.0)
    for thread in (chief, again):
        thread.join(10)
        assert not thread.is_alive()
    assert said == [None]


def test_a_port_that_is_taken_is_named(addresses):
    with socket.create_server(("", int(addresses[1].split(":")[1]))):
        (said,) = meet_all(addresses, [{}] * 3, timeout_s=1.0, indices=[1])
    assert f"worker 1 ({addresses[1]}) cannot listen at its port" in said


@pytest.mark.parametrize(
    ("seconds", "code", "said"), [(60, 1, ["error: too late; start all workers again with --resume."]), (0, 0, [])]
)
def test_what_takes_too_long_ends_the_process_with_one_line(seconds, code, said):
    program = (
        "import time\nfrom resnet_zclass.cluster import give_up_after\n"
        f"with give_up_after(1, 'too late'):\n    time.sleep({seconds})\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert done.returncode == code
    assert done.stderr.splitlines() == said
