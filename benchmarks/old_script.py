"""The algorithm of the old research script on today's Keras, for `whole_job` to time: two rounds with a ResNet50.

It is rebuilt as it was, with what was wrong in it: pixels of 16 bit end at 255, they are divided by 255 twice,
ImageNet's own scaling is missing, all images lie in memory as float64 of full size, and round 2 keeps the learning rate
of round 1.

On today's Keras it learns (0.8 of the training images right), yet stays at chance on val: BatchNormalization validates
with moving statistics. After 4 epochs a fifth of them is still that of ImageNet's pixels of 0..255, beside which these
images are nothing. `--mended` scales images as the weights want them and leaves all else, for a peer that learns.

`python -m benchmarks.old_script SINGLES OUT [--weights FILE]` reads the folders train, val and test of SINGLES, one
folder of single TIFFs per class, and writes `best.keras` and `times.json` to OUT.
"""

import argparse
import json
import os
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import keras
import numpy as np
from keras.src.legacy.preprocessing.image import ImageDataGenerator

SIDE_PX = 64
BATCH_SIZE = 50


class Clock(keras.callbacks.Callback):
    """Notes when every epoch ended and how right it was."""

    def __init__(self, round_number: int, epochs: list[dict]):
        super().__init__()
        self._round, self._epochs = round_number, epochs

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Comes after the checkpoint is written."""
        self._epochs.append({"round": self._round, "ended": time.time(), "val_accuracy": float(logs["val_accuracy"])})


def load_split(folder: Path, divisor: float) -> tuple[np.ndarray, np.ndarray]:
    """All images of a split over `divisor` as float64 `(N, SIDE_PX, SIDE_PX, 3)`, and one-hot targets.

    `load_img` converts 16-bit gray to RGB, and Pillow's conversion cuts every pixel at 255; then it takes the nearest
    pixels of the larger grid.
    """
    classes = sorted(path.name for path in folder.iterdir())
    images, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("*.tif")):
            image = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(SIDE_PX, SIDE_PX)))
            images.append(image.astype(np.float64) / divisor)
            labels.append(label)
    return np.array(images), keras.utils.to_categorical(labels, len(classes))


def build_model(n_classes: int, weights: str | None) -> tuple[keras.Model, keras.Model]:
    """The classifier, and its backbone."""
    shape = (SIDE_PX, SIDE_PX, 3)
    backbone = keras.applications.ResNet50(weights=weights, include_top=False, input_shape=shape, pooling="avg")
    hidden = keras.layers.Dense(1024, activation="relu")(backbone.output)
    outputs = keras.layers.Dense(n_classes, activation="softmax")(hidden)
    return keras.Model(backbone.input, outputs), backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("singles", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights")
    parser.add_argument("--epochs", type=int, default=4, help="of each round")
    parser.add_argument("--mended", action="store_true", help="scale images as the ImageNet weights want them")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keras.utils.set_random_seed(arguments.seed)
    divisor, scale = 255, {"rescale": 1 / 255}  # loader and generator both divide
    if arguments.mended:
        divisor, scale = 1, {"preprocessing_function": keras.applications.resnet.preprocess_input}
    train, val = (load_split(arguments.singles / split, divisor) for split in ("train", "val"))
    augmented = ImageDataGenerator(horizontal_flip=True, vertical_flip=True, **scale)
    plain = ImageDataGenerator(**scale)
    model, backbone = build_model(train[1].shape[1], arguments.weights)
    loaded, epochs = time.time(), []
    arguments.out.mkdir(parents=True)
    best_path = arguments.out / "best.keras"
    best = keras.callbacks.ModelCheckpoint(best_path, "val_accuracy", save_best_only=True, mode="max")
    for round_number, is_trainable in ((1, False), (2, True)):
        for layer in backbone.layers:
            layer.trainable = is_trainable
        model.compile("rmsprop", "categorical_crossentropy", metrics=["accuracy"])
        model.fit(
            augmented.flow(*train, batch_size=BATCH_SIZE),
            validation_data=plain.flow(*val, batch_size=BATCH_SIZE, shuffle=False),
            epochs=arguments.epochs,
            callbacks=[best, Clock(round_number, epochs)],
            verbose=2,
        )
    test = load_split(arguments.singles / "test", divisor)
    flow = plain.flow(*test, batch_size=BATCH_SIZE, shuffle=False)
    accuracy = keras.models.load_model(best_path).evaluate(flow, verbose=0)[1]
    times = {"loaded": loaded, "epochs": epochs, "ended": time.time(), "test_accuracy": float(accuracy)}
    (arguments.out / "times.json").write_text(json.dumps(times, indent=2) + "\n")


if __name__ == "__main__":
    main()
