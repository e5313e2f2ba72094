"""What knowing the order of the planes adds: soft labels and the losses of planes, over three seeds.

`python -m benchmarks.ordinal SET ...` trains ResNet20 on z sets as `make_dataset` or `simulate` wrote them, by every
loss from the same seeds, and shows the mean and the standard deviation over seeds of the scores on split test.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import report, run_command

VARIANTS = {
    "crossentropy": [],
    "soft labels, 1 plane": ["--soft_labels", 1],
    "emd": ["--loss", "emd"],
    "cumulative": ["--loss", "cumulative"],
    "gaussian": ["--loss", "gaussian"],
}
SCORES = ("accuracy", "within_one", "mae_planes", "rmse_z_um", "z_sd_ratio")
COMMON = ["--optimizer", "adam", "--schedule", "cosine"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path, nargs="+")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        for path in arguments.sets:
            for name in arguments.only:
                found = []
                for seed in range(arguments.seeds):
                    run = f"{path.name}_{name.replace(' ', '_').replace(',', '')}_{seed}"
                    words = ["--data_path", path, "--save_logs_path", tmp, "--run_name", run, "--seed", seed]
                    words += ["--epochs", arguments.epochs, "--patience", arguments.epochs, *COMMON, *VARIANTS[name]]
                    run_command(["-m", "resnet_zclass.train", *words])
                    found.append(json.loads(Path(tmp, run, "evaluation", "metrics.json").read_text()))
                rows.append({"set": path.name, "trained by": name} | summarise(found))
                report("ordinal", rows, epochs=arguments.epochs)


def summarise(found: list[dict]) -> dict[str, str]:
    """Mean and standard deviation of every score over the seeds.

    >>> summarise([dict.fromkeys(SCORES, 0.5), dict.fromkeys(SCORES, 0.7)])["accuracy"]
    '0.600 +- 0.141'
    """
    values = {key: [scores[key] for scores in found] for key in SCORES}
    return {key: f"{np.mean(some):.3f} +- {np.std(some, ddof=1):.3f}" for key, some in values.items()}


if __name__ == "__main__":
    main()
