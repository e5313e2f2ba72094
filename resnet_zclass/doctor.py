"""What this machine can do, and what is wrong with a set."""

import contextlib
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import resnet_zclass as rz
from resnet_zclass.command import command
from resnet_zclass.diagnosis import Finding, examine_set
from resnet_zclass.environment import describe_environment
from resnet_zclass.errors import InputError
from resnet_zclass.extras import is_installed
from resnet_zclass.images import list_images, read_pages
from resnet_zclass.memory import read_free_memory_gb
from resnet_zclass.options import DoctorOptions
from resnet_zclass.runs import choose_reading
from resnet_zclass.tree import find_splits

EXTRAS = {"export": "onnxruntime", "dask": "distributed", "tracks": "filterpy", "serve": "gradio"}
LOW_DISK_GB, LOW_MEMORY_GB = 5, 4
MOST_FILES = 20  # of unreadable ones that are named
SIDE = 1024  # of the matrices that a device multiplies


@command("doctor")
def main(options: DoctorOptions) -> None:
    """Prints what this machine has, and examines the set named by the options."""
    print("\n".join(f"{name:<16} {value}" for name, value in describe_environment().items()))
    print()
    findings = list(examine_machine())
    say(findings)
    if not options.data_path:
        return
    print(f"\n{options.data_path}")
    found = examine_folder(options.data_path, **choose_reading(options))
    say(found)
    if errors := [finding for finding in found if finding.level == "error"]:
        more = f" ({len(errors) - 1} more above)" if len(errors) > 1 else ""
        remedy = errors[0].remedy and f"; {errors[0].remedy}"
        raise InputError(f"train would refuse {options.data_path}: {errors[0].words}{remedy}.{more}")


def say(findings: list[Finding]) -> None:
    """Prints findings, a line each, with the remedy below."""
    for finding in findings:
        print(f"{finding.level:<8} {finding.words}" + (f"\n{'':<8}   -> {finding.remedy}" if finding.remedy else ""))


def examine_machine() -> Iterator[Finding]:
    """Whether there is a GPU and it is really used, memory, disk, and which extras are there."""
    yield from _check_gpu()
    free_gb, disk_gb = read_free_memory_gb(), shutil.disk_usage(Path.cwd()).free / 2**30
    for name, gb, low, remedy in (
        ("memory", free_gb, LOW_MEMORY_GB, "close other programs, or lower --batch_size and --im_size"),
        ("disk", disk_gb, LOW_DISK_GB, "runs, packs and features are written here; make room"),
    ):
        is_low = 0 < gb < low
        words = f"{name}: {gb:.1f} GB free" if gb else f"{name}: how much is free is not known"
        yield Finding("warning" if is_low else "ok" if gb else "note", words, remedy if is_low else "")
    for extra, module in EXTRAS.items():
        there = is_installed(module)
        remedy = "" if there else f"pip install 'resnet_zclass[{extra}]', if it is wanted"
        yield Finding("ok" if there else "note", f"extra {extra}: {'' if there else 'not '}installed", remedy)


def _check_gpu() -> Iterator[Finding]:
    device, seconds = time_product()
    words = f"{rz.backend.describe_devices()}; {2 * SIDE**3 / seconds / 1e9:,.0f} GFLOP/s in {device}"
    if rz.backend.has_gpu():
        used = "GPU" in device
        yield Finding("ok" if used else "warning", words, "" if used else "TensorFlow sees the GPU and does not use it")
    elif shutil.which("nvidia-smi") or Path("/dev/nvidia0").exists():
        remedy = "pip install 'tensorflow[and-cuda]' of the same version, and see that nvidia-smi runs"
        yield Finding("warning", f"there is an NVIDIA GPU that TensorFlow does not see: {words}", remedy)
    else:
        yield Finding("ok", words)


def time_product(n: int = 5) -> tuple[str, float]:
    """The device on which a product of two matrices really lay, and the seconds that one took, the least of `n`."""
    tf = rz.backend.tf
    matrix = tf.random.uniform((SIDE, SIDE))
    seconds = []
    for _ in range(n + 1):
        start = time.perf_counter()
        product = tf.matmul(matrix, matrix)
        product[0, 0].numpy()  # waits for it
        seconds.append(time.perf_counter() - start)
    return product.device.rsplit("device:", 1)[-1], min(seconds[1:])


def examine_folder(data_path: str, **reading: object) -> list[Finding]:
    """What `examine_set` finds of a folder; of one that cannot be read, why, and which files are to blame.

    Args:
        data_path: Folder of a set.
        reading: Keywords of `loader.read_dataset`.
    """
    try:
        return examine_set(rz.loader.read_dataset(data_path, **reading))
    except InputError as error:
        why, files = str(error).rstrip("."), list(_list_unreadable(Path(data_path)))
        return [*([] if why in {finding.words for finding in files} else [Finding("error", why)]), *files]


def _list_unreadable(path: Path) -> Iterator[Finding]:
    found, shapes = [], {}
    folders = (find_splits(path).values() or [path]) if path.is_dir() else []
    images = []
    for folder in folders:
        with contextlib.suppress(InputError):  # holds none
            images += list_images(folder, recursive=True)
    for image in images:
        try:
            pixels = read_pages(image)
            shapes.setdefault((*pixels.shape[1:], np.dtype(pixels.dtype).name), []).append(image)
        except InputError as error:
            found.append(error)
    for error in found[:MOST_FILES]:
        yield Finding("error", str(error).rstrip("."), "replace or remove it")
    if len(found) > MOST_FILES:
        yield Finding("error", f"and {len(found) - MOST_FILES:,} more that cannot be read")
    for shape, images in sorted(shapes.items(), key=lambda entry: len(entry[1]))[:-1][:MOST_FILES]:
        words = f"{len(images):,} images of {' x '.join(map(str, shape[:-1]))}, {shape[-1]}, unlike most: {images[0]}"
        yield Finding("note", words, "images of a set want one size (train --im_size), channels and bit depth")


if __name__ == "__main__":
    sys.exit(main())
