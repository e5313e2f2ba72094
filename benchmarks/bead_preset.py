"""The preset `bead` as it is, 39 planes at 256 px in batches of 50, for one epoch of each round, and what a run costs.

Crops are simulated. Times are those that `--profile` writes, memory is the peak of the whole command. A full run of the
preset has 39 x 150 training crops and 39 x 50 to validate, and at most 50 epochs a round: features once, then epochs of
the head, then epochs of all layers and their validation, all in proportion to the crops. Epochs of round 2 are
also projected at published rates of one GPU, in proportion to the pixels, and at those that `gpu_peers` has found.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.measure import report, run_command

PLANES, TRAIN, VAL, EPOCHS, BATCH_SIZE = 39, 150, 50, 50, 50
# Training images/s of ResNet50 at 224 px in batches of 256, of which one at 256 px is (256 / 224) ** 2. Source: NVIDIA,
# DeepLearningExamples, TensorFlow/Classification/ConvNets/resnet50v1.5/README.md, commit e6757d7 (XLA, 2020).
PUBLISHED = {"A100 40 GB, TF32": 808, "A100 40 GB, mixed precision": 1770}
GPU_PEERS = Path(__file__).with_name("gpu_peers.json")


def project_epoch(part: dict[str, dict], scale: float) -> float:
    """Seconds of an epoch of a full run: steps and validation as there are crops, other callbacks as they are."""
    step_s = part["compute"]["seconds"] / part["compute"]["calls"]
    others_s = sum(part[name]["seconds"] for name in ("BestCheckpoint", "KeepState", "TensorBoard", "CSVLogger"))
    return step_s * PLANES * TRAIN / BATCH_SIZE + part["ValidationScores"]["seconds"] * scale + others_s


def list_rates() -> dict[str, float]:
    """Training images/s at 256 px by GPU."""
    rates = {f"{name}, published": rate * (224 / 256) ** 2 for name, rate in PUBLISHED.items()}
    if GPU_PEERS.is_file():
        for row in json.loads(GPU_PEERS.read_text())["rows"]:
            if (row["framework"], row["px"], row["batch"]) == ("Keras on JAX", 256, 256):
                rates[f"H100, {row['precision']}, Keras on JAX"] = row["training images/s"]
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="file of ImageNet weights of ResNet50 without top")
    parser.add_argument("--per_class", type=int, default=TRAIN, help="training crops of a class; a third to validate")
    arguments = parser.parse_args()
    n_train, n_val = arguments.per_class, max(1, arguments.per_class // 3)
    with tempfile.TemporaryDirectory() as tmp:
        data_path, run_path = Path(tmp) / "set", Path(tmp) / "run"
        words = ["--data_path", data_path, "--planes", PLANES, "--per_class", n_train + n_val]
        share = n_train / (n_train + n_val)
        run_command(["-m", "resnet_zclass.simulate", *words, "--fractions", share, 1 - share, 0])
        words = ["--opts", "bead", "--data_path", data_path, "--save_logs_path", tmp, "--run_name", "run"]
        words += ["--weights", Path(arguments.weights).resolve(), "--epochs", 1, "--no_evaluate", "--profile"]
        cost = run_command(["-m", "resnet_zclass.train", *words])
        parts = [
            {row["part"]: row for row in json.loads((run_path / name / "profile.json").read_text())}
            for name in ("origin_model", "fine_tune_model")
        ]
    first, second = parts
    scale = TRAIN / n_train
    features_h = first["features"]["seconds"] * scale / 3600
    epochs_h = [EPOCHS * project_epoch(part, scale) / 3600 for part in parts]
    rows = [
        {"what": "round 1: features", "measured s": first["features"]["seconds"], "full run h": features_h},
        {
            "what": "round 1: epochs of the head",
            "measured s": first["total"]["seconds"] - first["features"]["seconds"],
            "full run h": epochs_h[0],
        },
        {"what": "round 2: epochs", "measured s": second["total"]["seconds"], "full run h": epochs_h[1]},
        {"what": "all", "measured s": cost["seconds"], "full run h": features_h + sum(epochs_h)},
    ]
    n = EPOCHS * PLANES * (TRAIN + VAL / 3)  # a forward pass is a third of a training step
    for name, rate in list_rates().items():
        rows.append(
            {"what": f"round 2 on {name}: {rate:,.0f} images/s", "measured s": "", "full run h": n / rate / 3600}
        )
    facts = {"peak_gb": cost["peak_gb"], "training_crops": PLANES * n_train, "parts": parts}
    report("bead_preset", rows, **facts)


if __name__ == "__main__":
    main()
