"""Finds fluorescent beads in a stack or in one image, fits each bead's own focus, and cuts crops.

Everything is measured against the image at hand (its noise, the size and brightness of its beads), so there is no
threshold to set: a blob filter (Laplacian of Gaussian) at the beads' size gives candidates, and whatever is not
one clean bead that fits its crop is kept in the table with the reason why it is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

from resnet_zclass.blobs import (
    blob_scales,
    filter_blobs,
    find_blobs,
    find_scale,
    measure_widths,
    refine_centre,
)
from resnet_zclass.errors import InputError
from resnet_zclass.focus import axial_profile, fit_focus
from resnet_zclass.spots import check_inside

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")
scipy = lazy.load("scipy")

REASONS = {
    "border": "too near the border",
    "neighbour": "too near another bead",
    "dim": "too dim",
    "clump": "not a single bead by size or brightness",
    "foci": "two peaks along z",
    "no focus": "no focus inside the stack",
    "stack end": "focus too near the end of the stack",
}
MIN_DISTANCE_CROPS = 0.7

# Fainter than this share of the typical bead is dirt; in one image, where defocus dims
# beads too, this share of the typical height over noise.
_MIN_BRIGHTNESS, _MIN_PAGE_SNR = 0.15, 0.05
# An outlier lies this many robust standard deviations from the median, which take at least this many beads.
_OUTLIER_SD, _OUTLIER_BEADS = 4.0, 6
# A second peak along z of this share of the first is another bead, above or below.
_SECOND_PEAK = 0.5


def find_beads(stack: np.ndarray, crop_px: int, min_distance_px: float | None = None) -> DataFrame:
    """Finds the beads in a stack and the focus of each.

    Args:
        stack: array `(Z, H, W)` of any real type, Z >= 1.
        crop_px: int, side of the crops that are to be cut; also bounds the size of a bead.
        min_distance_px: beads nearer to each other than this are refused; default 0.7 crops.

    Returns:
        DataFrame of one row per candidate, by y and x: `y`, `x` (centre in px, pixel (0, 0) centred at 0, 0),
        `focus` (plane with fraction, NaN where there is none), `peak` (height of the bead above its surroundings
        in focus, counts), `reason` (empty for a usable bead, else a key of `REASONS`).

    >>> y, x = np.indices((64, 64))
    >>> z = np.arange(21)[:, None, None]
    >>> width = 2 + 0.02 * (z - 9.4) ** 2
    >>> stack = 10 + 4e3 / width**2 * np.exp(-((y - 30.2) ** 2 + (x - 33.7) ** 2) / (2 * width**2))
    >>> find_beads(stack, crop_px=32)[["y", "x", "focus"]].round(1).values.tolist()
    [[30.2, 33.7, 9.4]]
    """
    field = stack.max(axis=0).astype("float32")
    scales = blob_scales(crop_px / 6)
    heights = filter_blobs(field, scales)
    scale_px = find_scale(field, scales, crop_px / 2, heights)
    blobs = find_blobs(field, [scale_px], crop_px / 2, heights=heights[[scales.index(scale_px)]])
    measures = [_measure(stack, row.y, row.x, scale_px) for row in blobs.itertuples()]
    beads = pd.DataFrame(measures, columns=["y", "x", "focus", "peak", "second", "along_px", "across_px"], dtype=float)
    beads["reason"] = _judge(beads, blobs, stack.shape[1:], crop_px, min_distance_px)
    # Peaks side by side that have one centre are one clump.
    beads = beads[~beads[["y", "x"]].round().duplicated()]
    return beads.sort_values(["y", "x"], ignore_index=True)[["y", "x", "focus", "peak", "reason"]]


def find_beads_in_page(page: np.ndarray, crop_px: int, min_distance_px: float | None = None) -> DataFrame:
    """Finds the beads in one image, each at its own size, since one image shows beads at any defocus.

    Args:
        page: array `(H, W)`.
        crop_px: int, side of the crops that are to be cut.
        min_distance_px: beads nearer to each other than this are refused; default 0.7 crops.

    Returns:
        DataFrame as of `find_beads`, without `focus`; reasons are "dim", "border" and "neighbour" only. The crops
        of rows without a reason fit the page.

    >>> y, x = np.indices((64, 64))
    >>> page = 10 + 50 * np.exp(-((y - 30.2) ** 2 + (x - 33.7) ** 2) / (2 * 3.0**2))
    >>> find_beads_in_page(page, crop_px=32)[["y", "x"]].round(1).values.tolist()
    [[30.2, 33.7]]
    """
    page = np.asarray(page, "float32")
    # The filter sees a sharp bead best at 1.7 times its size, and lone bright pixels at the smallest.
    scales = blob_scales(crop_px / 3)[1:] or [1.0]
    blobs = find_blobs(page, scales, crop_px / 2, merge_px=crop_px / 3)
    centres = [refine_centre(page, row.y, row.x, row.scale_px) for row in blobs.itertuples()]
    beads = pd.DataFrame(centres, columns=["y", "x"], dtype=float)
    beads["peak"] = blobs["height"]
    beads["reason"] = np.where(blobs["snr"] < _MIN_PAGE_SNR * _typical(blobs["snr"].to_numpy()), "dim", "")
    bright = beads["reason"] == ""
    beads.loc[bright, "reason"] = _judge_place(beads[bright], page.shape, crop_px, min_distance_px)
    return beads.sort_values(["y", "x"], ignore_index=True)


def place_spots(stack: np.ndarray, spots: DataFrame, crop_px: int, min_distance_px: float | None = None) -> DataFrame:
    """Returns given positions as `find_beads` returns found ones: with the focus of each, refused where they lie badly.

    Positions are taken as they are. Only place and focus are judged, not brightness or shape.

    Raises:
        InputError: If a position lies outside the field.

    >>> spots = pd.DataFrame({"y": [20.0, 3.0], "x": [30.0, 30.0]})
    >>> place_spots(np.ones((1, 64, 64)), spots, crop_px=16)["reason"].tolist()
    ['', 'border']
    """
    check_inside(spots, stack.shape[1:])
    beads = spots[["y", "x"]].astype(float).reset_index(drop=True)
    scale_px = find_scale(stack.max(axis=0).astype("float32"), blob_scales(crop_px / 6), crop_px / 2)
    profiles = [axial_profile(stack, row.y, row.x, scale_px) for row in beads.itertuples()]
    beads["focus"] = [fit_focus(profile)[0] for profile in profiles]
    beads["peak"] = [profile.max() for profile in profiles]
    beads["reason"] = _judge_place(beads, stack.shape[1:], crop_px, min_distance_px)
    return beads


def cut_crops(pages: np.ndarray, y: Sequence[float], x: Sequence[float], crop_px: int) -> np.ndarray:
    """Cuts, round each position, the square of pixels whose middle is nearest to it out of every page.

    Args:
        pages: array `(Z, H, W)`, a stack; a single page is a stack of one.
        y: N centres in px; pixel (0, 0) is centred at 0, 0.
        x: N centres in px.
        crop_px: int, side of the crops.

    Returns:
        Array `(N, Z, crop_px, crop_px)` of the type of `pages`, with exactly its pixels.

    Raises:
        InputError: If a crop does not lie within the pages.

    >>> cut_crops(np.arange(36).reshape(1, 6, 6), y=[2.5, 0.5], x=[3.4, 0.5], crop_px=2)[:, 0].tolist()
    [[[15, 16], [21, 22]], [[0, 1], [6, 7]]]
    """
    height, width = pages.shape[-2:]
    crops = np.empty((len(y), len(pages), crop_px, crop_px), pages.dtype)
    for crop, y_, x_ in zip(crops, y, x, strict=True):
        top, left = _corner(y_, crop_px), _corner(x_, crop_px)
        if min(top, left) < 0 or top + crop_px > height or left + crop_px > width:
            raise InputError(
                f"a crop of {crop_px} px round y={y_:g}, x={x_:g} does not fit the field of {height} x {width} px; "
                "leave the position out."
            )
        crop[...] = pages[:, top : top + crop_px, left : left + crop_px]
    return crops


def _corner(centre: float, crop_px: int) -> int:
    # floor(v + 0.5), not round(): Python rounds halves to even, which would shift every other crop.
    return math.floor(centre - (crop_px - 1) / 2 + 0.5)


def _measure(stack: np.ndarray, y: float, x: float, scale_px: float) -> tuple[float, ...]:
    """Centre in focus, focus, height, second peak along z, and both widths of the bead near `(y, x)`."""
    profile = axial_profile(stack, y, x, scale_px)
    focus, _ = fit_focus(profile)
    middle = int(np.argmax(profile)) if math.isnan(focus) else round(focus)
    sharp = stack[max(0, middle - 1) : middle + 2].mean(axis=0, dtype="float32")
    y, x = refine_centre(sharp, y, x, 1.5 * scale_px)
    profile = axial_profile(stack, y, x, scale_px)
    focus, second = fit_focus(profile)
    return y, x, focus, float(profile.max()), second, *measure_widths(sharp, y, x, 1.5 * scale_px)


def _judge(
    beads: DataFrame, blobs: DataFrame, field_shape: tuple[int, int], crop_px: int, min_distance_px: float | None
) -> np.ndarray:
    """The reason why each bead is refused, the first that holds in the order below; else an empty string."""
    reason = np.full(len(beads), "", dtype=object)
    reason[beads["peak"] < _MIN_BRIGHTNESS * _typical(beads["peak"].to_numpy())] = "dim"
    bright = reason == ""
    # Distances are those of the peaks, since the centres of two that overlap run together.
    places = beads.assign(y=blobs["y"], x=blobs["x"])[bright]
    reason[bright] = np.where(
        _judge_place(beads[bright], field_shape, crop_px, min_distance_px) == "border",
        "border",
        _judge_place(places, field_shape, crop_px, min_distance_px),
    )
    faults = {
        "clump": _is_clump(beads, reason == ""),
        "foci": beads["second"] > _SECOND_PEAK,
        "no focus": beads["focus"].isna(),
    }
    for name, holds in faults.items():
        reason[(reason == "") & holds.to_numpy()] = name
    return reason


def _judge_place(
    beads: DataFrame, field_shape: tuple[int, int], crop_px: int, min_distance_px: float | None
) -> np.ndarray:
    """As `_judge`, for what a bead's place decides: its crop must fit the field, and no other bead be near."""
    reason = np.full(len(beads), "", dtype=object)
    if not len(beads):
        return reason
    nearest = _nearest_px(beads[["y", "x"]].to_numpy(float))
    limit = MIN_DISTANCE_CROPS * crop_px if min_distance_px is None else min_distance_px
    reason[nearest < limit] = "neighbour"
    for centre, side in zip(("y", "x"), field_shape, strict=True):
        first = beads[centre].map(lambda value: _corner(value, crop_px)).to_numpy()
        reason[(first < 0) | (first + crop_px > side)] = "border"
    return reason


def _nearest_px(places: np.ndarray) -> np.ndarray:
    if len(places) < 2:
        return np.full(len(places), np.inf)
    return scipy.spatial.KDTree(places).query(places, k=2)[0][:, 1]


def _typical(peaks: np.ndarray) -> float:
    """Median of the peaks, each counted by its height, so that many faint specks do not drown a few beads."""
    order = np.sort(np.clip(peaks, 0, None))
    return float(order[np.searchsorted(order.cumsum(), order.sum() / 2)]) if order.sum() > 0 else 0.0


def _is_clump(beads: DataFrame, alone: np.ndarray) -> pd.Series:
    """Whether size or brightness are far above those of most beads, as where two lie side by side."""
    width = np.sqrt(beads["along_px"] * beads["across_px"])
    traits = {
        "flux": (np.log(beads["peak"].clip(lower=1e-12) * width**2), 0.15),
        "width": (np.log(width), 0.04),
        "shape": (np.log(beads["along_px"] / beads["across_px"]), 0.04),
    }
    clump = pd.Series(False, index=beads.index)
    if alone.sum() < _OUTLIER_BEADS:
        return clump
    for values, least_sd in traits.values():
        middle = values[alone].median()
        sd = max(1.4826 * (values[alone] - middle).abs().median(), least_sd)
        clump |= values - middle > _OUTLIER_SD * sd
    return clump
