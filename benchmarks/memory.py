"""Peak memory of training ResNet50 on 5,850 crops at 256 px, batch 32, against a bare `fit` on tensors.

Round 1 runs over all crops (one stored view); round 2 and the bare fit stop after a few steps, when nothing grows
any more. Weights are random: they do not change the memory. Takes half an hour on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.measure import peak_memory_gb, report

N_CLASSES, N_PER_CLASS, CROP_PX, IM_SIZE, BATCH_SIZE, STEPS = 39, 150, 32, 256, 32, 6


def write_set(folder: Path) -> None:
    """5,850 training crops of 32 x 32 uint16 and 39 * 2 validation crops of noise."""
    from resnet_zclass.loader import write_dataset

    names = [f"{k:02d}" for k in range(N_CLASSES)]
    split = np.tile(["train"] * N_PER_CLASS + ["val"] * 2, N_CLASSES)
    label = np.repeat(names, N_PER_CLASS + 2)
    manifest = pd.DataFrame({"split": split, "label": label, "group": np.arange(len(label)), "source": "noise"})
    crops = np.random.default_rng(0).integers(0, 4000, (len(label), CROP_PX, CROP_PX)).astype("uint16")
    folder.mkdir()
    write_dataset(folder, crops, manifest, pd.DataFrame({"LabelText": names, "LabelInteger": range(N_CLASSES)}))


def build():
    import resnet_zclass as rz

    return rz.models.build_classifier((CROP_PX, CROP_PX, 1), N_CLASSES, "ResNet50", im_size=IM_SIZE, scaling="range")


def fit_bare() -> None:
    """Keras alone: all crops as one array, all layers trained."""
    model = build()
    crops = np.zeros((N_CLASSES * N_PER_CLASS, CROP_PX, CROP_PX, 1), "float32")
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
    views = rz.views.list_views({"flip": True}, rz.augment.build_augment(flip=True), data.crops.shape[1:], 4)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", help="run one part in this process (used by the script itself)")
    parser.add_argument("data_path", nargs="?", type=Path)
    arguments = parser.parse_args()
    parts = {"bare": lambda _: fit_bare(), "round_1": fit_round_1, "round_2": fit_round_2}
    if arguments.part:
        parts[arguments.part](arguments.data_path)
        print(f"PEAK {peak_memory_gb()}")
        return
    peaks = {}
    with tempfile.TemporaryDirectory() as tmp:
        data_path = Path(tmp) / "set"
        write_set(data_path)
        for part in parts:
            words = [sys.executable, "-m", "benchmarks.memory", part, str(data_path)]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
            peaks[part] = float(done.stdout.rsplit("PEAK ", 1)[1])
            print(f"{part}: {peaks[part]:.2f} GB", flush=True)
    rows = [{"part": part, "peak GB": peak, "over bare GB": peak - peaks["bare"]} for part, peak in peaks.items()]
    report("memory", rows)


if __name__ == "__main__":
    main()
