"""Builds a single-device model and fills it with stored arrays, every one exactly once."""

import copy
import functools
import hashlib
import inspect
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from resnet_zclass.array_matching import Branch, Leaf, Slot, list_both_sides, order_arrays
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray
from resnet_zclass.old_configs import Config, modernise, rename_layers, without_slashes


@functools.cache
def settings_of(class_name: str) -> Mapping[str, Any] | None:
    """Settings that a layer class of today's Keras takes; None if there is none of that name.

    >>> "filters" in settings_of("Conv2D"), settings_of("CuDNNLSTM")
    (True, None)
    """
    layer = getattr(keras.layers, class_name, None)
    if not (inspect.isclass(layer) and issubclass(layer, keras.layers.Layer)):
        return None
    settings: dict[str, Any] = {}
    for base in layer.__mro__:
        if "__init__" in vars(base):
            own = inspect.signature(base.__init__).parameters
            settings = {**own, **settings}
            if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own.values()):
                break  # it hands nothing on to the classes above
    return settings


def build_model(config: Config) -> tuple[keras.Model, Config]:
    """Builds the model of a configuration that Keras 2 wrote, without its code or optimizer.

    Returns:
        The model, and its configuration in today's form. Keras sorts the layers of a Functional model anew when it
        builds it; those of the configuration are in the order of the file.

    Raises:
        InputError: If today's Keras cannot build it.
    """
    try:
        modern = modernise(rename_layers(config, without_slashes), settings_of)
        build = keras.Sequential if modern["class_name"] == "Sequential" else keras.Model
        return build.from_config(copy.deepcopy(modern["config"])), modern["config"]  # Keras empties what it reads
    except InputError:
        raise
    except Exception as error:
        message = str(error).strip().partition("\n")[0]
        raise InputError(f"today's Keras cannot build its model: {message}") from error


def children_of(model: keras.Model, config: Config | None = None) -> Iterator[tuple[keras.layers.Layer, Config]]:
    """The layers of a model but its inputs, in the order of its configuration, each with its own configuration.

    Bare operations (`keras.ops`), which have no variables, are left out.
    """
    layers = {layer.name: layer for layer in model.layers}
    for layer in (config or model.get_config())["layers"]:
        name = layer["config"]["name"]
        if layer["class_name"] != "InputLayer" and name in layers:
            yield layers[name], layer["config"]


def tree_of(model: keras.Model, config: Config | None = None) -> tuple[Leaf | Branch, ...]:
    """The layers with weights and the nested models, as `array_matching` wants them, in the order of `config`."""
    return tuple(_nodes_of(model, config))


def _nodes_of(model: keras.Model, config: Config | None) -> Iterator[Leaf | Branch]:
    for layer, own in children_of(model, config):
        if isinstance(layer, keras.Model):
            yield Branch(layer.name, tree_of(layer, own))
        elif layer.weights:
            trainable, fixed = split_variables(layer)
            auto = re.fullmatch(rf"{_snake(type(layer).__name__)}(_v[12])?(_\d+)?", layer.name) is not None
            yield Leaf(layer.name, _slots(trainable), _slots(fixed), not layer.trainable, auto)


def _slots(variables: Sequence[keras.Variable]) -> tuple[Slot, ...]:
    return tuple(Slot(variable.name, tuple(variable.shape)) for variable in variables)


def _snake(name: str) -> str:
    """A class's name as Keras writes it in the names it chooses: `Conv2D` is `conv2d`."""
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def split_variables(layer: keras.layers.Layer) -> tuple[list[keras.Variable], list[keras.Variable]]:
    """The variables of a layer that training changes, whether or not it is frozen, and the others."""
    flag = layer.trainable
    layer.trainable = True
    try:
        return list(layer.trainable_weights), list(layer.non_trainable_weights)
    finally:
        layer.trainable = flag


def variables_of(model: keras.Model, config: Config | None = None) -> list[keras.Variable]:
    """The variables of a model in the order of the slots of `leaves_of(tree_of(model, config))`."""
    variables = []
    for layer, own in children_of(model, config):
        if isinstance(layer, keras.Model):
            variables += variables_of(layer, own)
        elif layer.weights:
            variables += itertools.chain(*split_variables(layer))
    if len({id(variable) for variable in variables}) < len(variables):
        raise InputError("its model uses a layer both on its own and inside a nested model, which is not supported.")
    return variables


def match_groups(
    tree: Sequence[Leaf | Branch], groups: Mapping[str, Sequence[StoredArray]], is_own: bool = True
) -> list[StoredArray]:
    """Finds the array of every variable of a model.

    Args:
        tree: Model whose weights a file holds.
        groups: Arrays of the file by top-level layer, in its order, those without any left out: of a model that
            was saved itself one group per layer, of one that was saved inside another a single group.
        is_own: Whether the model was built from the file's own configuration; see `order_arrays`.

    Returns:
        The arrays in the order of the slots of `leaves_of(tree)`.

    Raises:
        InputError: If they do not fit, or fit in several ways.
    """
    groups = {name.replace("/", "_"): arrays for name, arrays in groups.items()}  # as layers are named today
    if len(groups) == 1:
        return order_arrays(tree, next(iter(groups.values())), is_own)
    names = [node.name for node in tree]
    partners = dict(zip(names, names, strict=True))
    if set(names) != set(groups):  # names that Keras counts differ from session to session; their order does not
        counted = [node.name for node in tree if isinstance(node, Branch) or node.is_auto_named]
        others = [name for name in groups if name not in set(names) - set(counted)]
        if is_own or len(counted) != len(others) or not set(names) - set(counted) <= set(groups):
            raise InputError(list_both_sides(tree, [array for arrays in groups.values() for array in arrays]))
        partners |= zip(counted, others, strict=True)
    return [array for node in tree for array in order_arrays((node,), groups[partners[node.name]], is_own)]


def fill_model(variables: Sequence[keras.Variable], arrays: Sequence[StoredArray]) -> None:
    """Gives every variable its array.

    Raises:
        InputError: If a variable cannot hold the values as they are stored.
    """
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array.values)
        if not np.array_equal(variable.numpy(), array.values, equal_nan=True):
            raise InputError(
                f"{array.name} is stored as {array.values.dtype} and would lose digits as {variable.dtype}."
            )


def group_arrays(model: keras.Model, config: Config | None = None) -> dict[str, list[StoredArray]]:
    """The weights of a model as Keras 2 groups, orders and names them.

    For each top-level layer those that training changes, then the others; those of frozen layers are among the others.
    """
    layers = [] if isinstance(model, keras.Sequential) else (config or model.get_config())["layers"]
    groups = {layer["config"]["name"]: [] for layer in layers}  # Keras 2 lists the inputs of Functional models too
    return groups | {layer.name: _own_order(layer, own) for layer, own in children_of(model, config)}


def _own_order(layer: keras.layers.Layer, config: Config) -> list[StoredArray]:
    first, late = _split_by_flags(layer, config)
    arrays = [StoredArray(f"{owner}/{variable.name}:0", variable.numpy()) for owner, variable in first + late]
    names = [array.name for array in arrays]
    if len(set(names)) < len(names):  # two of one name inside a wrapper or nested model
        return [StoredArray(f"{v.path}:0", v.numpy()) for _, v in first + late]
    return arrays


def _split_by_flags(layer: keras.layers.Layer, config: Config) -> tuple[list, list]:
    if isinstance(layer, keras.Model):
        parts = [_split_by_flags(*child) for child in children_of(layer, config)]
        return [v for first, _ in parts for v in first], [v for _, late in parts for v in late]
    trainable, fixed = ([(layer.name, v) for v in part] for part in split_variables(layer))
    return (trainable, fixed) if layer.trainable else ([], trainable + fixed)


def digest_weights(*arrays: np.ndarray) -> str:
    """sha256 of arrays, with their types and shapes, in their order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
