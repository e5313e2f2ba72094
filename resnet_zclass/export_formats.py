"""Writes a Keras classifier in the forms that other runtimes read, with what they must know of it inside the file."""

import contextlib
import json
import logging
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass.backend import keras, tf
from resnet_zclass.engines import METADATA_FILE, METADATA_KEY, run_openvino
from resnet_zclass.extras import need
from resnet_zclass.quiet import silent_stderr

OPSET = 17  # of ONNX, from 2022: what older runtimes read too
INPUT, OUTPUT = "crop", "probabilities"

Writer = Callable[[keras.Model, Path, Mapping[str, Any]], None]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps converters from telling every step they take."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), silent_stderr():
        warnings.simplefilter("ignore")
        yield


def export_model(model: keras.Model, path: str | Path, kind: str, **settings: Any) -> None:
    """Keras' own export, of any number of float32 crops of the model's size.

    It leaves open whether the model is training, and `Resizing` then says yes to all layers after it, so that batch
    normalisation would take the moments of the batch; a model around the model says no.
    """
    crop = keras.Input(model.input_shape[1:], name=INPUT)
    signature = [keras.InputSpec(shape=(None, *model.input_shape[1:]), dtype="float32", name=INPUT)]
    keras.Model(crop, model(crop, training=False), name="classifier").export(
        str(path), format=kind, input_signature=signature, verbose=False, **settings
    )


def write_onnx(model: keras.Model, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes an ONNX file: input `crop` float32 `(batch, H, W, C)`, output `probabilities` `(batch, K)`.

    Args:
        model: A classifier of one input and one output.
        path: File to write; ends in `.onnx`.
        metadata: What the file's `metadata_props` hold as JSON under `resnet_zclass`.

    Raises:
        InputError: If the converter is not installed.
    """
    need("tf2onnx")
    onnx = need("onnx")
    with quiet():
        export_model(model, path, "onnx", opset_version=OPSET)
    proto = onnx.load(path)
    _fix_constants(proto, model)
    for value, name in ((proto.graph.input[0], INPUT), (proto.graph.output[0], OUTPUT)):
        _rename_value(proto.graph, value.name, name)
        value.name = name
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    write_onnx_metadata(proto, path, metadata)


def _fix_constants(proto: Any, model: keras.Model) -> None:
    """Makes constants again of those that the converter left as further inputs, which it does with tensors.

    The channel means of `keras.applications` are such; traced again, the model names them in the same order.
    """
    further = list(proto.graph.input)[1:]
    if not further:
        return
    numpy_helper = need("onnx").numpy_helper
    crop = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    traced = tf.function(lambda crops: model(crops, training=False)).get_concrete_function(crop)
    constants = [value.numpy() for value in traced.captured_inputs if value.dtype != tf.resource]
    for value, constant in zip(further, constants, strict=True):
        proto.graph.initializer.append(numpy_helper.from_array(constant, value.name))
        proto.graph.input.remove(value)


def write_onnx_metadata(proto: Any, path: Path, metadata: Mapping[str, Any]) -> None:
    """Saves an ONNX model with `metadata` as JSON under `resnet_zclass`, in place of what it had there."""
    onnx = need("onnx")
    onnx.helper.set_model_props(proto, {METADATA_KEY: json.dumps(metadata)})
    onnx.save(proto, path)


def _rename_value(graph: Any, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == old:
                    names[i] = new


def write_openvino(model: keras.Model, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes an OpenVINO model, `path` and the same name with `.bin`, by way of ONNX, weights in float32.

    Arguments as of `write_onnx`; the metadata are in `rt_info` under `resnet_zclass`.
    """
    openvino = need("openvino")
    with tempfile.TemporaryDirectory() as folder:
        onnx_path = Path(folder) / "model.onnx"
        write_onnx(model, onnx_path, metadata)
        converted = openvino.Core().read_model(onnx_path)
        converted.set_rt_info(json.dumps(metadata), [METADATA_KEY])
        openvino.save_model(converted, path, compress_to_fp16=False)


def run_with_openvino(model: keras.Model, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """A model as a function of raw crops `(N, H, W, C)`, any N and dtype, that OpenVINO computes in float32.

    The way by its reader of TensorFlow's graphs takes a fraction of the time that an export takes.
    """
    crop = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    with quiet():
        traced = tf.function(lambda crops: model(crops, training=False), input_signature=[crop])
        run, *_ = run_openvino(need("openvino").convert_model(traced.get_concrete_function()))

    def run_all(crops: np.ndarray) -> np.ndarray:
        starts = range(0, len(crops), batch_size)
        return np.concatenate([run(np.asarray(crops[start : start + batch_size], np.float32)) for start in starts])

    return run_all


def write_litert(model: keras.Model, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a LiteRT (TFLite) file of built-in operations.

    Arguments as of `write_onnx`; the metadata are a file in a zip archive at the end, as TFLite's own are.
    """
    with quiet():
        target = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
        export_model(model, path, "litert", target_spec=target)
    append_metadata(path, metadata)


def append_metadata(path: Path, metadata: Mapping[str, Any]) -> None:
    """Appends `metadata` to a `.tflite` file as JSON in a zip archive, which readers of models do not mind."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(METADATA_FILE, json.dumps(metadata))


def write_saved_model(model: keras.Model, path: Path, metadata: Mapping[str, Any]) -> None:
    """Writes a TensorFlow SavedModel into the folder `path`, the metadata in its `assets.extra`.

    Arguments as of `write_onnx`.
    """
    with quiet():
        export_model(model, path, "tf_saved_model")
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / METADATA_FILE).write_text(json.dumps(metadata), encoding="utf-8")


WRITERS: dict[str, Writer] = {
    "onnx": write_onnx,
    "openvino": write_openvino,
    "litert": write_litert,
    "tf_saved_model": write_saved_model,
}
