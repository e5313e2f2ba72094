"""Which part of an image a class was read off: how its probability falls when that part is covered."""

from collections.abc import Callable

import numpy as np


def occlude(
    predict: Callable[[np.ndarray], np.ndarray], crop: np.ndarray, class_index: int, n_steps: int = 8
) -> np.ndarray:
    """Heat map of one class in one image, by covering it piece by piece (Zeiler & Fergus, ECCV 2014).

    It asks for predictions alone, so whatever runs the network will do, and it reads in units of probability. A
    square a quarter of the image wide, filled with the median of the image's border, is moved over the image.

    Args:
        predict: Function of crops `(N, H, W, C)` that returns probabilities `(N, K)`.
        crop: array `(H, W, C)`.
        class_index: the class.
        n_steps: positions of the square along each side; their square many predictions are made.

    Returns:
        float array `(H, W)` in -1..1: by how much the probability falls where a pixel is covered, the mean over all
        squares that cover it. Negative where the probability rises.

    >>> def brightness(crops):  # a network that looks at the upper left corner only
    ...     p = crops[:, :2, :2].mean(axis=(1, 2, 3)) / 100
    ...     return np.stack([p, 1 - p], axis=1)
    >>> crop = np.zeros((8, 8, 1)); crop[:2, :2] = 100
    >>> occlude(brightness, crop, 0).round(1)[[0, 0, 7], [0, 7, 7]]
    array([1., 0., 0.])
    """
    height, width, _ = crop.shape
    border = np.concatenate([crop[0], crop[-1], crop[1:-1, 0], crop[1:-1, -1]])
    filling = np.median(border, axis=0).astype(crop.dtype)
    rows, columns = (_place(side, n_steps) for side in (height, width))
    squares = [(top, bottom, left, right) for top, bottom in rows for left, right in columns]
    covered = np.repeat(crop[None], len(squares), axis=0)
    for image, (top, bottom, left, right) in zip(covered, squares, strict=True):
        image[top:bottom, left:right] = filling
    falls = predict(crop[None])[0, class_index] - predict(covered)[:, class_index]
    total, times = np.zeros((2, height, width))
    for fall, (top, bottom, left, right) in zip(falls, squares, strict=True):
        total[top:bottom, left:right] += fall
        times[top:bottom, left:right] += 1
    return total / times


def _place(side: int, n_steps: int) -> list[tuple[int, int]]:
    """First and last pixel but one of pieces a quarter of a side long that cover all of it."""
    length = max(1, -(-side // 4))
    starts = np.unique(np.linspace(0, side - length, max(n_steps, 4)).round().astype(int))
    return [(int(start), int(start) + length) for start in starts]
