"""Images on disk to an array: a folder of single TIFFs and one of multi-page TIFFs, against the peers' loaders.

Our rows are `loader.read_dataset` from the call to the array in memory: the first run decodes and packs, the second
reads the pack. The peers' are one pass over all images, which is what they cost in every epoch:

- `ImageDataGenerator` (Keras' legacy one) with the original scripts' settings: batches of 50, scaled by 1/255, resized
  to 256 px as RGB, flips.
- `image_dataset_from_directory`, gray at the size of the files. It reads no TIFF, so it gets 8-bit PNG copies.
- A PyTorch `Dataset` on tifffile with a `DataLoader` of 0 and of 2 workers, gray at the size of the files.

Every run is a process of its own, whose libraries are imported before the clock starts. Files are in the disk's cache.
Reach: second run 50 times faster than a pass of `ImageDataGenerator`, first run twice.
"""

import argparse
import importlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.measure import report

N_CLASSES, CROP_PX, IM_SIZE, BATCH_SIZE = 39, 32, 256, 50
REACH = {"single TIFFs, second run": 50, "multi-page TIFFs, second run": 50, "single TIFFs, first run": 2}


def write_sets(folder: Path, per_class: int) -> None:
    """The same crops three times: single TIFFs, multi-page TIFFs as `write_dataset` writes them, single 8-bit PNGs."""
    import imageio.v3 as iio
    import pandas as pd
    import tifffile

    from resnet_zclass.loader import write_dataset

    names = [f"{k:02d}" for k in range(N_CLASSES)]
    labels = np.repeat(names, per_class)
    crops = np.random.default_rng(0).poisson(300, (len(labels), CROP_PX, CROP_PX)).astype("uint16")
    classes = pd.DataFrame({"LabelText": names, "LabelInteger": range(N_CLASSES)})
    manifest = pd.DataFrame({"split": "train", "label": labels, "group": np.arange(len(labels)), "source": "noise"})
    (folder / "pages").mkdir(parents=True)
    write_dataset(folder / "pages", crops, manifest, classes)
    for kind, write in (("single", tifffile.imwrite), ("png", iio.imwrite)):
        for name in names:
            (folder / kind / "train" / name).mkdir(parents=True)
        for i, (crop, label) in enumerate(zip(crops, labels, strict=True)):
            crop = (crop // 16).astype("uint8") if kind == "png" else crop
            write(folder / kind / "train" / label / f"{i:06d}.{'png' if kind == 'png' else 'tif'}", crop)
        classes.to_excel(folder / kind / "class-labels.xlsx", index=False)


def read_ours(path: Path) -> Callable[[], int]:
    for name in ("pandas", "openpyxl", "h5py", "rich.progress"):  # which the package imports as it needs them
        importlib.import_module(name)
    from resnet_zclass.loader import read_dataset

    return lambda: len(read_dataset(path).crops)


def read_generator(path: Path) -> Callable[[], int]:
    from resnet_zclass.backend import keras  # noqa: F401 - quietly

    from keras.src.legacy.preprocessing.image import ImageDataGenerator  # isort: skip

    generator = ImageDataGenerator(rescale=1 / 255, horizontal_flip=True, vertical_flip=True)

    def run() -> int:
        batches = generator.flow_from_directory(path / "train", target_size=(IM_SIZE, IM_SIZE), batch_size=BATCH_SIZE)
        return sum(len(next(batches)[0]) for _ in range(len(batches)))

    return run


def read_directory(path: Path) -> Callable[[], int]:
    from resnet_zclass.backend import keras

    def run() -> int:
        batches = keras.utils.image_dataset_from_directory(
            path / "train", color_mode="grayscale", image_size=(CROP_PX, CROP_PX), batch_size=BATCH_SIZE, verbose=False
        )
        return sum(len(x) for x, _ in batches)

    return run


def read_torch(path: Path, workers: int = 0) -> Callable[[], int]:
    import tifffile
    import torch

    class Crops(torch.utils.data.Dataset):
        def __init__(self):
            names = sorted(folder.name for folder in (path / "train").iterdir())
            self.files = [(f, k) for k, name in enumerate(names) for f in sorted((path / "train" / name).iterdir())]

        def __len__(self):
            return len(self.files)

        def __getitem__(self, i):
            file, label = self.files[i]
            return torch.from_numpy(tifffile.imread(file).astype("float32"))[None], label

    def run() -> int:
        loader = torch.utils.data.DataLoader(Crops(), batch_size=BATCH_SIZE, shuffle=True, num_workers=workers)
        return sum(len(x) for x, _ in loader)

    return run


# Every row: its folder, whether the pack is taken away before, and what is timed.
PARTS = {
    "single TIFFs, first run": ("single", True, read_ours),
    "single TIFFs, second run": ("single", False, read_ours),
    "multi-page TIFFs, first run": ("pages", True, read_ours),
    "multi-page TIFFs, second run": ("pages", False, read_ours),
    "ImageDataGenerator, a pass": ("single", False, read_generator),
    "image_dataset_from_directory (PNG), a pass": ("png", False, read_directory),
    "PyTorch DataLoader, 0 workers, a pass": ("single", False, read_torch),
    "PyTorch DataLoader, 2 workers, a pass": ("single", False, lambda path: read_torch(path, 2)),
}


def time_part(part: str, folder: Path) -> dict | None:
    """Seconds and images of one part in a process of its own; None where its library is missing."""
    kind, is_first, _ = PARTS[part]
    if is_first:
        for pack in folder.glob(f"{kind}*.packed.h5"):
            pack.unlink()
    words = [sys.executable, "-m", "benchmarks.loading", "--part", part, "--folder", str(folder / kind)]
    done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run_part(part: str, path: Path) -> dict | None:
    """Runs one part here."""
    try:
        run = PARTS[part][2](path)
    except ModuleNotFoundError:
        return None
    start = time.perf_counter()
    n_images = run()
    return {"seconds": time.perf_counter() - start, "images": n_images}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per_class", type=int, default=150, help=f"images of each of {N_CLASSES} classes")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--part", help="run one part in this process (used by the script itself)")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(run_part(arguments.part, arguments.folder)))
        return
    found: dict[str, list[float]] = {part: [] for part in PARTS}
    n_images = N_CLASSES * arguments.per_class
    with tempfile.TemporaryDirectory() as tmp:
        write_sets(Path(tmp), arguments.per_class)
        for _ in range(arguments.repeats):  # in turns, so that all see the same machine
            for part in PARTS:
                if result := time_part(part, Path(tmp)):
                    assert result["images"] == n_images, part
                    found[part].append(result["seconds"])
    medians = {part: statistics.median(seconds) for part, seconds in found.items() if seconds}
    peer = medians["ImageDataGenerator, a pass"]
    rows = [
        {
            "loader": part,
            "seconds": medians.get(part, "not installed"),
            "images/s": n_images / medians[part] if part in medians else "",
            "times as fast as ImageDataGenerator": peer / medians[part] if part in medians else "",
            "reach": REACH.get(part, ""),
        }
        for part in PARTS
    ]
    report("loading", rows, images=n_images)


if __name__ == "__main__":
    main()
