"""Every class that Keras may write into a file is made again from its configuration, and computes the same."""

import dataclasses
import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest

import resnet_zclass
from resnet_zclass.backend import keras
from resnet_zclass.distribute import ReplicatedModel
from resnet_zclass.losses import AsymmetricLoss, FewShotLoss, OrdinalLoss, SparseLoss
from resnet_zclass.options import COMMANDS
from resnet_zclass.opts import load_options, save_options

KINDS = (
    keras.layers.Layer,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.initializers.Initializer,
    keras.regularizers.Regularizer,
    keras.constraints.Constraint,
)
NEVER_SAVED = {ReplicatedModel}  # a shell round the layers of the model that is
INSTANCES = [
    AsymmetricLoss(gamma_neg=3, gamma_pos=2, margin=0.1),
    FewShotLoss(n_support=2, n_crops=4, n_bumps=5, width=0.3, ridge=0.5),
    OrdinalLoss("gaussian"),
    SparseLoss("SparseCategoricalCrossentropy", reduction="sum"),
]


def find_classes():
    """All classes of these kinds that are defined in modules of the package."""
    found = set()
    for module in pkgutil.iter_modules(resnet_zclass.__path__):
        if module.name != "__main__":
            members = vars(importlib.import_module(f"resnet_zclass.{module.name}")).values()
            found |= {one for one in members if inspect.isclass(one) and issubclass(one, KINDS)}
    return {one for one in found if one.__module__.startswith("resnet_zclass")}


def test_every_class_is_tested_here():
    assert find_classes() == {type(instance) for instance in INSTANCES} | NEVER_SAVED


@pytest.mark.parametrize("instance", INSTANCES, ids=lambda instance: type(instance).__name__)
def test_a_class_is_made_again_from_its_configuration(instance):
    kind, rng = type(instance), np.random.default_rng(0)
    targets, outputs = np.eye(4, dtype="float32"), rng.dirichlet(np.ones(4), 4).astype("float32")
    if kind is FewShotLoss:
        targets = np.linspace(-1, 1, 4, dtype="float32")[:, None]
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(instance)))  # as a file holds it
    with keras.saving.custom_object_scope({kind.__name__: kind}):
        made = [kind.from_config(instance.get_config()), keras.saving.deserialize_keras_object(stored)]
    for again in made:
        assert type(again) is kind
        assert again.get_config() == instance.get_config()
        assert float(again(targets, outputs)) == float(instance(targets, outputs))
        assert np.isfinite(float(instance(targets, outputs)))


def change(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return tuple(map(change, value)) or ("a", "b") if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", COMMANDS)
def test_options_come_back_from_their_file(name, tmp_path):
    default = COMMANDS[name]()
    changed = {}
    for field in dataclasses.fields(default):
        try:
            options = dataclasses.replace(default, **{field.name: change(getattr(default, field.name))})
            save_options(tmp_path / "opts.toml", options)
            assert load_options(name, tmp_path / "opts.toml") == options
            changed[field.name] = options
        except resnet_zclass.errors.InputError:  # out of its range
            continue
    assert len(changed) > 0.8 * len(dataclasses.fields(default))
