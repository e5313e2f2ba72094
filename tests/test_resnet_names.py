"""The names of the old ResNet50 are mapped onto those of `keras.applications`, all of them and each once."""

import itertools

import pytest

from resnet_zclass.backend import keras
from resnet_zclass.resnet_names import modern_name, modernise_names

BLOCKS = {2: "abc", 3: "abcd", 4: "abcdef", 5: "abc"}
OLD = ["conv1", "bn_conv1"] + [
    f"{kind}{stage}{block}_branch{branch}"
    for kind, (stage, blocks) in itertools.product(("res", "bn"), BLOCKS.items())
    for block in blocks
    for branch in (["1"] if block == "a" else []) + ["2a", "2b", "2c"]
]


@pytest.fixture(scope="module")
def today():
    return keras.applications.ResNet50(weights=None, include_top=False, pooling="avg", input_shape=(32, 32, 3))


def test_every_layer_with_weights_has_just_one_partner(today):
    assert sorted(map(modern_name, OLD)) == sorted(layer.name for layer in today.layers if layer.weights)


def as_in_2018(model):
    """The configuration of today's ResNet50 under the names of keras-applications 1.0."""
    back = {modern_name(old): old for old in OLD}
    counts = {"Activation": itertools.count(1), "Add": itertools.count(1), "MaxPooling2D": itertools.count(1)}
    names = {}
    for layer in model.layers:
        kind = type(layer).__name__
        counted = f"{kind.lower()}_{next(counts[kind])}" if kind in counts else layer.name
        names[layer.name] = back.get(layer.name, counted)
    layers = [
        {
            "class_name": type(layer).__name__,
            "config": {"name": names[layer.name]},
            "inbound_nodes": [[[names[t._keras_history.operation.name], 0, 0, {}] for t in to_list(layer.input)]]
            if type(layer).__name__ != "InputLayer"
            else [],
        }
        for layer in model.layers
    ]
    ends = {"input_layers": [[names[model.layers[0].name], 0, 0]], "output_layers": [[names["avg_pool"], 0, 0]]}
    return {"class_name": "Model", "config": {"name": "resnet50", "layers": layers, **ends}}


def to_list(value):
    return value if isinstance(value, list) else [value]


def test_layers_without_weights_are_named_after_what_goes_into_them(today):
    old = as_in_2018(today)
    renamed = modernise_names(old)["config"]
    assert [layer["config"]["name"] for layer in renamed["layers"]] == [layer.name for layer in today.layers]
    sources = {layer["config"]["name"]: layer["inbound_nodes"] for layer in renamed["layers"]}
    assert [source[0] for source in sources["conv2_block1_add"][0]] == ["conv2_block1_0_bn", "conv2_block1_3_bn"]
    assert old["config"]["layers"][2]["config"]["name"] == "conv1"


def test_models_without_an_old_resnet_stay_as_they_are(today):
    layers = [{"class_name": "Dense", "config": {"name": "conv1"}, "inbound_nodes": []}]
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": layers}}
    assert modernise_names(config) == config
