"""Finds the focus of a bead: how high it stands above its surroundings in each plane, and where that is highest."""

from __future__ import annotations

import math

import lazy_loader as lazy
import numpy as np

scipy = lazy.load("scipy")


def axial_profile(stack: np.ndarray, y: float, x: float, scale_px: float) -> np.ndarray:
    """Returns the height of a blob of sd `scale_px` at `(y, x)` in every plane, array `(Z,)`.

    The surroundings cancel, and a blob that spreads out by defocus loses height even where it keeps its photons.

    >>> y, x = np.indices((40, 40))
    >>> blob = np.exp(-((y - 20.5) ** 2 + (x - 20.0) ** 2) / (2 * 2.0**2))
    >>> axial_profile(np.stack([7 + 0 * blob, 7 + 90 * blob]), 20.5, 20.0, scale_px=2.0).round().tolist()
    [0.0, 90.0]
    """
    reach = math.ceil(4 * scale_px)
    rows = math.floor(y) + np.arange(-reach, reach + 1)
    columns = math.floor(x) + np.arange(-reach, reach + 1)
    distance = ((rows[:, None] - y) ** 2 + (columns - x) ** 2) / (2 * scale_px**2)
    blob = np.exp(-distance)
    weights = (1 - distance) * blob
    # Cut-off tails and pixels leave a little of a constant; it goes where the blob is.
    weights -= blob * (weights.sum() / blob.sum())
    weights /= (weights * blob).sum()
    rows, columns = rows.clip(0, stack.shape[1] - 1), columns.clip(0, stack.shape[2] - 1)
    return np.tensordot(stack[:, rows[:, None], columns], weights, axes=2)


def fit_focus(profile: np.ndarray) -> tuple[float, float]:
    """Finds the focus in an axial profile as the centre of a Gaussian on an offset.

    Only the planes round the highest one are fitted, down to a third of its height: farther out a real profile
    has tails and side lobes that no simple curve follows, and they would pull the centre.

    Args:
        profile: array `(Z,)`, brightness above the surroundings in each plane.

    Returns:
        The focus as a plane with fraction, NaN if the profile rises to an end of the stack or does not rise at
        all; and the height of the second highest peak as a share of the highest (0 if there is one peak only).

    >>> z = np.arange(30)
    >>> focus, second = fit_focus(100 * np.exp(-((z - 12.3) ** 2) / (2 * 3.0**2)))
    >>> round(focus, 3), second
    (12.3, 0.0)
    """
    profile = np.asarray(profile, float)
    smooth = scipy.ndimage.gaussian_filter1d(profile, 1.0, mode="nearest") if len(profile) > 6 else profile
    top, height = int(np.argmax(smooth)), float(smooth.max() - np.median(smooth))
    if len(profile) < 3 or top in (0, len(profile) - 1) or height <= 0:
        return math.nan, 0.0
    low = smooth < smooth[top] - height * 2 / 3
    first = next((i for i in range(top, -1, -1) if low[i]), 0)
    last = next((i for i in range(top, len(low)) if low[i]), len(low) - 1)
    first, last = min(first, max(top - 2, 0)), max(last, min(top + 2, len(low) - 1))
    others, found = scipy.signal.find_peaks(smooth - np.median(smooth), prominence=0.25 * height)
    second = max((found["prominences"][i] for i, at in enumerate(others) if at != top), default=0.0) / height
    return _fit_gaussian(np.arange(first, last + 1), profile[first : last + 1], top), float(second)


def _fit_gaussian(z: np.ndarray, heights: np.ndarray, top: int) -> float:
    """Centre of a Gaussian on an offset through `heights` at planes `z`; NaN where it leaves them."""

    def curve(z: np.ndarray, centre: float, width: float, height: float, offset: float) -> np.ndarray:
        return offset + height * np.exp(-((z - centre) ** 2) / (2 * width**2))

    def slopes(z: np.ndarray, centre: float, width: float, height: float, offset: float) -> np.ndarray:
        """Of `curve`, by its four unknowns; they spare the fit the steps by which it would find them."""
        away = (z - centre) / width
        bell = np.exp(-(away**2) / 2)
        tilt = height * bell * away / width
        return np.column_stack([tilt, tilt * away, bell, np.ones(len(z))])

    if len(z) < 5:
        # Too few planes for four unknowns: the vertex of a parabola through the highest three.
        below, at, above = heights[top - z[0] - 1 : top - z[0] + 2]
        bend = below - 2 * at + above
        return float(top + 0.5 * (below - above) / bend) if bend < 0 else math.nan
    spread = float(np.ptp(heights))
    start = (float(top), len(z) / 3, spread, float(heights.min()))
    bounds = ([z[0], 0.3, 0, -np.inf], [z[-1], 3 * len(z), 5 * spread, np.inf])
    try:
        centre = scipy.optimize.curve_fit(curve, z, heights, start, jac=slopes, bounds=bounds)[0][0]
    except (RuntimeError, ValueError):
        return math.nan
    return float(centre) if z[0] < centre < z[-1] else math.nan
