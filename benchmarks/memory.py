"""Peak memory of training: ResNet50 on 5,850 crops against a bare `fit` on tensors, and sets that stay on disk.

`bare`, `round_1`, `round_2`: 5,850 crops at 256 px, batch 32. Round 1 runs over all crops (one stored view; flips make
four, and `bytes` says what they weigh); round 2 and the bare fit stop after a few steps, when nothing grows any more.
Weights are random: they do not change the memory. Ten minutes on two cores; `--crops` makes it shorter. Reach: round 1
below 2.5 GB, round 2 at most 0.3 GB over the bare fit.

`pack_1`, `pack_10`, `pack_100`: a small net is trained for 300 steps on batches of 64, shuffled over all of a pack
of 1, 10 and 100 % of `--pack_gb`. Reach: as much memory of its own at 100 % as at 1 %, but for what `bytes` lists.
Targets are one array `(N, 39)`, or with `--targets rows` rows that are looked up by label, batch by batch.

`read`: crops a second of random batches of 16 and of 64 out of the largest pack, against h5py's own choice of rows.
No reach: from disk the disk decides.

`bytes`: what grows with the number of crops, at 1,000,000 of them; 0.001 GB are a byte per crop.

Without a name all parts but those of packs run. Packs are made in `--folder` when they are first wanted and stay
there until the last part named is done, or longer with `--keep`. Memory of its own is the peak of `RssAnon` in
`/proc/self/status`, watched 50 times a second; the peak (`VmHWM`) also counts the pages of libraries. What the system
keeps of a file that is read counts in neither.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import peak_memory_gb, report

N_CLASSES, N_PER_CLASS, CROP_PX, IM_SIZE, BATCH_SIZE, STEPS = 39, 150, 32, 256, 32, 6
PACK_BATCH, PACK_STEPS = 64, 300
SHARES = {"pack_1": 0.01, "pack_10": 0.1, "pack_100": 1.0}
N_BYTES = 1_000_000


def write_set(folder: Path, n_per_class: int) -> None:
    """Training crops of 32 x 32 uint16 and 39 * 2 validation crops of noise."""
    from resnet_zclass.loader import write_dataset

    names = [f"{k:02d}" for k in range(N_CLASSES)]
    split = np.tile(["train"] * n_per_class + ["val"] * 2, N_CLASSES)
    label = np.repeat(names, n_per_class + 2)
    manifest = pd.DataFrame({"split": split, "label": label, "group": np.arange(len(label)), "source": "noise"})
    crops = np.random.default_rng(0).integers(0, 4000, (len(label), CROP_PX, CROP_PX)).astype("uint16")
    folder.mkdir()
    write_dataset(folder, crops, manifest, pd.DataFrame({"LabelText": names, "LabelInteger": range(N_CLASSES)}))


def build():
    import resnet_zclass as rz

    return rz.models.build_classifier((CROP_PX, CROP_PX, 1), N_CLASSES, "ResNet50", im_size=IM_SIZE, scaling="range")


def fit_bare(data_path: Path) -> None:
    """Keras alone: as many crops as one array, all layers trained."""
    model = build()
    n = len(pd.read_csv(data_path / "manifest.csv")) - 2 * N_CLASSES
    crops = np.zeros((n, CROP_PX, CROP_PX, 1), "float32")
    targets = np.eye(N_CLASSES, dtype="float32")[np.arange(len(crops)) % N_CLASSES]
    model.compile("rmsprop", "categorical_crossentropy", jit_compile=False)
    model.fit(crops[: STEPS * BATCH_SIZE], targets[: STEPS * BATCH_SIZE], batch_size=BATCH_SIZE, verbose=2)


def fit_round_1(data_path: Path) -> None:
    """What `train` does in round 1: features of every crop, and the head on them."""
    import resnet_zclass as rz

    data = rz.loader.read_dataset(data_path)
    model, train = build(), data.indices("train")
    rz.models.apply_freeze(model, "head_only")
    targets = rz.metrics.one_hot(data.labels, N_CLASSES)[train]
    fit = rz.opts.pick(rz.options.TrainOptions(batch_size=BATCH_SIZE), *rz.train.FIT_OPTIONS)
    views = rz.views.list_views({}, rz.augment.build_augment(), data.crops.shape[1:], 4)
    round_ = rz.rounds.Round("origin_model", "head_only", 1, 1e-3)
    rz.rounds.fit_head(model, rz.pack.Subset(data.crops, train), targets, None, round_, lambda **_: [], fit, views)


def fit_round_2(data_path: Path) -> None:
    """What `train` does in round 2, for a few steps: batches from the loader, all layers trained."""
    import resnet_zclass as rz

    data = rz.loader.read_dataset(data_path)
    model, train = build(), data.indices("train")
    targets = rz.metrics.one_hot(data.labels, N_CLASSES)
    batches = rz.batches.training_batches(
        rz.pack.Subset(data.crops, train), targets[train], BATCH_SIZE, 0, rz.augment.build_augment(flip=True)
    )
    model.compile("rmsprop", "categorical_crossentropy", jit_compile=False)
    model.fit(batches, steps_per_epoch=STEPS, verbose=2)


def pack_path(folder: Path, share: float, options: argparse.Namespace) -> Path:
    """The pack of a share of `--pack_gb`, made unless it is there: random pixels, as `pack_images` lays them out."""
    import h5py

    height, width, channels = options.pack_shape
    dtype = np.dtype(options.pack_dtype)
    crop_bytes = height * width * channels * dtype.itemsize
    n = int(options.pack_gb * 1e9 * share / crop_bytes)
    path = folder / f"{n}_{height}_{width}_{channels}_{dtype}.packed.h5"
    if path.exists():
        return path
    run = max(1, min(n, 2**26 // crop_bytes))
    noise = (
        np.random.default_rng(0)
        .integers(0, 256, (run, crop_bytes), "uint8")
        .view(dtype)
        .reshape(run, height, width, -1)
    )
    shape, chunk, done = noise.shape[1:], max(1, 2**16 // crop_bytes), 0
    with h5py.File(path.with_suffix(".partial"), "w") as pack:
        data = pack.create_dataset("crops", (0, *shape), dtype, maxshape=(None, *shape), chunks=(chunk, *shape))
        while done < n:
            part = noise[: n - done]
            data.resize(done + len(part), axis=0)
            data[done:] = part
            done += len(part)
        pack["n_pages"] = [n]
        pack["digests"] = np.char.zfill(np.arange(n).astype("S16"), 16)
        pack.attrs["key"], pack.attrs["resized"] = "noise", False
    path.with_suffix(".partial").rename(path)
    return path


def fit_pack(path: Path, targets_as: str) -> dict[str, float]:
    """Trains a small net on a pack as `train` does on one that is larger than memory; returns crops and speed."""
    import keras

    import resnet_zclass as rz

    crops = rz.pack.PackedCrops(path)
    n = len(crops)
    labels = np.arange(n) % N_CLASSES
    if targets_as == "rows":
        targets = rz.pack.Subset(rz.metrics.one_hot(np.arange(N_CLASSES), N_CLASSES), labels)
    else:
        targets = rz.metrics.one_hot(labels, N_CLASSES)
    batches = rz.batches.training_batches(rz.pack.Subset(crops, np.arange(n)), targets, PACK_BATCH, 0)
    layers = [
        keras.layers.Rescaling(1e-4),
        keras.layers.Conv2D(8, 7, strides=4, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(N_CLASSES, activation="softmax"),
    ]
    model = keras.Sequential([keras.Input(crops.shape[1:]), *layers])
    model.compile("rmsprop", "categorical_crossentropy", jit_compile=False)
    model.fit(batches, steps_per_epoch=10, verbose=2)
    start = time.perf_counter()
    model.fit(batches, steps_per_epoch=PACK_STEPS, verbose=2)
    return {"crops": n, "crops/s": PACK_STEPS * PACK_BATCH / (time.perf_counter() - start)}


def read_pack(path: Path, n_crops: int = 6400) -> list[dict]:
    """Crops a second of random batches, by h5py and by `PackedCrops`: from disk, and again from the system's memory."""
    import h5py

    import resnet_zclass as rz

    packed, data = rz.pack.PackedCrops(path), h5py.File(path, "r")["crops"]

    def by_h5py(indices: np.ndarray) -> np.ndarray:
        order, place = np.unique(indices, return_inverse=True)
        return data[order][place]

    rng, rows = np.random.default_rng(0), []
    for batch_size in (16, 64):
        batches = rng.integers(0, len(packed), (n_crops // batch_size, batch_size))
        speeds = {}
        for name, read in {"h5py": by_h5py, "pack": packed.__getitem__}.items():
            forget(path)
            for place in ("disk", "memory"):
                start = time.perf_counter()
                for batch in batches:
                    read(batch)
                speeds[name, place] = n_crops / (time.perf_counter() - start)
        assert np.array_equal(by_h5py(batches[0]), packed[batches[0]])
        for place in ("disk", "memory"):
            ours, theirs = speeds["pack", place], speeds["h5py", place]
            row = {"part": f"read {batch_size} from {place}", "crops": len(packed), "crops/s": ours}
            rows.append(row | {"against": f"h5py {theirs:,.0f} crops/s", "ratio": ours / theirs})
    return rows


def forget(path: Path) -> None:
    """Has the system forget what it keeps of a file, where it can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count_bytes() -> list[dict]:
    """What training keeps for every crop of a set, in memory of its own."""
    import resnet_zclass as rz

    def size(value) -> int:
        return int(value.memory_usage(index=True, deep=True).sum() if isinstance(value, pd.DataFrame) else value.nbytes)

    numbers = np.arange(N_BYTES)
    labels = numbers % N_CLASSES
    text = pd.DataFrame(
        {
            "split": np.repeat("train", N_BYTES),
            "label": np.char.zfill(labels.astype(str), 2),
            "file": np.char.add("train/00/", np.char.add((numbers // 100).astype(str), ".tif")),
            "group": np.char.add("bead", np.char.zfill(numbers.astype(str), 6)),
            "digest": np.char.zfill(numbers.astype(str), 16),
        }
    )
    kept = {f"items.{column}": text[[column]] for column in text}
    kept |= {
        "targets (one-hot float32)": rz.metrics.one_hot(labels, N_CLASSES),
        "order of an epoch": np.random.default_rng(0).permutation(N_BYTES),
        "indices of a Subset": numbers,
        "features of ResNet50, each view": np.broadcast_to(np.float32(0), (N_BYTES, 2048)),
        "digests as read (U16)": np.char.zfill(numbers.astype("S16"), 16).astype(str),
    }
    return [{"part": name, "crops": N_BYTES, "own GB": size(value) / 1e9} for name, value in kept.items()]


class Watch:
    """The most memory of its own that this process has had."""

    def __init__(self):
        self.peak_gb = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            lines = Path("/proc/self/status").read_text().splitlines()
            self.peak_gb = max(self.peak_gb, *(int(line.split()[1]) / 1e6 for line in lines if "RssAnon" in line))
            time.sleep(0.02)


PARTS = {"bare": fit_bare, "round_1": fit_round_1, "round_2": fit_round_2}
FIELDS = ("part", "crops", "peak GB", "own GB", "crops/s", "against", "ratio", "reach")


def run_part(part: str, path: Path, targets_as: str) -> list[dict]:
    """Runs one part in this process; returns its rows."""
    if part == "bytes":
        return count_bytes()
    if part == "read":
        return read_pack(path)
    watch = Watch()
    found = fit_pack(path, targets_as) if part in SHARES else PARTS[part](path) or {}
    return [{"part": part, **found, "peak GB": peak_memory_gb(), "own GB": watch.peak_gb}]


def compare(rows: list[dict]) -> list[dict]:
    """Rows with the same keys, and what each is measured against."""
    by_part = {row["part"]: row for row in rows}
    bare, least = by_part.get("bare"), by_part.get("pack_1")
    for row in rows:
        part = row["part"]
        if part in ("round_1", "round_2") and bare:
            row |= {"against": f"bare {bare['peak GB']:.2f} GB", "ratio": row["peak GB"] / bare["peak GB"]}
        if part in SHARES and least:
            row |= {"against": f"pack_1 {least['own GB']:.2f} GB own", "ratio": row["own GB"] / least["own GB"]}
        row["reach"] = {"round_1": "peak < 2.5 GB", "round_2": "peak <= bare + 0.3 GB"}.get(part, "")
        row["reach"] = "own as pack_1" if part in SHARES else row["reach"]
    return [{field: row.get(field, "") for field in FIELDS} for row in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "parts", nargs="*", default=[*PARTS, "bytes"], help=f"of {', '.join([*PARTS, *SHARES, 'read', 'bytes'])}"
    )
    parser.add_argument("--crops", type=int, default=N_CLASSES * N_PER_CLASS, help="of bare, round_1 and round_2")
    parser.add_argument("--folder", type=Path, help="where packs are made; default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the packs there")
    parser.add_argument("--pack_gb", type=float, default=20.0)
    parser.add_argument("--pack_shape", type=int, nargs=3, default=(64, 64, 1), metavar=("H", "W", "C"))
    parser.add_argument("--pack_dtype", default="uint16")
    parser.add_argument("--targets", choices=("array", "rows"), default="array", help="of packs")
    parser.add_argument("--within", type=Path, help=argparse.SUPPRESS)  # run the only part here, on this path
    options = parser.parse_args()
    if options.within:
        print("ROWS", json.dumps(run_part(options.parts[0], options.within, options.targets)))
        return
    rows, packs = [], set()
    with tempfile.TemporaryDirectory(dir=options.folder) as tmp:
        folder = options.folder or Path(tmp)
        for part in options.parts:
            path = Path(tmp) / "set"
            if part in PARTS and not path.exists():
                write_set(path, max(1, round(options.crops / N_CLASSES)))
            if part in SHARES or part == "read":
                path = pack_path(folder, SHARES.get(part, 1.0), options)
                packs.add(path)
            if part in SHARES:
                forget(path)
            words = [
                sys.executable,
                "-m",
                "benchmarks.memory",
                part,
                "--within",
                str(path),
                "--targets",
                options.targets,
            ]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            rows += json.loads(done.stdout.rsplit("ROWS ", 1)[1])
            print(*rows[-1].items(), flush=True)
    for path in packs if not options.keep else ():
        path.unlink(missing_ok=True)
    report("memory", compare(rows), targets=options.targets)


if __name__ == "__main__":
    main()
