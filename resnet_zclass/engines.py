"""What computes a run's probabilities: its Keras model."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

import resnet_zclass as rz
from resnet_zclass.errors import InputError


def choose_engine(run_path: str | Path, name: str = "auto") -> tuple[str, Path]:
    """Returns name and model file of the engine `name` of a run; `"auto"` means the fastest that there is.

    Raises:
        InputError: If there is no such export of the run.

    >>> choose_engine("logs/mine")
    ('keras', PosixPath('logs/mine/model.keras'))
    """
    if name in ("auto", "keras"):
        return "keras", Path(run_path) / "model.keras"
    raise InputError(
        f"--engine {name}: {run_path} has no such export; "
        f"write one with `resnet-zclass export --load_logs_path {run_path} --format {name}`."
    )


def load_engine(name: str, path: str | Path) -> Callable[[np.ndarray], np.ndarray]:
    """Loads an engine: a function of raw crops `(N, H, W, C)`, N >= 1, that returns probabilities `(N, K)`, float32.

    Raises:
        InputError: If the file is no model.
    """
    if name != "keras":
        raise InputError(f"--engine {name} is not known.")
    from resnet_zclass.backend import tf

    model = rz.models.load_model(path)
    signature = tf.TensorSpec((None, *model.input_shape[1:]), model.inputs[0].dtype)

    # One trace for batches of any length; `model.predict` would set up a data pipeline at every call.
    @tf.function(input_signature=[signature])
    def run(crops):
        return model(crops, training=False)

    return lambda crops: run(np.asarray(crops, signature.dtype.as_numpy_dtype)).numpy()
