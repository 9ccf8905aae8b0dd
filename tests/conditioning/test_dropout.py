"""Condition dropout: exact at 0 and 1, a share of about `rate` between, all tensors together."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import drop_condition
from kgen.tensors import as_seed


def conditions(batch_size):
    rows = tf.range(1.0, batch_size + 1)
    cond = {
        "tokens": tf.tile(rows[:, None, None], [1, 3, 2]),
        "mask": tf.ones([batch_size, 3], tf.bool),
        "pooled": tf.tile(rows[:, None], [1, 2]),
    }
    return cond, {key: tf.zeros_like(value[:1]) for key, value in cond.items()}


@pytest.mark.parametrize("seed", range(5))
def test_zero_keeps_everything_and_one_nothing(seed):
    cond, null = conditions(500)
    for rate, expected in ((0.0, cond), (1.0, null)):
        dropped = drop_condition(cond, null, rate, as_seed(seed))
        for key in cond:
            assert dropped[key].dtype == cond[key].dtype
            np.testing.assert_array_equal(
                dropped[key], tf.broadcast_to(expected[key], cond[key].shape)
            )


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_share_and_independence_of_examples(rate):
    cond, null = conditions(20_000)
    kept = drop_condition(cond, null, rate, as_seed(3))["mask"].numpy()[:, 0]
    five_deviations = 5 * np.sqrt(rate * (1 - rate) / 20_000)
    assert 1 - kept.mean() == pytest.approx(rate, abs=five_deviations)
    both = (~kept[1:] & ~kept[:-1]).mean()
    assert both == pytest.approx(rate**2, abs=0.02)


def test_all_tensors_of_an_example_go_together():
    cond, null = conditions(200)
    dropped = drop_condition(cond, null, 0.5, as_seed(0))
    kept = dropped["mask"].numpy()[:, 0]
    assert 0 < kept.sum() < 200
    rows = np.where(kept, np.arange(1, 201), 0)
    np.testing.assert_array_equal(dropped["pooled"], np.tile(rows[:, None], [1, 2]))
    np.testing.assert_array_equal(dropped["tokens"], np.tile(rows[:, None, None], [1, 3, 2]))


def test_null_condition_of_the_full_batch_and_rate_as_a_tensor():
    cond, null = conditions(50)
    full = {key: tf.repeat(value, 50, axis=0) for key, value in null.items()}
    one = drop_condition(cond, null, 0.3, as_seed(1))
    two = drop_condition(cond, full, tf.constant(0.3), as_seed(1))
    for key in cond:
        np.testing.assert_array_equal(one[key], two[key])


def test_is_a_function_of_the_seed_in_graph_and_eager():
    cond, null = conditions(50)
    graph = tf.function(lambda seed: drop_condition(cond, null, 0.5, seed)["pooled"])
    eager = drop_condition(cond, null, 0.5, as_seed(7))["pooled"]
    np.testing.assert_array_equal(graph(as_seed(7)), eager)
    assert np.any(graph(as_seed(8)).numpy() != eager.numpy())


@pytest.mark.parametrize(
    ("null", "rate", "match"),
    [
        ({"pooled": tf.zeros([1, 2])}, 0.1, "the same keys.*null_cond with .'pooled'"),
        (None, 1.5, "`rate` must be between 0 and 1. Received: rate=1.5"),
        (None, -0.1, "Received: rate=-0.1"),
    ],
)
def test_errors(null, rate, match):
    cond, default = conditions(2)
    with pytest.raises(ValueError, match=match):
        drop_condition(cond, null or default, rate, as_seed(0))


def test_empty_condition_is_refused():
    with pytest.raises(ValueError, match="at least one"):
        drop_condition({}, {}, 0.1, as_seed(0))
