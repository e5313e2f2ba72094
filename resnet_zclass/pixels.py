"""What the pixels of a training set are like: offset, range, moments. Measured once, fixed in the model."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Statistics of the pixels of a training set, in camera counts.

    Attributes:
        offset: What the camera says without light, or the darkest pixels there are.
        low: Value that stands for black: 0 of 8-bit images, else the 0.1 percentile.
        high: Value that stands for white: 255 of 8-bit images, else the 99.9 percentile.
        mean: Mean.
        spread: Standard deviation.
        root_mean: Mean of the square roots of what lies above the offset.
        root_spread: Standard deviation of the same.
    """

    offset: float = 0.0
    low: float = 0.0
    high: float = 255.0
    mean: float = 0.0
    spread: float = 1.0
    root_mean: float = 0.0
    root_spread: float = 1.0


def measure_pixels(crops, offset: float | None = None, n_sampled: int = 2000) -> Pixels:
    """Measures the pixels of crops.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it by an int array.
        offset: Camera counts without light, if known; else the 0.1 percentile is taken for it.
        n_sampled: Number of crops looked at, evenly spaced.

    >>> measure_pixels(np.full((2, 4, 4, 1), 109, "uint16"), offset=100.0).root_mean
    3.0
    """
    sample = crops[np.unique(np.linspace(0, len(crops) - 1, n_sampled).astype(int))]
    darkest, brightest = (float(value) for value in np.percentile(sample, [0.1, 99.9]))
    offset = darkest if offset is None else offset
    low, high = (0.0, 255.0) if sample.dtype == np.uint8 else (darkest, max(brightest, darkest + 1e-6))
    roots = stabilise_variance(sample, offset)
    return Pixels(
        offset,
        low,
        high,
        float(sample.mean(dtype=np.float64)),
        float(sample.std(dtype=np.float64)) or 1.0,
        float(roots.mean(dtype=np.float64)),
        float(roots.std(dtype=np.float64)) or 1.0,
    )


def stabilise_variance(crops: np.ndarray, offset: float) -> np.ndarray:
    """Square roots of counts above `offset`, float32: Poisson noise becomes even, with a standard deviation near 1/2.

    Source: Anscombe, Biometrika 35, 1948.

    >>> stabilise_variance(np.array([90, 109], "uint16"), offset=100.0).tolist()
    [0.0, 3.0]
    """
    return np.sqrt(np.maximum(np.asarray(crops, np.float32) - np.float32(offset), 0))
