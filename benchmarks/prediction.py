"""Speed of `predict` against what people would use instead: `model.predict`, a bare loop over ONNX Runtime, OpenVINO.

Rows: one crop at a time and 256 at a time by a ResNet20 of 32 px; 200,000 crops from multi-page TIFFs by the command
(read, predict, write the CSV), where the others are given ready float32 arrays; and crops of 32 px that a ResNet50
brings to 64 and to 224 px itself, with an INT8 export beside it, for it is bound by arithmetic. Weights are random,
which changes no time. Every engine runs in a process of its own with nothing else loaded, in turns, `--rounds` times;
the best of each is shown, in crops/s, with its ratio to `model.predict` and to the bare loop of the same batch size.

Reach: 6 times `model.predict` at batch 1, twice in throughput; at least 0.9 of the bare loop, reading and writing
included.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import report
from benchmarks.predict_memory import simulate_crops

N_CLASSES, PER_FILE, BATCH = 39, 2000, 256
RESNETS = {"ResNet50, 64 px": 64, "ResNet50, 224 px": 224}
OURS, BARE, PREDICT = "predict, onnx", "bare ONNX Runtime", "model.predict"
ENGINES = (PREDICT, BARE, "OpenVINO", OURS, "predict, litert", "predict, keras")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crops", type=int, default=200_000, help="crops in TIFFs for the whole command")
    parser.add_argument("--crops_64", type=int, default=2000, help="crops for ResNet50 at 64 px")
    parser.add_argument("--crops_224", type=int, default=256, help="crops for ResNet50 at 224 px")
    parser.add_argument("--seconds", type=float, default=2.0, help="time spent on batch 1 and on batch 256")
    parser.add_argument("--rounds", type=int, default=2, help="processes per engine; of large jobs of the slow one")
    parser.add_argument("--no_int8", action="store_true", help="leave the INT8 exports out, which take a minute")
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)  # what a process of its own is to do, and its facts
    arguments = parser.parse_args()
    if arguments.step:
        name, facts = arguments.step
        print(json.dumps(STEPS[name](**json.loads(facts))))
        return
    n_of = dict(zip(RESNETS, (arguments.crops_64, arguments.crops_224), strict=True))
    with tempfile.TemporaryDirectory() as folder:
        prepare_apart(folder, ["ResNet20", *RESNETS], int8=not arguments.no_int8)
        rows = compare_small(folder, arguments.seconds, arguments.rounds)
        rows += compare_job(folder, arguments.crops, arguments.rounds)
        for model, n in n_of.items():
            rows += compare_large(folder, model, n, arguments.rounds)
    report("prediction", rows, rounds=arguments.rounds, seconds=arguments.seconds)


def in_process(step: str, **facts: object) -> dict:
    """What a step gives that is done in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.prediction", "--step", step, json.dumps(facts)]
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"failed: {' '.join(words[1:])}")
    return json.loads(done.stdout.splitlines()[-1])


def prepare_apart(folder: str, names: Sequence[str], int8: bool = False) -> None:
    """Makes a run of each network in a folder, its weights random, and exports it; in a process of its own."""
    in_process("prepare", folder=folder, names=names, int8=int8)


def compare_small(folder: str, seconds: float, rounds: int) -> list[dict]:
    """Rows of one crop and of 256 at a time."""
    found: dict[int, dict[str, float]] = {1: {}, BATCH: {}}
    for _ in range(rounds):
        for engine in ENGINES:
            rates = in_process("time_batches", folder=folder, engine=engine, seconds=seconds)
            for n in found:
                found[n][engine] = max(found[n].get(engine, 0.0), rates[str(n)])
    return [row for n, rates in found.items() for row in write_rows(f"ResNet20, batch {n}", rates, 6 if n == 1 else 2)]


def compare_job(folder: str, n: int, rounds: int) -> list[dict]:
    """Rows of the whole command on many crops."""
    paths = write_inputs(Path(folder), n)
    rates: dict[str, float] = {}
    for k in range(rounds):
        for engine in (BARE, OURS, PREDICT)[: 3 if k == 0 else 2]:
            batch = 64 if engine == BARE else BATCH  # the command computes 64 at a time
            facts = {"engine": engine, "batch": batch} if engine != OURS else {"inputs": paths}
            step = "run_command" if engine == OURS else "time_all"
            rate = n / in_process(step, folder=folder, model="ResNet20", n=n, **facts)["seconds"]
            rates[engine] = max(rates.get(engine, 0.0), rate)
    return write_rows(f"ResNet20, {n:,} crops", rates, 2)


def compare_large(folder: str, model: str, n: int, rounds: int) -> list[dict]:
    """Rows of a network that is bound by arithmetic."""
    rates: dict[str, float] = {}
    engines = [PREDICT, BARE, "OpenVINO", OURS]
    engines += [f"{OURS} int8"] if (Path(folder) / model / "export" / "int8.onnx").exists() else []
    for k in range(rounds):
        for engine in engines[0 if k == 0 else 1 :]:
            done = in_process("time_all", folder=folder, engine=engine, model=model, n=n, batch=64)
            rates[engine] = max(rates.get(engine, 0.0), n / done["seconds"])
    return write_rows(f"{model}, {n:,} crops", rates, 2)


def write_rows(job: str, rates: dict[str, float], reach: float) -> list[dict]:
    """Rows of a job, given the crops/s of every engine; what is ours is held against the reach."""
    return [
        {
            "job": job,
            "engine": engine,
            "crops/s": rate,
            "ms a crop": 1e3 / rate,
            "x model.predict": rate / rates[PREDICT],
            "x bare loop": rate / rates[BARE],
            "reach": f"x{reach} and x0.9" if engine == OURS else "",
            "reached": rate >= reach * rates[PREDICT] and rate >= 0.9 * rates[BARE] if engine == OURS else "",
        }
        for engine, rate in rates.items()
    ]


def write_inputs(folder: Path, n: int) -> str:
    """A folder of multi-page TIFFs that hold `n` crops."""
    from resnet_zclass.images import write_stack

    inputs = folder / "crops"
    inputs.mkdir()
    crops = simulate_crops(n)
    for start in range(0, n, PER_FILE):
        write_stack(inputs / f"{start:07d}.tif", crops[start : start + PER_FILE])
    return str(inputs)


def prepare(folder: str, names: Sequence[str], int8: bool) -> dict:
    """As `prepare_apart`, in this process."""
    import pandas as pd

    from resnet_zclass import models, runs
    from resnet_zclass.loader import read_dataset, write_dataset
    from resnet_zclass.options import TrainOptions

    labels = [f"{k:02d}" for k in range(N_CLASSES)]
    manifest = pd.DataFrame({"split": "train", "label": np.repeat(labels, 2), "source": "drawn"})
    manifest = manifest.assign(group=range(len(manifest)))
    classes = pd.DataFrame({"LabelText": labels, "LabelInteger": range(N_CLASSES), "z_um": 0.1 * np.arange(N_CLASSES)})
    data_path = Path(folder) / "set"
    data_path.mkdir()
    write_dataset(data_path, simulate_crops(len(manifest)), manifest, classes)
    options = TrainOptions(data_path=str(data_path))
    data = read_dataset(data_path, **runs.choose_reading(options))
    for name in names:
        im_size = RESNETS.get(name)
        run_path = Path(folder) / name
        runs.start_run(run_path, options, data)
        sizes = {"im_size": im_size} if im_size else {"stem_stride": options.stem_stride}
        model = models.build_classifier((32, 32, 1), N_CLASSES, name.split(",")[0], **sizes)
        model.save(run_path / runs.MODEL_FILE)
        export(run_path, model, data.crops[:32], int8 and im_size is not None, litert=im_size is None)
    return {}


def export(run_path: Path, model: object, crops: np.ndarray, int8: bool, litert: bool) -> None:
    """Exports a model into a run's folder, entered in its table as the command `export` does."""
    from resnet_zclass.engines import EXPORT_FILES, KERAS_FILE
    from resnet_zclass.export import write_entry
    from resnet_zclass.export_formats import WRITERS
    from resnet_zclass.files import hash_file
    from resnet_zclass.quantise import quantise_onnx

    (run_path / "export").mkdir()
    facts = {"max_difference": 0.0, "int8": False, "crops_per_s": 2.0, "keras_crops_per_s": 1.0}
    for name in ("onnx", "litert") if litert else ("onnx",):
        WRITERS[name](model, run_path / "export" / EXPORT_FILES[name], {"class_names": []})
        entry = {"file": EXPORT_FILES[name], "model_sha256": hash_file(run_path / KERAS_FILE)}
        write_entry(run_path / "export", name, entry | facts)
    if int8:
        quantise_onnx(model, run_path / "export" / "int8.onnx", crops, {"class_names": []})


def load(folder: str, engine: str, model: str, batch: int) -> Callable[[np.ndarray], object]:
    """A function that predicts float32 crops, `batch` at a time, as the users of an engine would."""
    run_path = Path(folder) / model
    onnx_path = run_path / "export" / ("int8.onnx" if engine.endswith("int8") else "model.onnx")
    if engine == PREDICT:
        from resnet_zclass.models import load_model

        classifier = load_model(run_path / "model.keras")
        return lambda crops: classifier.predict(crops, batch_size=batch, verbose=0)
    if engine.startswith("predict"):
        from resnet_zclass.engines import choose_engine, load_engine

        name = engine.split()[1]
        ours = load_engine(name, onnx_path if name == "onnx" else choose_engine(run_path, name)[1])
        return lambda crops: [ours(part) for part in cut(crops, batch)]
    return LOOPS[engine](onnx_path, batch)


def loop_onnxruntime(path: Path, batch: int) -> Callable[[np.ndarray], object]:
    """ONNX Runtime as it comes, which takes all cores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda crops: [session.run(None, {name: part})[0] for part in cut(crops, batch)]


def loop_openvino(path: Path, batch: int) -> Callable[[np.ndarray], object]:
    """OpenVINO in float32 as the others; by itself it takes bfloat16 where the processor has it."""
    import openvino

    compiled = openvino.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return lambda crops: [request.infer({0: part})[0].copy() for part in cut(crops, batch)]


LOOPS = {BARE: loop_onnxruntime, "OpenVINO": loop_openvino}


def cut(crops: np.ndarray, batch: int) -> Sequence[np.ndarray]:
    """Runs of `batch` crops."""
    return [crops[start : start + batch] for start in range(0, len(crops), batch)]


def time_batches(folder: str, engine: str, seconds: float) -> dict[str, float]:
    """Crops/s of an engine at batch 1 and at batch 256; the median of the calls."""
    crops = simulate_crops(BATCH)[..., None].astype(np.float32)
    predict = load(folder, engine, "ResNet20", BATCH)
    rates = {}
    for n in (1, BATCH):
        times: list[float] = []
        predict(crops[:n]), predict(crops[:n])
        while sum(times) < seconds or len(times) < 5:
            start = time.perf_counter()
            predict(crops[:n])
            times.append(time.perf_counter() - start)
        rates[str(n)] = n / float(np.median(times))
    return rates


def time_all(folder: str, engine: str, model: str, n: int, batch: int) -> dict[str, float]:
    """Time an engine takes for ready float32 crops; one batch before them is not counted, nor is loading."""
    crops = np.resize(simulate_crops(min(n, 20_000)), (n, 32, 32))[..., None].astype(np.float32)
    predict = load(folder, engine, model, batch)
    predict(crops[:batch])
    start = time.perf_counter()
    predict(crops)
    return {"seconds": time.perf_counter() - start}


def run_command(folder: str, model: str, n: int, inputs: str) -> dict[str, float]:
    """Time the command takes, loading of the engine included, once its modules are imported."""
    from resnet_zclass.predict import main as predict

    words = ["--load_logs_path", f"{folder}/{model}", inputs, "--engine", "onnx", "--overwrite"]
    start = time.perf_counter()
    if predict([*words, "--pred_save_path", f"{folder}/predictions.csv"]):
        raise SystemExit("predict failed")
    return {"seconds": time.perf_counter() - start}


STEPS = {"prepare": prepare, "time_batches": time_batches, "time_all": time_all, "run_command": run_command}

if __name__ == "__main__":
    main()
