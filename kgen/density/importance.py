"""The log likelihood of a latent-variable model by importance sampling.

    log p(x) >= log 1/K sum_k w_k,    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

The bound is tighter the larger K is and exact in the limit. The sum is built up from chunks of
samples, so that K costs time and no memory.

Reference:
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, eq. 8 and theorem 1.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count
from kgen.tensors import as_seed, fold_in


def log_mean_exp(log_weights):
    """The logarithm of 1/K sum_k exp of `[K, B]`: `[B]`."""
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def tile(x, k):
    """`x`, `[B, ...]`, for `k` samples of each example: `[k B, ...]`, sample by sample."""
    return x if k == 1 else tf.tile(x, [k] + [1] * (x.shape.rank - 1))


def importance_log_likelihood(
    log_weights, x, num_samples, *, chunk=50, batch_size=100, seed=0, jit_compile=False, verbose=1
):
    """Estimates log p(x) for each example.

    Args:
        log_weights: function of examples `[B, ...]`, a seed and a number k of samples (a Python
            integer), to log importance weights `[k, B]`.
        x: examples `[N, ...]`, an array.
        num_samples: K, the number of samples for each example.
        chunk: how many samples of each example are held in memory at once.
        batch_size: how many examples are.
        seed: integer or int32 pair.
        jit_compile: whether XLA compiles the computation; good for dense networks.
        verbose: 1 for a progress bar, 0 for silence.

    Returns:
        A float64 array `[N]`, in nats.

    Raises:
        ValueError: if there are no examples, or a number is less than 1.
    """
    x = np.asarray(x)
    for name, value in (("num_samples", num_samples), ("chunk", chunk), ("batch_size", batch_size)):
        check_count(name, value)
    if not len(x):
        raise ValueError("`x` must hold at least one example. Received: an empty array.")
    chunk = min(chunk, num_samples)
    num_chunks = -(-num_samples // chunk)

    @tf.function(jit_compile=jit_compile)
    def estimate(batch, seed):
        total = tf.fill([tf.shape(batch)[0]], -np.inf)
        for i in tf.range(num_chunks):
            weights = log_weights(batch, fold_in(seed, i), chunk)
            index = i * chunk + tf.range(chunk)
            weights = tf.where((index < num_samples)[:, None], weights, -np.inf)
            total = tf.reduce_logsumexp(tf.concat([total[None], weights], 0), axis=0)
        return total - math.log(num_samples)

    seed, bar = as_seed(seed), keras.utils.Progbar(len(x), verbose=verbose)
    values = []
    for start in range(0, len(x), batch_size):
        batch = x[start : start + batch_size]
        missing = batch_size - len(batch) if start else 0  # one shape, one compilation
        padded = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        log_p = estimate(tf.constant(padded), fold_in(seed, start)).numpy()
        values.append(log_p[: len(batch)])
        bar.add(len(batch))
    return np.concatenate(values).astype("float64")
