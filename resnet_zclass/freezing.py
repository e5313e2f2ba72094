"""Which layers of a classifier are trained: policies over the layers of its backbone. The head always is."""

import re
from collections.abc import Callable, Sequence

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError

Layers = Sequence["keras.Layer"]


def _find_stem(layers: Layers) -> set[str]:
    """The first convolution, and the batch norm if one follows it at once."""
    for layer, following in zip(layers, [*layers[1:], None], strict=True):
        if _begins_with_convolution(layer):
            names = {layer.name}
            return names | {following.name} if isinstance(following, keras.layers.BatchNormalization) else names
    return set()


def _begins_with_convolution(layer: keras.Layer) -> bool:
    inner = getattr(layer, "layers", [layer])
    return any(isinstance(part, keras.layers.Conv2D) for part in inner)


def _find_last_stage(layers: Layers) -> set[str]:
    """What follows the last layer of the stage before the last, transitions and final norms included."""
    stages = [_name_stage(layer.name) for layer in layers]
    in_order = list(dict.fromkeys(stage for stage in stages if stage))
    if len(in_order) < 2:
        raise InputError("--freeze last_stage: this backbone has no numbered stages; give the name of a layer.")
    last_before = max(i for i, stage in enumerate(stages) if stage == in_order[-2])
    return {layer.name for layer in layers[last_before + 1 :]}


def _name_stage(layer_name: str) -> str | None:
    """`conv5` of `conv5_block1_out`, `block7` of `block7a_bn`; None of `conv2d_17`, a name that Keras counted.

    >>> [_name_stage(name) for name in ("conv5_block1_out", "block17_20_ac", "block7a_bn", "conv2d_17", "avg_pool")]
    ['conv5', 'block17', 'block7', None, None]
    """
    match = re.match(r"(conv\d+|stage\d+|block\d+(?=[a-z]?_))[a-z]?_", layer_name)
    return match[1] if match and not layer_name.startswith("conv2d_") else None


# Which backbone layers are trained, by the backbone's layers in order.
FREEZE_POLICIES: dict[str, Callable[[Layers], set[str]]] = {
    "none": lambda layers: {layer.name for layer in layers},
    "head_only": lambda layers: set(),
    "stem_head": _find_stem,
    "last_stage": _find_last_stage,
}


def apply_freeze(model: keras.Model, policy: str | int) -> None:
    """Sets which layers of a classifier are trained; compile afterwards.

    Args:
        model: What `build_classifier` returns.
        policy: A name in `FREEZE_POLICIES`; or the backbone layer from which on all are trained, by its name or
            its number from 0, so that the first `policy` layers stay as they are.

    Raises:
        InputError: If it is none of these.

    >>> backbone = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="a")], name="backbone")
    >>> model = keras.Sequential([backbone, keras.layers.Dense(2, name="head")])
    >>> apply_freeze(model, "head_only"); [weight.path.split("/", 1)[1] for weight in model.trainable_weights]
    ['head/kernel', 'head/bias']
    """
    backbone = model.get_layer("backbone")
    trained = choose_trained(backbone.layers, str(policy))
    backbone.trainable = True
    for layer in backbone.layers:
        layer.trainable = layer.name in trained


def choose_trained(layers: Layers, policy: str) -> set[str]:
    """Names of the layers of a backbone that are trained under a policy.

    Args:
        layers: The backbone's layers, in order.
        policy: As of `apply_freeze`.

    Raises:
        InputError: If it is unknown, or this backbone has no such layers.

    >>> layers = [keras.layers.Dense(3, name="a"), keras.layers.Dense(3, name="b")]
    >>> choose_trained(layers, "b"), choose_trained(layers, "1"), choose_trained(layers, "head_only")
    ({'b'}, {'b'}, set())
    """
    names = [layer.name for layer in layers]
    if policy in FREEZE_POLICIES:
        trained = FREEZE_POLICIES[policy](layers)
    elif policy in names:
        trained = set(names[names.index(policy) :])
    elif policy.isdecimal():
        if int(policy) >= len(names):
            raise InputError(f"--freeze {policy}: this backbone has only {len(names)} layers, numbered from 0.")
        trained = set(names[int(policy) :])
    else:
        raise InputError(
            f"--freeze must be {', '.join(FREEZE_POLICIES)}, the name of a layer or its number. Received: {policy}."
        )
    if not trained and policy != "head_only":
        raise InputError(f"--freeze {policy}: this backbone has no such layers; give the name of the first to train.")
    return trained
