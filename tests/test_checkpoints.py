"""Checkpoints of every kind become plain models with just the arrays that were stored."""

import collections
import json
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest
from drawn_legacy import (
    ALIKE,
    CONVOLUTIONAL,
    draw_values,
    functional_config,
    input_shape,
    predict,
    sequential_config,
    write_h5,
    write_parallel,
)

from resnet_zclass.backend import keras, tf
from resnet_zclass.checkpoints import build_architecture, kind_of, open_checkpoint, read_architecture
from resnet_zclass.errors import InputError

NETS = {"convolutional": CONVOLUTIONAL, "alike": ALIKE}


def images(net, n=5):
    return np.random.default_rng(1).normal(size=(n, *input_shape(net)[1:])).astype(np.float32)


def assert_is_net(plain, net, values):
    """Weights are those of the file to the last bit, predictions those of the net in NumPy."""
    for variable, array in zip(plain.variables, plain.arrays, strict=True):
        layer, name = variable.path.split("/")[-2:]
        np.testing.assert_array_equal(variable.numpy(), values[layer][name])
        np.testing.assert_array_equal(array.values, values[layer][name])
    x = images(net)
    np.testing.assert_allclose(plain.model.predict_on_batch(x), predict(net, values, x), atol=1e-6)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("suffix", ["", "_1", "_7"])
@pytest.mark.parametrize("n_frozen", [0, 1, 3])
def test_multi_gpu_models_are_the_net_they_held(tmp_path, net, suffix, n_frozen):
    net = NETS[net]
    values = draw_values(net)
    frozen = [settings["name"] for _, settings, variables in net if variables][:n_frozen]
    plain = open_checkpoint(write_parallel(tmp_path / "a.hdf5", net, values, 4, frozen, suffix))
    assert_is_net(plain, net, values)
    assert "of multi_gpu_model, 4 GPUs" in plain.notes and plain.model.name == "model_1"


@pytest.mark.parametrize("net", NETS)
def test_weights_alone_go_into_the_model_that_is_given(tmp_path, net):
    net = NETS[net]
    values = draw_values(net)
    path = write_parallel(tmp_path / "a.hdf5", net, values, frozen=("h1", "conv1"), suffix="_1", whole=False)
    (tmp_path / "model.json").write_text(json.dumps(functional_config(net)))
    assert_is_net(open_checkpoint(path, read_architecture(tmp_path / "model.json")), net, values)
    with pytest.raises(InputError, match="--architecture"):
        open_checkpoint(path)


def test_flags_that_the_file_lacks_are_found_from_its_names(tmp_path):
    values = draw_values(ALIKE)
    path = write_parallel(tmp_path / "a.hdf5", ALIKE, values, frozen=("h0", "h2"), flags=False)
    assert_is_net(open_checkpoint(path), ALIKE, values)


def test_arrays_of_one_shape_without_their_names_are_refused(tmp_path):
    net = tuple((c, settings | {"name": f"dense_{i}"}, v) for i, (c, settings, v) in enumerate(ALIKE))
    other = tuple((c, settings | {"name": f"dense_{i + 4}"}, v) for i, (c, settings, v) in enumerate(ALIKE))
    path = write_parallel(tmp_path / "a.hdf5", net, frozen=("dense_1",), whole=False)
    (tmp_path / "model.json").write_text(json.dumps(functional_config(other)))
    with pytest.raises(InputError, match="several ways"):
        open_checkpoint(path, read_architecture(tmp_path / "model.json"))


def test_todays_own_h5_is_read_and_must_have_just_the_arrays_of_its_model(tmp_path):
    model = small()
    model.save(tmp_path / "a.h5")
    plain = open_checkpoint(tmp_path / "a.h5")
    for ours, theirs in zip(plain.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        group = next(g for g in file["model_weights"].values() if len(g.attrs.get("weight_names", ())))
        group["extra"] = np.ones(3)
        group.attrs["weight_names"] = [*map(str, group.attrs["weight_names"]), "extra"]
    with pytest.raises(InputError):
        open_checkpoint(tmp_path / "a.h5")


def single(net, values):
    return {s["name"]: [(f"{s['name']}/{v}:0", values[s["name"]][v]) for v in variables] for _, s, variables in net}


@pytest.mark.parametrize("config", [functional_config, sequential_config])
def test_single_device_files_that_todays_keras_refuses(tmp_path, config):
    values = draw_values(CONVOLUTIONAL)
    path = write_h5(tmp_path / "a.h5", single(CONVOLUTIONAL, values), config(CONVOLUTIONAL))
    assert_is_net(open_checkpoint(path), CONVOLUTIONAL, values)
    other = tuple((c, s | {"name": s["name"].replace("dense_", "dense_1")}, v) for c, s, v in CONVOLUTIONAL)
    (tmp_path / "other.json").write_text(json.dumps(config(other)))
    weights = write_h5(tmp_path / "w.h5", single(CONVOLUTIONAL, values))
    plain = open_checkpoint(weights, read_architecture(tmp_path / "other.json"))
    np.testing.assert_allclose(
        plain.model.predict_on_batch(images(CONVOLUTIONAL)),
        predict(CONVOLUTIONAL, values, images(CONVOLUTIONAL)),
        atol=1e-6,
    )


def test_no_code_of_a_file_is_read(tmp_path, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("bytecode was read")

    path = write_parallel(tmp_path / "a.hdf5")
    monkeypatch.setattr("marshal.loads", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    assert open_checkpoint(path).model.output_shape == (None, 3)


def test_values_that_do_not_fit_the_type_of_the_model_are_refused(tmp_path):
    values = draw_values(ALIKE)
    values = {layer: {v: a.astype(np.float64) + 1e-12 for v, a in arrays.items()} for layer, arrays in values.items()}
    with pytest.raises(InputError, match="would lose digits"):
        open_checkpoint(write_parallel(tmp_path / "a.hdf5", ALIKE, values))


def test_an_old_resnet_is_known_by_its_names_and_keeps_its_epsilon(tmp_path):
    model, _ = build_architecture("ResNet50", 32, 5, hidden=())
    names = {"conv1_conv": "conv1", "conv1_bn": "bn_conv1"}
    for layer in model.layers:
        parts = layer.name.split("_")
        if layer.name.startswith("conv") and layer.weights and layer.name not in names:
            kind = "res" if parts[-1] == "conv" else "bn"
            branch = {"0": "1", "1": "2a", "2": "2b", "3": "2c"}[parts[2]]
            names[layer.name] = f"{kind}{parts[0][4:]}{'abcdef'[int(parts[1][5:]) - 1]}_branch{branch}"
    random = np.random.default_rng(0)
    stored = {}
    for layer in model.layers:
        if layer.weights:
            old = names.get(layer.name, "dense_1")
            stored[old] = [(f"{old}/{w.name}:0", random.uniform(0.5, 1, w.shape).astype("f4")) for w in layer.weights]
    plain = open_checkpoint(write_h5(tmp_path / "w.h5", stored), build_architecture("ResNet50", 32, 5, hidden=()))
    assert len(plain.arrays) == 320
    for variable, array in zip(plain.variables, plain.arrays, strict=True):
        layer = variable.path.split("/")[0]
        np.testing.assert_array_equal(
            variable.numpy(), dict(stored[names.get(layer, "dense_1")])[array.old_name or array.name]
        )
    norms = [layer for layer in plain.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.epsilon for layer in norms} == {1e-3}


STRATEGY = """
import os, sys
import numpy as np, keras, tensorflow as tf
out, kind = sys.argv[1:]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
make = {"mirrored": lambda: tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"]),
        "multi_worker": tf.distribute.MultiWorkerMirroredStrategy}[kind]
strategy = make()
with strategy.scope():
    crop = keras.Input((8, 8, 3))
    x = keras.layers.RandomFlip()(crop)
    x = keras.layers.Conv2D(4, 3, name="conv")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.Sequential([keras.layers.Conv2D(5, 3, name="deep"), keras.layers.ReLU()], name="inner")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(crop, keras.layers.Dense(3, activation="softmax", name="probs")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
random = np.random.default_rng(0)
if kind == "mirrored":
    model.fit(random.normal(size=(16, 8, 8, 3)), random.integers(0, 3, 16), batch_size=8, verbose=0)
else:
    model.set_weights([random.uniform(0.1, 1, w.shape) for w in model.get_weights()])
    with strategy.scope():
        model.optimizer.build(model.trainable_variables)
model.save(f"{out}/model.keras")
model.save_weights(f"{out}/model.weights.h5")
model.export(f"{out}/exported", verbose=0)
tf.train.Checkpoint(model=model, optimizer=model.optimizer).save(f"{out}/checkpoint/ckpt")
np.savez(f"{out}/truth.npz", **{"/".join(w.path.split("/")[-2:]): w.numpy() for w in model.weights})
"""


@pytest.fixture(scope="module", params=["mirrored", "multi_worker"])
def strategy_files(tmp_path_factory, request):
    """What a strategy of today writes; in a process of its own, since devices are set once."""
    path = tmp_path_factory.mktemp(request.param)
    environment = {k: v for k, v in os.environ.items() if k != "TF_CONFIG"} | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    subprocess.run([sys.executable, "-c", STRATEGY, path, request.param], check=True, env=environment, timeout=300)
    return path


@pytest.mark.parametrize("name", ["model.keras", "model.weights.h5", "checkpoint", "checkpoint/ckpt-1", "exported"])
def test_what_todays_strategies_write(strategy_files, name):
    architecture = None if name.endswith(".keras") else read_architecture(strategy_files / "model.keras")
    plain = open_checkpoint(strategy_files / name, architecture)
    truth = np.load(strategy_files / "truth.npz")
    assert not any("random" in layer.name for layer in plain.model.layers)
    assert getattr(plain.model, "optimizer", None) is None
    for variable in plain.variables:
        np.testing.assert_array_equal(variable.numpy(), truth["/".join(variable.path.split("/")[-2:])])
    assert len(plain.variables) == len(truth.files) == 10


def test_checkpoints_that_tf_keras_wrote(tmp_path):
    """The graph of objects of TensorFlow 2.0 to 2.15: `layer_with_weights-N` with the variables below."""
    values = draw_values(CONVOLUTIONAL)
    layers = [tf.train.Checkpoint(**{v: tf.Variable(a) for v, a in values[layer].items()}) for layer in values]
    slots = tf.train.Checkpoint(m=tf.Variable(np.zeros(3)), iter=tf.Variable(1))
    root = tf.train.Checkpoint(optimizer=slots, **{f"layer_with_weights-{i}": layer for i, layer in enumerate(layers)})
    tf.train.Checkpoint(model=root).write(str(tmp_path / "ckpt"))
    (tmp_path / "model.json").write_text(json.dumps(functional_config(CONVOLUTIONAL)))
    plain = open_checkpoint(tmp_path / "ckpt", read_architecture(tmp_path / "model.json"))
    assert_is_net(plain, CONVOLUTIONAL, values)
    short = tuple(CONVOLUTIONAL[:-1])
    (tmp_path / "model.json").write_text(json.dumps(functional_config(short)))
    with pytest.raises(InputError, match="do not fit"):
        open_checkpoint(tmp_path / "ckpt.index", read_architecture(tmp_path / "model.json"))


def small(n=3, name="probs"):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(5, name="fc"), keras.layers.Dense(n, name=name)])


def test_weights_of_today_that_are_too_few_or_too_many_are_refused(tmp_path):
    small().save_weights(tmp_path / "a.weights.h5")
    plain = open_checkpoint(tmp_path / "a.weights.h5", (small(), small().get_config()))
    assert len(plain.arrays) == 4
    for model in (small(4), keras.Sequential(small().layers[:1])):
        model.build((None, 4))
        with pytest.raises(InputError, match=r"do not fit|are not just"):
            open_checkpoint(tmp_path / "a.weights.h5", (model, model.get_config()))


def test_kinds_are_told_by_content(tmp_path):
    small().save(tmp_path / "model.txt.keras")
    (tmp_path / "model.txt.keras").rename(tmp_path / "model.txt")
    write_parallel(tmp_path / "b.bin")
    small().save_weights(tmp_path / "c.weights.h5")
    kinds = [kind_of(tmp_path / name) for name in ("model.txt", "b.bin", "c.weights.h5")]
    assert kinds == ["keras", "h5", "weights"]
    (tmp_path / "d").write_text("no model")
    for name, words in {"d": "neither HDF5", "e": "is not there", ".": "a folder without"}.items():
        with pytest.raises(InputError, match=words):
            kind_of(tmp_path / name)


@pytest.fixture(scope="module")
def legacy_folders():
    from pathlib import Path

    root = Path(__file__).parents[2] / "shared" / "data" / "legacy"
    if not root.is_dir():
        pytest.skip(f"the real checkpoints are not there: {root}")
    return sorted(path.parent for path in root.rglob("truth.npz"))


LEGACY_FILES = (
    "weights-best-acc_multi-gpu.hdf5",
    "parallel_weights_only.hdf5",
    "inner_direct_full.hdf5",
    "inner_direct_weights.hdf5",
)


@pytest.mark.shared
@pytest.mark.parametrize("name", LEGACY_FILES)
def test_every_authentic_checkpoint_is_converted_without_a_difference(legacy_folders, name):
    counts = collections.Counter()
    for folder in legacy_folders:
        truth = np.load(folder / "truth.npz")
        architecture = None
        if "weights" in name and "best" not in name:
            architecture = read_architecture(folder / "inner_config.json")
        plain = open_checkpoint(folder / name, architecture)
        stored = {key: truth[key] for key in truth.files if key.startswith("w|")}
        by_leaf = {
            tuple(key.split("|")[1].split("/")[-1:] + key.split("|")[3:]): value for key, value in stored.items()
        }
        assert len(by_leaf) == len(plain.variables), folder
        for variable in plain.variables:
            np.testing.assert_array_equal(variable.numpy(), by_leaf[tuple(variable.path.split("/")[-2:])], str(folder))
        inputs = [truth[key] for key in sorted(truth.files) if key in ("x", "x0", "x1")]
        expected = [truth[key] for key in sorted(truth.files) if key.startswith("y_parallel")]
        found = plain.model(inputs if len(inputs) > 1 else inputs[0], training=False)
        for ours, theirs in zip(found if isinstance(found, list) else [found], expected, strict=True):
            # 60 layers deep: the stored predictions are themselves 8e-6 from those computed in float64.
            atol = 2e-5 if "longnames" in str(folder) else 1e-6
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=str(folder))
        counts["converted"] += 1
    assert counts["converted"] == len(legacy_folders) == 69
