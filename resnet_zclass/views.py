"""The views of a crop that augmentation makes, as a set that can be gone through: all of them, or some drawn ones.

Flips and quarter turns make few views, so that all can be made beforehand and an epoch only chooses among them. Other
augmentations are drawn from a continuum, for which some drawn views have to stand.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from resnet_zclass.augment import KINDS, STRENGTHS, Augment, Kind, build_augment
from resnet_zclass.warp import Shape


class Choices(NamedTuple):
    """A kind of augmentation of which there are `n`: number to parameters of one crop, and parameters to numbers."""

    n: int
    parameters: Callable[[int], np.ndarray]
    number: Callable[[np.ndarray], np.ndarray]


# Of the kinds in `augment.KINDS` that have these strengths.
FINITE: dict[tuple[str, ...], Choices] = {
    ("flip",): Choices(4, lambda k: np.array([[k >= 2, k % 2 == 1]]), lambda mirrored: mirrored @ np.array([2, 1])),
    ("turn",): Choices(4, lambda k: np.array([k]), lambda quarters: quarters),
}


@dataclasses.dataclass(frozen=True)
class Views:
    """Views of every crop.

    Attributes:
        make: One function a view: `(crops, generator) -> crops`.
        draw: `(generator, shape of the crops)` to the number of the view of each, int array `(N,)`.
        drawn: Names of the augmentations for which drawn views stand; empty if these are all the views there are.
    """

    make: Sequence[Augment]
    draw: Callable[[np.random.Generator, Shape], np.ndarray]
    drawn: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.make)


def list_views(strengths: Mapping[str, Any], augment: Augment, crop_shape: tuple[int, int, int], n: int) -> Views:
    """All views that augmentation makes of a crop, or, where there is no end of them, `n` drawn ones.

    Where these are all, `draw` makes the choice that `augment` would have made with the same generator.

    Args:
        strengths: Options of `augment.build_augment`; those missing are off.
        augment: What it returned for them.
        crop_shape: `(H, W, C)` of a crop.
        n: Views that are drawn.

    >>> [len(list_views(s, build_augment(**s), (8, 8, 1), n=3)) for s in ({}, {"flip": 1}, {"flip": 1, "turn": 1})]
    [1, 4, 8]
    >>> some = list_views({"flip": 1, "shift_px": 1}, build_augment(flip=True, shift_px=1), (8, 8, 1), n=3)
    >>> len(some), some.drawn
    (3, ('shift_px',))
    """
    on = [kind for kind in KINDS if any(STRENGTHS[s].is_on(strengths.get(s, STRENGTHS[s].off)) for s in kind.strengths)]
    endless = [kind for kind in on if kind.strengths not in FINITE]
    if not endless:
        return _all_views(on, crop_shape)
    names = (s for kind in endless for s in kind.strengths if STRENGTHS[s].is_on(strengths.get(s, STRENGTHS[s].off)))
    return Views([augment] * n, lambda rng, shape: rng.integers(n, size=shape[0]), tuple(names))


def symmetric_views(flip: bool, turn: bool, crop_shape: tuple[int, int, int]) -> Sequence[Augment]:
    """The ways to see a crop that a training took for equal: mirrored, turned; functions as `Views.make` has them.

    >>> len(symmetric_views(flip=True, turn=False, crop_shape=(8, 8, 1)))
    4
    """
    return list_views({"flip": flip, "turn": turn}, build_augment(flip=flip, turn=turn), crop_shape, n=1).make


def _all_views(kinds: Sequence[Kind], crop_shape: tuple[int, int, int]) -> Views:
    choices = [FINITE[kind.strengths] for kind in kinds]
    combinations = list(itertools.product(*(range(choice.n) for choice in choices)))

    def apply(numbers: tuple[int, ...], crops: np.ndarray) -> np.ndarray:
        for kind, choice, k in zip(kinds, choices, numbers, strict=True):
            crops = kind.apply(crops, np.repeat(choice.parameters(k), len(crops), axis=0))
        return crops

    # Different ways to the same view (both mirrorings are half a turn) are one.
    pixels = np.arange(np.prod(crop_shape)).reshape(1, *crop_shape)
    first: dict[bytes, int] = {}
    view_of = np.array([first.setdefault(apply(way, pixels).tobytes(), len(first)) for way in combinations])
    ways = [combinations[i] for i in np.unique(view_of, return_index=True)[1]]

    def draw(rng: np.random.Generator, shape: Shape) -> np.ndarray:
        number = np.zeros(shape[0], int)
        for kind, choice in zip(kinds, choices, strict=True):
            number = number * choice.n + choice.number(kind.draw(rng, shape, True))
        return view_of[number]

    return Views([lambda crops, _, way=way: apply(way, crops) for way in ways], draw)
