"""Scaled dot-product attention that processes long sequences in chunks of queries.

    attention(q, k, v) = softmax(q k^T / sqrt(d)) v          for each row of q

The output for a query does not depend on the other queries, so they can be processed in chunks with
an exact result, and only the scores of one chunk are in memory. The gradient computes the attention
weights again, chunk by chunk. With P = softmax(S), S = q k^T, and the gradient G of the output,

    dv = P^T G,    dP = G v^T,    dS = P (dP - rowsum(dP P)),    dq = dS k,    dk = dS^T q

The scores are float32 under every dtype policy.

References:
  Vaswani et al. (2017), https://arxiv.org/abs/1706.03762, eq. 1 and section 3.2.2.
  Rabe and Staats (2021), https://arxiv.org/abs/2112.05682, section 2 (chunks, recomputation).
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_count
from kgen.networks.shapes import reshape
from kgen.serialization import serializable
from kgen.types import Shape

# Largest number of scores of one example in memory: 64 MB.
MAX_SCORES = 2**24


@serializable
class Attention(layers.Layer):
    """Multi-head scaled dot-product attention, `[B, N, C]` to `[B, N, C]`.

    Args:
        heads: number of heads; must divide the channels of the query.
        bias: whether the projections to queries, keys and values have a bias.
        max_scores: largest number of scores of one example in memory. For more, or if the lengths
            are not known when a graph is traced, the queries are processed in chunks.
        **kwargs: `name` and `dtype` of a Keras layer.

    Call arguments:
        x: the input of the queries, `[B, N, C]`.
        context: the input of the keys and values, `[B, L, D]`.
        mask: None, or bool `[B, L]`: the positions of `context` that are attended to.

    Raises:
        ValueError: if `heads` does not divide the channels.

    Example:
        >>> x = ops.zeros((2, 6, 8))
        >>> Attention(2)(x, x).shape
        TensorShape([2, 6, 8])
    """

    def __init__(
        self, heads: int, *, bias: bool = False, max_scores: int = MAX_SCORES, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_count("heads", heads)
        check_count("max_scores", max_scores)
        self.heads = heads
        self.bias = bias
        self.max_scores = max_scores

    def build(
        self,
        x_shape: Shape,
        context_shape: Shape,
        mask_shape: Shape | None = None,
    ) -> None:
        """Creates the four projections."""
        channels = x_shape[-1]
        if channels % self.heads:
            raise ValueError(
                f"`heads` must divide the channels. "
                f"Received: heads={self.heads}, channels={channels}."
            )

        def dense(name: str, width: int, bias: bool) -> layers.Dense:
            layer = layers.Dense(channels, use_bias=bias, dtype=self.dtype_policy, name=name)
            layer.build((None, None, width))
            return layer

        self.to_q = dense("to_q", channels, self.bias)
        self.to_k = dense("to_k", context_shape[-1], self.bias)
        self.to_v = dense("to_v", context_shape[-1], self.bias)
        self.to_out = dense("to_out", channels, True)

    def call(self, x: tf.Tensor, context: tf.Tensor, mask: tf.Tensor | None = None) -> tf.Tensor:
        """Attends from `x` to the positions of `context` at which `mask` is true."""
        scale = (x.shape[-1] // self.heads) ** -0.5
        q = self._split(self.to_q(x) * scale, (0, 2, 1, 3))
        k = self._split(self.to_k(context), (0, 2, 3, 1))
        v = self._split(self.to_v(context), (0, 2, 1, 3))
        if mask is not None:
            mask = mask[:, None, None, :]
        queries, keys = q.shape[2], k.shape[3]
        if queries and keys and self.heads * queries * keys <= self.max_scores:
            out = ops.matmul(ops.cast(_weights(q, k, mask), v.dtype), v)
        else:
            row = self.heads * ops.shape(k)[3]
            out = _attend_in_chunks(q, k, v, mask, self.max_scores // row)
        return self.to_out(reshape(ops.transpose(out, (0, 2, 1, 3)), ops.shape(x)))

    def compute_output_shape(
        self,
        x_shape: Shape,
        context_shape: Shape,
        mask_shape: Shape | None = None,
    ) -> Shape:
        """Returns the shape of `x`."""
        return x_shape

    def _split(self, a: tf.Tensor, axes: tuple[int, ...]) -> tf.Tensor:
        a = reshape(a, (*ops.shape(a)[:2], self.heads, a.shape[2] // self.heads))
        return ops.transpose(a, axes)


def _weights(q: tf.Tensor, k: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Returns the attention weights, float32 `[B, heads, N, L]`."""
    scores = ops.cast(ops.matmul(q, k), "float32")
    if mask is not None:
        scores = ops.where(mask, scores, -1e9)
    return tf.nn.softmax(scores)


def _attend_in_chunks(
    q: tf.Tensor, k: tf.Tensor, v: tf.Tensor, mask: tf.Tensor | None, rows: int | tf.Tensor
) -> tf.Tensor:
    """Computes attention in chunks of `rows` queries.

    Args:
        q: scaled queries, `[B, heads, N, d]`.
        k: keys, `[B, heads, d, L]`.
        v: values, `[B, heads, L, d]`.
        mask: None or bool `[B, 1, 1, L]`.
        rows: number of queries in a chunk, an integer or a scalar tensor.

    Returns:
        `[B, heads, N, d]`.
    """
    queries = ops.shape(q)[2]
    if isinstance(queries, int) and isinstance(rows, int):
        rows = min(max(rows, 1), queries)
    else:
        rows = tf.minimum(tf.maximum(rows, 1), queries)
    count = -(-queries // rows)

    def split(a: tf.Tensor) -> tf.Tensor:  # [B, heads, N, d] -> [chunks, B, heads, rows, d]
        a = tf.pad(a, [[0, 0], [0, 0], [0, count * rows - queries], [0, 0]])
        batch, heads, _, width = ops.shape(a)
        return tf.transpose(reshape(a, (batch, heads, count, rows, width)), (2, 0, 1, 3, 4))

    def join(a: tf.Tensor) -> tf.Tensor:
        _, batch, heads, _, width = ops.shape(a)
        a = reshape(tf.transpose(a, (1, 2, 0, 3, 4)), (batch, heads, count * rows, width))
        return a[:, :, :queries]

    @tf.custom_gradient
    def attend(q: tf.Tensor, k: tf.Tensor, v: tf.Tensor) -> tuple[tf.Tensor, Callable]:
        def chunk(q: tf.Tensor) -> tf.Tensor:
            return tf.matmul(tf.cast(_weights(q, k, mask), v.dtype), v)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            qs, gs = split(q), split(upstream)
            array = tf.TensorArray(q.dtype, count, element_shape=qs.shape[1:])

            def body(i: tf.Tensor, dqs: tf.TensorArray, dk: tf.Tensor, dv: tf.Tensor) -> tuple:
                q, g = qs[i], gs[i]
                p = _weights(q, k, mask)
                dp = tf.cast(tf.matmul(g, v, transpose_b=True), tf.float32)
                ds = tf.cast(p * (dp - tf.reduce_sum(dp * p, -1, keepdims=True)), q.dtype)
                by_k = tf.matmul(q, ds, transpose_a=True)
                by_v = tf.matmul(tf.cast(p, g.dtype), g, transpose_a=True)
                dqs = dqs.write(i, tf.matmul(ds, k, transpose_b=True))
                return i + 1, dqs, dk + tf.cast(by_k, tf.float32), dv + tf.cast(by_v, tf.float32)

            first = [tf.zeros_like(a, tf.float32) for a in (k, v)]
            _, dqs, dk, dv = tf.while_loop(
                lambda i, *_: i < count, body, (0, array, *first), parallel_iterations=1
            )
            return join(dqs.stack()), tf.cast(dk, k.dtype), tf.cast(dv, v.dtype)

        return join(tf.map_fn(chunk, split(q), parallel_iterations=1)), gradient

    return attend(q, k, v)
