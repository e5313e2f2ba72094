"""Label-safe augmentation of raw crops, at crop size. What is drawn is apart from what is applied.

Every kind is a pair of functions: `draw_*` turns a generator into parameters, one per crop, and `apply_*` is a pure
function of crops and parameters. Nothing here blurs, sharpens or zooms, which would change the z of a bead.
"""

from collections.abc import Callable

import numpy as np

from resnet_zclass.errors import InputError


def draw_flip(rng: np.random.Generator, n: int) -> np.ndarray:
    """Whether to mirror up-down and left-right, bool array `(n, 2)`."""
    return rng.random((n, 2)) < 0.5


def apply_flip(crops: np.ndarray, mirrored: np.ndarray) -> np.ndarray:
    """Mirrors crops `(N, H, W, C)` up-down where `mirrored[:, 0]`, left-right where `mirrored[:, 1]`.

    >>> apply_flip(np.arange(4).reshape(1, 2, 2, 1), np.array([[True, False]])).ravel().tolist()
    [2, 3, 0, 1]
    """
    up_down, left_right = mirrored.T[:, :, None, None, None]
    crops = np.where(up_down, crops[:, ::-1], crops)
    return np.where(left_right, crops[:, :, ::-1], crops)


def draw_turn(rng: np.random.Generator, n: int) -> np.ndarray:
    """Numbers of quarter turns, int array `(n,)` in 0..3."""
    return rng.integers(0, 4, n)


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


def draw_shift(rng: np.random.Generator, n: int, shift_px: int) -> np.ndarray:
    """Shifts in y and x, int array `(n, 2)` in `-shift_px..shift_px`."""
    return rng.integers(-shift_px, shift_px + 1, (n, 2))


def apply_shift(crops: np.ndarray, shifts_px: np.ndarray) -> np.ndarray:
    """Shifts the content of crops `(N, H, W, C)` by whole pixels (down and right if positive).

    What comes in at the border is the crop's own content, mirrored, so that noise and background go on there.

    >>> apply_shift(np.arange(3).reshape(1, 1, 3, 1), np.array([[0, 1]])).ravel().tolist()
    [1, 0, 1]
    """
    height, width = crops.shape[1:3]
    rows = _reflect(np.arange(height) - shifts_px[:, :1], height)
    columns = _reflect(np.arange(width) - shifts_px[:, 1:], width)
    return crops[np.arange(len(crops))[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflect(index: np.ndarray, size: int) -> np.ndarray:
    """Index mirrored into `0..size-1` at the first and the last pixel."""
    period = max(2 * (size - 1), 1)
    index = np.abs(index) % period
    return np.where(index < size, index, period - index)


def draw_thin(rng: np.random.Generator, n: int, thin: float) -> np.ndarray:
    """Shares of photons that are kept, float array `(n,)` in `thin..1`."""
    return rng.uniform(thin, 1.0, n)


def apply_thin(crops: np.ndarray, kept: np.ndarray, rng: np.random.Generator, camera_offset: float = 0.0) -> np.ndarray:
    """Keeps every count above the camera's offset with probability `kept`: the same bead, seen with less light.

    A Poisson count thinned binomially is a Poisson count of the thinned mean, so the noise stays true.

    Args:
        crops: uint8 or uint16 array `(N, H, W, C)`.
        kept: float array `(N,)` in 0..1.
        rng: Generator of the binomial draws.
        camera_offset: Camera counts without light.

    Raises:
        InputError: If pixels are not integers, which counts are.
    """
    if crops.dtype.kind not in "ui":
        raise InputError(f"--thin wants integer pixels (counts). Received: {crops.dtype}; give --thin 1.")
    counts = np.maximum(crops.astype(np.int64) - round(camera_offset), 0)
    lost = rng.binomial(counts, 1.0 - kept[:, None, None, None])
    return (crops - lost.astype(crops.dtype)).astype(crops.dtype)


def build_augment(
    flip: bool = False, turn: bool = False, shift_px: int = 0, thin: float = 1.0, camera_offset: float = 0.0
) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    """Makes the function that `training_batches` calls on every batch: `(crops, generator) -> crops`.

    Args:
        flip: Mirror up-down and left-right.
        turn: Turn by multiples of 90 degrees. For an astigmatic PSF that swaps +z and -z.
        shift_px: Shift by up to this many pixels.
        thin: Keep photons with a probability drawn between this and 1.
        camera_offset: Camera counts without light.

    Raises:
        InputError: If `shift_px` is negative or `thin` is not in (0, 1].

    >>> augment = build_augment(flip=True, shift_px=2)
    >>> crops = np.zeros((5, 8, 8, 1), "uint16")
    >>> augment(crops, np.random.default_rng(0)).dtype
    dtype('uint16')
    """
    if shift_px < 0:
        raise InputError(f"--shift_px must be 0 or more. Received: {shift_px}.")
    if not 0 < thin <= 1:
        raise InputError(f"--thin must lie above 0 and at most at 1. Received: {thin}.")

    def augment(crops: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        n = len(crops)
        if flip:
            crops = apply_flip(crops, draw_flip(rng, n))
        if turn:
            crops = apply_turn(crops, draw_turn(rng, n))
        if shift_px:
            crops = apply_shift(crops, draw_shift(rng, n, shift_px))
        if thin < 1:
            crops = apply_thin(crops, draw_thin(rng, n, thin), rng, camera_offset)
        return crops

    return augment
