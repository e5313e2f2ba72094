"""One page per evaluation that stands alone, to look at and to hand on."""

import functools
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass import headlines, highlights
from resnet_zclass.command import command
from resnet_zclass.comparison import FIGURES, list_curves, read_scores, write_comparison
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output, read_json, whole_file
from resnet_zclass.gallery import draw_heat_maps
from resnet_zclass.labels import READ_TEXT
from resnet_zclass.options import ReportOptions
from resnet_zclass.opts import as_command
from resnet_zclass.page import compose_page
from resnet_zclass.runs import ENVIRONMENT_FILE, SPLIT_FILE, Run, read_run, read_split
from resnet_zclass.splits import SPLITS
from resnet_zclass.thumbnails import to_data_uri

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

REPORT_FILE = "report.html"
HEAT_MAPS_FILE = "heat_maps.png"
N_SHOWN = 24  # of the worst and of the most uncertain images
CROPS_BYTES = 2_500_000  # of all pictures of images in a page
CURVES = {"origin_model": "Round 1: the head", "fine_tune_model": "Round 2, or the only one"}


@command("report")
def main(options: ReportOptions) -> None:
    """Writes the page of the run named by the options, or one that compares several."""
    if not options.runs:
        raise InputError("the folder of a run is missing: report RUN, or report RUN RUN2 to compare.")
    runs = [read_run(path) for path in options.runs]
    if len(runs) == 1:
        if options.save_path:
            raise InputError("--save_path is for several runs; the page of one lies in its own folder.")
        path = renew_report(runs[0], options.evaluation)
    else:
        path = Path(options.save_path or "comparison.html")
        check_output(path, options.overwrite)
        write_comparison(path, runs, options.evaluation)
    print(f"page: {path}")


def renew_report(run: Run, evaluation: str = "evaluation") -> Path:
    """Writes the page of an evaluation again from its files; images are shown where the run's set is still there.

    Raises:
        InputError: If there is no such evaluation.
    """
    folder = run.path / evaluation
    scores = read_scores(folder)
    try:
        table = pd.read_csv(folder / "predictions.csv", dtype={"true_label": str, "label": str}, **READ_TEXT)
        probabilities = table[[f"p_{name}" for name in run.class_names]].to_numpy(float)
        rows, truth = table[["file", "page"]], read_truth(run, table["true_label"])
        if len(table) != scores["n"] or not np.isfinite(probabilities).all():
            raise ValueError(f"{len(table)} rows of {scores['n']}")
    except (OSError, KeyError, ValueError, AttributeError, TypeError, OverflowError) as error:
        path = folder / "predictions.csv"
        raise InputError(f"{path} is missing or damaged ({error}); evaluate the run again.") from error
    crops, predict = _find_crops(run, scores, rows), None
    if crops is not None:
        predict = functools.partial(rz.predict.predict_probabilities, run.load_model())
        if not _are_those(predict, crops, probabilities):
            print("note: the page shows no images, because the model sees others in the set than were evaluated.")
            crops = predict = None
    try:
        write_report(folder, run, scores, rows, truth, probabilities, crops, predict)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(f"a file of {folder} or {run.path} is damaged ({error}); evaluate the run again.") from error
    return folder / REPORT_FILE


def _are_those(predict: Callable[[np.ndarray], np.ndarray], crops: Any, probabilities: np.ndarray) -> bool:
    """Whether some of the crops are predicted as they were; views that were averaged make little of a difference."""
    some = np.unique(np.linspace(0, len(crops) - 1, min(len(crops), 64)).astype(int))
    return float(np.abs(predict(crops[some]) - probabilities[some]).max(axis=1).mean()) < 0.1


def read_truth(run: Run, labels: "pd.Series") -> np.ndarray:
    """Class indices `(N,)` of the labels of a table of predictions, or with several per image 0/1 `(N, K)`."""
    number = {name: k for k, name in enumerate(run.class_names)}
    if run.thresholds is None:
        return np.array([number[label] for label in labels])
    return rz.metrics.multi_hot([[number[part] for part in label.split(";") if part] for label in labels], len(number))


def _find_crops(run: Run, scores: dict, rows: "DataFrame") -> Any:
    """The crops of a table of predictions, if their set is still what it was."""
    try:
        own = Path(scores["data_path"]).resolve() == Path(run.options.data_path).resolve()
        data = run.read_own_set() if own else run.read_set(scores["data_path"])
        place = {key: k for k, key in enumerate(zip(data.items.file, data.items.page, strict=True))}
        return rz.pack.Subset(data.crops, np.array([place[key] for key in zip(rows.file, rows.page, strict=True)]))
    except (InputError, KeyError, TypeError, ValueError) as error:
        print(f"note: the page shows no images, because their set is gone or has changed: {error}")
        return None


def write_report(
    folder: Path,
    run: Run,
    scores: dict[str, Any],
    rows: "DataFrame",
    truth: np.ndarray,
    probabilities: np.ndarray,
    crops: Any = None,
    predict: Callable[[np.ndarray], np.ndarray] | None = None,
) -> None:
    """Writes `report.html` and `heat_maps.png` into the folder of an evaluation, whose figures it shows.

    Args:
        folder: Folder with the other files of the evaluation.
        run: The run.
        scores: What `metrics.json` holds.
        rows: Table of `file` and `page` of the N images.
        truth: Class indices `(N,)`, or with several labels per image 0/1 `(N, K)`.
        probabilities: Array `(N, K)`.
        crops: Array `(N, H, W, C)` or its likeness that `crops[indices]` reads; None: no image is shown.
        predict: Function of crops that returns probabilities, for heat maps; None: there are none.
    """
    several = run.thresholds is not None
    heat_map = folder / HEAT_MAPS_FILE
    shown = Shown(run, rows, truth, probabilities, crops)
    are_planes = "within_one" in scores
    worst = shown.take(highlights.rank_worst(truth, probabilities, are_planes)[:N_SHOWN])
    uncertain = shown.take(highlights.rank_uncertain(probabilities, several)[:N_SHOWN])
    headings, score_rows = headlines.tabulate_scores(scores)
    compose = functools.partial(  # all that may be damaged is read before anything is written
        compose_page,
        "report.html",
        title=f"{run.path.resolve().name}: split {scores.get('split', '')}",
        lead=_lead(scores),
        warnings=headlines.list_warnings(scores),
        headings=headings,
        score_rows=score_rows,
        sentences=headlines.describe_scores(scores),
        facts=list_facts(run, scores),
        **_count_splits(run),
        leak=_tell_leak(scores),
        grid=build_grid(run, truth, probabilities, shown),
        figures=[(folder / name, words) for name, words in FIGURES.items() if (folder / name).is_file()],
        curves=[(path, CURVES[path.parent.name]) for path in list_curves(run)],
        per_class=_read_table(folder / "per_class.csv") if several else [],
        worst_words="Planes farthest from the true one." if are_planes else "Those with the largest cross-entropy.",
        worst=worst,
        uncertain=uncertain,
        command=as_command("train", run.options),
        environment=list(_read_environment(run).items()),
        crops=shown.crops,
    )
    if crops is not None and predict is not None:
        examples = highlights.pick_examples(truth, probabilities)
        images = crops[np.array([image for image, _ in examples])]
        maps = [rz.heat_maps.occlude(predict, image, k) for image, (_, k) in zip(images, examples, strict=True)]
        draw_heat_maps(images, np.stack(maps), [run.class_names[k] for _, k in examples], heat_map)
    page = compose(heat_map=heat_map if predict is not None else None)
    with whole_file(folder / REPORT_FILE) as partial:
        partial.write_text(page, encoding="utf-8")
    if predict is None:
        heat_map.unlink(missing_ok=True)  # it showed other images


class Shown:
    """The images of an evaluation that a page shows, each once, as many as there is room for.

    Attributes:
        crops: Of every image shown `src`, its picture, and `words`.
    """

    def __init__(self, run: Run, rows: "DataFrame", truth: np.ndarray, probabilities: np.ndarray, crops: Any):
        self.crops: list[dict[str, str]] = []
        self._names, self._thresholds = np.array(run.class_names), run.thresholds
        self._rows, self._truth, self._probabilities, self._pixels = rows, truth, probabilities, crops
        self._place: dict[int, int] = {}
        self._room = CROPS_BYTES

    def take(self, images: Iterable[int]) -> list[dict[str, str]]:
        """Pictures and words of images, those that there is room for."""
        return [self.crops[place] for image in images if (place := self.place(int(image))) is not None]

    def place(self, image: int) -> int | None:
        """Index in `crops` of an image; None where there is no room left."""
        if image not in self._place:
            if self._pixels is None or self._room <= 0:
                return None
            source = to_data_uri(self._pixels[np.array([image])][0])
            self._room -= len(source)
            self._place[image] = len(self.crops)
            self.crops.append({"src": source, "words": self._describe(image)})
        return self._place[image]

    def _describe(self, image: int) -> str:
        row, p = self._rows.iloc[image], self._probabilities[image]
        if self._thresholds is None:
            k = int(p.argmax())
            words = f"{self._names[self._truth[image]]} taken for {self._names[k]}, {p[k]:.2f}"
            words = f"{self._names[k]}, {p[k]:.2f}" if k == self._truth[image] else words
        else:
            true, named = (
                ";".join(self._names[which]) or "nothing"
                for which in (self._truth[image].astype(bool), p >= self._thresholds)
            )
            words = true if true == named else f"{true} taken for {named}"
        return f"{words} ({Path(row['file']).name}, page {row['page']})"


def build_grid(run: Run, truth: np.ndarray, probabilities: np.ndarray, shown: Shown) -> dict[str, Any]:
    """The table whose cells show the images behind them: confusion of classes, or decisions on every label."""
    names, several = run.class_names, run.thresholds is not None
    if not several:
        cells, columns = highlights.confusion_cells(truth, probabilities), names
        texts = {"title": "Confusion", "caption": "rows: true class; columns: predicted class; numbers: images"}
    else:
        cells, columns = highlights.decision_cells(truth, probabilities, run.thresholds), list(highlights.DECISIONS)
        texts = {"title": "Labels found, missed and named wrongly", "caption": "numbers: images"}
    places: dict[tuple[int, int], list[int]] = {}
    for cell, image in highlights.take_in_turn(cells, several=several):
        if (place := shown.place(image)) is not None:
            places.setdefault(cell, []).append(place)
    totals = {i: sum(len(images) for (row, _), images in cells.items() if row == i) for i in range(len(names))}
    rows = []
    for i, name in enumerate(names):
        row = []
        for j, column in enumerate(columns):
            count = len(cells.get((i, j), ()))
            words = f"{name}: {column}" if several else f"true {name}, predicted {column}"
            row.append(
                {
                    "count": count,
                    "percent": round(100 * count / max(totals[i], 1)),
                    "words": f"{words}: {count} images" if several else f"{words}: {count} of {totals[i]} images",
                    "crops": " ".join(map(str, places.get((i, j), []))),
                    "first": (i, j) == min(cells, default=None),
                }
            )
        rows.append({"name": name, "index": i, "cells": row})
    return {**texts, "columns": columns, "rows": rows}


def _lead(scores: dict) -> str:
    """The one sentence to take away."""
    if "micro_f1" in scores:
        text = f"F1, mean of classes: {scores['macro_f1'] or 0:.3f}, on {scores['n']} images"
        other = scores.get("baseline_macro_f1")
    else:
        text = f"Right for {scores['accuracy']:.1%} of {scores['n']} images"
        if "within_one" in scores:
            text += f", within one plane for {scores['within_one']:.1%}"
        if "rmse_z_um" in scores:
            text += f"; RMS error of z {scores['rmse_z_um']:.3f} um"
        other = scores.get("baseline_accuracy")
    return text + (f". A linear baseline reaches {other:.3f}." if other is not None else ".")


def list_facts(run: Run, scores: dict) -> list[tuple[str, str]]:
    """What was trained on what, name by name."""
    options, (height, width, channels) = run.options, run.crop_shape
    return [
        ("trained on", options.data_path),
        ("evaluated on", f"split {scores.get('split', '')} of {scores.get('data_path', '')}"),
        ("network", f"{options.model_name}, weights {options.weights}"),
        ("images", f"{height} x {width} px, {channels} channel{'s' * (channels > 1)}, {run.dtype}"),
        ("classes", f"{len(run.classes)}: {run.class_names[0]} to {run.class_names[-1]}" + _tell_z(run)),
        *((f"best epoch of {path.parent.name}", _tell_best(path.parent, options)) for path in list_curves(run)),
        ("seed", str(options.seed)),
    ]


def _tell_z(run: Run) -> str:
    return "" if run.z_um is None else f", z {run.z_um[0]:g} to {run.z_um[-1]:g} um"


def _tell_best(folder: Path, options: Any) -> str:
    try:
        values = pd.read_csv(folder / "training_history.csv")[options.monitor]
        best = values.astype(float).idxmin() if options.monitor.endswith("loss") else values.astype(float).idxmax()
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return "unknown"
    return f"{best + 1} of {len(values)} ({options.monitor} {values[best]:.4g})"


def _count_splits(run: Run) -> dict[str, Any]:
    """Images and groups of every split that the run knows, as the keywords of the page."""
    known = read_split(run.path / SPLIT_FILE)
    rows = [
        [split, f"{len(part):,}", f"{part['group'].nunique():,}", f"{part.label.nunique():,}"]
        for split in SPLITS
        if len(part := known[known.split == split])
    ]
    return {"split_headings": ["images", "groups", "different labels"], "split_rows": rows}


def _tell_leak(scores: dict) -> str:
    if "n_seen" not in scores:
        return "Whether images of this split were trained on is not known."
    if any(scores.get(key) for key in headlines.SEEN):
        return "Leak check: failed, see the warnings at the top."
    return "Leak check: no image of this split, nothing nearly the same, and none of its groups was trained on." if (
        "n_groups_seen" in scores
    ) else "Leak check: no image of this split, and nothing nearly the same, was trained on."  # fmt: skip


def _read_environment(run: Run) -> dict[str, str]:
    """What the run was trained with; empty for an old one."""
    try:
        return dict(read_json(run.path / ENVIRONMENT_FILE))
    except (OSError, ValueError, TypeError):
        return {}


def _read_table(path: Path) -> list[list[str]]:
    """A table of classes as text, its heads first."""
    table = pd.read_csv(path, dtype={"label": str}, **READ_TEXT)
    numbers = table.drop(columns="label").map(lambda value: f"{float(value):.3g}" if value not in ("", None) else "")
    return [list(table), *([name, *row] for name, row in zip(table.label, numbers.to_numpy(), strict=True))]


if __name__ == "__main__":
    sys.exit(main())
