"""Which stored array belongs to which variable, found from the order in which Keras 2 writes a model's weights.

Keras 2 lists the trainable weights of a model layer by layer, then all others layer by layer; those of a frozen
layer are among the others. Where a file's flags are wrong or absent it does not say which layers were frozen: then
every way of freezing layers that fits the names, shapes and order is looked at, and one mapping must remain.
"""

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
# Every nested model may have been frozen as a whole, which doubles the ways to look at.
MOST_BRANCHES = 8
# A chain of the places that arrays take: the chain before, and the places added.
Chain = tuple[Any, tuple[int, ...]]


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
    for fits in (_fits_by_name,) if is_own else (_fits_by_given_name, _fits_by_shape):
        orders = _find_orders(children, stored, fits)
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
    by_layer: dict[str, dict[str, StoredArray]] = {}
    for array in stored:
        by_layer.setdefault(array.layer_path.rpartition("/")[2], {})[_name_today(array)] = array
    bound = {}
    all_same = set(by_layer) == {leaf.name for leaf in leaves_of(children)}
    for leaf in leaves_of(children):
        here = by_layer.get(leaf.name, {})
        if (all_same or not leaf.is_auto_named) and set(here) == {slot.variable for slot in leaf.slots}:
            arrays = [here[slot.variable] for slot in leaf.slots]
            if _fits_by_shape(leaf, arrays):
                bound[leaf.name] = arrays
    return bound


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
        slot.shape == array.values.shape and slot.variable == _name_today(array)
        for slot, array in zip(leaf.slots, arrays, strict=True)
    )


def _fits_by_name(leaf: Leaf, arrays: Sequence[StoredArray]) -> bool:
    """Whether the arrays are named after the layer, as it is or with the number that makes a copy's name unique."""
    shared = set.intersection(*(set(array.layer_path.split("/")) for array in arrays))
    names = shared | {re.sub(r"_\d+$", "", name) for name in shared}
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


def _find_orders(
    children: Sequence[Leaf | Branch], stored: Sequence[StoredArray], fits: Callable
) -> set[tuple[int, ...]]:
    """Up to two ways to deal the arrays out: for each slot, the place of its array in `stored`."""
    if sum(len(child.slots) for child in children) != len(stored):
        return set()
    found: set[tuple[int, ...]] = set()
    for items in _variants(children):
        for split in range(len(stored) + 1):
            found |= set(_deal(items, stored, split, fits))
            if len(found) > 1:
                return set(sorted(found)[:2])
    return found


def _variants(children: Sequence[Leaf | Branch]) -> Iterator[list[Leaf | Branch]]:
    """The layers with every choice of nested models that may have been frozen as a whole, which stay in one piece."""
    branches = [child for child in children if isinstance(child, Branch)]
    if len(branches) > MOST_BRANCHES:
        raise InputError(f"the model holds more than {MOST_BRANCHES} models beside each other, which is not supported.")
    choices = ([[child], *_variants(child.children)] if isinstance(child, Branch) else [[child]] for child in children)
    for choice in itertools.product(*choices):
        yield list(itertools.chain.from_iterable(choice))


def _deal(
    items: Sequence[Leaf | Branch], stored: Sequence[StoredArray], split: int, fits: Callable
) -> list[tuple[int, ...]]:
    """Up to two ways in which `stored` is the trainable arrays (before `split`) and then the others of `items`."""
    # Of every state - how many of the first part are taken, which says how many of the second - two chains suffice.
    states: dict[int, list[Chain | None]] = {0: [None]}
    taken = 0
    for item in items:
        following: dict[int, list] = {}
        for first, chains in states.items():
            for n_first, places in _options(item, first, split + taken - first, split, stored, fits):
                kept = following.setdefault(first + n_first, [])
                kept += [(chain, places) for chain in chains][: 2 - len(kept)]
        states, taken = following, taken + len(item.slots)
        if not states:
            return []
    return [_unroll(chain) for chain in states.get(split, [])]


def _options(
    item: Leaf | Branch, first: int, second: int, split: int, stored: Sequence[StoredArray], fits: Callable
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Ways in which an item takes arrays: how many of the first part, and the place of each slot's."""
    n, t = len(item.slots), len(getattr(item, "trainable", ()))
    block = range(second, second + n)
    if isinstance(item, Branch):
        if block.stop <= len(stored):
            for order in _find_orders(item.children, [stored[i] for i in block], fits):
                yield 0, tuple(second + place for place in order)
        return
    mixed = (*range(first, first + t), *range(second, second + n - t))
    for n_first, places in {t: mixed, 0: tuple(block)}.items():
        inside = all(place < split for place in places[:n_first]) and max(places) < len(stored)
        if inside and fits(item, [stored[place] for place in places]):
            yield n_first, places


def _unroll(chain: Chain | None) -> tuple[int, ...]:
    parts = []
    while chain is not None:
        chain, places = chain
        parts.append(places)
    return tuple(itertools.chain.from_iterable(reversed(parts)))
