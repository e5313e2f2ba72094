"""Cross-validation by group: train and test several times, each time on another share of the groups."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet_zclass.evaluate import Evaluation, evaluate_run, print_scores, score
from resnet_zclass.files import whole_file
from resnet_zclass.loader import Dataset, split_by_group, split_in_folds
from resnet_zclass.runs import FOLDS_FILE, read_run


def cross_validate(data: Dataset, run_path: Path, train: Callable[..., None], n_folds: int, seed: int) -> dict:
    """Trains and tests `n_folds` times, each time on another share of the groups, and pools the test predictions.

    Writes the runs `fold_0`, `fold_1`, ... and `folds.json`: the scores of every fold, of all test crops pooled, and
    mean and standard deviation over folds.
    """
    groups, labels = data.items.group.to_numpy(), data.labels
    fold_of_crop = split_in_folds(groups, n_folds, seed, labels)
    evaluations: list[Evaluation] = []
    for fold in range(n_folds):
        print(f"fold {fold + 1} of {n_folds}")
        splits = np.full(len(data.items), "test", dtype="<U5")
        rest = fold_of_crop != fold
        splits[rest] = split_by_group(groups[rest], (0.85, 0.15, 0.0), seed=seed + fold, labels=labels[rest])
        fold_data = data.with_splits(splits)
        train(fold_data, run_path / f"fold_{fold}", is_fold=True)
        evaluations.append(evaluate_run(read_run(run_path / f"fold_{fold}"), fold_data, "test", fold_data))
    summary = pool_evaluations(evaluations, data)
    with whole_file(run_path / FOLDS_FILE) as partial:
        partial.write_text(json.dumps(summary, indent=2) + "\n")
    print_scores(summary["pooled"], f"{run_path}, {n_folds} folds pooled")
    return summary


def pool_evaluations(evaluations: list[Evaluation], data: Dataset) -> dict:
    """Scores of every fold (`folds`), of all folds' predictions together (`pooled`), their `mean` and `std`."""
    labels, probabilities, baseline = (
        np.concatenate([getattr(evaluation, name) for evaluation in evaluations])
        for name in ("labels", "probabilities", "baseline")
    )
    z_um = data.classes.z_um.to_numpy(float)
    folds = [evaluation.scores for evaluation in evaluations]
    numbers = [key for key, value in folds[0].items() if isinstance(value, float)]
    return {
        "pooled": score(labels, probabilities, baseline, data.is_z, None if np.isnan(z_um).any() else z_um),
        "mean": {key: float(np.mean([fold[key] for fold in folds])) for key in numbers},
        "std": {key: float(np.std([fold[key] for fold in folds], ddof=1)) for key in numbers},
        "folds": folds,
    }
