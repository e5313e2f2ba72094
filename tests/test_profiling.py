"""Parts of a round are timed without changing what is trained."""

import json
import threading
import time

import numpy as np
import pandas as pd
import pytest
from drawn_runs import write_two_round_set

import resnet_zclass as rz
from resnet_zclass import profiling, train
from resnet_zclass.errors import InputError
from resnet_zclass.options import TrainOptions
from resnet_zclass.profiling import Clock, TimedCrops

WORDS = ["--model_name", "ResNet8", "--hidden", "16", "--batch_size", "8", "--seed", "1", "--epochs", "2"]
WORDS += ["--shift_px", "1", "--no_evaluate"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Runs `timed` and `plain` of two rounds, trained alike but for the clock."""
    folder = tmp_path_factory.mktemp("profiled")
    words = [*WORDS, *write_two_round_set(folder)]
    words += ["--deterministic"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rz.rounds, "HEAD_STEPS_AT_ONCE", 1)  # as with the clock, so that nothing but it differs
        for name, more in (("timed", ["--profile", "--steps_per_execution", "7"]), ("plain", [])):
            assert train.main([*map(str, words), "--run_name", name, *more]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("part", ["origin_model", "fine_tune_model"])
def test_parts_of_a_round_add_up_and_are_counted(runs, part):
    rows = {row["part"]: row for row in json.loads((runs / "timed" / part / "profile.json").read_text())}
    own = [row["seconds"] for name, row in rows.items() if not row["meanwhile"] and name != "total"]
    assert sum(own) == pytest.approx(rows["total"]["seconds"])
    assert min(own) >= 0
    steps = 2 * 7  # epochs of 54 crops in batches of 8
    assert rows["wait"]["calls"] == rows["transfer"]["calls"] == steps
    assert (rows["compile"]["calls"], rows["compute"]["calls"]) == (1, steps - 1)
    for name in ("ValidationScores", "BestCheckpoint", "CSVLogger", "LiveCurves", "KeepState"):
        assert rows[name]["calls"] == 3  # two epochs, and the end
    assert rows["load"]["calls"] >= steps <= rows["augment"]["calls"]
    assert ("features" in rows) == (part == "origin_model")


@pytest.mark.parametrize("part", ["origin_model", "fine_tune_model"])
def test_a_trace_is_written_for_tensorboard(runs, part):
    assert list((runs / "timed" / part).rglob("plugins/profile/*/*.xplane.pb"))
    assert not list((runs / "plain" / part).rglob("*.xplane.pb"))
    assert not (runs / "plain" / part / "profile.json").exists()


def test_the_clock_changes_nothing_that_is_trained(runs):
    for part in ("origin_model", "fine_tune_model"):
        curves = [pd.read_csv(runs / name / part / "training_history.csv") for name in ("timed", "plain")]
        # Steps are compiled by themselves, so they round otherwise, which grows from step to step; what counts images
        # jumps. Another order of batches or another draw of augmentation changes losses by percents.
        losses = [curve[["loss", "val_loss"]] for curve in curves]
        np.testing.assert_allclose(losses[0].iloc[0], losses[1].iloc[0], rtol=1e-4)
        np.testing.assert_allclose(*losses, rtol=2e-3)


def test_times_of_several_threads_are_added():
    clock = Clock()

    def work():
        for _ in range(50):
            with clock.time("load"):
                time.sleep(0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clock.calls == {"load": 200}
    assert clock.seconds["load"] > 0.2
    rows = {row["part"]: row for row in clock.rows()}
    assert rows["load"]["meanwhile"] and rows["rest"]["seconds"] == rows["total"]["seconds"]


def test_a_part_that_fails_counts_too():
    clock = Clock()
    with pytest.raises(ZeroDivisionError):
        clock.wrap("augment", lambda: 1 / 0)()
    assert clock.calls == {"augment": 1}
    assert clock.wrap("mix", None) is None


def test_timed_crops_are_the_crops():
    crops, clock = np.arange(24).reshape(6, 2, 2, 1), Clock()
    timed = TimedCrops(crops, clock)
    np.testing.assert_array_equal(timed[np.array([4, 0])], crops[[4, 0]])
    assert (len(timed), timed.shape, timed.dtype, clock.calls) == (6, crops.shape, crops.dtype, {"load": 1})


def test_what_one_device_alone_can_do_is_refused_on_several(monkeypatch):
    monkeypatch.setattr(rz.distribute, "count_replicas", lambda: 2)
    for more, named in (({"profile": True}, "--profile"), ({"jit_compile": "on"}, "--jit_compile on")):
        with pytest.raises(InputError, match=f"^{named} is for one device; leave it out with several.$"):
            rz.rounds.check_devices(rz.opts.pick(TrainOptions(**more), *train.FIT_OPTIONS))
    rz.rounds.check_devices(rz.opts.pick(TrainOptions(), *train.FIT_OPTIONS))


def test_the_table_fits_one_screen(capsys, tmp_path):
    clock = Clock()
    for name in ("features", "wait", "transfer", "compile", "compute", "load", "augment", "mix"):
        with clock.time(name):
            pass
    profiling.report(clock, tmp_path / "profile.json", "run, round 1 of 2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].strip() == "run, round 1 of 2"
    assert len(lines) < 24 and max(map(len, lines)) <= 80
    assert len(json.loads((tmp_path / "profile.json").read_text())) == 10
