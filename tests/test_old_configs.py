"""Configurations of Keras 2 in today's form; what cannot be the same model is refused."""

import copy

import numpy as np
import pytest
from drawn_legacy import CONVOLUTIONAL, functional_config, input_shape, node, parallel_config, sequential_config

from resnet_zclass.errors import InputError
from resnet_zclass.old_configs import check_meaning, find_template, modernise, rename_layers
from resnet_zclass.rebuild import build_model, settings_of

TEMPLATE = functional_config(CONVOLUTIONAL)
SHAPE = input_shape(CONVOLUTIONAL)


@pytest.mark.parametrize("gpus", [2, 3, 8])
def test_the_template_and_the_number_of_gpus_are_found(gpus):
    template, found = find_template(parallel_config(TEMPLATE, SHAPE, gpus))
    assert found == gpus and template["config"] == TEMPLATE["config"]
    assert find_template(TEMPLATE) == (TEMPLATE, 1)


def change_parallel(change):
    config = parallel_config(copy.deepcopy(TEMPLATE), SHAPE)
    change(config["config"]["layers"])
    return config


@pytest.mark.parametrize(
    "change",
    [
        lambda layers: layers.append(node("Dense", {"name": "more", "units": 2}, [[["dense_2", 0, 0, {}]]])),
        lambda layers: layers.append(copy.deepcopy(layers[3])),
        lambda layers: layers.pop(3),
        lambda layers: layers.pop(1),
        lambda layers: layers[3]["inbound_nodes"].pop(),
        lambda layers: layers[1]["config"]["arguments"].update(parts=4),
    ],
    ids=["a layer after the join", "two models", "no model", "a slice too few", "a call too few", "parts differ"],
)
def test_what_multi_gpu_model_did_not_make_is_refused(change):
    with pytest.raises(InputError, match="not one model called once per slice"):
        find_template(change_parallel(change))


def nested(first_call):
    """A model with another as its first layer, whose call is numbered `first_call`."""
    layers = [node("InputLayer", {"name": "input_2", "batch_input_shape": SHAPE}, [])]
    layers.append(TEMPLATE | {"name": "model_1", "inbound_nodes": [[["input_2", 0, 0, {}]]]})
    layers.append(node("Dense", {"name": "top", "units": 2}, [[["model_1", first_call, 0, {}]]]))
    ends = {"input_layers": [["input_2", 0, 0]], "output_layers": [["top", 0, 0]]}
    return {"class_name": "Model", "config": {"name": "outer", "layers": layers, **ends}}


@pytest.mark.parametrize("first_call", [0, 1])
def test_calls_of_nested_models_are_counted_from_zero(first_call):
    model, _ = build_model(nested(first_call))
    assert [layer.name for layer in model.layers] == ["input_2", "model_1", "top"] and model.output_shape == (None, 2)


def test_arguments_that_a_copy_of_a_model_names_without_giving_them_are_left_out():
    config = copy.deepcopy(TEMPLATE)
    for layer in config["config"]["layers"][1:]:
        layer["inbound_nodes"][0][0][3] = {"mask": None}
    assert build_model(config)[0].output_shape == (None, 3)


@pytest.mark.parametrize("version", ["dictionary", "list"])
def test_sequential_gets_the_input_it_had(version):
    config = sequential_config(CONVOLUTIONAL)
    if version == "list":  # before Keras 2.2.3
        config["config"] = config["config"]["layers"]
    model, _ = build_model(config)
    assert model.input_shape == (None, 8, 8, 3) and model.output_shape == (None, 3)
    assert model.predict_on_batch(np.zeros((2, 8, 8, 3))).shape == (2, 3)


def test_a_model_as_first_layer_of_sequential_brings_its_input():
    dense = {"class_name": "Dense", "config": {"name": "top", "units": 2}}
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": [copy.deepcopy(TEMPLATE), dense]}}
    assert build_model(config)[0].output_shape == (None, 2)


def with_layer(class_name, **settings):
    config = copy.deepcopy(TEMPLATE)
    config["config"]["layers"][3] = node(class_name, {"name": "x", **settings}, [[["bn1", 0, 0, {}]]])
    config["config"]["layers"][4]["inbound_nodes"] = [[["x", 0, 0, {}]]]
    return config


def test_settings_that_today_are_written_otherwise():
    old = {"module": "", "scale": 1.0, "dtype": "float32"}
    config = with_layer(
        "BatchNormalizationV1",
        axis=[3],
        fused=None,
        renorm=False,
        gamma_initializer={"class_name": "Ones", "config": old},
        dtype={"class_name": "Policy", "config": {"name": "mixed_float16"}},
    )
    model, _ = build_model(config)
    layer = model.get_layer("x")
    assert layer.axis in (3, (3,), [3]) and layer.compute_dtype == "float32"


def test_settings_with_new_names_or_without_effect():
    model, _ = build_model(with_layer("LeakyReLU", alpha=0.07))
    assert model.get_layer("x").negative_slope == 0.07
    model, _ = build_model(with_layer("DepthwiseConv2D", kernel_size=[3, 3], groups=1, implementation=2))
    assert model.get_layer("x").kernel_size == (3, 3)
    model, _ = build_model(with_layer("SpatialDropout2D", rate=0.2, noise_shape=None, seed=None, trainable=True))
    assert model.get_layer("x").rate == 0.2


def test_names_with_slashes_become_names_that_are_allowed():
    config = copy.deepcopy(TEMPLATE)
    renamed = rename_layers(config, lambda layers: {"bn1": "stem/bn", "pool": "a/pool"})
    model, modern = build_model(renamed)
    assert [layer.name for layer in model.layers][2:5:2] == ["stem_bn", "a_pool"]
    assert modern["layers"][3]["inbound_nodes"] == [[["stem_bn", 0, 0, {}]]]
    assert config == TEMPLATE


def wrapped(class_name, layer, **settings):
    layers = [node("InputLayer", {"name": "input_1", "batch_input_shape": [None, 5, 8]}, [])]
    layers.append(node(class_name, {"name": "w", "layer": layer, **settings}, [[["input_1", 0, 0, {}]]]))
    ends = {"input_layers": [["input_1", 0, 0]], "output_layers": [["w", 0, 0]]}
    return {"class_name": "Model", "config": {"name": "m", "layers": layers, **ends}}


def test_layers_inside_layers_are_modernised_too():
    old = {"class_name": "GlorotUniform", "config": {"seed": None, "dtype": "float32"}}
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 3, "kernel_initializer": old}}
    assert build_model(wrapped("TimeDistributed", dense))[0].output_shape == (None, 5, 3)
    gru = {"name": "g", "units": 4, "recurrent_activation": "sigmoid", "implementation": 1, "reset_after": False}
    gru = {"class_name": "GRU", "config": gru | {"bias_initializer": old}}
    assert build_model(wrapped("Bidirectional", gru, merge_mode="concat"))[0].output_shape == (None, 8)
    with pytest.raises(InputError, match="is a Lambda"):
        build_model(wrapped("TimeDistributed", {"class_name": "Lambda", "config": {"name": "l", "function": "x"}}))


@pytest.mark.parametrize(
    ("settings", "version", "refused"),
    [
        ({"interpolation": "bilinear"}, "2.2.4", True),
        ({"interpolation": "bilinear"}, "2.2.4-tf", True),
        ({"interpolation": "bilinear"}, "2.3.0-tf", False),
        ({"interpolation": "bilinear"}, "2.4.0", False),
        ({"interpolation": "nearest"}, "2.2.4", False),
        ({}, "2.2.4-tf", True),
        ({}, "2.2.4", False),
    ],
)
def test_interpolation_that_tensorflow_changed_is_refused(settings, version, refused):
    config = with_layer("UpSampling2D", size=[2, 2], **settings)
    outer = {"class_name": "Sequential", "config": {"name": "s", "layers": [config]}}
    for model in (config, outer):
        if refused:
            with pytest.raises(InputError, match=r"before 1\.14"):
                check_meaning(model, version)
        else:
            check_meaning(model, version)


REFUSED = {
    "code": (("Lambda", {"function": ["x", None, None]}), "x is a Lambda"),
    "a class that is gone": (("CuDNNLSTM", {"units": 2}), "class CuDNNLSTM, which today's Keras does not have"),
    "a class of somebody's own": (("os.system", {}), "does not have"),
    "something else of keras.layers": (("deserialize", {}), "does not have"),
    "another hard_sigmoid": (("Activation", {"activation": "hard_sigmoid"}), "hard_sigmoid"),
    "a setting that counts": (("Activation", {"activation": "relu", "magic": 3}), "has no setting magic"),
    "an activation of somebody's own": (("Activation", {"activation": "mine"}), "cannot build"),
    "an activation with code": (
        ("Activation", {"activation": {"class_name": "Lambda", "config": {"function": ["x", None, None]}}}),
        "cannot build",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_layers_that_cannot_be_the_same_are_refused_by_name(case):
    (class_name, settings), words = REFUSED[case]
    with pytest.raises(InputError, match=words) as error:
        build_model(with_layer(class_name, **settings))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"class_name": "Mine", "config": {"layers": []}},
        {"class_name": "Model", "config": {}},
        {"class_name": "Model", "config": {"name": "m", "layers": [{}]}},
        {"class_name": "Model", "config": {"name": "m", "layers": [1]}},
        {"class_name": "Model", "config": {"name": "m", "layers": []}},
        {"class_name": "Model", "config": TEMPLATE["config"] | {"output_layers": [["gone", 0, 0]]}},
        {"class_name": "Model", "config": TEMPLATE["config"] | {"input_layers": 3}},
        {
            "class_name": "Sequential",
            "config": {"name": "s", "layers": [{"class_name": "Dense", "config": {"units": 2}}]},
        },
    ],
)
def test_configurations_that_say_no_model_are_refused_in_one_line(config):
    with pytest.raises(InputError) as error:
        build_model(copy.deepcopy(config))
    assert "\n" not in str(error.value)


def test_the_configuration_given_is_left_as_it_was():
    config = parallel_config(TEMPLATE, SHAPE)
    before = copy.deepcopy(config)
    build_model(find_template(config)[0])
    modernise(config["config"]["layers"][3], settings_of)
    assert config == before
