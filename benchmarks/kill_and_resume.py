"""Kills a small training of two rounds at random moments, resumes it, and compares it with one that was left alone.

    python -m benchmarks.kill_and_resume [--runs 5] [--kills 2] [--seed 0]

Every run is a process of its own that gets SIGKILL some seconds after its start, `--kills` times, each time resumed,
and is then resumed to its end. "goes on at" says from which round:epoch. Final weights and histories are compared bit
by bit. Prints a table and writes benchmarks/kill_and_resume.json.
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


def train(words: list[str], seconds: float | None = None) -> float | None:
    """Trains, for so many seconds at most; returns how long it took, or None if it was killed."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "resnet_zclass.train", *words], stdout=subprocess.DEVNULL)
    try:
        code = process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None
    if code:
        raise SystemExit(f"failed: train {' '.join(words)}")
    return time.perf_counter() - start


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
    options = parser.parse_args()
    rng, rows = np.random.default_rng(options.seed), []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        words = [sys.executable, "-m", "resnet_zclass.simulate", "--data_path", str(folder / "set"), *SET]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        job = ["--data_path", str(folder / "set"), "--save_logs_path", tmp, *JOB]
        train([*job, "--run_name", "source", "--epochs", "1"])
        job += [*TWO_ROUNDS, "--weights", str(folder / "source" / "model.keras"), "--run_name"]
        seconds = train([*job, "whole"])
        print(f"left alone: {seconds:.1f} s", flush=True)
        for number in range(options.runs):
            name, killed, goes_on = f"killed_{number}", [], []
            for _ in range(options.kills):
                after = float(rng.uniform(0.45 * seconds, seconds))
                if train([*job, name], after) is not None:
                    break  # it came to its end before
                killed.append(f"{after:.1f}")
                goes_on.append(find_progress(folder / name))
            train([*job, name])
            weights, histories = is_same(folder / "whole", folder / name)
            rows.append({"run": number, "killed after s": " ".join(killed), "goes on at": " ".join(goes_on)})
            rows[-1] |= {"same weights": weights, "same histories": histories}
            print(rows[-1], flush=True)
    report("kill_and_resume", rows, seconds=seconds, words=[*JOB, *TWO_ROUNDS])
    if not all(row["same weights"] and row["same histories"] for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
