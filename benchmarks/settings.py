"""Steps of `train` under its settings for speed: XLA, 16 bits, several steps at once, oneDNN, threads.

    python -m benchmarks.settings [--steps 8] [--jobs ResNet20 ResNet50]

Every setting trains the same crops in the same batches through `rounds.fit_round`, in a process of its own. Steps are
timed by epochs, of which the first, with its compilation, stands apart; the best of the others counts. "times" is the
rate over that of the defaults. "loss" is that of the last epoch: what a setting changes besides the time.
"""

import argparse
import json
import os
import subprocess
import sys

from benchmarks.measure import report, time_epochs

# Backbone: side of its crops, size it sees, batch size.
JOBS = {"ResNet20": (32, None, 16), "ResNet20, batch 256": (32, None, 256), "ResNet50": (32, 64, 32)}
SETTINGS: dict[str, tuple[dict, dict]] = {
    "defaults": ({}, {}),
    "--jit_compile on": ({"jit_compile": "on"}, {}),
    "--mixed_precision bfloat16": ({"mixed_precision": "bfloat16"}, {}),
    "--mixed_precision bfloat16 --jit_compile on": ({"mixed_precision": "bfloat16", "jit_compile": "on"}, {}),
    "--mixed_precision float16": ({"mixed_precision": "float16"}, {}),
    "--steps_per_execution 8": ({"steps_per_execution": 8}, {}),
    "oneDNN off": ({}, {"TF_ENABLE_ONEDNN_OPTS": "0"}),
    "one thread": ({}, {"TF_NUM_INTRAOP_THREADS": "1", "TF_NUM_INTEROP_THREADS": "1"}),
}
EPOCHS = 4


def train(job: str, settings: dict, steps: int) -> dict:
    """Trains in this process; returns seconds of the first epoch and of a step, and the last loss."""
    import numpy as np

    import resnet_zclass as rz

    keras = rz.backend.keras
    side_px, im_size, batch_size = JOBS[job]
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 4000, (steps * batch_size, side_px, side_px, 1)).astype("uint16")
    targets = np.eye(13, dtype="float32")[rng.integers(0, 13, len(crops))]
    options = rz.options.TrainOptions(batch_size=batch_size, **settings)
    keras.utils.set_random_seed(0)
    model = rz.models.build_classifier(
        crops.shape[1:], 13, job.split(",")[0], im_size=im_size, stem_stride=2, scaling="set",
        pixels=rz.pixels.measure_pixels(crops, None), mixed_precision=options.mixed_precision,
    )  # fmt: skip
    seconds, losses = [], []
    callbacks = [
        time_epochs(seconds),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: losses.append(float(logs["loss"]))),
    ]
    round_ = rz.rounds.Round("fine_tune_model", "none", EPOCHS, 1e-4)
    fit = rz.opts.pick(options, *rz.train.FIT_OPTIONS)
    rz.rounds.fit_round(model, crops, targets, None, round_, lambda **_: callbacks, fit)
    return {"first": seconds[0], "step": min(seconds[1:]) / steps, "loss": losses[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--own", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        print(json.dumps(train(**json.loads(options.own))))
        return
    rows = []
    for job in options.jobs:
        steps = options.steps if job == "ResNet50" else 8 * options.steps
        default = None
        for name in options.settings:
            settings, environment = SETTINGS[name]
            own = json.dumps({"job": job, "settings": settings, "steps": steps})
            words = [sys.executable, "-m", "benchmarks.settings", "--own", own]
            done = subprocess.run(words, env=os.environ | environment, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            default = default or found
            side_px, im_size, batch_size = JOBS[job]
            rows.append({"backbone": f"{job.split(',')[0]}, {im_size or side_px} px", "batch": batch_size})
            rows[-1] |= {"setting": name, "s of the first epoch": found["first"], "ms a step": 1000 * found["step"]}
            rows[-1] |= {"crops/s": batch_size / found["step"], "times": default["step"] / found["step"]}
            rows[-1] |= {"loss": found["loss"]}
            print(rows[-1], flush=True)
    report("settings", rows, steps=options.steps)


if __name__ == "__main__":
    main()
