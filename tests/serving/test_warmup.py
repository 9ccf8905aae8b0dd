"""Warm-up requests of an export: what they say, and that its functions take them."""

import types

import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.serving.signature import with_signature
from kgen.serving.warmup import FILE, example, prediction_log


def fields(data):
    """The fields of a message of bytes, `[(number, bytes)]`, read by the rules of protobuf."""

    def varint(place):
        value = shift = 0
        while True:
            byte = data[place]
            value |= (byte & 127) << shift
            place, shift = place + 1, shift + 7
            if byte < 128:
                return value, place

    place, found = 0, []
    while place < len(data):
        tag, place = varint(place)
        assert tag & 7 == 2
        length, place = varint(place)
        found.append((tag >> 3, data[place : place + length]))
        place += length
    assert place == len(data)
    return found


def one(data, number):
    (value,) = [value for n, value in fields(data) if n == number]
    return value


@pytest.fixture
def exported(tmp_path):
    @with_signature(
        [tf.TensorSpec([None], tf.string, "prompts"), tf.TensorSpec([], tf.int32, "num_steps")]
    )
    def generate(prompts, num_steps):
        tf.debugging.Assert(num_steps >= 1, ["`num_steps` must be at least 1."])
        return {"lengths": tf.strings.length(prompts) * num_steps}

    model = types.SimpleNamespace(export_functions=lambda: ({"generate": generate}, []))
    kgen.export_saved_model(model, tmp_path / "heart" / "1", warm_up=True)
    return tmp_path / "heart" / "1"


def test_an_export_holds_a_request_that_its_function_takes(exported):
    (record,) = tf.data.TFRecordDataset(str(exported / FILE)).as_numpy_iterator()
    request = one(one(record, 6), 1)
    assert dict(fields(one(request, 1))) == {1: b"heart", 3: b"generate"}
    inputs = {}
    for number, entry in fields(request):
        if number == 2:
            tensor = type(tf.make_tensor_proto(0)).FromString(one(entry, 2))
            inputs[one(entry, 1).decode()] = tf.make_ndarray(tensor)
    assert set(inputs) == {"prompts", "num_steps"}
    loaded = tf.saved_model.load(str(exported))
    answer = loaded.signatures["generate"](**{k: tf.constant(v) for k, v in inputs.items()})
    assert answer["lengths"].numpy().tolist() == [1]


def test_a_message_is_read_by_the_definitions_of_tensorflow_serving():
    logs = pytest.importorskip(
        "tensorflow_serving.apis.prediction_log_pb2", reason="needs tensorflow-serving-api"
    )
    long = np.full([200], b"a" * 50, object)  # longer than one byte can count
    log = logs.PredictionLog.FromString(prediction_log("m", "f", {"prompts": long}))
    request = log.predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("m", "f")
    np.testing.assert_array_equal(tf.make_ndarray(request.inputs["prompts"]), long)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        (tf.TensorSpec([], tf.int32, "num_steps"), 1),
        (tf.TensorSpec([2], tf.int32, "seed"), [0, 0]),
        (tf.TensorSpec([None], tf.int32, "labels"), [0]),
        (tf.TensorSpec([None, 1, 2, 1], tf.float32, "images"), [[[[0], [0]]]]),
        (tf.TensorSpec([None, 1, 1, 1], tf.float32, "mask"), [[[[1]]]]),
        (tf.TensorSpec([], tf.float32, "temperature"), 1),
        (tf.TensorSpec([None, 2], tf.bool, "padding_mask"), [[True, True]]),
    ],
)
def test_examples_are_within_the_bounds_of_exports(spec, value):
    assert example(spec).tolist() == value
    assert example(spec).dtype == spec.dtype.as_numpy_dtype
