"""Kills one of several workers of a small training at random moments, resumes it, and compares it with one left alone.

    python -m benchmarks.kill_a_worker [--runs 5] [--kills 2] [--seed 0] [--workers 2]

For a training of one process see tests/kills.py. Of several that train together one gets SIGKILL some seconds after
its start, `--kills` times, each time resumed, and the run is then resumed to its end. "goes on at" says from which
round:epoch; "others ended after s" how long the other workers took to notice. Final weights and histories are compared
bit by bit.
Prints a table and writes benchmarks/kill_a_worker.json.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import report

ROUNDS = ("origin_model", "fine_tune_model")
SET = ["--planes", "5", "--per_class", "40", "--crop_px", "16", "--ceiling_crops", "0"]
JOB = ["--model_name", "ResNet8", "--hidden", "32", "--dropout", "0.2", "--batch_size", "16", "--no_evaluate"]
TWO_ROUNDS = ["--head_epochs", "8", "--epochs", "16", "--patience", "6", "--deterministic", "--resume"]


def train(words: list[str], n_workers: int = 1, seconds: float | None = None, victim: int = 0) -> float | None:
    """Trains; returns how long it took. After `seconds`, one worker is killed; then how long the others went on, or 0.

    Returns None if it came to its end before it was to be killed.
    """
    from resnet_zclass.workers import share_machine

    start = time.perf_counter()
    environments = share_machine(n_workers) if n_workers > 1 else [None]
    command = [sys.executable, "-m", "resnet_zclass.train", *words]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": None}
    processes = [subprocess.Popen(command, env=environment, **quiet) for environment in environments]
    try:
        processes[victim].wait(seconds)
    except subprocess.TimeoutExpired:
        processes[victim].kill()
        killed = time.perf_counter()
        codes = [process.wait(120) for process in processes]
        # 0 where the others were done already
        assert all(code == -9 if i == victim else code in (0, 1) for i, code in enumerate(codes)), codes
        return time.perf_counter() - killed if n_workers > 1 else 0.0
    if any([process.wait(120) for process in processes]):
        raise SystemExit(f"failed: train {' '.join(words)}")
    return None if seconds else time.perf_counter() - start


def find_progress(run_path: Path) -> str:
    """Where the run in a folder will go on, such as `2:3` for epoch 3 of round 2."""
    from resnet_zclass.training_state import count_epochs

    if (run_path / "model.keras").is_file():
        return "end"
    done = [count_epochs(run_path / name) for name in ROUNDS]
    return f"{2 if done[1] else 1}:{max(done[0] if not done[1] else 0, done[1]) + 1}" if any(done) else "start"


def is_same(run_path: Path, other_path: Path) -> tuple[bool, bool]:
    """Whether final weights, and whether the histories of both rounds are the same, bit by bit."""
    from resnet_zclass.models import load_model

    weights = [load_model(path / "model.keras").get_weights() for path in (run_path, other_path)]
    texts = [
        [(path / name / "training_history.csv").read_bytes() for name in ROUNDS] for path in (run_path, other_path)
    ]
    return all(np.array_equal(a, b) for a, b in zip(*weights, strict=True)), texts[0] == texts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--kills", type=int, default=2, help="of every run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    rng, rows = np.random.default_rng(options.seed), []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        words = [sys.executable, "-m", "resnet_zclass.simulate", "--data_path", str(folder / "set"), *SET]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        job = ["--data_path", str(folder / "set"), "--save_logs_path", tmp, *JOB]
        train([*job, "--run_name", "source", "--epochs", "1"])
        job += [*TWO_ROUNDS, "--weights", str(folder / "source" / "model.keras"), "--run_name"]
        seconds = train([*job, "whole"], options.workers)
        print(f"left alone: {seconds:.1f} s", flush=True)
        for number in range(options.runs):
            name, killed, goes_on, noticed = f"killed_{number}", [], [], []
            for _ in range(options.kills):
                after, victim = float(rng.uniform(0.35 * seconds, 0.9 * seconds)), int(rng.integers(options.workers))
                took = train([*job, name], options.workers, after, victim)
                if took is None:
                    break  # it came to its end before
                killed.append(f"{after:.1f}" + (f" (worker {victim})" if options.workers > 1 else ""))
                noticed.append(f"{took:.1f}")
                goes_on.append(find_progress(folder / name))
            train([*job, name], options.workers)
            weights, histories = is_same(folder / "whole", folder / name)
            rows.append({"run": number, "killed after s": " ".join(killed), "goes on at": " ".join(goes_on)})
            rows[-1] |= {"others ended after s": " ".join(noticed)} if options.workers > 1 else {}
            rows[-1] |= {"same weights": weights, "same histories": histories}
            print(rows[-1], flush=True)
    report("kill_a_worker", rows, seconds=seconds, workers=options.workers, words=[*JOB, *TWO_ROUNDS])
    if not all(row["same weights"] and row["same histories"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
