"""Batches for `fit` and `predict` (tf.data), drawn from a seed."""

import functools
from collections.abc import Callable

import numpy as np

from resnet_zclass.backend import tf


def training_batches(
    crops: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    seed: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    mix: Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None,
    weigh: Callable[[np.ndarray], np.ndarray] | None = None,
) -> tuple["tf.data.Dataset", int]:
    """Endless shuffled batches; what comes at a step depends on the seed and the step alone.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it by an int array (`PackedCrops`, `Subset`).
        targets: Float array `(N, K)`.
        batch_size: Crops per step. The last batch of an epoch holds the remainder.
        seed: Seed of the order and of the augmentation.
        augment: Function of a batch and a generator; returns the augmented batch.
        mix: Function of a batch, its targets and a generator; returns both, mixed.
        weigh: Function of a batch's targets; returns the weight of each image in the loss, `(n,)`.

    Returns:
        Dataset of `(crops, targets)`, or `(crops, targets, weights)` with `weigh`, and the number of steps per epoch,
        which `fit` wants as `steps_per_epoch`.
    """
    n, steps = len(crops), -(-len(crops) // batch_size)

    @functools.lru_cache(maxsize=2)  # the order changes once per epoch; steps are fetched in parallel
    def epoch_order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(n)

    def fetch(step: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epoch, k = divmod(int(step), steps)
        chosen = epoch_order(epoch)[k * batch_size : (k + 1) * batch_size]
        batch, target = crops[chosen], targets[chosen]
        rng = np.random.default_rng([seed, epoch, k])
        if augment is not None:
            batch = augment(batch, rng)
        if mix is not None:
            batch, target = mix(batch, target, rng)
        return batch, target, *((weigh(target).astype(np.float32),) if weigh else ())

    data = tf.data.Dataset.range(np.iinfo(np.int64).max)
    data = data.map(
        _as_graph(fetch, crops, targets, weighs=weigh is not None),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    return data.prefetch(tf.data.AUTOTUNE), steps


def ordered_batches(
    crops: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    seed: int = 0,
) -> "tf.data.Dataset":
    """Batches in the order of the crops, once; the last one holds the remainder. Arguments as in `training_batches`.

    >>> data = ordered_batches(np.zeros((5, 4, 4, 1), "uint16"), np.arange(5), batch_size=2)
    >>> [y.tolist() for x, y in data.as_numpy_iterator()]
    [[0, 1], [2, 3], [4]]
    """

    def fetch(start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        chosen = np.arange(start, min(start + batch_size, len(crops)))
        batch = crops[chosen]
        if augment is not None:
            batch = augment(batch, np.random.default_rng([seed, int(start)]))
        return batch, targets[chosen]

    data = tf.data.Dataset.range(0, len(crops), batch_size)
    data = data.map(_as_graph(fetch, crops, targets), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.prefetch(tf.data.AUTOTUNE)


def _as_graph(fetch: Callable, crops, targets: np.ndarray, weighs: bool = False) -> Callable:
    """Wraps a NumPy function of one number as a tf.data mapping that knows dtypes and shapes."""
    kinds = [tf.as_dtype(crops.dtype), tf.as_dtype(targets.dtype), *[tf.float32] * weighs]
    shapes = [(None, *crops.shape[1:]), (None, *targets.shape[1:]), *[(None,)] * weighs]

    def mapped(number):
        parts = tf.numpy_function(fetch, [number], kinds)
        for part, shape in zip(parts, shapes, strict=True):
            part.set_shape(shape)
        return tuple(parts)

    return mapped
