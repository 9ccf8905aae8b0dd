"""Vectors of numbers: a linear map, and a learned vector for none."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Vector


def test_it_is_a_linear_map():
    vector = Vector(2, 3)
    vector.kernel.assign([[1, 2, 3], [10, 20, 30]])
    vector.bias.assign([0.5, 0, -0.5])
    pooled = vector([[1.0, 1.0], [2.0, 0.0]])["pooled"]
    np.testing.assert_array_equal(pooled, [[11.5, 22, 32.5], [2.5, 4, 5.5]])
    vector.null_vector.assign([7, 8, 9])
    np.testing.assert_array_equal(vector.null(2)["pooled"], [[7, 8, 9]] * 2)


@pytest.mark.parametrize(
    ("size", "values", "shape"),
    [
        (2, [0.5, 1.0], (1, 2)),
        (2, [[0.5, 1.0]] * 3, (3, 2)),
        (1, [0.5, 1.0, 2.0], (3, 1)),
        (1, 0.5, (1, 1)),
        (2, np.array([[1, 2]], "int64"), (1, 2)),
        (2, tf.constant([[1.0, 2.0]], tf.float64), (1, 2)),
    ],
)
def test_one_or_many(size, values, shape):
    rows = Vector(size, 3).prepare(values)
    assert rows.shape == shape
    assert rows.dtype == tf.float32
    np.testing.assert_allclose(rows, np.reshape(values, shape))


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ([[1.0, 2.0, 3.0]], ValueError, r"`place` must have shape \[B, 2\]. Received: .*\(1, 3\)"),
        (np.zeros((1, 2, 2)), ValueError, r"`place` must have shape \[B, 2\]"),
        ([[1.0, np.nan]], ValueError, "`place` must be finite"),
        ([[1.0, np.inf]], ValueError, "`place` must be finite"),
        ([["a", "b"]], TypeError, "`place` must be numbers. Received: string"),
        ([[True, False]], TypeError, "`place` must be numbers. Received: bool"),
        ([1.0, 2.0, 3.0], ValueError, r"`place` must have shape \[B, 2\]"),
    ],
)
def test_what_is_no_vector(values, error, message):
    with pytest.raises(error, match=message):
        Vector(2, 3, batch_key="place").prepare(values)


@pytest.mark.parametrize("arguments", [(0, 3), (2, 0)])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="must be at least 1"):
        Vector(*arguments)
