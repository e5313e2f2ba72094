"""What the pixels of a training set are like: offset, range, moments. Measured once, fixed in the model."""

import dataclasses

import numpy as np

MAX_SAMPLE_BYTES = 2**28  # of the sample as float32
MAX_SIDE_PX = 64  # to which larger crops are averaged down for linear models, which have no use for more
MAX_BYTES = 2**26  # of pixels that are held at a time


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Statistics of the pixels of a training set, in camera counts.

    All but the offset are tuples of one float per channel; those of one float stand for every channel.

    Attributes:
        offset: What the camera says without light, or the darkest pixels there are; of all channels together.
        low: Value that stands for black: 0 of 8-bit images, else the 0.1 percentile.
        high: Value that stands for white: 255 of 8-bit images, else the 99.9 percentile.
        mean: Mean.
        spread: Standard deviation.
        root_mean: Mean of the square roots of what lies above the offset.
        root_spread: Standard deviation of the same.
    """

    offset: float = 0.0
    low: tuple[float, ...] = (0.0,)
    high: tuple[float, ...] = (255.0,)
    mean: tuple[float, ...] = (0.0,)
    spread: tuple[float, ...] = (1.0,)
    root_mean: tuple[float, ...] = (0.0,)
    root_spread: tuple[float, ...] = (1.0,)

    @property
    def is_dark(self) -> bool:
        """Whether no pixel of any channel lies above the offset.

        >>> Pixels(root_mean=(0.0, 0.1)).is_dark
        False
        """
        return not any(self.root_mean)


def measure_pixels(crops, offset: float | None = None, n_sampled: int = 2000) -> Pixels:
    """Measures the pixels of crops, every channel by itself.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it by an int array that has its `shape`.
        offset: Camera counts without light, if known; else the 0.1 percentile of all channels is taken for it.
        n_sampled: Number of crops looked at, evenly spaced; fewer where they would take more than 256 MiB.

    >>> pixels = measure_pixels(np.full((2, 4, 4, 2), [109, 125], "uint16"), offset=100.0)
    >>> pixels.mean, pixels.root_mean
    ((109.0, 125.0), (3.0, 5.0))
    """
    n_sampled = max(1, min(n_sampled, MAX_SAMPLE_BYTES // (4 * int(np.prod(crops.shape[1:])))))
    sample = crops[np.unique(np.linspace(0, len(crops) - 1, n_sampled).astype(int))]
    offset = float(np.percentile(sample, 0.1)) if offset is None else offset
    columns = [_measure_channel(sample[..., channel], offset) for channel in range(sample.shape[-1])]
    return Pixels(offset, *zip(*columns, strict=True))


def _measure_channel(sample: np.ndarray, offset: float) -> tuple[float, ...]:
    """`low, high, mean, spread, root_mean, root_spread` of one channel."""
    low, high = (0.0, 255.0) if sample.dtype == np.uint8 else _find_range(sample)
    roots = stabilise_variance(sample, offset)
    return (
        low,
        high,
        float(sample.mean(dtype=np.float64)),
        float(sample.std(dtype=np.float64)) or 1.0,
        float(roots.mean(dtype=np.float64)),
        float(roots.std(dtype=np.float64)) or 1.0,
    )


def _find_range(sample: np.ndarray) -> tuple[float, float]:
    darkest, brightest = (float(value) for value in np.percentile(sample, [0.1, 99.9]))
    if brightest > darkest:
        return darkest, brightest
    # Few pixels of a sparse channel are lit, none of an empty one: neither may make single counts enormous.
    brightest = float(sample.max())
    return darkest, brightest if brightest > darkest else darkest + 1.0


def stabilise_variance(crops: np.ndarray, offset: float) -> np.ndarray:
    """Square roots of counts above `offset`, float32: Poisson noise becomes even, with a standard deviation near 1/2.

    Source: Anscombe, Biometrika 35, 1948.

    >>> stabilise_variance(np.array([90, 109], "uint16"), offset=100.0).tolist()
    [0.0, 3.0]
    """
    return np.sqrt(np.maximum(np.asarray(crops, np.float32) - np.float32(offset), 0))


def stabilise_features(crops: np.ndarray, offset: float) -> np.ndarray:
    """Variance-stabilised pixels `(N, pixels)`, float32, averaged down to 64 px at most; crops are read part by part.

    >>> stabilise_features(np.full((2, 128, 128, 1), 109, "uint16"), offset=100.0).shape
    (2, 4096)
    """
    size = max(1, MAX_BYTES // max(4 * int(np.prod(crops.shape[1:])), 1))
    parts = [np.arange(start, min(start + size, len(crops))) for start in range(0, len(crops), size)]
    return np.concatenate([average_down(stabilise_variance(crops[part], offset)) for part in parts])


def average_down(values: np.ndarray) -> np.ndarray:
    """Pixels `(N, P)` of images `(N, H, W, C)`, which are averaged down to 64 px at most."""
    factor = min(-(-max(values.shape[1:3]) // MAX_SIDE_PX), *values.shape[1:3])
    height, width = (side // factor * factor for side in values.shape[1:3])
    blocks = values[:, :height, :width].reshape(
        len(values), height // factor, factor, width // factor, factor, values.shape[3]
    )
    return blocks.mean(axis=(2, 4)).reshape(len(values), -1)
