"""Configurations of models that Keras 2 wrote, in the form that today's Keras builds them from.

Plain dictionaries in, plain dictionaries out. Code in a configuration (the bytecode of a Lambda layer) is never
looked at; a model that needs it is refused.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from resnet_zclass.errors import InputError

NETWORKS = {"Model": "Functional", "Functional": "Functional", "Sequential": "Sequential"}
# Settings of Keras 2 that say how a layer is computed, not what.
FORGOTTEN = {"batch_input_shape", "input_shape", "input_dtype", "ragged", "implementation", "fused", "time_major"}
# Settings that have another name today, and values that change nothing where today's layer lacks the setting.
RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}
WITHOUT_EFFECT = {"groups": 1, "trainable": True}
# Its slope is 0.2 in Keras 2 and 1/6 today.
CHANGED_ACTIVATION = "hard_sigmoid"
# TensorFlow before 1.14 took the corners of pixels for their centres; only these say that they come after it.
LATER_VERSIONS = ("2.3.0-tf", *(f"2.{minor}." for minor in range(4, 16)), "3.")

Config = dict[str, Any]


def find_template(config: Config) -> tuple[Config, int]:
    """The single-device model inside a configuration that `multi_gpu_model` made, and its number of GPUs.

    `multi_gpu_model` cuts every input into slices with Lambda layers, calls the model once per slice, and joins each
    output with `Concatenate(axis=0)`.

    Returns:
        `(configuration, GPUs)`; the configuration itself and 1 if it is of a single device already.

    Raises:
        InputError: If there are slices, but not just one model that is called once on each.
    """
    try:
        return _find_template(config)
    except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"its configuration is not that of a model of layers ({error!r}).") from error


def _find_template(config: Config) -> tuple[Config, int]:
    layers = layers_of(config)
    slices = [layer for layer in layers if layer.get("class_name") == "Lambda" and _parts_of(layer)]
    if not slices:
        return config, 1
    gpus = {_parts_of(layer) for layer in slices}
    templates = [layer for layer in layers if layer["class_name"] in NETWORKS]
    inputs = [layer for layer in layers if layer["class_name"] == "InputLayer"]
    joins = [layer for layer in layers if layer["class_name"] == "Concatenate" and layer["config"].get("axis") == 0]
    calls = {len(layer.get("inbound_nodes", ())) for layer in templates}
    if (
        len(templates) != 1
        or calls != gpus
        or len(slices) != len(inputs) * min(gpus)
        or len(layers) != len(inputs) + len(slices) + len(joins) + 1
    ):
        extra = sorted({layer["class_name"] for layer in layers} - {"InputLayer", "Lambda", "Concatenate"})
        raise InputError(
            f"its model slices the batch, but is not one model called once per slice ({len(templates)} models, "
            f"{len(slices)} slices, {len(joins)} joins; layers beside them: {', '.join(extra)})."
        )
    return templates[0], gpus.pop()


def _parts_of(layer: Config) -> int | None:
    arguments = layer["config"].get("arguments")
    return arguments.get("parts") if isinstance(arguments, dict) and "i" in arguments else None


def layers_of(model: Config) -> list[Config]:
    """The layers of a model; those of Sequential were a bare list before Keras 2.2.3."""
    try:
        content = model["config"]
        layers = content if isinstance(content, list) else content["layers"]
        if not all(
            isinstance(layer["class_name"], str) and isinstance(layer["config"], dict | list) for layer in layers
        ):
            raise TypeError
    except (KeyError, TypeError) as error:
        raise InputError("its configuration is not that of a model of layers.") from error
    return layers


def rename_layers(model: Config, find_names: Callable[[Sequence[Config]], Mapping[str, str]]) -> Config:
    """A configuration with other names for some layers, in nested models too; what refers to them follows.

    Args:
        model: `class_name` and `config` of a Functional or Sequential model.
        find_names: For the layers of one model, the new names of those that get one.
    """
    layers = layers_of(model)
    names = find_names(layers)

    def rename(value: Any) -> Any:
        if isinstance(value, list):
            return [rename(part) for part in value]
        return names.get(value, value) if isinstance(value, str) else value

    def rename_layer(layer: Config) -> Config:
        if layer["class_name"] in NETWORKS:
            layer = rename_layers(layer, find_names)
        settings = layer["config"]
        if isinstance(settings, dict) and "name" in settings:
            settings = settings | {"name": rename(settings["name"])}
        return (
            layer
            | {"config": settings}
            | {key: rename(layer[key]) for key in ("name", "inbound_nodes") if key in layer}
        )

    renamed = [rename_layer(layer) for layer in layers]
    if isinstance(model["config"], list):
        return model | {"config": renamed}
    ends = {key: rename(model["config"][key]) for key in ("input_layers", "output_layers") if key in model["config"]}
    return model | {"config": model["config"] | {"layers": renamed} | ends}


def without_slashes(layers: Sequence[Config]) -> dict[str, str]:
    """Names that today's Keras allows for the layers whose old ones it does not: `conv1/bn` is `conv1_bn`."""
    names = [layer["config"].get("name") for layer in layers if isinstance(layer["config"], dict)]
    return {name: name.replace("/", "_") for name in names if isinstance(name, str) and "/" in name}


def check_meaning(model: Config, keras_version: str) -> None:
    """Raises `InputError` for a layer whose result depends on a version of TensorFlow that the file does not tell."""
    for layer in layers_of(model):
        settings = layer["config"]
        if layer["class_name"] in NETWORKS:
            check_meaning(layer, keras_version)
            continue
        silent = (
            layer["class_name"] == "UpSampling2D" and keras_version == "2.2.4-tf" and "interpolation" not in settings
        )
        changed = settings.get("interpolation") == "bilinear" and not keras_version.startswith(LATER_VERSIONS)
        if silent or changed:
            raise InputError(
                f"layer {settings.get('name')} may interpolate bilinearly, which TensorFlow did otherwise before 1.14; "
                "the file does not say which it was."
            )


def modernise(model: Config, settings_of: Callable[[str], Mapping[str, Any] | None]) -> Config:
    """A configuration of Keras 2 in today's form.

    Args:
        model: `class_name` and `config` of a Functional or Sequential model, which may hold others.
        settings_of: For the name of a layer class, the settings it takes today (a mapping whose keys are their
            names); None if there is no such layer.

    Returns:
        A configuration for `keras.Model.from_config` or `keras.Sequential.from_config` under `config`.

    Raises:
        InputError: If a layer does not exist today, holds code, or has a setting that today's does not know.
    """
    name = model["class_name"]
    if name not in NETWORKS:
        raise InputError(f"its model is of the class {name}; only Functional and Sequential ones can be rebuilt.")
    layers = [_modernise_layer(layer, settings_of) for layer in layers_of(model)]
    if NETWORKS[name] == "Sequential":
        content = model["config"] if isinstance(model["config"], dict) else {}
        return {"class_name": "Sequential", "config": _sequential(content.get("name", "sequential"), layers, model)}
    content = {key: model["config"][key] for key in ("name", "trainable") if key in model["config"]}
    try:
        ends = {key: model["config"][key] for key in ("input_layers", "output_layers")}
        return {"class_name": "Functional", "config": _count_calls_from_zero(content | {"layers": layers} | ends)}
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(f"its configuration does not say how the layers are connected ({error!r}).") from error


def _modernise_layer(layer: Config, settings_of: Callable[[str], Mapping[str, Any] | None]) -> Config:
    name = layer["class_name"]
    wiring = {key: layer[key] for key in ("name", "inbound_nodes") if key in layer}
    if name in NETWORKS:
        return modernise(layer, settings_of) | wiring
    config = dict(layer["config"])
    label = f"layer {config.get('name', layer.get('name'))}"
    if not isinstance(config.get("name"), str):
        raise InputError(f"a layer of the class {name} has no name.")
    if name == "Lambda":
        raise InputError(
            f"{label} is a Lambda: it holds code of an old Python, which is not run. Build the model anew."
        )
    if settings_of(name) is None:
        name = re.sub(r"V[12]$", "", name)
    known = settings_of(name)
    if known is None:
        raise InputError(f"{label} is of the class {name}, which today's Keras does not have.")
    if CHANGED_ACTIVATION in (config.get("activation"), config.get("recurrent_activation")):
        raise InputError(f"{label} uses {CHANGED_ACTIVATION}, which gives other numbers in today's Keras.")
    if name == "InputLayer" and "batch_input_shape" in config:
        config["batch_shape"] = config["batch_input_shape"]
    config = {
        RENAMED.get((name, key), key): _modernise_setting(key, value, settings_of)
        for key, value in config.items()
        if key not in FORGOTTEN and not _is_of_training(key, value)
    }
    off = (None, False)
    unknown = [k for k, v in config.items() if k not in known and v not in off and WITHOUT_EFFECT.get(k) != v]
    if unknown:
        raise InputError(f"{label}: today's {name} has no setting {unknown[0]}.")
    config = {key: value for key, value in config.items() if key in known}
    return {"class_name": name, "config": config} | wiring


def _modernise_setting(key: str, value: Any, settings_of: Callable[[str], Mapping[str, Any] | None]) -> Any:
    if key in ("layer", "backward_layer", "cell") and isinstance(value, dict) and "class_name" in value:
        return _modernise_inner(value, settings_of)  # what a wrapper wraps
    if key == "cells" and isinstance(value, list):
        return [_modernise_inner(cell, settings_of) for cell in value]
    if key == "dtype" and isinstance(value, dict):  # a policy: of mixed precision, if it is one
        value = value.get("config", {}).get("name")
    if key == "dtype" and str(value).startswith("mixed_"):
        return "float32"
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


def _modernise_inner(layer: Config, settings_of: Callable[[str], Mapping[str, Any] | None]) -> Config:
    """A layer or model inside a layer, as today's Keras serializes it."""
    modern = _modernise_layer(layer, settings_of)
    module = {"Functional": "keras.src.models.functional", "Sequential": "keras"}.get(
        modern["class_name"], "keras.layers"
    )
    return {"module": module, "class_name": modern["class_name"], "config": modern["config"], "registered_name": None}


def _is_of_training(key: str, value: Any) -> bool:
    """Whether a setting matters in training alone. Values come from the file, so initializers do not matter either."""
    return key.endswith(("_initializer", "_regularizer", "_constraint")) and isinstance(value, dict | None)


def _sequential(name: str, layers: list[Config], model: Config) -> Config:
    """Sequential of Keras 2 has its input's shape on the first layer; today's has an InputLayer."""
    layers = [{key: layer[key] for key in ("class_name", "config")} for layer in layers]
    if layers and layers[0]["class_name"] != "InputLayer":
        shape = _input_shape_of(layers_of(model)[0])
        layers.insert(0, {"class_name": "InputLayer", "config": {"batch_shape": shape, "name": f"{name}_input"}})
    return {"name": name, "layers": layers}


def _input_shape_of(layer: Config) -> list[int | None]:
    """Shape of what goes into the first layer of a Sequential model: its own, or that of its first layer."""
    while layer["class_name"] in NETWORKS and layers_of(layer):
        if isinstance(layer["config"], dict) and "batch_input_shape" in layer["config"]:
            break
        layer = layers_of(layer)[0]
    config = layer["config"] if isinstance(layer["config"], dict) else {}
    shape = config.get("batch_input_shape", config.get("batch_shape"))
    if not isinstance(shape, list):
        raise InputError("its Sequential model does not say which shape its input has; give --architecture.")
    return shape


def _count_calls_from_zero(content: Config) -> Config:
    """Numbers the calls of nested models from 0: Keras 2 counts the call that made them, so its first is 1."""
    networks = {layer["name"] for layer in content["layers"] if layer["class_name"] in ("Functional", "Sequential")}
    nodes = [node for layer in content["layers"] for node in layer["inbound_nodes"]]
    ends = [content["input_layers"], content["output_layers"]]
    lowest: dict[str, int] = {}
    for name, call, *_ in _references(nodes + ends):
        lowest[name] = min(call, lowest.get(name, call))

    def shift(value: Any) -> Any:
        if _is_reference(value):
            name, call, *rest = value
            # A copy's calls name arguments that were not given, such as the mask, which today's layers may not take.
            rest = [
                {k: v for k, v in part.items() if v is not None} if isinstance(part, dict) else part for part in rest
            ]
            return [name, call - lowest[name] if name in networks else call, *rest]
        return [shift(part) for part in value] if isinstance(value, list) else value

    layers = [layer | {"inbound_nodes": shift(layer["inbound_nodes"])} for layer in content["layers"]]
    single = [shift(end)[0] if len(end) == 1 else shift(end) for end in ends]  # else a list of one tensor is returned
    return content | {"layers": layers, "input_layers": single[0], "output_layers": single[1]}


def _is_reference(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int)


def _references(value: Any) -> Sequence[list]:
    if _is_reference(value):
        return [value]
    return [found for part in value for found in _references(part)] if isinstance(value, list) else []
