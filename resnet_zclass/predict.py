"""Classes and z of new images: one row per image, per page of a multi-page TIFF, or per bead of a larger page."""

import contextlib
import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass.command import command
from resnet_zclass.errors import InputError
from resnet_zclass.files import check_output, check_replaceable, hash_file, whole_folder
from resnet_zclass.growing import growing_array, growing_table, working_behind
from resnet_zclass.images import IMAGE_SUFFIXES
from resnet_zclass.options import PredictOptions
from resnet_zclass.opts import list_changes, pick, require
from resnet_zclass.predictions import build_table, predict_parts
from resnet_zclass.provenance import find_record, hash_files, write_record
from resnet_zclass.runs import MODEL_FILE, NEEDED, Run, read_run

TRACKS_FILE = "tracks.csv"

if TYPE_CHECKING:
    import keras
    from pandas import DataFrame

    from resnet_zclass.loader import Dataset

pd = lazy.load("pandas")


@command("predict")
def main(options: PredictOptions) -> None:
    """Reads the run named by the options, predicts, and writes the table and, if asked for, the probabilities."""
    require(options, "load_logs_path", "inputs", "pred_save_path")
    if options.dask_scheduler or options.dask_workers is not None:
        rz.dask_jobs.check_scheduler(options.dask_scheduler, options.dask_workers)
        return _predict_with_dask(options)
    read = [*options.inputs, *filter(None, [options.spots]), *(Path(options.load_logs_path) / name for name in NEEDED)]
    if options.spots and Path(options.spots).is_dir():
        read += rz.spots.list_spot_files(Path(options.spots))
    npy_path = _check_outputs(read, options.pred_save_path, options.pred_save_name, options.overwrite)
    _check_tracks(options)
    run = read_run(options.load_logs_path)
    how = pick(options, "pixel_um", "any_pixel_size", "average_views")
    engine, parts = predict_parts(run, options.inputs, options.spots, options.batch_size, options.engine, **how)
    columns: dict[str, None] = {}
    n_rows = 0
    with _tracks_folder(options) as tracks_folder:  # before anything is predicted that could not be written
        with contextlib.closing(parts), contextlib.ExitStack() as stack:  # both files or none
            append_table = stack.enter_context(growing_table(options.pred_save_path))
            append_array = stack.enter_context(growing_array(npy_path)) if npy_path else None

            def write(rows: list[dict], probabilities: np.ndarray) -> None:
                columns.update(dict.fromkeys(key for row in rows for key in row))
                append_table(build_table(run, rows, probabilities, list(columns)))
                if append_array:
                    append_array(probabilities)

            append = stack.enter_context(working_behind(write))  # while the next part is predicted
            for rows, probabilities in parts:
                append(rows, probabilities)
                n_rows += len(rows)
            sources = _describe_sources(run, engine, options)  # reads all again, so before the table has its name
            find_record(options.pred_save_path).unlink(missing_ok=True)  # of an older table
        write_record(options.pred_save_path, **sources)
        print(f"rows: {n_rows}, in {options.pred_save_path}; engine: {engine}")
        if run.cut_out and run.z_um is None:
            print("note: the run does not know its z step, so z_um is empty; label is the plane.")
        if tracks_folder:
            write_tracks(options, tracks_folder)
    if npy_path:
        print(f"probabilities {(n_rows, probabilities.shape[1])}: {npy_path}")


def _describe_sources(run: Run, engine: str, options: PredictOptions) -> dict[str, object]:
    """What a table of predictions is made from: model, engine, options, and the SHA-256 of every image."""
    files = [file for of in rz.predictions.find_images(run, options.inputs).values() for file in of]
    made_from = {"model_sha256": hash_file(run.path / MODEL_FILE), "engine": engine}
    return made_from | {"options": list_changes("predict", options), "inputs": hash_files(files)}


def _tracks_folder(options: PredictOptions) -> contextlib.AbstractContextManager[Path | None]:
    if not options.tracks_save_path:
        return contextlib.nullcontext()
    return whole_folder(options.tracks_save_path, options.overwrite, mark=TRACKS_FILE)


def _check_tracks(options: PredictOptions) -> None:
    """Refuses what cannot be said of tracks before anything is predicted."""
    if not options.tracks_save_path:
        if options.smooth:
            raise InputError("--smooth is of tracks; give a folder for them with --tracks_save_path.")
        return
    if not options.spots:
        raise InputError("--tracks_save_path wants the spots of the movie; give their file with --spots.")
    for name in ("frame_s", "pixel_um"):
        value = getattr(options, name)
        if value is not None and not value > 0:
            raise InputError(f"--{name} must be above 0. Received: --{name} {value:g}.")
    if "frame" not in rz.spots.read_spots(options.spots):
        raise InputError(f"--tracks_save_path: {options.spots} has no column frame, so it is no movie's.")
    if options.smooth:
        rz.extras.check_installed(["filterpy"], extra="tracks")
    folder = Path(options.tracks_save_path).absolute()
    for path in (Path(name).absolute() for name in (options.pred_save_path, options.pred_save_name) if name):
        if path == folder or path in folder.parents or folder in path.parents:
            raise InputError(f"--tracks_save_path {folder} and {path} lie in each other; choose another name.")
    check_replaceable(folder, options.overwrite, mark=TRACKS_FILE)


def write_tracks(options: PredictOptions, folder: Path) -> None:
    """Writes the spots again with their z, what became of every track, and a picture; says what it wrote."""
    table = pd.read_csv(options.pred_save_path, dtype={"track": str, "reason": str})
    table = table.assign(track=table.get("track", ""), reason=table.reason.fillna(""))
    if options.smooth:
        table, step_um = rz.tracks.smooth_tracks(table)
        print(f"smoothed: beads diffuse by {step_um:.3g} um in z from frame to frame")
    pixel_um = options.pixel_um or rz.images.read_pixel_um(table.file[0])
    spots_path = Path(options.spots)
    for path in rz.spots.list_spot_files(spots_path) if spots_path.is_dir() else [spots_path]:
        own = table[table.file.map(lambda file: Path(file).stem) == path.stem] if spots_path.is_dir() else table
        rz.spots.write_spots(path, folder / path.name, own)
    summary = rz.tracks.summarise_tracks(table, pixel_um, options.frame_s)
    summary.to_csv(folder / TRACKS_FILE, index=False)
    if len(summary):
        rz.tracks.draw_tracks(table, folder / "tracks.png", pixel_um)
    lengths = "" if pixel_um else ", y and x in pixels (--pixel_um tells their size)"
    print(f"spots with z, and {len(summary)} tracks{lengths}: {options.tracks_save_path}")


def _predict_with_dask(options: PredictOptions) -> None:
    for name in ("tracks_save_path", "smooth", "pixel_um", "any_pixel_size", "average_views"):
        if getattr(options, name):
            raise InputError(f"--{name} is not for --dask_scheduler; predict without it.")
    if options.pred_save_name:
        raise InputError("--pred_save_name is not for --dask_scheduler; the parts hold the probabilities (p_...).")
    if "" in options.inputs:
        raise InputError("an input is an empty name; give images or folders of them.")
    engine, summary = rz.predict_jobs.predict_folder(
        read_run(options.load_logs_path),
        options.inputs,
        options.pred_save_path,
        options.spots,
        options.batch_size,
        options.engine,
        options.dask_scheduler,
        options.dask_workers,
        options.overwrite,
    )
    n_parts = sum(count > 0 for count in summary.counts.values())
    print(f"rows: {sum(summary.counts.values())} in {n_parts} parts, in {options.pred_save_path}; engine: {engine}")
    if summary.failed:
        table = Path(options.pred_save_path) / rz.job_folder.FAILED_FILE
        print(f"warning: {len(summary.failed)} inputs failed, see {table}; start again to retry them.", file=sys.stderr)


def predict_files(
    run: Run, inputs: Sequence[str | Path], spots: str = "", batch_size: int = 64, engine: str = "auto"
) -> tuple["DataFrame", np.ndarray]:
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


def _check_outputs(inputs: Sequence[str], csv_path: str, npy_path: str, overwrite: bool) -> Path | None:
    """Refuses to write over inputs, folders or each other; returns the path of the array, `.npy` added if need be."""
    array_path = None
    if npy_path:
        array_path = Path(npy_path) if Path(npy_path).suffix else Path(f"{npy_path}.npy")
        if array_path.suffix != ".npy":
            raise InputError(f"--pred_save_name must end in .npy. Received: {npy_path}.")
    taken = {Path(name).resolve() for name in inputs}
    for path in filter(None, (Path(csv_path), array_path)):
        check_output(path, overwrite)
        if path.suffix.lower() in IMAGE_SUFFIXES:
            raise InputError(f"{path} is an image by its name; choose another name for the table, such as NAME.csv.")
        if path.resolve() in taken:
            raise InputError(f"{path} would be written over what it is made from, or twice; choose another name.")
        taken.add(path.resolve())
    if "" in inputs:
        raise InputError("an input is an empty name; give images or folders of them.")
    return array_path


def predict_probabilities(
    model: "keras.Model", crops: np.ndarray, batch_size: int = 64, views: Sequence[Callable | None] = (None,)
) -> np.ndarray:
    """Probabilities `(N, K)`, float32, of raw crops `(N, H, W, C)`, in their order; the mean over `views`, if any."""
    verbose = "auto" if sys.stdout.isatty() and len(crops) > 5000 else 0
    return np.mean([rz.distribute.predict(model, crops, batch_size, view, verbose=verbose) for view in views], axis=0)


def name_labels(data: "Dataset") -> np.ndarray:
    """The true labels of a set's crops in words, as `build_table` writes predicted ones; array `(N,)`."""
    if not data.several:
        return data.items.label.to_numpy()
    names = data.classes.set_index("LabelInteger").LabelText
    return np.array([";".join(names[int(word)] for word in label.split()) for label in data.items.label])


if __name__ == "__main__":
    sys.exit(main())
