"""What a checkpoint holds, in lines to print: the layout of the file, before anything is made of it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass.checkpoints import kind_of, read_today
from resnet_zclass.errors import InputError
from resnet_zclass.keras_h5 import StoredModel, read_keras_h5
from resnet_zclass.models import load_model
from resnet_zclass.old_configs import find_template, layers_of
from resnet_zclass.tf_checkpoints import read_checkpoint

Arrays = Mapping[str, Sequence[tuple[str, np.ndarray]]]


def describe(path: str | Path) -> list[str]:
    """Lines that say what kind of checkpoint a path is, which model it holds, and its arrays layer by layer.

    Raises:
        InputError: If it cannot be read.
    """
    kind = kind_of(path)
    if kind == "keras":
        model = load_model(path)
        arrays = {layer.name: [(w.path, w.numpy()) for w in layer.weights] for layer in model.layers}
        facts = [
            "form: .keras of today's Keras",
            *_describe_config({"class_name": "Model", "config": model.get_config()}),
        ]
    elif kind == "weights":
        arrays = {"": list(read_today(path).items())}
        facts = ["form: weights of today's Keras (.weights.h5); the model has to be given with --architecture"]
    else:
        stored = read_keras_h5(path) if kind == "h5" else read_checkpoint(path)
        arrays = {name: [(a.name, a.values) for a in group] for name, group in stored.groups.items()}
        facts = list(_describe_stored(stored))
    return [f"file: {path}", *facts, *_describe_arrays(arrays)]


def _describe_stored(stored: StoredModel) -> Iterator[str]:
    yield f"form: {stored.form}"
    yield f"keras_version: {stored.keras_version or 'not said'}"
    yield f"other arrays (optimizer and the like): {stored.n_others}"
    if stored.config is None:
        yield "configuration: none; the model has to be given with --architecture or --model_name"
        return
    try:
        template, n_gpus = find_template(stored.config)
    except InputError as error:
        yield f"configuration: {error}"
        return
    if n_gpus > 1:
        yield f"multi_gpu_model: {n_gpus} GPUs; the layers around the model are"
        yield from _describe_config(stored.config)
        yield "the model itself is"
    yield from _describe_config(template)


def _describe_config(config: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    content = config["config"] if isinstance(config["config"], dict) else {}
    yield f"{indent}{config['class_name']} {content.get('name', '')}".rstrip()
    for layer in layers_of(config):
        if isinstance(layer["config"], list) or "layers" in layer["config"]:
            yield from _describe_config(layer, f"{indent}  ")
            continue
        frozen = " (frozen)" if layer["config"].get("trainable") is False else ""
        yield f"{indent}  {layer['class_name']} {layer['config'].get('name', '')}{frozen}"


def _describe_arrays(groups: Arrays) -> Iterator[str]:
    n_arrays = sum(map(len, groups.values()))
    n_values = sum(values.size for arrays in groups.values() for _, values in arrays)
    yield f"arrays: {n_arrays}, {n_values:,} values"
    for group, arrays in groups.items():
        if group:
            yield f"  {group}" + ("" if arrays else ": none")
        for name, values in arrays:
            yield f"    {name} {tuple(values.shape)} {values.dtype}"
