"""What is read from evaluated runs to show it on a page, and a page that compares several of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lazy_loader as lazy

import resnet_zclass as rz
from resnet_zclass import headlines
from resnet_zclass.errors import InputError
from resnet_zclass.files import read_json, whole_file
from resnet_zclass.headlines import list_warnings
from resnet_zclass.labels import READ_TEXT
from resnet_zclass.opts import list_changes
from resnet_zclass.page import compose_page
from resnet_zclass.runs import ROUND_FOLDERS, Run

pd = lazy.load("pandas")

FIGURES = {
    "error_per_plane.png": "Error of the plane, plane by plane",
    "limits.png": "Error of z beside the Cramer-Rao bound",
    "reliability.png": "How often the network is right beside how sure it is",
    "per_class.png": "F1, precision and recall of every class",
}


def read_scores(folder: Path) -> dict[str, Any]:
    """What `metrics.json` of an evaluation holds.

    Raises:
        InputError: If it is missing or damaged.
    """
    try:
        scores = read_json(folder / "metrics.json")
        if not all(isinstance(scores[key], int | float) for key in ("n", "accuracy")):
            raise ValueError("n and accuracy are no numbers")
        for key, value in scores.items():
            kind = {"split": str, "data_path": str, "per_class": dict}.get(key, int | float | None)
            if not isinstance(value, kind):
                raise ValueError(f"{key} is {value!r}")
        return scores
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is no whole evaluation (metrics.json: {error}); evaluate the run first.") from error


def list_curves(run: Run) -> list[Path]:
    """Pictures of the curves of the rounds of a run."""
    return [path for name in ROUND_FOLDERS if (path := run.path / name / "live.png").is_file()]


def write_comparison(path: Path, runs: Sequence[Run], evaluation: str = "evaluation") -> None:
    """Writes a page with the scores, options, figures and curves of several runs side by side.

    Raises:
        InputError: If one is not evaluated.
    """
    names = [str(run.path) for run in runs]
    folders = [run.path / evaluation for run in runs]
    scores = [read_scores(folder) for folder in folders]
    keys = [(key, words, digits) for key, words, digits in headlines.HEADLINES if any(key in some for some in scores)]
    facts = [("set", "data_path"), ("split", "split"), ("images", "n")]
    rows = [[words, *(str(some.get(key, "")) for some in scores)] for words, key in facts]
    rows += [[words, *(_number(some.get(key), digits) for some in scores)] for key, words, digits in keys]
    changes = [list_changes("train", run.options) for run in runs]
    differing = [key for key in dict.fromkeys(key for some in changes for key in some)
                 if len({str(getattr(run.options, key)) for run in runs}) > 1]  # fmt: skip
    page = compose_page(
        "comparison.html",
        title="Comparison of runs",
        names=names,
        score_rows=rows,
        option_rows=[[f"--{key}", *(str(getattr(run.options, key)) for run in runs)] for key in differing],
        pairs=[
            f"{names[0]} and {names[k]}: {compare_predictions(folders[0], folders[k])}" for k in range(1, len(runs))
        ],
        warnings=[f"{name}: {line}" for name, some in zip(names, scores, strict=True) for line in list_warnings(some)],
        figures=[
            (words, [(name, folder / file) for name, folder in zip(names, folders, strict=True)])
            for file, words in {"confusion.png": "Confusion", **FIGURES}.items()
            if any((folder / file).is_file() for folder in folders)
        ],
        curves=[(name, curve) for name, run in zip(names, runs, strict=True) for curve in list_curves(run)],
    )
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def compare_predictions(first: Path, second: Path) -> str:
    """How two evaluations of the same images differ, image by image, in words; or that the images are not the same.

    The probability is that of McNemar's exact test (1947): a coin that falls so unevenly. Images of one bead are not
    independent, so it is smaller than it should be.
    """
    try:
        tables = [pd.read_csv(folder / "predictions.csv", dtype=str, **READ_TEXT) for folder in (first, second)]
        both = tables[0].merge(tables[1], on=["file", "page", "true_label"])
        rights = [(both[f"label_{side}"] == both.true_label).sum() for side in "xy"]
        only = [int(((both[f"label_{a}"] == both.true_label) & (both[f"label_{b}"] != both.true_label)).sum())
                for a, b in ("xy", "yx")]  # fmt: skip
    except (OSError, KeyError, ValueError) as error:
        raise InputError(
            f"predictions.csv of {first} or {second} is missing or damaged ({error}); evaluate again."
        ) from error
    places = [
        (str(Path(some.get("data_path", "")).resolve()), some.get("split"))
        for some in map(read_scores, (first, second))
    ]
    if places[0] != places[1] or not len(both) or len(both) < max(map(len, tables)):
        return "their images are not the same, so they are not compared one by one"
    chance = rz.metrics.mcnemar(*only)
    return (
        f"of the same {len(both)} images {rights[0]} and {rights[1]} right; {only[0]} only by the first, {only[1]} "
        f"only by the second (McNemar's test: p = {chance:.2g})"
    )
