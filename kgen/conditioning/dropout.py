"""Condition dropout, which trains one network as the conditional and the unconditional model.

In training, the condition of each example is replaced by the null condition with probability p,
independently of the other examples:

    cond_i  <-  null_i  if u_i < p  else  cond_i,        u_i ~ U[0, 1)

All tensors of an example's condition are replaced together. U[0, 1) excludes 1, so p = 1 replaces
every condition.

References:
  Classifier-free guidance: Ho and Salimans (2022), algorithm 1, https://arxiv.org/abs/2207.12598.
"""

import tensorflow as tf

from kgen.tensors import expand_to, uniform
from kgen.types import TensorLike


def drop_condition(
    cond: dict[str, tf.Tensor], null_cond: dict[str, tf.Tensor], rate: TensorLike, seed: tf.Tensor
) -> dict[str, tf.Tensor]:
    """Replaces the condition of a random share of the examples by the null condition.

    Args:
        cond: a dictionary of tensors `[B, ...]`.
        null_cond: a dictionary with the same keys, of tensors `[B, ...]` or `[1, ...]`.
        rate: probability of a replacement, in [0, 1].
        seed: an int32 pair.

    Returns:
        A dictionary like `cond`.

    Raises:
        ValueError: if the keys differ or `rate` is not a probability.

    Example:
        >>> cond = {"pooled": tf.ones([2, 3])}
        >>> dropped = drop_condition(cond, {"pooled": tf.zeros([1, 3])}, 1.0, tf.constant([0, 1]))
        >>> dropped["pooled"].numpy().sum().item()
        0.0
    """
    if not cond or set(cond) != set(null_cond):
        raise ValueError(
            "`cond` and `null_cond` must be dictionaries of the same keys, at least one. "
            f"Received: cond with {sorted(cond)}, null_cond with {sorted(null_cond)}."
        )
    if not tf.is_tensor(rate) and not 0.0 <= rate <= 1.0:
        raise ValueError(f"`rate` must be between 0 and 1. Received: rate={rate}.")
    batch_size = tf.shape(next(iter(cond.values())))[0]
    drop = uniform([batch_size], seed) < rate
    return {key: tf.where(expand_to(drop, cond[key]), null_cond[key], cond[key]) for key in cond}
