import numpy as np
import pytest

from resnet_zclass.backbones import (
    SMALL_CNNS,
    build_backbone,
    build_small_cnn,
    build_small_resnet,
    find_stem,
    resolve_stem,
    transplant,
)
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError


def convolutions(model):
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_the_small_resnet_has_the_parameters_of_its_paper(depth, millions):
    model = build_small_resnet((32, 32, 3), depth)
    assert len(convolutions(model)) == depth - 1
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) + 64 * 10 + 10
    assert trainable / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_strided_shortcut_is_every_other_pixel_padded_with_zero_channels():
    backbone = build_small_resnet((8, 8, 1), depth=8)
    inner = keras.Model(
        backbone.input, [backbone.get_layer("conv2_block1_out").output, *backbone.get_layer("conv3_block1_add").input]
    )
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1))
    before, shortcut, residual = (np.asarray(x) for x in inner(images))
    assert residual.min() < 0 < residual.max()  # no relu before the sum
    np.testing.assert_array_equal(shortcut[..., 8:24], before[:, ::2, ::2])
    assert not shortcut[..., :8].any()
    assert not shortcut[..., 24:].any()


def test_a_small_cnn_computes_its_closed_form():
    model = build_small_cnn((4, 4, 2), [[3]])
    images = np.random.default_rng(0).normal(size=(5, 4, 4, 2)).astype("float32")
    kernel = find_stem(model).kernel.numpy()
    padded = np.pad(images, [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    x = np.einsum("nyxcij,ijcf->nyxf", windows, kernel) / np.sqrt(1 + 1e-3)  # moving variance 1, mean 0, Keras' epsilon
    pooled = np.maximum(x, 0).reshape(5, 2, 2, 2, 2, 3).max(axis=(2, 4))
    np.testing.assert_allclose(model(images), pooled.mean(axis=(1, 2)), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "filters", "n_pools"), [("CNN", [16, 32, 64, 128], 4), ("CNN8", [32, 32, 64, 64, 128, 128], 3)]
)
def test_the_small_cnns_are_those_of_the_table(name, filters, n_pools):
    model = build_backbone(name, (32, 32, 4))
    assert [layer.filters for layer in convolutions(model)] == filters
    assert {layer.kernel_size for layer in convolutions(model)} == {(3, 3)}
    kinds = [type(layer).__name__ for layer in model.layers]
    assert [kinds.count(kind) for kind in ("BatchNormalization", "ReLU", "MaxPooling2D")] == [
        len(filters), len(filters), n_pools]  # fmt: skip
    assert model.output_shape == (None, 128)


@pytest.mark.parametrize(
    ("name", "too_small", "smallest"),
    [("CNN", 15, 16), ("CNN8", 7, 8), ("ResNet50", 31, 32), ("VGG16", 16, 32), ("InceptionResNetV2", 138, 139)],
)
def test_an_image_that_is_too_small_is_refused_with_the_size_to_give(name, too_small, smallest):
    with pytest.raises(InputError) as caught:
        build_backbone(name, (200, too_small, 3))
    assert str(caught.value) == (
        f"--model_name {name} wants images of {smallest} px or more. Received: {too_small} px; "
        f"give --im_size {smallest}."
    )


def test_the_smallest_images_are_taken():
    for name in SMALL_CNNS:
        side = 2 ** len(SMALL_CNNS[name])
        assert build_backbone(name, (side, side, 1))(np.zeros((1, side, side, 1))).shape == (1, 128)


@pytest.fixture(scope="module")
def unnamed():
    """Two Xceptions, whose shortcuts have no names of their own, Keras' own of each, and random numbers drawn after."""
    nets, originals, drawn = [], [], []
    genuine = keras.applications.Xception

    def build(**keywords):
        originals.append(genuine(**keywords))
        return originals[-1]

    build.__module__ = genuine.__module__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.applications, "Xception", build)
        for _ in range(2):
            keras.utils.set_random_seed(1)
            nets.append(build_backbone("Xception", (71, 71, 3)))
            drawn.append(np.asarray(keras.initializers.GlorotUniform()((3, 3))))
    return nets, originals, drawn


def test_names_that_keras_counts_are_the_same_after_any_number_of_models(unnamed):
    first, second = unnamed[0]
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert {"conv2d", "conv2d_3", "batch_normalization_3"} <= {layer.name for layer in second.layers}
    assert [weight.path for weight in first.weights] == [weight.path for weight in second.weights]


def test_random_numbers_do_not_depend_on_models_before(unnamed):
    (first, second), _, drawn = unnamed
    np.testing.assert_array_equal(*drawn)
    for ours, theirs in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_renamed_net_keeps_weights_and_answers(unnamed):
    (_, ours), (_, theirs), _ = unnamed
    for our, their in zip(ours.weights, theirs.weights, strict=True):
        np.testing.assert_array_equal(our, their)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 71, 71, 3)).astype("float32")
    np.testing.assert_array_equal(ours(images), theirs([images]))


def test_auto_stems_repeat_gray_keep_rgb_and_tile_the_rest():
    assert [resolve_stem("auto", "VGG16", n) for n in (1, 2, 3, 4)] == ["rgb", "tile", "none", "tile"]
    assert [resolve_stem("auto", "ResNet20", n) for n in (1, 3, 4)] == ["none", "none", "tile"]
    assert [resolve_stem(how, "VGG16", 1) for how in ("sum", "mean", "tile", "copy")] == ["sum", "mean", "tile", "copy"]
    assert [resolve_stem(how, "VGG16", 3) for how in ("mean", "sum", "tile", "zero")] == ["mean", "sum", "none", "none"]
    for stem, n in (("zero", 1), ("average", 4)):
        with pytest.raises(InputError, match="--stem"):
            resolve_stem(stem, "VGG16", n)


@pytest.mark.parametrize("name", ["CNN", "ResNet8"])
def test_a_transplant_changes_the_stem_and_nothing_else(name):
    rgb, wide = (build_backbone(name, (32, 32, n)) for n in (3, 4))
    transplant(rgb, wide, "tile")
    theirs = {weight.path: weight.numpy() for weight in rgb.weights}
    stem = find_stem(wide).kernel.path
    for weight in wide.weights:
        if weight.path == stem:
            np.testing.assert_allclose(weight, theirs[stem][:, :, [0, 1, 2, 0]] * 0.75, rtol=1e-6)
        else:
            np.testing.assert_array_equal(weight, theirs[weight.path])


def test_a_transplant_puts_flipped_channels_in_their_natural_order():
    rgb, wide = (build_backbone("CNN", (16, 16, n)) for n in (3, 4))
    transplant(rgb, wide, "zero", order=(2, 0, 1))
    kernel, wider = find_stem(rgb).kernel.numpy(), find_stem(wide).kernel.numpy()
    for place, channel in enumerate((2, 0, 1)):
        np.testing.assert_array_equal(wider[:, :, channel], kernel[:, :, place])


def test_nets_that_cannot_be_adapted_are_refused():
    rgb, wide = (  # as EfficientNet and ConvNeXt begin
        keras.Sequential([keras.Input((8, 8, n)), keras.layers.Normalization(), keras.layers.Conv2D(2, 3)])
        for n in (3, 4)
    )
    with pytest.raises(InputError, match="statistics of RGB within"):
        transplant(rgb, wide, "tile")
    with pytest.raises(InputError, match="more than the first convolution"):
        transplant(build_backbone("ResNet8", (16, 16, 3)), build_backbone("ResNet14", (16, 16, 4)), "tile")


@pytest.mark.parametrize(("name", "near"), [("ResNet51", "ResNet50"), ("preprocess_input", "ResNet"), ("CNN9", "CNN8")])
def test_an_unknown_name_is_refused_with_those_near_it(name, near):
    with pytest.raises(InputError, match=f"--model_name {name} .*{near}"):
        build_backbone(name, (32, 32, 3))


def test_a_name_that_keras_applications_exports_only_at_its_top_is_found():
    assert find_stem(build_backbone("MobileNetV3Small", (32, 32, 2))).kernel.shape[2] == 2


def test_moving_averages_follow_within_the_few_steps_of_a_small_set():
    backbone = build_backbone("ResNet50", (32, 32, 3))
    momenta = {layer.momentum for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)}
    assert momenta == {0.9}
