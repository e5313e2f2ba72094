"""Who goes to train, val and test, or to which fold: nobody's group is parted, and labels keep their shares.

What must not be parted (a bead, a field of view, a well) shares a group. Nothing here reads files.
"""

from collections.abc import Callable, Sequence

import numpy as np

from resnet_zclass.errors import InputError

SPLITS = ("train", "val", "test")


def split_by_group(
    groups: Sequence,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    seed: int = 0,
    train_num: int | None = None,
    val_num: int | None = None,
    labels: Sequence | None = None,
) -> np.ndarray:
    """Deals groups out to train, val and test, so that no group stands in two of them.

    Args:
        groups: N group names; what must not be parted shares one.
        fractions: Shares of train, val and test in the number of groups; they sum to 1. Every split with a share
            above 0 gets at least one group where there are enough.
        seed: Seed of the draw.
        train_num: Number of groups for train, instead of fractions; goes with `val_num`.
        val_num: Number of groups for val; the rest is test.
        labels: N labels. With them, groups of one label only are dealt out label by label, so that every label
            gets the same shares.

    Returns:
        Array `(N,)` of `"train"`, `"val"`, `"test"`.

    Raises:
        InputError: If the fractions do not sum to 1, or there are fewer groups than `train_num + val_num`.

    >>> split_by_group(["a", "a", "b", "c"], fractions=(0.4, 0.3, 0.3)).tolist()
    ['val', 'val', 'test', 'train']
    """

    def deal(n: int) -> np.ndarray:
        return np.repeat(SPLITS, _split_counts(n, fractions, train_num, val_num))

    return _deal_out(groups, labels, seed, deal)


def split_in_folds(groups: Sequence, n_folds: int, seed: int = 0, labels: Sequence | None = None) -> np.ndarray:
    """Deals groups out to `n_folds` folds of nearly equal numbers of groups.

    Args:
        groups: N group names.
        n_folds: At least 2.
        seed: Seed of the draw.
        labels: N labels; as in `split_by_group`.

    Returns:
        Int array `(N,)` in `0..n_folds-1`; every group lies in one fold.

    Raises:
        InputError: If there are fewer than 2 folds, or fewer groups (of a label) than folds.

    >>> split_in_folds(["a", "a", "b", "c"], n_folds=3).tolist()
    [1, 1, 2, 0]
    """

    def deal(n: int) -> np.ndarray:
        if not 2 <= n_folds <= n:
            raise InputError(f"--folds must lie between 2 and the number of groups, {n}. Received: {n_folds}.")
        return np.arange(n) % n_folds

    return _deal_out(groups, labels, seed, deal)


def _deal_out(groups: Sequence, labels: Sequence | None, seed: int, deal: Callable[[int], np.ndarray]) -> np.ndarray:
    """Shuffles the groups of each stratum and gives the k-th of n what `deal(n)[k]` says."""
    names, first, member = np.unique(np.asarray(groups, dtype=str), return_index=True, return_inverse=True)
    strata = np.zeros(len(names), dtype=int)
    if labels is not None:
        codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
        several = np.bincount(member, weights=codes != codes[first][member]) > 0
        strata = np.where(several, -1, codes[first])
    rng = np.random.default_rng(seed)
    dealt = None
    for stratum in np.unique(strata):
        chosen = np.flatnonzero(strata == stratum)
        hand = deal(len(chosen))
        dealt = np.empty(len(names), dtype=hand.dtype) if dealt is None else dealt
        dealt[chosen[rng.permutation(len(chosen))]] = hand
    return dealt[member]


def _split_counts(n: int, fractions: Sequence[float], train_num: int | None, val_num: int | None) -> list[int]:
    if (train_num is None) != (val_num is None):
        raise InputError("--train_num and --val_num go together.")
    if train_num is not None:
        if min(train_num, val_num) < 0 or train_num + val_num > n:
            raise InputError(
                f"--train_num {train_num} and --val_num {val_num} want {train_num + val_num} groups; there are {n}."
            )
        return [train_num, val_num, n - train_num - val_num]
    if len(fractions) != 3 or min(fractions) < 0 or not abs(sum(fractions) - 1) <= 1e-6:  # NaN too
        raise InputError(f"--fractions are three shares that sum to 1. Received: {' '.join(map(str, fractions))}.")
    counts = _whole_counts(n, np.asarray(fractions))
    for i in np.flatnonzero((counts == 0) & (np.asarray(fractions) > 0)):
        if counts.max() > 1:
            counts[counts.argmax()] -= 1
            counts[i] += 1
    return counts.tolist()


def _whole_counts(n: int, shares: np.ndarray) -> np.ndarray:
    """`n` in whole numbers of the given shares: rounded down, the rest to those that lost most."""
    counts = np.floor(shares * n + 1e-9).astype(int)
    short = np.argsort(counts - shares * n, kind="stable")
    counts[short[: n - counts.sum()]] += 1
    return counts


def split_multi_label(
    targets: np.ndarray, groups: Sequence, fractions: Sequence[float] = (0.7, 0.15, 0.15), seed: int = 0
) -> np.ndarray:
    """Deals groups of images with several labels each out to train, val and test, every label in the same shares.

    Iterative stratification (Sechidis, Tsoumakas & Vlahavas, On the Stratification of Multi-Label Data, ECML PKDD
    2011): the rarest label that is left goes first, each of its groups to the split that lacks most images of it.
    Here groups stay whole, a split that is full takes no more, and a label of three groups or more comes into every
    split; one of a single group goes to the largest, as far as other labels of the same groups allow. In a set of few
    groups (some 30) that comes before sizes, which may then be off by more than a group.

    Args:
        targets: 0 or 1, `(N, K)`.
        groups: N group names.
        fractions: Shares of train, val and test in the number of images; they sum to 1.
        seed: Seed of the draw.

    Returns:
        Array `(N,)` of `"train"`, `"val"`, `"test"`.

    Raises:
        InputError: If the fractions do not sum to 1.

    >>> targets = np.eye(2)[[0, 0, 0, 0, 1, 1, 1, 1]]
    >>> split = split_multi_label(targets, range(8), fractions=(0.5, 0.25, 0.25))
    >>> sorted(split[:4].tolist()), sorted(split[4:].tolist())
    (['test', 'train', 'train', 'val'], ['test', 'train', 'train', 'val'])
    """
    _split_counts(len(targets), fractions, None, None)  # checks the fractions
    return np.array(SPLITS)[_stratify(targets, groups, fractions, seed)]


def fold_multi_label(targets: np.ndarray, groups: Sequence, n_folds: int, seed: int = 0) -> np.ndarray:
    """Deals groups of images with several labels each out to folds of nearly equal numbers of images.

    Args:
        targets: 0 or 1, `(N, K)`.
        groups: N group names.
        n_folds: At least 2.
        seed: Seed of the draw.

    Returns:
        Int array `(N,)` in `0..n_folds-1`, dealt as in `split_multi_label`.

    Raises:
        InputError: If there are fewer than 2 folds, or fewer groups than folds.

    >>> np.bincount(fold_multi_label(np.eye(2)[[0, 0, 1, 1]], range(4), n_folds=2)).tolist()
    [2, 2]
    """
    n = len(np.unique(np.asarray(groups, dtype=str)))
    if not 2 <= n_folds <= n:
        raise InputError(f"--folds must lie between 2 and the number of groups, {n}. Received: {n_folds}.")
    return _stratify(targets, groups, [1 / n_folds] * n_folds, seed)


def carve_validation(
    groups: Sequence,
    fraction: float = 0.15,
    seed: int = 0,
    labels: Sequence | None = None,
    targets: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Chooses which of the training images become validation: whole groups, or images where groups are too few.

    Groups are taken if every label of two images or more then has some in both parts. If not, images are, label by
    label, so that it has (with several labels per image: as far as they allow). A label of one image stays in training.

    Args:
        groups: N group names of the training images.
        fraction: Share of validation, between 0 and 1.
        seed: Seed of the draw.
        labels: N labels, one per image.
        targets: 0 or 1, `(N, K)`, for several labels per image, instead of `labels`.

    Returns:
        Whether each image becomes validation, bool `(N,)`, and whether no group stands in both parts.

    Raises:
        InputError: If the fraction does not lie between 0 and 1, or nothing can be taken.

    >>> carve_validation(["a", "a", "b", "c"], fraction=0.3)
    (array([False, False,  True, False]), True)
    >>> chosen, by_group = carve_validation(["a", "a", "b", "b"], fraction=0.5, labels=[0, 0, 1, 1])
    >>> int(chosen[:2].sum()), int(chosen[2:].sum()), by_group
    (1, 1, False)
    """
    if not 0 < fraction < 1:
        raise InputError(f"--val_fraction must lie between 0 and 1. Received: {fraction}.")
    if len(groups) < 2:
        raise InputError(f"Validation images are taken from two training images at least. Received: {len(groups)}.")
    groups = np.asarray(groups, dtype=str)
    has = _one_hot(labels if labels is not None else np.zeros(len(groups))) if targets is None else np.asarray(targets)
    has = has[:, has.any(axis=0)] > 0

    def carve(groups: np.ndarray) -> np.ndarray:
        if targets is not None:
            return _stratify(has, groups, (1 - fraction, fraction), seed) == 1
        return split_by_group(groups, (1 - fraction, fraction, 0), seed, labels=labels) == "val"

    chosen = carve(groups)
    single = has.sum(axis=0) == 1
    is_whole = (has[~chosen].any(axis=0) & (has[chosen].any(axis=0) | single)).all()
    if not is_whole or not 0 < chosen.sum() < len(groups):
        chosen = carve(np.arange(len(groups))) & ~has[:, single].any(axis=1)
    if not 0 < chosen.sum() < len(groups):
        raise InputError("No validation images can be taken from training: every label has one image at most.")
    return chosen, not set(groups[chosen]) & set(groups[~chosen])


def shuffle_splits(splits: Sequence[str], labels: Sequence, seed: int = 0) -> np.ndarray:
    """A random split, blind to groups, that has as many images of every label in each split as the one given.

    Args:
        splits: Names of the splits, N of them.
        labels: Label of each image, N of them.
        seed: Seed of the draw.

    Returns:
        Names of the splits, array `(N,)`.

    >>> shuffle_splits(["train", "train", "test", "test"], [0, 1, 0, 1], seed=2).tolist()
    ['train', 'test', 'test', 'train']
    """
    shuffled, labels = np.array(splits), np.asarray(labels)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        shuffled[own] = rng.permutation(shuffled[own])
    return shuffled


def _one_hot(labels: Sequence) -> np.ndarray:
    codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1]
    return codes[:, None] == np.arange(codes.max() + 1)


def _stratify(targets: np.ndarray, groups: Sequence, shares: Sequence[float], seed: int) -> np.ndarray:
    """Iterative stratification of groups: for each image the index of its share, int `(N,)`."""
    names, member = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    targets = np.asarray(targets) > 0
    rng = np.random.default_rng(seed)
    draw = rng.permutation(len(names))  # what equally good groups and shares are ordered by
    counts = np.zeros((len(names), targets.shape[1]), dtype=int)
    np.add.at(counts, member, targets)
    sizes = np.bincount(member, minlength=len(names))
    hand = _Hand(counts, sizes, np.asarray(shares, float), rng)
    while hand.n_left.any():
        label = np.where(hand.n_left > 0, hand.n_left, hand.n_left.max() + 1).argmin()
        chosen = np.flatnonzero((counts[:, label] > 0) & (hand.dealt < 0))
        for group in chosen[np.lexsort((draw[chosen], -counts[chosen, label]))]:
            hand.deal(group, label)
    rest = np.flatnonzero(hand.dealt < 0)
    for group in rest[np.lexsort((draw[rest], -sizes[rest]))]:
        hand.deal(group, None)
    return hand.dealt[member]


class _Hand:
    """What iterative stratification has dealt so far, and what each share still wants.

    Attributes:
        dealt: Share of every group, int `(G,)`; -1: none yet.
        n_left: Images of every label that are not dealt yet, int `(K,)`.
    """

    def __init__(self, counts: np.ndarray, sizes: np.ndarray, shares: np.ndarray, rng: np.random.Generator):
        self.dealt = np.full(len(sizes), -1)
        self.n_left = counts.sum(axis=0)
        self._counts, self._sizes, self._rng = counts, sizes, rng
        self._labels = [np.flatnonzero(row).tolist() for row in counts]
        self._groups_left = (counts > 0).sum(axis=0).tolist()
        # Rounded, so that equal shares want exactly the same and ties are seen as such.
        self._wanted = np.round(shares[:, None] * self.n_left, 9).T.tolist()
        self._room = _whole_counts(int(sizes.sum()), shares).tolist()
        # The shares in which a label must come: all, or the largest where its groups are fewer than the shares.
        ranked = np.sort(shares)[::-1]
        self._open = set(np.flatnonzero(shares > 0).tolist())
        self._claims = [
            {j for j in self._open if n and shares[j] >= ranked[min(n, len(shares)) - 1] - 1e-9}
            for n in self._groups_left
        ]

    def deal(self, group: int, label: int | None) -> None:
        """Gives a group, for the sake of one of its labels, to the share that most wants it."""
        share = self._choose(group, label)
        self.dealt[group] = share
        self._room[share] -= int(self._sizes[group])
        for k in self._labels[group]:
            n = int(self._counts[group, k])
            self.n_left[k] -= n
            self._wanted[k][share] -= n
            self._groups_left[k] -= 1
            self._claims[k].discard(share)

    def _choose(self, group: int, label: int | None) -> int:
        allowed = self._open
        for k in sorted(self._labels[group], key=lambda k: (k != label, self._groups_left[k])):
            if self._groups_left[k] <= len(self._claims[k]):  # each group that is left must go where it is missing
                allowed = allowed & self._claims[k] or allowed
        half = self._sizes[group] / 2
        allowed = {j for j in allowed if self._room[j] >= half} or allowed
        wanted = self._room if label is None else self._wanted[label]
        best = max((wanted[j], self._room[j]) for j in allowed)
        ties = [j for j in sorted(allowed) if (wanted[j], self._room[j]) == best]
        return ties[0] if len(ties) == 1 else int(self._rng.choice(ties))
