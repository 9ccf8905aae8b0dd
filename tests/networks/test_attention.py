"""Attention against Keras' own layer, and chunks of queries against the plain formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import Attention


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


MASK = tf.constant([[True] * 3 + [False] * 2, [True] * 5])


@pytest.mark.parametrize("bias", [False, True])
def test_attention_equals_keras(bias):
    x, context = noise([2, 7, 16]), noise([2, 5, 12], 1)
    ours, theirs = Attention(4, bias=bias), keras.layers.MultiHeadAttention(4, 4)
    ours(x, context, MASK)
    theirs(x, context, attention_mask=MASK[:, None, :])
    pairs = [
        (ours.to_q, theirs._query_dense),
        (ours.to_k, theirs._key_dense),
        (ours.to_v, theirs._value_dense),
        (ours.to_out, theirs._output_dense),
    ]
    for i, (a, b) in enumerate(pairs):
        b.kernel.assign(tf.reshape(a.kernel, b.kernel.shape))
        assert a.use_bias == (bias or a is ours.to_out)
        if a.use_bias:
            a.bias.assign(noise(a.bias.shape, 10 + i))
            b.bias.assign(tf.reshape(a.bias, b.bias.shape))
    expected = theirs(x, context, attention_mask=MASK[:, None, :])
    np.testing.assert_allclose(ours(x, context, MASK), expected, atol=1e-5)


def test_masked_tokens_do_not_matter():
    x, context = noise([1, 4, 8]), noise([1, 3, 8], 1)
    attention = Attention(2)
    mask = tf.constant([[True, True, False]])
    changed = tf.concat([context[:, :2], 100 * context[:, 2:]], 1)
    np.testing.assert_array_equal(attention(x, context, mask), attention(x, changed, mask))


def plain(layer, x, context, mask):
    """The formula, head by head, in float64."""
    x, context = tf.cast(x, tf.float64), tf.cast(context, tf.float64)
    kernels = [tf.cast(d.kernel, tf.float64) for d in (layer.to_q, layer.to_k, layer.to_v)]
    q, k, v = (a @ w for a, w in zip((x, context, context), kernels))
    width, out = x.shape[-1] // layer.heads, []
    for i in range(layer.heads):
        part = slice(i * width, (i + 1) * width)
        scores = q[..., part] @ tf.linalg.matrix_transpose(k[..., part]) / np.sqrt(width)
        if mask is not None:
            scores = tf.where(mask[:, None, :], scores, -np.inf)
        out.append(tf.nn.softmax(scores) @ v[..., part])
    out = tf.concat(out, -1) @ tf.cast(layer.to_out.kernel, tf.float64)
    return tf.cast(out + tf.cast(layer.to_out.bias, tf.float64), tf.float32)


def derivatives(function, layer, x, context):
    """The value, the first derivatives, and the second ones along a direction."""
    weights = [d.kernel.value for d in (layer.to_q, layer.to_k, layer.to_v, layer.to_out)]
    inputs = [x, context, *weights]
    with tf.GradientTape() as outer:
        outer.watch(inputs)
        with tf.GradientTape() as inner:
            inner.watch(inputs)
            y = function()
            loss = tf.reduce_sum(y * noise(y.shape, 5))
        first = inner.gradient(loss, inputs)
        along = tf.add_n([tf.reduce_sum(g * noise(g.shape, 6 + i)) for i, g in enumerate(first)])
    return [y, *first, *outer.gradient(along, inputs)]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("max_scores", [1, 20, 40, 60])
@pytest.mark.parametrize("compiled", [False, True])
def test_chunks_equal_the_plain_formula(masked, max_scores, compiled):
    """Of 7 queries, 5 positions and 2 heads: 1, 2, 4 or 6 queries at a time."""
    x, context, mask = noise([2, 7, 8]), noise([2, 5, 6], 1), MASK if masked else None
    layer = Attention(2, max_scores=max_scores)
    layer(x, context)

    def results():
        return derivatives(lambda: layer(x, context, mask), layer, x, context)

    chunked = tf.function(results)() if compiled else results()
    expected = derivatives(lambda: plain(layer, x, context, mask), layer, x, context)
    assert len(chunked) == 13
    for one, other in zip(chunked, expected):
        np.testing.assert_allclose(one, other, atol=2e-5 * max(1, np.abs(other).max()))


def every_op(graph):
    """Operations of a graph and of the functions that it calls."""
    yield from graph.get_operations()
    for function in graph._functions.values():
        yield from every_op(function.graph)


def largest(layer, length, gradient):
    """The most numbers of one example that a tensor of the graph holds."""

    @tf.function(input_signature=[tf.TensorSpec([1, length, 8])])
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, x)
        return tape.gradient(y, x) if gradient else y

    shapes = [t.shape for op in every_op(run.get_concrete_function().graph) for t in op.outputs]
    assert all(s.is_fully_defined() for s in shapes if s.rank == 4)
    return max(s.num_elements() for s in shapes if s.rank == 4)


@pytest.mark.parametrize("gradient", [False, True])
def test_chunks_hold_no_more_scores_than_allowed(gradient):
    assert largest(Attention(2), 64, gradient) == 2 * 64 * 64
    assert largest(Attention(2, max_scores=1024), 64, gradient) == 1024


def test_lengths_that_are_known_only_when_called():
    layer = Attention(2, max_scores=50)
    x, context = noise([2, 9, 8]), noise([2, 5, 8], 1)
    expected = plain_after_build(layer, x, context)

    @tf.function(
        input_signature=[tf.TensorSpec([None, None, 8])] * 2
        + [tf.TensorSpec([None, None], tf.bool)]
    )
    def run(x, context, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, context, mask)
        return y, tape.gradient(y, x)

    y, gradient = run(x, context, MASK)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(plain(layer, x, context, MASK))
    np.testing.assert_allclose(gradient, tape.gradient(loss, x), atol=1e-5)
    short, _ = run(x[:, :1], context, MASK)
    np.testing.assert_allclose(short, expected[:, :1], atol=1e-5)


def plain_after_build(layer, x, context):
    layer(x, context)
    return plain(layer, x, context, MASK)


def test_chunks_are_as_close_in_half_precision():
    x, context = noise([2, 7, 8]), noise([2, 5, 8], 1)
    exact = Attention(2)
    exact(x, context)
    half = Attention(2, max_scores=20, dtype="mixed_bfloat16")
    half(x, context)
    half.set_weights(exact.get_weights())
    results = []
    for layer in (half, exact):
        with tf.GradientTape() as tape:
            tape.watch([x, context])
            y = tf.cast(layer(x, context, MASK), tf.float32)
            loss = tf.reduce_sum(y * noise(y.shape, 5))
        results.append([y, *tape.gradient(loss, [x, context])])
    for one, other in zip(*results):
        error = np.linalg.norm(one - other) / np.linalg.norm(other)
        assert 0 < error < 0.03


def test_chunks_inside_of_what_xla_compiles():
    x = noise([2, 8, 8])
    layer = Attention(2, max_scores=64)
    layer(x, x)
    expected = plain(layer, x, x, None)

    @tf.function(jit_compile=True)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, x)
        return y, tape.gradient(y, x)

    y, gradient = run(x)
    np.testing.assert_allclose(y, expected, atol=1e-5)
    with tf.GradientTape() as tape:
        tape.watch(x)
        loss = tf.reduce_sum(plain(layer, x, x, None))
    np.testing.assert_allclose(gradient, tape.gradient(loss, x), atol=1e-5)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="`heads` must divide the channels"):
        Attention(3)(noise([1, 4, 8]), noise([1, 4, 8]))
    with pytest.raises(ValueError, match="`heads` must be at least 1"):
        Attention(0)


def test_attention_round_trips_its_config():
    layer = Attention(2, bias=True, max_scores=7)
    again = Attention.from_config(layer.get_config())
    assert (again.heads, again.bias, again.max_scores) == (2, True, 7)
