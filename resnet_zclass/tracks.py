"""Tracks of beads in 3D: z of every spot smoothed along its track, how far and how fast each bead went, and a picture.

z comes from `predict`, positions and tracks from whatever tracked the movie.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import lazy_loader as lazy
import numpy as np
import scipy

from resnet_zclass import figures
from resnet_zclass.extras import need

if TYPE_CHECKING:
    from pandas import DataFrame

pd = lazy.load("pandas")

MAX_FITTED = 2000  # steps from which the diffusion is learnt
LONG_UM2 = 1e4  # variance of a z or velocity that is not known yet


def smooth_tracks(table: DataFrame) -> tuple[DataFrame, float]:
    """Smooths z along every track: a bead that drifts and diffuses, seen with the stated errors (Kalman, RTS).

    The state of a track is z and its drift; how much beads diffuse from frame to frame is the same for all and the most
    likely value. Frames in which a bead was not seen are stepped over. Rauch, Tung & Striebel, AIAA Journal 3, 1965,
    https://doi.org/10.2514/3.3166.

    Args:
        table: One row per spot: `track`, `frame`, `z_um`, `z_um_sd`; rows without z or track are left as they are.

    Returns:
        The table with `z_um` and `z_um_sd` smoothed, and the standard deviation in um by which beads diffuse in z from
        one frame to the next.

    Raises:
        InputError: If filterpy is not installed.

    >>> frames = pd.DataFrame({"track": "0", "frame": range(5), "z_um": [0.0, 0.2, 0.0, 0.2, 0.1], "z_um_sd": 0.1})
    >>> smoothed, step_um = smooth_tracks(frames)
    >>> bool(smoothed.z_um.std() < frames.z_um.std()), bool((smoothed.z_um_sd < 0.1).all())
    (True, True)
    """
    tracks = {name: rows for name, rows in usable(table).groupby("track") if len(rows) > 1}
    if not tracks:
        return table, np.nan
    fitted, n = [], 0
    for rows in tracks.values():
        fitted.append(_to_steps(rows))
        n += len(fitted[-1][0])
        if n >= MAX_FITTED:
            break
    typical = float(np.median(table.z_um_sd.dropna())) or 1e-3

    def loss(log_step: float) -> float:
        return -sum(_filter(*steps, variance=np.exp(2 * log_step))[2] for steps in fitted)

    bounds = (np.log(1e-3 * typical), np.log(1e2 * typical))
    step_um = float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded").x))
    smoothed = table.copy()
    for rows in tracks.values():
        measured, sd = _to_steps(rows)
        kalman, states, _ = _filter(measured, sd, step_um**2)
        means, covariances, *_ = kalman.rts_smoother(*states)
        seen = np.asarray(rows.frame - rows.frame.iloc[0], int)
        smoothed.loc[rows.index, "z_um"] = means[seen, 0, 0]
        smoothed.loc[rows.index, "z_um_sd"] = np.sqrt(covariances[seen, 0, 0])
    return smoothed, step_um


def usable(table: DataFrame) -> DataFrame:
    """The rows of tracks that have a z, upwards in time."""
    named = table["track"].fillna("").astype(str) != ""
    return table[named & table["z_um"].notna()].sort_values(["track", "frame"])


def _to_steps(rows: DataFrame) -> tuple[list[float | None], np.ndarray]:
    """Measured z of every frame from first to last, None where there is none, and standard deviations."""
    seen = np.asarray(rows.frame - rows.frame.iloc[0], int)
    measured: list[float | None] = [None] * (seen[-1] + 1)
    sd = np.ones(len(measured))
    for k, z, own in zip(seen, rows.z_um, rows.z_um_sd, strict=True):
        measured[k], sd[k] = float(z), max(float(own), 1e-6)
    return measured, sd


def _filter(measured: list[float | None], sd: np.ndarray, variance: float):
    """The filter, what it knew after every frame (means and covariances), and the likelihood's logarithm."""
    kalman = need("filterpy.kalman", extra="tracks").KalmanFilter(dim_x=2, dim_z=1)
    kalman.x = np.array([[measured[0]], [0.0]])
    kalman.P = np.diag([sd[0] ** 2, LONG_UM2 * sd[0] ** 2])
    kalman.F, kalman.H = np.array([[1.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 0.0]])
    kalman.Q = np.diag([variance, 0.0])
    means, covariances, likelihood = [kalman.x.copy()], [kalman.P.copy()], 0.0
    for z, own in zip(measured[1:], sd[1:], strict=True):
        kalman.predict()
        kalman.update(z, R=np.array([[own**2]]))
        likelihood += kalman.log_likelihood if z is not None else 0.0
        means.append(kalman.x.copy())
        covariances.append(kalman.P.copy())
    return kalman, (np.array(means), np.array(covariances)), likelihood


def summarise_tracks(table: DataFrame, pixel_um: float | None = None, frame_s: float | None = None) -> DataFrame:
    """How far and how fast each bead went.

    Args:
        table: One row per spot: `file,track,frame,y,x` (pixels), `z_um,z_um_sd`.
        pixel_um: Side of a pixel in um; None: y and x stay in pixels.
        frame_s: Time from frame to frame in s; None: velocities are per frame.

    Returns:
        One row per track: `file,track,n,first_frame,last_frame`; along each axis its `displacement` from the first to
        the last spot and its `velocity` (slope of a straight line, in z weighted by the errors); `velocity_z_sd`, the
        standard deviation of the latter that the errors of z lead to. Units are in the names: `displacement_z_um`,
        `velocity_y_um_per_s` or, say, `velocity_y_px_per_frame`.

    >>> spots = pd.DataFrame({"file": "a.tif", "track": "7", "frame": [0, 1, 2], "y": [0.0, 1, 2], "x": 5.0})
    >>> row = summarise_tracks(spots.assign(z_um=[0.0, 0.5, 1.0], z_um_sd=0.1), pixel_um=0.1, frame_s=0.5).iloc[0]
    >>> [round(float(row[f"velocity_{axis}_um_per_s"]), 6) for axis in "yxz"]
    [0.2, 0.0, 1.0]
    """
    side, length = (pixel_um, "um") if pixel_um else (1.0, "px")
    interval, time = (frame_s, "s") if frame_s else (1.0, "frame")
    rows = []
    for (file, track), spots in usable(table).groupby(["file", "track"]):
        if len(spots) < 2:
            continue
        t = spots.frame.to_numpy(float) * interval
        row = {"file": file, "track": track, "n": len(spots)}
        row |= {"first_frame": int(spots.frame.min()), "last_frame": int(spots.frame.max())}
        even, by_error = np.ones(len(spots)), 1 / np.maximum(spots.z_um_sd.to_numpy(float), 1e-6) ** 2
        for axis, values, weights, unit in (
            ("y", spots.y * side, even, length), ("x", spots.x * side, even, length), ("z", spots.z_um, by_error, "um")
        ):  # fmt: skip
            values = values.to_numpy(float)
            centred = t - np.average(t, weights=weights)
            spread = (weights * centred**2).sum()
            row[f"displacement_{axis}_{unit}"] = values[-1] - values[0]
            row[f"velocity_{axis}_{unit}_per_{time}"] = (weights * centred * values).sum() / spread
        row[f"velocity_z_sd_um_per_{time}"] = spread**-0.5
        rows.append(row)
    return pd.DataFrame(rows)


def draw_tracks(table: DataFrame, path: Path, pixel_um: float | None = None) -> None:
    """Draws the tracks in 3D, coloured by z."""
    figure = figures.new_figure(8.5, 7)
    axis = figure.add_subplot(projection="3d")
    side, unit = (pixel_um, "um") if pixel_um else (1.0, "px")
    spots = usable(table)
    for _, own in spots.groupby(["file", "track"]):
        axis.plot(own.x * side, own.y * side, own.z_um, color="0.6", linewidth=0.8)
    marks = axis.scatter(
        spots.x * side, spots.y * side, spots.z_um, c=spots.z_um, s=6, cmap="viridis", depthshade=False
    )
    axis.set(xlabel=f"x ({unit})", ylabel=f"y ({unit})", zlabel="z (um)")
    axis.zaxis.labelpad = 12
    axis.invert_yaxis()
    figure.colorbar(marks, shrink=0.6, pad=0.12)
    figures.save_figure(figure, path)
