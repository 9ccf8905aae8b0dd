"""ONNX files of parts, for ONNX Runtime and what else reads them.

The package tf2onnx converts them. It has no operator for the complementary error function, which
TensorFlow's exact GELU is made of, so that is written as 1 - erf(x).

    dtype       weights in the file                              computed in
    None        float32                                          float32
    "float16"   float16, half the size                           float32
    "int8"      int8 with a scale per output channel, a          float32
                quarter; small ones float32 ("weight-only")

Weights of other types are turned into float32 by an operator of the file, `Cast` or
`DequantizeLinear`. With a scale s per channel, the largest size of its weights / 127,

    code = round(weight / s),    weight ~ s code,    |error| <= s / 2

References:
  https://github.com/onnx/tensorflow-onnx
  https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html
"""

import numpy as np

from kgen.serving.parts.messages import silence

OPSET = 18
LEAST = 1024  # numbers of a weight from which on it is stored in fewer bits
# Axis of the output channels of a weight that is this input of this operator.
CHANNELS = {("Conv", 1): 0, ("ConvTranspose", 1): 1, ("MatMul", 1): -1, ("Gather", 0): 0}


def convert(function, dtype=None):
    """Converts a part to an ONNX model.

    Args:
        function: a `tf.function` with one input signature, which returns a dictionary.
        dtype: None, `"float16"` or `"int8"`.

    Returns:
        The file, as bytes.

    Raises:
        ImportError: if tf2onnx is not installed.
        ValueError: if it has an operation that ONNX has no operator for.
    """
    tf2onnx = _tf2onnx()
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
        _store(graph, _as_float16 if dtype == "float16" else _as_int8)
    return model.SerializeToString()


def _tf2onnx():
    try:
        with silence():
            import tf2onnx
    except ImportError as error:
        raise ImportError(
            "Parts for ONNX need the package tf2onnx: pip install 'kgen-keras[runtimes]'; or "
            'export for "litert" alone.'
        ) from error
    return tf2onnx


def _erfc(context, node, name, arguments):
    """Writes erfc(x) as 1 - erf(x), for tf2onnx."""
    import tf2onnx

    types = {"shapes": node.output_shapes, "dtypes": node.output_dtypes}
    x, outputs = node.input[0], list(node.output)
    context.remove_node(node.name)
    erf = context.make_node("Erf", [x], **types)
    one = context.make_const(tf2onnx.utils.make_name("one"), np.array(1, "float32"))
    inputs = [one.output[0], erf.output[0]]
    context.make_node("Sub", inputs, name=name, outputs=outputs, **types)


def _has_operator(node):
    import onnx

    return node.domain not in ("", "ai.onnx") or onnx.defs.has(node.op_type)


def _store(graph, encode):
    """Stores the large weights of a graph in fewer bits.

    Args:
        graph: an `onnx.GraphProto`.
        encode: a function of a weight's name, value and axis of the channels that returns the
            initializers in its place and the operator that makes float32 numbers of them.
    """
    from onnx import numpy_helper

    axes = {}
    for node in graph.node:
        for position, name in enumerate(node.input):
            axes.setdefault(name, CHANNELS.get((node.op_type, position)))
    kept, nodes = [], []
    for tensor in graph.initializer:
        value, axis = numpy_helper.to_array(tensor), axes.get(tensor.name)
        if axis is None or value.dtype != np.float32 or value.size < LEAST:
            kept.append(tensor)
            continue
        initializers, node = encode(tensor.name, value, axis % value.ndim)
        kept += [numpy_helper.from_array(array, name) for name, array in initializers.items()]
        nodes.append(node)
    operators = [*nodes, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(operators)


def _as_float16(name, value, axis):
    from onnx import TensorProto, helper

    stored = f"{name}_float16"
    node = helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)
    return {stored: value.astype("float16")}, node


def _as_int8(name, value, axis):
    from onnx import helper

    codes, scale = eight_bits(value, axis)
    stored = {f"{name}_int8": codes, f"{name}_scale": scale}
    return stored, helper.make_node("DequantizeLinear", [*stored], [name], axis=axis)


def eight_bits(value, axis):
    """Rounds numbers to int8 codes with one scale for each channel.

    Args:
        value: float32 numbers.
        axis: the axis of the channels.

    Returns:
        The codes, int8 of the shape of `value`, and the scales, float32 `[channels]`; their product
        is near `value`.

    Example:
        >>> codes, scale = eight_bits(np.array([[5.1, 0.0], [-63.5, 0.0]], "float32"), axis=1)
        >>> codes.tolist(), scale.tolist()
        ([[10, 0], [-127, 0]], [0.5, 1.0])
    """
    others = tuple(i for i in range(value.ndim) if i != axis)
    scale = np.max(np.abs(value), axis=others, keepdims=True) / 127
    scale = np.where(scale == 0, 1, scale).astype("float32")
    codes = np.clip(np.round(value / scale), -127, 127).astype("int8")
    return codes, scale.reshape(-1)
