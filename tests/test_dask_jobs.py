"""Prediction and dataset making on Dask's workers, against the plain commands."""

import functools
import json
import logging
import os
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from drawn_stacks import draw_stack, place_grid

from resnet_zclass import dask_jobs, extras, make_dataset, memory, predict, predict_jobs
from resnet_zclass.errors import InputError
from resnet_zclass.images import write_stack
from resnet_zclass.job_folder import JobFolder
from resnet_zclass.runs import read_run

ROWS = ["file", "page", "y", "x"]


@pytest.fixture(scope="module")
def cluster():
    """Two worker processes that outlive the commands, as those of a cluster do."""
    import distributed

    kinds = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "silence_logs": logging.CRITICAL}
    with distributed.LocalCluster(dashboard_address=None, **kinds) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster):
    import distributed

    with distributed.Client(cluster) as client:
        yield client


def draw_field(path: Path, seed: int) -> Path:
    write_stack(path, draw_stack(place_grid(2, 2, 44, 26), 5, n_planes=9, photons=20000, seed=seed), z_step_um=0.2)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, in which `stacks` holds three fields of view and one without beads."""
    monkeypatch.chdir(tmp_path)
    Path("stacks").mkdir()
    for k in range(3):
        draw_field(Path(f"stacks/s{k}.tif"), seed=k)
    write_stack("stacks/dark.tif", np.random.default_rng(0).poisson(10, (9, 96, 96)).astype("uint16"), z_step_um=0.2)
    return tmp_path


def run_predict(cluster, run_path, *words) -> int:
    dask = ("--dask_scheduler", cluster.scheduler_address) if cluster else ()
    return predict.main(list(map(str, ("--load_logs_path", run_path, *words, *dask))))


def read_parts(path) -> pd.DataFrame:
    """The parts of a folder as its users read them, in an order of their own."""
    import dask.dataframe

    kind = dask.dataframe.read_csv(f"{path}/*.csv") if str(path).endswith(".csv") else dask.dataframe.read_parquet(path)
    table = kind.compute().sort_values(ROWS, ignore_index=True)
    if not str(path).endswith(".csv"):
        whole = pd.read_parquet(path).sort_values(ROWS, ignore_index=True)
        pd.testing.assert_frame_equal(whole, table, check_dtype=False)  # Dask has a type of text of its own
    return table


def test_parts_hold_what_the_plain_command_writes(cluster, drawn_run, folder, capsys):
    assert run_predict(None, drawn_run, "stacks", "--pred_save_path", "plain.csv") == 0
    assert run_predict(cluster, drawn_run, "stacks", "--pred_save_path", "parts.csv") == 0
    assert run_predict(cluster, drawn_run, "stacks", "--pred_save_path", "parts") == 0
    plain = pd.read_csv("plain.csv").sort_values(ROWS, ignore_index=True)
    assert len(plain) > 30
    pd.testing.assert_frame_equal(read_parts("parts.csv"), plain, check_exact=True, check_dtype=False)
    parquet = read_parts("parts")
    parquet.to_csv("parquet.csv", index=False)
    plain["label"] = [f"{label:02d}" for label in plain.label]
    pd.testing.assert_frame_equal(parquet[["label", *ROWS]], plain[["label", *ROWS]], check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_csv("parquet.csv").iloc[:, 3:], plain.iloc[:, 3:], check_exact=True)
    assert len(list(Path("parts").glob("*.parquet"))) == 3  # no part without a row, whose columns had no types
    assert f"rows: {len(plain)} in 3 parts" in capsys.readouterr().out


def test_positions_are_looked_up_by_the_name_that_the_user_gave(cluster, drawn_run, folder):
    Path("spots.csv").write_text("y,x,source\n30,30,stacks/s0.tif\n60.5,40,s1\n50,50,dark\n40,40,s2.tif\n")
    words = ("stacks", "--spots", "spots.csv", "--pred_save_path")
    assert run_predict(None, drawn_run, *words, "plain.csv") == 0
    assert run_predict(cluster, drawn_run, *words, "parts.csv") == 0
    plain = pd.read_csv("plain.csv").sort_values(ROWS, ignore_index=True)
    pd.testing.assert_frame_equal(read_parts("parts.csv"), plain, check_exact=True, check_dtype=False)


def test_an_image_may_be_several_files(cluster, several_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(read_run(several_run).options.data_path, "cells", ignore=shutil.ignore_patterns("*.csv", ".*"))
    images = sorted(Path("cells").rglob("*.png"))
    ids = sorted({path.stem.rpartition("_")[0] for path in images})
    for path in images:
        if path.stem.rpartition("_")[0] not in ids[:3]:
            path.unlink()
    assert run_predict(None, several_run, "cells", "--pred_save_path", "plain.csv") == 0
    assert run_predict(cluster, several_run, "cells", "--pred_save_path", "parts.csv") == 0
    text = {"dtype": {"label": str, "target": str}, "keep_default_na": False}  # empty where no label is predicted
    plain = pd.concat(
        [pd.read_csv(path, **text) for path in sorted(Path("parts.csv").glob("*.csv"))], ignore_index=True
    )
    together = pd.read_csv("plain.csv", **text)
    assert (len(plain), plain.id.nunique()) == (3, 3)
    columns = [column for column in together if column != "probability" and not column.startswith("p_")]
    pd.testing.assert_frame_equal(plain[columns], together[columns])
    # One image alone is a vector to the matrix library, whose sums have another order.
    np.testing.assert_allclose(plain.filter(like="p_"), together.filter(like="p_"), rtol=1e-5)


def test_a_failed_stack_is_reported_and_a_restart_does_what_is_left(cluster, drawn_run, folder, capsys):
    whole = Path("stacks/s1.tif").read_bytes()
    Path("stacks/s1.tif").write_bytes(whole[: len(whole) // 2])
    words = ("stacks", "--pred_save_path", "parts")
    assert run_predict(cluster, drawn_run, *words) == 0
    failed = pd.read_csv("parts/_job/failed.csv")
    assert failed.file.tolist() == ["stacks/s1.tif"] and failed.error.str.contains("cut short").all()
    out, err = capsys.readouterr()
    assert "stacks/s1.tif failed: stacks/s1.tif is cut short" in err and "1 inputs failed" in err
    assert "skipped" not in out and set(read_parts("parts").file) == {"stacks/s0.tif", "stacks/s2.tif"}

    Path("stacks/s1.tif").write_bytes(whole)
    draw_field(Path("stacks/s2.tif"), seed=9)
    before, written = read_parts("parts"), {path: path.stat().st_mtime_ns for path in Path("parts").glob("*s0*")}
    with Path("parts/_job/done.jsonl").open("a") as file:
        file.write('["stacks/s1.t')  # the job was killed as it wrote this
    assert run_predict(cluster, drawn_run, *words) == 0
    assert "skipped: 2 of 4 inputs" in capsys.readouterr().out
    assert written == {path: path.stat().st_mtime_ns for path in Path("parts").glob("*s0*")}
    after = read_parts("parts")
    assert set(after.file) == {f"stacks/s{k}.tif" for k in range(3)}
    assert not after[after.file == "stacks/s2.tif"].x.isin(before[before.file == "stacks/s2.tif"].x).any()
    assert not Path("parts/_job/failed.csv").exists()
    assert run_predict(cluster, drawn_run, *words) == 0
    out = capsys.readouterr().out
    assert "skipped: 4 of 4 inputs" in out and "dask:" not in out  # no cluster is asked when nothing is left


def test_when_all_stacks_fail_the_command_does(cluster, drawn_run, folder, capsys):
    for path in Path("stacks").iterdir():
        path.write_bytes(b"")
    assert run_predict(cluster, drawn_run, "stacks", "--pred_save_path", "parts") == 2
    assert "error: all 4 inputs failed; the first: stacks/" in capsys.readouterr().err
    assert len(pd.read_csv("parts/_job/failed.csv")) == 4


def test_a_folder_of_another_run_is_refused(cluster, drawn_run, folder, capsys):
    words = ("stacks/s0.tif", "--pred_save_path", "parts")
    assert run_predict(cluster, drawn_run, *words) == 0
    other = shutil.copytree(drawn_run, folder / "other")
    classes = pd.read_csv(other / "classes.csv", dtype=str)
    classes.assign(LabelText=["a", "b", "c"]).to_csv(other / "classes.csv", index=False)
    facts = json.loads(Path("parts/_job/job.json").read_text())
    assert {"version", "run", "run_sha256", "engine"} <= set(facts)
    assert run_predict(cluster, other, *words) == 2
    assert "parts belongs to a job with run beads, not other; give --overwrite" in capsys.readouterr().err
    assert set(read_parts("parts").label) <= {"00", "01", "02"}
    assert run_predict(cluster, other, *words, "--overwrite") == 0
    assert set(read_parts("parts").label) <= {"a", "b", "c"}
    assert run_predict(cluster, drawn_run, "stacks/s0.tif", "--pred_save_path", "stacks", "--overwrite") == 2
    assert "stacks has no _job/job.json" in capsys.readouterr().err
    assert Path("stacks/s0.tif").is_file()


def count_loads() -> int:
    return predict_jobs.load_engine.cache_info().misses


def count_threads() -> int:
    from resnet_zclass.backend import tf

    return tf.config.threading.get_intra_op_parallelism_threads()


def test_a_worker_loads_the_model_once_and_keeps_to_its_threads(cluster, client, drawn_run, folder):
    for k in range(6):
        shutil.copy("stacks/s0.tif", f"stacks/t{k}.tif")
    before = client.run(count_loads)
    Path("spots.csv").write_text("y,x\n40,40\n")  # other facts than of any job before
    words = ("stacks", "--spots", "spots.csv", "--pred_save_path", "parts")
    assert run_predict(cluster, drawn_run, *words) == 0
    loads = [n - before[worker] for worker, n in client.run(count_loads).items()]
    assert sum(loads) >= 1 and max(loads) == 1
    assert set(client.run(count_threads).values()) == {1}


def run_make(cluster, data_path, *words) -> int:
    dask = ("--dask_scheduler", cluster.scheduler_address) if cluster else ()
    kind = ("--source_path", "stacks", "--data_path", data_path, "--crop_px", 24, "--planes", 5)
    return make_dataset.main(list(map(str, (*kind, *words, *dask))))


def read_tree(path) -> dict:
    """The bytes of all files of a set but the record of its making; of a workbook, which holds the time, its cells."""
    files = {file.relative_to(path).as_posix(): file for file in Path(path).rglob("*") if file.is_file()}
    del files["made_from.json"]
    return {n: pd.read_excel(f).to_csv() if f.suffix == ".xlsx" else f.read_bytes() for n, f in files.items()}


@pytest.mark.parametrize("words", [(), ("--focus", "relative", "--planes", 3), ("--spots", "spots.csv")])
def test_a_set_is_the_same_with_and_without_dask(words, cluster, folder, capsys):
    Path("spots.csv").write_text("y,x,source\n26,26,s0\n70,26,s0\n26,70,s1\n70,70,stacks/s2.tif\n30,70,dark\n")
    assert run_make(None, "plain", *words) == 0
    plain_says = capsys.readouterr().out.replace("plain", "")
    assert run_make(cluster, "made", *words) == 0
    assert plain_says in "".join(
        line for line in capsys.readouterr().out.replace("made", "").splitlines(keepends=True) if "dask" not in line
    )
    assert read_tree("plain") == read_tree("made")
    assert not Path("made.parts").exists()


def test_a_corrupt_stack_is_left_out_of_the_set_and_finished_ones_are_not_cut_again(cluster, folder, capsys):
    assert run_make(None, "plain") == 0
    Path("stacks/bad.tif").write_bytes(Path("stacks/s0.tif").read_bytes()[:5000])
    assert run_make(cluster, "made", "--train_num", 300, "--val_num", 1) == 2  # an error after the stacks were cut
    assert "300" in capsys.readouterr().err
    assert not Path("made").exists() and Path("made.parts").is_dir()
    assert run_make(cluster, "made", "--crop_px", 16) == 2
    assert "made.parts belongs to a job with crop_px 24, not 16; give --overwrite" in capsys.readouterr().err
    assert run_make(cluster, "made") == 0
    out, err = capsys.readouterr()
    assert "skipped: 4 of 5 inputs" in out
    assert "warning: 1 stacks failed and were left out" in err
    made = read_tree("made")
    assert b"stacks/bad.tif" in made.pop("failed.csv") and made == read_tree("plain")
    assert not Path("made.parts").exists()


def test_a_cluster_of_its_own_is_started_and_ended(folder, capsys):
    words = ("--source_path", "stacks", "--data_path", "made", "--crop_px", 24, "--planes", 5)
    assert make_dataset.main(list(map(str, (*words, "--dask_scheduler", "local", "--dask_workers", 1)))) == 0
    out = capsys.readouterr().out
    assert "dask: 1 workers, 1 threads; dashboard: http://127.0.0.1:" in out
    assert "make_dataset: 4 of 4, 0 failed" in out


def die_or_go_on(item: str, marks: str) -> int:
    """Kills the worker: `once` the first time, `always` every time."""
    mark = Path(marks, item)
    if item == "always" or (item == "once" and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if item == "wrong":
        raise InputError("that is\nwrong")
    return len(item)


def test_lost_workers_are_replaced_and_what_kills_them_is_reported(client, tmp_path):
    items = ["a", "once", "always", "bb", "wrong", *("c" * n for n in range(3, 9))]
    task = functools.partial(die_or_go_on, marks=str(tmp_path))
    outcomes = {item: (n, reason) for item, n, reason in dask_jobs.map_tasks(client, task, items, "dying")}
    assert list(outcomes.pop("always")) == [None, "every worker that it was given to died (4 of them)."]
    assert outcomes.pop("wrong") == (None, "that is wrong")
    assert outcomes == {item: (len(item), "") for item in items if item not in ("always", "wrong")}
    assert (tmp_path / "once").exists()


def test_what_lost_its_workers_beside_another_is_tried_again_alone(monkeypatch):
    def run_bounded(client, task, items, name, room):
        for item in items:
            dies = item == "always" or (item == "neighbour" and room() > 1)
            yield (item, None, "died", True) if dies else (item, task(item), "", False)

    class Client:
        def nthreads(self):
            return {"worker": 2}

    monkeypatch.setattr(dask_jobs, "_run_bounded", run_bounded)
    outcomes = list(dask_jobs.map_tasks(Client(), len, ["always", "neighbour", "a"], "dying"))
    assert outcomes == [("a", 1, ""), ("always", None, "died"), ("neighbour", 9, "")]


def test_no_more_tasks_wait_at_the_scheduler_than_keep_it_busy(client, monkeypatch):
    monkeypatch.setattr(dask_jobs, "LEAST_IN_FLIGHT", 3)
    submitted = []
    submit = client.submit
    monkeypatch.setattr(client, "submit", lambda *a, **k: (submitted.append(1), submit(*a, **k))[1])
    most = 0
    for done, _ in enumerate(dask_jobs.map_tasks(client, abs, range(40), "counting")):
        most = max(most, len(submitted) - done)
    assert len(submitted) == 40 and most <= 8  # 4 for each of two threads


def test_a_scheduler_that_does_not_answer_is_named(drawn_run, folder, monkeypatch, capsys):
    monkeypatch.setattr(dask_jobs, "CONNECT_S", 1)
    start = time.monotonic()
    words = ["--load_logs_path", str(drawn_run), "stacks", "--pred_save_path", "parts", "--dask_scheduler"]
    for address in ("tcp://127.0.0.1:9", "127.0.0.1:9", "foo://127.0.0.1:9"):
        assert predict.main([*words, address]) == 2
        assert f"error: --dask_scheduler {address}: no scheduler answers there" in capsys.readouterr().err
    assert time.monotonic() - start < 10
    assert predict.main([*words, "scheduler.json"]) == 2
    assert "or a scheduler file that is there. Received: scheduler.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--dask_workers", "2"), "--dask_workers counts the workers of --dask_scheduler local"),
        (("--dask_scheduler", "tcp://a:1", "--dask_workers", "2"), "--dask_workers counts the workers"),
        (("--dask_scheduler", "local", "--dask_workers", "0"), "--dask_workers must lie in 1.."),
        (("--dask_scheduler", "local", "--pred_save_name", "p.npy"), "--pred_save_name is not for --dask_scheduler"),
        (("--dask_scheduler", "local", "--spots", "none.csv"), "none.csv does not exist"),
    ],
)
def test_what_does_not_go_together_is_refused(words, named, drawn_run, folder, capsys):
    assert run_predict(None, drawn_run, "stacks", "--pred_save_path", "parts", *words) == 2
    assert named in capsys.readouterr().err
    assert not Path("parts").exists()


def test_only_stacks_are_cut_by_workers(folder, capsys):
    words = ("--layout", "class", "--dask_scheduler", "local")
    assert run_make(None, "made", *words) == 2
    assert "--dask_scheduler cuts stacks, so it wants --layout stack" in capsys.readouterr().err


@pytest.mark.parametrize("module", dask_jobs.MODULES)
def test_a_missing_extra_is_named(module, drawn_run, folder, monkeypatch, capsys):
    monkeypatch.setattr(extras, "is_installed", lambda other: other != module)
    assert run_predict(None, drawn_run, "stacks", "--dask_scheduler", "local") == 2
    assert f"error: {module} is not installed; pip install 'resnet_zclass[dask]'." in capsys.readouterr().err


def test_a_worker_with_several_threads_does_one_task_at_a_time():
    running, most = set(), []

    def task(item: int) -> int:
        running.add(item)
        time.sleep(0.02)
        most.append(len(running))
        running.remove(item)
        return item

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(lambda item: dask_jobs._attempt(task, item), range(8)))
    assert outcomes == [(item, "") for item in range(8)]
    assert max(most) == 1


def test_what_was_done_stays_until_workers_are_there(tmp_path, monkeypatch):
    monkeypatch.setattr(dask_jobs, "CONNECT_S", 1)
    (tmp_path / "a.tif").write_bytes(b"a")
    part = tmp_path / "parts" / "a.csv"
    JobFolder(tmp_path / "parts", {})._start([])
    part.write_text("done")
    job = JobFolder(tmp_path / "parts", {}, overwrite=True)
    inputs = job.name_inputs({"a": [tmp_path / "a.tif"]}, ".csv")
    with pytest.raises(InputError, match="no scheduler answers"):
        job.work_through(print, inputs, "counting", "tcp://127.0.0.1:9")
    assert part.read_text() == "done"


def test_a_cluster_of_this_machine_that_lost_all_its_workers_is_given_up(client, monkeypatch):
    monkeypatch.setattr(dask_jobs, "LOOK_S", 0.05)
    monkeypatch.setattr(dask_jobs, "WORKERLESS_S", 0.2)
    monkeypatch.setattr(client, "nthreads", dict)
    with pytest.raises(InputError, match="all Dask workers of this machine have ended"):
        list(dask_jobs.map_tasks(client, time.sleep, [3], "waiting"))


def test_workers_have_the_limit_of_memory_that_was_given(client, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"a")
    job = JobFolder(tmp_path / "parts", {})
    inputs = job.name_inputs({"a": [tmp_path / "a.tif"]}, ".csv")
    with memory.limit_memory(0.25), pytest.raises(InputError, match=r"claims 1 GB of memory, more than the 0\.25 GB"):
        job.work_through(claim_a_gigabyte, inputs, "claiming", client.scheduler.address)


def claim_a_gigabyte(item, threads):
    """For a worker."""
    memory.check_claim(2**30, item.files[0])
    return 0
