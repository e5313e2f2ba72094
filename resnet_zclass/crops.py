"""Cuts labelled crops out of stacks of beads.

A class is a z plane: a plane of the stack ("absolute") or a distance from each bead's own focus ("relative").
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.beads import REASONS, cut_crops, find_beads, place_spots
from resnet_zclass.errors import InputError
from resnet_zclass.images import Stack, read_stack
from resnet_zclass.progress import track
from resnet_zclass.spots import read_spots, spots_of, to_pixels

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")


@dataclasses.dataclass(frozen=True)
class Crops:
    """Labelled crops that are not split yet.

    Attributes:
        pixels: array `(N, crop_px, crop_px)`.
        table: DataFrame of N rows: `label,group,source,plane,z_um`, and `y,x,focus` of crops out of a stack; `z_um`
            is NaN where the z step is unknown.
        classes: names of the classes, upwards in z.
        fields: of each stack its name, its projection `(H, W)` and its beads (as `find_beads` gives them, with
            `group`); empty for crops that were sorted already.
        notes: what a user should know, line by line; warnings start with "warning: ".
    """

    pixels: np.ndarray
    table: DataFrame
    classes: list[str]
    fields: list[tuple[str, np.ndarray, DataFrame]]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class StackCrops:
    """The crops of one stack.

    Attributes:
        pixels: array `(N, crop_px, crop_px)`, bead by bead and upwards in z.
        rows: DataFrame of N rows: `group,y,x,focus,plane,offset`; groups are beads, named `bead00`, ...
        beads: its beads, as `find_beads` gives them, with `group` (empty where refused).
        projection: brightest pixel along z, `(H, W)`.
        stack: z step and pixel size of the stack, without its planes.
    """

    pixels: np.ndarray
    rows: DataFrame
    beads: DataFrame
    projection: np.ndarray
    stack: Stack


def cut_stacks(
    paths: Sequence[Path],
    crop_px: int,
    planes: int,
    focus: str = "absolute",
    z_step_um: float | None = None,
    spots_path: str = "",
    min_distance_px: float | None = None,
) -> Crops:
    """Cuts labelled crops of all beads out of stacks, each a field of view whose pages are z planes.

    Args:
        paths: TIFF files.
        crop_px: int, side of the crops.
        planes: int, number of classes.
        focus: "absolute": the classes are the `planes` planes round the median focus of a stack; "relative": the
            `planes` planes round each bead's own focus.
        z_step_um: distance of the planes in um; None: what the files say.
        spots_path: CSV of positions instead of detection.
        min_distance_px: least distance of two beads; default 0.7 crops.

    Raises:
        InputError: If a stack has fewer planes or pixels than asked, stacks differ in type or z step, or no bead
            can be used.
    """
    spots = read_stack_spots(spots_path, len(paths)) if spots_path else None
    parts: dict[Path, StackCrops] = {}
    for path in track(paths, "finding beads"):
        chosen = spots if spots is None else spots_of(spots, path)
        parts[path] = cut_stack(path, crop_px, planes, focus, chosen, min_distance_px)
        refuse_mixed({path: part.pixels.dtype.name for path, part in parts.items()}, "pixel types")
    pixels = np.concatenate([part.pixels for part in parts.values()])
    return join_stacks(parts, pixels, planes, focus, z_step_um)


def cut_stack(
    path: Path,
    crop_px: int,
    planes: int,
    focus: str = "absolute",
    spots: DataFrame | None = None,
    min_distance_px: float | None = None,
) -> StackCrops:
    """Cuts the crops of all beads out of one stack; arguments as of `cut_stacks`.

    Args:
        path: TIFF file.
        crop_px: int, side of the crops.
        planes: int, number of classes.
        focus: "absolute" or "relative".
        spots: positions in this stack instead of detection, as of `spots.spots_of`.
        min_distance_px: least distance of two beads.

    Raises:
        InputError: If the stack cannot be read or has fewer planes or pixels than asked.
    """
    stack = read_stack(path)
    refuse_small(path, stack.planes, crop_px, planes)
    if spots is None:
        beads = find_beads(stack.planes, crop_px, min_distance_px)
    else:
        beads = place_spots(stack.planes, to_pixels(spots, stack.pixel_um, path), crop_px, min_distance_px)
    beads = choose_planes(beads, len(stack.planes), planes, focus)
    beads["group"] = _name_beads(beads["reason"] == "")
    pixels, rows = _cut_beads(stack.planes, beads, planes, crop_px)
    return StackCrops(
        pixels, rows, beads, stack.planes.max(axis=0), dataclasses.replace(stack, planes=stack.planes[:0].copy())
    )


def join_stacks(
    parts: dict[Path, StackCrops], pixels: np.ndarray, planes: int, focus: str, z_step_um: float | None = None
) -> Crops:
    """Makes one set of the crops of several stacks, after which their beads are named.

    Args:
        parts: the crops of each stack, as of `cut_stack`.
        pixels: those of all stacks, one stack after the other.
        planes: int, number of classes.
        focus: "absolute" or "relative".
        z_step_um: distance of the planes in um; None: what the files say.

    Raises:
        InputError: If stacks differ in type or z step, or no bead can be used.
    """
    refuse_mixed({path: part.pixels.dtype.name for path, part in parts.items()}, "pixel types")
    names = short_names(list(parts))
    notes = list(itertools.chain.from_iterable(_describe_beads(path, part.beads) for path, part in parts.items()))
    rows = [
        part.rows.assign(group=_prefix(f"{names[path]}_", part.rows["group"]), source=path.as_posix())
        for path, part in parts.items()
    ]
    table = pd.concat(rows, ignore_index=True)
    if table.empty:
        raise InputError(f"{notes[0]}; no bead is left, so lower --crop_px or --min_distance_px, or give --spots.")
    step_um, note = _agree_on_step({path: part.stack for path, part in parts.items()}, z_step_um)
    classes = name_planes(planes, focus)
    table["label"] = np.take(classes, table["plane"])
    sizes = {part.stack.pixel_um for part in parts.values()}
    if len(sizes) == 1 and None not in sizes:
        table["pixel_um"] = sizes.pop()
    table["z_um"] = (table.pop("offset") * (np.nan if step_um is None else step_um)).round(9)
    fields = [
        (names[path], part.projection, part.beads.assign(group=_prefix(f"{names[path]}_", part.beads["group"])))
        for path, part in parts.items()
    ]
    notes += [*_describe_focus(fields), note, *_compare_offsets(table)]
    return Crops(pixels, table, classes, fields, notes)


def choose_planes(beads: DataFrame, n_planes: int, planes: int, focus: str) -> DataFrame:
    """Adds to each bead the first of its planes and which of them is z = 0; refuses beads without enough planes.

    Args:
        beads: table with `focus` and `reason`.
        n_planes: int, planes of the stack.
        planes: int <= `n_planes`, planes to take.
        focus: "absolute" or "relative".

    Returns:
        `beads` with `first` (plane of the stack) and `zero` (plane counted from `first`), ints.

    >>> beads = pd.DataFrame({"focus": [10.2, 1.6, 9.8], "reason": ""})
    >>> choose_planes(beads, n_planes=21, planes=7, focus="relative")[["first", "zero", "reason"]].values.tolist()
    [[7, 3, ''], [0, 3, 'stack end'], [7, 3, '']]
    >>> choose_planes(beads, n_planes=21, planes=7, focus="absolute")["first"].tolist()
    [7, 7, 7]
    """
    beads = beads.copy()
    if focus == "relative":
        first = np.floor(beads["focus"].fillna(-n_planes) + 0.5).astype(int) - planes // 2
        beads.loc[(beads["reason"] == "") & beads["focus"].isna(), "reason"] = "no focus"
        beads.loc[(beads["reason"] == "") & ((first < 0) | (first + planes > n_planes)), "reason"] = "stack end"
        return beads.assign(first=first.clip(0, n_planes - planes), zero=planes // 2)
    middle = beads.loc[beads["reason"] == "", "focus"].median()
    middle = n_planes // 2 if np.isnan(middle) else int(np.floor(middle + 0.5))
    first = int(np.clip(middle - planes // 2, 0, n_planes - planes))
    return beads.assign(first=first, zero=middle - first)


def name_planes(planes: int, focus: str) -> list[str]:
    """Returns the names of the classes, upwards in z.

    >>> name_planes(3, "relative"), name_planes(11, "absolute")[-2:]
    (['-01', '+00', '+01'], ['09', '10'])
    """
    digits = max(2, len(str(planes - 1)))
    if focus == "relative":
        return [f"{offset:+0{digits + 1}d}" for offset in range(-(planes // 2), planes - planes // 2)]
    return [f"{plane:0{digits}d}" for plane in range(planes)]


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns the name of each file without suffix, with its folder's name before it where two would be the same.

    >>> list(short_names([Path("a/x.tif"), Path("b/x.tif"), Path("b/y.tif")]).values())
    ['a_x', 'b_x', 'y']
    """
    count = Counter(path.stem for path in paths)
    return {path: path.stem if count[path.stem] == 1 else f"{path.parent.name}_{path.stem}" for path in paths}


def read_stack_spots(spots_path: str, n_stacks: int) -> DataFrame:
    """The positions in a CSV for some stacks; of several the column `source` must say which one is meant."""
    spots = read_spots(spots_path)
    if "source" not in spots and n_stacks > 1:
        raise InputError(
            f"{spots_path}: there are {n_stacks} stacks, so it wants a column source with the file's name."
        )
    return spots


def refuse_small(path: Path, pages: np.ndarray, crop_px: int, planes: int) -> None:
    """Raises `InputError` if `pages` `(N, H, W)` of a file are fewer than `planes` or smaller than a crop."""
    n_planes, height, width = pages.shape
    if n_planes < planes:
        raise InputError(
            f"{path} has {n_planes} planes, fewer than --planes {planes}; give --planes {n_planes} or less."
        )
    if min(height, width) < crop_px:
        raise InputError(f"{path} is {height} x {width} px, smaller than --crop_px {crop_px}; give a smaller crop.")


def refuse_mixed(kinds: dict[Path, object], what: str) -> None:
    """Raises `InputError` if files are not all of one kind."""
    (first, kind), *others = kinds.items()
    for path, other in others:
        if other != kind:
            raise InputError(f"{first} and {path} have mixed {what} ({kind}, {other}); make them alike or apart.")


def _name_beads(used: pd.Series) -> np.ndarray:
    digits = max(2, len(str(len(used) - 1)))
    return np.where(used, [f"bead{i:0{digits}d}" for i in used.cumsum() - 1], "")


def _prefix(start: str, groups: pd.Series) -> list[str]:
    return [start + group if group else "" for group in groups]


def _cut_beads(stack: np.ndarray, beads: DataFrame, planes: int, crop_px: int) -> tuple[np.ndarray, DataFrame]:
    """The crops of one stack, bead by bead and upwards in z, and their rows."""
    used = beads[beads["reason"] == ""]
    rows = used.loc[used.index.repeat(planes), ["group", "y", "x", "focus", "zero"]].reset_index(drop=True)
    rows["plane"] = np.tile(np.arange(planes), len(used))
    rows["offset"] = rows["plane"] - rows.pop("zero")
    rows[["y", "x", "focus"]] = rows[["y", "x", "focus"]].round(3)
    cuts = [
        cut_crops(stack[bead.first : bead.first + planes], [bead.y], [bead.x], crop_px)[0] for bead in used.itertuples()
    ]
    return np.concatenate([np.empty((0, crop_px, crop_px), stack.dtype), *cuts]), rows


def _agree_on_step(kinds: dict[Path, Stack], z_step_um: float | None) -> tuple[float | None, str]:
    """The z step of all stacks in um, and a line that says where it comes from."""
    if z_step_um is not None:
        return z_step_um, f"z step: {z_step_um:g} um (--z_step_um)"
    (first, stack), *others = kinds.items()
    for path, other in others:
        if not np.isclose(other.z_step_um or 0, stack.z_step_um or 0, rtol=0.01):
            steps = [f"{step:g} um" if step else "unknown" for step in (stack.z_step_um, other.z_step_um)]
            raise InputError(
                f"{first} and {path} differ in z step ({', '.join(steps)}); give --z_step_um if they do not."
            )
    if stack.z_step_um is None:
        return None, "z step: unknown, so results will be in planes only; give --z_step_um to have um too"
    return stack.z_step_um, f"z step: {stack.z_step_um:g} um ({stack.z_step_source})"


def _describe_beads(path: Path, beads: DataFrame) -> list[str]:
    count = Counter(beads["reason"])
    refused = ", ".join(f"{count[reason]} {words}" for reason, words in REASONS.items() if count[reason])
    line = f"{path}: {len(beads)} spots found, {count['']} used" + (f"; refused: {refused}" if refused else "")
    return [line]


def _describe_focus(fields: list[tuple[str, np.ndarray, DataFrame]]) -> list[str]:
    focus = pd.concat([beads.loc[beads["reason"] == "", "focus"] for _, _, beads in fields]).dropna()
    if focus.empty:
        return ["focus: not found"]
    return [f"focus: planes {focus.min():.1f} to {focus.max():.1f}, median {focus.median():.1f}"]


def _compare_offsets(table: DataFrame) -> list[str]:
    """A warning if one class lies at different distances from focus in different stacks."""
    if table.groupby("label")["z_um"].nunique().max() > 1:
        return ["warning: stacks differ in focus, so a class is not one z; --focus relative would make it one."]
    return []
