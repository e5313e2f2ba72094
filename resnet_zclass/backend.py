"""Keras and TensorFlow, imported without the lines their compiled parts print before logging is set up.

Only modules that are themselves loaded when needed import this one: it takes seconds.
"""

import contextlib
import os
import platform
import signal
import threading
from collections.abc import Iterator

from resnet_zclass.cores import count_cores
from resnet_zclass.quiet import silent_stderr

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def _later_interrupt() -> Iterator[None]:
    """Keeps Ctrl-C back until the end of the block: some of what is imported would swallow it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = []
    before = signal.signal(signal.SIGINT, lambda *_: asked.append(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


with _later_interrupt(), silent_stderr():
    import keras
    import tensorflow as tf

    tf.config.list_physical_devices()  # looks for GPUs, which is said aloud too

# Crops are (N, H, W, C), whatever ~/.keras/keras.json says; it is also what CPUs and tensor cores are fastest with.
keras.config.set_image_data_format("channels_last")
tf.get_logger().setLevel("ERROR")  # its warnings speak of retracing, which a new model per fold does on purpose

__all__ = ["count_gpus", "describe_devices", "has_gpu", "keras", "limit_threads", "tf"]


def count_gpus() -> int:
    """GPUs that TensorFlow sees."""
    return len(tf.config.list_physical_devices("GPU"))


def has_gpu() -> bool:
    """Whether TensorFlow sees a GPU."""
    return count_gpus() > 0


def describe_devices() -> str:
    """What TensorFlow computes with: GPUs by name, or the CPU's threads and whether oneDNN's kernels are in use.

    `TF_ENABLE_ONEDNN_OPTS=0` in the environment switches oneDNN off, `TF_NUM_INTRAOP_THREADS` sets the threads.
    """
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        return f"{len(gpus)} GPU ({', '.join(sorted(set(names)))})"
    said = os.environ.get("TF_NUM_INTRAOP_THREADS", "")  # which TensorFlow obeys and does not tell
    said = int(said) if said.isdecimal() else 0
    threads = tf.config.threading.get_intra_op_parallelism_threads() or said or count_cores()
    default = "1" if platform.machine() in ("x86_64", "AMD64") else "0"
    one_dnn = "on" if os.environ.get("TF_ENABLE_ONEDNN_OPTS", default) != "0" else "off"
    return f"CPU, {threads} thread{'s' if threads > 1 else ''}, oneDNN {one_dnn}"


def limit_threads(n: int) -> None:
    """Lets TensorFlow compute with `n` threads; to no effect once it has begun to compute."""
    with contextlib.suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(n)
        tf.config.threading.set_inter_op_parallelism_threads(n)
