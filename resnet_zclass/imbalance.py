"""What rare classes get: more draws in an epoch, or more weight in the loss; and the table that says so.

Throughout, `targets` are `(N, K)`, one column per class, several of which an image may have; `counts` are numbers of
images `(K,)`.
"""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from resnet_zclass.errors import InputError

WEIGHT_KINDS = ("none", "balanced", "effective")


def count_labels(targets: np.ndarray) -> np.ndarray:
    """Number of images of every class, int array `(K,)`; targets are 0 or 1.

    >>> count_labels(np.array([[1, 0], [1, 1]])).tolist()
    [2, 1]
    """
    return (np.asarray(targets) > 0.5).sum(axis=0)


def oversample(
    targets: np.ndarray,
    class_names: Sequence[str],
    rare: Sequence[str] = (),
    to: int | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Which images an epoch draws: all of them, and those of rare classes again and again.

    An image is drawn `max(1, to / count)` times, the largest of its rare classes' where it has several labels (the
    repeat factor of LVIS: Gupta, Dollar & Girshick, CVPR 2019, with `to / count` in place of its square root). What
    is not whole becomes a further draw or not by lot, so that the expected number is exact.

    Args:
        targets: 0 or 1, `(N, K)`.
        class_names: K names.
        rare: Names of the rare classes; none: all classes of fewer images than `to`.
        to: Images an epoch draws of a rare class; default the mean number of images of the other classes.
        seed: Seed of the lot.

    Returns:
        Indices of images, int array, in ascending order, each at least once; `arange(N)` if nothing is asked.
        A rare class without images gets none. Where images of a rare class have rarer labels too, more than `to` of
        them are drawn.

    Raises:
        InputError: If a class is not known, `to` is below 1, or all classes are rare and `to` is not given.

    >>> targets = np.eye(2)[[0, 0, 0, 0, 1, 1]]
    >>> oversample(targets, ["common", "rare"], rare=["rare"]).tolist()
    [0, 1, 2, 3, 4, 4, 5, 5]
    """
    targets = np.asarray(targets) > 0.5
    counts = count_labels(targets)
    if not len(rare) and to is None:
        return np.arange(len(targets))
    _check_names(rare, class_names)
    is_rare = np.isin(np.asarray(class_names, dtype=str), np.asarray(rare, dtype=str)) if len(rare) else counts < to
    if to is None:
        if is_rare.all():
            raise InputError("--oversample names every class; give --oversample_to, or leave a class out.")
        to = counts[~is_rare].mean()
    elif to < 1:
        raise InputError(f"--oversample_to must be 1 or more. Received: {to}.")
    factors = np.where(is_rare & (counts > 0), to / np.maximum(counts, 1), 1.0)
    per_image = np.where(targets, factors, 1.0).max(axis=1, initial=1.0)
    return np.repeat(np.arange(len(targets)), _round_by_lot(per_image, seed))


def _check_names(rare: Sequence[str], class_names: Sequence[str]) -> None:
    known = [str(name) for name in class_names]
    for name in rare:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.4) or [*known[:5], "..."][: len(known)]
            raise InputError(f"--oversample {name}: there is no such class. There are: {', '.join(near)}.")


def _round_by_lot(values: np.ndarray, seed: int) -> np.ndarray:
    """Whole numbers, int `(N,)`, whose expectation is `values`; the sum over equal ones is off by less than 1.

    One lot is drawn for all (systematic sampling), where one for each would let the number drawn of a class vary.
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(values)), values))
    ends = np.floor(np.cumsum((values % 1)[order]) + rng.random()).astype(int)
    counts = np.floor(values).astype(int)
    counts[order] += np.diff(ends, prepend=0)
    return counts


def effective_numbers(counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Effective number of images of every class, `(1 - beta^n) / (1 - beta)`: float array `(K,)`, `n` at most.

    It grows like n at first and levels off at `1 / (1 - beta)`, as further images resemble those that are there (Cui
    et al., Class-Balanced Loss Based on Effective Number of Samples, CVPR 2019).

    >>> effective_numbers(np.array([0, 1, 1000, 10**6])).round(1).tolist()
    [0.0, 1.0, 632.3, 1000.0]
    """
    return -np.expm1(np.asarray(counts, np.float64) * np.log(beta)) / (1 - beta)


def class_weights(counts: np.ndarray, kind: str) -> np.ndarray:
    """Weight of every class in the loss, float array `(K,)`.

    Args:
        counts: Images of every class in training, `(K,)`.
        kind: `none` (all 1), `balanced` (inverse to the counts) or `effective` (inverse to `effective_numbers`).

    Returns:
        Weights whose mean over all labels, `sum(counts * weights) / sum(counts)`, is 1, so that the loss keeps its
        size and the learning rate its meaning. A class without images has weight 1; it is never used.

    Raises:
        InputError: If there is no such kind.

    >>> class_weights(np.array([30, 10, 0]), "balanced").round(3).tolist()
    [0.667, 2.0, 1.0]
    """
    counts = np.asarray(counts, np.float64)
    if kind not in WEIGHT_KINDS:
        raise InputError(f"--class_weights is one of {', '.join(WEIGHT_KINDS)}. Received: {kind}.")
    has = counts > 0
    weights = np.ones(len(counts))
    if kind != "none" and has.any():
        weights[has] = 1 / (counts[has] if kind == "balanced" else effective_numbers(counts[has]))
        weights[has] *= counts.sum() / (counts * weights)[has].sum()
    return weights


def image_weights(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weight of every image in the loss: the mean of its classes' weights, each counted as its target says.

    Args:
        targets: `(N, K)`, 0 or more; may be soft or mixed.
        weights: Of the classes, `(K,)`.

    Returns:
        `sum_k t_k w_k / sum_k t_k`, float32 array `(N,)`; 1 for an image without a label.

    >>> image_weights(np.array([[1, 0], [0.5, 0.5], [0, 0]]), np.array([1.0, 3.0])).tolist()
    [1.0, 2.0, 1.0]
    """
    targets = np.asarray(targets, np.float64)
    total = targets.sum(axis=1)
    weighted = targets @ np.asarray(weights, np.float64)
    return np.where(total > 0, weighted / np.where(total > 0, total, 1), 1).astype(np.float32)


def describe_counts(
    class_names: Sequence[str], counts_per_split: Mapping[str, np.ndarray], drawn: np.ndarray, weights: np.ndarray
) -> list[str]:
    r"""Lines of a table to print before training: a header, then one line per class.

    Args:
        class_names: K names.
        counts_per_split: Counts of the splits there are, each `(K,)`; `train` (or else the first) gives the
            effective numbers.
        drawn: Images of every class that an epoch draws, `(K,)`.
        weights: Of the classes, `(K,)`.

    >>> lines = describe_counts(["left", "right"], {"train": [90, 9], "val": [10, 1]}, [90, 45], [0.5, 5.5])
    >>> print("\n".join(lines))
    class  train  val  drawn per epoch  effective number  weight
    left      90   10               90              86.1    0.50
    right      9    1               45               9.0    5.50
    """
    splits = [split for split in ("train", "val", "test") if split in counts_per_split]
    effective = effective_numbers(counts_per_split[splits[0]])
    columns = [["class", *map(str, class_names)]]
    columns += [[split, *(f"{int(n)}" for n in counts_per_split[split])] for split in splits]
    columns += [
        ["drawn per epoch", *(f"{int(n)}" for n in drawn)],
        ["effective number", *(f"{n:.1f}" for n in effective)],
        ["weight", *(f"{w:.2f}" for w in weights)],
    ]
    widths = [max(map(len, column)) for column in columns]
    return [
        "  ".join([name.ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(cells, widths[1:], strict=True))])
        for name, *cells in zip(*columns, strict=True)
    ]
