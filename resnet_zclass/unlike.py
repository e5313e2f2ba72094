"""How unlike the beads of a training set a crop is: no bead, two, another magnification, saturated, or just dust.

Deep nets are as sure of what they have never seen, so the score does not ask the net: it is the distance to the nearest
crop of the training set, in the space of its principal components and of what these leave over.
"""

import dataclasses
from pathlib import Path

import numpy as np

from resnet_zclass.pixels import stabilise_features

MAX_CROPS, N_COMPONENTS, N_REFERENCES = 10_000, 40, 2000
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
        threshold: Distance beyond which a crop is unlike them.
    """

    offset: np.ndarray
    mean: np.ndarray
    components: np.ndarray
    references: np.ndarray
    threshold: np.ndarray

    def score(self, crops: np.ndarray) -> np.ndarray:
        """Distance of crops `(N, H, W, C)` to the training set over the threshold, `(N,)`; above 1 they are unlike it.

        The distance to the nearest neighbour, as Sun et al., Out-of-Distribution Detection with Deep Nearest
        Neighbors, ICML 2022, on pixels instead of features.
        """
        points = self._place(crops)
        squares = (self.references**2).sum(axis=1)
        nearest = [
            np.sqrt(np.maximum((squares - 2 * part @ self.references.T).min(axis=1) + (part**2).sum(axis=1), 0))
            for part in np.split(points, range(CHUNK, len(points), CHUNK))
        ]
        return np.concatenate(nearest) / self.threshold

    def _place(self, crops: np.ndarray) -> np.ndarray:
        centred = stabilise_features(crops, float(self.offset)) - self.mean
        inside = centred @ self.components.T
        left = np.sqrt(np.maximum((centred**2).sum(axis=1) - (inside**2).sum(axis=1), 0))
        return np.column_stack([inside, left])


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
    whole = Familiar(
        np.float64(offset), pca.mean_.astype(np.float32), pca.components_.astype(np.float32), np.empty(0), np.float64(1)
    )
    whole = dataclasses.replace(whole, references=whole._place(train_crops[drawn[some]]))
    threshold = np.quantile(whole.score(val_crops[np.arange(len(val_crops))]), SHARE_LIKE)
    return dataclasses.replace(whole, threshold=np.float64(threshold or 1.0))


def save_familiar(path: Path, familiar: Familiar) -> None:
    """Writes it as a NumPy `.npz` file."""
    with path.open("wb") as file:
        np.savez_compressed(file, **dataclasses.asdict(familiar))


def load_familiar(path: Path) -> Familiar:
    """Reads what `save_familiar` wrote; no code in the file is run."""
    with np.load(path, allow_pickle=False) as arrays:
        return Familiar(**{field.name: arrays[field.name] for field in dataclasses.fields(Familiar)})
