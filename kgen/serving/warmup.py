"""Warm-up requests, which TensorFlow Serving makes before it reports a model as available.

The first call of a function is slower than later ones. TensorFlow Serving reads

    assets.extra/tf_serving_warmup_requests      a TFRecord file of `PredictionLog` messages

and makes these requests while it loads a model. The messages are encoded here field by field, since
no dependency of kgen has their definitions:

    PredictionLog  6 predict_log: PredictLog     PredictLog         1 request: PredictRequest
    PredictRequest 1 model_spec: ModelSpec       ModelSpec          1 name, 3 signature_name
                   2 inputs: map of TensorProto  entry of the map   1 key, 2 value

References:
  https://www.tensorflow.org/tfx/serving/saved_model_warmup
  https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/prediction_log.proto
  https://protobuf.dev/programming-guides/encoding
"""

import pathlib
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from kgen.serving.signature import ExportFunction
from kgen.types import Path

FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
VALUES = {"guidance_scale": 2.0, "num_samples": 1, "num_steps": 1, "strength": 0.5}
ZERO = ("images", "latents")  # the first words of names of tensors that are filled with zeros


def write_warm_up(directory: Path, name: str, functions: Mapping[str, ExportFunction]) -> None:
    """Writes one request for each function of a SavedModel.

    Args:
        directory: the folder of the SavedModel.
        name: name of the model on the server.
        functions: the functions by name.
    """
    path = pathlib.Path(directory) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, function in sorted(functions.items()):
            if signature == "serving_default" and len(functions) > 1:  # the same as another one
                continue
            inputs = {spec.name: example(spec) for spec in function.input_signature}
            file.write(prediction_log(name, signature, inputs))


def example(spec: tf.TensorSpec) -> np.ndarray:
    """Returns a valid value of an argument of a function, with 1 for unknown sizes.

    Example:
        >>> example(tf.TensorSpec([None, 2], tf.int32, "seeds")).tolist()
        [[0, 0]]
    """
    shape = [1 if size is None else size for size in spec.shape]
    if spec.dtype == tf.string:
        return np.full(shape, b"a", object)
    if spec.name.split("_")[0] in ZERO:
        value = 0
    elif spec.dtype.is_floating or spec.dtype == tf.bool:
        value = VALUES.get(spec.name, 1)
    else:
        value = VALUES.get(spec.name, 0)
    return np.full(shape, value, spec.dtype.as_numpy_dtype)


def prediction_log(name: str, signature: str, inputs: Mapping[str, np.ndarray]) -> bytes:
    """Returns an encoded `PredictionLog` with one request.

    Args:
        name: name of the model on the server.
        signature: name of the function.
        inputs: arguments of the function by name.
    """
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for key, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, key.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number: int, data: bytes) -> bytes:
    """Encodes a field: its number and wire type 2, then the length, then the bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Encodes a non-negative integer in groups of 7 bits, the lowest group first."""
    groups = []
    while value > 127:
        groups.append(value & 127 | 128)
        value >>= 7
    return bytes([*groups, value])
