"""Sizes, exactness and speed of every export beside `model.predict`, in one process on the cores that there are.

`python -m benchmarks.exports [RUN]` exports a run's classifier (without RUN: the demo's network on noise) and a
ResNet50 of 224 px, with ImageNet weights if `--weights` names them. Every number stands between two timings of
`model.predict`, and its ratio is to the faster of these, so that what else the machine does weighs on both alike.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import report
from resnet_zclass import export_formats, models
from resnet_zclass.backend import keras
from resnet_zclass.classifier import read_classifier
from resnet_zclass.engines import EXPORT_FILES, load_engine
from resnet_zclass.export import files_of
from resnet_zclass.quantise import QUANTISERS

BATCHES = (1, 32)
METADATA = {"class_names": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", nargs="?", default="", help="folder of a run")
    parser.add_argument("--weights", default="none", help="weights of ResNet50 without top; default random ones")
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent on every number")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    if arguments.run:
        classifier = read_classifier(arguments.run)
        own, crops = classifier.model, classifier.crops
    else:
        own = models.build_classifier((32, 32, 1), 13, stem_stride=2)
        crops = rng.poisson(100, (64, 32, 32, 1)).astype(np.uint16)
    resnet50 = models.build_classifier((224, 224, 3), 39, "ResNet50", arguments.weights, scaling="range", hidden=1024)
    photos = rng.integers(0, 256, (64, 224, 224, 3)).astype(np.uint8)
    rows = []
    for name, model, images in (
        (arguments.run or "ResNet20, 32 px", own, crops),
        ("ResNet50, 224 px", resnet50, photos),
    ):
        rows += compare(name, model, images, arguments.seconds)
    report("exports", rows, weights=arguments.weights, seconds=arguments.seconds)


def compare(name: str, model: keras.Model, crops: np.ndarray, seconds: float) -> list[dict]:
    """Rows of the table of one model: a format each, INT8 too, and Keras itself."""

    def predict(images: np.ndarray) -> np.ndarray:
        return model.predict(images, verbose=0, batch_size=max(BATCHES))

    expected, rows = predict(crops), []
    # Before any other runtime is loaded: the threads of one that wait for work take the cores from Keras.
    keras_ms = {n: median_ms(predict, crops[:n], seconds) for n in BATCHES}
    with tempfile.TemporaryDirectory() as folder:
        for kind, path in write_all(model, crops, Path(folder)).items():
            engine = load_engine(kind.split()[0], path)
            files = [file for part in files_of(kind.split()[0], path) for file in (part, *part.rglob("*"))]
            row = {"model": name, "format": kind, "MB": sum(file.stat().st_size for file in files) / 1e6}
            row["max difference"] = float(np.abs(engine(crops) - expected).max())
            for n in BATCHES:
                ms = median_ms(engine, crops[:n], seconds)
                row |= {
                    f"ms, batch {n}": ms,
                    f"predict ms, batch {n}": keras_ms[n],
                    f"times, batch {n}": keras_ms[n] / ms,
                }
            row["crops/s, batch 32"] = 32e3 / row["ms, batch 32"]
            rows.append(row)
    return rows


def write_all(model: keras.Model, crops: np.ndarray, folder: Path) -> dict[str, Path]:
    """Writes the model in every format; paths by the name of the format, ` int8` added to those."""
    paths = {"keras": folder / "model.keras"}
    model.save(paths["keras"])
    for name, write in export_formats.WRITERS.items():
        paths[name] = folder / EXPORT_FILES[name]
        write(model, paths[name], METADATA)
    for name, quantise in QUANTISERS.items():
        paths[f"{name} int8"] = folder / f"int8_{EXPORT_FILES[name]}"
        quantise(model, paths[f"{name} int8"], crops[:32], METADATA)
    return paths


def median_ms(predict: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, seconds: float) -> float:
    """Median time of a prediction in ms; the first two are not counted."""
    times: list[float] = []
    predict(crops), predict(crops)
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        predict(crops)
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


if __name__ == "__main__":
    main()
