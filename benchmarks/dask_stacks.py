"""`make_dataset` and `predict` on 200 simulated bead stacks, one of them corrupt: plain, and with 1 and 2 Dask workers.

The plain commands end at the corrupt stack, so they are given the others only. A job that is interrupted when half of
its stacks are done is started again, and one that is done is; both have to try the corrupt stack once more.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.measure import report, run_command

PLANES, FIELD_PX, BEADS, CROP_PX = 13, 192, 10, 32
WORKERS = (1, 2)


def write_stacks(folder: Path, n: int) -> None:
    """`n` stacks in `good`; the same in `all`, with the last one cut short."""
    words = ["--planes", PLANES, "--z_step_um", 0.3, "--n_fields", n, "--field_px", FIELD_PX, "--crop_px", CROP_PX]
    words += ["--beads_per_field", BEADS, "--per_class", 5, "--ceiling_crops", 0, "--photons", 8000, 10000]
    paths = ["--data_path", folder / "simulated", "--source_path", folder / "good"]
    run_command(["-m", "resnet_zclass.simulate", *words, *paths])
    shutil.copytree(folder / "good", folder / "all")
    last = sorted((folder / "good").glob("*.tif"))[-1]
    last.unlink()
    corrupt = folder / "all" / last.name
    corrupt.write_bytes(corrupt.read_bytes()[:10_000])


def choose_words(folder: Path) -> dict[str, list]:
    """The command lines, without their inputs and outputs."""
    make = ["-m", "resnet_zclass.make_dataset", "--planes", PLANES, "--crop_px", CROP_PX]
    return {"make_dataset": make, "predict": ["-m", "resnet_zclass.predict", "--load_logs_path", folder / "run"]}


def name_paths(command: str, folder: Path, stacks: str, out: str) -> list:
    if command == "predict":
        return [folder / stacks, "--pred_save_path", folder / out]
    return ["--source_path", folder / stacks, "--data_path", folder / out]


def interrupt_half_way(words: list, done_path: Path, n: int) -> int:
    """Starts a command, interrupts it when half of its stacks are done; returns how many were."""
    with subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL) as process:
        while not (done_path.is_file() and len(done_path.read_text().splitlines()) >= n // 2):
            time.sleep(0.05)
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    return len(done_path.read_text().splitlines())


def check_equal(command: str, folder: Path, out: str) -> None:
    """Whether workers made what the plain command made."""
    if command == "make_dataset":
        sets = [(folder / name / "manifest.csv").read_bytes() for name in ("make_dataset_plain", out)]
        assert sets[0].replace(b"/good/", b"/all/") == sets[1]
        return
    plain = pd.read_csv(folder / "predict_plain")
    parts = pd.concat([pd.read_csv(path) for path in (folder / out).glob("*.csv")])
    parts["file"] = parts.file.str.replace("/all/", "/good/")
    order = ["file", "page", "y", "x"]
    plain, parts = (table.sort_values(order, ignore_index=True) for table in (plain, parts))
    # Batches hold other crops than those of the plain command, which adds numbers up in another order.
    pd.testing.assert_frame_equal(plain, parts, rtol=1e-5, atol=1e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stacks", type=int, default=200)
    n = parser.parse_args().stacks
    rows: list[dict] = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        write_stacks(folder, n)
        commands = choose_words(folder)

        def add(command: str, how: str, words: list, n_stacks: int) -> None:
            used = run_command(words)
            times = {"seconds": used["seconds"], "processor s": used["cpu_seconds"]}
            rows.append({"command": command, "how": how, "stacks": n_stacks, **times})
            print(rows[-1], flush=True)

        for command, words in commands.items():
            add(command, "plain", [*words, *name_paths(command, folder, "good", f"{command}_plain")], n - 1)
            for workers in WORKERS:
                out = f"{command}_{workers}.csv"
                dask = [*words, "--dask_scheduler", "local", "--dask_workers", workers]
                add(command, f"workers: {workers}", [*dask, *name_paths(command, folder, "all", out)], n)
                check_equal(command, folder, out)
            out = f"{command}_again.csv"
            dask += name_paths(command, folder, "all", out)
            done_path = folder / (out if command == "predict" else f"{out}.parts") / "_job" / "done.jsonl"
            n_done = interrupt_half_way(dask, done_path, n)
            add(command, f"workers: {WORKERS[-1]}, the rest of an interrupted job", dask, n - n_done)
            check_equal(command, folder, out)
            if command == "predict":
                add(command, "started again when done", dask, 1)
            else:
                train = ["--data_path", folder / "make_dataset_plain", "--model_name", "ResNet8", "--epochs", 1]
                place = ["--save_logs_path", folder, "--run_name", "run", "--no_evaluate"]
                run_command(["-m", "resnet_zclass.train", *train, *place])
        sizes = {"planes": PLANES, "field_px": FIELD_PX, "beads": BEADS, "crop_px": CROP_PX}
        facts = json.loads((folder / "predict_2.csv" / "_job" / "job.json").read_text())
    report("dask_stacks", rows, **sizes, engine=facts["engine"])


if __name__ == "__main__":
    main()
