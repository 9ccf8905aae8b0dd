"""Seeds: reproducible from one integer, different on every replica; broadcasts, derivatives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen import tensors


@pytest.mark.parametrize("seed", [0, 7, -1, 2**40 + 3, np.int64(5), (1, 2), tf.constant([3, 4])])
def test_as_seed_makes_a_pair(seed):
    pair = tensors.as_seed(seed)
    assert pair.shape == (2,)
    assert pair.dtype == tf.int32
    np.testing.assert_array_equal(pair, tensors.as_seed(seed))


def test_large_integers_give_distinct_seeds():
    assert np.any(tensors.as_seed(1).numpy() != tensors.as_seed(1 + 2**32).numpy())


def test_no_seed_is_a_fresh_one():
    assert np.any(tensors.as_seed(None).numpy() != tensors.as_seed(None).numpy())


@pytest.mark.parametrize("seed", [1.5, (1, 2, 3), (0.5, 0.5), [[1, 2]]])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="`seed` must be"):
        tensors.as_seed(seed)


def test_a_stream_does_not_repeat_and_restarts_from_its_seed():
    def draw(stream):
        return np.array([stream.next() for _ in range(50)])

    first, again, other = (draw(tensors.SeedStream(s)) for s in (3, 3, 4))
    assert len(np.unique(first, axis=0)) == 50
    np.testing.assert_array_equal(first, again)
    assert not np.any(np.all(first == other, axis=1))


def test_a_stream_advances_inside_a_graph():
    stream = tensors.SeedStream(3)
    step = tf.function(stream.next)
    reference = tensors.SeedStream(3)
    for _ in range(3):
        np.testing.assert_array_equal(step(), reference.next())


def test_replicas_draw_different_noise(strategies):
    strategy = strategies[1]
    with strategy.scope():
        stream = tensors.SeedStream(0)

    @tf.function
    def draw():
        return strategy.run(lambda: tensors.normal([4], stream.next()))

    for _ in range(2):
        one, two = strategy.experimental_local_results(draw())
        assert np.all(one.numpy() != two.numpy())


def test_expand_to_broadcasts_scalars_and_batches():
    like = tf.zeros([5, 2, 3])
    assert tensors.expand_to(0.5, like).shape == ()
    assert tensors.expand_to(tf.range(5.0), like).shape == (5, 1, 1)


def test_derivative_of_a_sine():
    t = tf.linspace(0.0, 3.0, 7)
    np.testing.assert_allclose(tensors.derivative(tf.sin, t), np.cos(t), atol=1e-6)


def test_a_stream_round_trips():
    config = keras.saving.serialize_keras_object(tensors.SeedStream(9))
    again = keras.saving.deserialize_keras_object(config)
    np.testing.assert_array_equal(again.next(), tensors.SeedStream(9).next())
