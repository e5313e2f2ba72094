"""How unlike the beads of a training set a crop is: no bead, two, another magnification, saturated, or just dust.

Deep nets are as sure of what they have never seen, so the score does not ask the net: it is the distance to the
nearest crop of the training set, in the space of its principal components and of what these leave over, as a multiple
of how far that crop lies from others of the set: crops far out of focus lie closer together than bright ones.
"""

import dataclasses
from pathlib import Path

import numpy as np

from resnet_zclass.arrays import read_arrays
from resnet_zclass.pixels import stabilise_features

MAX_CROPS, N_COMPONENTS, N_REFERENCES, N_NEIGHBOURS = 10_000, 10, 2000, 10
SHARE_LIKE = 0.99  # of validation crops that are to count as like the training set
CHUNK = 1024


@dataclasses.dataclass(frozen=True)
class Familiar:
    """What the crops of a training set look like.

    Attributes:
        offset: Camera counts without light.
        mean: Mean of the variance-stabilised pixels, `(P,)`.
        components: Their principal components, `(C, P)`.
        references: Training crops, `(R, C + 1)`: components, and the length of what these leave over.
        scale: Distance of each to its tenth nearest neighbour among them, `(R,)`.
        threshold: Distance in units of that scale beyond which a crop is unlike them.
    """

    offset: np.ndarray
    mean: np.ndarray
    components: np.ndarray
    references: np.ndarray
    scale: np.ndarray
    threshold: np.ndarray

    def score(self, crops: np.ndarray) -> np.ndarray:
        """Distance of crops `(N, H, W, C)` to the training set over the threshold, `(N,)`; above 1 they are unlike it.

        The distance to the nearest neighbour (Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors,
        ICML 2022), on pixels instead of features, over the local scale (as the local outlier factor of Breunig et al.,
        SIGMOD 2000).
        """
        points = self._place(crops)
        parts = np.split(points, range(CHUNK, len(points), CHUNK))
        nearest = [(_distances(part, self.references) / self.scale).min(axis=1) for part in parts]
        return np.concatenate(nearest) / self.threshold

    def _place(self, crops: np.ndarray) -> np.ndarray:
        centred = stabilise_features(crops, float(self.offset)) - self.mean
        inside = centred @ self.components.T
        left = np.sqrt(np.maximum((centred**2).sum(axis=1) - (inside**2).sum(axis=1), 0))
        return np.column_stack([inside, left])


def _distances(points: np.ndarray, references: np.ndarray) -> np.ndarray:
    squares = (points**2).sum(axis=1)[:, None] + (references**2).sum(axis=1)
    return np.sqrt(np.maximum(squares - 2 * points @ references.T, 0))


def fit_familiar(train_crops: np.ndarray, val_crops: np.ndarray, offset: float, seed: int = 0) -> Familiar:
    """Learns what crops look like on those of split train, and how far from them others lie on those of split val.

    Args:
        train_crops: Array `(N, H, W, C)`, N >= 1, or anything indexed like it; some are drawn if there are many.
        val_crops: Others of the same kind, 1 or more.
        offset: Camera counts without light.
        seed: Of the draw.

    >>> rng = np.random.default_rng(0)
    >>> crops = rng.poisson(20, (300, 8, 8, 1)).astype("uint16")
    >>> familiar = fit_familiar(crops[:200], crops[200:], offset=0.0)
    >>> bool(familiar.score(crops[200:]).max() < 1.2), bool(familiar.score(3 * crops[:1])[0] > 2)
    (True, True)
    """
    from sklearn.decomposition import PCA  # here, not above: predictions start without it

    rng = np.random.default_rng(seed)
    drawn = np.sort(rng.permutation(len(train_crops))[:MAX_CROPS])
    features = stabilise_features(train_crops[drawn], offset)
    pca = PCA(min(N_COMPONENTS, *features.shape), random_state=seed).fit(features)
    some = np.sort(rng.permutation(len(drawn))[:N_REFERENCES])
    mean, components = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
    whole = Familiar(np.float64(offset), mean, components, np.empty(0), np.empty(0), np.float64(1))
    references = whole._place(train_crops[drawn[some]])
    neighbour = min(N_NEIGHBOURS, len(references) - 1)
    apart = [np.sort(_distances(part[None], references)[0])[neighbour] for part in references]
    scale = np.maximum(apart, 1e-6 + 1e-3 * np.median(apart)).astype(np.float32)  # copies lie at no distance
    whole = dataclasses.replace(whole, references=references, scale=scale)
    threshold = np.quantile(whole.score(val_crops[np.arange(len(val_crops))]), SHARE_LIKE)
    return dataclasses.replace(whole, threshold=np.float64(threshold or 1.0))


def save_familiar(path: Path, familiar: Familiar) -> None:
    """Writes it as a NumPy `.npz` file."""
    with path.open("wb") as file:
        np.savez_compressed(file, **dataclasses.asdict(familiar))


def load_familiar(path: Path) -> Familiar:
    """Reads what `save_familiar` wrote; no code in the file is run."""
    arrays = read_arrays(path)
    return Familiar(**{field.name: arrays[field.name] for field in dataclasses.fields(Familiar)})
