"""Makes a labelled set of crops from stacks of beads (find, crop, label) or from single images: split, check, write.

All crops of a bead stay in one split, because neighbouring planes of a bead are nearly the same image and a
classifier that has seen one knows the other.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

import resnet_zclass as rz
from resnet_zclass.beads import REASONS
from resnet_zclass.command import command
from resnet_zclass.crops import Crops, cut_stacks
from resnet_zclass.dask_jobs import check_scheduler
from resnet_zclass.errors import InputError
from resnet_zclass.files import whole_folder
from resnet_zclass.gallery import draw_overview
from resnet_zclass.gather import gather_images
from resnet_zclass.groups import find_groups
from resnet_zclass.images import TIFF_SUFFIXES, list_images
from resnet_zclass.loader import write_dataset
from resnet_zclass.opts import MakeDatasetOptions, list_changes, pick, require
from resnet_zclass.provenance import hash_files, write_record
from resnet_zclass.sorted_crops import cut_classes
from resnet_zclass.splits import SPLITS, split_by_group

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

CROP_PX = 32  # of beads
_MONTAGE_BEADS, _MONTAGE_PLANES = 8, 13


@command("make_dataset")
def main(options: MakeDatasetOptions) -> None:
    """Runs the command; `--help` lists its options."""
    _check_options(options)
    parts_path = Path(f"{Path(options.data_path).absolute()}.parts")  # with Dask, until the set is written
    with whole_folder(options.data_path, options.overwrite, mark="manifest.csv") as folder:
        crops, failed = _gather_crops(options, parts_path)
        table = regroup(crops.table, options.group_regex)
        if "split" not in table:
            table["split"] = split_crops(
                table,
                split=options.split,
                fractions=options.fractions,
                train_num=options.train_num,
                val_num=options.val_num,
                seed=options.seed,
            )
        notes = check_splits(crops.pixels, table, leaks=options.split == "random")
        write_crops(folder, crops, table)
        write_record(folder, **describe_sources(options))
        if failed:
            rz.job_folder.write_failed(folder / "failed.csv", failed)
    if options.dask_scheduler:
        shutil.rmtree(parts_path, ignore_errors=True)
    notes += [f"warning: {len(failed)} stacks failed and were left out, see failed.csv of the set."] * bool(failed)
    _say([*crops.notes, *notes, *summarise(crops, table), f"overview: {Path(options.data_path) / 'overview.png'}"])


def _gather_crops(options: MakeDatasetOptions, parts_path: Path) -> tuple[Crops, dict[str, str]]:
    """The crops in whatever layout they lie; and one line for each stack that Dask's workers had to leave out."""
    paths = find_sources(options.source_path, folders=options.layout == "images")
    if options.layout == "images":
        return gather_images(paths, options.channels, options.crop_px), {}
    crop_px = options.crop_px or CROP_PX
    if options.layout == "class":
        return cut_classes(paths, crop_px=crop_px, z_step_um=options.z_step_um), {}
    numbers = pick(options, "planes", "focus", "z_step_um", "min_distance_px")
    numbers |= {"crop_px": crop_px, "spots_path": options.spots}
    if not options.dask_scheduler:
        return cut_stacks(paths, **numbers), {}
    dask = {"scheduler": options.dask_scheduler, "workers": options.dask_workers, "overwrite": options.overwrite}
    return rz.crop_jobs.cut_many_stacks(paths, parts_path, **numbers, **dask)


def describe_sources(options: MakeDatasetOptions) -> dict[str, object]:
    """What a set is made from: options, and the SHA-256 of every source (with Dask, of many, its size and time)."""
    folders = options.layout == "images"
    paths = find_sources(options.source_path, folders)
    files = [file for path in paths for file in list_images(path, recursive=True)] if folders else paths
    if options.dask_scheduler:
        sources = {str(path): f"{path.stat().st_size} {path.stat().st_mtime_ns}" for path in files}
    else:
        sources = hash_files(files)
    return {"options": list_changes("make_dataset", options), "sources": sources}


def find_sources(source_path: Sequence[str], folders: bool = False) -> list[Path]:
    """Returns the TIFF files that `--source_path` means, each once; or its folders, if `folders`.

    Raises:
        InputError: If one is missing, or a folder holds no TIFF.
    """
    paths: dict[Path, None] = {}
    for name in source_path:
        found = [Path(name)] if folders else [p for p in list_images(name) if p.suffix.lower() in TIFF_SUFFIXES]
        if not found:
            raise InputError(
                f"{name} holds no TIFF; --source_path wants multi-page TIFF files or folders of them, and --layout "
                "images for single images in a folder per class."
            )
        paths |= dict.fromkeys(found)
    return list(paths)


def regroup(table: DataFrame, pattern: str) -> DataFrame:
    """Returns `table` with the group that `pattern` finds in each source's file name; as it is without a pattern.

    The group is the first bracket of the regular expression, else all that it finds.

    Raises:
        InputError: If the pattern is no regular expression, or finds nothing in a name.

    >>> table = pd.DataFrame({"source": ["day1_a.tif", "day2_a.tif"], "group": ["x", "y"]})
    >>> regroup(table, "(day[0-9]+)_")["group"].tolist()
    ['day1', 'day2']
    """
    return table.assign(group=find_groups(table["source"], pattern)) if pattern else table.copy()


def split_crops(
    table: DataFrame,
    split: str = "group",
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    train_num: int | None = None,
    val_num: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Deals crops out to train, val and test.

    Args:
        table: DataFrame of N crops with `label`, `group`, and for regions `source`, `y`, `x`.
        split: "group": whole groups, drawn; where every group is a single crop, class by class. "region": whole
            groups by their place along the longer side of each field, so that train, val and test are strips of
            it. "random": crops, class by class, whatever their group.
        fractions: shares of train, val and test.
        train_num: training crops of each class, instead of fractions.
        val_num: validation crops of each class; the rest is test.
        seed: seed of the draw.

    Returns:
        Array `(N,)` of "train", "val", "test".

    Raises:
        InputError: If there are too few crops or groups, positions are missing for regions, or groups with several
            crops of a class meet `train_num`.

    >>> table = pd.DataFrame({"label": ["0", "1"] * 4, "group": list("aabbccdd")})
    >>> split_crops(table, fractions=(0.5, 0.25, 0.25)).tolist()
    ['train', 'train', 'val', 'val', 'train', 'train', 'test', 'test']
    """
    numbers = {"fractions": fractions, "train_num": train_num, "val_num": val_num}
    single = table["group"].is_unique
    if train_num is not None and split != "random" and not single and table.duplicated(["label", "group"]).any():
        raise InputError("--train_num counts crops of a class, but groups hold several of them; give --fractions.")
    if split == "region":
        return _split_regions(table, numbers)
    if split == "group" and not single:
        return split_by_group(table["group"], seed=seed, labels=table["label"], **numbers)
    splits = np.empty(len(table), dtype="<U5")
    for k, rows in enumerate(table.groupby("label", sort=True).indices.values()):
        splits[rows] = split_by_group(rows, seed=seed + k, **numbers)
    return splits


def check_splits(pixels: np.ndarray, table: DataFrame, leaks: bool = False) -> list[str]:
    """Checks that no group and no image stands in two splits; returns warnings.

    Args:
        pixels: array `(N, H, W)`.
        table: DataFrame of N rows with `split`, `group`, `label`, `source`.
        leaks: whether groups are allowed in two splits, which is then a warning.

    Raises:
        InputError: If a group (unless `leaks`) or an identical image stands in two splits.

    >>> table = pd.DataFrame({"split": ["train", "test"], "group": ["a", "b"], "label": "0", "source": "s.tif"})
    >>> check_splits(np.zeros((2, 4, 4)), table)
    Traceback (most recent call last):
    resnet_zclass.errors.InputError: s.tif (a, class 0) and s.tif (b, class 0) are identical images, but one is in \
train, one in test; leave one out or give both one group.
    """
    notes = []
    counts = table.groupby("group")["split"].nunique()
    parted = counts[counts > 1]
    if len(parted) and not leaks:
        raise InputError(f"group {parted.index[0]} stands in two splits; give --split group, or folders not split yet.")
    if len(parted):
        notes.append(f"warning: {len(parted)} groups stand in several splits (--split random), so results flatter.")
    first: dict[bytes, int] = {}
    splits = table["split"].to_numpy()
    for i, image in enumerate(pixels):
        j = first.setdefault(hashlib.sha256(np.ascontiguousarray(image)).digest(), i)
        if splits[i] != splits[j]:
            a, b = table.iloc[j], table.iloc[i]
            raise InputError(
                f"{a.source} ({a.group}, class {a.label}) and {b.source} ({b.group}, class {b.label}) are identical "
                f"images, but one is in {a.split}, one in {b.split}; leave one out or give both one group."
            )
    present = [split for split in SPLITS if (table["split"] == split).any()]
    classes = table.groupby("split")["label"].nunique()
    missing = [split for split in present if classes[split] < table["label"].nunique()]
    if {"y", "x"} <= set(table) and (overlapping := _count_overlaps(table, pixels.shape[1:3])):
        notes.append(
            f"note: crops of {overlapping} pairs of beads overlap and lie in different splits; "
            f"--min_distance_px {round(1.5 * max(pixels.shape[1:3]))} leaves no such pair, --split region few."
        )
    return notes + [f"warning: {split} lacks some classes; train refuses such a set." for split in missing]


def write_crops(folder: Path, crops: Crops, table: DataFrame) -> None:
    """Writes the set and its overview picture into an empty folder."""
    classes = pd.DataFrame({"LabelText": crops.classes, "LabelInteger": range(len(crops.classes))})
    write_dataset(folder, crops.pixels, table, classes, by_source="plane" in table)
    # Beads are named by crops.table; the groups of `table` may be coarser.
    splits = table["split"].groupby(crops.table["group"]).agg(lambda of: of.iloc[0] if of.nunique() == 1 else "mixed")
    fields = [
        (name, image, beads.assign(kind=beads["reason"].map(REASONS).fillna(beads["group"].map(splits))))
        for name, image, beads in crops.fields
    ]
    counts = pd.crosstab(table["label"], table["split"]).reindex(crops.classes)
    counts = counts[[split for split in SPLITS if split in counts]]
    axis_names = {} if "plane" in table else {"axis_names": ("image", "class")}
    draw_overview(folder / "overview.png", fields, *_choose_montage(crops), counts, **axis_names)


def summarise(crops: Crops, table: DataFrame) -> list[str]:
    """Lines that say what a set holds: its crops, and how many of each class there are in each split."""
    n, height, width = crops.pixels.shape[:3]
    channels = f", {crops.pixels.shape[3]} channels" if crops.pixels.ndim == 4 else ""
    lines = [
        f"crops: {n} of {height} x {width} px {crops.pixels.dtype}{channels}, {len(crops.classes)} classes "
        f"{crops.classes[0]} to {crops.classes[-1]}, {table['group'].nunique()} groups"
    ]
    for split in SPLITS:
        part = table[table["split"] == split]
        if len(part):
            counts = part["label"].value_counts()
            each = f"{counts.min()}" if counts.min() == counts.max() else f"{counts.min()} to {counts.max()}"
            lines.append(f"{split}: {len(part)} crops, {each} a class, {part['group'].nunique()} groups")
    return lines


def _check_options(options: MakeDatasetOptions) -> None:
    """Refuses what can be seen to be wrong before any file is read."""
    require(options, "source_path", "data_path")
    if "" in options.source_path:
        raise InputError("--source_path is empty; give TIFF files or folders of them.")
    if options.z_step_um is not None and not 0 < options.z_step_um < np.inf:
        raise InputError(f"--z_step_um is a distance above 0. Received: {options.z_step_um}.")
    if options.channels and options.layout != "images":
        raise InputError("--channels stacks channel files of single images, so it wants --layout images.")
    if options.layout != "stack" and options.dask_scheduler:
        raise InputError(f"--dask_scheduler cuts stacks, so it wants --layout stack. Received: {options.layout}.")
    check_scheduler(options.dask_scheduler, options.dask_workers)
    if options.layout != "stack" and (options.spots or options.split == "region"):
        wrong = "--spots" if options.spots else "--split region"
        raise InputError(f"{wrong} wants positions in a field of view, so --layout stack.")
    if options.train_num is None or options.val_num is None:
        split_by_group(list("abc"), options.fractions, train_num=options.train_num, val_num=options.val_num)


def _count_overlaps(table: DataFrame, crop_shape: tuple[int, int]) -> int:
    """Pairs of beads in one field whose crops share pixels but not the split."""
    beads = table.drop_duplicates(["source", "y", "x"])
    n = 0
    for _, field in beads.groupby("source"):
        y, x, split = (field[name].to_numpy() for name in ("y", "x", "split"))
        near = (abs(y[:, None] - y) < crop_shape[0]) & (abs(x[:, None] - x) < crop_shape[1])
        n += int((near & (split[:, None] != split)).sum()) // 2
    return n


def _split_regions(table: DataFrame, numbers: dict[str, object]) -> np.ndarray:
    splits = pd.Series("", index=table["group"].unique())
    for _, rows in table.groupby("source", sort=False):
        places = rows.groupby("group")[["y", "x"]].mean()
        longer = places[["y", "x"]].apply(np.ptp).idxmax()
        places = places.sort_values(longer)
        count = Counter(split_by_group(range(len(places)), **numbers).tolist())
        splits[places.index] = np.repeat(SPLITS, [count[split] for split in SPLITS])
    return table["group"].map(splits).to_numpy(dtype=str)


def _choose_montage(crops: Crops) -> tuple[np.ndarray, list[str], list[str]]:
    """Crops `(beads, planes, H, W)` spread evenly over beads and planes, NaN where there is none; and their names."""
    table = crops.table
    # The nth crop of each class is the same bead wherever groups are beads.
    nth = table.groupby("label").cumcount()
    beads = np.unique(np.linspace(0, nth.max(), _MONTAGE_BEADS).round().astype(int))
    planes = np.unique(np.linspace(0, len(crops.classes) - 1, _MONTAGE_PLANES).round().astype(int))
    montage = np.full((len(beads), len(planes), *crops.pixels.shape[1:3]), np.nan, "float32")
    names = []
    for row, bead in enumerate(beads):
        for column, plane in enumerate(planes):
            at = np.flatnonzero((nth == bead) & (table["label"] == crops.classes[plane]))
            if len(at):
                pixels = crops.pixels[at[0]]
                montage[row, column] = pixels.mean(axis=-1) if pixels.ndim == 3 else pixels
        groups = table.loc[nth == bead, "group"].unique()
        name = groups[0] if len(groups) == 1 else f"sample {bead}"
        names.append(name.rpartition("_")[2] if len(crops.fields) == 1 else name)
    return montage, names, [crops.classes[plane] for plane in planes]


def _say(notes: Sequence[str]) -> None:
    for note in notes:
        print(note, file=sys.stderr if note.startswith("warning: ") else sys.stdout)


if __name__ == "__main__":
    sys.exit(main())
