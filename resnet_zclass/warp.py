"""Augmentation that moves pixels of raw crops: flip, quarter turn, affine map (rotation, stretch, window), shift.

Every kind is a pair: `draw_*(rng, shape, strength)` turns a generator and the shape `(N, H, W, C)` of a batch into
parameters, one per crop; `apply_*(crops, parameters)` is a pure function that keeps the dtype of the crops.
"""

import numpy as np

from resnet_zclass.errors import InputError

Shape = tuple[int, int, int, int]


def to_pixels(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values as pixels of `dtype`; for integers rounded and clipped to what the dtype holds. May overwrite `values`.

    >>> to_pixels(np.array([-3.0, 7.6, 300.0]), np.dtype("uint8")).tolist()
    [0, 8, 255]
    """
    if dtype.kind in "ui":
        limits = np.iinfo(dtype)
        np.clip(np.rint(values, out=values), limits.min, limits.max, out=values)
    return values.astype(dtype, copy=False)


def draw_flip(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Whether to mirror up-down and left-right, bool array `(n, 2)`."""
    return rng.random((shape[0], 2)) < 0.5


def apply_flip(crops: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrors crops `(N, H, W, C)` up-down where `mirrored[:, 0]`, left-right where `mirrored[:, 1]`.

    >>> apply_flip(np.arange(4).reshape(1, 2, 2, 1), np.array([[True, False]])).ravel().tolist()
    [2, 3, 0, 1]
    """
    up_down, left_right = mirrored.T[:, :, None, None, None]
    crops = np.where(up_down, crops[:, ::-1], crops)
    return np.where(left_right, crops[:, :, ::-1], crops)


def draw_turn(rng: np.random.Generator, shape: Shape) -> np.ndarray:
    """Numbers of quarter turns, int array `(n,)` in 0..3."""
    return rng.integers(0, 4, shape[0])


def apply_turn(crops: np.ndarray, quarters: np.ndarray) -> np.ndarray:
    """Turns square crops `(N, H, H, C)` by `quarters` times 90 degrees.

    Raises:
        InputError: If the crops are not square.

    >>> apply_turn(np.arange(4).reshape(1, 2, 2, 1), np.array([1])).ravel().tolist()
    [1, 3, 0, 2]
    """
    if crops.shape[1] != crops.shape[2]:
        raise InputError(f"--turn wants square crops. Received: {crops.shape[1]} x {crops.shape[2]} px.")
    turned = crops.copy()
    for k in (1, 2, 3):
        turned[quarters == k] = np.rot90(crops[quarters == k], k, axes=(1, 2))
    return turned


def draw_affine(
    rng: np.random.Generator, shape: Shape, rotate_deg: float = 0.0, stretch: float = 0.0, crop: float = 0.0
) -> np.ndarray:
    """Affine maps of a rotation, then a stretch, then a window, as `affine_maps` makes them.

    Args:
        rng: Generator.
        shape: Shape of the crops, `(N, H, W, C)`.
        rotate_deg: Angles are uniform in `-rotate_deg..rotate_deg`.
        stretch: Height and width get factors of their own, log-uniform in `1 / (1 + stretch)..1 + stretch`.
        crop: Sides of the window are uniform in `1 - crop..1` of the image's; it lies anywhere within.

    Returns:
        Float array `(N, 2, 3)`.
    """
    n, *size_px = shape[:3]
    degrees = rng.uniform(-rotate_deg, rotate_deg, n)
    factors = np.exp(np.log1p(stretch) * rng.uniform(-1, 1, (n, 2)))
    sides = rng.uniform(1 - crop, 1, n)
    centres_px = rng.uniform(-0.5, 0.5, (n, 2)) * (1 - sides[:, None]) * size_px
    return affine_maps(degrees, factors, sides, centres_px)


def affine_maps(degrees: np.ndarray, factors: np.ndarray, sides: np.ndarray, centres_px: np.ndarray) -> np.ndarray:
    """Where each pixel comes from if crops are rotated, then stretched, then seen through a window that is scaled up.

    Args:
        degrees: Angles `(N,)`, counter-clockwise as in `numpy.rot90`.
        factors: How much taller and wider the content becomes, `(N, 2)`.
        sides: Sides of the window in shares of the image's, `(N,)`.
        centres_px: Centre of the window from the centre of the image, y and x, `(N, 2)`.

    Returns:
        Float array `(N, 2, 3)`: `map @ (y, x, 1)` is the place in the crop of what is seen at `(y, x)`, both in px from
        the centre of the image.

    >>> affine_maps(np.zeros(1), np.array([[2.0, 1.0]]), np.ones(1), np.array([[4.0, 0.0]])).tolist()
    [[[0.5, 0.0, 2.0], [0.0, 1.0, 0.0]]]
    """
    cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    rotated = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], axis=1)
    stretched = rotated / factors[:, None, :]
    window = np.concatenate([sides[:, None, None] * np.eye(2), centres_px[:, :, None]], axis=2)
    return stretched @ window + 0.0  # -0 becomes 0


def apply_affine(crops: np.ndarray, maps: np.ndarray) -> np.ndarray:
    """Maps crops `(N, H, W, C)` by `maps` `(N, 2, 3)` of `affine_maps`, each pixel interpolated once (bilinear).

    What comes in at the border is the crop's own content, mirrored at the centre of the outermost pixels, as mode
    "mirror" of `scipy.ndimage.affine_transform` does; that function takes every channel by itself and is slower.

    >>> crop = np.arange(0, 50, 10, "uint8").reshape(1, 1, 5, 1)
    >>> wider = affine_maps(np.zeros(1), np.array([[1.0, 2.0]]), np.ones(1), np.zeros((1, 2)))
    >>> apply_affine(crop, wider).ravel().tolist()
    [10, 15, 20, 25, 30]
    """
    mapped = crops.copy()
    for i in np.flatnonzero((maps != np.eye(2, 3)).any(axis=(1, 2))):
        mapped[i] = _map_one(crops[i], maps[i])
    return mapped


def _map_one(crop: np.ndarray, affine: np.ndarray) -> np.ndarray:
    height, width, channels = crop.shape
    y, x = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    (yy, yx, y0), (xy, xx, x0) = affine
    top, bottom, down = _neighbours(yy * y + (yx * x + (y0 + (height - 1) / 2)), height)
    left, right, across = _neighbours(xy * y + (xx * x + (x0 + (width - 1) / 2)), width)
    up, back = 1 - down, 1 - across
    pixels = crop.reshape(-1, channels).astype(np.float32)
    total = np.zeros(crop.shape, np.float32)
    for row, column, share in (
        (top, left, up * back), (top, right, up * across), (bottom, left, down * back), (bottom, right, down * across)
    ):  # fmt: skip
        part = pixels.take(row * width + column, axis=0)
        part *= share[:, :, None]
        total += part
    return to_pixels(total, crop.dtype)


def _neighbours(place: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and after each place, mirrored into `0..size-1`, and the share of the one after."""
    period = max(2 * (size - 1), 1)
    place = np.abs(place - period * np.rint(place / period))
    before = np.minimum(place.astype(np.intp), size - 1)
    return before, np.minimum(before + 1, size - 1), (place - before).astype(np.float32)


def draw_shift(rng: np.random.Generator, shape: Shape, shift_px: int) -> np.ndarray:
    """Shifts in y and x, int array `(n, 2)` in `-shift_px..shift_px`."""
    return rng.integers(-shift_px, shift_px + 1, (shape[0], 2))


def apply_shift(crops: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Shifts the content of crops `(N, H, W, C)` by whole pixels (down and right if positive).

    What comes in at the border is the crop's own content, mirrored, so that noise and background go on there.

    >>> apply_shift(np.arange(3).reshape(1, 1, 3, 1), np.array([[0, 1]])).ravel().tolist()
    [1, 0, 1]
    """
    n, height, width, channels = crops.shape
    rows = _reflect(np.arange(height) - shifts_px[:, :1], height) + np.arange(n)[:, None] * height
    columns = _reflect(np.arange(width) - shifts_px[:, 1:], width)
    # One index for all three axes: several times faster than an index for each.
    return crops.reshape(-1, channels).take(rows[:, :, None] * width + columns[:, None, :], axis=0)


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Index mirrored into `0..size-1` at the first and the last pixel."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.where(index < size, index, period - index)
