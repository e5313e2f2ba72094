"""Predicts many images on the workers of a Dask cluster: one file of predictions per image, in one folder."""

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass import __version__
from resnet_zclass.extras import need
from resnet_zclass.files import hash_file
from resnet_zclass.growing import growing_parquet, growing_table
from resnet_zclass.job_folder import Input, JobFolder, Summary
from resnet_zclass.predictions import build_table, find_images, predict_images, tell_no_bead
from resnet_zclass.runs import CROPS_FILE, MODEL_FILE, Run, read_run

if TYPE_CHECKING:
    from pandas import DataFrame


def predict_folder(
    run: Run,
    inputs: Sequence[str | Path],
    folder: str | Path,
    spots: str = "",
    batch_size: int = 64,
    engine: str = "auto",
    scheduler: str = "local",
    workers: int | None = None,
    overwrite: bool = False,
) -> tuple[str, Summary]:
    """Predicts images into a folder of parts, which a job that is started again goes on with.

    The parts have the rows of `predict.predict_files`, all of them the same columns and types: CSV files where the
    folder's name ends in `.csv`, else Parquet. An image without a bead has no part.

    Args:
        run: A finished run.
        inputs: Images, or folders of them.
        folder: Folder to write, or one that an earlier job with the same run and options wrote.
        spots: CSV of positions at which crops are cut.
        batch_size: Crops per step.
        engine: As in `predict.predict_files`.
        scheduler: As in `dask_jobs.open_client`.
        workers: Of a local cluster; default one per core.
        overwrite: Whether to start anew.

    Returns:
        Name of the engine; and how many rows each image gave, and which failed.

    Raises:
        InputError: If an input is missing, the folder belongs to another run or other options, the scheduler does not
            answer, or all images failed or hold no bead.
    """
    if spots:
        rz.spots.read_spots(spots)  # a fault is to be told once, not for each image
    images = find_images(run, inputs)
    engine, engine_path = rz.engines.choose_engine(run.path, engine)
    suffix = ".csv" if Path(folder).suffix == ".csv" else ".parquet"
    facts = _describe_job(run, engine, engine_path, spots, suffix)
    job = JobFolder(folder, facts, overwrite)
    task = PredictTask(
        str(run.path.absolute()),
        engine,
        str(engine_path.absolute()),
        hashlib.sha256(repr(facts).encode()).hexdigest(),
        str(Path(spots).absolute()) if spots else "",
        batch_size,
    )
    parts = job.name_inputs({str(image): files for image, files in images.items()}, suffix)
    summary = job.work_through(task, parts, "predict", scheduler, workers)
    if not summary.failed and not any(summary.counts.values()):
        raise tell_no_bead(inputs)
    return engine, summary


@dataclasses.dataclass(frozen=True)
class PredictTask:
    """What a worker does with an image.

    Attributes:
        run_path: Folder of the run.
        engine: Name of the engine.
        engine_path: Its file.
        digest: Changes with the run, the engine and the spots.
        spots_path: CSV of positions, or empty.
        batch_size: Crops per step.
    """

    run_path: str
    engine: str
    engine_path: str
    digest: str
    spots_path: str
    batch_size: int

    def __call__(self, item: Input, threads: int | None = None) -> int:
        """Writes the predictions of an image to its part; returns their number. There is no part without any."""
        threads = threads or need("distributed", extra="dask").get_worker().state.nthreads
        run, spots = _read_shared(self)
        # Positions are looked up by the name that the user gave, files are read by the name that holds everywhere.
        if spots is not None:
            spots = rz.spots.spots_of(spots, Path(item.name)).drop(columns="source", errors="ignore")
        file = str(Path(item.name).parent / item.files[0].name)
        predict = functools.partial(_predict, self, threads)
        parts = predict_images(run, {Path(item.name): item.files}, spots, self.batch_size, predict, title="")
        n_rows, first = 0, next(parts, None)
        if first is None:
            return 0
        grow = growing_table if item.part_path.suffix == ".csv" else growing_parquet
        with grow(item.part_path) as append:
            for rows, probabilities in itertools.chain([first], parts):
                append(build_part(run, [row | {"file": file} for row in rows], probabilities, spots))
                n_rows += len(rows)
        return n_rows


def build_part(run: Run, rows: list[dict], probabilities: np.ndarray, spots: "DataFrame | None") -> "DataFrame":
    """As `predictions.build_table`, with columns and types that are the same for all images of a run."""
    places = ["y", "x"] if run.cut_out or spots is not None else []
    unlike = ["unlike"] if run.familiar is not None else []
    given = [] if spots is None else [*(name for name in ("frame", "track") if name in spots), "spot"]
    reason = [] if spots is None else ["reason"]
    columns = ["file", "page", *places, *given, *unlike, *reason, *(["id"] if run.thresholds is not None else [])]
    places += unlike
    table = build_table(run, rows, probabilities, columns)
    return table.astype({"page": "int64", "z_um": "float64", "z_um_sd": "float64", **dict.fromkeys(places, "float64")})


def _predict(task: PredictTask, threads: int, crops: np.ndarray) -> np.ndarray:
    return load_engine(task, threads)(crops)  # not before there are crops: loading takes seconds


@functools.lru_cache(maxsize=1)
def _read_shared(task: PredictTask) -> "tuple[Run, DataFrame | None]":
    """The run and the positions, read by each worker process once for all images of a job."""
    return read_run(task.run_path), rz.spots.read_spots(task.spots_path) if task.spots_path else None


@functools.lru_cache(maxsize=1)
def load_engine(task: PredictTask, threads: int) -> "rz.engines.Engine":
    """The engine of a job, loaded by each worker process once, when it has crops to predict."""
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # workers may share a GPU
    if task.engine == "keras":
        rz.backend.limit_threads(threads)
    return rz.engines.load_engine(task.engine, task.engine_path, threads)


def _describe_job(run: Run, engine: str, engine_path: Path, spots: str, suffix: str) -> dict[str, Any]:
    """What predictions depend on besides the images."""
    return {
        "command": "predict",
        "version": __version__,
        "run": run.path.resolve().name,
        "run_sha256": {name: hash_file(run.path / name) for name in (MODEL_FILE, "classes.csv", CROPS_FILE)},
        "channels": list(run.options.channels),
        "engine": engine,
        "engine_sha256": hash_file(engine_path),
        "spots_sha256": hash_file(spots) if spots else "",
        "parts": suffix,
    }
