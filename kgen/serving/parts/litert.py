"""LiteRT files (`.tflite`) of parts, for the interpreters of phones, browsers and small computers.

The converter of TensorFlow writes them with the built-in operators of LiteRT only, so that they
need no operations of TensorFlow ("flex"). A file has one signature, `serving_default`, with the
input and output names of the part, for any number of examples.

    dtype       stored weights                           computation
    None        float32                                  float32
    "float16"   float16: half the size                   float32
    "int8"      int8 with one scale per channel: about   int8, with inputs that are rounded with a
                a quarter of the size; small weights     new scale in every call ("dynamic range
                are float32                              quantization")

References:
  https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf
  https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quant
"""

import re
import tempfile
from typing import Literal

import tensorflow as tf

from kgen.serving.parts.messages import silence
from kgen.serving.signature import ExportFunction, with_signature


def convert(function: ExportFunction, dtype: Literal["float16", "int8"] | None = None) -> bytes:
    """Converts a part to a LiteRT model.

    Args:
        function: the part.
        dtype: type of the stored weights; None for float32.

    Returns:
        The contents of the file.

    Raises:
        ValueError: if LiteRT has no built-in operator for an operation of the part.
    """
    concrete = function.get_concrete_function()
    module = tf.Module()
    module.weights = list(concrete.graph.variables)

    @with_signature(function.input_signature)
    def call(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        return concrete(*arguments)

    module.call = call
    with tempfile.TemporaryDirectory() as folder, silence("absl", "tensorflow"):
        tf.saved_model.save(
            module,
            folder,
            signatures=call,
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if dtype is not None:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if dtype == "float16":
            converter.target_spec.supported_types = [tf.float16]
        try:
            return converter.convert()
        except Exception as error:
            missing = _unsupported_operations(str(error))
            if not missing:
                raise
            wide = " (in float64)" if "f64>" in str(error) else ""
            raise ValueError(
                "LiteRT has no built-in operator for operations of the model: "
                f"{', '.join(missing)}{wide}."
            ) from error


def _unsupported_operations(message: str) -> list[str]:
    """Returns the operations without a built-in operator that a message of the converter names.

    Example:
        >>> _unsupported_operations("error: 'tf.Asinh' op is neither a custom op nor a flex op")
        ['Asinh']
    """
    return sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
