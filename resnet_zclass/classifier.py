"""A trained classifier as it is handed on: the model, what must be known of it, and crops to check it on."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import resnet_zclass as rz
from resnet_zclass import __version__
from resnet_zclass.errors import InputError
from resnet_zclass.evaluate import check_fits
from resnet_zclass.files import hash_file
from resnet_zclass.loader import Dataset, read_dataset
from resnet_zclass.provenance import FORMAT
from resnet_zclass.runs import MODEL_FILE, Run, find_run, read_run

if TYPE_CHECKING:
    import keras

# What a model wants to be given: every one that this package trained holds a layer of this name, others need not.
NORMALISATION = "normalisation"
RAW = "Raw pixels as the camera gave them; the model normalises them itself."
AS_TRAINED = "Pixels scaled as they were for the training of the model; it does not say how."
MAX_CHECKED = 256  # crops on which an export is compared
CHECKED_SPLITS = ("val", "test", "train")  # the first that there is
N_DRAWN = 64


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A classifier to hand on.

    Attributes:
        path: Its `.keras` file.
        run: The run it is of; None if it is of none.
        model: The model: raw crops `(N, H, W, C)` in, probabilities `(N, K)` out.
        metadata: What is written into every export, in the types of JSON.
        data: The set that exports are checked on; None if there is none.
        crops: Crops `(n, H, W, C)` of it, or drawn ones.
    """

    path: Path
    run: Run | None
    model: "keras.Model"
    metadata: dict[str, Any]
    data: Dataset | None
    crops: np.ndarray

    @property
    def thresholds(self) -> np.ndarray | None:
        """Probability from which a class is predicted, `(K,)`; None where images have one label."""
        thresholds = self.metadata["thresholds"]
        return None if thresholds is None else np.array(thresholds)


def read_classifier(path: str | Path, data_path: str = "") -> Classifier:
    """Reads a run's classifier, or a bare one, and crops to check it on.

    Args:
        path: Folder of a run, or a `.keras` file.
        data_path: Folder of a set; default the run's own. A bare classifier without one is checked on noise.

    Raises:
        InputError: If there is no such classifier, it is not of one input and one output, or the set does not fit.
    """
    path = locate(path)
    return _read_bare(path, data_path) if path.suffix == ".keras" else _read_of_run(path, data_path)


def locate(path: str | Path) -> Path:
    """Folder of the run whose `model.keras` this is; else `path` itself, a folder or a bare `.keras` file."""
    path = Path(path)
    return path.parent if path.name == MODEL_FILE and find_run(path) == path.parent else path


def _read_of_run(path: Path, data_path: str) -> Classifier:
    run = read_run(path)
    model = run.load_model()
    crop_shape = _check_model(path / MODEL_FILE, model)
    try:
        is_own = not data_path or Path(data_path).resolve() == Path(run.options.data_path).resolve()
        data = run.read_own_set() if is_own else run.read_set(data_path)
        check_fits(run, crop_shape, data, find_split(data, CHECKED_SPLITS))
    except InputError as error:
        raise InputError(f"{error} Name another set to check the export on with --data_path.") from error
    metadata = _describe(path / MODEL_FILE, model, crop_shape, run.dtype, run.class_names)
    metadata |= {
        "z_um": None if run.z_um is None else run.z_um.tolist(),
        "thresholds": None if run.thresholds is None else run.thresholds.tolist(),
        "several": run.thresholds is not None,
    }
    return Classifier(path / MODEL_FILE, run, model, metadata, data, _pick_crops(data))


def _read_bare(path: Path, data_path: str) -> Classifier:
    model = rz.models.load_model(path)
    crop_shape = _check_model(path, model)
    n_classes = model.output_shape[-1]
    print(f"note: {path} is of no run; its classes are named 0 to {n_classes - 1}.")
    data = read_dataset(data_path) if data_path else None
    if data is None:
        print(f"note: checked on {N_DRAWN} crops of noise in 0..255; --data_path names a set of real ones.")
        crops = np.random.default_rng(0).integers(0, 256, (N_DRAWN, *crop_shape)).astype(np.float32)
    else:
        if data.crops.shape[1:] != crop_shape:
            raise InputError(f"--data_path {data_path} has crops of {data.crops.shape[1:]}; {path} takes {crop_shape}.")
        if len(data.classes) != n_classes:
            raise InputError(f"--data_path {data_path} has {len(data.classes)} classes; {path} has {n_classes}.")
        crops = _pick_crops(data)
    probabilities = model.predict(crops, verbose=0)
    if not (probabilities.min() >= 0 and probabilities.max() <= 1):
        raise InputError(f"{path} does not give probabilities (0..1), so it is no classifier that can be exported.")
    several = data.several if data else not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3)
    metadata = _describe(path, model, crop_shape, crops.dtype.name, [str(k) for k in range(n_classes)])
    if metadata["normalisation"] == AS_TRAINED:
        print(f"note: {path} has no layer {NORMALISATION}; its exports want pixels scaled as in its training.")
    metadata |= {"z_um": None, "thresholds": [0.5] * n_classes if several else None, "several": several}
    return Classifier(path, None, model, metadata, data, crops)


def _check_model(path: Path, model: "keras.Model") -> tuple[int, int, int]:
    """Shape of the model's crops, if it is a classifier of one input and one output."""
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            f"{path} has {len(model.inputs)} inputs and {len(model.outputs)} outputs; only a classifier of one input "
            "and one output can be exported."
        )
    crop_shape, probabilities = model.input_shape[1:], model.output_shape
    if len(crop_shape) != 3 or None in crop_shape or len(probabilities) != 2:
        raise InputError(
            f"{path} takes {model.input_shape} and gives {probabilities}; a classifier takes (None, height, width, "
            "channels) of a fixed size and gives (None, classes)."
        )
    return tuple(crop_shape)


def _describe(
    path: Path, model: "keras.Model", crop_shape: tuple[int, ...], dtype: str, class_names: list[str]
) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "resnet_zclass": __version__,
        "model_sha256": hash_file(path),
        "crop_shape": list(crop_shape),
        "dtype": dtype,
        "class_names": class_names,
        "normalisation": RAW if NORMALISATION in {layer.name for layer in model.layers} else AS_TRAINED,
    }


def find_split(data: Dataset, splits: tuple[str, ...]) -> str:
    """The first of `splits` that the set has.

    Raises:
        InputError: If it has none of them.
    """
    for split in splits:
        if len(data.indices(split)):
            return split
    raise InputError(f"{data.path} has none of the splits {', '.join(splits)}.")


def _pick_crops(data: Dataset) -> np.ndarray:
    return spread_crops(data, find_split(data, CHECKED_SPLITS), MAX_CHECKED)


def spread_crops(data: Dataset, split: str, n: int) -> np.ndarray:
    """At most `n` crops of a split, evenly spread over it and so over its classes, `(n, H, W, C)`."""
    return data.crops[spread(data.indices(split), n)]


def spread(indices: np.ndarray, n: int) -> np.ndarray:
    """At most `n` of the indices, evenly spread.

    >>> spread(np.arange(10), 4).tolist(), spread(np.arange(3), 4).tolist()
    ([0, 3, 6, 9], [0, 1, 2])
    """
    return indices[np.linspace(0, len(indices) - 1, min(n, len(indices))).astype(int)]
