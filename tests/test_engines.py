"""Exported classifiers in their own runtimes against Keras, and which of them a run is served by."""

import json
import subprocess
import sys

import numpy as np
import pytest

from resnet_zclass import engines, export_formats, models, runs
from resnet_zclass.errors import InputError

METADATA = {"class_names": ['-01 "<µm>"', "+00", "b & c"], "z_um": [0.1, None, 1e-7]}
ALL = ["keras", *export_formats.WRITERS]


@pytest.fixture(scope="module")
def run(drawn_run):
    return runs.read_run(drawn_run)


@pytest.fixture(scope="module")
def crops(run):
    """130 crops, more than two batches of an engine."""
    data = run.read_own_set()
    return np.concatenate([data.crops, data.crops])[:130]


@pytest.fixture(scope="module")
def expected(run, crops):
    return run.load_model().predict(crops.astype(np.float32), verbose=0)


@pytest.fixture(scope="module")
def paths(run, tmp_path_factory):
    """Path of an export in every format, and of the model itself."""
    folder = tmp_path_factory.mktemp("exports")
    for name, write in export_formats.WRITERS.items():
        (folder / engines.EXPORT_FILES[name]).mkdir() if name == "tf_saved_model" else None
        write(run.load_model(), folder / engines.EXPORT_FILES[name], METADATA)
    found = {name: folder / engines.EXPORT_FILES[name] for name in export_formats.WRITERS}
    return found | {"keras": run.path / engines.KERAS_FILE}


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("n", [1, 3, 64, 130])
def test_every_runtime_predicts_what_keras_does_whatever_the_batch(name, n, paths, crops, expected):
    engine = engines.load_engine(name, paths[name], threads=2)
    before = crops[:n].copy()
    found = engine(crops[:n])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected[:n], atol=1e-5)
    np.testing.assert_array_equal(crops[:n], before)
    assert expected.std(axis=0).min() > 0.05  # predictions that tell crops apart


@pytest.mark.parametrize("name", ALL)
def test_crops_are_predicted_alike_alone_in_any_order_and_of_any_dtype(name, paths, crops, expected):
    engine = engines.load_engine(name, paths[name])
    np.testing.assert_allclose(engine(crops[::-3]), expected[::-3], atol=1e-5)
    alone = np.concatenate([engine(crops[i : i + 1]) for i in (7, 100, 7)])
    np.testing.assert_allclose(alone, expected[[7, 100, 7]], atol=1e-5)
    np.testing.assert_allclose(engine(crops[:5].astype(np.float64)), expected[:5], atol=1e-5)
    assert engine(crops[:0]).shape == (0, 3)


@pytest.mark.parametrize("name", ALL)
def test_what_is_no_such_crop_or_file_is_refused(name, paths, tmp_path):
    engine = engines.load_engine(name, paths[name])
    with pytest.raises(InputError, match=r"\(16, 16, 1\).*\(8, 8, 1\)"):
        engine(np.zeros((1, 8, 8, 1)))
    with pytest.raises(InputError, match="not there"):
        engines.load_engine(name, tmp_path / "none")
    damaged = tmp_path / paths[name].name
    damaged.write_bytes(b"no model")
    with pytest.raises(InputError, match=damaged.name):
        engines.load_engine(name, damaged)


@pytest.mark.parametrize("name", export_formats.WRITERS)
def test_a_model_that_resizes_is_exported_as_it_predicts(name, tmp_path):
    """Keras' own export has batch normalisation train after a layer `Resizing`."""
    model = models.build_classifier((16, 16, 1), 3, "ResNet8", im_size=24, hidden=8)
    crops = np.random.default_rng(0).poisson(100, (9, 16, 16, 1)).astype(np.uint16)
    (tmp_path / "saved_model").mkdir()
    export_formats.WRITERS[name](model, tmp_path / engines.EXPORT_FILES[name], METADATA)
    found = engines.load_engine(name, tmp_path / engines.EXPORT_FILES[name])(crops)
    np.testing.assert_allclose(found, model.predict(crops, verbose=0), atol=1e-5)


@pytest.mark.parametrize("name", export_formats.WRITERS)
def test_metadata_come_back_from_every_format(name, paths):
    assert engines.read_metadata(name, paths[name]) == METADATA


@pytest.mark.parametrize("name", export_formats.WRITERS)
def test_files_without_metadata_are_refused(name, tmp_path):
    (tmp_path / "other.onnx").write_bytes(b"")
    with pytest.raises(InputError, match=f"--format {name}"):
        engines.read_metadata(name, tmp_path / "other.onnx")


@pytest.mark.parametrize(("name", "module"), engines.RUNTIMES.items())
def test_a_missing_runtime_is_named_with_the_extra(name, module, paths, monkeypatch):
    for loaded in [key for key in sys.modules if key.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError, match=rf"{module}.*pip install 'resnet_zclass\[export\]'"):
        engines.load_engine(name, paths[name])


def test_engines_but_keras_do_without_tensorflow(paths):
    code = (
        "import sys, numpy as np, resnet_zclass as rz\n"
        "for name, path in zip(sys.argv[1::2], sys.argv[2::2]):\n"
        "    rz.engines.load_engine(name, path)(np.zeros((2, 16, 16, 1), 'uint16'))\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)\n"
    )
    words = [word for name in ("onnx", "openvino", "litert") for word in (name, str(paths[name]))]
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not [line for line in done.stderr.splitlines() if "INFO" in line]


@pytest.fixture
def folder(tmp_path):
    """A run's folder with a model and two exports, the quicker one LiteRT."""
    (tmp_path / "export").mkdir()
    (tmp_path / engines.KERAS_FILE).write_bytes(b"model")
    for name in ("onnx", "litert"):
        (tmp_path / "export" / engines.EXPORT_FILES[name]).write_bytes(b"")
    write_table(tmp_path)
    return tmp_path


def write_table(folder, **changes):
    """Writes `exports.json`; `onnx={...}` changes values of an entry, `onnx=None` removes it."""
    sha = engines.hash_file(folder / engines.KERAS_FILE)
    entry = {"model_sha256": sha, "max_difference": 1e-6, "int8": False, "keras_crops_per_s": 100.0}
    table = {
        "onnx": entry | {"file": "model.onnx", "crops_per_s": 200.0},
        "litert": entry | {"file": "model.tflite", "crops_per_s": 300.0},
        "openvino": entry | {"file": "model.xml", "crops_per_s": 900.0},
        "onnx_int8": entry | {"file": "model_int8.onnx", "crops_per_s": 950.0, "int8": True},
    }
    for name, change in changes.items():
        table[name] = None if change is None else table[name] | change
    table = {name: entry for name, entry in table.items() if entry}
    (folder / "export" / "exports.json").write_text(json.dumps(table))


AUTO = {
    "the fastest": ({}, "litert"),
    "not one that differs": ({"litert": {"max_difference": 2e-4}}, "onnx"),
    "not one that differs by who knows what": ({"litert": {"max_difference": float("nan")}}, "onnx"),
    "not one that is gone": ({"litert": {"file": "gone.tflite"}}, "onnx"),
    "not one of another model": ({"litert": {"model_sha256": "0"}}, "onnx"),
    "never an INT8 one": ({"litert": {"int8": True}}, "onnx"),
    "compared with Keras of the same minute": ({"litert": {"keras_crops_per_s": 200.0}}, "onnx"),
    "Keras where it is faster": ({"litert": None, "onnx": {"crops_per_s": 99.0}}, "keras"),
    "Keras where there is nothing": ({"litert": None, "onnx": None}, "keras"),
}


@pytest.mark.parametrize("case", AUTO)
def test_auto_is(case, folder):
    changes, chosen = AUTO[case]
    write_table(folder, **changes)
    name, path = engines.choose_engine(folder)
    assert name == chosen
    expected = folder / engines.KERAS_FILE if name == "keras" else folder / "export" / engines.EXPORT_FILES[name]
    assert path == expected


def test_auto_leaves_out_what_has_no_runtime_here(folder, monkeypatch):
    monkeypatch.setitem(engines.RUNTIMES, "litert", "no_such_runtime")
    assert engines.choose_engine(folder)[0] == "onnx"
    with pytest.raises(InputError, match="no_such_runtime is not installed"):
        engines.choose_engine(folder, "litert")


def test_a_run_without_exports_is_served_by_keras(tmp_path):
    assert engines.choose_engine(tmp_path) == ("keras", tmp_path / engines.KERAS_FILE)
    assert engines.choose_engine(tmp_path, "keras") == ("keras", tmp_path / engines.KERAS_FILE)


def test_an_engine_that_is_asked_for_must_be_there_and_of_this_model(folder):
    assert engines.choose_engine(folder, "onnx") == ("onnx", folder / "export" / "model.onnx")
    (folder / engines.KERAS_FILE).write_bytes(b"trained again")
    with pytest.raises(InputError, match=r"another model.*export --load_logs_path .* --format onnx --overwrite"):
        engines.choose_engine(folder, "onnx")
    write_table(folder, onnx=None)
    with pytest.raises(InputError, match=r"no such export.*export --load_logs_path .* --format onnx\."):
        engines.choose_engine(folder, "onnx")
    with pytest.raises(InputError, match="--engine must be"):
        engines.choose_engine(folder, "openvino")


@pytest.mark.parametrize("content", ["[", "[1]", '{"onnx": {"file": "model.onnx"}}', '{"onnx": 3}'])
def test_a_damaged_table_is_named(content, folder):
    (folder / "export" / "exports.json").write_text(content)
    with pytest.raises(InputError, match=r"exports\.json"):
        engines.choose_engine(folder, "onnx")


def test_the_model_of_a_run_is_the_file_that_runs_write():
    assert engines.KERAS_FILE == runs.MODEL_FILE


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_onnx_gives_the_same_bits_however_many_threads_share_a_batch(threads, paths, crops):
    alone = engines.load_engine("onnx", paths["onnx"], threads=1)
    engine = engines.load_engine("onnx", paths["onnx"], threads=threads)
    for n in (1, 2, 7, 17, 130):
        np.testing.assert_array_equal(engine(crops[:n]), alone(crops[:n]))


def test_a_batch_is_shared_out_evenly_in_its_order_and_few_crops_are_not():
    together, alone, loaded = [], [], []

    def load_alone():
        loaded.append(True)
        return lambda crops: alone.append(len(crops)) or crops

    shared = engines._share_out(lambda crops: together.append(len(crops)) or crops, load_alone, threads=3)
    for n, sizes in ((5, [5]), (6, [2, 2, 2]), (128, [22] * 5 + [18]), (7, [1, 3, 3])):
        together.clear(), alone.clear()
        np.testing.assert_array_equal(shared(np.arange(n)), np.arange(n))
        few, many = (sizes, []) if n < 6 else ([], sizes)
        assert (together, sorted(alone)) == (few, sorted(many))
    assert len(loaded) == 1


def test_a_fault_in_a_share_is_raised():
    def fail(crops):
        if 40 in crops:
            raise InputError("no")
        return crops

    with pytest.raises(InputError, match="no"):
        engines._share_out(fail, lambda: fail, threads=2)(np.arange(64))
