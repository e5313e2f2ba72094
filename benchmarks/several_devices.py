"""Steps of training on one device, on virtual devices and by several processes, with the same threads in total.

    python -m benchmarks.several_devices [--steps 12] [--jobs ResNet20 ResNet50]

Every way trains the same crops in the same batches, in processes of their own, one way after the other. "efficiency" is
the time of one device over that of the way, both with all cores; there is nothing to gain on one machine without GPUs,
so what is missing to 1 is what sharing a batch costs. "to one device" is the largest difference of the losses of the
epochs; one device with the crops in another order within the same batches shows how much of it is rounding.
Prints a table and writes benchmarks/several_devices.json.
"""

import argparse
import json
import os
import subprocess
import sys
import time

from benchmarks.measure import report

# Backbone, side of its crops and batch size.
JOBS = {"ResNet20": (32, 64), "ResNet50": (64, 32)}
WAYS = {
    "1 device": (1, 1, 0),
    "1 device, other order": (1, 1, 1),
    "2 virtual devices": (2, 1, 0),
    "2 workers": (1, 2, 0),
    "3 workers": (1, 3, 0),
}
EPOCHS = 3


def train(name: str, steps: int, n_devices: int, shift: int, sync: bool) -> dict:
    """Trains in this process, with the others of its cluster if any; returns seconds a step, losses and bytes."""
    import numpy as np

    import resnet_zclass as rz
    from resnet_zclass.backend import keras, tf

    if n_devices > 1:
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * n_devices)
    side_px, batch_size = JOBS[name]
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 4000, (steps * batch_size, side_px, side_px, 1)).astype("uint16")
    targets = np.eye(13, dtype="float32")[rng.integers(0, 13, len(crops))]
    cluster = rz.cluster.find_cluster()
    if cluster:
        rz.cluster.meet(cluster, {}, 120)

    class Clock(keras.callbacks.Callback):
        """Times the steps of every epoch, without what happens between epochs."""

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()
            self.seconds, self.losses = getattr(self, "seconds", []), getattr(self, "losses", [])

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append((time.perf_counter() - self.start) / steps)
            self.losses.append(float(logs["loss"]))

    with rz.distribute.use_devices(n_devices > 1, None, cluster, 300):
        keras.utils.set_random_seed(0)
        pixels = rz.pixels.measure_pixels(crops, None)
        model = rz.models.build_classifier(crops.shape[1:], 13, name, pixels=pixels)
        round_ = rz.rounds.Round("fine_tune_model", "none", EPOCHS, 1e-4)
        options = rz.options.TrainOptions(batch_size=batch_size, optimizer="sgd", sync_batch_norm=sync)
        clock = Clock()
        mix = (lambda x, y, _: (np.roll(x, shift, 0), np.roll(y, shift, 0))) if shift else None
        fit = rz.opts.pick(options, *rz.train.FIT_OPTIONS)
        rz.rounds.fit_round(model, crops, targets, None, round_, lambda **_: [clock], fit, mix=mix)
        shared_bytes = sum(variable.numpy().nbytes for variable in model.trainable_variables)
    return {"step": sorted(clock.seconds[1:])[0], "losses": clock.losses, "bytes": shared_bytes}


def run_way(name: str, steps: int, n_devices: int, n_workers: int, shift: int, sync: bool) -> dict | None:
    """The same in processes of its own; what the chief found, or None if a process failed."""
    from resnet_zclass.workers import share_machine

    environments = share_machine(n_workers) if n_workers > 1 else [dict(os.environ)]
    own = [json.dumps({"name": name, "steps": steps, "n_devices": n_devices, "shift": shift, "sync": sync})]
    words = [sys.executable, "-m", "benchmarks.several_devices", "--own", *own]
    processes = [subprocess.Popen(words, env=env, stdout=subprocess.PIPE, text=True) for env in environments]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        return None
    return json.loads(outputs[0].splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--jobs", nargs="+", choices=JOBS, default=list(JOBS))
    parser.add_argument("--own", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.own:
        print(json.dumps(train(**json.loads(options.own))))
        return
    rows = []
    for name in options.jobs:
        one = None
        for sync in (True, False):
            for way, (n_devices, n_workers, shift) in WAYS.items():
                if not sync and (n_devices, n_workers) == (1, 1):
                    continue
                found = run_way(name, options.steps, n_devices, n_workers, shift, sync)
                if found is None:
                    print(f"{name}, {way}: failed", flush=True)
                    continue
                one = one or found
                apart = max(abs(a - b) for a, b in zip(found["losses"], one["losses"], strict=True))
                side_px, batch_size = JOBS[name]
                rows.append({"backbone": f"{name}, {side_px} px", "batch": batch_size, "way": way})
                rows[-1] |= {"batch norm": "of the batch" if sync else "of each share"}
                rows[-1] |= {"ms a step": 1000 * found["step"], "images/s": batch_size / found["step"]}
                rows[-1] |= {"efficiency": one["step"] / found["step"], "MB shared a step": found["bytes"] / 1e6}
                rows[-1] |= {"to one device": apart if sync else "-"}
                print(rows[-1], flush=True)
    report("several_devices", rows, steps=options.steps)


if __name__ == "__main__":
    main()
