"""Runs exported classifiers, each in the runtime its format is made for, and finds the fastest that a run has.

Every engine is a function of raw crops, whatever runs it. The runtimes are the extra `export` of the package; only the
engine `keras` needs TensorFlow, so that a prediction by another starts in a fraction of the time.
"""

import functools
import json
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass import extras
from resnet_zclass.cores import count_cores
from resnet_zclass.errors import InputError
from resnet_zclass.extras import need
from resnet_zclass.files import hash_file, read_json
from resnet_zclass.quiet import silent_stderr

Engine = Callable[[np.ndarray], np.ndarray]

KERAS_FILE = "model.keras"
EXPORT_FOLDER = "export"  # of a run
EXPORTS_FILE = "exports.json"  # in it: what was exported, from which model, how exact and how fast
EXPORT_FILES = {
    "onnx": "model.onnx",
    "openvino": "model.xml",
    "litert": "model.tflite",
    "tf_saved_model": "saved_model",
    "bioimageio": "model.bioimageio.zip",
}
MAX_DIFFERENCE = 1e-4  # of a probability between Keras and an export of the same model
SERVING = ("onnx", "litert")  # exports that predictions may be made with
MEASURED = ("max_difference", "crops_per_s", "keras_crops_per_s")  # of every export
METADATA_KEY = "resnet_zclass"
METADATA_FILE = f"{METADATA_KEY}.json"
ONNX_IN_PACKAGE = "weights.onnx"

BATCH = 64  # crops that a runtime is given at once; what it holds in memory grows with it
SHARE = 32  # at most so many of them a thread computes by itself, where a runtime may be called by several
SHARES = 4  # of each thread, between two waits for all of them
SPIN_US = "200"  # that a thread looks out for work before it sleeps: a gap of some layers, no core lost for long
RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}


def load_engine(name: str, path: str | Path, threads: int | None = None) -> Engine:
    """Loads a classifier into its runtime.

    Args:
        name: `"keras"`, or a format of `EXPORT_FILES`.
        path: The `.keras` file, or what `export` wrote.
        threads: Threads to compute with; default all cores the process may use. Keras has settings of its own.

    Returns:
        Function of raw crops `(N, H, W, C)`, any N and dtype, to probabilities `(N, K)`, float32. It is not to be
        called by several threads at once.

    Raises:
        InputError: If the file is missing or no such classifier, or its runtime is not installed; the function
            raises it for crops of another shape.
    """
    if name not in _LOADERS:
        raise InputError(f"there is no engine {name!r}; choose one of {', '.join(_LOADERS)}.")
    path = Path(path)
    if not path.exists():
        raise InputError(f"{path} is not there; export the model first.")
    threads = threads or count_cores()
    try:
        run, crop_shape, n_classes = _LOADERS[name](path, threads)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} cannot be loaded as {name}: {error}") from error
    return _in_batches(run, threads * SHARE * SHARES if name in SHARED else BATCH, tuple(crop_shape), n_classes)


def _in_batches(run: Engine, batch: int, crop_shape: tuple[int, ...], n_classes: int) -> Engine:
    def engine(crops: np.ndarray) -> np.ndarray:
        if tuple(crops.shape[1:]) != crop_shape:
            raise InputError(f"the model takes crops of {crop_shape}. Received: {tuple(crops.shape[1:])}.")
        if 0 < len(crops) <= batch:  # not least one, whose time counts
            return run(np.ascontiguousarray(crops, np.float32))
        starts = range(0, len(crops), batch)
        parts = [run(np.ascontiguousarray(crops[start : start + batch], np.float32)) for start in starts]
        return np.concatenate(parts) if parts else np.empty((0, n_classes), np.float32)

    return engine


def _share_out(run: Engine, load_alone: Callable[[], Engine], threads: int) -> Engine:
    """Lets several threads compute on parts of a batch: they wait for each other once, not after every layer.

    Args:
        run: Computes with all threads.
        load_alone: Loads what computes with the one that calls it.
        threads: Their number.
    """
    if threads == 1:
        return run
    pool, load_alone = ThreadPoolExecutor(threads, thread_name_prefix="engine"), functools.cache(load_alone)

    def run_shared(crops: np.ndarray) -> np.ndarray:
        if len(crops) < 2 * threads:  # too few: the runtime's threads work on all of them together
            return run(crops)
        rounds = -(-len(crops) // (threads * SHARE))
        share = -(-len(crops) // (threads * rounds))
        starts = range(0, len(crops), share)
        return np.concatenate(list(pool.map(load_alone(), (crops[start : start + share] for start in starts))))

    return run_shared


def _load_keras(path: Path, threads: int) -> tuple:
    tf, model = rz.backend.tf, rz.models.load_model(path)
    signature = [tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)]  # traced once for all N
    run = tf.function(lambda crops: model(crops, training=False), input_signature=signature)
    return lambda crops: run(crops).numpy(), model.input_shape[1:], model.output_shape[-1]


def _load_onnx(path: Path, threads: int, read: Callable[[Path], str | bytes] = str) -> tuple:
    def load(threads: int) -> tuple:
        session = _open_onnx(read(path), intra_op_num_threads=threads)
        crop, probabilities = session.get_inputs()[0], session.get_outputs()[0]
        return lambda crops: session.run(None, {crop.name: crops})[0], crop.shape[1:], probabilities.shape[-1]

    run, *shapes = load(threads)
    return _share_out(run, lambda: load(1)[0], threads), *shapes


def _open_onnx(source: str | bytes, **settings: Any):
    onnxruntime = need("onnxruntime")
    options = onnxruntime.SessionOptions()
    for key, value in ({"log_severity_level": 3} | settings).items():
        setattr(options, key, value)
    options.add_session_config_entry("session.intra_op.spin_duration_us", SPIN_US)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _load_package(path: Path, threads: int) -> tuple:
    def read(path: Path) -> bytes:
        with zipfile.ZipFile(path) as package:
            return package.read(ONNX_IN_PACKAGE)

    return _load_onnx(path, threads, read)


def _load_openvino(path: Path, threads: int) -> tuple:
    return run_openvino(need("openvino").Core().read_model(path), threads)


def run_openvino(model: Any, threads: int | None = None) -> tuple:
    """Compiles a model of OpenVINO's for the CPU; returns a function, and the shapes of a crop and of what it gives."""
    # On newer processors OpenVINO would compute in bfloat16, which moves probabilities by nearly 1e-2.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads or count_cores()}
    request = need("openvino").Core().compile_model(model, "CPU", settings).create_infer_request()
    ports = request.model_outputs[0], request.model_inputs[0]
    shapes = [[part.get_length() if part.is_static else None for part in port.partial_shape] for port in ports]
    return lambda crops: request.infer({0: crops})[0].copy(), shapes[1][1:], shapes[0][-1]


def _load_litert(path: Path, threads: int) -> tuple:
    interpreter = need("ai_edge_litert.interpreter").Interpreter(str(path), num_threads=threads)
    crop, probabilities = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    allocated = None

    def run(crops: np.ndarray) -> np.ndarray:
        nonlocal allocated
        if crops.shape != allocated:
            interpreter.resize_tensor_input(crop["index"], crops.shape)
            with silent_stderr():
                interpreter.allocate_tensors()
            allocated = crops.shape
        interpreter.set_tensor(crop["index"], crops)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return run, crop["shape_signature"][1:].tolist(), int(probabilities["shape_signature"][-1])


def _load_saved_model(path: Path, threads: int) -> tuple:
    tf = rz.backend.tf
    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    (crop,) = serve.structured_input_signature[1].values()
    ((key, probabilities),) = serve.structured_outputs.items()

    def run(crops: np.ndarray, _keep: Any = loaded) -> np.ndarray:  # its variables die with `loaded`
        return serve(**{crop.name: tf.constant(crops)})[key].numpy()

    return run, crop.shape[1:], probabilities.shape[-1]


_LOADERS: dict[str, Callable[[Any, int], tuple]] = {
    "keras": _load_keras,
    "onnx": _load_onnx,
    "openvino": _load_openvino,
    "litert": _load_litert,
    "tf_saved_model": _load_saved_model,
    "bioimageio": _load_package,
}

SHARED = ("onnx", "bioimageio")  # may be called by several threads at once


def read_metadata(name: str, path: str | Path) -> dict[str, Any]:
    """What an export says of its classifier: class names, thresholds, z, kind of crops, the model it was made from.

    Args:
        name: A format of `EXPORT_FILES`.
        path: What `export` wrote.

    Raises:
        InputError: If there is nothing of the kind in it.
    """
    try:
        return json.loads(_READERS[name](Path(path)))
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{path} holds no metadata of resnet_zclass; export it again with --format {name}.") from error


def _read_onnx(path: Path) -> str:
    unoptimised = need("onnxruntime").GraphOptimizationLevel.ORT_DISABLE_ALL
    session = _open_onnx(str(path), graph_optimization_level=unoptimised)
    return session.get_modelmeta().custom_metadata_map[METADATA_KEY]


def _read_zipped(path: Path) -> bytes:
    with zipfile.ZipFile(path) as file:
        return file.read(METADATA_FILE)


_READERS: dict[str, Callable[[Path], str | bytes]] = {
    "onnx": _read_onnx,
    "openvino": lambda path: need("openvino").Core().read_model(path).get_rt_info([METADATA_KEY]).astype(str),
    "litert": _read_zipped,
    "tf_saved_model": lambda path: (path / "assets.extra" / METADATA_FILE).read_text(encoding="utf-8"),
    "bioimageio": _read_zipped,
}


def choose_engine(run_path: str | Path, name: str = "auto") -> tuple[str, Path]:
    """Says what a run's predictions are to be made with.

    Args:
        run_path: Folder of a run.
        name: `"keras"`, `"onnx"`, `"litert"`, or `"auto"` for the fastest of these: an export of the run's present
            model that agreed with Keras, was measured to be faster, and whose runtime is installed.

    Returns:
        Name and path, as `load_engine` takes them.

    Raises:
        InputError: If the export that is asked for is missing, was made of another model, or cannot be run here.
    """
    run_path = Path(run_path)
    if name not in ("auto", "keras", *SERVING):
        raise InputError(f"--engine must be auto, keras, {' or '.join(SERVING)}. Received: {name}.")
    table = {} if name == "keras" else read_exports(run_path)
    if name in SERVING:
        if why := _find_fault(run_path, name, table):
            again = " --overwrite" if name in table else ""
            raise InputError(
                f"--engine {name}: {why}; run resnet-zclass export --load_logs_path {run_path} --format {name}{again}."
            )
        return name, run_path / EXPORT_FOLDER / table[name]["file"]
    gains = {key: _gain(table[key]) for key in SERVING if not _find_fault(run_path, key, table)}
    best = max(gains, key=gains.get, default="keras")
    if gains.get(best, 0) <= 1:
        return "keras", run_path / KERAS_FILE
    return best, run_path / EXPORT_FOLDER / table[best]["file"]


def _gain(entry: Mapping[str, Any]) -> float:
    """How many times as fast as Keras an export was, both measured in the same minute."""
    return entry["crops_per_s"] / entry["keras_crops_per_s"]


def _find_fault(run_path: Path, name: str, table: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the run cannot be served by this export; empty if it can."""
    entry = table.get(name)
    if entry is None:
        return f"{run_path} has no such export"
    if not (run_path / EXPORT_FOLDER / entry["file"]).exists():
        return f"{run_path / EXPORT_FOLDER / entry['file']} is gone"
    if not extras.is_installed(RUNTIMES[name]):
        return f"{RUNTIMES[name]} is not installed (pip install 'resnet_zclass[export]')"
    if not entry["max_difference"] <= MAX_DIFFERENCE or entry["int8"]:
        return f"{run_path / EXPORT_FOLDER / entry['file']} differs from the model"
    if not (run_path / KERAS_FILE).is_file() or entry["model_sha256"] != hash_file(run_path / KERAS_FILE):
        return f"{run_path / EXPORT_FOLDER / entry['file']} was made of another model than {run_path / KERAS_FILE}"
    return ""


def read_exports(run_path: str | Path) -> dict[str, dict[str, Any]]:
    """The exports of a run that are in its folder: format (`_int8` added for those) to file and measurements.

    Raises:
        InputError: If the table is damaged.
    """
    path = Path(run_path) / EXPORT_FOLDER / EXPORTS_FILE
    if not path.is_file():
        return {}
    wanted = {"file", "model_sha256", "int8", *MEASURED}
    try:
        table = read_json(path)
        if not all(wanted <= set(entry) and Path(entry["file"]).name == entry["file"] for entry in table.values()):
            raise ValueError("an entry lacks something, or its file lies elsewhere")
        if not all(isinstance(entry[key], int | float) for entry in table.values() for key in MEASURED):
            raise ValueError("what was measured is no number")
        if not all(entry["keras_crops_per_s"] > 0 for entry in table.values()):
            raise ValueError("Keras computed nothing")
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it and export again.") from error
    return table
