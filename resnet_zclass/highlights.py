"""Which images of an evaluation are worth a look: those behind a number, the worst, and the most uncertain."""

from collections.abc import Iterator, Mapping

import numpy as np

from resnet_zclass.metrics import decide

DECISIONS = ("found", "missed", "false")  # of one of several labels: rightly named, not named, wrongly named
SMALLEST = 1e-12  # probability that counts as none

Cells = dict[tuple[int, int], np.ndarray]


def confusion_cells(labels: np.ndarray, probabilities: np.ndarray) -> Cells:
    """Images in every cell of a confusion matrix that has any, the surest first.

    Args:
        labels: True class indices, int array `(N,)`.
        probabilities: Array `(N, K)`.

    Returns:
        Of (true class, predicted class) the indices of the images.

    >>> cells = confusion_cells(np.array([0, 0, 1]), np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]]))
    >>> {cell: images.tolist() for cell, images in cells.items()}
    {(0, 0): [1, 0], (1, 0): [2]}
    """
    predicted, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    pairs = np.stack([labels, predicted], axis=1)
    return {
        (int(true), int(named)): _surest(np.flatnonzero((pairs == (true, named)).all(axis=1)), sure)
        for true, named in np.unique(pairs, axis=0)
    }


def decision_cells(targets: np.ndarray, probabilities: np.ndarray, thresholds: np.ndarray) -> Cells:
    """Images behind what was decided of every label, of (label, index in `DECISIONS`); the surest first.

    Args:
        targets: 0/1, array `(N, K)`.
        probabilities: Array `(N, K)`.
        thresholds: Probability from which a label is named, `(K,)`.

    >>> cells = decision_cells(np.array([[1], [1], [0]]), np.array([[0.9], [0.2], [0.8]]), np.array([0.5]))
    >>> {cell: images.tolist() for cell, images in cells.items()}
    {(0, 0): [0], (0, 1): [1], (0, 2): [2]}
    """
    named, there = decide(probabilities, thresholds), targets.astype(bool)
    cells = {}
    for k in range(targets.shape[1]):
        for column, chosen in enumerate((there & named, there & ~named, ~there & named)):
            if len(images := np.flatnonzero(chosen[:, k])):
                sure = probabilities[:, k]
                cells[k, column] = _surest(images, -sure if DECISIONS[column] == "missed" else sure)
    return cells


def _surest(images: np.ndarray, sure: np.ndarray) -> np.ndarray:
    return images[np.argsort(-sure[images], kind="stable")]


def take_in_turn(
    cells: Mapping[tuple[int, int], np.ndarray], per_cell: int = 12, several: bool = False
) -> Iterator[tuple]:
    """Yields (cell, image): the first of every cell, then the second, so that no cell goes without; mistakes first.

    With `several` labels per image the cells are those of `decision_cells`.

    >>> list(take_in_turn({(0, 0): np.array([5, 6]), (0, 1): np.array([7])}))
    [((0, 1), 7), ((0, 0), 5), ((0, 0), 6)]
    """
    order = sorted(cells, key=lambda cell: (cell[1] == (0 if several else cell[0]), cell))
    for turn in range(per_cell):
        for cell in order:
            if turn < len(cells[cell]):
                yield cell, int(cells[cell][turn])


def rank_worst(truth: np.ndarray, probabilities: np.ndarray, are_planes: bool = False) -> np.ndarray:
    """Indices of images, that with the largest cross-entropy first; of planes, that which is most planes off.

    Args:
        truth: Class indices, int array `(N,)`; with several labels per image 0/1 `(N, K)`.
        probabilities: Array `(N, K)`.
        are_planes: Whether the classes are z planes.

    >>> rank_worst(np.array([0, 0]), np.array([[0.9, 0.1], [0.2, 0.8]])).tolist()
    [1, 0]
    """
    if truth.ndim == 2:
        return np.argsort(-_binary(truth, probabilities).sum(axis=1), kind="stable")
    loss = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], SMALLEST))
    off = np.abs(probabilities.argmax(axis=1) - truth) if are_planes else np.zeros(len(truth))
    return np.lexsort((-loss, -off))


def rank_uncertain(probabilities: np.ndarray, several: bool = False) -> np.ndarray:
    """Indices of images, that whose probabilities have the largest entropy first.

    >>> rank_uncertain(np.array([[0.9, 0.1], [0.5, 0.5]])).tolist()
    [1, 0]
    """
    p = np.asarray(probabilities, float)
    entropy = _binary(p, p) if several else -p * np.log(np.maximum(p, SMALLEST))
    return np.argsort(-entropy.sum(axis=1), kind="stable")


def _binary(truth: np.ndarray, p: np.ndarray) -> np.ndarray:
    return -(truth * np.log(np.maximum(p, SMALLEST)) + (1 - truth) * np.log(np.maximum(1 - p, SMALLEST)))


def pick_examples(labels: np.ndarray, probabilities: np.ndarray, most: int = 12) -> list[tuple[int, int]]:
    """(image, class) for up to `most` classes, evenly spaced: the image of the class that is named so most surely.

    Args:
        labels: Class indices, int array `(N,)`, or 0/1 `(N, K)`.
        probabilities: Array `(N, K)`.
        most: Number of classes at most.

    >>> pick_examples(np.array([0, 0, 1]), np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]]))
    [(1, 0), (2, 1)]
    """
    there = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(probabilities.shape[1])
    classes = np.flatnonzero(there.any(axis=0))
    chosen = classes[np.unique(np.linspace(0, len(classes) - 1, min(most, len(classes))).round().astype(int))]
    return [(int(np.where(there[:, k], probabilities[:, k], -1).argmax()), int(k)) for k in chosen]
