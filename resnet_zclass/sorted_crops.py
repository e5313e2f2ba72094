"""Reads labelled crops that are sorted by z already: a file is one z position, its name says which."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import lazy_loader as lazy
import numpy as np

from resnet_zclass.crops import Crops, refuse_mixed, refuse_small
from resnet_zclass.errors import InputError
from resnet_zclass.images import read_pages
from resnet_zclass.progress import track

pd = lazy.load("pandas")

# A number at the end of a file's name; a sign counts where no word ends before it (bead-3 is bead 3, z-3 is -3).
_NUMBER = re.compile(r"((?:(?<![A-Ya-y0-9])[+-])?\d+(?:\.\d+)?)\s*(um|µm|nm)?$", re.IGNORECASE)


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
    refuse_mixed({path: array.dtype.name for path, array in pages.items()}, "pixel types")
    refuse_mixed({path: " x ".join(map(str, array.shape[1:])) for path, array in pages.items()}, "shapes")
    if pages[paths[0]].ndim == 4:
        raise InputError(f"{paths[0]} holds colour (RGB) images; save one gray channel.")
    classes, z_um = order_classes(sorted({path.stem for path in paths}), z_step_um)
    if len(classes) < 2:
        raise InputError(f"{paths[0]} is the only z position; --layout class wants a file for each of two at least.")
    same_beads = len({len(array) for array in pages.values()}) == 1
    folders = len({path.parent for path in paths}) > 1
    parts, pixels = [], []
    for path, array in pages.items():
        refuse_small(path, array, crop_px, 1)
        owner = (f"{path.parent.name}_" if folders else "") + ("" if same_beads else f"{path.stem}_")
        groups = [f"{owner}page{k:0{len(str(len(array)))}d}" for k in range(len(array))]
        plane = classes.index(path.stem)
        labels = {"label": path.stem, "source": path.as_posix(), "plane": plane, "z_um": z_um[plane]}
        parts.append(pd.DataFrame({"group": groups}).assign(**labels))
        top, left = (array.shape[1] - crop_px) // 2, (array.shape[2] - crop_px) // 2
        pixels.append(array[:, top : top + crop_px, left : left + crop_px])
    notes = _describe_pages(pages, crop_px, same_beads, z_um)
    return Crops(np.concatenate(pixels), pd.concat(parts, ignore_index=True), classes, [], notes)


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
