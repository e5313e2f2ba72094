"""Predictions of a run: made part by part, so that memory stays flat, and put down as rows of a table."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass import metrics
from resnet_zclass.calibration import choose_sets
from resnet_zclass.channels import group_channels
from resnet_zclass.errors import InputError
from resnet_zclass.images import list_images
from resnet_zclass.runs import Run

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

PART_ROWS = 4096  # predictions that are held before they are written


def predict_parts(
    run: Run,
    inputs: Sequence[str | Path],
    spots: str = "",
    batch_size: int = 64,
    engine: str = "auto",
    pixel_um: float | None = None,
    any_pixel_size: bool = False,
    average_views: bool = False,
) -> tuple[str, Iterator[tuple[list[dict], np.ndarray]]]:
    """As `predict.predict_files`, but predicts while the parts are asked for, so that memory does not grow with them.

    Returns:
        Name of the engine; and an iterator of parts, each of which is what `build_table` takes: rows and their
        probabilities `(n, K)`. There is at least one.
    """
    images = find_images(run, inputs)
    positions = rz.spots.read_spots(spots) if spots else None
    engine, path = rz.engines.choose_engine(run.path, engine)
    predict = rz.engines.load_engine(engine, path)
    if average_views:
        predict = average_over(predict, run.list_views())

    def predict_all() -> Iterator[tuple[list[dict], np.ndarray]]:
        found = False
        sizes = {"pixel_um": pixel_um, "any_pixel_size": any_pixel_size}
        with contextlib.closing(predict_images(run, images, positions, batch_size, predict, **sizes)) as parts:
            for part in parts:
                found = True
                yield part
        if not found:
            raise tell_no_bead(inputs)

    return engine, predict_all()


def average_over(predict: Callable[[np.ndarray], np.ndarray], views: Sequence[Callable]) -> Callable:
    """Function of crops that returns what `predict` makes of their views, on average."""
    return lambda crops: np.mean([predict(view(crops, None)) for view in views], axis=0)


def find_images(run: Run, inputs: Sequence[str | Path]) -> dict[Path, tuple[Path, ...]]:
    """The files of every image that `inputs` mean, one per channel, as of `channels.group_channels`."""
    paths = dict.fromkeys(path for name in inputs for path in list_images(name, recursive=True))
    return group_channels(list(paths), run.options.channels)


def predict_images(
    run: Run,
    images: dict[Path, tuple[Path, ...]],
    positions: "DataFrame | None",
    batch_size: int,
    predict: Callable[[np.ndarray], np.ndarray],
    title: str = "predicting",
    **sizes: Any,
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields the parts of the predictions of images, none where no bead is found.

    Args:
        run: A finished run.
        images: As of `find_images`.
        positions: Table of positions at which crops are cut, as of `spots.read_spots`.
        batch_size: Crops per step.
        predict: Engine that was loaded for the run.
        title: What the progress bar says; none is shown if this is empty.
        sizes: `pixel_um` and `any_pixel_size`, as of `stream.read_crops`.
    """
    with contextlib.closing(rz.stream.read_crops(run, images, positions, title, **sizes)) as crops:
        for part in _gather(rz.stream.batch_crops(crops, batch_size), predict, run.familiar):
            if part[1].shape[1] != len(run.classes):
                raise InputError(
                    f"the model of {run.path} has {part[1].shape[1]} classes, its classes.csv {len(run.classes)}."
                )
            yield part


def tell_no_bead(inputs: Sequence[str | Path]) -> InputError:
    """The error that nothing was found to predict."""
    return InputError(f"no bead was found in {', '.join(map(str, inputs))}; give their positions with --spots.")


def _gather(
    batches: Iterable[tuple[list[dict], np.ndarray]],
    predict: Callable[[np.ndarray], np.ndarray],
    familiar: "rz.unlike.Familiar | None",
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields rows and probabilities of so many batches at a time that a table is worth its making."""
    rows: list[dict] = []
    probabilities: list[np.ndarray] = []
    for some, crops in batches:
        refused = np.array([bool(row.get("reason")) for row in some])
        predicted = np.where(refused[:, None], np.nan, predict(crops))
        if familiar:
            unlike = np.where(refused, np.nan, familiar.score(crops))
            some = [_insert(row, "unlike", score) for row, score in zip(some, unlike, strict=True)]
        rows += some
        probabilities.append(predicted)
        if len(rows) >= PART_ROWS:
            yield rows, np.concatenate(probabilities)
            rows, probabilities = [], []
    if rows:
        yield rows, np.concatenate(probabilities)


def _insert(row: dict, key: str, value: float) -> dict:
    """The row with another entry, before its reason, if it has one."""
    reason = {"reason": row["reason"]} if "reason" in row else {}
    return {name: entry for name, entry in row.items() if name != "reason"} | {key: value} | reason


def build_table(run: Run, rows: list[dict], probabilities: np.ndarray, columns: list[str] | None = None) -> "DataFrame":
    """The table of predictions: one row per crop, in the columns of the prediction file.

    Where it is a part of a table, `columns` are the keys of the rows of all parts so far.

    `set` holds the classes that were chosen to contain the true one for `COVERAGE` of the images of split val.
    With several labels per image, `label` holds all classes whose probability reaches their threshold, divided by
    `;`, and the last column, `target`, their numbers as in a table `Id,Target`.
    """
    refused = np.isnan(probabilities[:, 0])
    names, numbers = np.asarray(run.class_names), run.classes.LabelInteger.astype(str).to_numpy()
    table = pd.DataFrame(rows, columns=columns)
    if run.thresholds is None:
        labels = np.where(refused, "", names[probabilities.argmax(axis=1)])
    else:
        decided = metrics.decide(probabilities, run.thresholds)
        labels = [";".join(names[row]) for row in decided]
        table["target"] = [" ".join(numbers[row]) for row in decided]
    table.insert(2, "label", labels)
    table.insert(3, "probability", probabilities.max(axis=1))
    z_um, z_um_sd = estimate_z(run, probabilities) if run.z_um is not None else (np.nan, np.nan)
    table.insert(4, "z_um", z_um)
    table.insert(5, "z_um_sd", z_um_sd)
    of_classes = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in names])
    if run.calibration:
        sets = choose_sets(probabilities, run.calibration["set_threshold"])
        of_classes["set"] = [";".join(names[row]) for row in sets & ~refused[:, None]]
    return pd.concat([table.iloc[:, :6], of_classes, table.iloc[:, 6:]], axis=1)


def estimate_z(run: Run, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Z in um and its standard deviation, `(N,)`, from probabilities `(N, K)` of a run that knows its z.

    The deviation is that of z under the probabilities, times the factor with which it was right on split val, and
    that of z within the width of a plane, since new beads stand on no planes; the bare one where the run has no factor.
    """
    z_um, sd_um = metrics.decode_z(probabilities, run.z_um)
    factor = (run.calibration or {}).get("z_sd_factor")
    return z_um, sd_um if factor is None else np.hypot(factor * sd_um, metrics.plane_sd(run.z_um))
