"""Reads the weights in TensorFlow checkpoints and SavedModels, whatever strategy wrote them.

Only the arrays and the graph of objects that names them are read; no graph of operations is loaded or run.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass.array_matching import Branch, Leaf, leaves_of, list_both_sides
from resnet_zclass.backend import keras, tf
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredArray, StoredModel

SAVED_MODEL_FILE = "saved_model.pb"
_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_LAYER = re.compile(r"layer_with_weights-(\d+)")


def find_checkpoint(path: str | Path) -> Path | None:
    """The prefix of the checkpoint that a path means; None if it means none.

    Args:
        path: A prefix, its `.index` file, a folder with a `checkpoint` file, or the folder of a SavedModel.
    """
    path = Path(path)
    if (path / SAVED_MODEL_FILE).is_file():
        return path / "variables" / "variables"
    if path.is_dir():
        try:
            latest = tf.train.latest_checkpoint(str(path))
        except Exception as error:  # TensorFlow's own, or of text that is none
            raise InputError(f"{path / 'checkpoint'} is damaged; give the .index file of a checkpoint.") from error
        return Path(latest) if latest else None
    prefix = path.with_suffix("") if path.suffix == ".index" else path
    return prefix if prefix.with_name(f"{prefix.name}.index").is_file() else None


def read_checkpoint(path: str | Path) -> StoredModel:
    """Reads the weights of the model in a checkpoint; those of the optimizer and of metrics are counted only.

    Returns:
        Arrays in groups, one for each layer: of Keras 3 named by path (`conv/kernel`), of Keras 2 by the place of the
        layer (`layer_with_weights-0/kernel`), in the order of the model. The configuration, if a SavedModel has it.

    Raises:
        InputError: If there is no checkpoint, it cannot be read, or it holds no Keras model.
    """
    prefix = find_checkpoint(path)
    if prefix is None:
        raise InputError(f"{path} is no checkpoint of TensorFlow: there is no .index file or saved_model.pb.")
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        nodes = _parse_graph(reader.get_tensor(_GRAPH))
        keys = {number: attribute for number, attribute in _variables(nodes)}
        groups = _groups_of_keras_2(nodes, keys) or _groups_of_keras_3(keys)
        arrays = {
            group: [StoredArray(name, np.asarray(reader.get_tensor(key))) for name, key in members]
            for group, members in groups.items()
        }
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{path} is not a readable checkpoint ({str(error).strip().splitlines()[0][:200]})."
        ) from error
    n_arrays = sum(map(len, arrays.values()))
    if not n_arrays:
        raise InputError(f"{path} holds no weights of a Keras model.")
    is_saved_model = (Path(path) / SAVED_MODEL_FILE).is_file()
    return StoredModel(
        path=Path(path),
        form="SavedModel" if is_saved_model else "TensorFlow checkpoint",
        keras_version="",
        config=_read_config(Path(path) / SAVED_MODEL_FILE) if is_saved_model else None,
        groups=arrays,
        n_others=len(keys) - n_arrays,
    )


def match_checkpoint(
    tree: Sequence[Leaf | Branch], variables: Sequence[keras.Variable], stored: StoredModel
) -> list[StoredArray]:
    """Finds the array of every variable, strictly: by path (Keras 3) or by the place of its layer (Keras 2).

    Raises:
        InputError: If an array or a variable has no partner.
    """
    arrays = [array for group in stored.groups.values() for array in group]
    if not all(_LAYER.match(array.name) for array in arrays):
        found = [_find_by_path(variable.path, arrays) for variable in variables]
    else:
        leaves = list(leaves_of(tree))
        groups = list(stored.groups.values())
        by_layer = [{array.variable: array for array in group} for group in groups]
        found = [here.get(slot.variable) for leaf, here in zip(leaves, by_layer, strict=False) for slot in leaf.slots]
    shapes = [tuple(variable.shape) for variable in variables]
    if (
        len(found) != len(arrays)
        or [getattr(array, "values", np.empty(())).shape for array in found] != shapes
        or None in found
    ):
        raise InputError(list_both_sides(tree, arrays))
    return found


def _find_by_path(path: str, arrays: Sequence[StoredArray]) -> StoredArray | None:
    """The only array of that path; paths may lack the names of outer models, which depend on how a model was built."""
    exact = [array for array in arrays if array.name == path]
    near = [array for array in arrays if f"/{array.name}".endswith(f"/{path}") or f"/{path}".endswith(f"/{array.name}")]
    found = exact or near
    return found[0] if len(found) == 1 else None


def _parse_graph(serialized: bytes) -> Any:
    from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph

    graph = TrackableObjectGraph()
    graph.ParseFromString(serialized)
    return graph.nodes


def _variables(nodes: Any) -> Iterator[tuple[int, Any]]:
    for number, node in enumerate(nodes):
        for attribute in node.attributes:
            if attribute.name == "VARIABLE_VALUE":
                yield number, attribute


def _groups_of_keras_3(keys: Mapping[int, Any]) -> dict[str, list[tuple[str, str]]]:
    """Arrays by path. State of optimizer, metrics and random numbers is left out, and copies of other replicas."""
    optimizers = {a.full_name.rpartition("/")[0] for a in keys.values() if a.full_name.endswith("/iteration")}
    groups: dict[str, list[tuple[str, str]]] = {}
    seen = set()
    for attribute in keys.values():
        name = attribute.full_name
        owner = name.partition("/")[0]
        if "/" not in name or name in seen or owner in optimizers or "metrics/" in attribute.checkpoint_key:
            continue
        if name.endswith("seed_generator_state") or re.search(r"/replica_\d+$", name):
            continue
        seen.add(name)
        groups.setdefault(name.rpartition("/")[0], []).append((name, attribute.checkpoint_key))
    return groups


def _groups_of_keras_2(nodes: Any, keys: Mapping[int, Any]) -> dict[str, list[tuple[str, str]]]:
    """Arrays by the place of their layer, from the first object that has `layer_with_weights-0`."""
    children = [{child.local_name: child.node_id for child in node.children} for node in nodes]
    root = next((number for number, names in enumerate(children) if "layer_with_weights-0" in names), None)
    groups: dict[str, list[tuple[str, str]]] = {}

    def visit(number: int, path: str) -> None:
        layers = sorted((int(m[1]), node) for name, node in children[number].items() if (m := _LAYER.fullmatch(name)))
        for place, node in layers:
            visit(node, f"{path}layer_with_weights-{place}/")
        own = [number, *(node for name, node in children[number].items() if name == "cell")]
        members = [(name, node) for part in own for name, node in children[part].items() if node in keys]
        if members and path and not layers:
            groups[path.rstrip("/")] = [(f"{path}{name}", keys[node].checkpoint_key) for name, node in members]

    if root is not None:
        visit(root, "")
    return groups


def _read_config(path: Path) -> dict | None:
    """The model's configuration, which Keras 2 up to TensorFlow 2.4 kept in the graph of objects."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel()
    try:
        saved.ParseFromString(path.read_bytes())
        metadata = saved.meta_graphs[0].object_graph_def.nodes[0].user_object.metadata
        config = json.loads(metadata)
        config = _with_lists(config.get("model_config") or config)
    except Exception:  # another program's SavedModel says nothing here
        return None
    return config if isinstance(config, dict) and {"class_name", "config"} <= set(config) else None


def _with_lists(value: Any) -> Any:
    """A configuration with lists where TensorFlow wrote tuples in words."""
    if isinstance(value, dict):
        if value.get("class_name") in ("__tuple__", "TensorShape"):
            return _with_lists(value["items"])
        return {key: _with_lists(part) for key, part in value.items()}
    return [_with_lists(part) for part in value] if isinstance(value, list) else value
