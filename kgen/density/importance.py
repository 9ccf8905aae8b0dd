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
    """`x`, `[B, ...]` or None, for `k` samples of each example: `[k B, ...]`, sample by sample."""
    return x if k == 1 or x is None else tf.tile(x, [k] + [1] * (x.shape.rank - 1))


def tile_condition(cond, k):
    """An encoded condition, a dictionary of `[B, ...]` or None, for `k` samples as `tile`."""
    return None if cond is None else {key: tile(value, k) for key, value in cond.items()}


def importance_log_likelihood(
    log_weights,
    x,
    num_samples,
    *,
    rows=None,
    chunk=50,
    batch_size=100,
    seed=0,
    jit_compile=False,
    verbose=1,
):
    """Estimates log p(x) for each example.

    Args:
        log_weights: function of examples `[B, ...]`, a seed and a number k of samples (a Python
            integer), to log importance weights `[k, B]`; with `rows` also of those of the examples.
        x: examples `[N, ...]`, an array.
        num_samples: K, the number of samples for each example.
        rows: None, or what each example is conditional on, arrays `[N, ...]` in any structure.
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
    def estimate(batch, seed, *given):
        total = tf.fill([tf.shape(batch)[0]], -np.inf)
        for i in tf.range(num_chunks):
            weights = log_weights(batch, fold_in(seed, i), chunk, *given)
            index = i * chunk + tf.range(chunk)
            weights = tf.where((index < num_samples)[:, None], weights, -np.inf)
            total = tf.reduce_logsumexp(tf.concat([total[None], weights], 0), axis=0)
        return total - math.log(num_samples)

    seed, bar = as_seed(seed), keras.utils.Progbar(len(x), verbose=verbose)
    values = []
    for start in range(0, len(x), batch_size):
        last = start + batch_size if start else min(batch_size, len(x))  # one compilation
        indices = np.minimum(np.arange(start, last), len(x) - 1)
        given = [] if rows is None else [_take(rows, indices)]
        num = min(last, len(x)) - start
        log_p = estimate(tf.constant(x[indices]), fold_in(seed, start), *given).numpy()
        values.append(log_p[:num])
        bar.add(num)
    return np.concatenate(values).astype("float64")


def log_likelihood(model, x, num_samples, condition=None, **options):
    """Estimates log p(x) of a model, or log p(x | c), with its averaged weights.

    Args:
        model: has `log_weights(x, seed, num_samples, cond=cond)` and, for a condition,
            `condition_rows(values)` and `condition(rows)`; see `kgen.models.encoder_decoder`.
        x: examples `[N, ...]`, an array.
        num_samples: samples for each example.
        condition: of a model with a conditioner, one for each example.
        **options: of `importance_log_likelihood`.

    Returns:
        A float64 array `[N]`, in nats.

    Raises:
        ValueError: if there are not as many conditions as examples.
    """
    rows = model.condition_rows(condition)
    if rows is not None:
        lengths = {len(row) for row in keras.tree.flatten(rows)}
        if lengths != {len(x)}:
            raise ValueError(
                "`condition` must be one for each example. "
                f"Received: {sorted(lengths)} for {len(x)} examples."
            )

    def log_weights(batch, seed, k, *given):
        cond = model.condition(given[0]) if given else None
        return model.log_weights(batch, seed, k, cond=cond)

    with model.averaged():
        return importance_log_likelihood(log_weights, x, num_samples, rows=rows, **options)


def _take(rows, indices):
    return keras.tree.map_structure(lambda values: tf.gather(values, indices), rows)
