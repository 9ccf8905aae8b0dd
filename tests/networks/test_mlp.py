"""Dense networks against their formulas in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import KSparse, TimeMLP, mlp


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("gated", [False, True])
def test_mlp_of_several_inputs(gated):
    network = mlp([(2, 3), (4,)], (5, 2), hidden=(7,), gated=gated)
    for i, weight in enumerate(network.weights):
        weight.assign(0.3 * noise(weight.shape, i))
    a, b = noise([3, 2, 3]), noise([3, 4], 1)
    h = np.concatenate([np.reshape(a, [3, 6]), b], axis=1)
    weights = {w.path: w.numpy() for w in network.weights}

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    h = dense(h, "dense_0") * sigmoid(dense(h, "gate_0")) if gated else np.tanh(dense(h, "dense_0"))
    expected = dense(h, "dense_out").reshape(3, 5, 2)
    np.testing.assert_allclose(network([a, b]), expected, atol=1e-5)


def test_time_mlp_is_residual():
    network = TimeMLP(2, width=8, blocks=1, pooled=3)
    for i, weight in enumerate(network.weights):
        weight.assign(0.3 * noise(weight.shape, i))
    weights = {w.path: w.numpy() for w in network.weights}

    def dense(x, name):
        return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]

    def silu(x):
        return x * sigmoid(x)

    z, log_snr, pooled = noise([4, 2]), np.array([-3.0, 0, 1, 5]), noise([4, 3], 1)
    angles = 1000 * sigmoid(-log_snr[:, None] / 4) * 10000.0 ** (-np.arange(4) / 4)
    e = dense(np.concatenate([np.cos(angles), np.sin(angles)], 1), "noise")
    e = e + dense(pooled, "pooled_dense")
    h = dense(z, "dense_in")
    middle = dense(silu(h), "block_0_in") + dense(silu(e), "block_0_noise")
    h = h + dense(silu(middle), "block_0_out")
    out = network(z, tf.constant(log_snr, tf.float32), {"pooled": pooled})
    np.testing.assert_allclose(out, dense(silu(h), "dense_out"), atol=1e-3)


def test_k_sparse_keeps_the_largest():
    code = noise([5, 9])
    kept = KSparse(3)(code).numpy()
    assert ((kept != 0).sum(axis=1) == 3).all()
    np.testing.assert_array_equal(np.sort(kept)[:, -3:], np.sort(code)[:, -3:])


@pytest.mark.parametrize(
    "make", [lambda: KSparse(0), lambda: TimeMLP(0), lambda: TimeMLP(2, width=0)]
)
def test_counts_are_at_least_one(make):
    with pytest.raises(ValueError, match="must be at least 1"):
        make()
