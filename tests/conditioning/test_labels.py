"""Labels: a table of vectors, read by number or by name."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Labels


def test_a_label_is_a_row_of_the_table():
    labels = Labels(4, 3)
    labels.table.assign(np.arange(15).reshape(5, 3))
    pooled = labels([2, 0, 3])["pooled"]
    np.testing.assert_array_equal(pooled, [[6, 7, 8], [0, 1, 2], [9, 10, 11]])
    np.testing.assert_array_equal(labels.null(2)["pooled"], [[12, 13, 14]] * 2)
    np.testing.assert_array_equal(labels(1)["pooled"], [[3, 4, 5]])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "uint16", "uint32", "int64", "uint64"])
def test_integers_of_every_type(dtype):
    """MNIST's labels are uint8, which TensorFlow does not compare."""
    labels = Labels(4, 3)
    values = np.array([3, 0, 1], dtype)
    np.testing.assert_array_equal(labels.prepare(values), [3, 0, 1])
    np.testing.assert_array_equal(labels(values)["pooled"], labels([3, 0, 1])["pooled"])
    inside = tf.function(lambda v: labels(v)["pooled"])(tf.constant(values))
    np.testing.assert_array_equal(inside, labels([3, 0, 1])["pooled"])


@pytest.mark.parametrize(
    "values",
    [["dog", "cat"], ("dog", "cat"), np.array(["dog", "cat"]), [b"dog", "cat"]],
    ids=lambda v: type(v).__name__,
)
def test_names_of_classes(values):
    labels = Labels(3, 4, names=["cat", "dog", "hen"])
    np.testing.assert_array_equal(labels.prepare(values), [1, 0])
    np.testing.assert_array_equal(labels.prepare("hen"), [2])
    np.testing.assert_array_equal(labels.prepare(np.array(["hen"], object)), [2])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (
            ["horse"],
            ValueError,
            r"`labels` must be some of \('cat', 'dog'\). Received: \['horse'\]",
        ),
        ([2], ValueError, r"`labels` must be in 0..1. Received: \[2\]"),
        ([-1], ValueError, r"`labels` must be in 0..1"),
        ([0.5], TypeError, "`labels` must be integers. Received: float64"),
        ([True], TypeError, "`labels` must be integers. Received: bool"),
        ([[0], [1]], ValueError, r"`labels` must have shape \[B\]"),
        ([], ValueError, "`labels` must be one for each example"),
        (None, ValueError, "`labels` must be one for each example"),
        ([[0], [1, 0]], ValueError, "`labels` must be one for each example"),
        ({}, ValueError, "`labels` must be one for each example"),
    ],
)
def test_what_is_no_label(values, error, message):
    with pytest.raises(error, match=message):
        Labels(2, 4, names=["cat", "dog"]).prepare(values)


def test_names_without_names():
    with pytest.raises(ValueError, match="`labels` must be numbers of classes. Received:.*cat"):
        Labels(2, 4).prepare(["cat"])


def test_a_graph_checks_labels():
    labels = Labels(2, 4)
    encode = tf.function(lambda v: labels(v)["pooled"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="`labels` must be in 0..1"):
        encode(tf.constant([0, 2]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be at least 1"),
        ({"num_classes": 2, "width": 0}, "`width` must be at least 1"),
        ({"num_classes": 2, "names": ["a"]}, "`names` must be 2 different names"),
        ({"num_classes": 2, "names": ["a", "a"]}, "`names` must be 2 different names"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Labels(**arguments)
