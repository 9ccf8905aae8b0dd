"""Functions that are traced once, however many rows they are given."""

import contextlib
import functools

import numpy as np
import pytest
import tensorflow as tf

from kgen.sampling.compiled import Compiled, any_batch


@pytest.fixture
def counted():
    traces = []

    def function(x, options, nothing):
        traces.append(1)
        return x * options["scale"] + (0 if nothing is None else nothing)

    return any_batch(function), traces


def test_one_trace_serves_every_number_of_rows(counted):
    call, traces = counted
    for num in (1, 4, 2, 1, 0):
        x = np.arange(3.0 * num, dtype="float32").reshape(num, 3)
        result = call(tf.constant(x, shape=[num, 3]), {"scale": tf.constant(2.0)}, None)
        np.testing.assert_array_equal(result, 2 * x)
    assert len(traces) == 1


def test_many_solvers_are_no_retracing(caplog):
    logger = tf.get_logger()
    logger.addHandler(caplog.handler)
    try:
        made = Compiled(lambda factor, x: factor * x, contextlib.nullcontext)
        for factor in range(20):
            np.testing.assert_array_equal(made(factor)(tf.ones([2])), [factor, factor])
    finally:
        logger.removeHandler(caplog.handler)
    assert "retracing" not in caplog.text


def test_another_structure_type_or_shape_is_another_trace(counted):
    call, traces = counted
    scale = {"scale": tf.constant(2.0)}
    call(tf.ones([2, 3]), scale, None)
    np.testing.assert_array_equal(call(tf.ones([2, 3]), scale, tf.ones([2, 1])), np.full((2, 3), 3))
    call(tf.ones([2, 4]), scale, None)
    call(tf.ones([2, 3], tf.float64), {"scale": tf.constant(2.0, tf.float64)}, None)
    call(tf.ones([5, 3]), scale, None)
    assert len(traces) == 4


@pytest.mark.parametrize("fails", [False, True])
def test_graphs_are_not_optimised_and_the_option_of_the_process_stays(fails):
    def is_off():
        return tf.config.optimizer.get_experimental_options()["disable_meta_optimizer"]

    seen = []

    def function(x):
        seen.append(is_off())
        tf.debugging.Assert(not fails, ["fails"])
        return x

    before = is_off()
    try:
        for off in (False, True):
            tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": off})
            with pytest.raises(tf.errors.OpError) if fails else contextlib.nullcontext():
                any_batch(function)(tf.ones([2]))
            assert is_off() == off
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": before})
    assert seen == [True, True]


def test_a_key_has_one_function():
    made = Compiled(lambda factor, x: factor * x, contextlib.nullcontext)
    assert made(2) is made(2)
    assert made(2) is not made(3)
    assert made(2) is not made(2, portable=True)
    np.testing.assert_array_equal(made(3)(tf.ones([2])), [3, 3])


def test_equal_partial_functions_are_one_key():
    made = Compiled(lambda how, x: how(x), contextlib.nullcontext)
    halved = [functools.partial(tf.multiply, y=y) for y in (0.5, 0.5, 0.25)]
    assert made(halved[0]) is made(halved[1])
    assert made(halved[0]) is not made(halved[2])
    unhashable = functools.partial(tf.multiply, y=[0.5])
    np.testing.assert_array_equal(made(unhashable)(tf.ones([1])), [0.5])


def test_it_is_traced_in_the_context():
    inside = []

    @contextlib.contextmanager
    def context():
        inside.append("in")
        yield
        inside.append("out")

    def function(x):
        inside.append("traced")
        return x

    call = Compiled(function, context)()
    call(tf.ones([2]))
    call(tf.ones([3]))
    assert inside == ["in", "traced", "out"]
