import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import tifffile
from drawn import write_drawn_set

from resnet_zclass import train, workers
from resnet_zclass.command import silent_stdout
from resnet_zclass.loader import read_dataset
from resnet_zclass.memory import limit_memory
from resnet_zclass.options import TrainOptions


def start(code):
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_worker_that_fails_ends_the_others_in_time_whatever_their_order(monkeypatch):
    monkeypatch.setattr(workers, "LEAVE_S", 0.5)
    processes = [start("import time; time.sleep(60)"), start("raise SystemExit(2)")]
    begun = time.monotonic()
    assert workers._wait(processes) == 1
    assert time.monotonic() - begun < 20
    assert None not in [process.poll() for process in processes]


def test_workers_that_do_not_heed_are_ended_by_force(monkeypatch):
    monkeypatch.setattr(workers, "LEAVE_S", 0.5)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    process.stdout.readline()
    workers._end([process], signal.SIGTERM)
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL


def test_workers_that_all_end_well_are_no_failure():
    assert workers._wait([start("pass"), start("pass")]) is None


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl is of Linux")
def test_a_worker_ends_with_the_process_that_started_it():
    child = workers._START.split("sys.argv[0]")[0] + "import time; print('up', flush=True); time.sleep(60)"
    code = (
        "import subprocess, sys, time\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}], stdout=subprocess.PIPE, text=True)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid):
    """Whether a process is there and not merely waiting to be asked how it ended."""
    try:
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_facts_tell_what_would_train_something_else_and_nothing_else(tmp_path):
    folder = write_drawn_set(tmp_path / "set", n_per_class=8)
    data, weights = read_dataset(folder), tmp_path / "w.keras"
    weights.write_bytes(b"a")

    def list_facts(data=data, **options):
        return workers.list_facts(TrainOptions(**{"weights": str(weights)} | options), data)

    plain = list_facts()
    assert list_facts(data_path="elsewhere", save_logs_path="there", workers=2) == plain
    assert list_facts(batch_size=5)["--batch_size"] == "5" != plain["--batch_size"]
    weights.write_bytes(b"b")
    assert {name for name in plain if list_facts()[name] != plain[name]} == {"the file of --weights"}
    path = next(folder.glob("train/*/*.tif"))
    pixels = tifffile.imread(path)
    pixels.flat[0] += 1
    tifffile.imwrite(path, pixels)
    assert list_facts(read_dataset(folder))["data"] != plain["data"]


def test_a_run_that_another_process_writes_is_left_alone(tmp_path, capsys):
    folder = write_drawn_set(tmp_path / "set", n_per_class=8)
    (tmp_path / ".mine.lock").write_text("elsewhere 1")
    assert train.main(["--data_path", str(folder), "--save_logs_path", str(tmp_path), "--run_name", "mine"]) == 2
    assert "is being written by process 1 on elsewhere" in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


class StartedError(Exception):
    pass


def test_workers_take_over_what_holds_for_the_whole_command(monkeypatch, tmp_path):
    started = []

    def note(command, **how):
        started.append((command, how["stdout"]))
        raise StartedError

    # Of this module alone: TensorFlow, when it is loaded, starts processes too.
    monkeypatch.setattr(workers, "subprocess", SimpleNamespace(Popen=note, DEVNULL=subprocess.DEVNULL))
    options = TrainOptions(data_path=str(tmp_path), workers=2)
    with pytest.raises(StartedError):
        workers.launch_workers(options)
    with limit_memory(3.0), silent_stdout(), pytest.raises(StartedError):
        workers.launch_workers(options)
    (plain, loud), (limited, quiet) = started
    assert "--max_memory" not in plain and loud is None
    assert limited[-2:] == ["--max_memory", "3.0"] and quiet == subprocess.DEVNULL
