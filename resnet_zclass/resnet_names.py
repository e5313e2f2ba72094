"""Names of the layers of ResNet50: those of keras-applications until 2019, and those of `keras.applications` today."""

import re
from collections.abc import Mapping, Sequence

from resnet_zclass.old_configs import Config, rename_layers

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


def modernise_names(config: Config) -> Config:
    """A model's configuration with the layers of an old ResNet50 in it renamed; all else stays, epsilon too.

    Args:
        config: `class_name` and `config` of a Functional or Sequential model, in today's form or that of Keras 2.

    Returns:
        A new configuration.
    """
    return rename_layers(config, _find_modern_names)


def _find_modern_names(layers: Sequence[Config]) -> dict[str, str]:
    """Today's name of every layer of an old ResNet50; none for other models."""
    names: dict[str, str] = {}
    if is_old_resnet({layer["config"].get("name") for layer in layers if isinstance(layer["config"], dict)}):
        for layer in layers:
            old = layer["config"]["name"]
            names[old] = modern_name(old) or _name_follower(layer, names) or old
    return names


def _name_follower(layer: Config, names: Mapping[str, str]) -> str | None:
    """Name of a layer without weights, after what goes into it."""
    nodes = layer.get("inbound_nodes") or [[["", 0, 0]]]
    sources = [names.get(source[0], source[0]) for source in nodes[0]]
    for (class_name, end), new in _FOLLOWERS.items():
        source = next((name for name in sources if name.endswith(end)), None)
        if layer["class_name"] == class_name and source:
            return new if new in _WHOLE else source.removesuffix(end) + new
    return None
