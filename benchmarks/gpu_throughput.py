"""Training throughput on one GPU: images/s in float32 and mixed precision, and the share of the chip's peak.

    python -m benchmarks.gpu_throughput [--backbones ResNet20 ResNet50] [--batches 64 256] [--peak_tflops 989]

A step is a whole one of `fit`: crops on the host, in-model normalisation and resize, forward, backward, update. Work is
counted by TensorFlow's profiler (multiply and add are two operations), three times that of a prediction, as is usual
for training. `--peak_tflops` is the chip's dense 16-bit peak, from its data sheet; it is known for some chips by name.
Prints a table and writes benchmarks/gpu_throughput.json.
"""

import argparse
import time

import numpy as np

import resnet_zclass as rz
from benchmarks.measure import report

# Dense 16-bit peak in TFLOP/s, from the makers' data sheets.
PEAKS = {"H100": 989, "H200": 989, "A100": 312, "V100": 125, "T4": 65, "L4": 121, "A10": 125}
SIDES = {"ResNet20": (32, None), "ResNet50": (32, 256), "ResNet152": (32, 128), "InceptionResNetV2": (32, 139)}
STEPS, EPOCHS = 20, 4


def count_flops(model) -> float:
    """Operations of a prediction of one image."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

    tf = rz.backend.tf
    spec = tf.TensorSpec((1, *model.input_shape[1:]), model.inputs[0].dtype)
    function = tf.function(lambda x: model(x, training=False)).get_concrete_function(spec)
    graph = convert_variables_to_constants_v2_as_graph(function)[0].graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops


def measure(name: str, batch_size: int, policy: str) -> tuple[float, float]:
    """Images/s of `fit`, the best of some epochs, and operations of a prediction of one image."""
    keras = rz.backend.keras
    keras.mixed_precision.set_global_policy(policy)
    side_px, im_size = SIDES.get(name, (32, 224))
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 4000, (STEPS * batch_size, side_px, side_px, 1)).astype("uint16")
    targets = np.eye(39, dtype="float32")[rng.integers(0, 39, len(crops))]
    pixels = rz.pixels.measure_pixels(crops, None)
    model = rz.models.build_classifier(crops.shape[1:], 39, name, im_size=im_size, pixels=pixels)
    seconds = []

    class Clock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            seconds.append(time.perf_counter() - self.start)

    round_ = rz.rounds.Round("fine_tune_model", "none", EPOCHS, 1e-4)
    fit = rz.opts.pick(rz.options.TrainOptions(batch_size=batch_size), *rz.train.FIT_OPTIONS)
    rz.rounds.fit_round(model, crops, targets, None, round_, lambda **_: [Clock()], fit)
    return len(crops) / min(seconds[1:]), count_flops(model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["ResNet20", "ResNet50"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 256])
    parser.add_argument("--peak_tflops", type=float)
    options = parser.parse_args()
    tf = rz.backend.tf
    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "CPU"
    peak = options.peak_tflops or next(
        (PEAKS[chip] for chip in PEAKS if chip in device.replace("-", " ").split()), None
    )
    rows = []
    for name in options.backbones:
        for batch_size in options.batches:
            for policy in ("float32", "mixed_bfloat16", "mixed_float16"):
                images_s, flops = measure(name, batch_size, policy)
                tflops = 3 * flops * images_s / 1e12
                rows.append({"backbone": name, "batch": batch_size, "policy": policy, "images/s": images_s})
                rows[-1] |= {"GFLOP an image": 3 * flops / 1e9, "TFLOP/s": tflops}
                rows[-1] |= {"share of the peak": tflops / peak if peak else "-"}
                print(rows[-1], flush=True)
    report("gpu_throughput", rows, device=device, peak_tflops=peak)


if __name__ == "__main__":
    main()
