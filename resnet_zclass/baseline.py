"""The classical baseline every net is shown beside: PCA and logistic regression on variance-stabilised pixels."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from resnet_zclass.pack import Subset
from resnet_zclass.pixels import measure_pixels, stabilise_variance

MAX_SIDE_PX = 64  # larger crops are averaged down; a linear model has no use for more
MAX_CROPS = 10_000
MAX_BYTES = 2**26  # of pixels that are held at a time


def fit_baseline(
    train_crops: np.ndarray, truth: np.ndarray, n_classes: int, seed: int = 0
) -> Callable[[np.ndarray], np.ndarray]:
    """Fits the baseline on a training split.

    Args:
        train_crops: Array `(N, H, W, C)`; at most 10,000 of them are used, drawn by `seed`.
        truth: Class indices, int array `(N,)` in `0..n_classes-1`; or, with several labels per image, 0/1 `(N, K)`.
        n_classes: K.
        seed: Seed of the draw and of the PCA.

    Returns:
        Function of crops `(M, H, W, C)` that returns their probabilities, float array `(M, K)`; of a class that the
        training split lacks, 0.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(train_crops))[:MAX_CROPS])
    offset = measure_pixels(train_crops).offset
    features, truth = _features(Subset(train_crops, chosen), offset), np.asarray(truth)[chosen]
    # Scaled as a whole, not whitened: with equal noise in every pixel the leading components are the telling ones.
    pca = PCA(min(60, *features.shape), random_state=seed).fit(features)
    scale = pca.transform(features).std() or 1.0
    inputs = pca.transform(features) / scale
    columns = [truth] if truth.ndim == 1 else [column for column in truth.T.astype(int)]
    models = [_fit_logistic(inputs, column) for column in columns]

    def predict(crops: np.ndarray) -> np.ndarray:
        inputs = pca.transform(_features(crops, offset)) / scale
        if truth.ndim == 2:
            return np.column_stack([_probabilities(model, inputs, 2)[:, 1] for model in models])
        return _probabilities(models[0], inputs, n_classes)

    return predict


def _fit_logistic(inputs: np.ndarray, labels: np.ndarray) -> LogisticRegression | int:
    """The fitted model, or the label where there is only one."""
    if (labels == labels[0]).all():
        return int(labels[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return LogisticRegression(max_iter=1000).fit(inputs, labels)


def _probabilities(model: LogisticRegression | int, inputs: np.ndarray, n_classes: int) -> np.ndarray:
    probabilities = np.zeros((len(inputs), n_classes))
    if isinstance(model, int):
        probabilities[:, model] = 1.0
    else:
        probabilities[:, model.classes_] = model.predict_proba(inputs)
    return probabilities


def _features(crops: np.ndarray, offset: float) -> np.ndarray:
    """Variance-stabilised pixels, averaged down to 64 px at most, float32 `(N, pixels)`; read part by part."""
    size = max(1, MAX_BYTES // max(4 * int(np.prod(crops.shape[1:])), 1))
    parts = [np.arange(start, min(start + size, len(crops))) for start in range(0, len(crops), size)]
    return np.concatenate([_average_down(stabilise_variance(crops[part], offset)) for part in parts])


def _average_down(values: np.ndarray) -> np.ndarray:
    factor = min(-(-max(values.shape[1:3]) // MAX_SIDE_PX), *values.shape[1:3])
    height, width = (side // factor * factor for side in values.shape[1:3])
    blocks = values[:, :height, :width].reshape(
        len(values), height // factor, factor, width // factor, factor, values.shape[3]
    )
    return blocks.mean(axis=(2, 4)).reshape(len(values), -1)
