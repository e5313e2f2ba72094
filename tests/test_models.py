import functools
import subprocess
import sys

import h5py
import numpy as np
import pytest

from resnet_zclass.backbones import find_stem
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.models import (
    apply_freeze,
    build_classifier,
    build_head,
    feature_extractor,
    load_head_weights,
    load_model,
)
from resnet_zclass.pixels import Pixels, measure_pixels

CROPS = np.random.default_rng(0).integers(0, 4000, (6, 16, 16, 1)).astype("uint16")


def classifier(**keywords):
    return build_classifier((16, 16, 1), 3, **{"model_name": "ResNet8", **keywords})


def normalised(crops=CROPS, **keywords):
    model = build_classifier(crops.shape[1:], 3, **{"model_name": "ResNet8", **keywords})
    return np.asarray(model.get_layer("normalisation")(crops.astype("float32")))


def test_per_image_normalisation_is_mean_zero_spread_one_of_the_roots():
    roots = np.sqrt(CROPS.astype("float64"))
    expected = (roots - roots.mean((1, 2, 3), keepdims=True)) / roots.std((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(normalised(), expected, atol=1e-3)


def test_gain_and_offset_of_the_camera_do_not_matter_per_image():
    plain = normalised(stabilise=False)
    np.testing.assert_allclose(normalised(CROPS * 3 + 700, stabilise=False), plain, atol=1e-3)


def test_set_and_range_normalisation_follow_their_closed_forms():
    by_set = normalised(scaling="set", stabilise=False, pixels=Pixels(mean=(2000.0,), spread=(500.0,)))
    np.testing.assert_allclose(by_set, (CROPS - 2000.0) / 500.0, atol=1e-4)
    by_roots = normalised(scaling="set", pixels=Pixels(offset=100.0, root_mean=(30.0,), root_spread=(7.0,)))
    np.testing.assert_allclose(by_roots, (np.sqrt(np.maximum(CROPS - 100.0, 0)) - 30.0) / 7.0, atol=1e-4)
    by_range = normalised(scaling="range", pixels=Pixels(low=(100.0,), high=(3100.0,)))
    np.testing.assert_allclose(by_range, (CROPS - 100.0) / 3000.0, atol=1e-5)


def test_an_application_gets_its_own_scaling_of_gray_as_rgb():
    crops = np.full((1, 40, 40, 1), 200, "uint8")
    seen = normalised(crops, model_name="VGG16", scaling="range")
    np.testing.assert_allclose(seen[0, 0, 0], [200 - 103.939, 200 - 116.779, 200 - 123.68], atol=1e-3)


def test_scaling_by_spread_gives_an_application_the_mean_and_spread_of_photographs():
    crops = np.random.default_rng(0).integers(0, 4000, (4, 40, 40, 1)).astype("uint16")
    for scaling in ("image", "set"):
        seen = normalised(crops, model_name="VGG16", scaling=scaling, pixels=measure_pixels(crops))
        rgb = seen[..., ::-1] + [123.68, 116.779, 103.939]
        assert rgb.mean() == pytest.approx(118, abs=1)
        assert rgb.std() == pytest.approx(58, abs=1)


def test_channels_are_normalised_each_by_its_own_statistics():
    crops = np.random.default_rng(0).uniform(0, 1, (3, 8, 8, 4)) * [10, 100, 1000, 4000] + 50
    pixels = measure_pixels(crops, offset=50.0)
    by_set = normalised(crops, scaling="set", pixels=pixels)
    np.testing.assert_allclose(by_set.mean((0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(by_set.std((0, 1, 2)), 1, atol=1e-3)
    by_range = normalised(crops, scaling="range", pixels=pixels)
    np.testing.assert_allclose(np.percentile(by_range, [0.1, 99.9], axis=(0, 1, 2)), [[0] * 4, [1] * 4], atol=1e-3)
    np.testing.assert_allclose(normalised(crops, scaling="range"), crops / 255, atol=1e-5)


def test_pixels_between_zero_and_one_are_normalised_as_well():
    small = (CROPS / 65535).astype("float32")
    np.testing.assert_allclose(normalised(small, stabilise=False), normalised(stabilise=False), atol=2e-3)


def test_resizing_is_a_layer():
    model = classifier(im_size=24)
    assert model.input_shape == (None, 16, 16, 1)
    assert model.get_layer("backbone").input_shape == (None, 24, 24, 1)


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


def test_a_head_has_the_layers_asked_for():
    def described(**keywords):
        return [(layer.name, getattr(layer, "units", None)) for layer in build_head(6, 3, **keywords).layers]

    last = ("probabilities", 3)
    assert described() == [("hidden", 1024), last]
    assert described(hidden=0) == described(hidden=()) == described(hidden=(0, 0)) == [last]
    assert described(hidden=(8, 0, 4, 2)) == [("hidden", 8), ("hidden_2", 4), ("hidden_3", 2), last]
    dropped = build_head(6, 3, hidden=(4,), dropout=0.25).layers
    assert [layer.name for layer in dropped] == ["hidden_dropout", "hidden", "probabilities_dropout", "probabilities"]
    assert {layer.rate for layer in dropped[::2]} == {0.25}


def test_one_class_excludes_the_others_several_do_not():
    features = np.random.default_rng(0).normal(size=(5, 6)).astype("float32")
    one, several = (build_head(6, 3, hidden=(), several=several) for several in (False, True))
    several.set_weights(one.get_weights())
    logits = features @ one.get_weights()[0]
    np.testing.assert_allclose(one(features), np.exp(logits) / np.exp(logits).sum(1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(several(features), 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_dropout_is_of_the_head_alone_and_drops_while_training_only():
    model = build_classifier((16, 16, 1), 3, "CNN", hidden=(4,), dropout=0.5)
    rates = [[layer.rate for layer in part.layers if hasattr(layer, "rate")] for part in model.layers[2:]]
    assert rates == [[], [0.5, 0.5]]
    head, features = model.get_layer("head"), np.random.default_rng(0).random((3, 128))
    np.testing.assert_array_equal(head(features), head(features, training=False))
    assert not np.allclose(head(features, training=True), head(features, training=True))


def test_saved_models_predict_the_same_with_plain_keras(tmp_path):
    rng = np.random.default_rng(0)
    wide = rng.integers(0, 4000, (6, 32, 32, 4)).astype("uint16")
    cases = {
        "gray": (classifier(), [CROPS, CROPS.astype("uint8"), CROPS.astype("float32")]),
        "several": (
            build_classifier((32, 32, 4), 3, "CNN", scaling="set", pixels=measure_pixels(wide), hidden=(8, 4),
                             dropout=0.5, several=True), [wide]),
        "adapted": (build_classifier((71, 71, 4), 3, "Xception", scaling="range", stem="zero", hidden=4), [
            rng.integers(0, 255, (2, 71, 71, 4)).astype("uint8")]),
    }  # fmt: skip
    for name, (model, arrays) in cases.items():
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", *arrays)
    code = (
        "import sys, keras, numpy as np\n"
        f"for name in {list(cases)}:\n"
        f"    path = r'{tmp_path}/' + name\n"
        "    model = keras.saving.load_model(path + '.keras', safe_mode=True)\n"
        "    answers = [model.predict(crops, verbose=0) for crops in np.load(path + '.npz').values()]\n"
        "    np.savez(path + '_answers.npz', *answers)\n"
        "assert 'resnet_zclass' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)
    for name, (model, arrays) in cases.items():
        answers = np.load(tmp_path / f"{name}_answers.npz").values()
        for crops, answer in zip(arrays, answers, strict=True):
            np.testing.assert_allclose(answer, model.predict(crops, verbose=0), atol=1e-6)


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


def respond(model, crops):
    """What the first convolution of a classifier makes of raw crops, before any bias of its own."""
    stem = find_stem(model.get_layer("backbone"))
    inner = keras.Model(model.get_layer("backbone").input, stem.output)
    return np.asarray(inner(model.get_layer("normalisation")(crops.astype("float32"))))


def random_crops(n_channels, side=32):
    return np.random.default_rng(0).integers(0, 256, (2, side, side, n_channels)).astype("uint8")


@pytest.fixture(scope="module")
def rgb(tmp_path_factory):
    """Builds classifiers of RGB by name, each once; each has its path, and beside it `.weights.h5` of its backbone."""

    @functools.cache
    def build(model_name):
        path = tmp_path_factory.mktemp(model_name) / "rgb.keras"
        model = build_classifier((32, 32, 3), 3, model_name, scaling="range", hidden=4)
        model.save(path)
        model.get_layer("backbone").save_weights(path.with_name("rgb.weights.h5"))
        return model, path

    return build


def adapted_from(rgb, model_name, n_channels, suffix=".keras", **keywords):
    """A classifier of `n_channels` channels with backbone and head of one of RGB."""
    path = rgb(model_name)[1]
    keywords = {"scaling": "range", "hidden": 4, "weights": str(path.with_suffix(suffix)), **keywords}
    model = build_classifier((32, 32, n_channels), 3, model_name, **keywords)
    assert load_head_weights(model, path)
    return model


@pytest.mark.parametrize("n", [1, 2, 4])
def test_sum_answers_gray_as_the_rgb_classifier_did(rgb, n):
    """MobileNet scales all channels alike, so all of it is the same, not the stem alone."""
    gray = random_crops(1)
    original, adapted = rgb("MobileNet")[0], adapted_from(rgb, "MobileNet", n, stem="sum")
    before = np.repeat(gray, 3, axis=3), np.repeat(gray, n, axis=3)
    np.testing.assert_allclose(respond(adapted, before[1]), respond(original, before[0]), atol=1e-5)
    np.testing.assert_allclose(adapted.predict(before[1], verbose=0), original.predict(before[0], verbose=0), atol=1e-5)


def test_sum_answers_what_the_backbone_sees_of_gray_as_the_rgb_stem_did(rgb):
    """VGG16 wants another mean subtracted of each channel, so raw gray is not gray any more where its stem looks."""
    original, adapted = rgb("VGG16")[0], adapted_from(rgb, "VGG16", 4, stem="sum")
    gray = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 1)).astype("float32")
    seen = [
        np.asarray(find_stem(model.get_layer("backbone"))(np.repeat(gray, n, axis=3)))
        for model, n in ((original, 3), (adapted, 4))
    ]
    np.testing.assert_allclose(seen[1], seen[0], atol=1e-5)


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("model_name", ["VGG16", "CNN"])
def test_zero_answers_rgb_as_before_whatever_the_fourth_channel_holds(rgb, model_name, suffix):
    original, adapted = rgb(model_name)[0], adapted_from(rgb, model_name, 4, suffix, stem="zero")
    crops = random_crops(4)
    answers = adapted.predict(crops, verbose=0)
    np.testing.assert_allclose(answers, original.predict(crops[..., :3], verbose=0), atol=1e-5)
    crops[..., 3] = 255 - crops[..., 3]
    np.testing.assert_array_equal(adapted.predict(crops, verbose=0), answers)


def test_zero_ignores_a_fourth_channel_that_is_scaled_by_the_set(rgb):
    crops = random_crops(4)
    pixels = measure_pixels(crops)
    adapted = adapted_from(rgb, "VGG16", 4, stem="zero", scaling="set", pixels=pixels)
    answers = adapted.predict(crops, verbose=0)
    crops[..., 3] = 255 - crops[..., 3]
    np.testing.assert_array_equal(adapted.predict(crops, verbose=0), answers)


@pytest.mark.parametrize(("how", "n", "weights_of_rgb"), [
    ("mean", 2, [[1 / 3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3]]),
    ("tile", 4, [[0.75, 0, 0], [0, 0.75, 0], [0, 0, 0.75], [0.75, 0, 0]]),
    ("copy", 2, [[1, 0, 0], [0, 1, 0]]),
    ("mean", 3, [[1 / 3, 1 / 3, 1 / 3]] * 3),
])  # fmt: skip
def test_adapted_stems_follow_their_closed_forms_behind_the_real_scaling(rgb, how, n, weights_of_rgb):
    """Every channel, minus its constant, is looked at through its mix of VGG16's R, G and B, which come flipped."""
    stem = find_stem(rgb("VGG16")[0].get_layer("backbone"))
    means = {"mean": [np.mean([123.68, 116.779, 103.939])] * 4}.get(how, [123.68, 116.779, 103.939, 123.68])[:n]
    crops = random_crops(n)
    mixed = ((crops - np.array(means)) @ np.array(weights_of_rgb)).astype("float32")
    adapted = adapted_from(rgb, "VGG16", n, stem=how)
    np.testing.assert_allclose(respond(adapted, crops), stem(mixed[..., ::-1].copy()), atol=1e-3)


def test_rgb_crops_keep_the_scaling_of_the_application(rgb):
    crops = random_crops(3)
    seen = np.asarray(rgb("VGG16")[0].get_layer("normalisation")(crops.astype("float32")))
    np.testing.assert_allclose(seen, crops[..., ::-1] - np.array([103.939, 116.779, 123.68]), atol=1e-4)
    model = adapted_from(rgb, "VGG16", 3, stem="zero")
    np.testing.assert_array_equal(model.predict(crops, verbose=0), rgb("VGG16")[0].predict(crops, verbose=0))


def retrained(rgb, path, n, stem):
    """A saved classifier of `n` channels whose stem was adapted and then trained."""
    model = adapted_from(rgb, "VGG16", n, stem=stem)
    kernel = find_stem(model.get_layer("backbone")).kernel
    kernel.assign(kernel + np.random.default_rng(0).normal(0, 0.1, kernel.shape))
    model.save(path)
    return model


@pytest.mark.parametrize(("n", "stem"), [(1, "sum"), (3, "mean"), (4, "auto")])
def test_a_retraining_takes_an_adapted_stem_as_it_is(rgb, tmp_path, n, stem):
    model = retrained(rgb, tmp_path / "m.keras", n, stem)
    again = build_classifier((32, 32, n), 3, "VGG16", str(tmp_path / "m.keras"), scaling="range", hidden=4, stem=stem)
    np.testing.assert_array_equal(respond(again, random_crops(n)), respond(model, random_crops(n)))


def test_an_adapted_stem_of_three_channels_is_flipped_for_rgb_as_the_application_wants_it(rgb, tmp_path):
    model = retrained(rgb, tmp_path / "m.keras", 3, "mean")
    plain = build_classifier((32, 32, 3), 3, "VGG16", str(tmp_path / "m.keras"), hidden=4)
    ours, theirs = (find_stem(each.get_layer("backbone")).kernel.numpy() for each in (plain, model))
    np.testing.assert_array_equal(ours[:, :, ::-1], theirs)


def test_weights_of_other_numbers_of_channels_are_refused(rgb, tmp_path):
    adapted_from(rgb, "CNN", 4).save(tmp_path / "four.keras")
    for n, stem in ((3, "auto"), (2, "auto"), (1, "sum")):
        with pytest.raises(InputError, match=r"four\.keras was trained on images of 4 channels"):
            build_classifier((32, 32, n), 3, "CNN", weights=str(tmp_path / "four.keras"), stem=stem)


def test_a_head_is_taken_only_where_it_fits(tmp_path):
    source = classifier(hidden=(8, 4))
    source.save(tmp_path / "m.keras")
    same, wider = classifier(hidden=(8, 4)), classifier(hidden=9)
    other = build_classifier((16, 16, 1), 5, "ResNet8", hidden=(8, 4))
    assert load_head_weights(same, tmp_path / "m.keras")
    for ours, theirs in zip(same.get_layer("head").weights, source.get_layer("head").weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for model in (other, wider):
        before = model.get_layer("head").get_weights()
        assert not load_head_weights(model, tmp_path / "m.keras")
        for ours, theirs in zip(model.get_layer("head").get_weights(), before, strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert not load_head_weights(same, tmp_path / "backbone.weights.h5")
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(tmp_path / "foreign.keras")
    with pytest.raises(InputError, match=r"foreign\.keras has no part named head"):
        load_head_weights(same, tmp_path / "foreign.keras")


def test_imagenet_weights_are_adapted_to_the_channels(monkeypatch):
    """Stands in for the download: the RGB net alone is asked for with weights."""
    genuine, asked = keras.applications.VGG16, []

    def build(weights, input_shape, **keywords):
        net = genuine(weights=None, input_shape=input_shape, **keywords)
        asked.append((weights, net))
        return net

    build.__module__ = genuine.__module__
    monkeypatch.setattr(keras.applications, "VGG16", build)
    model = build_classifier((32, 32, 4), 3, "VGG16", weights="imagenet", hidden=4)
    (own, _), (theirs, net) = asked
    assert (own, theirs) == (None, "imagenet")
    kernel = find_stem(net).kernel.numpy()[:, :, ::-1]
    np.testing.assert_allclose(
        find_stem(model.get_layer("backbone")).kernel, kernel[:, :, [0, 1, 2, 0]] * 0.75, rtol=1e-6
    )
    for ours, original in zip(model.get_layer("backbone").weights[1:], net.weights[1:], strict=True):
        np.testing.assert_array_equal(ours, original)


def test_imagenet_weights_out_of_reach_say_where_to_put_the_file(monkeypatch):
    def fail(*args, **keywords):
        raise Exception("URL fetch failure on https://x.org/resnet50_notop.h5: None -- [Errno -2] unknown")

    fail.__module__ = keras.applications.ResNet50.__module__
    monkeypatch.setattr(keras.applications, "ResNet50", fail)
    with pytest.raises(InputError, match=r"resnet50_notop\.h5 into ~/\.keras/models, or give --weights FILE"):
        build_classifier((32, 32, 1), 3, "ResNet50", weights="imagenet")


def test_weights_that_are_no_weights_are_refused_by_name(tmp_path):
    (tmp_path / "w.h5").write_bytes(b"not hdf5")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    (tmp_path / "m.keras").write_bytes(b"not keras")
    for name in ("w.h5", "empty.h5", "m.keras", "missing.h5"):
        with pytest.raises(InputError, match=name):
            classifier(weights=str(tmp_path / name))


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"model_name": "ResNet51"}, "--model_name ResNet51"),
        ({"model_name": "preprocess_input"}, "--model_name"),
        ({"weights": "imagenet"}, "--weights imagenet"),
        ({"scaling": "both"}, "--scaling"),
        ({"stem": "average"}, "--stem"),
        ({"stem": "zero"}, "--stem zero"),
        ({"model_name": "ResNet50"}, "--model_name ResNet50"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(keywords, named):
    with pytest.raises(InputError, match=named):
        classifier(**keywords)


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


@pytest.mark.shared
def test_the_genuine_weights_answer_the_same_with_a_zero_fourth_channel(shared_path):
    path = str(shared_path.parent / "weights" / "resnet50_imagenet_notop.weights.h5")
    crops = random_crops(4)
    rgb, wide = (
        feature_extractor(build_classifier((32, 32, n), 3, "ResNet50", path, scaling="range", stem="zero"))
        for n in (3, 4)
    )
    features = rgb.predict(crops[..., :3], verbose=0)
    assert features.std() > 0.1
    np.testing.assert_allclose(wide.predict(crops, verbose=0), features, atol=1e-4)
