"""Cuts crops out of many stacks on the workers of a Dask cluster, and makes one set of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np

from resnet_zclass import __version__
from resnet_zclass.crops import Crops, StackCrops, cut_stack, join_stacks, read_stack_spots
from resnet_zclass.files import hash_file, whole_folder
from resnet_zclass.images import Stack
from resnet_zclass.job_folder import Input, JobFolder, read_facts
from resnet_zclass.spots import spots_of

pd = lazy.load("pandas")


def cut_many_stacks(
    paths: Sequence[Path],
    parts_path: Path,
    crop_px: int,
    planes: int,
    focus: str = "absolute",
    z_step_um: float | None = None,
    spots_path: str = "",
    min_distance_px: float | None = None,
    scheduler: str = "local",
    workers: int | None = None,
    overwrite: bool = False,
) -> tuple[Crops, dict[str, str]]:
    """As `crops.cut_stacks`, by workers; a stack that fails is left out, and pixels stay on disk.

    Args:
        paths: TIFF files.
        parts_path: Folder for the crops of each stack. A job that is started again finds there what is done; the
            caller removes it when the set is written, and not before, since the pixels lie there.
        crop_px: As in `crops.cut_stacks`, as are the next five.
        planes: Number of classes.
        focus: "absolute" or "relative".
        z_step_um: Distance of the planes in um.
        spots_path: CSV of positions.
        min_distance_px: Least distance of two beads.
        scheduler: As in `dask_jobs.open_client`.
        workers: Of a local cluster; default one per core.
        overwrite: Whether a folder of parts that were cut with other options is replaced.

    Returns:
        The crops, equal to those of `crops.cut_stacks` of the stacks that did not fail; and one line for each that did.

    Raises:
        InputError: As `crops.cut_stacks`; and if every stack failed.
    """
    if spots_path:
        read_stack_spots(spots_path, len(paths))
    facts = {
        "command": "make_dataset",
        "version": __version__,
        "crop_px": crop_px,
        "planes": planes,
        "focus": focus,
        "min_distance_px": min_distance_px,
        "spots_sha256": hash_file(spots_path) if spots_path else "",
    }
    known = read_facts(parts_path)
    job = JobFolder(parts_path, facts, overwrite=overwrite and known not in (None, facts))
    inputs = job.name_inputs({path.as_posix(): [path] for path in paths})
    spots_path = str(Path(spots_path).absolute()) if spots_path else ""
    task = CutTask(crop_px, planes, focus, spots_path, len(paths), min_distance_px)
    summary = job.work_through(task, inputs, "make_dataset", scheduler, workers)
    parts = {Path(i.name): read_part(i.part_path) for i in inputs if i.name in summary.counts}
    pixels = _join_pixels([part.pixels for part in parts.values()], parts_path / "all_pixels.npy")
    return join_stacks(parts, pixels, planes, focus, z_step_um), summary.failed


@dataclasses.dataclass(frozen=True)
class CutTask:
    """What a worker does with a stack; arguments as of `crops.cut_stacks`."""

    crop_px: int
    planes: int
    focus: str
    spots_path: str
    n_stacks: int
    min_distance_px: float | None

    def __call__(self, item: Input, threads: int | None = None) -> int:
        """Writes the crops of a stack to its part; returns their number."""
        spots = None
        if self.spots_path:  # looked up by the name that the user gave
            spots = spots_of(read_stack_spots(self.spots_path, self.n_stacks), Path(item.name))
        part = cut_stack(item.files[0], self.crop_px, self.planes, self.focus, spots, self.min_distance_px)
        write_part(item.part_path, part)
        return len(part.pixels)


def write_part(path: Path, part: StackCrops) -> None:
    """Writes the crops of a stack as a folder, whole or not at all."""
    with whole_folder(path, overwrite=True) as folder:
        np.save(folder / "pixels.npy", part.pixels)
        np.save(folder / "projection.npy", part.projection)
        part.rows.to_parquet(folder / "rows.parquet", index=False)
        part.beads.to_parquet(folder / "beads.parquet", index=False)
        stack = {key: getattr(part.stack, key) for key in ("z_step_um", "pixel_um", "z_step_source")}
        (folder / "stack.json").write_text(json.dumps(stack), encoding="utf-8")


def read_part(path: Path) -> StackCrops:
    """Reads what `write_part` wrote; pixels stay on disk until they are used."""
    pixels, projection = (_open_array(path / f"{name}.npy") for name in ("pixels", "projection"))
    rows, beads = (pd.read_parquet(path / f"{name}.parquet") for name in ("rows", "beads"))
    stack = Stack(pixels[:0], **json.loads((path / "stack.json").read_text(encoding="utf-8")))
    return StackCrops(pixels, rows, beads, projection, stack)


def _open_array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r")
    except ValueError:  # nothing in it, which cannot be mapped
        return np.load(path)


def _join_pixels(parts: Sequence[np.ndarray], path: Path) -> np.ndarray:
    """The pixels of all stacks in one array, which lies in the file `path`."""
    n = sum(map(len, parts))
    if not n:
        return parts[0]
    pixels = np.lib.format.open_memmap(path, "w+", parts[0].dtype, (n, *parts[0].shape[1:]))
    start = 0
    for part in parts:
        pixels[start : start + len(part)] = part
        start += len(part)
    return pixels
