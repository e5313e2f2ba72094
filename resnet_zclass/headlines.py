"""The numbers of an evaluation that are told first, as a table and in sentences; for the screen and for pages."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from resnet_zclass.calibration import COVERAGE

# What is told, where it was computed: key, words, decimals.
HEADLINES = (
    ("accuracy", "right", 3),
    ("balanced_accuracy", "right, classes alike", 3),
    ("macro_f1", "F1, mean of classes", 3),
    ("samples_f1", "F1, mean of images", 3),
    ("micro_f1", "F1, all labels together", 3),
    ("within_one", "within one plane", 3),
    ("mae_planes", "mean |error| (planes)", 2),
    ("rmse_planes", "RMS error (planes)", 2),
    ("mae_um", "mean |error| (um)", 3),
    ("rmse_um", "RMS error (um)", 3),
    ("rmse_z_um", "RMS error of mean z (um)", 3),
    ("spread_z_um", "spread of mean z in a plane (um)", 3),
    ("loss", "loss", 3),
)

# Whose scores stand side by side, and what their keys start with.
COLUMNS = {
    "network": "",
    "baseline": "baseline_",
    "baseline, random split": "baseline_random_",
    "ceiling": "ceiling_",
    "ceiling, unaided": "ceiling_unknown_",
}

SEEN = {
    "n_seen": "are images that training saw too",
    "n_near_seen": "are all but images that training saw too",
    "n_groups_seen": "belong to groups that training saw too",
}


def tabulate_scores(scores: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings, and rows of words and a number under each heading; empty where there is none.

    The ceiling is the best that physics allows one who knows position and brightness of every bead; unaided, one who
    has to find them.

    >>> tabulate_scores({"n": 9, "accuracy": 0.5, "baseline_accuracy": 0.25})
    (['network', 'baseline'], [['right', '0.500', '0.250']])
    """
    columns = {heading: prefix for heading, prefix in COLUMNS.items() if f"{prefix}accuracy" in scores}
    rows = []
    for key, words, decimals in HEADLINES:
        if key in scores and not (key == "macro_f1" and "within_one" in scores):  # planes are judged by distance
            cells = (scores.get(prefix + key) for prefix in columns.values())
            rows.append([words, *("" if value is None else f"{value:.{decimals}f}" for value in cells)])
    return list(columns), rows


def describe_scores(scores: Mapping[str, Any]) -> list[str]:
    """What else there is to say of scores, a sentence each.

    >>> describe_scores({"n": 9, "accuracy": 0.2, "n_unlike": 3})
    ['Unlike the training set: 3 of 9 crops.']
    """
    lines = []
    if "set_size" in scores:
        lines.append(
            f"Confidence is off by {scores['ece']:.3f} on average, by {scores['ece_tempered']:.3f} "
            f"at the temperature of split val, {scores['temperature']:.2f}."
        )
        lines.append(
            f"Sets to hold the true class of {COVERAGE:.0%} of the images hold that of {scores['set_coverage']:.1%}, "
            f"with {scores['set_size']:.2f} classes on average."
        )
    if "z_sd_ratio" in scores:
        lines.append(f"Errors of z are {scores['z_sd_ratio']:.2f} times as large as z_um_sd says.")
    if "n_unlike" in scores:
        lines.append(f"Unlike the training set: {scores['n_unlike']} of {scores['n']} crops.")
    ratio = scores.get("rmse_to_crlb")
    if ratio is not None and np.isfinite(ratio):
        lines.append(
            f"z, mean of the probabilities: RMS error {scores['rmse_z_um']:.4f} um, {ratio:.2f} times "
            f"the Cramer-Rao bound of {scores['crlb_um']:.4f} um."
        )
    if "baseline_random_accuracy" in scores and "baseline_accuracy" in scores:
        gain = scores["baseline_random_accuracy"] - scores["baseline_accuracy"]
        lines.append(f"A random split that tears groups apart would change the baseline's share right by {gain:+.3f}.")
    return lines


def list_warnings(scores: Mapping[str, Any]) -> list[str]:
    """What makes scores worth less than they look, a sentence each.

    >>> list_warnings({"n": 9, "accuracy": 0.2, "baseline_accuracy": 0.4})
    ['The network loses to the baseline: do not trust it over a linear model on these data.']
    """
    lines = [f"{scores[key]} of {scores['n']} images {words}, so the scores flatter." for key, words in SEEN.items()
             if scores.get(key)]  # fmt: skip
    judged = "macro_f1" if "micro_f1" in scores else "accuracy"
    if (scores.get(f"baseline_{judged}") or 0) > (scores.get(judged) or 0):
        lines.append("The network loses to the baseline: do not trust it over a linear model on these data.")
    return lines
