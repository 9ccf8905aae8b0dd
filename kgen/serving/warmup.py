"""Requests that TensorFlow Serving makes of an export before it calls the model available.

The first call of a function is slower than those after it. TensorFlow Serving reads

    assets.extra/tf_serving_warmup_requests      a TFRecord file of `PredictionLog` messages

and makes these calls while it loads a version. The messages are written here field by field, since
their definitions are in no package that kgen needs:

    PredictionLog  6 predict_log: PredictLog     PredictLog      1 request: PredictRequest
    PredictRequest 1 model_spec: ModelSpec       ModelSpec       1 name, 3 signature_name
                   2 inputs: map of TensorProto  an entry of it  1 key, 2 value

References:
  https://www.tensorflow.org/tfx/serving/saved_model_warmup
  https://github.com/tensorflow/serving/blob/master/tensorflow_serving/apis/prediction_log.proto
  https://protobuf.dev/programming-guides/encoding
"""

import pathlib

import numpy as np
import tensorflow as tf

FILE = pathlib.PurePath("assets.extra", "tf_serving_warmup_requests")
VALUES = {"guidance_scale": 2.0, "num_samples": 1, "num_steps": 1, "strength": 0.5}
ZERO = ("images", "latents")


def write_warm_up(directory, name, functions):
    """Writes one request for each function of a SavedModel.

    Args:
        directory: the folder of the SavedModel.
        name: of the model on the server.
        functions: `tf.function`s with one input signature, by name.
    """
    path = pathlib.Path(directory) / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature, function in sorted(functions.items()):
            if signature == "serving_default" and len(functions) > 1:  # another name of one of them
                continue
            inputs = {spec.name: example(spec) for spec in function.input_signature}
            file.write(prediction_log(name, signature, inputs))


def example(spec):
    """Returns a small value of a tensor that a function takes, an array.

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


def prediction_log(name, signature, inputs):
    """Returns a `PredictionLog` of one call as bytes.

    Args:
        name: of the model.
        signature: of the function.
        inputs: arrays by the names of the tensors.
    """
    model_spec = _field(1, name.encode()) + _field(3, signature.encode())
    request = _field(1, model_spec)
    for key, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString()
        request += _field(2, _field(1, key.encode()) + _field(2, tensor))
    return _field(6, _field(1, request))


def _field(number, data):
    """A field of bytes: its number and wire type 2, the length, the bytes."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value):
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])
