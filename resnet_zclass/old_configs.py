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
# Its slope is 0.2 in Keras 2 and 1/6 today.
CHANGED_ACTIVATION = "hard_sigmoid"

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


def modernise(model: Config, defaults_of: Callable[[str], Mapping[str, Any] | None]) -> Config:
    """A configuration of Keras 2 in today's form.

    Args:
        model: `class_name` and `config` of a Functional or Sequential model, which may hold others.
        defaults_of: For the name of a layer class, the settings it takes today (a mapping whose keys are their
            names); None if there is no such layer.

    Returns:
        A configuration for `keras.Model.from_config` or `keras.Sequential.from_config` under `config`.

    Raises:
        InputError: If a layer does not exist today, holds code, or has a setting that today's does not know.
    """
    name = model["class_name"]
    if name not in NETWORKS:
        raise InputError(f"its model is of the class {name}; only Functional and Sequential ones can be rebuilt.")
    layers = [_modernise_layer(layer, defaults_of) for layer in layers_of(model)]
    if NETWORKS[name] == "Sequential":
        content = model["config"] if isinstance(model["config"], dict) else {}
        return {"class_name": "Sequential", "config": _sequential(content.get("name", "sequential"), layers, model)}
    content = {key: model["config"][key] for key in ("name", "trainable") if key in model["config"]}
    try:
        ends = {key: model["config"][key] for key in ("input_layers", "output_layers")}
        return {"class_name": "Functional", "config": _count_calls_from_zero(content | {"layers": layers} | ends)}
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
        raise InputError(f"its configuration does not say how the layers are connected ({error!r}).") from error


def _modernise_layer(layer: Config, defaults_of: Callable[[str], Mapping[str, Any] | None]) -> Config:
    name = layer["class_name"]
    wiring = {key: layer[key] for key in ("name", "inbound_nodes") if key in layer}
    if name in NETWORKS:
        return modernise(layer, defaults_of) | {"name": layer["config"].get("name")} | wiring
    config = dict(layer["config"])
    label = f"layer {config.get('name', layer.get('name'))}"
    if name == "Lambda":
        raise InputError(
            f"{label} is a Lambda: it holds code of an old Python, which is not run. Build the model anew."
        )
    if defaults_of(name) is None:
        name = re.sub(r"V[12]$", "", name)
    known = defaults_of(name)
    if known is None:
        raise InputError(f"{label} is of the class {name}, which today's Keras does not have.")
    if CHANGED_ACTIVATION in (config.get("activation"), config.get("recurrent_activation")):
        raise InputError(f"{label} uses {CHANGED_ACTIVATION}, which gives other numbers in today's Keras.")
    if name == "InputLayer" and "batch_input_shape" in config:
        config["batch_shape"] = config["batch_input_shape"]
    config = {key: _modernise_setting(key, value, defaults_of) for key, value in config.items() if key not in FORGOTTEN}
    unknown = [key for key, value in config.items() if key not in known and value not in (None, False)]
    if unknown:
        raise InputError(f"{label}: today's {name} has no setting {unknown[0]}.")
    config = {key: value for key, value in config.items() if key in known}
    return {"class_name": name, "config": config} | wiring


def _modernise_setting(key: str, value: Any, defaults_of: Callable[[str], Mapping[str, Any] | None]) -> Any:
    if isinstance(value, dict) and key.endswith("layer") and "class_name" in value:  # what a wrapper wraps
        return _modernise_layer(value, defaults_of)
    if key.endswith(("_initializer", "_regularizer", "_constraint")):
        return None if isinstance(value, dict) else value  # of training alone; values come from the file
    if key == "dtype" and isinstance(value, dict):  # a policy: of mixed precision, if it is one
        value = value.get("config", {}).get("name")
    if key == "dtype" and str(value).startswith("mixed_"):
        return "float32"
    if key == "axis" and isinstance(value, list) and len(value) == 1:
        return value[0]
    return value


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
        if _is_reference(value) and value[0] in networks:
            return [value[0], value[1] - lowest[value[0]], *value[2:]]
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
