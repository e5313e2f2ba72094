"""Files of Keras 2 are read as they are; damaged and hostile ones end in one line."""

import os
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from drawn_legacy import CONVOLUTIONAL, draw_values, write_h5, write_parallel

from resnet_zclass.checkpoints import kind_of
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray, check_answers, read_keras_h5, write_weights


def test_names_order_and_values_are_those_of_the_file(tmp_path):
    values = draw_values(CONVOLUTIONAL)
    stored = read_keras_h5(write_parallel(tmp_path / "a.h5", values=values, frozen=("conv1",), suffix="_1"))
    assert list(stored.groups) == ["input_1", "lambda_1", "lambda_2", "model_1", "dense_2"]
    assert list(stored.weights) == ["model_1"]
    assert [a.name for a in stored.weights["model_1"]][:3] == ["bn1_1/gamma:0", "bn1_1/beta:0", "dense_1_1/kernel:0"]
    assert stored.weights["model_1"][-4].name == "conv1_1/kernel:0"
    for array in stored.weights["model_1"]:
        np.testing.assert_array_equal(array.values, values[array.layer_path.removesuffix("_1")][array.variable])
    assert (stored.keras_version, stored.n_others, stored.config["class_name"]) == ("2.2.4", 1, "Model")


def test_long_lists_of_names_are_split_as_keras_splits_them(tmp_path):
    arrays = [StoredArray(f"{'long_name' * 40}_{i:04d}/kernel:0", np.full(1, i)) for i in range(400)]
    write_weights(tmp_path / "w.h5", {"net": arrays})
    with h5py.File(tmp_path / "w.h5") as file:
        assert "weight_names" not in file["net"].attrs
        assert {"weight_names0", "weight_names1", "weight_names2"} <= set(file["net"].attrs)
    again = read_keras_h5(tmp_path / "w.h5").weights["net"]
    assert [(a.name, a.values.item()) for a in again] == [(a.name, a.values.item()) for a in arrays]


def test_names_without_arrays_are_an_empty_list_of_floats_as_keras_writes_it(tmp_path):
    write_weights(tmp_path / "w.h5", {"relu": [], "fc": [StoredArray("fc/kernel:0", np.ones(2, np.float32))]})
    with h5py.File(tmp_path / "w.h5") as file:
        assert file["relu"].attrs["weight_names"].dtype == np.float64
        assert file.attrs["layer_names"].tolist() == [b"relu", b"fc"]


def edit(change):
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file, file["model_weights/model_1"])

    return damage


def cut(path, share=0.5):
    os.truncate(path, int(path.stat().st_size * share))


def link_outside(file, group):
    del group["conv1/kernel:0"]
    group["conv1/kernel:0"] = h5py.ExternalLink("/dev/zero", "/x")


def link_inside(file, group):
    del group["conv1/kernel:0"]
    group["conv1/kernel:0"] = h5py.SoftLink("/model_weights/model_1/conv1/bias:0")


def claim_a_lot(file, group):
    del group["conv1/kernel:0"]
    group.create_dataset("conv1/kernel:0", shape=(10**6, 10**6), dtype="f4", chunks=(1000, 1000))


def put_text(file, group):
    del group["conv1/kernel:0"]
    group["conv1/kernel:0"] = "rm -rf"


def replace_by_array(name):
    def replace(file, _group):
        del file[name]
        file[name] = np.zeros(3)

    return replace


DAMAGE = {
    "cut": (cut, "not a readable HDF5 file"),
    "cut at the start": (lambda path: cut(path, 0.001), "not a readable HDF5 file"),
    "empty": (lambda path: path.write_bytes(b""), "not a readable HDF5 file"),
    "text": (lambda path: path.write_text("hello"), "not a readable HDF5 file"),
    "no layers": (edit(lambda f, g: f["model_weights"].attrs.__delitem__("layer_names")), "lists no layer_names"),
    "no array names": (edit(lambda f, g: g.attrs.__delitem__("weight_names")), "has no weight_names"),
    "an array is missing": (edit(lambda f, g: g.__delitem__("conv1/bias:0")), "lists conv1/bias:0, which is not there"),
    "an array is not listed": (edit(lambda f, g: g.create_dataset("x:0", data=[1.0])), "belong to no layer"),
    "a layer is missing": (edit(lambda f, g: f["model_weights"].__delitem__("lambda_1")), "lambda_1 is missing"),
    "an array is listed twice": (
        edit(lambda f, g: g.attrs.__setitem__("weight_names", np.array([b"conv1/bias:0"] * 2))), "twice"),
    "a link to another file": (edit(link_outside), "conv1/kernel:0, which is not there"),
    "a link within the file": (edit(link_inside), "conv1/kernel:0, which is not there"),
    "claimed bytes": (edit(claim_a_lot), "that are not there"),
    "text for numbers": (edit(put_text), "not a plain array of numbers"),
    "weights that are no group": (edit(replace_by_array("model_weights")), "lists no layer_names"),
    "broken JSON": (edit(lambda f, g: f.attrs.__setitem__("model_config", "{")), "not the configuration of a model"),
    "JSON of something else": (edit(lambda f, g: f.attrs.__setitem__("model_config", "[1]")), "not the configuration"),
    "deep JSON": (edit(lambda f, g: f.attrs.__setitem__("model_config", "[" * 30_000)), "not the configuration"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_said_in_one_line(tmp_path, damage):
    path = write_parallel(tmp_path / "a.h5")
    change, words = DAMAGE[damage]
    change(path)
    with pytest.raises(InputError, match=words) as error:
        read_keras_h5(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("place", ["model_weights/model_1/extra:0", "optimizer_weights", "layers", "other"])
def test_a_link_is_not_followed_even_to_what_never_ends(tmp_path, place):
    path = write_parallel(tmp_path / "a.h5")
    os.mkfifo(tmp_path / "pipe")
    with h5py.File(path, "r+") as file:
        if place in file:
            del file[place]
        file[place] = h5py.ExternalLink(str(tmp_path / "pipe"), "/x")
    signal.alarm(20)  # opening a pipe would wait for ever
    try:
        assert kind_of(path) == "h5"
        assert len(read_keras_h5(path).weights["model_1"]) == 10
    finally:
        signal.alarm(0)


def test_a_file_on_which_hdf5_hangs_is_refused(tmp_path, monkeypatch):
    path = write_parallel(tmp_path / "a.h5")
    check_answers(path)
    check_answers(tmp_path / "none.h5")
    hang = [sys.executable, "-c", "import time; time.sleep(60)"]
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda words, **kwargs: run(hang, **kwargs))
    with pytest.raises(InputError, match=r"a\.h5 keeps HDF5 busy for over 0\.5 s"):
        check_answers(path, limit_s=0.5)


@pytest.mark.parametrize("seed", range(60))
def test_flipped_bytes_are_refused_or_do_no_harm(tmp_path, seed):
    """Whatever h5py raises on a damaged file, a user sees one line."""
    path = write_parallel(tmp_path / "a.h5")
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    for place in random.integers(0, min(len(content), 4096 * (1 + seed % 3)), 1 + seed % 5):
        content[place] ^= 1 << int(random.integers(8))
    path.write_bytes(content)
    try:
        kind_of(path)
        read_keras_h5(path)
    except InputError as error:
        assert "\n" not in str(error)


def test_compressed_arrays_may_be_larger_than_the_file_but_not_without_measure(tmp_path, monkeypatch):
    path = write_h5(tmp_path / "a.h5", {"fc": []})
    with h5py.File(path, "r+") as file:
        file["fc"].create_dataset("k:0", data=np.arange(1e5, dtype="f4").reshape(100, 1000), compression="gzip")
        file["fc"].attrs["weight_names"] = np.array([b"k:0"])
    assert read_keras_h5(path).weights["fc"][0].values.shape == (100, 1000)
    monkeypatch.setattr("resnet_zclass.keras_h5.LARGEST_RATIO", 1.1)
    with pytest.raises(InputError, match="claim 400,000 bytes in a file of"):
        read_keras_h5(path)
