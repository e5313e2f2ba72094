"""Takes from a model of today's Keras what only training needs: mixed precision and augmentation layers.

The optimizer goes when a model is loaded without being compiled.
"""

import copy
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from resnet_zclass.backbones import flat_layers
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.old_configs import Config
from resnet_zclass.rebuild import variables_of


def strip_model(model: keras.Model) -> tuple[keras.Model, Config, list[str]]:
    """The model in float32 and without augmentation layers, with the same weights.

    Args:
        model: A Functional or Sequential model.

    Returns:
        `(model, its configuration, what was taken away)`; the model itself if there was nothing.

    Raises:
        InputError: If there is something to take away, but the model is of a class of its own.

    >>> model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.RandomFlip(), keras.layers.Flatten()])
    >>> plain, _, taken = strip_model(model)
    >>> [layer.name.split("_")[0] for layer in plain.layers], len(taken)
    (['flatten'], 1)
    """
    removed = [layer for layer in flat_layers(model) if is_augmentation(layer)]
    mixed = {layer.dtype_policy.name for layer in flat_layers(model)} & {"mixed_float16", "mixed_bfloat16"}
    notes = [f"the augmentation layer {layer.name} ({type(layer).__name__})" for layer in removed]
    notes += [f"the precision policy {name}; all is float32" for name in sorted(mixed)]
    if not isinstance(model, keras.Sequential) and type(model).__name__ != "Functional":
        raise InputError(
            f"the model is of the class {type(model).__name__}; only Functional and Sequential can be rebuilt."
        )
    if not notes:
        return model, model.get_config(), []
    serialized = json.loads(model.to_json())
    stripped = _in_float32(_without({layer.name for layer in removed}, serialized))
    plain = keras.saving.deserialize_keras_object(copy.deepcopy(stripped))
    config = stripped["config"]
    for ours, theirs in zip(variables_of(plain, config), variables_of(model, config), strict=True):
        ours.assign(theirs)
    return plain, config, notes


def is_augmentation(layer: keras.layers.Layer) -> bool:
    """Whether a layer of Keras changes images at random in training and leaves them alone otherwise.

    >>> is_augmentation(keras.layers.RandomFlip()), is_augmentation(keras.layers.RandomCrop(2, 2))
    (True, False)
    """
    name = type(layer).__name__
    if not name.startswith(("Random", "RandAugment", "AugMix", "MixUp", "CutMix")):
        return False
    images = np.random.default_rng(0).uniform(0, 255, (2, 8, 8, 3)).astype(np.float32)
    probe = type(layer).from_config(layer.get_config() | {"dtype": "float32"})
    try:
        same_shape = tuple(probe.compute_output_shape(images.shape)) == images.shape
        return same_shape and np.array_equal(probe(images, training=False), images)
    except Exception:  # a layer that wants something else than images is none of these
        return False


def _without(names: set[str], serialized: Config) -> Config:
    """A serialized model, and the models in it, without the layers of these names."""
    serialized = copy.deepcopy(serialized)
    layers = serialized["config"]["layers"]
    replaced: dict[tuple, list] = {}
    for layer in layers:
        if layer["config"].get("name") in names:
            for call, node in enumerate(layer.get("inbound_nodes", ())):
                replaced[(layer["config"]["name"], call, 0)] = node["args"][0]["config"]["keras_history"]
    kept = [layer for layer in layers if layer["config"].get("name") not in names]
    kept = [_without(names, layer) if "layers" in layer["config"] else layer for layer in kept]
    serialized["config"]["layers"] = kept
    return _rewire(serialized, replaced) if replaced else serialized


def _rewire(value: Any, replaced: dict[tuple, list]) -> Any:
    """Makes what took the output of a removed layer take what went into it."""
    if isinstance(value, dict):
        return {key: _rewire(part, replaced) for key, part in value.items()}
    if not isinstance(value, list):
        return value
    while _as_key(value) in replaced:
        value = replaced[_as_key(value)]
    return [_rewire(part, replaced) for part in value]


def _as_key(value: Sequence) -> tuple:
    is_history = len(value) == 3 and isinstance(value[0], str) and isinstance(value[1], int)
    return tuple(value) if is_history and isinstance(value[2], int) else ()


def _in_float32(value: Any) -> Any:
    if isinstance(value, dict):
        if value.get("class_name") == "DTypePolicy" and str(value["config"].get("name")).startswith("mixed_"):
            return {**value, "config": {"name": "float32"}}
        if value.get("class_name") == "__keras_tensor__" and value["config"].get("dtype") in ("float16", "bfloat16"):
            return {**value, "config": {**value["config"], "dtype": "float32"}}
        return {key: _in_float32(part) for key, part in value.items()}
    return [_in_float32(part) for part in value] if isinstance(value, list) else value
