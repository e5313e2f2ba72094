"""The preset `bead` as it is, 39 planes at 256 px in batches of 50, for one epoch of each round, and what a run costs.

Crops are simulated. Times are those that `--profile` writes, memory is the peak of the whole command. A full run of the
preset has 39 x 150 training crops and 39 x 50 to validate, and at most 50 epochs a round: features once, then epochs of
the head, then epochs of all layers and their validation, all in proportion to the crops. `--gpu_images_per_s` projects
the epochs of round 2 at a rate that was found elsewhere, in training images/s.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.measure import report, run_command

PLANES, TRAIN, VAL, EPOCHS = 39, 150, 50, 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="none", help="file of ImageNet weights of ResNet50 without top")
    parser.add_argument("--per_class", type=int, default=TRAIN, help="training crops of a class; a third to validate")
    parser.add_argument("--gpu_images_per_s", type=float, nargs="*", default=[])
    arguments = parser.parse_args()
    n_train, n_val = arguments.per_class, max(1, arguments.per_class // 3)
    with tempfile.TemporaryDirectory() as tmp:
        data_path, run_path = Path(tmp) / "set", Path(tmp) / "run"
        words = ["--data_path", data_path, "--planes", PLANES, "--per_class", n_train + n_val]
        share = n_train / (n_train + n_val)
        run_command(["-m", "resnet_zclass.simulate", *words, "--fractions", share, 1 - share, 0])
        words = ["--opts", "bead", "--data_path", data_path, "--save_logs_path", tmp, "--run_name", "run"]
        if arguments.weights == "none":
            raise SystemExit("--weights FILE is missing: without weights there is no round 1.")
        words += ["--weights", Path(arguments.weights).resolve(), "--epochs", 1, "--no_evaluate", "--profile"]
        cost = run_command(["-m", "resnet_zclass.train", *words])
        parts = [
            {row["part"]: row["seconds"] for row in json.loads((run_path / name / "profile.json").read_text())}
            for name in ("origin_model", "fine_tune_model")
        ]
    first, second = parts
    scale = TRAIN / n_train
    features_s = first["features"] * scale
    head_s = (first["total"] - first["features"] - first["compile"]) * scale
    tuning_s = (second["total"] - second["compile"]) * scale
    rows = [
        {"what": "round 1: features", "measured s": first["features"], "full run h": features_s / 3600},
        {
            "what": "round 1: an epoch of the head, validation and callbacks",
            "measured s": first["total"] - first["features"],
            "full run h": EPOCHS * head_s / 3600,
        },
        {
            "what": "round 2: an epoch, validation and callbacks",
            "measured s": second["total"],
            "full run h": EPOCHS * tuning_s / 3600,
        },
        {
            "what": "all",
            "measured s": cost["seconds"],
            "full run h": (features_s + EPOCHS * (head_s + tuning_s)) / 3600,
        },
    ]
    for rate in arguments.gpu_images_per_s:
        n = EPOCHS * PLANES * (TRAIN + VAL / 3)  # a forward pass is a third of a training step
        rows.append({"what": f"round 2 at {rate:,.0f} images/s", "measured s": "", "full run h": n / rate / 3600})
    facts = {"peak_gb": cost["peak_gb"], "training_crops": PLANES * n_train, "parts": parts}
    report("bead_preset", rows, **facts)


if __name__ == "__main__":
    main()
