import functools
import re

import pytest

from resnet_zclass.backbones import build_backbone
from resnet_zclass.errors import InputError
from resnet_zclass.freezing import FREEZE_POLICIES, apply_freeze, choose_trained
from resnet_zclass.models import build_classifier


def classifier(model_name="ResNet8"):
    return build_classifier((32, 32, 3), 3, model_name, hidden=4)


def trained_layers(model):
    """Layers of the backbone with weights that are trained."""
    return {weight.path.split("/")[-2] for weight in model.get_layer("backbone").trainable_weights}


def trained_stages(model):
    return {name.split("_")[0] for name in trained_layers(model)}


@pytest.fixture(scope="module")
def built():
    """Builds classifiers by name, each once."""
    return functools.cache(classifier)


HEAD = {f"head/{name}" for name in ("hidden/kernel", "hidden/bias", "probabilities/kernel", "probabilities/bias")}


@pytest.mark.parametrize(
    ("model_name", "policy", "stages"),
    [
        ("ResNet8", "none", {"conv1", "conv2", "conv3", "conv4"}),
        ("ResNet8", "head_only", set()),
        ("ResNet8", "stem_head", {"conv1"}),
        ("ResNet8", "last_stage", {"conv4"}),
        ("ResNet8", "conv3_block1_1_conv", {"conv3", "conv4"}),
        ("ResNet20", "last_stage", {"conv4"}),
        ("CNN", "stem_head", {"conv1"}),
        ("CNN", "last_stage", {"conv4"}),
        ("CNN8", "last_stage", {"conv3"}),
        ("ResNet50", "stem_head", {"conv1"}),
        ("ResNet50", "last_stage", {"conv5"}),
        ("ResNet50V2", "stem_head", {"conv1"}),
        ("ResNet50V2", "last_stage", {"conv5", "post"}),
        ("VGG16", "last_stage", {"block5"}),
        ("EfficientNetB0", "stem_head", {"stem"}),
        ("EfficientNetB0", "last_stage", {"block7a", "top"}),
    ],
)
def test_a_policy_trains_just_its_stages_and_the_head(built, model_name, policy, stages):
    model = built(model_name)
    apply_freeze(model, "head_only")
    apply_freeze(model, policy)
    assert trained_stages(model) == stages
    assert {weight.path for weight in model.trainable_weights if weight.path.startswith("head/")} == HEAD


def test_the_stem_is_one_convolution_and_its_batch_norm(built):
    expected = {
        "ResNet8": {"conv1_conv", "conv1_bn"},
        "CNN8": {"conv1_1_conv", "conv1_1_bn"},
        "ResNet50": {"conv1_conv", "conv1_bn"},
        "ResNet50V2": {"conv1_conv"},  # what follows its pooling belongs to the first block
        "VGG16": {"block1_conv1"},
        "EfficientNetB0": {"stem_conv", "stem_bn"},
    }
    for name, layers in expected.items():
        model = built(name)
        apply_freeze(model, "stem_head")
        assert trained_layers(model) == layers


@pytest.fixture(scope="module")
def inception_resnet():
    return build_backbone("InceptionResNetV2", (139, 139, 3))


def test_the_last_stage_of_inception_resnet_is_all_that_hangs_on_its_last_block17(inception_resnet):
    after = {"block17_20_ac"}
    for layer in inception_resnet.layers[1:]:  # in an order in which inputs come first
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        if any(tensor._keras_history.operation.name in after for tensor in inputs):
            after.add(layer.name)
    assert choose_trained(inception_resnet.layers, "last_stage") == after - {"block17_20_ac"}
    assert {"mixed_7a", "block8_1_mixed", "block8_10_conv", "conv_7b"} < after


def test_names_of_inception_resnet_are_those_of_a_fresh_session(inception_resnet):
    names = [layer.name for layer in inception_resnet.layers]
    for prefix, n in (("conv2d", 203), ("batch_normalization", 203), ("custom_scale_layer", 40)):
        counted = {name for name in names if re.fullmatch(rf"{prefix}(_\d+)?", name)}
        assert counted == {prefix, *(f"{prefix}_{i}" for i in range(1, n))}
    assert choose_trained(inception_resnet.layers, "stem_head") == {"conv2d", "batch_normalization"}
    assert choose_trained(inception_resnet.layers, "conv2d_17") == set(names[names.index("conv2d_17") :])


@pytest.mark.parametrize("policy", [*FREEZE_POLICIES, "conv3_block1_1_conv", "5", 0])
def test_a_policy_covers_the_whole_model(policy):
    """Whatever was set before, every weight is trained or not as if the policy were the first."""
    fresh, used = classifier(), classifier()
    apply_freeze(fresh, policy)
    for layer in used.get_layer("backbone").layers[::2]:
        layer.trainable = False
    apply_freeze(used, policy)
    trained = {weight.path for weight in fresh.trainable_weights}
    assert {weight.path for weight in used.trainable_weights} == trained
    layers = fresh.get_layer("backbone").layers
    chosen = choose_trained(layers, str(policy))
    assert [layer.trainable for layer in layers] == [layer.name in chosen for layer in layers]


def test_a_number_keeps_that_many_layers_as_they_are():
    model = classifier()
    layers = model.get_layer("backbone").layers
    apply_freeze(model, 7)
    assert [layer.trainable for layer in layers] == [False] * 7 + [True] * (len(layers) - 7)
    apply_freeze(model, str(len(layers) - 1))
    assert not trained_layers(model)


@pytest.mark.parametrize("policy", ["all_of_it", "-1", "1.5", "28", "140", ""])
def test_a_policy_that_means_nothing_is_refused(policy):
    model = classifier()
    assert len(model.get_layer("backbone").layers) == 28
    said = f"{policy}: this backbone has only 28 layers" if policy.isdecimal() else f"Received: {policy}"
    with pytest.raises(InputError, match=rf"--freeze .*{said}"):
        apply_freeze(model, policy)


def test_an_unknown_policy_lists_those_there_are():
    with pytest.raises(InputError, match=r"--freeze .*last_stage.*Received: all_of_it"):
        apply_freeze(classifier(), "all_of_it")


def test_a_net_without_stages_has_no_last_one():
    with pytest.raises(InputError, match="no numbered stages; give the name of a layer"):
        choose_trained(build_backbone("MobileNet", (32, 32, 3)).layers, "last_stage")
