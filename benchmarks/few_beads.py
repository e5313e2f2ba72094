"""How good z is told after training on few real beads: from scratch, from ImageNet, and from what `pretrain` learnt.

`python -m benchmarks.few_beads STACK.tif --imagenet resnet50_notop.weights.h5` cuts the beads of a stack, labels them
by distance from their own focus, and trains on some of those in one part of the field (a sixth of them for
validation); beads of the opposite part are the test. Splits: it lies at the bottom, the top, the right of the field.
"""

import argparse
import json
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.measure import report, run_command
from resnet_zclass.loader import Dataset, read_dataset, write_dataset

N_TEST = 14
SIZES = (24, 6, 12, 3)
SPLITS = {"bottom": ("y", False), "top": ("y", True), "right": ("x", False)}
COMMON = ["--soft_labels", 1, "--flip", "--optimizer", "adam", "--schedule", "cosine", "--epochs", 80, "--patience", 80]
SMALL = [*COMMON, "--model_name", "ResNet20"]
RECIPES = {
    "from scratch": [*SMALL, "--weights", "none"],
    "psf": [
        *SMALL, "--weights", "psf", "--head_epochs", 60, "--learning_rate", 3e-3, "--fine_tune_learning_rate", 1e-3,
    ],
    "ImageNet ResNet50": [
        *COMMON, "--model_name", "ResNet50", "--im_size", 64, "--head_epochs", 60, "--epochs", 10,
        "--fine_tune_learning_rate", 1e-4,
    ],
}  # fmt: skip
SCORES = ("accuracy", "within_one", "mae_planes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stack", type=Path)
    parser.add_argument("--imagenet", type=Path, help="weights of ResNet50 without top; left out without")
    parser.add_argument("--z_step_um", type=float, default=0.1)
    parser.add_argument("--beads", type=int, nargs="+", default=SIZES)
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--figure", type=Path, default=Path("few_beads.png"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        make = ["--source_path", arguments.stack, "--data_path", folder / "all", "--z_step_um", arguments.z_step_um]
        run_command(["-m", "resnet_zclass.make_dataset", *make, "--focus", "relative", "--min_distance_px", 28])
        data = read_dataset(folder / "all")
        for split in arguments.splits:
            for n in arguments.beads:
                path = folder / f"{split}_{n}"
                take_beads(data, path, split, n)
                for name, words in RECIPES.items():
                    if "ResNet50" in name:
                        if arguments.imagenet is None:
                            continue
                        words = [*words, "--weights", arguments.imagenet]
                    rows += train(path, name, words, {"beads": n, "test": split})
                report("few_beads", rows)
                draw(rows, arguments.figure)


def take_beads(data: Dataset, path: Path, split: str, n: int) -> None:
    """Writes a set of `n` beads, drawn from one part of the field, and of those at its opposite end as test."""
    axis, is_first = SPLITS[split]
    beads = data.items.groupby("group")[["y", "x"]].mean().sort_values(axis, ascending=is_first).index.to_numpy()
    drawn = np.random.default_rng([n, list(SPLITS).index(split)]).permutation(beads[N_TEST:])[:n]
    n_val = max(1, round(n / 6))
    of = dict.fromkeys(beads[:N_TEST], "test")
    of |= dict.fromkeys(drawn[:n_val], "val") | dict.fromkeys(drawn[n_val:], "train")
    items = data.items.assign(split=data.items["group"].map(of), label=data.classes.LabelText.to_numpy()[data.labels])
    kept = np.flatnonzero(items.split.notna())
    columns = ["split", "label", "group", "source", "plane", "z_um", "y", "x"]
    path.mkdir()
    table = items.iloc[kept][columns].reset_index(drop=True)
    write_dataset(path, data.crops[kept][..., 0], table, data.classes[["LabelText", "LabelInteger"]])


def train(path: Path, name: str, words: list, facts: dict) -> list[dict]:
    """Rows of a recipe, and of the classical baseline with the first recipe of a set."""
    logs = path.parent / "logs"
    run = [f"{path.name}_{name.replace(' ', '_')}"]
    common = ["--data_path", path, "--save_logs_path", logs, "--run_name", *run]
    seconds = run_command(["-m", "resnet_zclass.train", *common, *words])["seconds"]
    scores = json.loads((logs / run[0] / "evaluation" / "metrics.json").read_text())
    rows = [facts | {"trained": name} | {key: scores[key] for key in SCORES} | {"s": seconds}]
    if name == next(iter(RECIPES)):
        rows.insert(0, facts | {"trained": "linear baseline"} | {key: scores[f"baseline_{key}"] for key in SCORES})
    return rows


def draw(rows: list[dict], path: Path) -> None:
    """Learning curves: mean of the splits as lines, every split as a point."""
    figure, axes = plt.subplots(1, len(SCORES), figsize=(12, 4), layout="constrained")
    names = list(dict.fromkeys(row["trained"] for row in rows))
    for axis, key, title in zip(
        axes, SCORES, ("exact plane", "within one plane", "mean |error| (planes)"), strict=True
    ):
        for k, name in enumerate(names):
            own = [row for row in rows if row["trained"] == name]
            sizes = sorted({row["beads"] for row in own})
            axis.plot(sizes, [np.mean([r[key] for r in own if r["beads"] == n]) for n in sizes], f"C{k}-", label=name)
            axis.plot([row["beads"] for row in own], [row[key] for row in own], f"C{k}.", alpha=0.5)
        axis.set(xlabel="beads trained on, validation included", title=title, xscale="log")
        axis.set_xticks(sorted({row["beads"] for row in rows}), sorted({row["beads"] for row in rows}))
        axis.minorticks_off()
    axes[-1].set_yscale("log")
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


if __name__ == "__main__":
    main()
