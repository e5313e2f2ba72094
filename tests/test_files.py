import errno
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from resnet_zclass import files
from resnet_zclass.errors import InputError
from resnet_zclass.files import alone_at, whole_file, whole_folder


def test_a_folder_that_fails_half_way_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "set") as partial:
        (partial / "a").write_text("half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_the_folder_has_its_name_only_when_it_is_whole(tmp_path):
    with whole_folder(tmp_path / "set") as partial:
        (partial / "a").write_text("whole")
        assert not (tmp_path / "set").exists()
    assert (tmp_path / "set" / "a").read_text() == "whole"


def test_a_folder_is_replaced_only_when_told(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    with pytest.raises(InputError, match="--overwrite"), whole_folder(tmp_path / "set"):
        pass
    with whole_folder(tmp_path / "set", overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["new"]


def test_overwriting_that_fails_keeps_the_old_folder(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "old").write_text("old")
    with pytest.raises(ValueError, match="x"), whole_folder(tmp_path / "set", overwrite=True):
        raise ValueError("x")
    assert (tmp_path / "set" / "old").read_text() == "old"


def test_a_file_that_fails_half_way_keeps_the_old_one(tmp_path):
    (tmp_path / "a.csv").write_text("old")
    with pytest.raises(ValueError, match="x"), whole_file(tmp_path / "a.csv") as partial:
        partial.write_text("half")
        raise ValueError("x")
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]
    assert (tmp_path / "a.csv").read_text() == "old"


def test_what_a_killed_process_left_is_cleared_away_by_the_next(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = f"partial-{socket.gethostname()}-{int(done.stdout)}"
    (tmp_path / f".set.{dead}").mkdir()
    (tmp_path / f".set.{dead}" / "half").write_text("half")
    (tmp_path / f".a.{dead}.csv").write_text("half")
    alive = tmp_path / f".set.partial-{socket.gethostname()}-{os.getppid()}"
    alive.mkdir()
    with whole_folder(tmp_path / "set"), whole_file(tmp_path / "a.csv") as partial:
        partial.write_text("whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([alive.name, "a.csv", "set"])


def test_parents_made_for_a_folder_that_failed_go_too(tmp_path):
    with pytest.raises(ValueError, match="x"), whole_folder(tmp_path / "new" / "deep" / "set"):
        raise ValueError("x")
    assert list(tmp_path.iterdir()) == []


def test_only_a_folder_of_its_own_kind_is_replaced(tmp_path):
    (tmp_path / "stacks").mkdir()
    (tmp_path / "stacks" / "raw.tif").write_text("raw")
    with (
        pytest.raises(InputError, match=r"manifest\.csv"),
        whole_folder(tmp_path / "stacks", True, mark="manifest.csv"),
    ):
        pass
    assert (tmp_path / "stacks" / "raw.tif").read_text() == "raw"


def test_a_folder_is_replaced_at_once_and_not_bit_by_bit(tmp_path, monkeypatch):
    (tmp_path / "run").mkdir()
    for name in ("opts.toml", "old"):
        (tmp_path / "run" / name).write_text("old")

    def stopped(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("shutil.rmtree", stopped)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "run", overwrite=True) as partial:
        (partial / "new").write_text("new")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["new"]
    monkeypatch.undo()
    with whole_folder(tmp_path / "run", overwrite=True) as partial:
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_two_processes_do_not_write_the_same_path(tmp_path):
    path = tmp_path / "run"
    lock = tmp_path / ".run.lock"
    with alone_at(path):
        assert lock.is_file()
    assert not lock.exists()
    code = "import sys, time\nfrom resnet_zclass.files import alone_at\n"
    code += "with alone_at(sys.argv[1]):\n    print(1, flush=True)\n    time.sleep(60)"
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    other.stdout.readline()
    with pytest.raises(InputError, match=f"is being written by process {other.pid} "), alone_at(path):
        pass
    other.kill()
    other.communicate()
    with alone_at(path):  # what the killed one left is passed over
        assert lock.read_text().endswith(f" {os.getpid()}")
    lock.write_text("elsewhere 1")
    with pytest.raises(InputError, match="on elsewhere; wait for it"), alone_at(path):
        pass
    assert lock.is_file()


def test_what_killed_processes_left_within_a_run_goes_with_the_next_that_writes_it(tmp_path):
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    of_host = f"partial-{socket.gethostname()}-"
    left = tmp_path / "run" / "round" / f".live.{of_host}{int(done.stdout)}.svg"
    kept = [tmp_path / "run" / f".a.{of_host}{os.getppid()}.csv", tmp_path / "run" / "model.keras"]
    left.parent.mkdir(parents=True)
    for path in (left, *kept):
        path.touch()
    with alone_at(tmp_path / "run"):
        assert not left.exists()
        assert all(path.exists() for path in kept)


def test_a_lock_whose_owner_was_killed_before_it_wrote_its_name_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LOCK_WRITTEN_S", 0.05)
    lock = tmp_path / ".run.lock"
    lock.touch()
    with alone_at(tmp_path / "run"):
        assert lock.read_text().endswith(f" {os.getpid()}")
    assert not lock.exists()


def test_a_lock_that_another_process_has_taken_meanwhile_stays_its_own(tmp_path):
    lock = tmp_path / ".run.lock"
    lock.write_text("elsewhere 1")
    files._remove_lock(lock, "what was there before")
    assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert lock.read_text() == "elsewhere 1"


def test_what_takes_its_name_is_on_the_disk_before(tmp_path, monkeypatch):
    synced, open_, replace, rename = {}, os.open, Path.replace, Path.rename
    named = []

    def note_open(path, flags, *mode):
        descriptor = open_(path, flags, *mode)
        synced[descriptor] = Path(path).name
        return descriptor

    on_disk = []
    monkeypatch.setattr(os, "open", note_open)
    monkeypatch.setattr(os, "fsync", lambda descriptor: on_disk.append(synced[descriptor]))
    monkeypatch.setattr(Path, "replace", lambda self, to: [named.append(list(on_disk)), replace(self, to)])
    monkeypatch.setattr(Path, "rename", lambda self, to: [named.append(list(on_disk)), rename(self, to)])
    with whole_file(tmp_path / "a.txt") as partial:
        partial.write_text("a")
    with whole_folder(tmp_path / "set") as folder:
        (folder / "train").mkdir()
        (folder / "train" / "b.txt").write_text("b")
    of_file, of_folder = named
    assert partial.name in of_file
    assert {"b.txt", "train", folder.name} <= set(of_folder)
    assert on_disk.count(tmp_path.name) == 2  # the names in their folder, too


def test_a_number_that_another_process_has_by_now_is_not_the_owner(tmp_path):
    parent, lock = os.getppid(), tmp_path / ".run.lock"
    lock.write_text(f"{socket.gethostname()} {parent}")
    with pytest.raises(InputError, match=f"by process {parent} "), alone_at(tmp_path / "run"):
        pass
    before = files._read_start(parent) - 60
    assert 0 < before < time.time()
    os.utime(lock, (before, before))
    left = tmp_path / f".run.partial-{socket.gethostname()}-{parent}.old"
    left.mkdir()
    os.utime(left, (before, before))
    with alone_at(tmp_path / "run"):
        assert not left.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number, kind", [(errno.ENOSPC, OSError), (errno.EACCES, InputError)])
def test_what_cannot_be_written_has_the_name_that_it_was_to_have(number, kind, tmp_path):
    with pytest.raises(kind) as failed, whole_file(tmp_path / "a.csv") as partial:
        raise OSError(number, os.strerror(number), str(partial))
    assert "partial" not in str(failed.value)
    assert str(tmp_path / "a.csv") in str(failed.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_behind_a_link_is_replaced_and_the_link_stays(tmp_path):
    (tmp_path / "large").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "large")
    for text in "ab":
        with whole_folder(tmp_path / "set", overwrite=True) as folder:
            (folder / "a.txt").write_text(text)
        assert (tmp_path / "set").is_symlink() and (tmp_path / "large" / "a.txt").read_text() == text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["large", "set"]


def test_a_stop_between_the_two_renames_brings_the_old_folder_back(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.txt").write_text("old")
    rename, calls = Path.rename, []

    def stop(self, to):
        calls.append(to)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / "set", overwrite=True) as folder:
        (folder / "a.txt").write_text("new")
    assert (tmp_path / "set" / "a.txt").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_whose_replacement_was_killed_comes_back_before_anything_is_written(tmp_path):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    old = tmp_path / f".set.partial-{socket.gethostname()}-{gone.pid}.old"
    old.mkdir()
    (old / "a.txt").write_text("old")
    with pytest.raises(InputError, match="exists already"), whole_folder(tmp_path / "set"):
        pass
    assert (tmp_path / "set" / "a.txt").read_text() == "old"
