"""The classical baseline every net is shown beside: PCA and logistic regression on variance-stabilised pixels."""

import warnings

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from resnet_zclass.pixels import measure_pixels, stabilise_variance

MAX_SIDE_PX = 64  # larger crops are averaged down; a linear model has no use for more
MAX_CROPS = 10_000


def predict_baseline(
    train_crops: np.ndarray, train_labels: np.ndarray, crops: np.ndarray, n_classes: int, seed: int = 0
) -> np.ndarray:
    """Fits the baseline on a training split and returns its probabilities for other crops.

    Args:
        train_crops: Array `(N, H, W, C)`; at most 10,000 of them are used, drawn by `seed`.
        train_labels: Class indices, int array `(N,)` in `0..n_classes-1`.
        crops: Array `(M, H, W, C)`.
        n_classes: K.
        seed: Seed of the draw and of the PCA.

    Returns:
        Float array `(M, K)`; 0 for a class that the training split lacks.
    """
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.permutation(len(train_crops))[:MAX_CROPS])
    offset = measure_pixels(train_crops).offset
    features, train_labels = _features(train_crops[chosen], offset), np.asarray(train_labels)[chosen]
    # Scaled as a whole, not whitened: with equal noise in every pixel the leading components are the telling ones.
    pca = PCA(min(60, *features.shape), random_state=seed).fit(features)
    scale = pca.transform(features).std() or 1.0
    model = LogisticRegression(max_iter=1000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(pca.transform(features) / scale, train_labels)
    probabilities = np.zeros((len(crops), n_classes))
    probabilities[:, model.classes_] = model.predict_proba(
        pca.transform(_features(crops[np.arange(len(crops))], offset)) / scale
    )
    return probabilities


def _features(crops: np.ndarray, offset: float) -> np.ndarray:
    """Variance-stabilised pixels, averaged down to 64 px at most, float32 `(N, pixels)`."""
    values = stabilise_variance(crops, offset)
    factor = min(-(-max(values.shape[1:3]) // MAX_SIDE_PX), *values.shape[1:3])
    height, width = (side // factor * factor for side in values.shape[1:3])
    blocks = values[:, :height, :width].reshape(
        len(values), height // factor, factor, width // factor, factor, values.shape[3]
    )
    return blocks.mean(axis=(2, 4)).reshape(len(values), -1)
