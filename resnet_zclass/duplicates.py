"""Images that are nearly the same: copies that were saved again, with other contrast or bit depth."""

import numpy as np

from resnet_zclass.pixels import average_down

CORRELATION = 0.999  # of pixels, from which on two images are one; noise keeps images of one bead below it
MAX_OTHERS, CHUNK = 20_000, 512


def find_near(crops: np.ndarray, others: np.ndarray, correlation: float = CORRELATION) -> np.ndarray:
    """Which crops are nearly identical to one of some others, whatever the brightness and contrast of either.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it.
        others: Array `(M, H, W, C)`, or the like; of more than 20,000 as many, evenly spaced, are looked at.
        correlation: Of pixels, above which two crops are nearly identical.

    Returns:
        bool array `(N,)`; False of crops that are all of one gray.

    >>> one, other = np.random.default_rng(0).integers(0, 99, (2, 1, 8, 8, 1))
    >>> [bool(find_near(3 * one + 7, some)[0]) for some in (one, other)]
    [True, False]
    """
    some = others[np.unique(np.linspace(0, len(others) - 1, min(len(others), MAX_OTHERS)).astype(int))]
    known = _standardise(some)
    parts = [np.arange(start, min(start + CHUNK, len(crops))) for start in range(0, len(crops), CHUNK)]
    return np.concatenate([(_standardise(crops[part]) @ known.T).max(axis=1) > correlation for part in parts])


def _standardise(crops: np.ndarray) -> np.ndarray:
    pixels = average_down(np.asarray(crops, np.float32))
    pixels = pixels - pixels.mean(axis=1, keepdims=True)
    return pixels / np.maximum(np.linalg.norm(pixels, axis=1, keepdims=True), 1e-6)
