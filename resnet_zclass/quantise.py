"""INT8 after training: convolutions and dense layers compute with 8-bit integers, calibrated on real crops.

Everything up to the first convolution stays in float: 16-bit pixels and their normalisation do not fit into 8 bits.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from resnet_zclass.backend import keras, tf
from resnet_zclass.export_formats import (
    INPUT,
    append_metadata,
    export_model,
    quiet,
    write_litert,
    write_onnx,
    write_onnx_metadata,
)
from resnet_zclass.extras import need

ONNX_WEIGHTED = ("Conv", "Gemm", "MatMul")
LITERT_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")

Quantiser = Callable[[keras.Model, Path, np.ndarray, Mapping[str, Any]], None]


def quantise_onnx(model: keras.Model, path: Path, crops: np.ndarray, metadata: Mapping[str, Any]) -> None:
    """Writes an ONNX file whose convolutions and dense layers but the first have 8-bit weights and inputs.

    Args:
        model: A classifier of one input and one output.
        path: File to write; ends in `.onnx`.
        crops: Raw crops `(n, H, W, C)` of all classes, which show the range of values in every layer; a class that
            is missing among them may be cut off.
        metadata: As of `export_formats.write_onnx`.

    Raises:
        InputError: If the extra `export` is not installed.
    """
    onnx, quantization = need("onnx"), need("onnxruntime.quantization")
    prepare = need("onnxruntime.quantization.shape_inference").quant_pre_process
    logging.getLogger().addFilter(_is_from_elsewhere)
    try:
        with tempfile.TemporaryDirectory() as folder, quiet():
            plain, merged = Path(folder) / "plain.onnx", Path(folder) / "merged.onnx"
            write_onnx(model, plain, metadata)
            prepare(plain, merged, skip_symbolic_shape=True)  # takes batch normalisations into the convolutions
            nodes = [(node.op_type, node.name) for node in onnx.load(merged).graph.node]
            quantization.quantize_static(
                merged,
                path,
                _OneByOne(crops),
                op_types_to_quantize=list(ONNX_WEIGHTED),
                nodes_to_exclude=_up_to_first(nodes, ONNX_WEIGHTED),
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
            )
    finally:
        logging.getLogger().removeFilter(_is_from_elsewhere)
    write_onnx_metadata(onnx.load(path), path, metadata)


class _OneByOne:
    """Hands out crops as ONNX Runtime's calibration asks for them."""

    def __init__(self, crops: np.ndarray):
        self._feeds = ({INPUT: crop.astype(np.float32)} for crop in crops[:, None])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next crop, `(1, H, W, C)`; None after the last."""
        return next(self._feeds, None)


def _is_from_elsewhere(record: logging.LogRecord) -> bool:
    """False for what the quantiser tells by the root logger: that it was not prepared for, which it was."""
    return "onnxruntime" not in record.pathname


def _up_to_first(nodes: Sequence[tuple[str, str]], weighted: Sequence[str]) -> list[str]:
    """Names of the operations `(kind, name)` up to the first of a `weighted` kind.

    >>> _up_to_first([("Sqrt", "a"), ("Conv", "b"), ("Add", "c"), ("Conv", "d")], ["Conv"])
    ['a', 'b']
    """
    first = next((i for i, (kind, _) in enumerate(nodes) if kind in weighted), -1)
    return [name for _, name in nodes[: first + 1]]


def quantise_litert(model: keras.Model, path: Path, crops: np.ndarray, metadata: Mapping[str, Any]) -> None:
    """Writes a LiteRT file that computes in 8 bits after its first convolution; crops and probabilities are float.

    Arguments as of `quantise_onnx`; `path` ends in `.tflite`.
    """

    def feeds() -> Iterator[list[np.ndarray]]:
        return ([crop.astype(np.float32)] for crop in crops[:, None])

    with tempfile.TemporaryDirectory() as folder, quiet():
        plain = Path(folder) / "plain.tflite"
        write_litert(model, plain, metadata)
        in_float = _up_to_first(_list_operations(plain), LITERT_WEIGHTED)
        export_model(model, folder, "tf_saved_model")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = feeds
        settings = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=in_float)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=feeds, debug_options=settings
        )
        path.write_bytes(debugger.get_nondebug_quantized_model())
    append_metadata(path, metadata)


def _list_operations(path: Path) -> list[tuple[str, str]]:
    """Kind and name of the operations of a LiteRT file, in their order; TFLite names them by what they give out."""
    interpreter = need("ai_edge_litert.interpreter").Interpreter(str(path))
    names = {tensor["index"]: tensor["name"] for tensor in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()  # nothing public lists them as data
    return [(part["op_name"], names[part["outputs"][0]]) for part in operations if part["op_name"] != "DELEGATE"]


QUANTISERS: dict[str, Quantiser] = {"onnx": quantise_onnx, "litert": quantise_litert}
