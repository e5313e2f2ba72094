"""What a frozen backbone makes of crops: computed once for every crop and view, kept, and drawn from by the epochs."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

import resnet_zclass as rz
from resnet_zclass import distribute, extras
from resnet_zclass.backend import has_gpu, keras
from resnet_zclass.batches import share
from resnet_zclass.models import feature_extractor
from resnet_zclass.pack import MAX_IN_MEMORY_BYTES, Subset
from resnet_zclass.progress import track
from resnet_zclass.views import Views

MAX_CHUNK, CHUNK_BYTES = 2048, 2**26  # crops that are gone through view by view, and their size
OPENVINO_BATCH = 32  # larger ones leave the cache of a core
# Pixels that the backbone sees, of all images together, from which on it is converted: that takes ten seconds or so.
WORTH_CONVERTING = 8_000_000


class Extractor(NamedTuple):
    """What computes features.

    Attributes:
        name: Its name.
        run: Function of raw crops `(n, H, W, C)` to features `(n, F)`, float32.
        n_features: F.
    """

    name: str
    run: Callable[[np.ndarray], np.ndarray]
    n_features: int


class StoredFeatures:
    """Features of all views of crops, of which a batch holds one view each.

    `features[indices]` says where they lie, and `pick` chooses the view and gets them: what `training_batches` wants
    as crops and as augmentation.

    Args:
        values: Features `(U, V, F)` of V views of different crops.
        rows: Row of each of the N crops of an epoch, int array `(N,)`.
        views: The views.

    Attributes:
        shape: `(N, F)`.
        dtype: float32. In half the bits a training would be another after some epochs.
    """

    dtype = np.dtype("float32")

    def __init__(self, values: np.ndarray, rows: np.ndarray, views: Views):
        self.values, self._rows, self._views = values, rows, views
        self.shape = (len(rows), values.shape[2])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, indices: np.ndarray) -> np.ndarray:
        return self._rows[indices]

    def pick(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Features `(n, F)` of a view of each crop; of all views the one that augmentation would make with `rng`."""
        return self.values[rows, self._views.draw(rng, rows.shape)]


def build_extractor(model: keras.Model, n_images: int, batch_size: int) -> Extractor:
    """What computes features of a frozen backbone: OpenVINO on a CPU, if it is installed and worth it, else Keras.

    Args:
        model: A classifier.
        n_images: Images whose features are wanted.
        batch_size: Crops per step of Keras.
    """
    features = feature_extractor(model)
    n_features = features.output_shape[-1]
    height, width = model.get_layer("backbone").input_shape[1:3]
    alone = distribute.count_replicas() == distribute.count_workers() == 1 and not has_gpu()
    whole = model.get_layer("backbone").compute_dtype == features.compute_dtype == "float32"  # all that is converted
    if alone and whole and n_images * height * width >= WORTH_CONVERTING and extras.is_installed("openvino"):
        return Extractor("OpenVINO", rz.export_formats.run_with_openvino(features, OPENVINO_BATCH), n_features)
    run = lambda crops: distribute.predict(features, crops, batch_size).astype(np.float32, copy=False)  # noqa: E731
    return Extractor("Keras", run, n_features)


def store_features(
    extractor: Extractor, crops: Subset, views: Views, seed: int, folder: Path | None = None
) -> StoredFeatures:
    """Computes and keeps the features of all views of crops.

    Args:
        extractor: What computes them.
        crops: The crops of an epoch. One that comes several times is computed once, but gets drawn views each time.
        views: Their views.
        seed: Seed of views that are drawn.
        folder: Folder on the disk that features go to if they are more than `MAX_IN_MEMORY_BYTES`, in a file without
            a name that is gone with the process.
    """
    own, rows = (crops, np.arange(len(crops))) if views.drawn else crops.distinct()
    values = _allocate((len(own), len(views), extractor.n_features), folder)
    parts = _chunks(own)
    for part, (first, end) in enumerate(track(parts, "features")):
        some = own[np.arange(first, end)]
        for view, make in enumerate(views.make):
            values[first:end, view] = extractor.run(make(some, np.random.default_rng([seed, view, part])))
    return StoredFeatures(values, rows, views)


def extract_features(extractor: Extractor, crops: Subset) -> np.ndarray:
    """Features of crops as they are, `(N, F)` float32."""
    return np.concatenate([extractor.run(crops[np.arange(first, end)]) for first, end in _chunks(crops)])


def _chunks(crops: Subset) -> list[tuple[int, int]]:
    size = int(np.clip(CHUNK_BYTES // (np.prod(crops.shape[1:]) * crops.dtype.itemsize), OPENVINO_BATCH, MAX_CHUNK))
    parts = -(-len(crops) // size)
    return [share(len(crops), part, parts) for part in range(parts)]


def _allocate(shape: tuple[int, ...], folder: Path | None) -> np.ndarray:
    n_bytes = int(np.prod(shape, dtype=np.int64)) * StoredFeatures.dtype.itemsize
    if n_bytes <= MAX_IN_MEMORY_BYTES:
        return np.zeros(shape, StoredFeatures.dtype)
    with tempfile.TemporaryFile(dir=folder) as file:  # the map keeps it open
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, n_bytes)  # a disk that fills up later would kill the process
        return np.memmap(file, StoredFeatures.dtype, "w+", shape=shape)
