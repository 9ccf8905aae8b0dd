"""ONNX files of parts, for ONNX Runtime and other runtimes.

The package tf2onnx converts the parts. It does not convert the complementary error function, which
the exact GELU of TensorFlow uses; here it is written as erfc(x) = 1 - erf(x).

    dtype       stored weights                                   computation
    None        float32                                          float32
    "float16"   float16: half the size                           float32
    "int8"      int8 with one scale per output channel: about    float32
                a quarter of the size; small weights are
                float32 ("weight-only quantization")

An operator of the file, `Cast` or `DequantizeLinear`, converts the stored weights to float32. The
scale s of a channel is the largest absolute value of its weights divided by 127, so that

    code = round(weight / s),    weight ~ s code,    |error| <= s / 2

References:
  https://github.com/onnx/tensorflow-onnx
  https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from kgen.serving.parts.messages import silence
from kgen.serving.signature import ExportFunction

if TYPE_CHECKING:  # an optional dependency
    import onnx

Encode: TypeAlias = "Callable[[str, np.ndarray, int], tuple[dict[str, np.ndarray], onnx.NodeProto]]"
"""A function of the name, the value and the channel axis of a weight.

It returns the stored arrays by name, and the operator that computes the weight from them.
"""

OPSET = 18
MIN_SIZE = 1024  # smaller weights, in numbers of values, are stored as float32
# Axis of the output channels of a weight, by the operator and the position among its inputs.
CHANNELS = {("Conv", 1): 0, ("ConvTranspose", 1): 1, ("MatMul", 1): -1, ("Gather", 0): 0}


def convert(function: ExportFunction, dtype: Literal["float16", "int8"] | None = None) -> bytes:
    """Converts a part to an ONNX model.

    Args:
        function: the part.
        dtype: type of the stored weights; None for float32.

    Returns:
        The contents of the file.

    Raises:
        ImportError: if tf2onnx is not installed.
        ValueError: if ONNX has no operator for an operation of the part.
    """
    tf2onnx = _import_tf2onnx()
    with silence("absl", "tensorflow", "tf2onnx"):
        model, _ = tf2onnx.convert.from_function(
            function,
            input_signature=function.input_signature,
            opset=OPSET,
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    graph = model.graph
    missing = {n.op_type for n in graph.node if not _has_operator(n)}
    if missing:
        raise ValueError(
            f"ONNX has no operator for operations of the model: {', '.join(sorted(missing))}."
        )
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    if dtype is not None:
        _store_weights(graph, _as_float16 if dtype == "float16" else _as_int8)
    return model.SerializeToString()


def _import_tf2onnx() -> ModuleType:
    try:
        with silence():
            import tf2onnx
    except ImportError as error:
        raise ImportError(
            "Parts for ONNX need the package tf2onnx: pip install 'kgen-keras[runtimes]'; or "
            'export for "litert" alone.'
        ) from error
    return tf2onnx


def _erfc(context: Any, node: Any, name: str, arguments: list[Any]) -> None:
    """Replaces erfc(x) by 1 - erf(x), as a handler of tf2onnx.

    Args:
        context: the `tf2onnx.graph.Graph`.
        node: the `tf2onnx.graph.Node` of erfc(x).
        name: name of the node.
        arguments: further arguments of a handler, none here.
    """
    import tf2onnx

    types = {"shapes": node.output_shapes, "dtypes": node.output_dtypes}
    x, outputs = node.input[0], list(node.output)
    context.remove_node(node.name)
    erf = context.make_node("Erf", [x], **types)
    one = context.make_const(tf2onnx.utils.make_name("one"), np.array(1, "float32"))
    inputs = [one.output[0], erf.output[0]]
    context.make_node("Sub", inputs, name=name, outputs=outputs, **types)


def _has_operator(node: onnx.NodeProto) -> bool:
    """Returns whether the operator of a node is defined, or not one of ONNX's own."""
    import onnx

    return node.domain not in ("", "ai.onnx") or onnx.defs.has(node.op_type)


def _store_weights(graph: onnx.GraphProto, encode: Encode) -> None:
    """Encodes the large weights of a graph, in place."""
    from onnx import numpy_helper

    axes = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            axes.setdefault(name, CHANNELS.get((node.op_type, position)))
    kept, nodes = [], []
    for tensor in graph.initializer:
        value, axis = numpy_helper.to_array(tensor), axes.get(tensor.name)
        if axis is None or value.dtype != np.float32 or value.size < MIN_SIZE:
            kept.append(tensor)
            continue
        initializers, node = encode(tensor.name, value, axis % value.ndim)
        kept += [numpy_helper.from_array(array, name) for name, array in initializers.items()]
        nodes.append(node)
    operators = [*nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(operators)


def _as_float16(
    name: str, value: np.ndarray, axis: int
) -> tuple[dict[str, np.ndarray], onnx.NodeProto]:
    from onnx import TensorProto, helper

    stored = f"{name}_float16"
    node = helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)
    return {stored: value.astype("float16")}, node


def _as_int8(
    name: str, value: np.ndarray, axis: int
) -> tuple[dict[str, np.ndarray], onnx.NodeProto]:
    from onnx import helper

    codes, scale = quantize(value, axis)
    stored = {f"{name}_int8": codes, f"{name}_scale": scale}
    return stored, helper.make_node("DequantizeLinear", [*stored], [name], axis=axis)


def quantize(value: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Rounds values to int8 codes with one scale for each channel.

    Args:
        value: float32 values.
        axis: axis of the channels.

    Returns:
        The codes, int8 with the shape of `value`, and the scales, float32 `[channels]`; the product
        of both approximates `value`.

    Example:
        >>> codes, scale = quantize(np.array([[5.1, 0.0], [-63.5, 0.0]], "float32"), axis=1)
        >>> codes.tolist(), scale.tolist()
        ([[10, 0], [-127, 0]], [0.5, 1.0])
    """
    others = tuple(i for i in range(value.ndim) if i != axis)
    scale = np.max(np.abs(value), axis=others, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale).astype("float32")
    codes = np.clip(np.round(value / scale), -127, 127).astype("int8")
    return codes, scale.reshape(-1)
