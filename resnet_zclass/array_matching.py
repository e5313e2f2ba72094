"""Which stored array belongs to which variable, found from the order in which Keras 2 writes a model's weights.

Keras 2 lists the trainable weights of a model layer by layer, then all others layer by layer; those of a frozen
layer are among the others. Where a file's flags are wrong or absent it does not say which layers were frozen: then
every way of freezing layers that fits the names, shapes and order is looked at, and one mapping must remain.
"""

import bisect
import collections
import dataclasses
import itertools
import re
from collections.abc import Callable, Container, Iterator, Sequence
from typing import Any

from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray

# Variables that carry another name today.
RENAMED = {"depthwise_kernel": "kernel"}
_OLD_NAMES = {new: old for old, new in RENAMED.items()}
# Places looked at before giving up: a network of 1000 layers takes a tenth.
MOST_LOOKS = 2_000_000
# A chain of the places that arrays take: the chain before, and the places added.
Chain = tuple[Any, tuple[int, ...]]
# How many trained arrays are taken, which says how many of the others are, and up to two chains that lead there.
States = dict[int, list[Chain | None]]


@dataclasses.dataclass(frozen=True)
class Slot:
    """A variable that wants values: its name and shape."""

    variable: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Leaf:
    """A layer with weights.

    Attributes:
        name: Name of the layer.
        trainable: Its variables that training changes, in their order.
        fixed: Those that it does not change, such as moving averages.
        is_frozen: Whether it is frozen, as far as the configuration says.
        is_auto_named: Whether Keras chose the name (`dense_1`).
    """

    name: str
    trainable: tuple[Slot, ...]
    fixed: tuple[Slot, ...] = ()
    is_frozen: bool = False
    is_auto_named: bool = False

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All its variables, in order."""
        return self.trainable + self.fixed


@dataclasses.dataclass(frozen=True)
class Branch:
    """A model inside the model: its name, its layers in order, and whether it is frozen as a whole."""

    name: str
    children: tuple["Leaf | Branch", ...]

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The variables of all its layers, in order."""
        return tuple(slot for leaf in leaves_of(self.children) for slot in leaf.slots)


def leaves_of(children: Sequence[Leaf | Branch]) -> Iterator[Leaf]:
    """The layers with weights, in the order of the model."""
    for child in children:
        yield from leaves_of(child.children) if isinstance(child, Branch) else (child,)


def order_arrays(
    children: Sequence[Leaf | Branch], stored: Sequence[StoredArray], is_own: bool = True
) -> list[StoredArray]:
    """Puts the arrays of a model into the order of its variables.

    Args:
        children: Layers and nested models, in the order of the model that wrote the arrays.
        stored: Its arrays, as the file lists them.
        is_own: Whether `children` come from the same file. Then layers must have the names that arrays have, and
            `is_frozen` decides between several ways; else shapes and kinds of variables do where names differ.

    Returns:
        The arrays in the order of the slots of `leaves_of(children)`.

    Raises:
        InputError: If the arrays do not fit the model, or fit it in several ways.

    >>> import numpy as np
    >>> a, b = (Leaf(name, (Slot("kernel", (2,)),)) for name in "ab")
    >>> stored = [StoredArray(f"{name}_1/kernel:0", np.zeros(2)) for name in "ba"]  # a was frozen
    >>> [array.name for array in order_arrays([a, b], stored)]
    ['a_1/kernel:0', 'b_1/kernel:0']
    """
    if not is_own:
        children = _mark_counted(children)
    bound = {} if is_own else _bind_by_name(children, stored)
    taken = {id(array) for arrays in bound.values() for array in arrays}
    left = [array for array in stored if id(array) not in taken]
    order = _order_rest(_without(children, bound), left, is_own)
    if order is None:
        raise InputError(list_both_sides(children, stored))
    rest = iter(order)
    return [
        array
        for leaf in leaves_of(children)
        for array in bound.get(leaf.name) or [left[next(rest)] for _ in leaf.slots]
    ]


def _order_rest(children: Sequence[Leaf | Branch], stored: Sequence[StoredArray], is_own: bool) -> Sequence[int] | None:
    leaves = list(leaves_of(children))
    if sum(len(leaf.slots) for leaf in leaves) != len(stored):
        return None
    for fits in (_fits_by_name,) if is_own else (_fits_by_given_name, _fits_by_shape):
        orders = set(_Dealer(stored, fits).orders(children))
        if len(orders) > 1 and is_own and not any(isinstance(child, Branch) for child in children):
            flagged = _flagged_order(leaves)
            orders = {flagged} if _is_fitting(leaves, flagged, stored, fits) else orders
        if len(orders) > 1:
            raise InputError("its arrays fit the model in several ways, and nothing in it says which is right.")
        if orders:
            return orders.pop()
    return None


def _bind_by_name(children: Sequence[Leaf | Branch], stored: Sequence[StoredArray]) -> dict[str, list[StoredArray]]:
    """Arrays of the layers that have the same name in file and model.

    A name that Keras counted says nothing (`dense_1` of another session is another layer), unless all are the same.
    """
    leaves = list(leaves_of(children))
    by_layer: dict[str, list[StoredArray]] = {}
    for array in stored:
        by_layer.setdefault(array.layer_path.rpartition("/")[2], []).append(array)
    all_same = set(by_layer) == {leaf.name for leaf in leaves}
    wanted = [leaf for leaf in leaves if all_same or not leaf.is_auto_named]
    bound = {}
    for leaf in wanted:
        here = {array.variable: array for array in by_layer.get(leaf.name, ())}
        arrays = [here.get(slot.variable) or here.get(_OLD_NAMES.get(slot.variable, "")) for slot in leaf.slots]
        if None not in arrays and len(by_layer[leaf.name]) == len(arrays) and _fits_by_shape(leaf, arrays):
            bound[leaf.name] = arrays
    return bound if len(bound) == len(wanted) else {}  # names that are only in part the same say nothing


def _mark_counted(children: Sequence[Leaf | Branch]) -> list[Leaf | Branch]:
    """The same with every name taken for a counted one that others share but for the number at its end."""
    stems = collections.Counter(_stem(leaf.name) for leaf in leaves_of(children))

    def mark(child: Leaf | Branch) -> Leaf | Branch:
        if isinstance(child, Branch):
            return Branch(child.name, tuple(map(mark, child.children)))
        return dataclasses.replace(child, is_auto_named=child.is_auto_named or stems[_stem(child.name)] > 1)

    return list(map(mark, children))


def _stem(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _without(children: Sequence[Leaf | Branch], names: Container[str]) -> list[Leaf | Branch]:
    kept: list[Leaf | Branch] = []
    for child in children:
        if isinstance(child, Branch):
            kept.append(Branch(child.name, tuple(_without(child.children, names))))
        elif child.name not in names:
            kept.append(child)
    return kept


def list_both_sides(children: Sequence[Leaf | Branch], stored: Sequence[StoredArray]) -> str:
    """What model and file do not have in common, as part of an error."""
    wanted = collections.Counter(
        f"{leaf.name}/{s.variable} {s.shape}" for leaf in leaves_of(children) for s in leaf.slots
    )
    found = collections.Counter(f"{a.layer_path}/{_name_today(a)} {a.values.shape}" for a in stored)
    missing, extra = list((wanted - found).elements()), list((found - wanted).elements())
    return (
        f"its {len(stored)} arrays do not fit the {wanted.total()} of the model. Without a partner in the file: "
        f"{_some(missing)}. Without a partner in the model: {_some(extra)}."
    )


def _some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "") or "none"


def _name_today(array: StoredArray) -> str:
    return RENAMED.get(array.variable, array.variable)


def _fits_by_shape(leaf: Leaf, arrays: Sequence[StoredArray]) -> bool:
    same_place = len({array.layer_path.partition("/")[0] for array in arrays}) == 1
    return same_place and all(
        slot.shape == array.values.shape and slot.variable in (array.variable, _name_today(array))
        for slot, array in zip(leaf.slots, arrays, strict=True)
    )


def _fits_by_name(leaf: Leaf, arrays: Sequence[StoredArray]) -> bool:
    """Whether the arrays are named after the layer, as it is or with the number that makes a copy's name unique."""
    shared = set.intersection(*({*a.layer_path.split("/"), a.layer_path.replace("/", "_")} for a in arrays))
    names = shared | set(map(_stem, shared))
    return leaf.name in names and _fits_by_shape(leaf, arrays)


def _fits_by_given_name(leaf: Leaf, arrays: Sequence[StoredArray]) -> bool:
    """As `_fits_by_name`, but a name that Keras counted says nothing: `dense_1` of another session is another layer."""
    return (_fits_by_shape if leaf.is_auto_named else _fits_by_name)(leaf, arrays)


def _is_fitting(leaves: Sequence[Leaf], order: Sequence[int], stored: Sequence[StoredArray], fits: Callable) -> bool:
    places = iter(order)
    return all(fits(leaf, [stored[next(places)] for _ in leaf.slots]) for leaf in leaves)


def _flagged_order(leaves: Sequence[Leaf]) -> tuple[int, ...]:
    first = itertools.count()
    late = itertools.count(sum(len(leaf.trainable) for leaf in leaves if not leaf.is_frozen))
    order: list[int] = []
    for leaf in leaves:
        order += (next(late if leaf.is_frozen else first) for _ in leaf.trainable)
        order += (next(late) for _ in leaf.fixed)
    return tuple(order)


class _Dealer:
    """Deals stored arrays out to layers, in every way that their order, names and shapes allow."""

    def __init__(self, stored: Sequence[StoredArray], fits: Callable):
        self._stored, self._fits = stored, fits
        self._left = MOST_LOOKS
        self._known: dict[tuple[int, int], set[tuple[int, ...]]] = {}
        self._places: dict[int, list[int]] = {}

    def orders(self, children: Sequence[Leaf | Branch], start: int = 0) -> set[tuple[int, ...]]:
        """Up to two ways to deal out what follows `start`: for each slot of `children`, the place of its array."""
        key = (id(children), start)
        if key not in self._known:
            stop = start + sum(len(child.slots) for child in children)
            found: set[tuple[int, ...]] = set()
            if stop <= len(self._stored) and self._may_hold(children, start, stop):
                for split in range(start, stop + 1):
                    found |= set(self._deal(children, start, split, stop))
                    if len(found) > 1:
                        break
            self._known[key] = set(sorted(found)[:2])
        return self._known[key]

    def _may_hold(self, children: Sequence[Leaf | Branch], start: int, stop: int) -> bool:
        """Whether each layer has enough arrays between `start` and `stop` that could be its own."""
        for leaf in leaves_of(children):
            if id(leaf) not in self._places:
                self._places[id(leaf)] = [
                    i for i, array in enumerate(self._stored) if _is_like(leaf, array, self._fits)
                ]
            places = self._places[id(leaf)]
            if bisect.bisect_left(places, stop) - bisect.bisect_left(places, start) < len(leaf.slots):
                return False
        return True

    def _deal(self, children: Sequence[Leaf | Branch], start: int, split: int, stop: int) -> list[tuple[int, ...]]:
        """Up to two ways in which the arrays before `split` are trained, and each layer's others follow from there."""
        states: States = {0: [None]}
        taken = 0
        for child in children:
            states = self._advance(states, taken, child, start, split, stop)
            taken += len(child.slots)
        return [_unroll(chain) for chain in states.get(split - start, [])]

    def _advance(self, states: States, taken: int, child: Leaf | Branch, start: int, split: int, stop: int) -> States:
        following: States = {}
        for first, chains in states.items():
            second = split + taken - first
            for n_first, places in self._options(child, start + first, second, split, stop):
                kept = following.setdefault(first + n_first, [])
                kept += [(chain, places) for chain in chains][: 2 - len(kept)]
        if isinstance(child, Branch):  # not frozen as a whole: its layers are dealt to one by one
            for part in child.children:
                states = self._advance(states, taken, part, start, split, stop)
                taken += len(part.slots)
            for first, chains in states.items():
                kept = following.setdefault(first, [])
                others = {_unroll(chain) for chain in kept}
                kept += [chain for chain in chains if _unroll(chain) not in others][: 2 - len(kept)]
        return {first: chains for first, chains in following.items() if chains}

    def _options(
        self, child: Leaf | Branch, first: int, second: int, split: int, stop: int
    ) -> Iterator[tuple[int, tuple[int, ...]]]:
        """Ways in which a child takes arrays: how many of the first part, and the place of each slot's."""
        self._left -= 1
        if self._left < 0:
            raise InputError("there are too many ways in which its arrays may fit the model.")
        n, t = len(child.slots), len(getattr(child, "trainable", ()))
        if isinstance(child, Branch):  # frozen as a whole: its arrays stay together
            if second + n <= stop:
                yield from ((0, order) for order in self.orders(child.children, second))
            return
        mixed = (*range(first, first + t), *range(second, second + n - t))
        for n_first, places in {t: mixed, 0: tuple(range(second, second + n))}.items():
            inside = all(place < split for place in places[:n_first]) and max(places) < stop
            if inside and self._fits(child, [self._stored[place] for place in places]):
                yield n_first, places


def _is_like(leaf: Leaf, array: StoredArray, fits: Callable) -> bool:
    """Whether one of the layer's variables could be the array."""
    slots = [slot for slot in leaf.slots if slot.shape == array.values.shape]
    return any(fits(dataclasses.replace(leaf, trainable=(slot,), fixed=()), [array]) for slot in slots)


def _unroll(chain: Chain | None) -> tuple[int, ...]:
    parts = []
    while chain is not None:
        chain, places = chain
        parts.append(places)
    return tuple(itertools.chain.from_iterable(reversed(parts)))
