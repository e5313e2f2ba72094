"""Exports a classifier for other runtimes; every export is run by its own runtime and compared with Keras."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass import metrics
from resnet_zclass.classifier import Classifier, find_split, locate, read_classifier, spread, spread_crops
from resnet_zclass.command import command
from resnet_zclass.engines import (
    EXPORT_FILES,
    EXPORT_FOLDER,
    EXPORTS_FILE,
    MAX_DIFFERENCE,
    Engine,
    load_engine,
    read_exports,
)
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import read_truth
from resnet_zclass.extras import check_installed
from resnet_zclass.files import check_output, check_replaceable, whole_file, whole_folder
from resnet_zclass.options import ExportOptions
from resnet_zclass.opts import require
from resnet_zclass.predict import predict_probabilities

NEEDS = {  # modules that writing and running a format takes
    "onnx": ("onnx", "tf2onnx", "onnxruntime"),
    "openvino": ("onnx", "tf2onnx", "openvino"),
    "litert": ("ai_edge_litert",),
    "tf_saved_model": (),
    "bioimageio": ("onnx", "tf2onnx", "onnxruntime", "bioimageio.core"),
}
INT8_FORMATS = ("onnx", "litert")
SAVED_MODEL_MARK = "saved_model.pb"
MAX_CALIBRATION = 200  # crops
MAX_SCORED = 4000  # crops on which INT8 is scored
MIN_TIMED, MIN_TIMING_S = 64, 0.3  # crops and seconds


@command("export")
def main(options: ExportOptions) -> None:
    """Exports what the options name, checks it, and says how it compares."""
    require(options, "load_logs_path")
    name = options.format
    if options.int8 and name not in INT8_FORMATS:
        raise InputError(f"--int8 goes with --format {' or '.join(INT8_FORMATS)}. Received: --format {name}.")
    check_installed(NEEDS[name])
    about = rz.bioimageio_package.read_about(options) if name == "bioimageio" else None
    source = locate(options.load_logs_path)
    path = name_export(source, name, options.save_path, options.int8)
    check_free(name, path, options.overwrite)
    if not options.save_path:
        read_exports(source)  # which the export is entered into
    classifier = read_classifier(source, options.data_path)
    write = choose_writer(classifier, name, options.int8, about)
    with stage(name, path, options.overwrite) as partial:
        write(partial)
        entry = measure(classifier, name, partial, options.batch_size, options.int8, options.max_accuracy_drop)
    entry = {"file": path.name, "model_sha256": classifier.metadata["model_sha256"], "int8": options.int8, **entry}
    if not options.save_path:
        write_entry(path.parent, f"{name}_int8" if options.int8 else name, entry)
    print(describe(name, path, entry))


def name_export(source: Path, name: str, save_path: str = "", int8: bool = False) -> Path:
    """Where an export is written to.

    Raises:
        InputError: If the name does not end as such files must, or is missing for a classifier that is of no run.

    >>> name_export(Path("logs/mine"), "litert", int8=True).as_posix()
    'logs/mine/export/model_int8.tflite'
    """
    usual = Path(EXPORT_FILES[name])
    if save_path:
        if Path(save_path).suffix != usual.suffix and usual.suffix:
            raise InputError(f"--save_path must end in {usual.suffix} with --format {name}. Received: {save_path}.")
        return Path(save_path)
    if source.suffix == ".keras":
        raise InputError(f"--save_path is missing; {source} is a file, not a run with a folder for exports.")
    if name == "bioimageio":
        usual = Path(f"{source.resolve().name}.bioimageio.zip")
    return source / EXPORT_FOLDER / (f"{usual.stem}_int8{usual.suffix}" if int8 else usual.name)


def files_of(name: str, path: Path) -> list[Path]:
    """The files, or the folder, that an export consists of."""
    return [path, path.with_suffix(".bin")] if name == "openvino" else [path]


def check_free(name: str, path: Path, overwrite: bool = False) -> None:
    """Raises `InputError` unless an export may be written to `path`."""
    if name == "tf_saved_model":
        check_replaceable(path, overwrite, SAVED_MODEL_MARK)
    else:
        for file in files_of(name, path):
            check_output(file, overwrite)


@contextlib.contextmanager
def stage(name: str, path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yields a path to write an export to; it takes the name `path` only when the block ends well."""
    with contextlib.ExitStack() as stack:
        if name == "tf_saved_model":
            yield stack.enter_context(whole_folder(path, overwrite, SAVED_MODEL_MARK))
        else:
            partials = [stack.enter_context(whole_file(file)) for file in files_of(name, path)]
            yield partials[0]


def choose_writer(classifier: Classifier, name: str, int8: bool, about: Any = None) -> Callable[[Path], None]:
    """The function that writes an export to a path."""
    model, metadata = classifier.model, classifier.metadata | {"int8": int8}
    if name == "bioimageio":
        return lambda path: rz.bioimageio_package.write_package(classifier, path, metadata, about)
    if not int8:
        return lambda path: rz.export_formats.WRITERS[name](model, path, metadata)
    if classifier.data is None:
        raise InputError("--int8 is calibrated on real crops: give their set with --data_path.")
    crops = spread_crops(classifier.data, find_split(classifier.data, ("val", "train")), MAX_CALIBRATION)
    return lambda path: rz.quantise.QUANTISERS[name](model, path, crops, metadata)


def measure(
    classifier: Classifier, name: str, path: Path, batch_size: int = 64, int8: bool = False, max_drop: float = 0.005
) -> dict[str, Any]:
    """Runs an export in its own runtime beside Keras.

    Args:
        classifier: What was exported.
        name: The format.
        path: What was written.
        batch_size: Crops per step of the Keras model.
        int8: Whether it was quantised: then its score is compared, else its probabilities are.
        max_drop: Score that quantising may cost.

    Returns:
        `max_difference` of a probability, `crops_per_s` of the export and of Keras, `size_mb`; for INT8 also `score`,
        `before`, `metric`, `split`.

    Raises:
        InputError: If the export differs by more than `MAX_DIFFERENCE`, or costs more than `max_drop`.
    """
    engine = load_engine(name, path)
    # Keras is what exports are measured against: on newer GPUs it would multiply with 10 bits and miss by 1e-3.
    rz.backend.tf.config.experimental.enable_tensor_float_32_execution(False)

    def run_keras(crops: np.ndarray) -> np.ndarray:
        return predict_probabilities(classifier.model, crops, batch_size)

    difference = compare(engine, run_keras(classifier.crops), classifier.crops)
    if not int8 and not difference <= MAX_DIFFERENCE:
        raise InputError(
            f"the export to {name} differs from Keras by {difference:.2g} on {len(classifier.crops)} crops, more than "
            f"{MAX_DIFFERENCE:g}; nothing was written."
        )
    scores = score_int8(classifier, engine, run_keras, max_drop) if int8 else {}
    size = sum(
        file.stat().st_size for part in files_of(name, path) for file in (part, *part.rglob("*")) if file.is_file()
    )
    timed = np.resize(classifier.crops, (max(len(classifier.crops), MIN_TIMED), *classifier.crops.shape[1:]))
    return {
        "max_difference": difference,
        "crops_per_s": crops_per_s(engine, timed),
        "keras_crops_per_s": crops_per_s(run_keras, timed),
        "size_mb": size / 1e6,
        **scores,
    }


def compare(engine: Engine, expected: np.ndarray, crops: np.ndarray) -> float:
    """Greatest |difference| of a probability from those `expected` `(N, K)`: of all crops at once, of one, of three."""
    ways = (engine(crops), np.concatenate([engine(crops[:1]), engine(crops[1:4])]))
    return max(float(np.abs(found - expected[: len(found)]).max()) for found in ways)


def crops_per_s(predict: Engine, crops: np.ndarray) -> float:
    """How many crops a second an engine predicts that has predicted before; the best of some runs."""
    times: list[float] = []
    while sum(times) < MIN_TIMING_S:
        start = time.perf_counter()
        predict(crops)
        times.append(time.perf_counter() - start)
    return len(crops) / min(times)


def score_int8(classifier: Classifier, engine: Engine, run_keras: Engine, max_drop: float = 0.005) -> dict[str, Any]:
    """Scores an engine and Keras on the split test (val where there is none), and says so.

    Raises:
        InputError: If the engine's score is lower by more than `max_drop`.
    """
    data = classifier.data
    split = find_split(data, ("test", "val", "train"))
    indices = spread(data.indices(split), MAX_SCORED)
    truth, crops = read_truth(data)[indices], data.crops[indices]
    metric = "accuracy" if classifier.thresholds is None else "macro_f1"

    def score(probabilities: np.ndarray) -> float:
        if classifier.thresholds is None:
            return metrics.classification_metrics(truth, probabilities)[metric]
        return metrics.multi_label_metrics(truth, probabilities, classifier.thresholds)[metric]

    before, after = score(run_keras(crops)), score(engine(crops))
    print(f"{metric} on {len(crops)} crops of the split {split}: {before:.4f} before, {after:.4f} with INT8")
    if not before - after <= max_drop:
        raise InputError(
            f"--int8 costs {before - after:.4f} of {metric}, more than --max_accuracy_drop {max_drop:g}; nothing was "
            "written."
        )
    return {"metric": metric, "split": split, "before": before, "score": after}


def write_entry(folder: Path, key: str, entry: dict[str, Any]) -> None:
    """Enters an export into the table of those that lie in a run's folder `export`."""
    table = read_exports(folder.parent) | {key: entry}
    with whole_file(folder / EXPORTS_FILE) as partial:
        partial.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


def describe(name: str, path: Path, entry: dict[str, Any]) -> str:
    """One line on an export.

    >>> entry = {"size_mb": 1.4, "max_difference": 2e-6, "crops_per_s": 900.0, "keras_crops_per_s": 300.0}
    >>> describe("onnx", Path("model.onnx"), entry)
    'onnx: model.onnx, 1.4 MB, differs from Keras by 2e-06 at most, 900 crops/s (Keras 300)'
    """
    return (
        f"{name}: {path}, {entry['size_mb']:.1f} MB, differs from Keras by {entry['max_difference']:.1g} at most, "
        f"{entry['crops_per_s']:.0f} crops/s (Keras {entry['keras_crops_per_s']:.0f})"
    )


if __name__ == "__main__":
    sys.exit(main())
