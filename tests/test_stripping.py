"""Augmentation and mixed precision go; weights and predictions stay."""

import numpy as np
import pytest

from resnet_zclass.backbones import flat_layers
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.stripping import strip_model


@pytest.fixture
def images():
    return np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype(np.float32)


def functional(precision="float32"):
    with_policy = {"dtype": precision}
    crop = keras.Input((8, 8, 3))
    x = keras.layers.RandomRotation(0.1)(keras.layers.RandomFlip(name="flip")(crop))
    inner = keras.Sequential([keras.layers.RandomContrast(0.2), keras.layers.Conv2D(4, 3, **with_policy)], name="inner")
    x = inner(x)
    x = keras.layers.BatchNormalization(**with_policy)(x)
    x = keras.layers.GlobalAveragePooling2D(**with_policy)(x)
    return keras.Model(crop, keras.layers.Dense(3, activation="softmax", **with_policy)(x))


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_functional_and_nested_models(images, precision):
    model = functional(precision)
    plain, _, taken = strip_model(model)
    kinds = {type(layer).__name__ for layer in flat_layers(plain)}
    assert not {kind for kind in kinds if kind.startswith("Random")} and "Conv2D" in kinds
    assert len(taken) == 3 + (precision != "float32")
    assert {layer.compute_dtype for layer in flat_layers(plain)} == {"float32"}
    tolerance = 1e-6 if precision == "float32" else 5e-3
    np.testing.assert_allclose(plain.predict_on_batch(images), model.predict_on_batch(images), atol=tolerance)
    for ours, theirs in zip(plain.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_sequential_models_and_outputs_that_are_augmented(images):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(), keras.layers.Dense(2)])
    plain, _, _ = strip_model(model)
    np.testing.assert_allclose(plain.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6)
    crop = keras.Input((8, 8, 3))
    model = keras.Model(crop, keras.layers.RandomFlip()(keras.layers.Dense(2)(crop)))
    plain, _, _ = strip_model(model)
    np.testing.assert_allclose(plain.predict_on_batch(images), model.predict_on_batch(images), atol=1e-6)


def test_a_model_without_any_is_returned_itself():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomCrop(4, 4), keras.layers.Dense(2)])
    plain, config, taken = strip_model(model)
    assert plain is model and taken == [] and config["layers"]


def test_models_of_a_class_of_their_own_are_refused():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.flip = keras.layers.RandomFlip()

        def call(self, x):
            return self.flip(x)

    with pytest.raises(InputError, match="class Mine"):
        strip_model(Mine())
