"""Whether probabilities mean what they say, and sets of classes that hold the true one as often as promised.

All of it is fitted on images that were not trained on. Where these are like the new images, a set misses as seldom as
promised on average over both draws; images of beads that the training saw, or another microscope, void the promise.
"""

import math

import numpy as np
import scipy

COVERAGE = 0.9  # share of images whose set of classes is to hold the true one
SMALLEST = 1e-12  # probability that counts as none


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """The temperature that makes probabilities most likely (Guo et al., 2017, https://arxiv.org/abs/1706.04599).

    Args:
        labels: True class indices, int array `(N,)`, N >= 1.
        probabilities: Array `(N, K)`.

    Returns:
        Temperature in 0.05..20; above 1 where the probabilities were too sure of themselves.

    >>> round(fit_temperature(np.array([0, 0, 0, 1]), np.array([[0.9, 0.1]] * 4)), 3)
    2.0
    """

    def loss(log_t: float) -> float:
        tempered = apply_temperature(probabilities, math.exp(log_t))
        return -np.log(np.maximum(tempered[np.arange(len(labels)), labels], SMALLEST)).mean()

    bounds = (-math.log(20), math.log(20))
    found = scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities `(N, K)` raised to 1 / `temperature` and made to sum to 1 again; no class changes places.

    >>> apply_temperature(np.array([[0.9, 0.1]]), 2.0).round(3).tolist()
    [[0.75, 0.25]]
    """
    logits = np.log(np.maximum(np.asarray(probabilities, np.float64), SMALLEST)) / temperature
    return scipy.special.softmax(logits, axis=1)


def fit_sd_factor(error: np.ndarray, sd: np.ndarray, floor: float) -> float:
    """What standard deviations are to be multiplied by, so that errors are as large as they say.

    The most likely factor of Gaussian errors of variance `(factor sd)^2 + floor^2`. Laves et al., Well-calibrated
    Regression Uncertainty in Medical Imaging with Deep Learning, MIDL 2020, without their floor.

    Args:
        error: Estimate minus truth, `(N,)`, N >= 1.
        sd: Standard deviation of each estimate, `(N,)`.
        floor: Standard deviation that is there besides, above 0.

    Returns:
        Factor in 0.01..100.

    >>> round(fit_sd_factor(np.array([0.1, -0.1]), np.array([0.05, 0.05]), floor=1e-6), 4)
    2.0
    """
    error, sd = np.asarray(error, np.float64), np.asarray(sd, np.float64)

    def loss(log_factor: float) -> float:
        variance = (np.exp(log_factor) * sd) ** 2 + floor**2
        return float((error**2 / variance + np.log(variance)).mean())

    bounds = (-math.log(100), math.log(100))
    return math.exp(scipy.optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x)


def reliability(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> dict[str, np.ndarray]:
    """Confidence and accuracy of images that are predicted with about the same confidence.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Array `(N, K)`; the greatest of an image is its confidence.
        n_bins: Bins of equal width between 0 and 1.

    Returns:
        `n`, and means `confidence` and `accuracy`, arrays of the bins that hold an image.

    >>> table = reliability(np.array([0, 1]), np.array([[0.85, 0.15], [0.85, 0.15]]))
    >>> {key: values.tolist() for key, values in table.items()}
    {'n': [2], 'confidence': [0.85], 'accuracy': [0.5]}
    """
    confidence = np.asarray(probabilities, np.float64).max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    part = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    n = np.bincount(part, minlength=n_bins)
    held = n > 0
    sums = (np.bincount(part, values, n_bins)[held] / n[held] for values in (confidence, right))
    return dict(zip(("n", "confidence", "accuracy"), (n[held], *sums), strict=True))


def expected_calibration_error(labels: np.ndarray, probabilities: np.ndarray, n_bins: int = 10) -> float:
    """Mean distance of confidence and accuracy over the bins of `reliability`, each by its images; 0..1, 0 is best.

    >>> round(expected_calibration_error(np.array([0, 1]), np.array([[0.85, 0.15], [0.85, 0.15]])), 4)
    0.35
    """
    table = reliability(labels, probabilities, n_bins)
    return float(np.average(np.abs(table["confidence"] - table["accuracy"]), weights=table["n"]))


def fit_set_threshold(labels: np.ndarray, probabilities: np.ndarray, coverage: float) -> float:
    """The probability from which classes belong to the set of an image, so that it holds the true one as promised.

    Split conformal prediction with the probability of the true class as score (Sadinle, Lei & Wasserman, Journal of the
    American Statistical Association 114, 2019, https://doi.org/10.1080/01621459.2017.1395341). Sets of planes may
    have gaps: a bead may lie on either side of the focus.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Array `(N, K)`.
        coverage: Share of new images whose set shall hold the true class, above 0 and below 1.

    Returns:
        Threshold in 0..1; 0, with which sets hold all classes, if N is too small to promise so much.

    >>> fit_set_threshold(np.array([0, 0, 0, 0]), np.array([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4], [0.2, 0.8]]), 0.6)
    0.6
    """
    p = np.sort(np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels])[::-1]
    rank = math.ceil((len(p) + 1) * coverage - 1e-9)  # 1e-9: 10 * 0.9 is 9, whatever its rounding
    return float(p[rank - 1]) if rank <= len(p) else 0.0


def choose_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """The classes in the set of every image, bool array `(N, K)`; the most probable one always is.

    >>> choose_sets(np.array([[0.7, 0.3], [0.5, 0.5]]), 0.6).tolist()
    [[True, False], [True, False]]
    """
    probabilities = np.asarray(probabilities, np.float64)
    sets = probabilities >= threshold
    sets[np.arange(len(sets)), probabilities.argmax(axis=1)] = True
    return sets
