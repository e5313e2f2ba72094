"""How good predictions are: plain NumPy, shared by train, evaluate and the report.

Throughout, `labels` are true class indices, int array `(N,)` in `0..K-1`, and `probabilities` are float `(N, K)`.
For several labels per image, `targets` are 0 or 1, `(N, K)`, and `thresholds` a float or `(K,)`, in 0..1.
"""

import math
from collections.abc import Sequence

import numpy as np


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """How good one label per image is.

    Returns:
        `n`, `loss` (mean cross-entropy in nats), and in 0..1 `accuracy`, `balanced_accuracy` (mean recall of the
        classes that have an image) and `macro_f1` (mean F1 of the classes that have an image or a prediction).

    >>> scores = classification_metrics(np.array([0, 0, 0, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]))
    >>> scores["n"], scores["accuracy"], round(scores["balanced_accuracy"], 4), round(scores["macro_f1"], 4)
    (4, 0.75, 0.8333, 0.7333)
    """
    n_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    recalls = [(predicted[labels == k] == k).mean() for k in np.unique(labels)]
    return {
        "n": len(labels),
        "loss": cross_entropy(labels, probabilities),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
        "macro_f1": _mean_defined(per_class_metrics(confusion_matrix(labels, predicted, n_classes))["f1"]),
    }


def cross_entropy(labels: np.ndarray, probabilities: np.ndarray, smallest: float = 1e-7) -> float:
    """Mean of -log p(true class) in nats; p is cut at `smallest`, as Keras does, so that the mean stays finite.

    >>> round(cross_entropy(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]])), 4)
    0.6931
    """
    p = np.asarray(probabilities, np.float64)[np.arange(len(labels)), labels]
    return float(-np.log(np.clip(p, smallest, 1.0)).mean())


def z_metrics(labels: np.ndarray, predicted: np.ndarray, z_um: np.ndarray | None = None) -> dict[str, float]:
    """How far predicted planes lie from the true ones.

    Args:
        labels: True class indices; neighbouring indices are neighbouring planes.
        predicted: Predicted class indices, int array `(N,)`.
        z_um: z of every class in um, float array `(K,)`; None if unknown.

    Returns:
        `within_one` (share at most one plane off), `mae_planes`, `rmse_planes`, `bias_planes` (mean signed error),
        and with `z_um` the same as `mae_um`, `rmse_um`, `bias_um`.

    >>> z_metrics(np.array([0, 1, 2, 3]), np.array([0, 1, 3, 1]), z_um=np.array([0.0, 0.5, 1.0, 1.5]))["mae_um"]
    0.375
    """
    error = np.asarray(predicted, np.float64) - labels
    scores = {"within_one": float((np.abs(error) <= 1).mean()), **_error_scores(error, "planes")}
    if z_um is not None:
        scores |= _error_scores(np.asarray(z_um, np.float64)[predicted] - np.asarray(z_um, np.float64)[labels], "um")
    return scores


def decode_z(probabilities: np.ndarray, z_um: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of z in um, arrays `(N,)`, under probabilities `(N, K)` of planes at `z_um` `(K,)`.

    >>> mean, sd = decode_z(np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([-1.0, 1.0]))
    >>> mean.tolist(), sd.tolist()
    ([0.0, 1.0], [1.0, 0.0])
    """
    probabilities = np.asarray(probabilities, np.float64)
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    mean = probabilities @ z_um
    return mean, np.sqrt(np.maximum(probabilities @ z_um**2 - mean**2, 0.0))


def plane_sd(z_um: np.ndarray) -> float:
    """Standard deviation in um of z within a plane's own width, `step / sqrt(12)`, of planes at `z_um` `(K,)`.

    >>> round(plane_sd(np.array([0.0, 0.6, 1.2])), 4)
    0.1732
    """
    return float(np.median(np.diff(np.sort(z_um))) / np.sqrt(12))


def decoded_z_metrics(labels: np.ndarray, probabilities: np.ndarray, z_um: np.ndarray) -> dict[str, float]:
    """How far z lies from the true one where it is decoded as the mean of the probabilities, between planes too.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Array `(N, K)`.
        z_um: z of every class in um, array `(K,)`.

    Returns:
        `mae_z_um`, `rmse_z_um` and `bias_z_um`; and `spread_z_um`, the standard deviation of z between the images of
        one plane, all planes together: what is left when every plane is right on average. NaN where no plane has two.

    >>> decoded_z_metrics(np.array([0]), np.array([[0.75, 0.25]]), np.array([0.0, 0.4]))["bias_z_um"]
    0.1
    """
    error = decode_z(probabilities, z_um)[0] - np.asarray(z_um, np.float64)[labels]
    return _error_scores(error, "z_um") | {"spread_z_um": _spread_within(labels, error)}


def _spread_within(labels: np.ndarray, values: np.ndarray) -> float:
    """Standard deviation of values about the mean of those of their label, with a degree of freedom less for each."""
    n = np.bincount(labels)
    means = np.bincount(labels, values) / np.maximum(n, 1)
    freedom = len(values) - np.count_nonzero(n)
    return float(np.sqrt(((values - means[labels]) ** 2).sum() / freedom)) if freedom else float("nan")


def limit_table(
    labels: np.ndarray, z_error: np.ndarray, bound: np.ndarray, brightness: np.ndarray, n_levels: int = 3
) -> dict[str, np.ndarray]:
    """Error of z and its Cramer-Rao bound for every plane and level of brightness that has images.

    Args:
        labels: True class indices, int array `(N,)`.
        z_error: Decoded z less the true one, array `(N,)`.
        bound: Square root of the bound of each image, in the same unit, array `(N,)`.
        brightness: Photons of each bead, array `(N,)`.
        n_levels: Levels, each of as many images.

    Returns:
        Columns, arrays of one length: `plane`, `level` (from 0, the dimmest), `n`, `photons` (their mean), `rmse`,
        `bias` and `bound` (root mean square).

    >>> table = limit_table(np.array([0, 0]), np.array([0.1, -0.3]), np.array([0.1, 0.1]), np.array([9.0, 5.0]), 2)
    >>> {key: values.tolist() for key, values in table.items() if key in ("level", "photons", "rmse")}
    {'level': [0, 1], 'photons': [5.0, 9.0], 'rmse': [0.3, 0.1]}
    """
    level = np.empty(len(labels), int)
    level[np.argsort(brightness, kind="stable")] = np.arange(len(labels)) * n_levels // max(1, len(labels))
    groups, group = np.unique(np.stack([labels, level], axis=1), axis=0, return_inverse=True)
    group, n = group.ravel(), np.bincount(group.ravel())

    def mean(values: np.ndarray) -> np.ndarray:
        return np.bincount(group, values) / n

    return {
        "plane": groups[:, 0],
        "level": groups[:, 1],
        "n": n,
        "photons": mean(brightness),
        "rmse": np.sqrt(mean(z_error**2)),
        "bias": mean(z_error),
        "bound": np.sqrt(mean(bound**2)),
    }


def _error_scores(error: np.ndarray, unit: str) -> dict[str, float]:
    return {
        f"mae_{unit}": float(np.abs(error).mean()),
        f"rmse_{unit}": float(np.sqrt((error**2).mean())),
        f"bias_{unit}": float(error.mean()),
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, n_classes: int) -> np.ndarray:
    """Counts, int array `(K, K)`: rows are true classes, columns predicted ones.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(labels * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)


def per_class_metrics(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Scores of every class from a confusion matrix `(K, K)`; NaN where a class has no image or no prediction.

    Returns:
        Arrays `(K,)`: `n`, `recall`, `precision`, `f1`, and `bias_planes`, `spread_planes`, `mae_planes`: mean,
        standard deviation and mean size of the predicted minus the true index.

    >>> per_class_metrics(np.array([[1, 1], [0, 2]]))["f1"].round(3).tolist()
    [0.667, 0.8]
    """
    confusion = np.asarray(confusion, np.float64)
    n, n_predicted, right = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    k = np.arange(len(confusion))
    error = k[None, :] - k[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        share = confusion / n[:, None]
        bias = (share * error).sum(axis=1)
        return {
            "n": n.astype(int),
            "recall": right / n,
            "precision": right / n_predicted,
            "f1": 2 * right / (n + n_predicted),
            "bias_planes": bias,
            "spread_planes": np.sqrt((share * (error - bias[:, None]) ** 2).sum(axis=1)),
            "mae_planes": (share * np.abs(error)).sum(axis=1),
        }


def decide(probabilities: np.ndarray, thresholds: float | np.ndarray = 0.5) -> np.ndarray:
    """Which classes are predicted, bool array `(N, K)`: those with `probability >= threshold`, compared in float64.

    >>> decide(np.array([[0.5, 0.2], [0.4, 0.3]]), np.array([0.5, 0.3])).tolist()
    [[True, False], [False, True]]
    """
    return np.asarray(probabilities, np.float64) >= np.asarray(thresholds, np.float64)


def multi_label_metrics(
    targets: np.ndarray, probabilities: np.ndarray, thresholds: float | np.ndarray = 0.5
) -> dict[str, float]:
    """How good several labels per image are.

    Returns:
        `n`; `loss`, the mean binary cross-entropy in nats over images and classes, with p cut to 1e-7..1 - 1e-7 as
        Keras does; `accuracy`, the share of images whose whole set of labels is right; and F1, in 0..1, averaged
        over classes (`macro_f1`), over images (`samples_f1`) or of all decisions together (`micro_f1`). Classes and
        images with neither a label nor a prediction are left out of the means; F1 is NaN where none is left.

    >>> targets, p = np.array([[1, 0], [1, 1], [0, 0]]), np.array([[0.9, 0.1], [0.8, 0.3], [0.2, 0.1]])
    >>> scores = multi_label_metrics(targets, p)
    >>> [round(scores[key], 4) for key in ("accuracy", "macro_f1", "samples_f1", "micro_f1")]
    [0.6667, 0.5, 0.8333, 0.8]
    """
    truth, predicted = np.asarray(targets) > 0.5, decide(probabilities, thresholds)
    p, t = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7), np.asarray(targets, np.float64)
    return {
        "n": len(truth),
        "loss": float(-(t * np.log(p) + (1 - t) * np.log1p(-p)).mean()),
        "accuracy": float((truth == predicted).all(axis=1).mean()),
        "macro_f1": _mean_defined(_f1_along(truth, predicted, axis=0)),
        "samples_f1": _mean_defined(_f1_along(truth, predicted, axis=1)),
        "micro_f1": _mean_defined(_f1_along(truth.ravel(), predicted.ravel(), axis=0)),
    }


def per_class_multi_label(
    targets: np.ndarray, probabilities: np.ndarray, thresholds: float | np.ndarray = 0.5
) -> dict[str, np.ndarray]:
    """Scores of every class where an image may have several labels; NaN where there is no image or no prediction.

    Returns:
        Arrays `(K,)`: `n` (images with the label), `predicted` (images predicted to have it), `recall`, `precision`,
        `f1`, `threshold`, and the counts `tp`, `fp`, `fn`, `tn`.

    >>> scores = per_class_multi_label(np.array([[1, 0], [1, 0]]), np.array([[0.9, 0.1], [0.2, 0.1]]))
    >>> scores["recall"].tolist(), scores["f1"].round(3).tolist()
    ([0.5, nan], [0.667, nan])
    """
    truth, predicted = np.asarray(targets) > 0.5, decide(probabilities, thresholds)
    n, n_predicted, tp = truth.sum(axis=0), predicted.sum(axis=0), (truth & predicted).sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {
            "n": n,
            "predicted": n_predicted,
            "recall": tp / n,
            "precision": tp / n_predicted,
            "f1": _f1_along(truth, predicted, axis=0),
            "threshold": np.broadcast_to(np.asarray(thresholds, np.float64), n.shape).copy(),
            "tp": tp,
            "fp": n_predicted - tp,
            "fn": n - tp,
            "tn": len(truth) - n - n_predicted + tp,
        }


def fit_thresholds(targets: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The threshold of every class with the best F1 on these images.

    Thresholds lie midway between two neighbouring probabilities of the class; of equally good ones the nearest to
    0.5 is taken. A class that no image has, or every image, takes the one threshold with the best F1 of all
    decisions together (Lipton, Elkan & Naryanaswamy, ECML 2014, on F1 and thresholds).

    Args:
        targets: 0 or 1, `(N, K)`.
        probabilities: Float `(N, K)` in 0..1.

    Returns:
        Float64 array `(K,)`, strictly between 0 and 1.

    >>> p = np.array([[0.9, 0.3], [0.8, 0.1], [0.1, 0.2], [0.2, 0.0]])
    >>> fit_thresholds(np.array([[1, 1], [1, 0], [0, 1], [0, 0]]), p).round(2).tolist()
    [0.5, 0.15]
    """
    truth, probabilities = np.asarray(targets) > 0.5, np.asarray(probabilities, np.float64)
    n = truth.sum(axis=0)
    can_fit = (n > 0) & (n < len(truth))
    pooled = 0.5 if can_fit.all() else _best_threshold(truth.ravel(), probabilities.ravel())
    return np.array(
        [_best_threshold(truth[:, k], probabilities[:, k]) if can_fit[k] else pooled for k in range(len(n))]
    )


def _best_threshold(truth: np.ndarray, probabilities: np.ndarray) -> float:
    """Threshold of one class with the best F1; 0.5 where all or none of the images, `(N,)`, have it."""
    if truth.all() or not truth.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ranked = np.concatenate([[1.0], probabilities[order], [0.0]])
    upper, lower = ranked[:-1], ranked[1:]  # a threshold in gap i predicts the i first of the ranked images
    middle = (upper + lower) / 2
    middle = np.where(middle > lower, middle, upper)  # neighbouring floats have no number between them
    tp = np.concatenate([[0], np.cumsum(truth[order])])
    f1 = 2 * tp / (np.arange(len(tp)) + tp[-1])
    usable = (upper > lower) & (middle > 0) & (middle < 1)
    best = middle[usable & (f1 == f1[usable].max())]
    return float(best[np.abs(best - 0.5).argmin()])


def _f1_along(truth: np.ndarray, predicted: np.ndarray, axis: int) -> np.ndarray:
    """F1 from exact counts along an axis of two bool arrays; NaN where neither holds anything."""
    with np.errstate(invalid="ignore"):
        return 2 * (truth & predicted).sum(axis=axis) / (truth.sum(axis=axis) + predicted.sum(axis=axis))


def _mean_defined(values: np.ndarray) -> float:
    """Mean of those that are not NaN, as a number of Python's; NaN where there is none."""
    defined = np.asarray(values)[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")


def multi_hot(label_sets: Sequence[Sequence[int]], n_classes: int) -> np.ndarray:
    """Targets of several labels per image, float32 `(N, K)` of 0 and 1.

    Args:
        label_sets: For each image the indices of its classes; none is allowed, twice the same counts once.
        n_classes: K.

    Raises:
        ValueError: If an index does not lie in `0..K-1`.

    >>> multi_hot([[0, 2], [], [1]], 3).tolist()
    [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    """
    rows = np.repeat(np.arange(len(label_sets)), [len(labels) for labels in label_sets])
    columns = np.array([k for labels in label_sets for k in labels], dtype=int)
    if columns.size and not 0 <= columns.min() <= columns.max() < n_classes:
        raise ValueError(f"Class indices lie in 0..{n_classes - 1}. Received: {columns.min()}..{columns.max()}.")
    targets = np.zeros((len(label_sets), n_classes), np.float32)
    targets[rows, columns] = 1
    return targets


def one_hot(labels: np.ndarray, n_classes: int, soft_labels: float = 0.0) -> np.ndarray:
    """Targets for the cross-entropy, float32 `(N, K)`, rows sum to 1.

    Args:
        labels: Class indices, int array `(N,)`.
        n_classes: K.
        soft_labels: Width (standard deviation) in classes of a Gaussian around the label; 0 for plain one-hot.

    >>> one_hot(np.array([1]), 3).tolist(), [f"{p:.2f}" for p in one_hot(np.array([1]), 3, soft_labels=0.5)[0]]
    ([[0.0, 1.0, 0.0]], ['0.11', '0.79', '0.11'])
    """
    distance = np.arange(n_classes)[None, :] - np.arange(n_classes)[:, None]
    weight = np.exp(-0.5 * (distance / soft_labels) ** 2) if soft_labels else distance == 0
    rows = (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
    return rows[np.asarray(labels).astype(int)]  # of a million labels nothing else is as large as what is returned


def mcnemar(n_first: int, n_second: int) -> float:
    """Probability that two classifiers equally good differ so much on the same images; McNemar's exact test (1947).

    Args:
        n_first: Images that only the first has right.
        n_second: Images that only the second has right.

    >>> mcnemar(1, 3)
    0.625
    """
    n, least = n_first + n_second, min(n_first, n_second)
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(least + 1)) / 2**n)
