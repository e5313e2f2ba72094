"""Classes and z of new images: one row per image, per page of a multi-page TIFF, or per bead of a larger page."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass import metrics
from resnet_zclass.channels import group_channels
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output
from resnet_zclass.growing import growing_array, growing_table
from resnet_zclass.images import list_images
from resnet_zclass.loader import Dataset
from resnet_zclass.options import PredictOptions
from resnet_zclass.opts import require
from resnet_zclass.runs import Run, read_run

if TYPE_CHECKING:
    import keras

pd = lazy.load("pandas")


PART_ROWS = 4096  # predictions that are held before they are written


@command("predict")
def main(options: PredictOptions) -> None:
    """Reads the run named by the options, predicts, and writes the table and, if asked for, the probabilities."""
    require(options, "load_logs_path", "inputs", "pred_save_path")
    npy_path = _check_outputs(options.inputs, options.pred_save_path, options.pred_save_name, options.overwrite)
    run = read_run(options.load_logs_path)
    engine, parts = predict_parts(run, options.inputs, options.spots, options.batch_size, options.engine)
    columns: dict[str, None] = {}
    n_rows = 0
    with contextlib.closing(parts), contextlib.ExitStack() as stack:  # both files or none
        append_table = stack.enter_context(growing_table(options.pred_save_path))
        append_array = stack.enter_context(growing_array(npy_path)) if npy_path else None
        for rows, probabilities in parts:
            columns |= dict.fromkeys(key for row in rows for key in row)
            append_table(build_table(run, rows, probabilities, list(columns)))
            if append_array:
                append_array(probabilities)
            n_rows += len(rows)
    print(f"rows: {n_rows}, in {options.pred_save_path}; engine: {engine}")
    if npy_path:
        print(f"probabilities {(n_rows, probabilities.shape[1])}: {npy_path}")


def predict_files(
    run: Run, inputs: Sequence[str | Path], spots: str = "", batch_size: int = 64, engine: str = "auto"
) -> tuple["pd.DataFrame", np.ndarray]:
    """Predicts images, pages and beads, and collects all of it; `predict_parts` keeps memory flat.

    Args:
        run: A finished run.
        inputs: Images, multi-page TIFFs, or folders of them. Pages of the run's crop size are one row each; on
            larger pages beads are looked for, or cut at `spots`.
        spots: CSV of positions, columns `y,x` in pixels and optionally `frame`.
        batch_size: Crops per step.
        engine: `"keras"`, `"onnx"`, `"litert"`, or `"auto"` for the fastest that the run has.

    Returns:
        Table with `file,page,label,probability,z_um,z_um_sd,p_<class>...` (and `y,x` where beads were cut out), and
        the probabilities `(N, K)`. `z_um` and `z_um_sd` are the mean and the standard deviation of z under the
        probabilities; empty if the run does not know its z.

    Raises:
        InputError: If an input is missing, unreadable, smaller than a crop, of other channels, or holds no bead.
    """
    _, parts = predict_parts(run, inputs, spots, batch_size, engine)
    with contextlib.closing(parts):
        rows, probabilities = zip(*parts, strict=True)
    probabilities = np.concatenate(probabilities)
    return build_table(run, list(itertools.chain.from_iterable(rows)), probabilities), probabilities


def predict_parts(
    run: Run, inputs: Sequence[str | Path], spots: str = "", batch_size: int = 64, engine: str = "auto"
) -> tuple[str, Iterator[tuple[list[dict], np.ndarray]]]:
    """As `predict_files`, but predicts while the parts are asked for, so that any number of images takes the same room.

    Returns:
        Name of the engine; and an iterator of parts, each of which is what `build_table` takes: rows and their
        probabilities `(n, K)`. There is at least one.
    """
    paths = dict.fromkeys(path for name in inputs for path in list_images(name, recursive=True))
    images = group_channels(list(paths), run.options.channels)
    positions = rz.beads.read_spots(spots) if spots else None
    engine, path = rz.engines.choose_engine(run.path, engine)
    predict = rz.engines.load_engine(engine, path)

    def predict_all() -> Iterator[tuple[list[dict], np.ndarray]]:
        found = False
        crops = rz.stream.read_crops(run, images, positions)
        with contextlib.closing(crops):
            for part in _gather(rz.stream.batch_crops(crops, batch_size), predict):
                if part[1].shape[1] != len(run.classes):
                    raise InputError(f"{path} has {part[1].shape[1]} classes, the run {run.path} {len(run.classes)}.")
                found = True
                yield part
        if not found:
            raise InputError(f"no bead was found in {', '.join(map(str, inputs))}; give their positions with --spots.")

    return engine, predict_all()


def _gather(
    batches: Iterable[tuple[list[dict], np.ndarray]], predict: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[list[dict], np.ndarray]]:
    """Yields rows and probabilities of so many batches at a time that a table is worth its making."""
    rows: list[dict] = []
    probabilities: list[np.ndarray] = []
    for some, crops in batches:
        rows += some
        probabilities.append(predict(crops))
        if len(rows) >= PART_ROWS:
            yield rows, np.concatenate(probabilities)
            rows, probabilities = [], []
    if rows:
        yield rows, np.concatenate(probabilities)


def _check_outputs(inputs: Sequence[str], csv_path: str, npy_path: str, overwrite: bool) -> Path | None:
    """Refuses to write over inputs, folders or each other; returns the path of the array, `.npy` added if need be."""
    array_path = None
    if npy_path:
        array_path = Path(npy_path) if Path(npy_path).suffix else Path(f"{npy_path}.npy")
        if array_path.suffix != ".npy":
            raise InputError(f"--pred_save_name must end in .npy. Received: {npy_path}.")
    taken = {Path(name).absolute() for name in inputs}
    for path in filter(None, (Path(csv_path), array_path)):
        check_output(path, overwrite)
        if path.absolute() in taken:
            raise InputError(f"{path} would be written over what it is made from, or twice; choose another name.")
        taken.add(path.absolute())
    if "" in inputs:
        raise InputError("an input is an empty name; give images or folders of them.")
    return array_path


def predict_probabilities(model: "keras.Model", crops: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Probabilities `(N, K)`, float32, of raw crops `(N, H, W, C)`, in their order."""
    verbose = "auto" if sys.stdout.isatty() and len(crops) > 5000 else 0
    return rz.distribute.predict(model, crops, batch_size, verbose=verbose)


def build_table(
    run: Run, rows: list[dict], probabilities: np.ndarray, columns: list[str] | None = None
) -> "pd.DataFrame":
    """The table of predictions: one row per crop, in the columns of the prediction file.

    Where it is a part of a table, `columns` are the keys of the rows of all parts so far.

    With several labels per image, `label` holds all classes whose probability reaches their threshold, divided by
    `;`, and the last column, `target`, their numbers as in a table `Id,Target`.
    """
    names, numbers = np.asarray(run.class_names), run.classes.LabelInteger.astype(str).to_numpy()
    table = pd.DataFrame(rows, columns=columns)
    if run.thresholds is None:
        labels = names[probabilities.argmax(axis=1)]
    else:
        decided = metrics.decide(probabilities, run.thresholds)
        labels = [";".join(names[row]) for row in decided]
        table["target"] = [" ".join(numbers[row]) for row in decided]
    table.insert(2, "label", labels)
    table.insert(3, "probability", probabilities.max(axis=1))
    z_um, z_um_sd = decode_z(probabilities, run.z_um) if run.z_um is not None else (np.nan, np.nan)
    table.insert(4, "z_um", z_um)
    table.insert(5, "z_um_sd", z_um_sd)
    of_classes = pd.DataFrame(probabilities, columns=[f"p_{name}" for name in names])
    return pd.concat([table.iloc[:, :6], of_classes, table.iloc[:, 6:]], axis=1)


def name_labels(data: Dataset) -> np.ndarray:
    """The true labels of a set's crops in words, as `build_table` writes predicted ones; array `(N,)`."""
    if not data.several:
        return data.items.label.to_numpy()
    names = data.classes.set_index("LabelInteger").LabelText
    return np.array([";".join(names[int(word)] for word in label.split()) for label in data.items.label])


def decode_z(probabilities: np.ndarray, z_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of z in um, arrays `(N,)`, under probabilities `(N, K)` of planes at `z_um` `(K,)`.

    >>> mean, sd = decode_z(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([-1.0, 1.0]))
    >>> mean.tolist(), sd.tolist()
    ([0.0, 1.0], [1.0, 0.0])
    """
    probabilities = np.asarray(probabilities, np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    mean = probabilities @ z_um
    return mean, np.sqrt(np.maximum(probabilities @ z_um**2 - mean**2, 0.0))


if __name__ == "__main__":
    sys.exit(main())
