"""One plain, single-device model from a checkpoint of any kind: of `multi_gpu_model`, of a strategy, of one device."""

import collections
import dataclasses
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np

from resnet_zclass.array_matching import leaves_of
from resnet_zclass.backbones import find_application
from resnet_zclass.backend import keras
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray, check_sizes, find_datasets, open_h5, read_keras_h5
from resnet_zclass.models import load_model
from resnet_zclass.old_configs import Config, check_meaning, find_template, layers_of
from resnet_zclass.rebuild import build_model, digest_weights, fill_model, match_groups, tree_of, variables_of
from resnet_zclass.resnet_names import OLD_EPSILON, is_old_resnet, modern_name, modernise_names
from resnet_zclass.stripping import strip_model
from resnet_zclass.tf_checkpoints import find_checkpoint, match_checkpoint, read_checkpoint

WEIGHTS_SUFFIX = ".weights.h5"
H5_SUFFIXES = (".h5", ".hdf5")

Architecture = tuple[keras.Model, Config]


@dataclasses.dataclass(frozen=True)
class Plain:
    """A single-device model and where its weights come from.

    Attributes:
        model: The model, uncompiled.
        config: Its configuration, with the layers in the order of the file.
        arrays: The stored array of every variable, in the order of `variables_of(model, config)`.
        notes: What was found and done, in words.
    """

    model: keras.Model
    config: Config
    arrays: list[StoredArray]
    notes: list[str]

    @property
    def variables(self) -> list[keras.Variable]:
        """The model's variables, in the order of `arrays`."""
        return variables_of(self.model, self.config)


def kind_of(path: str | Path) -> str:
    """What kind of checkpoint a path is, told by its content: `keras`, `weights`, `h5` (of Keras 2) or `tf`.

    Raises:
        InputError: If it is missing or none of these.
    """
    path = Path(path)
    if find_checkpoint(path):
        return "tf"
    if path.is_dir():
        raise InputError(f"{path} is a folder without a checkpoint of TensorFlow; give the file of a model.")
    if not path.is_file():
        raise InputError(f"{path} is not there; give the file of a model or of weights.")
    if zipfile.is_zipfile(path):
        return "keras"
    if not h5py.is_hdf5(path):
        raise InputError(f"{path} is neither HDF5 nor a .keras file, or it is cut off at its start.")
    with open_h5(path) as file:
        names = set(file) | set(file.attrs)
    return "h5" if names & {"model_weights", "layer_names", "layer_names0"} or "layers" not in names else "weights"


def open_checkpoint(path: str | Path, architecture: Architecture | None = None, modern_names: bool = False) -> Plain:
    """Reads a checkpoint into a plain model.

    Args:
        path: File of Keras 2 (`.h5`, `.hdf5`), `.keras`, `.weights.h5`, TensorFlow checkpoint or SavedModel.
        architecture: Model and configuration to fill where the file holds weights alone.
        modern_names: Give the layers of an old ResNet50 the names they have in `keras.applications` today.

    Raises:
        InputError: If the file cannot be read, or its arrays do not fit the model in just one way.
    """
    try:
        return _OPENERS[kind_of(path)](Path(path), architecture, modern_names)
    except InputError as error:
        words = str(error)
        raise InputError(words if str(path) in words else f"{path}: {words}") from error


def _open_keras(path: Path, architecture: Architecture | None, modern_names: bool) -> Plain:
    _refuse_renaming(modern_names)
    if architecture:
        raise InputError("a .keras file brings its own model; leave --architecture and --model_name out.")
    model, config, taken = strip_model(load_model(path))
    notes = ["a model of today's Keras", *(f"taken away: {what}" for what in taken)]
    variables = variables_of(model, config)
    if {id(variable) for variable in variables} != {id(weight) for weight in model.weights}:
        raise InputError("its model holds weights outside of its layers; only Functional and Sequential ones fit here.")
    return Plain(model, config, [StoredArray(v.path, v.numpy()) for v in variables], notes)


def _open_weights(path: Path, architecture: Architecture | None, modern_names: bool) -> Plain:
    """Weights of today's Keras. Keras itself finds their places; that none is left over is checked by value."""
    _refuse_renaming(modern_names)
    model, config = _require(architecture, path)
    stored = list(read_today(path).values())
    try:
        model.load_weights(path)
    except Exception as error:
        raise InputError(f"its weights do not fit the model: {str(error).splitlines()[0]}") from error
    variables = variables_of(model, config)
    arrays = [StoredArray(variable.path, variable.numpy()) for variable in variables]
    _check_all_used(stored, arrays)
    return Plain(model, config, arrays, ["weights of today's Keras"])


def _check_all_used(stored: Sequence[np.ndarray], arrays: Sequence[StoredArray]) -> None:
    """Raises `InputError` unless a file's arrays are just those of the model, told by their values."""
    if collections.Counter(map(digest_weights, stored)) != collections.Counter(
        digest_weights(a.values) for a in arrays
    ):
        raise InputError(f"its {len(stored)} arrays are not just the {len(arrays)} of the model.")


def _open_h5(path: Path, architecture: Architecture | None, modern_names: bool) -> Plain:
    stored = read_keras_h5(path)
    is_own = stored.config is not None and architecture is None
    if is_own and any("module" in layer for layer in layers_of(stored.config)):
        plain = _open_keras(path, None, modern_names)  # of Keras 2.13 and later, which today's reads
        _check_all_used([array.values for arrays in stored.groups.values() for array in arrays], plain.arrays)
        return plain
    notes = [f"{stored.form} of Keras {stored.keras_version or '2'}"]
    if is_own:
        template, n_gpus = find_template(stored.config)
        check_meaning(template, stored.keras_version)
        notes.append(f"of multi_gpu_model, {n_gpus} GPUs" if n_gpus > 1 else "of a single device")
        if modern_names:
            template = _renamed(template)
        model, config = build_model(template)
    else:
        model, config = _require(architecture, path)
    groups = stored.weights
    names = {part for arrays in groups.values() for array in arrays for part in array.layer_path.split("/")}
    is_old = is_old_resnet({name.removesuffix("_1") for name in names} | names)
    if is_old and not is_old_resnet({leaf.name for leaf in leaves_of(tree_of(model, config))}):
        groups = {modern_name(name) or name: [_with_modern_name(a) for a in arrays] for name, arrays in groups.items()}
        if not is_own:
            _set_epsilon(model, OLD_EPSILON)
            notes.append(f"names of the old ResNet50; BatchNormalization with its epsilon of {OLD_EPSILON:g}")
    arrays = match_groups(tree_of(model, config), groups, is_own)
    fill_model(variables_of(model, config), arrays)
    return Plain(model, config, arrays, [*notes, f"{stored.n_others} arrays of the optimizer left out"])


def _open_tf(path: Path, architecture: Architecture | None, modern_names: bool) -> Plain:
    _refuse_renaming(modern_names)
    stored = read_checkpoint(path)
    is_own = stored.config is not None and architecture is None
    model, config = build_model(find_template(stored.config)[0]) if is_own else _require(architecture, path)
    variables = variables_of(model, config)
    arrays = match_checkpoint(tree_of(model, config), variables, stored)
    fill_model(variables, arrays)
    return Plain(
        model, config, arrays, [stored.form, f"{stored.n_others} arrays of the optimizer and the like left out"]
    )


_OPENERS: dict[str, Callable[[Path, Architecture | None, bool], Plain]] = {
    "keras": _open_keras,
    "weights": _open_weights,
    "h5": _open_h5,
    "tf": _open_tf,
}


def read_architecture(path: str | Path, modern_names: bool = False) -> Architecture:
    """A model without weights of its own, from a `.json` configuration, a `.keras` file or a whole model in HDF5.

    Args:
        path: The file.
        modern_names: As of `open_checkpoint`; for models of Keras 2.

    Raises:
        InputError: If the file holds no configuration, or its model cannot be built.
    """
    path = Path(path)
    try:
        if path.suffix == ".json":
            return _from_json(path, modern_names)
        kind = kind_of(path)
        if kind == "keras":
            return strip_model(load_model(path))[:2]
        stored = read_keras_h5(path) if kind == "h5" else None
        if stored is None or stored.config is None:
            raise InputError("it holds weights alone; give a .json configuration, a .keras file or a whole .h5 model.")
        return _build_checked(stored.config, stored.keras_version, modern_names)
    except InputError as error:
        raise InputError(f"--architecture {path}: {error}") from error


def _build_checked(config: Config, keras_version: str, modern_names: bool) -> Architecture:
    template, _ = find_template(config)
    check_meaning(template, keras_version)
    return build_model(_renamed(template) if modern_names else template)


def _from_json(path: Path, modern_names: bool) -> Architecture:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config["config"], dict | list):
            raise TypeError("no config")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"this is no configuration of a model ({error}).") from error
    if "module" not in config:
        return _build_checked(config, str(config.get("keras_version", "")), modern_names)
    try:
        model = keras.models.model_from_json(json.dumps(config))
    except Exception as error:
        raise InputError(f"today's Keras cannot build the model: {str(error).splitlines()[0]}") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"this is the configuration of a {type(model).__name__}, not of a model.")
    return strip_model(model)[:2]


def build_architecture(model_name: str, im_size: int, num_class: int, hidden: Sequence[int] = (1024,)) -> Architecture:
    """The network of the old training scripts: a backbone of `keras.applications`, pooled, and dense layers.

    Args:
        model_name: Name in `keras.applications`.
        im_size: Side of its images in pixels.
        num_class: Number of classes.
        hidden: Units of the dense layers before the last.
    """
    find_application(model_name)
    try:
        base = getattr(keras.applications, model_name)(
            include_top=False, weights=None, pooling="avg", input_shape=(im_size, im_size, 3)
        )
    except ValueError as error:
        raise InputError(f"--model_name {model_name} with --im_size {im_size}: {error}") from error
    x = base.output
    for units in hidden:
        x = keras.layers.Dense(units, activation="relu")(x)
    model = keras.Model(base.input, keras.layers.Dense(num_class, activation="softmax")(x), name=model_name)
    return model, model.get_config()


def _require(architecture: Architecture | None, path: Path) -> Architecture:
    if architecture is None:
        raise InputError(
            f"{path} holds weights alone; give the model with --architecture FILE (.json, .keras or a whole .h5), "
            "or with --model_name, --im_size and --num_class."
        )
    return architecture


def _refuse_renaming(modern_names: bool) -> None:
    if modern_names:
        raise InputError("--modern_names is for files of Keras 2 that hold the old ResNet50; leave it out.")


def _renamed(template: Config) -> Config:
    renamed = modernise_names(template)
    if renamed == template:
        raise InputError("--modern_names: there is no old ResNet50 in it (no layer res2a_branch2a); leave it out.")
    return renamed


def _with_modern_name(array: StoredArray) -> StoredArray:
    """An array under today's name of its layer. The `_1` at the end of a copy's name is no part of it."""
    old = array.layer_path.rpartition("/")[2]
    new = modern_name(old) or modern_name(old.removesuffix("_1"))
    return StoredArray(f"{new}/{array.variable}:0", array.values, array.name) if new else array


def _set_epsilon(model: keras.Model, epsilon: float) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.epsilon = epsilon


def read_today(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a `.weights.h5` file, by name, but those of the optimizer and of random numbers."""

    def refuse_link(name: str, link) -> None:
        if not isinstance(link, h5py.HardLink):
            raise InputError(f"{path}: {name} is only a link; the file is damaged.")

    with open_h5(path) as file:
        file.visititems_links(refuse_link)
        others = {"optimizer", "seed_generator"}
        datasets = {name: item for name, item in find_datasets(file).items() if not others & set(name.split("/"))}
        check_sizes(datasets, Path(path), kinds="fiubV")  # V: bfloat16
        return {name: item[()] for name, item in datasets.items()}
