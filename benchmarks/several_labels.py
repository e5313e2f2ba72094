"""What helps a rare label: oversampling, class weights and losses on drawn cells with several labels; the early stop.

`python -m benchmarks.several_labels` draws a set of its own for every seed and trains `train --opts hpa_cnn`, made
small, once per row on each. All rows of a seed share set, splits and training seed. How hard the rare label is depends
on its frequency `--rare`. The folder `tests` of the repository draws the cells.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score, f1_score

from benchmarks.measure import report, run_command

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
from drawn_labels import CHANNELS, NAMES, write_labelled_folder

COMMON = (0.6, 0.5, 0.35)  # frequencies of the other labels
RARE = NAMES[-1]
N_TRAIN = 300
N_RARE = {"val": 16, "test": 40}  # images with the rare label, on average, whatever its frequency
SIDE_PX = 32

# The preset made small: images, batches, shifts and dense layers, and the names of these classes for those of HPA. The
# learning rate follows one half cosine and nothing stops early, so that all rows are trained alike.
SMALL = ["--opts", "hpa_cnn", "--num_class", len(NAMES), "--im_size", SIDE_PX, "--batch_size", 16, "--shift_px", 1]
SMALL += ["--hidden", 64, "--dropout", 0, "--oversample"]
ALIKE = ["--schedule", "cosine", "--patience", 1000]
OVERSAMPLE = ["--oversample", RARE]

LONGER = 1.44  # images in an epoch with OVERSAMPLE at the default frequency, in images without
LONG_PLAIN = f"plain, {LONGER:.2f} x the epochs"

VARIANTS = {
    "plain": [],
    LONG_PLAIN: [],  # takes as many steps as the row that oversamples to the mean of the others
    "--oversample_to 60": ["--oversample_to", 60],
    f"--oversample {RARE}": OVERSAMPLE,
    "--class_weights balanced": ["--class_weights", "balanced"],
    "--loss focal": ["--loss", "focal"],
    "--loss asymmetric": ["--loss", "asymmetric"],
}
# F1 of the rare label and mean F1 of all labels at the thresholds fitted on val (the default) and at 0.5; average
# precision of the rare label, which knows no threshold.
KEYS = ("rare F1", "rare F1 at 0.5", "rare AP", "macro F1", "macro F1 at 0.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3, help="number of repeats")
    parser.add_argument("--rare", type=float, default=0.02, help="frequency of the rare label")
    arguments = parser.parse_args()
    sizes = {"train": N_TRAIN} | {split: round(n / arguments.rare) for split, n in N_RARE.items()}
    facts = vars(arguments) | {"sizes": sizes, "side_px": SIDE_PX, "common": COMMON, "rare_label": RARE}
    runs, counts = [], {}
    with tempfile.TemporaryDirectory() as tmp:
        for seed in range(arguments.seeds):
            folder = draw_set(Path(tmp, f"cells{seed}"), sizes, (*COMMON, arguments.rare), seed)
            counts[seed] = count_rare(folder)
            if seed == 0:
                show_early_stop(folder, Path(tmp, "logs"), arguments.epochs)
            runs += compare(folder, Path(tmp, "logs"), arguments.epochs, seed)
            report("several_labels", summarise(runs), runs=runs, rare_counts=counts, **facts)
    print(f"mean ± standard deviation of {arguments.seeds} seeds; images with the rare label per seed: {counts}")
    written = json.loads(Path(__file__).with_suffix(".json").read_text())
    print(facts | written["machine"] | written["versions"])


def draw_set(folder: Path, sizes: dict[str, int], frequencies: tuple[float, ...], seed: int) -> Path:
    """Draws a folder of cells whose table says which split each is in."""
    write_labelled_folder(folder, sum(sizes.values()), SIDE_PX, seed, frequencies)
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    table.assign(split=np.repeat(list(sizes), list(sizes.values()))).to_csv(folder / "labels.csv", index=False)
    return folder


def count_rare(folder: Path) -> dict[str, int]:
    """Images with the rare label in every split."""
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    is_rare = table.Target.str.split().apply(lambda numbers: str(NAMES.index(RARE)) in numbers)
    return {split: int(is_rare[table.split == split].sum()) for split in pd.unique(table.split)}


def train(folder: Path, run_path: Path, epochs: int, seed: int, words: list) -> dict:
    """Trains and evaluates a run; returns its folder and its time."""
    where = ["--data_path", folder, "--save_logs_path", run_path.parent, "--run_name", run_path.name]
    named = ["--class_names", folder / "classes.csv", "--channels", *CHANNELS]
    options = [*SMALL, *where, *named, "--epochs", epochs, "--seed", seed, *words]
    return {"path": run_path} | run_command(["-m", "resnet_zclass.train", *options])


def compare(folder: Path, logs_path: Path, epochs: int, seed: int) -> list[dict]:
    """Trains every variant on one set; returns a row of scores for each."""
    rows = []
    for k, (name, words) in enumerate(VARIANTS.items()):
        own_epochs = round(epochs * (LONGER if name == LONG_PLAIN else 1))
        run = train(folder, logs_path / f"{seed}_{k}", own_epochs, seed, [*ALIKE, *words])
        rows.append({"trained with": name, "seed": seed, **score(run["path"]), "seconds": run["seconds"]})
    return rows


def score(run_path: Path) -> dict[str, float]:
    """The scores `KEYS` of a run on its test split, from the predictions and the metrics that it wrote."""
    table = pd.read_csv(run_path / "evaluation" / "predictions.csv", keep_default_na=False)
    truth = np.array([[name in cell.split(";") for name in NAMES] for cell in table.true_label])
    p = table[[f"p_{name}" for name in NAMES]].to_numpy()
    scores = json.loads((run_path / "evaluation" / "metrics.json").read_text())
    half = f1_score(truth, p >= 0.5, average=None, zero_division=0)
    precision = average_precision_score(truth[:, -1], p[:, -1])
    values = (scores["per_class"][RARE]["f1"], half[-1], precision, scores["macro_f1"], half.mean())
    return dict(zip(KEYS, map(float, values), strict=True))


def summarise(runs: list[dict]) -> list[dict]:
    """A row per variant: mean ± standard deviation over seeds, and the same of its differences to plain training."""
    table = pd.DataFrame(runs)
    plain = table[table["trained with"] == "plain"].set_index("seed")
    rows = []
    for name in VARIANTS:
        own = table[table["trained with"] == name].set_index("seed")
        gain = {f"{key} - plain": own[key] - plain[key] for key in ("rare F1", "rare AP")}
        cells = {key: _spread(own[key]) for key in KEYS} | {key: _spread(d, "+") for key, d in gain.items()}
        rows.append({"trained with": name, **cells, "seconds": float(own.seconds.mean())})
    return rows


def _spread(values: pd.Series, sign: str = "") -> str:
    spread = f" ± {values.std():.2f}" if len(values) > 1 else ""
    return f"{values.mean():{sign}.2f}{spread}"


def show_early_stop(folder: Path, logs_path: Path, epochs: int) -> None:
    """Trains one run that stops at the best macro F1 on val; shows all epochs and which of them was saved."""
    words = ["--monitor", "val_macro_f1", "--patience", 8, "--learning_rate", 0.01]  # high, so that F1 goes up and down
    run_path = train(folder, logs_path / "stop", epochs, 0, words)["path"]
    history = pd.read_csv(run_path / "fine_tune_model" / "training_history.csv")
    best, last = history.val_macro_f1.idxmax(), len(history) - 1
    saved = validation_macro_f1(run_path)
    rows = [
        {
            "epoch": int(row.epoch),
            "val_macro_f1": f"{row.val_macro_f1:.6f}",
            "val_loss": f"{row.val_loss:.4f}",
            "": " ".join(["best F1"] * (k == best) + ["least loss"] * (k == history.val_loss.idxmin())),
        }
        for k, row in history.iterrows()
    ]
    f1 = history.val_macro_f1
    is_best, is_last = (bool(abs(saved - f1[k]) < 1e-6) for k in (best, last))
    facts = {"epochs": epochs, "saved_val_macro_f1": saved, "is_best_row": is_best, "is_last_row": is_last}
    report("several_labels_stop", rows, **facts)
    print(f"val_macro_f1 of the saved model, by scikit-learn from its predictions: {saved:.6f}")
    print(f"as in the best row (epoch {best}, {f1[best]:.6f}): {is_best}; as in the last ({f1[last]:.6f}): {is_last}")
    if not is_best:
        raise SystemExit("failed: the saved model is not that of the best epoch")


def validation_macro_f1(run_path: Path) -> float:
    """Mean F1 of the classes on the split val, at 0.5, of the model that a run saved."""
    from resnet_zclass.predict import predict_probabilities
    from resnet_zclass.runs import read_run

    run = read_run(run_path)
    data = run.read_own_set()
    val = data.indices("val")
    p = predict_probabilities(run.load_model(), data.crops[val])
    return float(f1_score(data.targets[val], p >= 0.5, average="macro", zero_division=np.nan))


if __name__ == "__main__":
    main()
