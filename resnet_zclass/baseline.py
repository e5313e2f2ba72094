"""The classical baseline every net is shown beside: PCA and logistic regression on variance-stabilised pixels."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from resnet_zclass.pack import Subset
from resnet_zclass.pixels import measure_pixels, stabilise_features

MAX_CROPS = 10_000


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
    features, truth = stabilise_features(Subset(train_crops, chosen), offset), np.asarray(truth)[chosen]
    # Scaled as a whole, not whitened: with equal noise in every pixel the leading components are the telling ones.
    pca = PCA(min(60, *features.shape), random_state=seed).fit(features)
    scale = pca.transform(features).std() or 1.0
    inputs = pca.transform(features) / scale
    columns = [truth] if truth.ndim == 1 else [column for column in truth.T.astype(int)]
    models = [_fit_logistic(inputs, column) for column in columns]

    def predict(crops: np.ndarray) -> np.ndarray:
        inputs = pca.transform(stabilise_features(crops, offset)) / scale
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
