import subprocess
import sys

import h5py
import numpy as np
import pytest

from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.models import (
    apply_freeze,
    build_classifier,
    build_small_resnet,
    feature_extractor,
    load_model,
)
from resnet_zclass.pixels import Pixels, measure_pixels

CROPS = np.random.default_rng(0).integers(0, 4000, (6, 16, 16, 1)).astype("uint16")


def classifier(**keywords):
    return build_classifier((16, 16, 1), 3, **{"model_name": "ResNet8", **keywords})


def normalised(crops=CROPS, **keywords):
    model = build_classifier(crops.shape[1:], 3, **{"model_name": "ResNet8", **keywords})
    return np.asarray(model.get_layer("normalisation")(crops.astype("float32")))


def trained_stages(model):
    return {
        weight.path.split("/")[-2].split("_")[0] for weight in model.trainable_weights if "head/" not in weight.path
    }


def test_per_image_normalisation_is_mean_zero_spread_one_of_the_roots():
    roots = np.sqrt(CROPS.astype("float64"))
    expected = (roots - roots.mean((1, 2, 3), keepdims=True)) / roots.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(normalised(), expected, atol=1e-3)


def test_gain_and_offset_of_the_camera_do_not_matter_per_image():
    plain = normalised(stabilise=False)
    np.testing.assert_allclose(normalised(CROPS * 3 + 700, stabilise=False), plain, atol=1e-3)


def test_set_and_range_normalisation_follow_their_closed_forms():
    by_set = normalised(scaling="set", stabilise=False, pixels=Pixels(mean=2000.0, spread=500.0))
    np.testing.assert_allclose(by_set, (CROPS - 2000.0) / 500.0, atol=1e-4)
    by_roots = normalised(scaling="set", pixels=Pixels(offset=100.0, root_mean=30.0, root_spread=7.0))
    np.testing.assert_allclose(by_roots, (np.sqrt(np.maximum(CROPS - 100.0, 0)) - 30.0) / 7.0, atol=1e-4)
    by_range = normalised(scaling="range", pixels=Pixels(low=100.0, high=3100.0))
    np.testing.assert_allclose(by_range, (CROPS - 100.0) / 3000.0, atol=1e-5)


def test_an_application_gets_its_own_scaling_of_gray_as_rgb():
    crops = np.full((1, 40, 40, 1), 200, "uint8")
    seen = normalised(crops, model_name="ResNet50", scaling="range")
    np.testing.assert_allclose(seen[0, 0, 0], [200 - 103.939, 200 - 116.779, 200 - 123.68], atol=1e-3)


def test_scaling_by_spread_gives_an_application_the_mean_and_spread_of_photographs():
    crops = np.random.default_rng(0).integers(0, 4000, (4, 40, 40, 1)).astype("uint16")
    for scaling in ("image", "set"):
        seen = normalised(crops, model_name="ResNet50", scaling=scaling, pixels=measure_pixels(crops))
        rgb = seen[..., ::-1] + [123.68, 116.779, 103.939]
        assert rgb.mean() == pytest.approx(118, abs=1)
        assert rgb.std() == pytest.approx(58, abs=1)


def test_pixels_between_zero_and_one_are_normalised_as_well():
    small = (CROPS / 65535).astype("float32")
    np.testing.assert_allclose(normalised(small, stabilise=False), normalised(stabilise=False), atol=2e-3)


def test_freezing_what_is_not_there_is_refused():
    model = build_classifier((40, 40, 3), 3, "VGG16")
    with pytest.raises(InputError, match="stem_head"):
        apply_freeze(model, "stem_head")


def test_resizing_is_a_layer():
    model = classifier(im_size=24)
    assert model.input_shape == (None, 16, 16, 1)
    assert model.get_layer("backbone").input_shape == (None, 24, 24, 1)


def test_pixels_are_measured_as_they_are():
    pixels = measure_pixels(CROPS)
    assert (pixels.low, pixels.high) == pytest.approx(np.percentile(CROPS, [0.1, 99.9]))
    assert pixels.offset == pixels.low
    assert (pixels.mean, pixels.spread) == pytest.approx((CROPS.mean(), CROPS.std()))
    roots = np.sqrt(np.maximum(CROPS - 50.0, 0))
    known = measure_pixels(CROPS, offset=50.0)
    assert (known.offset, known.root_mean, known.root_spread) == pytest.approx(
        (50, roots.mean(), roots.std()), rel=1e-4
    )
    eight_bit = measure_pixels(CROPS.astype("uint8"))
    assert (eight_bit.low, eight_bit.high) == (0.0, 255.0)


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85)])
def test_the_small_resnet_has_the_parameters_of_its_paper(depth, millions):
    model = build_small_resnet((32, 32, 3), depth)
    assert len([layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]) == depth - 1
    trainable = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights) + 64 * 10 + 10
    assert trainable / 1e6 == pytest.approx(millions, abs=0.005)


def test_a_strided_shortcut_is_every_other_pixel_padded_with_zero_channels():
    backbone = build_small_resnet((8, 8, 1), depth=8)
    inner = keras.Model(backbone.input, [backbone.get_layer("conv2_block1_out").output,
                                         backbone.get_layer("conv3_block1_add").input[0]])  # fmt: skip
    before, shortcut = (np.asarray(x) for x in inner(np.random.default_rng(0).normal(size=(2, 8, 8, 1))))
    np.testing.assert_array_equal(shortcut[..., 8:24], before[:, ::2, ::2])
    assert not shortcut[..., :8].any()
    assert not shortcut[..., 24:].any()


@pytest.mark.parametrize(
    ("policy", "trained"),
    [
        ("none", {"conv1", "conv2", "conv3", "conv4"}),
        ("head_only", set()),
        ("stem_head", {"conv1"}),
        ("last_stage", {"conv4"}),
        ("conv3_block1_1_conv", {"conv3", "conv4"}),
    ],
)
def test_a_freeze_policy_trains_just_its_stages_and_the_head(policy, trained):
    model = classifier()
    apply_freeze(model, "head_only")
    apply_freeze(model, policy)
    assert trained_stages(model) == trained
    in_head = {weight.path for weight in model.trainable_weights if weight.path.startswith("head/")}
    assert in_head == {
        f"head/{name}" for name in ("hidden/kernel", "hidden/bias", "probabilities/kernel", "probabilities/bias")
    }


def test_resnet50_policies_follow_keras_names():
    model = build_classifier((32, 32, 1), 3, "ResNet50")
    apply_freeze(model, "last_stage")
    assert trained_stages(model) == {"conv5"}
    apply_freeze(model, "stem_head")
    assert trained_stages(model) == {"conv1"}


def test_a_frozen_backbone_is_a_pure_function_even_while_training():
    model = classifier()
    apply_freeze(model, "head_only")
    extractor = feature_extractor(model)
    x = CROPS.astype("float32")
    np.testing.assert_array_equal(extractor(x, training=True), extractor(x, training=False))


def test_features_and_head_make_the_classifier():
    model = classifier()
    features = feature_extractor(model).predict(CROPS, verbose=0)
    np.testing.assert_allclose(model.get_layer("head")(features), model.predict(CROPS, verbose=0), atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_a_saved_model_predicts_the_same_with_plain_keras(dtype, tmp_path):
    model = classifier()
    crops = CROPS.astype(dtype)
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "crops.npy", crops)
    code = (
        "import sys, keras, numpy as np\n"
        f"model = keras.saving.load_model(r'{tmp_path}/model.keras')\n"
        f"np.save(r'{tmp_path}/p.npy', model.predict(np.load(r'{tmp_path}/crops.npy'), verbose=0))\n"
        "assert 'resnet_zclass' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), model.predict(crops, verbose=0), atol=1e-6)


def test_predictions_are_the_same_alone_in_a_batch_and_in_any_order():
    model = classifier()
    together = model.predict(CROPS, verbose=0)
    alone = np.concatenate([model.predict(CROPS[i : i + 1], verbose=0) for i in range(6)])
    order = np.array([3, 1, 5, 0, 4, 2])
    np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_allclose(model.predict(CROPS[order], verbose=0), together[order], atol=1e-6)


def test_backbone_weights_of_a_file_arrive_whole(tmp_path):
    source = classifier()
    source.get_layer("backbone").save_weights(tmp_path / "b.weights.h5")
    source.save(tmp_path / "m.keras")
    for name in ("b.weights.h5", "m.keras"):
        loaded = build_classifier((20, 20, 1), 5, "ResNet8", weights=str(tmp_path / name)).get_layer("backbone")
        for ours, theirs in zip(loaded.weights, source.get_layer("backbone").weights, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_weights_that_do_not_fit_say_what_is_missing_on_both_sides(tmp_path):
    classifier(model_name="ResNet14").get_layer("backbone").save_weights(tmp_path / "b.weights.h5")
    with pytest.raises(InputError, match=r"b\.weights\.h5 does not fit .* 0 arrays are missing .* 30 are too many"):
        classifier(weights=str(tmp_path / "b.weights.h5"))
    with pytest.raises(InputError, match="30 arrays are missing"):
        classifier(model_name="ResNet20", weights=str(tmp_path / "b.weights.h5"))


def test_weights_that_are_no_weights_are_refused_by_name(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"not hdf5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    (tmp_path / "m.keras").write_bytes(b"not keras")
    for name in ("w.h5", "empty.h5", "m.keras", "missing.h5"):
        with pytest.raises(InputError, match=name):
            classifier(weights=str(tmp_path / name))


def test_imagenet_weights_out_of_reach_say_where_to_put_the_file(monkeypatch):
    def fail(*args, **keywords):
        raise Exception("URL fetch failure on https://x.org/resnet50_notop.h5: None -- [Errno -2] unknown")

    monkeypatch.setattr(keras.applications.resnet, "ResNet50", fail)
    with pytest.raises(InputError, match=r"resnet50_notop\.h5 into ~/\.keras/models, or give --weights FILE"):
        build_classifier((32, 32, 1), 3, "ResNet50", weights="imagenet")


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"model_name": "ResNet51"}, "--model_name ResNet51"),
        ({"model_name": "preprocess_input"}, "--model_name"),
        ({"weights": "imagenet"}, "--weights imagenet"),
        ({"scaling": "both"}, "--scaling"),
        ({"model_name": "ResNet50"}, "--model_name ResNet50"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(keywords, named):
    with pytest.raises(InputError, match=named):
        classifier(**keywords)


def test_an_unknown_freeze_policy_lists_those_there_are():
    with pytest.raises(InputError, match=r"--freeze .*last_stage.*Received: all_of_it"):
        apply_freeze(classifier(), "all_of_it")


def test_a_model_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.keras"):
        load_model(tmp_path / "nothing.keras")


@pytest.mark.shared
def test_the_genuine_imagenet_weights_load_and_frozen_features_are_stable(shared_path):
    path = shared_path.parent / "weights" / "resnet50_imagenet_notop.weights.h5"
    model = build_classifier((32, 32, 1), 3, "ResNet50", weights=str(path))
    reference = keras.applications.ResNet50(include_top=False, weights=str(path), pooling="avg")
    for ours, theirs in zip(model.get_layer("backbone").weights, reference.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
