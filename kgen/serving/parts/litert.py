"""LiteRT files (`.tflite`) of parts, for the interpreters of phones, browsers and small computers.

TensorFlow's own converter writes them, with LiteRT's built-in operators only, so that they run
without TensorFlow's operations ("flex"). A file has one signature, `serving_default`, whose inputs
and outputs have the names of the part's, and any number of examples.

    dtype       weights in the file                  computed in
    None        float32                              float32
    "float16"   float16, half the size               float32
    "int8"      int8 with a scale per channel, a     int8 inputs, scaled anew in each call, times
                quarter; small ones float32          int8 weights ("dynamic range")

Reference:
  https://ai.google.dev/edge/litert/conversion/tensorflow/convert_tf
  https://ai.google.dev/edge/litert/conversion/tensorflow/quantization/post_training_quant
"""

import re
import tempfile

import tensorflow as tf

from kgen.serving.parts.messages import silence
from kgen.serving.signature import served


def convert(function, dtype=None):
    """Converts a part to a LiteRT model.

    Args:
        function: a `tf.function` with one input signature, which returns a dictionary.
        dtype: None, `"float16"` or `"int8"`.

    Returns:
        The file, as bytes.

    Raises:
        ValueError: if it has an operation that LiteRT has no built-in operator for.
    """
    concrete = function.get_concrete_function()
    module = tf.Module()
    module.weights = list(concrete.graph.variables)

    @served(function.input_signature)
    def call(*arguments):
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
            missing = _without_operator(str(error))
            if not missing:
                raise
            wide = " (in float64)" if "f64>" in str(error) else ""
            raise ValueError(
                "LiteRT has no built-in operator for operations of the model: "
                f"{', '.join(missing)}{wide}."
            ) from error


def _without_operator(message):
    """The operations that a message of the converter says have no built-in operator.

    Example:
        >>> _without_operator("error: 'tf.Asinh' op is neither a custom op nor a flex op")
        ['Asinh']
    """
    return sorted(set(re.findall(r"'tf\.(\w+)' op is neither", message)))
