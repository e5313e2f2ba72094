"""Round 2, all layers trained: steps/s of `train` against a bare `train_step` in a loop.

Ours is `fit` of `rounds.fit_round` with the batches, the augmentation and the callbacks of `train`; steps are timed
from the begin of an epoch to the end of its last step. The loop is what one would write by hand, a compiled function of
`train_step` over batches that lie in memory; it augments nothing. Both train the same network, epoch by epoch in turns;
the first ones, which compile, do not count. "with validation and callbacks" is the whole epoch of `train`, checkpoint
and pictures too.

Reach: 0.97 of the steps/s of the loop.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.measure import report, time_epochs

# Backbone, side it sees, batch size, steps per epoch, augmentation.
JOBS = {
    "ResNet20, 32 px": ("ResNet20", None, 16, 80, {"shift_px": 2, "thin": 0.3}),
    "ResNet20, 32 px, batch 256": ("ResNet20", None, 256, 10, {"shift_px": 2, "thin": 0.3}),
    "ResNet50, 64 px": ("ResNet50", 64, 50, 6, {"flip": True}),
}
N_CLASSES = 13


def train(job: str, epochs: int, folder: Path) -> dict[str, list[float]]:
    """Seconds of the epochs of both, in this process."""
    import resnet_zclass as rz
    from resnet_zclass.backend import keras, tf

    model_name, im_size, batch_size, steps, augmentation = JOBS[job]
    rng = np.random.default_rng(0)
    n = batch_size * steps
    crops = rng.poisson(200, (n, 32, 32, 1)).astype("uint16")
    targets = np.eye(N_CLASSES, dtype="float32")[rng.integers(0, N_CLASSES, n)]
    model = rz.models.build_classifier(crops.shape[1:], N_CLASSES, model_name, im_size=im_size, scaling="range")
    ready = tf.data.Dataset.from_tensor_slices(
        (crops.reshape(steps, batch_size, *crops.shape[1:]), targets.reshape(steps, batch_size, -1))
    ).prefetch(2)
    found: dict[str, list[float]] = {"fit": [], "epoch": [], "loop": []}

    class Loop(keras.callbacks.Callback):
        """An epoch by hand, after every one of `fit`, before which the time since the last one is taken."""

        def on_train_begin(self, logs=None):
            self.step = tf.function(self.model.train_step, reduce_retracing=True)
            self.since = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            begun = time.perf_counter()
            found["epoch"].append(begun - self.since)
            for batch in ready:
                logs = self.step(batch)
            logs["loss"].numpy()
            self.since = time.perf_counter()
            found["loop"].append(self.since - begun)

    options = rz.options.TrainOptions(batch_size=batch_size)
    fit = rz.opts.pick(options, *rz.train.FIT_OPTIONS)
    augment = rz.augment.build_augment(**augmentation, camera_offset=100)
    round_ = rz.rounds.Round("fine_tune_model", "none", epochs + 1, 1e-4)
    val_set = (crops[: n // 4], targets[: n // 4])

    def build(**watched):
        return [time_epochs(found["fit"]), *rz.train.build_callbacks(folder, model, None, **watched), Loop()]

    rz.rounds.fit_round(model, crops, targets, val_set, round_, build, fit, augment=augment)
    return {name: seconds[1:] for name, seconds in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=8, help="of each, that count")
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--job", help=argparse.SUPPRESS)  # run it in this process
    arguments = parser.parse_args()
    if arguments.job:
        with tempfile.TemporaryDirectory() as tmp:
            print(json.dumps(train(arguments.job, arguments.epochs, Path(tmp))))
        return
    rows = []
    for job in arguments.jobs:
        words = [sys.executable, "-m", "benchmarks.round_2", "--epochs", str(arguments.epochs), "--job", job]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        _, _, batch_size, steps, _ = JOBS[job]
        ratio = statistics.median(loop / ours for loop, ours in zip(found["loop"], found["fit"], strict=True))
        ours, loop, epoch = (statistics.median(found[name]) for name in ("fit", "loop", "epoch"))
        rows.append(
            {"what": job, "batch": batch_size, "steps/s of train": steps / ours, "of a bare loop": steps / loop}
        )
        rows[-1] |= {"ratio": ratio, "reach": ">= 0.97", "with validation and callbacks": steps / epoch}
        print(rows[-1], flush=True)
    report("round_2", rows, epochs=arguments.epochs)


if __name__ == "__main__":
    main()
