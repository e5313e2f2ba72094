"""How good predictions are: plain NumPy, shared by train, evaluate and the report.

Throughout, `labels` are true class indices, int array `(N,)` in `0..K-1`, and `probabilities` are float `(N, K)`.
"""

import numpy as np


def classification_metrics(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Returns `n`, `loss` (mean cross-entropy in nats), `accuracy` and `balanced_accuracy` (mean recall), both 0..1.

    >>> scores = classification_metrics(np.array([0, 0, 0, 1]), np.array([[1, 0], [1, 0], [0, 1], [0, 1.0]]))
    >>> scores["n"], scores["accuracy"], round(scores["balanced_accuracy"], 4)
    (4, 0.75, 0.8333)
    """
    predicted = probabilities.argmax(axis=1)
    recalls = [(predicted[labels == k] == k).mean() for k in np.unique(labels)]
    return {
        "n": len(labels),
        "loss": cross_entropy(labels, probabilities),
        "accuracy": float((predicted == labels).mean()),
        "balanced_accuracy": float(np.mean(recalls)),
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


def one_hot(labels: np.ndarray, n_classes: int, soft_labels: float = 0.0) -> np.ndarray:
    """Targets for the cross-entropy, float32 `(N, K)`, rows sum to 1.

    Args:
        labels: Class indices, int array `(N,)`.
        n_classes: K.
        soft_labels: Width (standard deviation) in classes of a Gaussian around the label; 0 for plain one-hot.

    >>> one_hot(np.array([1]), 3).tolist(), [f"{p:.2f}" for p in one_hot(np.array([1]), 3, soft_labels=0.5)[0]]
    ([[0.0, 1.0, 0.0]], ['0.11', '0.79', '0.11'])
    """
    distance = np.arange(n_classes)[None, :] - np.asarray(labels)[:, None]
    weight = np.exp(-0.5 * (distance / soft_labels) ** 2) if soft_labels else distance == 0
    return (weight / weight.sum(axis=1, keepdims=True)).astype(np.float32)
