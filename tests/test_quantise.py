"""INT8: as good as float, smaller, its normalisation still in float; refused where it costs too much."""

import collections
import shutil

import numpy as np
import onnx
import pytest

from resnet_zclass import engines, export, models, quantise
from resnet_zclass.backend import keras
from resnet_zclass.runs import read_run

SUFFIX = {"onnx": ".onnx", "litert": ".tflite"}
METADATA = {"class_names": ["a", "b", "c"], "int8": True}


@pytest.fixture(scope="module")
def run(drawn_run):
    return read_run(drawn_run)


@pytest.fixture(scope="module")
def data(run):
    return run.read_own_set()


@pytest.fixture(scope="module")
def paths(run, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    for name, write in quantise.QUANTISERS.items():
        write(run.load_model(), folder / f"model{SUFFIX[name]}", data.crops[data.indices("val")], METADATA)
    return {name: folder / f"model{SUFFIX[name]}" for name in SUFFIX}


@pytest.mark.parametrize("name", SUFFIX)
def test_an_int8_model_decides_as_the_float_one_does(name, paths, run, data):
    expected = run.load_model().predict(data.crops.astype(np.float32), verbose=0)
    found = engines.load_engine(name, paths[name])(data.crops)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95
    assert np.abs(found - expected).mean() < 0.02
    assert np.abs(found - expected).max() > 1e-5  # it is another computation


@pytest.mark.parametrize("name", SUFFIX)
def test_int8_takes_any_batch_and_knows_what_it_is(name, paths, data):
    engine = engines.load_engine(name, paths[name])
    together = engine(data.crops[:67])
    np.testing.assert_allclose(np.concatenate([engine(data.crops[:3]), engine(data.crops[3:67])]), together, atol=1e-5)
    np.testing.assert_allclose(engine(data.crops[66:67]), together[66:], atol=1e-5)
    assert engines.read_metadata(name, paths[name]) == METADATA


@pytest.mark.parametrize("name", SUFFIX)
def test_int8_takes_less_than_half_the_room(name, paths, run):
    n_weights = run.load_model().count_params()
    assert n_weights < paths[name].stat().st_size < 2 * n_weights  # four bytes each before


@pytest.mark.parametrize("name", SUFFIX)
def test_pixels_of_16_bits_are_not_squeezed_into_8(name, tmp_path):
    """Crops that differ by a few counts on top of thousands: 8 bits would make them one."""
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    model = models.build_classifier((16, 16, 1), 3, "CNN", scaling="image", stabilise=False, hidden=16)
    crops = (50000 + rng.integers(0, 100, (60, 16, 16, 1))).astype(np.uint16)
    path = tmp_path / f"model{SUFFIX[name]}"
    quantise.QUANTISERS[name](model, path, crops, METADATA)
    expected, found = model.predict(crops.astype(np.float32), verbose=0), engines.load_engine(name, path)(crops)
    assert np.abs(found - expected).mean() < 0.2 * expected.std(axis=0).mean()


def test_onnx_computes_in_8_bits_after_its_first_convolution(paths):
    graph = onnx.load(paths["onnx"]).graph
    kinds = [node.op_type for node in graph.node]
    first = kinds.index("Conv")
    assert "QuantizeLinear" not in kinds[:first]
    assert "BatchNormalization" not in kinds
    initialisers = {value.name: value.data_type for value in graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [node.input[1] for node in graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    types = collections.Counter(initialisers[dequantised.get(name, name)] for name in weights)
    assert types == {onnx.TensorProto.FLOAT: 1, onnx.TensorProto.INT8: len(weights) - 1}


def test_litert_computes_in_8_bits_after_its_first_convolution(paths):
    kinds = [kind for kind, _ in quantise._list_operations(paths["litert"])]
    assert kinds.index("CONV_2D") < kinds.index("QUANTIZE")
    assert kinds.count("QUANTIZE") == 1  # none goes back to float in between


def test_the_command_scores_int8_and_enters_it_apart(run, tmp_path, capsys):
    path = shutil.copytree(run.path, tmp_path / "beads")
    words = ["--load_logs_path", path, "--int8", "--max_accuracy_drop", 0.06]
    assert export.main(list(map(str, words))) == 0
    assert "accuracy on 18 crops of the split test: " in capsys.readouterr().out
    assert engines.read_metadata("onnx", path / "export" / "model_int8.onnx")["int8"] is True
    entry = engines.read_exports(path)["onnx_int8"]
    assert entry["int8"] is True
    assert entry["before"] - entry["score"] <= 0.06
    assert engines.choose_engine(path)[0] == "keras"


def test_int8_that_costs_too_much_is_refused_and_leaves_nothing(run, tmp_path, monkeypatch, capsys):
    def spoil(model, path, crops, metadata):
        quantise.quantise_onnx(model, path, 0 * crops, metadata)  # calibrated on black: everything is cut off

    monkeypatch.setitem(quantise.QUANTISERS, "onnx", spoil)
    words = ["--load_logs_path", run.path, "--int8", "--save_path", tmp_path / "new" / "model.onnx"]
    assert export.main(list(map(str, words))) == 2
    error = capsys.readouterr().err
    assert "--int8 costs 0." in error
    assert "--max_accuracy_drop 0.005" in error
    assert not (tmp_path / "new").exists()
    assert export.main([*map(str, words), "--max_accuracy_drop", "1"]) == 0


def test_several_labels_are_scored_by_their_f1_at_the_thresholds(several_run, tmp_path, capsys):
    words = ["--load_logs_path", several_run, "--int8", "--save_path", tmp_path / "model.onnx"]
    assert export.main([*map(str, words), "--max_accuracy_drop", "1"]) == 0
    assert "macro_f1 on 9 crops of the split test: " in capsys.readouterr().out
