"""The contract of conditioners, and what every kind of them keeps."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Conditioner, Labels, Picture, Several, Vector
from kgen.conditioning.conditioner import KEYS, is_condition, num_rows
from kgen.serialization import serializable


@serializable
class Shift(Conditioner):
    """The least that a kind of one's own has: numbers, and what to do with them."""

    batch_key = "numbers"

    def __init__(self, width=3, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.factor = self.add_weight(shape=(width,), initializer="ones", name="factor")
        self.built = True

    def call(self, rows, training=False):
        return {"pooled": tf.cast(rows, tf.float32)[:, None] * self.factor}

    def null(self, batch_size):
        return {"pooled": tf.zeros([batch_size, self.width])}

    def signature(self, form=None):
        return {"numbers": tf.TensorSpec([None], tf.float32, "numbers")}


VALUES = {
    "own": (lambda: Shift(), [1.0, 2.0, 4.0], "numbers"),
    "labels": (lambda: Labels(5, 4), [4, 0, 2], "labels"),
    "vector": (lambda: Vector(2, 4), [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]], "vectors"),
    "picture": (
        lambda: Picture((4, 4, 1), (2, 2)),
        np.linspace(-1, 1, 48, dtype="float32").reshape(3, 4, 4, 1),
        "source",
    ),
    "several": (
        lambda: Several({"kind": Labels(5, 4), "numbers": Shift()}),
        {"kind": [4, 0, 2], "numbers": [1.0, 2.0, 4.0]},
        None,
    ),
}


@pytest.fixture(params=VALUES)
def case(request):
    make, values, key = VALUES[request.param]
    keras.utils.set_random_seed(0)
    return make(), values, key


def test_rows_are_rows_already(case):
    """So a batch may hold what `prepare` made, and a graph what a person gives."""
    conditioner, values, _ = case
    rows = conditioner.prepare(values)
    assert num_rows(rows) == 3
    tf.nest.map_structure(np.testing.assert_array_equal, conditioner.prepare(rows), rows)
    tf.nest.map_structure(np.testing.assert_array_equal, conditioner(rows), conditioner(values))


def test_a_graph_encodes_as_python_does(case):
    conditioner, values, _ = case
    rows = conditioner.prepare(values)
    encoded = tf.function(lambda rows: conditioner(rows))(rows)
    for key, value in conditioner(values).items():
        np.testing.assert_allclose(encoded[key], value, rtol=1e-6)


def test_the_null_condition_is_of_the_same_kind(case):
    conditioner, values, _ = case
    cond, null = conditioner(values), conditioner.null(3)
    assert set(cond) == set(null)
    assert set(cond) <= set(KEYS)
    for key, value in cond.items():
        assert null[key].shape == value.shape
        assert null[key].dtype == value.dtype
    inside = tf.function(conditioner.null)(tf.constant(3))
    tf.nest.map_structure(np.testing.assert_array_equal, inside, null)


def test_a_condition_is_taken_as_it_is(case):
    conditioner, values, _ = case
    cond = {key: value.numpy() for key, value in conditioner(values).items()}
    assert is_condition(cond)
    tf.nest.map_structure(np.testing.assert_array_equal, conditioner(cond), cond)


def test_embedding_in_parts_is_embedding_at_once(case):
    conditioner, values, _ = case
    parts = conditioner.embed(values, batch_size=2, progress=False)
    for key, value in conditioner(values).items():
        assert isinstance(parts[key], np.ndarray)
        np.testing.assert_allclose(parts[key], value, rtol=1e-6)


def test_a_batch_holds_the_values(case):
    conditioner, values, key = case
    rows = conditioner.prepare(values)
    batch = {"images": 0, **conditioner.as_batch(rows)}
    again = conditioner.values_of(batch)
    tf.nest.map_structure(np.testing.assert_array_equal, again, rows)
    if key is not None:
        assert set(batch) == {"images", key}
        with pytest.raises(ValueError, match=f'must have the key "{key}". Received .*images'):
            conditioner.values_of({"images": 0})


def test_the_signature_is_what_a_server_takes(case):
    conditioner, values, _ = case
    specs = conditioner.signature()
    values = values if len(specs) > 1 else {next(iter(specs)): values}
    for key, spec in specs.items():
        assert spec.name == key
        assert spec.is_compatible_with(tf.constant(values[key], spec.dtype))
    assert conditioner.resources() == []


def test_fingerprints_tell_weights_apart(case):
    conditioner, _, _ = case
    if not conditioner.weights:
        return
    before = conditioner.fingerprint()
    assert conditioner.fingerprint() == before
    assert len(before) >= 64
    weight = conditioner.weights[0]
    weight.assign(weight + 1e-3)
    assert conditioner.fingerprint() != before


def test_it_is_rebuilt_from_its_configuration(case):
    conditioner, values, _ = case
    config = keras.saving.serialize_keras_object(conditioner)
    again = keras.saving.deserialize_keras_object(config)
    again.set_weights(conditioner.get_weights())
    tf.nest.map_structure(np.testing.assert_array_equal, again(values), conditioner(values))
    tf.nest.map_structure(np.testing.assert_array_equal, again.null(2), conditioner.null(2))


def test_the_contract_is_abstract():
    for method in ("call", "null", "signature"):
        part = type("Part", (Shift,), {method: getattr(Conditioner, method)})
        with pytest.raises(TypeError, match=f"abstract method '?{method}"):
            part()


@pytest.mark.parametrize("rows", [tf.zeros([0, 2]), {"a": tf.zeros([2]), "b": tf.zeros([3])}])
def test_rows_are_at_least_one_and_as_many_in_each(rows):
    with pytest.raises(ValueError, match="the same number of rows, at least one"):
        num_rows(rows)
