"""Cross-validation by group: train and test several times, each time on another share of the groups."""

import shutil
from collections.abc import Callable
from pathlib import Path

import lazy_loader as lazy
import numpy as np
from rich.console import Console
from rich.table import Table

import resnet_zclass as rz
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import Evaluation, Predicted, evaluate_run, print_scores, score, to_json
from resnet_zclass.files import whole_file
from resnet_zclass.headlines import HEADLINES
from resnet_zclass.loader import Dataset
from resnet_zclass.prepare import check_classes
from resnet_zclass.runs import FAMILIAR_FILE, FOLDS_FILE, MODEL_FILE, read_run, write_classes
from resnet_zclass.splits import carve_validation, fold_multi_label, split_in_folds
from resnet_zclass.trust import write_calibration

pd = lazy.load("pandas")

MAX_COLUMNS = 8  # of a table on a terminal


def cross_validate(
    data: Dataset,
    run_path: Path,
    train: Callable[..., None],
    n_folds: int,
    seed: int,
    val_fraction: float = 0.15,
    keep_val: bool = False,
) -> dict:
    """Trains and tests `n_folds` times, each time on another share of the groups, and pools the test predictions.

    Writes the runs `fold_0`, `fold_1`, ... and `folds.json`: the scores of every fold, of all test crops pooled, and
    mean and standard deviation over folds.

    Args:
        data: The set; how it is split matters only with `keep_val`.
        run_path: Folder to write.
        train: `train.train_run` with all but the set and the folder.
        n_folds: Number of folds, 2 or more.
        seed: Seed of the folds.
        val_fraction: Share of the images of the other folds that a fold is validated on.
        keep_val: Whether the split val stays as it is in all folds instead.

    Raises:
        InputError: If there are fewer groups (of a label) than folds, or `keep_val` finds no split val.
    """
    kept = (data.items.split == "val").to_numpy() & keep_val
    if keep_val and not kept.any():
        raise InputError(f"--keep_val: {data.path} has no split val.")
    dealt = np.flatnonzero(~kept)
    groups = data.items.group.to_numpy()[dealt]
    if data.several or _are_mixed(groups, data.items.label.to_numpy()[dealt]):
        folds = fold_multi_label(data.targets[dealt], groups, n_folds, seed)
    else:
        folds = split_in_folds(groups, n_folds, seed, data.labels[dealt])
    all_fold_data = []
    for fold in range(n_folds):
        splits = np.full(len(data.items), "val", dtype="<U5")
        splits[dealt] = np.where(folds == fold, "test", "train")
        fold_data = data.with_splits(splits)
        all_fold_data.append(fold_data if keep_val else hold_out_validation(fold_data, val_fraction, seed + fold))
        if not data.several:
            check_classes(all_fold_data[-1])  # of all folds before the first is trained for hours
    evaluations: list[Evaluation] = []
    for fold, fold_data in enumerate(all_fold_data):
        print(f"fold {fold + 1} of {n_folds}")
        train(fold_data, run_path / f"fold_{fold}", is_fold=True)
        evaluations.append(evaluate_run(read_run(run_path / f"fold_{fold}"), fold_data, "test", fold_data))
    summary = pool_evaluations(evaluations, data)
    write_mean(run_path, data, evaluations)
    with whole_file(run_path / FOLDS_FILE) as partial:
        partial.write_text(to_json(summary) + "\n")
    print_folds(summary)
    print_scores(summary["pooled"], f"{run_path}, {n_folds} folds pooled")
    return summary


def write_mean(run_path: Path, data: Dataset, evaluations: list[Evaluation]) -> None:
    """Makes the folder of all folds a run whose model is the mean of theirs, with what they teach of how far to trust.

    Errors are those of single folds on images that these had not seen; their mean does no worse.
    """
    runs = [read_run(run_path / f"fold_{fold}") for fold in range(len(evaluations))]
    model = rz.models.average_models([run.load_model() for run in runs])
    if data.several:
        write_classes(run_path, data, np.mean([run.thresholds for run in runs], axis=0))
    else:
        labels = np.concatenate([evaluation.truth for evaluation in evaluations])
        probabilities = np.concatenate([evaluation.network.probabilities for evaluation in evaluations])
        write_calibration(run_path, data, labels, probabilities)
        if (runs[0].path / FAMILIAR_FILE).is_file():
            shutil.copyfile(runs[0].path / FAMILIAR_FILE, run_path / FAMILIAR_FILE)
    with whole_file(run_path / MODEL_FILE) as partial:
        model.save(partial)
    print(f"model, the mean of {len(runs)} folds: {run_path / MODEL_FILE}")


def _are_mixed(groups: np.ndarray, labels: np.ndarray) -> bool:
    """Whether some groups hold one label and others several, so that they cannot be dealt out label by label."""
    n_labels = pd.Series(labels).groupby(groups).nunique()
    return bool((n_labels == 1).any() and (n_labels > 1).any())


def hold_out_validation(data: Dataset, fraction: float, seed: int) -> Dataset:
    """Moves a share of the split train to val: by group where every class has several groups there, else by image."""
    train = data.indices("train")
    groups = data.items.group.to_numpy()[train]
    truth = {"targets": data.targets[train]} if data.several else {"labels": data.labels[train]}
    chosen, by_group = carve_validation(groups, fraction, seed, **truth)
    if not by_group:
        print("note: a class has a single group to train on, so images are held out for validation one by one.")
    splits = data.items.split.to_numpy(copy=True)
    splits[train[chosen]] = "val"
    return data.with_splits(splits)


def pool_evaluations(evaluations: list[Evaluation], data: Dataset) -> dict:
    """Scores of every fold (`folds`), of all folds' predictions together (`pooled`), their `mean` and `std`."""

    def pool(parts: list[Predicted]) -> Predicted:
        thresholds = [part.thresholds for part in parts if part.thresholds is not None]
        probabilities = np.concatenate([part.probabilities for part in parts])
        return Predicted(probabilities, np.concatenate(thresholds) if thresholds else None)

    z_um = data.classes.z_um.to_numpy(float)
    folds = [evaluation.scores for evaluation in evaluations]
    numbers = [key for key, value in folds[0].items() if isinstance(value, float)]
    return {
        "pooled": score(
            np.concatenate([evaluation.truth for evaluation in evaluations]),
            pool([evaluation.network for evaluation in evaluations]),
            pool([evaluation.baseline for evaluation in evaluations]),
            data.is_z,
            None if np.isnan(z_um).any() else z_um,
        ),
        "mean": {key: float(np.mean([fold[key] for fold in folds])) for key in numbers},
        "std": {key: float(np.std([fold[key] for fold in folds], ddof=1)) for key in numbers},
        "folds": folds,
    }


def print_folds(summary: dict) -> None:
    """Prints the headlines fold by fold, with mean and standard deviation."""
    columns = [*enumerate(summary["folds"], start=1), ("mean", summary["mean"]), ("std", summary["std"])]
    if len(columns) > MAX_COLUMNS:
        columns = columns[-2:]
    table = Table("fold", *(str(name) for name, _ in columns))
    for key, words, decimals in HEADLINES:
        if key in summary["mean"]:
            table.add_row(words, *(f"{scores[key]:.{decimals}f}" for _, scores in columns))
    Console().print(table)
