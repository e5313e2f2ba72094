"""Cuts labelled crops out of stacks of beads, or reads crops that are sorted by z already.

A class is a z plane: a plane of the stack ("absolute") or a distance from each bead's own focus ("relative").
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.beads import REASONS, cut_crops, find_beads, place_spots, read_spots, spots_of
from resnet_zclass.errors import InputError
from resnet_zclass.images import Stack, read_pages, read_stack
from resnet_zclass.progress import track

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

# A number at the end of a file's name; a sign counts where no word ends before it (bead-3 is bead 3, z-3 is -3).
_NUMBER = re.compile(r"((?:(?<![A-Ya-y0-9])[+-])?\d+(?:\.\d+)?)\s*(um|µm|nm)?$", re.IGNORECASE)


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
    spots = read_spots(spots_path) if spots_path else None
    names, kinds, fields, parts, notes = short_names(paths), {}, [], [], []
    for path in track(paths, "finding beads"):
        stack = read_stack(path)
        _refuse_small(path, stack.planes, crop_px, planes)
        kinds[path] = dataclasses.replace(stack, planes=stack.planes[:0])
        _refuse_mixed({path: kind.planes.dtype.name for path, kind in kinds.items()}, "pixel types")
        if spots is None:
            beads = find_beads(stack.planes, crop_px, min_distance_px)
        else:
            chosen = _spots_of(spots, path, len(paths), spots_path)
            beads = place_spots(stack.planes, chosen, crop_px, min_distance_px)
        beads = choose_planes(beads, len(stack.planes), planes, focus)
        beads["group"] = _name_beads(names[path], beads["reason"] == "")
        fields.append((names[path], stack.planes.max(axis=0), beads))
        parts.append(_cut_beads(path, stack.planes, beads, planes, crop_px))
        notes += _describe_beads(path, beads)
    table = pd.concat([rows for _, rows in parts], ignore_index=True)
    if table.empty:
        raise InputError(f"{notes[0]}; no bead is left, so lower --crop_px or --min_distance_px, or give --spots.")
    step_um, note = _agree_on_step(kinds, z_step_um)
    classes = name_planes(planes, focus)
    table["label"] = np.take(classes, table["plane"])
    table["z_um"] = (table.pop("offset") * (np.nan if step_um is None else step_um)).round(9)
    notes += [*_describe_focus(fields), note, *_compare_offsets(table)]
    return Crops(np.concatenate([pixels for pixels, _ in parts]), table, classes, fields, notes)


def cut_classes(paths: Sequence[Path], crop_px: int, z_step_um: float | None = None) -> Crops:
    """Reads crops that are sorted already: a file is one z position, its pages are samples.

    The class is the file's name, see `order_classes`. Page k of every file is the same bead where all files have
    as many pages, else every page is a bead of its own.

    Args:
        paths: TIFF files.
        crop_px: int; pages that are larger are cut to their middle.
        z_step_um: distance of the planes in um, for names that count planes.

    Raises:
        InputError: If files differ in type or shape, hold colour, or are smaller than a crop.
    """
    pages = {path: read_pages(path) for path in track(paths, "reading")}
    _refuse_mixed({path: array.dtype.name for path, array in pages.items()}, "pixel types")
    _refuse_mixed({path: " x ".join(map(str, array.shape[1:])) for path, array in pages.items()}, "shapes")
    if pages[paths[0]].ndim == 4:
        raise InputError(f"{paths[0]} holds colour (RGB) images; save one gray channel.")
    classes, z_um = order_classes(sorted({path.stem for path in paths}), z_step_um)
    if len(classes) < 2:
        raise InputError(f"{paths[0]} is the only z position; --layout class wants a file for each of two at least.")
    same_beads = len({len(array) for array in pages.values()}) == 1
    folders = len({path.parent for path in paths}) > 1
    parts, pixels = [], []
    for path, array in pages.items():
        _refuse_small(path, array, crop_px, 1)
        owner = (f"{path.parent.name}_" if folders else "") + ("" if same_beads else f"{path.stem}_")
        groups = [f"{owner}page{k:0{len(str(len(array)))}d}" for k in range(len(array))]
        plane = classes.index(path.stem)
        labels = {"label": path.stem, "source": path.as_posix(), "plane": plane, "z_um": z_um[plane]}
        parts.append(pd.DataFrame({"group": groups}).assign(**labels))
        top, left = (array.shape[1] - crop_px) // 2, (array.shape[2] - crop_px) // 2
        pixels.append(array[:, top : top + crop_px, left : left + crop_px])
    notes = _describe_pages(pages, crop_px, same_beads, z_um)
    return Crops(np.concatenate(pixels), pd.concat(parts, ignore_index=True), classes, [], notes)


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


def order_classes(names: Sequence[str], z_step_um: float | None = None) -> tuple[list[str], np.ndarray]:
    """Orders classes upwards in z by the number at the end of each name.

    The number is z in um where a name has a fraction or a unit (`z-0.30`, `+300nm`), else a plane: with a sign
    (`-03`) counted from focus, without one (`00`, `01`) counted from the lowest, focus in the middle.

    Returns:
        The names in order, and `z_um` of each, NaN where the z step is unknown.

    Raises:
        InputError: If a name has no number at its end, or two have the same.

    >>> order_classes(["+00", "+01", "-01"], z_step_um=0.1)
    (['-01', '+00', '+01'], array([-0.1,  0. ,  0.1]))
    >>> order_classes(["z1.5um", "z-0.5um"])
    (['z-0.5um', 'z1.5um'], array([-0.5,  1.5]))
    """
    found = {name: _NUMBER.search(name) for name in names}
    for name, match in found.items():
        if match is None:
            raise InputError(f"{name}: this file name has no z at its end; name files by plane (07) or um (-0.30um).")
    values = {
        name: float(match[1]) * (1e-3 if (match[2] or "").lower() == "nm" else 1) for name, match in found.items()
    }
    ordered = sorted(names, key=values.get)
    for low, high in itertools.pairwise(ordered):
        if values[low] == values[high]:
            raise InputError(f"{low}, {high}: both file names mean the same z; a class is one file per folder.")
    z = np.array([values[name] for name in ordered])
    if any(match[2] or "." in match[1] for match in found.values()):
        return ordered, z
    if not any(match[1][0] in "+-" for match in found.values()):
        z = z - z[len(z) // 2]
    return ordered, np.round(z * (np.nan if z_step_um is None else z_step_um), 9)


def short_names(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns the name of each file without suffix, with its folder's name before it where two would be the same.

    >>> list(short_names([Path("a/x.tif"), Path("b/x.tif"), Path("b/y.tif")]).values())
    ['a_x', 'b_x', 'y']
    """
    count = Counter(path.stem for path in paths)
    return {path: path.stem if count[path.stem] == 1 else f"{path.parent.name}_{path.stem}" for path in paths}


def _refuse_small(path: Path, pages: np.ndarray, crop_px: int, planes: int) -> None:
    n_planes, height, width = pages.shape
    if n_planes < planes:
        raise InputError(
            f"{path} has {n_planes} planes, fewer than --planes {planes}; give --planes {n_planes} or less."
        )
    if min(height, width) < crop_px:
        raise InputError(f"{path} is {height} x {width} px, smaller than --crop_px {crop_px}; give a smaller crop.")


def _refuse_mixed(kinds: dict[Path, object], what: str) -> None:
    (first, kind), *others = kinds.items()
    for path, other in others:
        if other != kind:
            raise InputError(f"{first} and {path} have mixed {what} ({kind}, {other}); make them alike or apart.")


def _spots_of(spots: DataFrame, path: Path, n_stacks: int, spots_path: str) -> DataFrame:
    """The spots that lie in one stack: all of them, or those whose column `source` names its file."""
    if "source" not in spots and n_stacks > 1:
        raise InputError(
            f"{spots_path}: there are {n_stacks} stacks, so it wants a column source with the file's name."
        )
    return spots_of(spots, path)


def _name_beads(name: str, used: pd.Series) -> np.ndarray:
    digits = max(2, len(str(len(used) - 1)))
    return np.where(used, [f"{name}_bead{i:0{digits}d}" for i in used.cumsum() - 1], "")


def _cut_beads(
    path: Path, stack: np.ndarray, beads: DataFrame, planes: int, crop_px: int
) -> tuple[np.ndarray, DataFrame]:
    """The crops of one stack, bead by bead and upwards in z, and their rows."""
    used = beads[beads["reason"] == ""]
    rows = used.loc[used.index.repeat(planes), ["group", "y", "x", "focus", "zero"]].reset_index(drop=True)
    rows["plane"] = np.tile(np.arange(planes), len(used))
    rows["offset"] = rows["plane"] - rows.pop("zero")
    rows["source"] = path.as_posix()
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


def _describe_pages(pages: dict[Path, np.ndarray], crop_px: int, same_beads: bool, z_um: np.ndarray) -> list[str]:
    array = next(iter(pages.values()))
    notes = [f"{len(pages)} files, {sum(map(len, pages.values()))} pages of {array.shape[1]} x {array.shape[2]} px"]
    if array.shape[1:] != (crop_px, crop_px):
        notes.append(f"warning: pages are cut to their middle, {crop_px} x {crop_px} px (--crop_px).")
    if not same_beads:
        notes.append("warning: files differ in number of pages, so every page counts as a bead of its own.")
    if np.isnan(z_um).any():
        return [*notes, "z step: unknown, so results will be in planes only; give --z_step_um to have um too"]
    return [*notes, f"z: {z_um[0]:g} to {z_um[-1]:g} um"]
