"""Batches ready for a 256 px backbone, and what the pipeline costs a `fit`.

Images/s: batches of 50 of 256x256x3 float32 with flips from 5,850 crops of 32x32 uint16, in the original's scaling.
Ours is `batches.training_batches` with the in-model normalisation, where resizing and gray -> RGB happen, as a compiled
function on every batch; a row of its own shows the crops as they reach a model, which resizes them on its device, and
another how fast this machine fills such batches with one number, which no pipeline that writes them can outrun.
Peers: Keras' legacy `ImageDataGenerator` with the original scripts' settings, on TIFF files as it works;
`image_dataset_from_directory` (8-bit PNG copies, since it reads no TIFF) with Keras' layers; a tf.data loop written by
hand on crops in memory; a PyTorch `DataLoader` on crops in memory with transforms of torch. Every run is a process of
its own that is timed after a warm-up. Reach: 20 times the images/s of `ImageDataGenerator`.

Epochs of `fit`: `rounds.fit_round` without validation, against `fit` of the same compiled model on ready batches in
memory, epoch by epoch in turns. Reach: 1.05 of its time.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.loading import BATCH_SIZE, CROP_PX, IM_SIZE, N_CLASSES, write_sets
from benchmarks.measure import report, time_epochs

FLIP = {"flip": True}
DEFAULT = {"shift_px": 1, "thin": 0.3}  # of the options of train
# Model, side in px, batch size, augmentation, steps of an epoch.
FITS = {
    "ResNet20, 32 px, batch 16, default augmentation": ("ResNet20", None, 16, DEFAULT, 40),
    "ResNet20, 32 px, batch 16, flips": ("ResNet20", None, 16, FLIP, 40),
    "ResNet50, 64 px, batch 32, flips": ("ResNet50", 64, 32, FLIP, 5),
}


def load_crops(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Crops `(N, 32, 32, 1)` uint16 and one-hot targets."""
    crops = np.random.default_rng(0).poisson(10, (n, CROP_PX, CROP_PX, 1)).astype("uint16") + np.uint16(100)
    return crops, np.eye(N_CLASSES, dtype="float32")[np.arange(n) % N_CLASSES]


def our_crops(folder: Path):
    """Our batches as they reach a model."""
    from resnet_zclass.augment import build_augment
    from resnet_zclass.batches import training_batches

    crops, targets = load_crops(len(list(folder.glob("single/train/*/*"))))
    return training_batches(crops, targets, BATCH_SIZE, 0, build_augment(**FLIP))


def ours(folder: Path) -> Iterator[int]:
    from resnet_zclass.backend import tf
    from resnet_zclass.models import build_normalisation

    batches = our_crops(folder)
    normalise = tf.function(
        build_normalisation((CROP_PX, CROP_PX, 1), IM_SIZE, "range", model_name="ResNet50", stem="rgb"), autograph=False
    )
    ready = batches.map(lambda x, y: (normalise(x), y), num_parallel_calls=tf.data.AUTOTUNE).prefetch(2)
    return count(ready)


def filled(folder: Path) -> Iterator[int]:
    """Batches of one number: what writing them to memory takes, whoever computes them."""
    from resnet_zclass.backend import tf

    def fill(number):
        return tf.fill((BATCH_SIZE, IM_SIZE, IM_SIZE, 3), tf.cast(number, tf.float32)), number

    return count(tf.data.Dataset.range(10**9).map(fill, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2))


def generator(folder: Path) -> Iterator[int]:
    from resnet_zclass.backend import keras  # noqa: F401 - quietly

    from keras.src.legacy.preprocessing.image import ImageDataGenerator  # isort: skip

    made = ImageDataGenerator(rescale=1 / 255, horizontal_flip=True, vertical_flip=True)
    size = (IM_SIZE, IM_SIZE)
    return count(made.flow_from_directory(folder / "single" / "train", target_size=size, batch_size=BATCH_SIZE))


def directory(folder: Path) -> Iterator[int]:
    from resnet_zclass.backend import keras, tf

    data = keras.utils.image_dataset_from_directory(
        folder / "png" / "train", image_size=(CROP_PX, CROP_PX), batch_size=BATCH_SIZE, verbose=False
    )
    layers = keras.Sequential(
        [keras.layers.Resizing(IM_SIZE, IM_SIZE), keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)]
    )
    data = data.map(lambda x, y: (layers(x, training=True), y), num_parallel_calls=tf.data.AUTOTUNE)
    return count(data.repeat().prefetch(tf.data.AUTOTUNE))


def tf_data(folder: Path) -> Iterator[int]:
    from resnet_zclass.backend import keras, tf

    crops, targets = load_crops(len(list(folder.glob("single/train/*/*"))))

    def prepare(x, y):
        x = tf.image.random_flip_up_down(tf.image.random_flip_left_right(tf.cast(x, tf.float32)))
        x = tf.image.grayscale_to_rgb(tf.image.resize(x, (IM_SIZE, IM_SIZE)))
        return keras.applications.resnet.preprocess_input(x / 16), y

    data = tf.data.Dataset.from_tensor_slices((crops, targets)).shuffle(len(crops)).repeat().batch(BATCH_SIZE)
    return count(data.map(prepare, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE))


def torch_loader(folder: Path, workers: int = 0) -> Iterator[int]:
    import torch

    crops, targets = load_crops(len(list(folder.glob("single/train/*/*"))))
    mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
    spread = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

    class Crops(torch.utils.data.Dataset):
        def __len__(self):
            return len(crops)

        def __getitem__(self, i):
            x = torch.from_numpy(crops[i, ..., 0].astype("float32"))[None] / 4000
            x = torch.nn.functional.interpolate(x[None], (IM_SIZE, IM_SIZE), mode="bilinear")[0].expand(3, -1, -1)
            sides = [side for side in (-1, -2) if torch.rand(()) < 0.5]
            return (torch.flip(x, sides) - mean) / spread, targets[i]

    return count(endless(torch.utils.data.DataLoader(Crops(), BATCH_SIZE, shuffle=True, num_workers=workers)))


def endless(loader) -> Iterator:
    while True:
        yield from loader


def count(batches, side_px: int = IM_SIZE, channels: int = 3) -> Iterator[int]:
    """Images of every batch, checked to be of that shape."""
    for x, _ in batches:
        assert sorted(x.shape[1:]) == [channels, side_px, side_px], x.shape
        yield len(x)


PIPELINES: dict[str, Callable[[Path], Iterator[int]]] = {
    "resnet_zclass": ours,
    "resnet_zclass, crops as they reach the model": lambda folder: count(our_crops(folder), CROP_PX, 1),
    "nothing but writing such batches to memory": filled,
    "ImageDataGenerator": generator,
    "image_dataset_from_directory (PNG) and Keras layers": directory,
    "tf.data by hand": tf_data,
    "PyTorch DataLoader, 0 workers": torch_loader,
    "PyTorch DataLoader, 2 workers": lambda folder: torch_loader(folder, 2),
}


def time_pipeline(name: str, folder: Path, seconds: float) -> float | None:
    """Images/s of a pipeline; None where its library is missing."""
    try:
        sizes = PIPELINES[name](folder)
    except ModuleNotFoundError:
        return None
    warm = time.perf_counter() + seconds / 2
    while time.perf_counter() < warm:
        next(sizes)
    start, n = time.perf_counter(), 0
    while time.perf_counter() < start + seconds:
        n += next(sizes)
    return n / (time.perf_counter() - start)


def time_fit(name: str, epochs: int) -> dict[str, list[float]]:
    """Seconds of the epochs of `fit_round` and of those on ready batches, which come in turns."""
    import resnet_zclass as rz
    from resnet_zclass.backend import keras, tf

    model_name, im_size, batch_size, augmentation, steps = FITS[name]
    crops, targets = load_crops(batch_size * steps)
    model = rz.models.build_classifier(crops.shape[1:], N_CLASSES, model_name, im_size=im_size)
    ready = tf.data.Dataset.from_tensor_slices(
        (crops.reshape(steps, batch_size, *crops.shape[1:]), targets.reshape(steps, batch_size, -1))
    )
    ready = ready.repeat().prefetch(tf.data.AUTOTUNE)
    found: dict[str, list[float]] = {"ours": [], "ready": []}

    class FitOnReady(keras.callbacks.Callback):
        """After every epoch, one of the same compiled model on ready batches."""

        def on_epoch_end(self, epoch, logs=None):
            self.model.fit(ready, steps_per_epoch=steps, epochs=1, verbose=0, callbacks=[time_epochs(found["ready"])])

    fit = dataclasses.asdict(rz.options.TrainOptions()) | {"batch_size": batch_size, "schedule": "plateau"}
    augment = rz.augment.build_augment(**augmentation, camera_offset=100)
    round_ = rz.rounds.Round("fine_tune_model", "none", epochs + 1, 1e-3)
    rz.rounds.fit_round(
        model,
        crops,
        targets,
        None,
        round_,
        lambda **_: [time_epochs(found["ours"]), FitOnReady()],
        fit,
        augment=augment,
    )
    return {key: seconds[1:] for key, seconds in found.items()}  # the first epoch traces


def run_apart(*words: object) -> object:
    """What a part of this script finds in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.input_pipeline", *map(str, words)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_pipelines(per_class: int, seconds: float, repeats: int) -> list[dict]:
    rates: dict[str, list[float]] = {name: [] for name in PIPELINES}
    with tempfile.TemporaryDirectory() as tmp:
        write_sets(Path(tmp), per_class)
        for _ in range(repeats):  # in turns, so that all see the same machine
            for name in PIPELINES:
                rate = run_apart("--pipeline", name, "--folder", tmp, "--seconds", seconds)
                rates[name] += [rate] if rate else []
    medians = {name: statistics.median(found) for name, found in rates.items() if found}
    return [
        {
            "what": name,
            "value": medians.get(name, "not installed"),
            "unit": "images/s",
            "ratio": medians[name] / medians["ImageDataGenerator"] if name in medians else "",
            "to": "ImageDataGenerator",
            "reach": ">= 20" if name.startswith("resnet_zclass") else "",
        }
        for name in PIPELINES
    ]


def measure_fits(epochs: int) -> list[dict]:
    rows = []
    for name in FITS:
        found = run_apart("--fit", name, "--epochs", epochs)
        ratio = statistics.median(a / b for a, b in zip(found["ours"], found["ready"], strict=True))
        ours_s = statistics.median(found["ours"])
        rows.append(
            {"what": f"fit: {name}", "value": ours_s, "unit": "s per epoch", "ratio": ratio}
            | {"to": "fit on ready batches", "reach": "<= 1.05"}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--per_class", type=int, default=150, help=f"images of each of {N_CLASSES} classes")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which every pipeline runs")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=9, help="of every fit, and as many on ready batches")
    parser.add_argument("--pipeline", help="run one pipeline in this process (used by the script itself)")
    parser.add_argument("--fit", help="run one fit in this process (used by the script itself)")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.pipeline:
        print(json.dumps(time_pipeline(arguments.pipeline, arguments.folder, arguments.seconds)))
    elif arguments.fit:
        print(json.dumps(time_fit(arguments.fit, arguments.epochs)))
    else:
        rows = measure_pipelines(arguments.per_class, arguments.seconds, arguments.repeats)
        rows += measure_fits(arguments.epochs)
        report("input_pipeline", rows, images=N_CLASSES * arguments.per_class)


if __name__ == "__main__":
    main()
