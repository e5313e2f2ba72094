"""What each augmentation adds on a real bead stack: 5 folds by bead, the network beside the classical baseline.

`python -m benchmarks.real_beads STACK.tif` makes the set as `make_dataset --planes 39 --focus relative --crop_px 41`
does, and trains `train --folds 5` once per row.
"""

import argparse
import json
import tempfile
from pathlib import Path

from benchmarks.measure import report, run_command

VARIANTS = {
    "defaults: shift 1, thin 0.3": [],
    "none": ["--shift_px", 0, "--thin", 1],
    "thin 0.3": ["--shift_px", 0],
    "shift 1": ["--thin", 1],
    "shift 3": ["--shift_px", 3, "--thin", 1],
    "shift 3, thin 0.3": ["--shift_px", 3],
    "defaults, flips": ["--flip"],
    "defaults, per-crop scaling": ["--scaling", "image"],
    "defaults, soft labels 0.7": ["--soft_labels", 0.7],
}
KEYS = ("accuracy", "within_one", "mae_planes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stack")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        make = ["--source_path", arguments.stack, "--data_path", f"{tmp}/set", "--planes", 39, "--focus", "relative"]
        run_command(["-m", "resnet_zclass.make_dataset", *make, "--crop_px", 41])
        for i, name in enumerate(arguments.only):
            words = [
                "--data_path",
                f"{tmp}/set",
                "--save_logs_path",
                f"{tmp}/logs",
                "--run_name",
                f"run{i}",
                "--folds",
                5,
            ]
            result = run_command(["-m", "resnet_zclass.train", *words, *VARIANTS[name]])
            scores = json.loads(Path(tmp, "logs", f"run{i}", "folds.json").read_text())
            if not rows:
                baseline = {key: scores["pooled"][f"baseline_{key}"] for key in KEYS}
                rows.append(
                    {"variant": "baseline (PCA + logistic regression)", **baseline, "sd of folds": "", "minutes": ""}
                )
            network = {key: scores["pooled"][key] for key in KEYS}
            minutes = result["seconds"] / 60
            rows.append({"variant": name, **network, "sd of folds": scores["std"]["accuracy"], "minutes": minutes})
            report("real_beads", rows, stack=Path(arguments.stack).name)


if __name__ == "__main__":
    main()
