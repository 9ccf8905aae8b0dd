"""The log likelihood of a latent-variable model by importance sampling.

    log p(x) >= log 1/K sum_k w_k,    w_k = p(x, z_k) / q(z_k | x),    z_k ~ q(z | x)

The bound becomes tighter as K grows, and is exact in the limit. The sum is accumulated over chunks
of samples, so that the memory does not grow with K.

Reference:
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, eq. 8 and theorem 1.
"""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count
from kgen.tensors import as_seed, fold_in
from kgen.types import Condition, Seed


def log_mean_exp(log_weights: tf.Tensor) -> tf.Tensor:
    """Returns log(1/K sum_k exp(log_weights)), from `[K, B]` to `[B]`."""
    return tf.reduce_logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def tile(x: tf.Tensor | None, k: int) -> tf.Tensor | None:
    """Repeats `x`, `[B, ...]` or None, for `k` samples per example: `[k B, ...]`."""
    return x if k == 1 or x is None else tf.tile(x, [k] + [1] * (x.shape.rank - 1))


def tile_condition(cond: Condition, k: int) -> Condition:
    """Repeats an encoded condition, a dictionary of `[B, ...]` or None, as `tile` does."""
    return None if cond is None else {key: tile(value, k) for key, value in cond.items()}


def importance_log_likelihood(
    log_weights: Callable[..., tf.Tensor],
    x: np.ndarray,
    num_samples: int,
    *,
    rows: Any = None,
    chunk: int = 50,
    batch_size: int = 100,
    seed: Seed = 0,
    jit_compile: bool = False,
    verbose: int = 1,
) -> np.ndarray:
    """Estimates log p(x) of each example by importance sampling.

    Args:
        log_weights: a function of examples `[B, ...]`, a seed and a number k of samples (a Python
            integer) that returns log importance weights `[k, B]`; with `rows`, also a function of
            the rows of these examples.
        x: examples, an array `[N, ...]`.
        num_samples: K, the number of samples per example.
        rows: None, or the conditions of the examples, arrays `[N, ...]` in any nested structure.
        chunk: number of samples per example that are computed at once.
        batch_size: number of examples that are computed at once.
        seed: an integer or an int32 pair.
        jit_compile: whether XLA compiles the computation; faster for dense networks.
        verbose: 1 for a progress bar, 0 for none.

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
    def estimate(batch: tf.Tensor, seed: tf.Tensor, *given: Any) -> tf.Tensor:
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


def log_likelihood(
    model: Any, x: np.ndarray, num_samples: int, condition: Any = None, **options: Any
) -> np.ndarray:
    """Estimates log p(x), or log p(x | condition), of a model with its averaged weights.

    Args:
        model: a model with the methods `log_weights(x, seed, num_samples, cond=cond)`,
            `condition_rows(values)` and `condition(rows)`; see `kgen.models.encoder_decoder`.
        x: examples, an array `[N, ...]`.
        num_samples: number of samples per example.
        condition: for a model with a conditioner, one condition per example.
        **options: options of `importance_log_likelihood`.

    Returns:
        A float64 array `[N]`, in nats.

    Raises:
        ValueError: if the number of conditions is not the number of examples.
    """
    rows = model.condition_rows(condition)
    if rows is not None:
        lengths = {len(row) for row in keras.tree.flatten(rows)}
        if lengths != {len(x)}:
            raise ValueError(
                "`condition` must have one entry for each example. "
                f"Received: {sorted(lengths)} for {len(x)} examples."
            )

    def log_weights(batch: tf.Tensor, seed: tf.Tensor, k: int, *given: Any) -> tf.Tensor:
        cond = model.condition(given[0]) if given else None
        return model.log_weights(batch, seed, k, cond=cond)

    with model.averaged():
        return importance_log_likelihood(log_weights, x, num_samples, rows=rows, **options)


def _take(rows: Any, indices: np.ndarray) -> Any:
    return keras.tree.map_structure(lambda values: tf.gather(values, indices), rows)
