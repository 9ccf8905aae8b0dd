"""Group normalisation against Keras' layer, its compiled passes against its plain formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import UNet
from kgen.networks.norm import LARGE, GroupNorm, fused


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def with_weights(layer, channels):
    layer(noise([1, 2, 2, channels]))
    layer.gamma.assign(noise([channels], 1))
    layer.beta.assign(noise([channels], 2))
    return layer


@pytest.mark.parametrize("groups", [1, 4, 12])
def test_group_norm_equals_keras(groups):
    x, shift = 3 * noise([2, 5, 6, 12]) + 1, 2 * noise([2, 12], 3)
    theirs = with_weights(keras.layers.GroupNormalization(groups, epsilon=1e-5), 12)
    ours = with_weights(GroupNorm(groups, 1e-5), 12)
    np.testing.assert_allclose(ours(x), theirs(x), atol=2e-5)
    activated = with_weights(GroupNorm(groups, 1e-5, "silu"), 12)
    expected = keras.activations.silu(theirs(x + shift[:, None, None, :]))
    np.testing.assert_allclose(activated(x, shift=shift), expected, atol=2e-5)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="`groups` must divide"):
        GroupNorm(5)(noise([1, 2, 2, 12]))


def test_group_norm_refuses_other_activations():
    with pytest.raises(ValueError, match="`activation` must be one of"):
        GroupNorm(activation="relu")


class Both:
    """A layer in a `tf.function`, with compiled passes or without."""

    def __init__(self, dtype="float32"):
        keras.utils.set_random_seed(0)
        self.layer = with_weights(GroupNorm(8, 1e-5, "silu", dtype=dtype), 32)
        self.x = tf.cast(2 * noise([2, 16, 32, 32]) + 1, self.layer.compute_dtype)
        self.shift = tf.cast(noise([2, 32], 3), self.layer.compute_dtype)
        self.given = [self.x, self.shift, self.layer.gamma.value, self.layer.beta.value]

    def run(self, function, compiled):
        @tf.function
        def graph():
            if not compiled:
                return function()
            with fused():
                return function()

        assert xla(graph.get_concrete_function().graph) == compiled
        return graph()

    def gradients(self):
        """Of a sum with a direction, and of the square of those, along another."""
        with tf.GradientTape() as outer:
            outer.watch(self.given)
            with tf.GradientTape() as inner:
                inner.watch(self.given)
                y = tf.cast(self.layer(self.x, shift=self.shift), tf.float32)
                loss = tf.reduce_sum(noise(y.shape, 5) * y)
            first = inner.gradient(loss, self.given)
            square = tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, "float32"))) for g in first])
        return [y, *first, *outer.gradient(square, self.given)]


def xla(graph):
    """Whether XLA compiles a part of a graph."""
    functions = graph.as_graph_def().library.function
    return any(f.attr["_XlaMustCompile"].b for f in functions)


def test_compiled_passes_equal_the_plain_ones():
    """Values and first and second derivatives, as TensorFlow takes them of the plain formula."""
    assert LARGE <= 16 * 32 * 32
    both = Both()
    compiled, plain = (both.run(both.gradients, c) for c in (True, False))
    assert len(plain) == 9
    for one, other in zip(compiled, plain):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_compiled_passes_without_a_shift():
    both = Both()

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(both.x)
            y = both.layer(both.x)
        return tape.gradient(y, both.x, noise(y.shape, 5))

    compiled, plain = (both.run(gradient, c) for c in (True, False))
    np.testing.assert_allclose(compiled, plain, atol=1e-5)


def test_compiled_passes_are_as_close_in_half_precision():
    """Less than a percent away from those of float32: bfloat16 has 8 bits."""
    exact, half = Both(), Both("mixed_bfloat16")
    expected = exact.run(exact.gradients, True)[:5]
    for one, other in zip(half.run(half.gradients, True), expected):
        error = np.linalg.norm(tf.cast(one, tf.float32) - other) / np.linalg.norm(other)
        assert 0 < error < 0.01


def test_small_pictures_and_eager_mode_stay_plain():
    layer = with_weights(GroupNorm(8, 1e-5, "silu"), 32)

    @tf.function
    def small(x):
        with fused():
            return layer(x)

    assert not xla(small.get_concrete_function(tf.TensorSpec([None, 8, 8, 32])).graph)
    with fused():
        np.testing.assert_allclose(layer(noise([2, 32, 32, 32])).shape, [2, 32, 32, 32])


def test_models_compile_what_they_run_themselves_and_export_what_any_server_runs(tmp_path):
    network = UNet((32, 32, 1), channels=(16,), blocks=1, attention=(False,), transformers=False)
    model = kgen.DiffusionModel(network, GaussianDiffusion(CosineLogSNR()))
    model.compile(keras.optimizers.SGD(0.0))
    x = np.zeros((2, 32, 32, 1), "float32")
    step = tf.function(model.train_step).get_concrete_function(tf.constant(x))
    assert xla(step.graph)
    model.generate(2, num_steps=1, seed=0)
    (drawn,) = model.generate_step._compiled.values()
    assert all(xla(concrete.graph) for concrete in drawn._list_all_concrete_functions())

    kgen.export_saved_model(model, tmp_path / "exported")
    loaded = tf.saved_model.load(tmp_path / "exported")
    for signature in loaded.signatures.values():
        assert not xla(signature.graph)
