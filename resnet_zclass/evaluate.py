"""How good a run is on a split of its data, beside a classical baseline and, for simulated sets, the physical limit."""

import dataclasses
import json
import sys
from pathlib import Path

import lazy_loader as lazy
import numpy as np
from rich.console import Console
from rich.table import Table

import resnet_zclass as rz
from resnet_zclass import figures, metrics
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_folder
from resnet_zclass.loader import Dataset, read_dataset
from resnet_zclass.opts import EvaluateOptions, require
from resnet_zclass.pack import Subset
from resnet_zclass.predict import build_table, predict_probabilities
from resnet_zclass.runs import Run, read_run

pd = lazy.load("pandas")

# What is printed, where it was computed: key, words, decimals.
HEADLINES = (
    ("accuracy", "right class", 3),
    ("balanced_accuracy", "right class, classes alike", 3),
    ("within_one", "within one plane", 3),
    ("mae_planes", "mean |error| (planes)", 2),
    ("rmse_planes", "RMS error (planes)", 2),
    ("mae_um", "mean |error| (um)", 3),
    ("rmse_um", "RMS error (um)", 3),
    ("loss", "loss", 3),
)

# Whose scores stand side by side, and what their keys start with.
COLUMNS = {"network": "", "baseline": "baseline_", "ceiling": "ceiling_", "ceiling, unaided": "ceiling_unknown_"}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions for a split and how good they are.

    Attributes:
        labels: True class indices, int array `(N,)`.
        probabilities: The network's, float array `(N, K)`.
        baseline: The classical baseline's, float array `(N, K)`; None where there is nothing to train it on.
        scores: What `metrics.json` holds.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    baseline: np.ndarray | None
    scores: dict


@command("evaluate")
def main(options: EvaluateOptions) -> None:
    """Evaluates the run named by the options."""
    require(options, "load_logs_path")
    run = read_run(options.load_logs_path)
    data_path = Path(options.data_path or run.options.data_path)
    data, own_path = read_dataset(data_path), Path(run.options.data_path)
    of_split = "" if options.split == "test" else f"_{options.split}"
    if data_path.resolve() == own_path.resolve():
        data = trained_on = run.restore_split(data)
        folder_name = f"evaluation{of_split}"
    else:
        trained_on = run.restore_split(read_dataset(own_path)) if own_path.is_dir() else None
        folder_name = f"evaluation_{data_path.resolve().name}{of_split}"
    evaluate_run(run, data, options.split, trained_on, options.batch_size, folder_name)


def evaluate_run(
    run: Run,
    data: Dataset,
    split: str,
    trained_on: Dataset | None,
    batch_size: int = 64,
    folder_name: str = "evaluation",
) -> Evaluation:
    """Evaluates a run on a split, prints the headlines, and writes a folder of the run.

    Args:
        run: A finished run.
        data: The set.
        split: `"train"`, `"val"` or `"test"`.
        trained_on: The set whose split train the run saw; the baseline is trained on the same. None: no baseline.
        batch_size: Crops per step.
        folder_name: Name of the folder to write in that of the run.

    Raises:
        InputError: If the set lacks the split, or its classes or crops are not those of the run.
    """
    model = run.load_model()
    indices = _check_fits(run, model.input_shape[1:], data, split)
    labels, crops = data.labels[indices], Subset(data.crops, indices)
    probabilities = predict_probabilities(model, crops, batch_size)
    baseline = None
    if trained_on is not None and split != "train":
        train = trained_on.indices("train")
        baseline = rz.baseline.predict_baseline(
            Subset(trained_on.crops, train), trained_on.labels[train], crops, len(run.classes), run.options.seed
        )
    scores = score(labels, probabilities, baseline, data.is_z, run.z_um)
    scores |= {"split": split, "data_path": str(data.path), **(_read_ceiling(data.path) if split == "test" else {})}
    write_evaluation(run.path / folder_name, run, data, indices, probabilities, scores)
    print_scores(scores, f"{run.path}, split {split} of {data.path}")
    print(f"figures and tables: {run.path / folder_name}")
    return Evaluation(labels, probabilities, baseline, scores)


def score(
    labels: np.ndarray,
    probabilities: np.ndarray,
    baseline: np.ndarray | None = None,
    is_z: bool = False,
    z_um: np.ndarray | None = None,
) -> dict:
    """The metrics of predictions, and the same of the baseline's with keys that start `baseline_`.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Float array `(N, K)`.
        baseline: The baseline's probabilities `(N, K)`.
        is_z: Whether the classes are z planes.
        z_um: z of every class in um, `(K,)`.
    """

    def of(p: np.ndarray) -> dict:
        scores = metrics.classification_metrics(labels, p)
        return scores | (metrics.z_metrics(labels, p.argmax(axis=1), z_um) if is_z else {})

    scores = of(probabilities)
    if baseline is not None:
        scores |= {f"baseline_{key}": value for key, value in of(baseline).items() if key != "n"}
    return scores


def write_evaluation(
    folder: Path, run: Run, data: Dataset, indices: np.ndarray, probabilities: np.ndarray, scores: dict
) -> None:
    """Writes `metrics.json`, `per_class.csv`, `confusion.csv`, `predictions.csv` and the figures, all or none."""
    names, labels = run.class_names, data.labels[indices]
    confusion = metrics.confusion_matrix(labels, probabilities.argmax(axis=1), len(names))
    per_class = metrics.per_class_metrics(confusion)
    if not data.is_z:
        per_class = {key: values for key, values in per_class.items() if not key.endswith("_planes")}
    rows = data.items.iloc[indices][["file", "page"]].to_dict("records")
    predictions = build_table(run, rows, probabilities)
    predictions.insert(2, "true_label", data.items.label.to_numpy()[indices])
    with whole_folder(folder, overwrite=True, mark="metrics.json") as partial:
        (partial / "metrics.json").write_text(json.dumps(scores, indent=2) + "\n")
        pd.DataFrame({"label": names, **per_class}).to_csv(partial / "per_class.csv", index=False)
        pd.DataFrame(confusion, index=pd.Index(names, name="true \\ predicted"), columns=names).to_csv(
            partial / "confusion.csv"
        )
        predictions.to_csv(partial / "predictions.csv", index=False)
        figures.draw_confusion(confusion, names, partial / "confusion.png")
        if data.is_z:
            figures.draw_plane_errors(per_class, names, run.z_um, partial / "error_per_plane.png")


def print_scores(scores: dict, title: str) -> None:
    """Prints the headlines: the network's, the baseline's, and the best that physics allows.

    The last for one who knows position and brightness of every bead, and for one who has to find them (unaided).
    """
    print(f"{title}: {scores['n']} images")
    columns = {heading: prefix for heading, prefix in COLUMNS.items() if f"{prefix}accuracy" in scores}
    table = Table()
    table.add_column()
    for heading in columns:
        table.add_column(heading, justify="right")
    for key, words, decimals in HEADLINES:
        if key in scores:
            cells = (scores.get(prefix + key) for prefix in columns.values())
            table.add_row(words, *("" if value is None else f"{value:.{decimals}f}" for value in cells))
    Console().print(table)
    if scores.get("baseline_accuracy", 0) > scores["accuracy"]:
        print("The network loses to the baseline: do not trust it over a linear model on these data.")


def _check_fits(run: Run, crop_shape: tuple[int, ...], data: Dataset, split: str) -> np.ndarray:
    """Indices of the split's crops, if they are what the run takes."""
    if list(data.classes.LabelText) != run.class_names:
        raise InputError(f"{data.path} has other classes than the run {run.path}; both lists must be the same.")
    indices = data.indices(split)
    if not len(indices):
        raise InputError(f"--split {split}: {data.path} has no such split.")
    if data.crops.shape[1:] != crop_shape:
        raise InputError(f"{data.path} has crops of {data.crops.shape[1:]}; the run was trained on {crop_shape}.")
    run.check_crops(data.crops.dtype, data.path)
    if not np.allclose(data.classes.z_um, run.classes.z_um, atol=1e-6, equal_nan=True):
        raise InputError(f"{data.path} has its planes at other z than the run {run.path}; the classes mean other z.")
    return indices


def _read_ceiling(data_path: Path) -> dict:
    """The best accuracy physics allows on a simulated set, as metrics; none for a measured one."""
    try:
        ceiling = json.loads((data_path / "simulation.json").read_text())["ceiling"]
        return {
            prefix + key: float(ceiling[name][key])
            for name, prefix in (("known", "ceiling_"), ("unknown", "ceiling_unknown_"))
            if name in ceiling
            for key in ("accuracy", "within_one")
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


if __name__ == "__main__":
    sys.exit(main())
