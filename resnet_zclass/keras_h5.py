"""Reads and writes the HDF5 files of Keras 2: whole models and weights alone, one device or several.

Nothing in a file is run or unpickled: configurations are JSON, arrays are read by h5py, links are not followed.
"""

import contextlib
import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from resnet_zclass.errors import InputError
from resnet_zclass.memory import check_claim

# What HDF5 keeps in one attribute; Keras splits longer lists of names over `names0`, `names1`, ...
LARGEST_ATTRIBUTE = 64512
# Keras does not compress, and weights hardly can be: what claims more than this times the file's size is no model.
LARGEST_RATIO = 50


@dataclasses.dataclass(frozen=True)
class StoredArray:
    """An array of a file.

    Attributes:
        name: Its name, such as `conv1/kernel:0`.
        values: Its values.
        old_name: Its name in the file, if that is another.
    """

    name: str
    values: np.ndarray
    old_name: str = ""

    @property
    def layer_path(self) -> str:
        """What stands before the variable: `conv1`.

        >>> StoredArray("lstm_1/lstm_cell/kernel:0", np.zeros(1)).layer_path
        'lstm_1/lstm_cell'
        """
        return self.name.rpartition("/")[0]

    @property
    def variable(self) -> str:
        """The variable's own name: `kernel`."""
        return self.name.rpartition("/")[2].partition(":")[0]


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """What a file holds of a model.

    Attributes:
        path: The file.
        form: What kind of file it is, in words.
        keras_version: Version of Keras that wrote it, empty if unknown.
        config: Configuration of the model; None if the file holds weights alone.
        groups: Arrays of every top-level layer, in the file's order of layers and arrays.
        n_others: Number of other arrays: state of the optimizer, metrics and the like.
    """

    path: Path
    form: str
    keras_version: str
    config: dict | None
    groups: dict[str, list[StoredArray]]
    n_others: int = 0

    @property
    def weights(self) -> dict[str, list[StoredArray]]:
        """The groups that hold arrays."""
        return {name: arrays for name, arrays in self.groups.items() if arrays}


def read_keras_h5(path: str | Path) -> StoredModel:
    """Reads a file that `Model.save`, `Model.save_weights` or `ModelCheckpoint` of Keras 2 wrote.

    Args:
        path: `.h5` or `.hdf5` file.

    Returns:
        All arrays, with their layers and order, and the configuration if there is one.

    Raises:
        InputError: If the file cannot be read, is no file of Keras, or contradicts itself.
    """
    with open_h5(path) as file:
        return _read(file, Path(path))


@contextlib.contextmanager
def open_h5(path: str | Path) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading; whatever goes wrong while it is open is an `InputError`."""
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except Exception as error:  # h5py raises what it likes where a file is damaged
        raise InputError(f"{path} is not a readable HDF5 file ({_first_line(error)}); copy it anew.") from error


def check_answers(path: str | Path, limit_s: float = 60.0) -> None:
    """Raises `InputError` if HDF5 hangs on a file, as it may on a damaged one, where nothing can interrupt it.

    A process of its own looks at all there is but the values; whether that is right is for `read_keras_h5` to say.
    """
    code = (
        "import sys, h5py\n"
        "with h5py.File(sys.argv[1]) as file:\n"
        "    list(file.attrs.items())\n"
        "    file.visititems(lambda _, item: list(item.attrs.items()) and None)\n"
    )
    with contextlib.suppress(OSError):
        if not h5py.is_hdf5(path):
            return
    try:
        subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path} keeps HDF5 busy for over {limit_s:g} s, so it is damaged; copy it anew.") from error


def _read(file: h5py.File, path: Path) -> StoredModel:
    parts = {name: _own_group(file, name) for name in ("model_weights", "optimizer_weights")}
    weights = parts["model_weights"] or file
    if "layer_names" not in weights.attrs and "layer_names0" not in weights.attrs:
        raise InputError(f"{path} is no model or weights file of Keras: it lists no layer_names.")
    config = _read_json(file.attrs.get("model_config"), path)
    datasets = find_datasets(weights)
    check_sizes(datasets, path)
    names = _read_names(weights, "layer_names")
    groups = {name: _read_group(weights, name, datasets, path) for name in names}
    if len(groups) < len(names):
        raise InputError(f"{path}: two layers have one name; the file is damaged.")
    unlisted = sorted(set(datasets) - {f"{group}/{a.name}" for group, arrays in groups.items() for a in arrays})
    if unlisted:
        raise InputError(f"{path}: {len(unlisted)} arrays belong to no layer, for instance {unlisted[0]}.")
    return StoredModel(
        path=path,
        form="whole model (HDF5)" if parts["model_weights"] else "weights alone (HDF5)",
        keras_version=_text(weights.attrs.get("keras_version", file.attrs.get("keras_version", ""))),
        config=config,
        groups=groups,
        n_others=len(find_datasets(parts["optimizer_weights"])) if parts["optimizer_weights"] else 0,
    )


def _read_group(weights: h5py.Group, name: str, datasets: Mapping[str, h5py.Dataset], path: Path) -> list[StoredArray]:
    group = _own_group(weights, name)
    if group is None:
        raise InputError(f"{path}: layer {name} is missing or only a link; the file is damaged.")
    array_names = _read_names(group, "weight_names")
    if len(set(array_names)) < len(array_names):
        raise InputError(
            f"{path}: layer {name} lists an array twice: the file is damaged, or a layer is used in several models, "
            "which is not supported."
        )
    missing = [array for array in array_names if f"{name}/{array}" not in datasets]
    if missing:
        raise InputError(f"{path}: layer {name} lists {missing[0]}, which is not there; the file is damaged.")
    return [StoredArray(array, datasets[f"{name}/{array}"][()]) for array in array_names]


def _own_group(parent: h5py.Group, name: str) -> h5py.Group | None:
    """The group of that name, if it is one and lies in the file itself: a link might lead to what never ends."""
    parts = name.split("/")
    for part in parts:
        if not isinstance(parent, h5py.Group) or not isinstance(parent.get(part, getlink=True), h5py.HardLink):
            return None
        parent = parent[part]
    return parent if isinstance(parent, h5py.Group) else None


def find_datasets(group: h5py.Group) -> dict[str, h5py.Dataset]:
    """All arrays below a group, by their paths from there; none has been read."""
    found: dict[str, h5py.Dataset] = {}
    group.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
    return found


def check_sizes(datasets: Mapping[str, h5py.Dataset], path: Path, kinds: str = "fiu") -> None:
    """Refuses arrays that lie elsewhere or claim to be larger than the file can hold, before any is read."""
    for name, dataset in datasets.items():
        if dataset.dtype.kind not in kinds or dataset.shape is None or dataset.is_virtual or dataset.external:
            raise InputError(f"{path}: {name} is not a plain array of numbers; the file is damaged.")
        if dataset.nbytes and not dataset.id.get_storage_size():
            raise InputError(f"{path}: {name} claims {dataset.nbytes:,} bytes that are not there.")
    claimed, size = sum(dataset.nbytes for dataset in datasets.values()), path.stat().st_size
    check_claim(claimed, path)
    if claimed > LARGEST_RATIO * size:
        raise InputError(f"{path}: its arrays claim {claimed:,} bytes in a file of {size:,}.")


def _read_json(value, path: Path) -> dict | None:
    if value is None:
        return None
    try:
        config = json.loads(_text(value))
        if not isinstance(config["config"], dict | list) or not isinstance(config["class_name"], str):
            raise TypeError("no class_name or config")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{path}: its model_config is not the configuration of a model ({error}).") from error
    return config


def _read_names(group: h5py.Group, key: str) -> list[str]:
    """A list of names of Keras, which may be split over several attributes."""
    if key in group.attrs:
        return [_text(name) for name in np.atleast_1d(group.attrs[key])]
    names, part = [], 0
    while f"{key}{part}" in group.attrs:
        names += [_text(name) for name in group.attrs[f"{key}{part}"]]
        part += 1
    if not part:
        raise InputError(f"{group.file.filename}: {group.name} has no {key}; the file is damaged.")
    return names


def _text(value) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0].strip("'\"")[:200]


def write_weights(path: str | Path, groups: Mapping[str, Sequence[StoredArray]], keras_version: str = "2.4.0") -> None:
    """Writes weights as `Model.save_weights` of Keras 2 did: any Keras 2, and today's `load_weights`, reads them.

    Args:
        path: `.h5` or `.hdf5` file.
        groups: Arrays of every top-level layer, also of those that have none, in the order of the model.
        keras_version: Version that the file is to name.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     write_weights(Path(tmp) / "w.h5", {"fc": [StoredArray("fc/kernel:0", np.eye(2))], "relu": []})
    ...     stored = read_keras_h5(Path(tmp) / "w.h5")
    >>> list(stored.groups), stored.weights["fc"][0].values.tolist()
    (['fc', 'relu'], [[1.0, 0.0], [0.0, 1.0]])
    """
    with h5py.File(path, "w") as file:
        # As bytes: Keras 2 decodes them, whatever they are.
        file.attrs["backend"], file.attrs["keras_version"] = np.bytes_("tensorflow"), np.bytes_(keras_version)
        _write_names(file, "layer_names", list(groups))
        for name, arrays in groups.items():
            group = file.create_group(name)
            _write_names(group, "weight_names", [array.name for array in arrays])
            for array in arrays:
                group.create_dataset(array.name, data=array.values)


def _write_names(group: h5py.Group, key: str, names: Sequence[str]) -> None:
    encoded = np.array([name.encode("utf-8") for name in names])
    if encoded.nbytes <= LARGEST_ATTRIBUTE:
        group.attrs[key] = encoded
        return
    for part, chunk in enumerate(_split(encoded)):
        group.attrs[f"{key}{part}"] = chunk


def _split(names: np.ndarray) -> Iterator[np.ndarray]:
    per_part = LARGEST_ATTRIBUTE // names.itemsize
    for start in range(0, len(names), per_part):
        yield names[start : start + per_part]
