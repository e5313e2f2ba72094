"""Names of the layers of ResNet50: those of keras-applications until 2019, and those of `keras.applications` today."""

import re
from collections.abc import Mapping
from typing import Any

_BRANCHES = {"1": 0, "2a": 1, "2b": 2, "2c": 3}
_OTHERS = {
    "conv1": "conv1_conv",
    "bn_conv1": "conv1_bn",
    "fc1000": "predictions",
}
# Layers that Keras named by counting, by class and what goes into them: (class, end of that name) -> (end, new end).
_FOLLOWERS = {
    ("Activation", "_bn"): "_relu",
    ("Add", "_3_bn"): "_add",
    ("Activation", "_add"): "_out",
    ("MaxPooling2D", "pool1_pad"): "pool1_pool",
    ("GlobalAveragePooling2D", "_out"): "avg_pool",
}
_WHOLE = ("pool1_pool", "avg_pool")

# Epsilon of BatchNormalization in the old ResNet50; that of today is 1.001e-5.
OLD_EPSILON = 1e-3


def modern_name(old: str) -> str | None:
    """Today's name of a layer with weights of the old ResNet50; None if it is no layer of that.

    >>> [modern_name(old) for old in ("res2a_branch2a", "bn5c_branch2c", "res3a_branch1", "bn_conv1", "dense_1")]
    ['conv2_block1_1_conv', 'conv5_block3_3_bn', 'conv3_block1_0_conv', 'conv1_bn', None]
    """
    found = re.fullmatch(r"(res|bn)([2-5])([a-f])_branch(1|2[abc])", old)
    if not found:
        return _OTHERS.get(old)
    kind, stage, block, branch = found.groups()
    return f"conv{stage}_block{ord(block) - ord('a') + 1}_{_BRANCHES[branch]}_{'conv' if kind == 'res' else 'bn'}"


def is_old_resnet(names: set[str]) -> bool:
    """Whether layers of these names are those of the old ResNet50.

    >>> is_old_resnet({"conv1", "res2a_branch2a"}), is_old_resnet({"conv1"})
    (True, False)
    """
    return "res2a_branch2a" in names


def modernise_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's configuration with the layers of an old ResNet50 in it renamed; all else stays, epsilon too.

    Args:
        config: `class_name` and `config` of a Functional or Sequential model, in today's form or that of Keras 2.

    Returns:
        A new configuration.
    """
    layers = config["config"]["layers"] if isinstance(config["config"], dict) else config["config"]
    names: dict[str, str] = {}
    if is_old_resnet({layer["config"].get("name") for layer in layers if isinstance(layer["config"], dict)}):
        for layer in layers:
            old = layer["config"]["name"]
            names[old] = modern_name(old) or _name_follower(layer, names) or old
    renamed = [_rename_layer(layer, names) for layer in layers]
    if isinstance(config["config"], list):
        return {**config, "config": renamed}
    ends = {
        key: _rename(config["config"][key], names)
        for key in ("input_layers", "output_layers")
        if key in config["config"]
    }
    return {**config, "config": {**config["config"], "layers": renamed, **ends}}


def _name_follower(layer: Mapping[str, Any], names: Mapping[str, str]) -> str | None:
    """Name of a layer without weights, after what goes into it."""
    nodes = layer.get("inbound_nodes") or [[["", 0, 0]]]
    sources = [names.get(source[0], source[0]) for source in nodes[0]]
    for (class_name, end), new in _FOLLOWERS.items():
        source = next((name for name in sources if name.endswith(end)), None)
        if layer["class_name"] == class_name and source:
            return new if new in _WHOLE else source.removesuffix(end) + new
    return None


def _rename_layer(layer: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    is_model = isinstance(layer["config"], list) or "layers" in layer["config"]
    layer = modernise_names(layer) if is_model else {**layer, "config": dict(layer["config"])}
    if not is_model and layer["config"].get("name") in names:
        layer["config"]["name"] = names[layer["config"]["name"]]
    for key in ("name", "inbound_nodes"):
        if key in layer:
            layer[key] = _rename(layer[key], names)
    return layer


def _rename(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_rename(part, names) for part in value]
    return names.get(value, value) if isinstance(value, str) else value
