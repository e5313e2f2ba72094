"""Batches for `fit` and `predict` (tf.data), drawn from a seed."""

import contextlib
import functools
import weakref
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from resnet_zclass.backend import tf

CUTS = tf.TensorSpec((None,), tf.int64)  # where the shares of the replicas begin, and the last one ends
_errors: list[Exception] = []  # of batches that could not be made
PIECE = 64  # crops that are augmented and mixed together; a worker makes the pieces that its share touches, no others


def training_batches(
    crops: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    seed: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    mix: Callable[[np.ndarray, np.ndarray, np.random.Generator], tuple[np.ndarray, np.ndarray]] | None = None,
    weigh: Callable[[np.ndarray], np.ndarray] | None = None,
    replicas: range = range(1),
    n_replicas: int = 1,
    first_epoch: int = 0,
) -> "tf.data.Dataset":
    """Endless shuffled batches; what comes at a step depends on the seed and the step alone.

    The crops of an epoch are dealt out evenly: its batches differ by one crop at most, so that none is too small for
    BatchNormalization, and so do the shares of the replicas in a batch. All replicas together see the same crops,
    augmented in the same way, whatever their number.

    Args:
        crops: Array `(N, H, W, C)`, or anything indexed like it by an int array (`PackedCrops`, `Subset`).
        targets: Float array `(N, K)`.
        batch_size: Crops per step of all replicas, at most.
        seed: Seed of the order and of the augmentation.
        augment: Function of a batch and a generator; returns the augmented batch.
        mix: Function of a batch, its targets and a generator; returns both, mixed.
        weigh: Function of a batch's targets; returns the weight of each image in the loss, `(n,)`.
        replicas: Numbers of the replicas, of all `n_replicas`, whose shares are wanted; they come in turn.
        n_replicas: Devices that share every batch.
        first_epoch: Epoch that the batches begin with.

    Returns:
        Dataset of `(crops, targets)`, or `(crops, targets, weights)` with `weigh`, one element per step and replica.
    """
    n, steps = len(crops), count_steps(len(crops), batch_size)

    @functools.lru_cache(maxsize=2)  # the order changes once per epoch; steps are fetched in parallel
    def epoch_order(epoch: int) -> np.ndarray:
        return np.random.default_rng([seed, epoch]).permutation(n)

    def fetch_piece(epoch: int, k: int, piece: int, chosen: np.ndarray) -> tuple[np.ndarray, ...]:
        batch, target = crops[chosen], targets[chosen]
        rng = np.random.default_rng([seed, epoch, k, piece])
        if augment is not None:
            batch = augment(batch, rng)
        if mix is not None:
            batch, target = mix(batch, target, rng)
        return batch, target, *((weigh(target).astype(np.float32),) if weigh else ())

    def fetch(step: np.ndarray) -> tuple[np.ndarray, ...]:
        epoch, k = divmod(int(step), steps)
        chosen = epoch_order(epoch)[slice(*share(n, k, steps))]
        cuts = np.array([*(share(len(chosen), replica, n_replicas)[0] for replica in replicas), 0])
        cuts[-1] = share(len(chosen), replicas[-1], n_replicas)[1]
        first = cuts[0] // PIECE
        pieces = [
            fetch_piece(epoch, k, piece, chosen[piece * PIECE : (piece + 1) * PIECE])
            for piece in range(first, -(-cuts[-1] // PIECE))
        ]
        joined = (np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True))
        return *joined, cuts - first * PIECE

    data = tf.data.Dataset.range(first_epoch * steps, np.iinfo(np.int64).max)
    data = data.map(
        _as_graph(fetch, crops, targets, [tf.TensorSpec((None,), tf.float32)] * (weigh is not None) + [CUTS]),
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    data = data.flat_map(_deal_out) if len(replicas) > 1 else data.map(_take_own)
    return data.prefetch(tf.data.AUTOTUNE)


def count_steps(n: int, batch_size: int) -> int:
    """Batches of an epoch of `n` crops.

    >>> count_steps(23, batch_size=5)
    5
    """
    return -(-n // batch_size)


def share(n: int, part: int, parts: int) -> tuple[int, int]:
    """Where share number `part` of `n` things begins and ends when they are dealt out evenly, in order.

    >>> [share(7, part, 3) for part in range(3)]
    [(0, 2), (2, 4), (4, 7)]
    """
    return n * part // parts, n * (part + 1) // parts


def ordered_batches(
    crops: np.ndarray,
    targets: np.ndarray,
    batch_size: int,
    augment: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    seed: int = 0,
    part: int = 0,
    parts: int = 1,
) -> "tf.data.Dataset":
    """Batches in the order of the crops, once; the last one holds the remainder. Arguments as in `training_batches`.

    Of several processes, number `part` of `parts` gets its share of these batches.

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

    first, end = share(count_steps(len(crops), batch_size), part, parts)
    data = tf.data.Dataset.range(first * batch_size, min(end * batch_size, len(crops)), batch_size)
    data = data.map(_as_graph(fetch, crops, targets), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return data.prefetch(tf.data.AUTOTUNE)


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raises what goes wrong when batches are made as it is, instead of what TensorFlow makes of it."""
    _errors.clear()
    try:
        yield
    except tf.errors.OpError as error:
        if _errors:
            raise _errors[0] from error
        raise
    finally:
        _errors.clear()


def _take_own(*parts_and_cuts: "tf.Tensor") -> tuple["tf.Tensor", ...]:
    """The share of the only replica, of pieces that may hold more."""
    *parts, cuts = parts_and_cuts
    return tuple(part[cuts[0] : cuts[1]] for part in parts)


def _deal_out(*parts_and_cuts: "tf.Tensor") -> "tf.data.Dataset":
    """The shares of several replicas, one after the other."""
    *parts, cuts = parts_and_cuts
    starts = tf.data.Dataset.range(tf.shape(cuts, tf.int64)[0] - 1)
    return starts.map(lambda i: tuple(part[cuts[i] : cuts[i + 1]] for part in parts))


def _as_graph(fetch: Callable, crops, targets: np.ndarray, more: Sequence["tf.TensorSpec"] = ()) -> Callable:
    """Wraps a NumPy function of one number as a tf.data mapping that knows dtypes and shapes."""
    specs = [tf.TensorSpec((None, *array.shape[1:]), tf.as_dtype(array.dtype)) for array in (crops, targets)]
    specs += more
    weak = weakref.ref(fetch)  # what TensorFlow is given it keeps to the end of the process, crops and all

    def run(number: np.ndarray) -> tuple[np.ndarray, ...]:
        try:
            return weak()(number)
        except Exception as error:
            _errors.append(error)
            raise

    def mapped(number, _keep=fetch):  # the data set does, as long as it lives itself
        parts = tf.numpy_function(run, [number], [spec.dtype for spec in specs])
        for part, spec in zip(parts, specs, strict=True):
            part.set_shape(spec.shape)
        return tuple(parts)

    return mapped
