"""Finds bright blobs in one image by a filter at their own size, and measures their centre and width.

The filter is the Laplacian of Gaussian (Lindeberg 1998, doi:10.1023/A:1008045108935), so scaled that a Gaussian
blob of its own size gives the height of the blob; a flat or sloping background gives nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")
scipy = lazy.load("scipy")
skimage = lazy.load("skimage")

# A blob stands this many times the noise above its surroundings. White noise alone reaches 5 somewhere in a
# million pixels; the maximum over the planes of a stack has longer tails.
_MIN_SNR = 8.0
# Without noise, what is left of a background still stands out; it is far below any blob.
_MIN_HEIGHT = 0.01
# A blob fainter than this share of one beside it is taken for its ring.
_RING_HEIGHT = 0.15


def blob_scales(largest_px: float) -> list[float]:
    """Returns the sizes of blobs to look for (sd of a Gaussian, px), from 1 px to `largest_px` by factors of √2.

    >>> [round(scale, 1) for scale in blob_scales(5)]
    [1.0, 1.4, 2.0, 2.8, 4.0]
    """
    return [2 ** (i / 2) for i in range(1 + math.floor(2 * math.log2(max(largest_px, 1))))]


def find_blobs(
    image: np.ndarray,
    scales: Sequence[float],
    reach_px: float,
    merge_px: float = 0.0,
    heights: np.ndarray | None = None,
) -> DataFrame:
    """Finds bright blobs that stand out of the image's own noise.

    Args:
        image: float array `(H, W)`.
        scales: sizes to look for, as sd in px; each blob is found at the one where it stands out most.
        reach_px: a blob makes rings out to this distance; much fainter blobs within it are dropped.
        merge_px: peaks nearer than this are one blob, at the higher one.
        heights: what `filter_blobs` says of the image at these sizes, if known already.

    Returns:
        DataFrame of `y`, `x` (whole px), `height` (counts), `snr` (height over noise), `scale_px`, highest first.

    >>> y, x = np.indices((64, 64))
    >>> image = 50 * np.exp(-((y - 30) ** 2 + (x - 33) ** 2) / (2 * 2.0**2))
    >>> find_blobs(image, [1.0, 2.0], reach_px=16)[["y", "x"]].values.tolist()
    [[30.0, 33.0]]
    """
    noise = pixel_noise(image)
    heights = filter_blobs(image, scales) if heights is None else heights
    snr = heights / (noise * np.array([_filter_gain(scale) for scale in scales])[:, None, None])
    snr[heights < _MIN_HEIGHT * heights.max()] = 0
    best = snr.argmax(axis=0)
    spacing = max(1, round(min(scales)))
    found = skimage.feature.peak_local_max(
        snr.max(axis=0), min_distance=spacing, threshold_abs=_MIN_SNR, exclude_border=False
    )
    y, x = found.T
    at = best[y, x]
    columns = {"height": heights[at, y, x], "snr": snr[at, y, x], "scale_px": np.take(scales, at)}
    blobs = pd.DataFrame({"y": y.astype(float), "x": x.astype(float)} | columns)
    return _drop_rings(blobs.sort_values("height", ascending=False, ignore_index=True), reach_px, merge_px)


def find_scale(image: np.ndarray, scales: Sequence[float], reach_px: float, heights: np.ndarray | None = None) -> float:
    """Returns the typical size of the bright blobs in an image: the scale at which most of them are highest.

    Args:
        image: float array `(H, W)`.
        scales: sizes to look for, as sd in px.
        reach_px: as of `find_blobs`.
        heights: what `filter_blobs` says of the image at these sizes, if known already.

    >>> y, x = np.indices((64, 64))
    >>> image = 50 * np.exp(-((y - 30) ** 2 + (x - 33) ** 2) / (2 * 2.0**2))
    >>> find_scale(image, [1.0, 2.0, 4.0], reach_px=16)
    2.0
    """
    heights = filter_blobs(image, scales) if heights is None else heights
    blobs = find_blobs(image, scales, reach_px, heights=heights)
    if blobs.empty:
        return scales[0]
    bright = blobs[blobs["height"] >= 0.3 * blobs["height"].max()]
    y, x = bright["y"].to_numpy(int), bright["x"].to_numpy(int)
    return scales[int(np.argmax(np.median(heights[:, y, x], axis=1)))]


def filter_blobs(image: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """Returns the height of a blob of each sd in `scales` (px) at each pixel, `(S, H, W)`, negative in dark holes.

    >>> abs(filter_blobs(np.full((9, 9), 5.0), [1.0, 2.0])).max().item()
    0.0
    """
    # The filter's cut-off tails let a little of a constant through, so the constant goes first.
    image = image - np.median(image)
    heights = np.empty((len(scales), *image.shape), image.dtype)
    for k, scale_px in enumerate(scales):
        heights[k] = -2 * scale_px**2 * scipy.ndimage.gaussian_laplace(image, scale_px, mode="nearest")
    return heights


def pixel_noise(image: np.ndarray) -> float:
    """Returns the sd of the noise of pixels, from differences of neighbours, which blobs hardly enter.

    >>> noise = np.random.default_rng(0).normal(0, 3, (200, 200))
    >>> round(pixel_noise(noise + np.arange(200)))
    3
    """
    steps = np.diff(image.astype("float32"), axis=-1).ravel()
    # Clipped sd, not a median: pixels of few counts differ by 0 most often.
    for _ in range(6):
        steps = steps[np.abs(steps) <= 3.5 * steps.std()]
    return max(float(steps.std()) / math.sqrt(2), 1e-6 * float(np.ptp(image)), 1e-12)


def blob_window(image: np.ndarray, y: float, x: float, scale_px: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pixels within 3 `scale_px` of a point above their surroundings, and their offsets from it.

    >>> window, dy, dx = blob_window(np.ones((20, 20)), y=10.5, x=10, scale_px=2)
    >>> window.shape, float(dy[0]), float(window.max())
    ((13, 13), -6.5, 0.0)
    """
    reach = math.ceil(3 * scale_px)
    top, left = max(0, math.floor(y) - reach), max(0, math.floor(x) - reach)
    window = image[top : math.floor(y) + reach + 1, left : math.floor(x) + reach + 1].astype(float)
    edge = np.concatenate([window[0], window[-1], window[:, 0], window[:, -1]])
    return window - np.median(edge), np.arange(window.shape[0]) + top - y, np.arange(window.shape[1]) + left - x


def refine_centre(image: np.ndarray, y: float, x: float, scale_px: float) -> tuple[float, float]:
    """Moves a point to the centre of the blob it lies on, to a fraction of a pixel.

    The centroid under a Gaussian window that follows it, until it rests (SExtractor's windowed position, Bertin
    and Arnouts 1996): as precise as a fit of the profile, whatever the profile.

    >>> y, x = np.indices((40, 40))
    >>> image = np.exp(-((y - 20.3) ** 2 + (x - 18.8) ** 2) / (2 * 2.0**2))
    >>> [round(value, 2) for value in refine_centre(image, 21, 18, scale_px=2.0)]
    [20.3, 18.8]
    """
    start = y, x
    for _ in range(20):
        window, dy, dx = blob_window(image, y, x, scale_px)
        weights = np.clip(window, 0, None) * np.exp(-(dy[:, None] ** 2 + dx**2) / (2 * scale_px**2))
        total = weights.sum()
        if total <= 0:
            return start
        # Doubling undoes the pull of the window, which halves each step for a blob as wide as itself.
        step_y, step_x = 2 * (weights.sum(1) @ dy) / total, 2 * (weights.sum(0) @ dx) / total
        y, x = y + step_y, x + step_x
        if math.dist((y, x), start) > 2 * scale_px:
            return start
        if math.hypot(step_y, step_x) < 1e-3:
            break
    return float(y), float(x)


def measure_widths(image: np.ndarray, y: float, x: float, scale_px: float) -> tuple[float, float]:
    """Returns the sd in px of a blob along and across its longer axis, from moments under a Gaussian window.

    The window's share is taken off by 1/s² = 1/m² - 1/w², which is exact for a Gaussian blob.

    >>> y, x = np.indices((60, 60))
    >>> image = np.exp(-((y - 30) ** 2 / (2 * 3.0**2) + (x - 30) ** 2 / (2 * 2.0**2)))
    >>> [round(width, 1) for width in measure_widths(image, 30, 30, scale_px=4.0)]
    [3.0, 2.0]
    """
    window, dy, dx = blob_window(image, y, x, scale_px)
    weights = np.clip(window, 0, None) * np.exp(-(dy[:, None] ** 2 + dx**2) / (2 * scale_px**2))
    total = max(weights.sum(), 1e-12)
    moments = np.array(
        [
            [weights.sum(1) @ dy**2, dy @ weights @ dx],
            [dy @ weights @ dx, weights.sum(0) @ dx**2],
        ]
    )
    across, along = np.linalg.eigvalsh(moments / total)
    return tuple(_unwindow(variance, scale_px) for variance in (along, across))


def _unwindow(variance: float, scale_px: float) -> float:
    # A blob wider than its window leaves the window's own width; 10 windows stand for that.
    inverse = 1 / max(variance, 1e-3) - 1 / scale_px**2
    return 1 / math.sqrt(max(inverse, 1 / (10 * scale_px) ** 2))


@functools.cache
def _filter_gain(scale_px: float) -> float:
    """Sd of `filter_blobs` on white noise of sd 1."""
    reach = math.ceil(5 * scale_px)
    point = np.zeros((2 * reach + 1,) * 2, "float32")
    point[reach, reach] = 1
    return float(np.sqrt((filter_blobs(point, [scale_px]) ** 2).sum()))


def _drop_rings(blobs: DataFrame, reach_px: float, merge_px: float) -> DataFrame:
    """Drops what lies within `reach_px` of a much higher blob, or within the blob itself."""
    at, height, scale = blobs[["y", "x"]].to_numpy(), blobs["height"].to_numpy(), blobs["scale_px"].to_numpy()
    kept: list[int] = []
    for i in range(len(blobs)):
        distance = np.hypot(*(at[kept] - at[i]).T) if kept else np.empty(0)
        ring = (distance < reach_px) & (height[i] < _RING_HEIGHT * height[kept])
        inside = distance < np.maximum(1.5 * scale[kept], merge_px)
        if not (ring | inside).any():
            kept.append(i)
    return blobs.iloc[kept].reset_index(drop=True)
