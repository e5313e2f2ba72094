"""ResNet50 of this package on one GPU, run by Keras on JAX and on torch, beside torchvision's own ResNet50 in PyTorch.

    python -m benchmarks.gpu_peers --write FOLDER                        # with this package: architectures as JSON
    python -m benchmarks.gpu_peers --run FOLDER --out FILE --limit_s 420 # with a GPU: Keras, JAX, torch, torchvision
    python -m benchmarks.gpu_peers --report FILE                         # with this package: table of what was found

The machine with the GPU needs no TensorFlow and not this package. Weights do not travel: random ones are as fast.

A training step is a whole one: batches of raw 32 x 32 crops (uint16) on the host, in-model normalisation and resize to
224 or 256 px, forward, backward, RMSprop, loss and accuracy. `fit` is that; `resident` is the same compiled step on a
batch that stays on the GPU, so it says what the host costs. Inference is from crops to probabilities on the host.
Work is counted once by TensorFlow's profiler (multiply and add are two operations), three times a prediction's for
training, and set against the chip's dense 16-bit peak, float32 too (where convolutions and products run in TF32, as
is the frameworks' default for convolutions).

Keras on JAX is compiled by XLA (`jit_compile="auto"`), channels last as the model says; XLA chooses the layouts inside.
Keras on torch is eager, its default. PyTorch is used as its users would: channels last, `torch.compile`, bf16 autocast,
`foreach` RMSprop. Its network is made to do the same work: strides stand in the first convolution of a block, as in
Keras' ResNet50, and the head and the normalisation are this package's. Keras' convolutions have biases beside.
"""

import argparse
import contextlib
import importlib.metadata
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.gpu_runners import CROP_PX, HIGH, LOW, N_CLASSES, KerasRunner, TorchRunner, time_windows
from benchmarks.measure import describe_machine, report

PEAK_TFLOPS = 989  # dense 16-bit, of H100 and H200 (SXM), from the maker's data sheet
POLICIES = {"bfloat16": "mixed_bfloat16", "float32": "float32"}
BACKENDS = {"Keras on JAX": "jax", "Keras on torch": "torch", "PyTorch": ""}

TRAINING, ALL = ("fit", "resident"), ("fit", "resident", "predict")
# px, batch, precision, parts: the most telling first.
FIRST = [(256, 256, "bfloat16", ALL), (224, 256, "bfloat16", ALL), (256, 256, "float32", TRAINING)]
THEN = [(256, 64, "bfloat16", TRAINING), (256, 128, "bfloat16", TRAINING), (224, 256, "float32", TRAINING)]
THEN += [(256, 256, "float32", ("predict",)), (224, 64, "bfloat16", ALL), (224, 128, "bfloat16", ALL)]
THEN += [(px, batch, "float32", ALL) for batch in (64, 128) for px in (256, 224)]
# A process each, with the share of the time still left that it may take.
LEGS = [
    ("Keras on JAX", FIRST, 0.45),
    ("PyTorch", FIRST, 0.6),
    ("Keras on torch", FIRST, 0.35),
    ("Keras on JAX", THEN, 0.55),
    ("PyTorch", THEN, 1.0),
]
VERSIONS = ("keras", "jax", "jaxlib", "jax-cuda13-plugin", "torch", "torchvision", "triton", "numpy")
VERSIONS += ("nvidia-cuda-runtime", "nvidia-cudnn-cu13", "nvidia-cublas")


def write_models(folder: Path, sides_px: list[int]) -> None:
    """Writes every architecture as JSON, and operations of a prediction of one image."""
    import resnet_zclass as rz
    from benchmarks.gpu_throughput import count_flops

    folder.mkdir(parents=True, exist_ok=True)
    pixels = rz.pixels.Pixels(low=(float(LOW),), high=(float(HIGH),))
    keras, flops = rz.backend.keras, {}
    for px, (precision, policy) in itertools.product(sides_px, POLICIES.items()):
        keras.mixed_precision.set_global_policy(policy)
        model = rz.models.build_classifier(
            (CROP_PX, CROP_PX, 1), N_CLASSES, "ResNet50", im_size=px, scaling="range", pixels=pixels
        )
        (folder / f"{px}_{precision}.json").write_text(model.to_json())
        flops[str(px)] = count_flops(model)
    (folder / "flops.json").write_text(json.dumps(flops))
    print(f"written to {folder}: {flops}")


def time_part(run, batch: int, window_s: float, n_windows: int) -> dict[str, float]:
    """Images/s, median of some windows, their spread, and seconds of the first step, which compiles."""
    start = time.perf_counter()
    run(1, 1)
    first_s = time.perf_counter() - start
    run(2, 1)
    step_s = statistics.median(run(4, 3)) / 4
    n_steps = min(max(round(window_s / step_s), 2), 200)
    seconds = sorted(run(n_steps, n_windows))
    images = n_steps * batch
    found = {"images/s": images / statistics.median(seconds), "first step s": first_s}
    return found | {"slowest": images / seconds[-1], "fastest": images / seconds[0], "steps": n_steps}


def run_leg(folder: Path, out: Path, framework: str, jobs: list, window_s: float, n_windows: int) -> None:
    """Runs jobs of one framework in this process, and writes a line for each part of each."""
    if framework == "PyTorch":
        write_line(out, {"part": "ceiling"} | measure_product())
    for px, batch, precision, parts in jobs:
        job = {"framework": framework, "px": px, "batch": batch, "precision": precision}
        try:
            start = time.perf_counter()
            runner = (KerasRunner if BACKENDS[framework] else TorchRunner)(folder, px, batch, precision)
            build_s = time.perf_counter() - start
            for part in parts:
                found = time_part(getattr(runner, part), batch, window_s, n_windows)
                write_line(out, job | {"part": part} | found | {"build s": build_s, "clocks": query_gpu("clocks.sm")})
            if "fit" in parts and framework == "Keras on JAX":
                write_line(out, job | {"part": "layouts", "layouts": runner.describe_layouts()})
        except Exception as error:  # memory, say: the jobs after it may do
            write_line(out, job | {"part": "error", "error": f"{type(error).__name__}: {error}"[:500]})
        runner = None
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()
    write_line(out, {"part": "end of leg", "framework": framework, "tensorflow": "tensorflow" in sys.modules})


def measure_product(side: int = 8192) -> dict[str, object]:
    """TFLOP/s of a product of two matrices of 16 bits, what can be had of the chip's peak; CUDA of torch."""
    import torch

    if not torch.cuda.is_available():
        return {"CUDA": torch.version.cuda}
    a, b = torch.randn(2, side, side, device="cuda", dtype=torch.bfloat16)
    seconds = statistics.median(time_windows(lambda: a @ b, 10, 7)[2:]) / 10
    return {"CUDA": torch.version.cuda, "product TFLOP/s": 2 * side**3 / seconds / 1e12}


def write_line(out: Path, found: dict) -> None:
    """Prints a line of JSON and adds it to a file, so that what was found is kept when time runs out."""
    line = json.dumps(found)
    print(line, flush=True)
    with out.open("a") as file:
        file.write(line + "\n")


def query_gpu(facts: str) -> str:
    """What `nvidia-smi` says; empty without it."""
    try:
        words = ["nvidia-smi", f"--query-gpu={facts}", "--format=csv,noheader"]
        return subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def run_legs(folder: Path, out: Path, limit_s: float, is_quick: bool) -> None:
    """Runs every leg in a process of its own, and ends those that take more than their share of the time."""
    end = time.monotonic() + limit_s
    gpu = query_gpu("name,driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu")
    versions = {name: find_version(name) for name in VERSIONS}
    flops = json.loads((folder / "flops.json").read_text())
    machine = {"gpu": gpu or "none"} | describe_machine()
    write_line(out, {"part": "machine", "machine": machine, "versions": versions, "flops": flops, "limit_s": limit_s})
    quick = [(int(px), 2, precision, ALL) for px in flops for precision in POLICIES]
    for framework, jobs, share in LEGS[:3] if is_quick else LEGS:
        leg = json.dumps([framework, quick if is_quick else jobs, 0.1 if is_quick else 1.5, 2 if is_quick else 5])
        words = [sys.executable, "-m", "benchmarks.gpu_peers", "--run", folder, "--out", out, "--leg", leg]
        backend = BACKENDS[framework] or "torch"
        env = os.environ | {"KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        seconds = share * (end - time.monotonic())
        with subprocess.Popen(list(map(str, words)), env=env, start_new_session=True) as process:
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                print(f"{framework}: ended after {seconds:.0f} s", flush=True)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # helpers that compile too


def find_version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "-"


def report_file(path: Path) -> None:
    """Table of the lines of a file that `--run` wrote."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    head = next(line for line in lines if line["part"] == "machine")
    ceiling = next((line for line in lines if line["part"] == "ceiling"), {})
    jobs: dict[tuple, dict] = {}
    for line in lines:
        if "px" in line:
            key = (line["precision"], line["px"], line["batch"], line["framework"])
            jobs.setdefault(key, {})[line["part"]] = line
    rows = []
    for (precision, px, batch, framework), parts in sorted(jobs.items(), key=lambda job: order_of(*job[0])):
        peer = jobs.get((precision, px, batch, "PyTorch"), {})
        speed, peer_speed = ({part: line.get("images/s") for part, line in found.items()} for found in (parts, peer))
        if not any(speed.values()):
            continue
        fit = speed.get("fit")
        tflops = fit and 3 * head["flops"][str(px)] * fit / 1e12
        row = {"framework": framework, "px": px, "batch": batch, "precision": precision}
        row |= {"training images/s": fit, "share of the 16-bit peak": tflops and tflops / PEAK_TFLOPS}
        row |= {"training times PyTorch": divide(fit, peer_speed.get("fit"))}
        row |= {"on resident batches": speed.get("resident"), "inference images/s": speed.get("predict")}
        row |= {"inference times PyTorch": divide(speed.get("predict"), peer_speed.get("predict"))}
        row |= {"first step s": parts.get("fit", {}).get("first step s")}
        rows.append({name: "-" if value is None else value for name, value in row.items()})
    layouts = {
        f"{line['px']} px, batch {line['batch']}, {line['precision']}": line["layouts"]
        for line in lines
        if line.get("layouts")
    }
    errors = [line for line in lines if line["part"] == "error"]
    versions = head["versions"] | ({"CUDA": ceiling["CUDA"]} if ceiling.get("CUDA") else {})
    facts = {"machine": head["machine"], "versions": versions, "peak_tflops": PEAK_TFLOPS, "flops": head["flops"]}
    facts |= {"product_tflops": ceiling.get("product TFLOP/s"), "layouts": layouts, "errors": errors}
    facts["command"] = f"python -m benchmarks.gpu_peers --run FOLDER --limit_s {head['limit_s']:g}"
    report("gpu_peers", rows, **facts)


def order_of(precision: str, px: int, batch: int, framework: str) -> tuple:
    return precision, -px, -batch, list(BACKENDS).index(framework)


def divide(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours and theirs else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    step = parser.add_mutually_exclusive_group(required=True)
    for name in ("write", "run", "report"):
        step.add_argument(f"--{name}", type=Path)
    parser.add_argument("--px", type=int, nargs="+", default=[224, 256], help="sides to write")
    parser.add_argument("--out", type=Path, default=Path("gpu_peers.jsonl"))
    parser.add_argument("--limit_s", type=float, default=420, help="time that --run may take")
    parser.add_argument("--quick", action="store_true", help="batches of 2, short windows: to see that all works")
    parser.add_argument("--leg", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write_models(options.write, options.px)
    elif options.leg:
        run_leg(options.run, options.out, *options.leg)
    elif options.run:
        run_legs(options.run, options.out, options.limit_s, options.quick)
    else:
        report_file(options.report)


if __name__ == "__main__":
    main()
