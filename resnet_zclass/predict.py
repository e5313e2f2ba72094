"""Classes and z of new images: one row per image, per page of a multi-page TIFF, or per bead of a larger page."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass import metrics
from resnet_zclass.channels import group_channels, read_channels
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output, whole_file
from resnet_zclass.images import list_images
from resnet_zclass.loader import Dataset
from resnet_zclass.options import PredictOptions
from resnet_zclass.opts import require
from resnet_zclass.progress import track
from resnet_zclass.resize import resize_images
from resnet_zclass.runs import Run, read_run

if TYPE_CHECKING:
    import keras

pd = lazy.load("pandas")


@command("predict")
def main(options: PredictOptions) -> None:
    """Reads the run named by the options, predicts, and writes the table and, if asked for, the probabilities."""
    require(options, "load_logs_path", "inputs", "pred_save_path")
    npy_path = _check_outputs(options.inputs, options.pred_save_path, options.pred_save_name, options.overwrite)
    run = read_run(options.load_logs_path)
    table, probabilities = predict_files(run, options.inputs, options.spots, options.batch_size)
    with contextlib.ExitStack() as stack:  # both files or none
        table.to_csv(stack.enter_context(whole_file(options.pred_save_path)), index=False)
        if npy_path:
            np.save(stack.enter_context(whole_file(npy_path)), probabilities)
    print(f"rows: {len(table)}, in {options.pred_save_path}")
    if npy_path:
        print(f"probabilities {probabilities.shape}: {npy_path}")


def predict_files(
    run: Run, inputs: Sequence[str | Path], spots: str = "", batch_size: int = 64
) -> tuple["pd.DataFrame", np.ndarray]:
    """Predicts images, pages and beads.

    Args:
        run: A finished run.
        inputs: Images, multi-page TIFFs, or folders of them. Pages of the run's crop size are one row each; on
            larger pages beads are looked for, or cut at `spots`.
        spots: CSV of positions, columns `y,x` in pixels and optionally `frame`.
        batch_size: Crops per step.

    Returns:
        Table with `file,page,label,probability,z_um,z_um_sd,p_<class>...` (and `y,x` where beads were cut out), and
        the probabilities `(N, K)`. `z_um` and `z_um_sd` are the mean and the standard deviation of z under the
        probabilities; empty if the run does not know its z.

    Raises:
        InputError: If an input is missing, unreadable, smaller than a crop, of other channels, or holds no bead.
    """
    paths = dict.fromkeys(path for name in inputs for path in list_images(name, recursive=True))
    images = group_channels(list(paths), run.options.channels)
    positions = rz.beads.read_spots(spots) if spots else None
    model = run.load_model()
    rows, crops = [], []
    for image, files in track(list(images.items()), "reading"):
        named = {"id": image.name if run.options.channels else image.stem} if run.thresholds is not None else {}
        for row, crop in cut_file(files, model.input_shape[1:], positions, run.resized, run.cut_out):
            run.check_crops(crop.dtype, files[0])
            rows.append(row | named)
            crops.append(crop)
    if not rows:
        raise InputError(f"no bead was found in {', '.join(map(str, inputs))}; give their positions with --spots.")
    probabilities = predict_probabilities(model, np.stack(crops), batch_size)
    return build_table(run, rows, probabilities), probabilities


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
    data = rz.batches.ordered_batches(crops, np.zeros(len(crops), np.int32), batch_size)
    return model.predict(data, verbose="auto" if sys.stdout.isatty() and len(crops) > 5000 else 0)


def cut_file(
    files: Sequence[Path],
    crop_shape: tuple[int, int, int],
    spots: "pd.DataFrame | None" = None,
    resized: bool = False,
    cuts: bool = True,
) -> Iterator[tuple[dict, np.ndarray]]:
    """Yields `(row, crop)` for every page or bead of an image.

    Args:
        files: Its image file or multi-page TIFF, or one for each channel.
        crop_shape: `(H, W, C)` of a crop.
        spots: Table of `y,x` in pixels, and `frame` if they differ from page to page. Without it, pages of the size
            of a crop are taken whole and beads are found in larger ones.
        resized: Whether whole pages are brought to the size of a crop instead.
        cuts: Whether beads are looked for in larger pages; else these are refused without `spots`.

    Raises:
        InputError: If pages are smaller than a crop or of other channels, or spots lie too near the border.
    """
    path = files[0]
    height, width, channels = crop_shape
    pages = read_channels(files)
    if resized and spots is not None:
        raise InputError("--spots: the run was trained on whole images that were made smaller, not on crops.")
    if resized:
        pages = resize_images(pages, height)
    if pages.shape[3] != channels:
        raise InputError(f"{path} has {pages.shape[3]} channels; the run was trained on {channels}.")
    if pages.shape[1] < height or pages.shape[2] < width:
        raise InputError(f"{path} is {pages.shape[1]} x {pages.shape[2]} px; the run wants {height} x {width} px.")
    whole = pages.shape[1:3] == (height, width) and spots is None
    if not whole and not cuts and spots is None:
        raise InputError(
            f"{path} is {pages.shape[1]} x {pages.shape[2]} px; the run was trained on whole images of {height} x "
            f"{width} px. Give --spots where such crops are to be cut out."
        )
    if not whole and height != width:
        raise InputError(f"{path}: the run's crops are {height} x {width} px, and only square ones are cut out.")
    if spots is not None:
        spots = rz.beads.spots_of(spots, path)
        if "frame" in spots and spots.frame.max() >= len(pages):
            raise InputError(f"--spots: frame {spots.frame.max()} is beyond {path}, which has {len(pages)} pages.")
    for index, page in enumerate(pages):
        if whole:
            yield {"file": str(path), "page": index}, page
        else:
            yield from _cut_page(path, index, page, height, spots)


def _cut_page(
    path: Path, index: int, page: np.ndarray, crop_px: int, spots: "pd.DataFrame | None"
) -> Iterator[tuple[dict, np.ndarray]]:
    if spots is None:
        positions = rz.beads.find_beads_in_page(page.mean(axis=-1), crop_px)
        positions = positions[positions.reason == ""]
    else:
        positions = spots[spots.frame == index] if "frame" in spots else spots
        rz.beads.check_inside(positions, page.shape[:2], path)
    try:
        cuts = rz.beads.cut_crops(np.moveaxis(page, -1, 0), positions.y, positions.x, crop_px)
    except InputError as error:
        raise InputError(f"--spots: {path}, page {index}: {error}") from error
    for (y, x), crop in zip(positions[["y", "x"]].to_numpy(), cuts, strict=True):
        yield {"file": str(path), "page": index, "y": y, "x": x}, np.moveaxis(crop, 0, -1)


def build_table(run: Run, rows: list[dict], probabilities: np.ndarray) -> "pd.DataFrame":
    """The table of predictions: one row per crop, in the columns of the prediction file.

    With several labels per image, `label` holds all classes whose probability reaches their threshold, divided by
    `;`, and the last column, `target`, their numbers as in a table `Id,Target`.
    """
    names, numbers = np.asarray(run.class_names), run.classes.LabelInteger.astype(str).to_numpy()
    table = pd.DataFrame(rows)
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
