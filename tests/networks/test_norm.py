"""Group normalisation against Keras' layer, its compiled passes against its plain formula."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.distribution import fused
from kgen.networks import UNet
from kgen.networks.conv import decoder, encoder
from kgen.networks.norm import GroupNorm
from kgen.networks.passes import LARGE, LARGE_IN_TRAINING
from kgen.sampling.sampler import Guided


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def with_weights(layer, channels, rank=2):
    layer(noise([1, *[2] * rank, channels]))
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


@pytest.mark.parametrize("size", [(7,), (3, 4, 5)])
def test_group_norm_of_other_axes_equals_keras(size):
    x, shift = 3 * noise([2, *size, 12]) + 1, 2 * noise([2, 12], 3)
    theirs = with_weights(keras.layers.GroupNormalization(4, epsilon=1e-5), 12, len(size))
    ours = with_weights(GroupNorm(4, 1e-5, "silu"), 12, len(size))
    shifted = x + tf.reshape(shift, [2, *[1] * len(size), 12])
    expected = keras.activations.silu(theirs(shifted))
    np.testing.assert_allclose(ours(x, shift=shift), expected, atol=2e-5)


def test_group_norm_refuses_groups_that_do_not_divide():
    with pytest.raises(ValueError, match="`groups` must divide"):
        GroupNorm(5)(noise([1, 2, 2, 12]))


def test_group_norm_refuses_other_activations():
    with pytest.raises(ValueError, match="`activation` must be one of"):
        GroupNorm(activation="relu")


class Both:
    """A layer in a `tf.function`, with compiled passes or without."""

    def __init__(self, dtype="float32"):
        self.layer = with_weights(GroupNorm(8, 1e-5, "silu", dtype=dtype), 32)
        self.x = tf.cast(2 * noise([2, 16, 32, 32]) + 1, self.layer.compute_dtype)
        self.shift = tf.cast(noise([2, 32], 3), self.layer.compute_dtype)
        self.direction, self.directions = noise(self.x.shape, 5), noise([3, *self.x.shape], 6)
        self.given = [self.x, self.shift, self.layer.gamma.value, self.layer.beta.value]

    def run(self, function, compiled, **options):
        @tf.function(**options)
        def graph():
            with fused(compiled):
                return function()

        assert xla(graph.get_concrete_function().graph.as_graph_def()) == compiled
        return graph()

    def gradients(self):
        """Of a sum with a direction, and of the square of those, along another."""
        with tf.GradientTape() as outer:
            outer.watch(self.given)
            with tf.GradientTape() as inner:
                inner.watch(self.given)
                y = tf.cast(self.layer(self.x, shift=self.shift), tf.float32)
                loss = tf.reduce_sum(self.direction * y)
            first = inner.gradient(loss, self.given)
            square = tf.add_n([tf.reduce_sum(tf.square(tf.cast(g, "float32"))) for g in first])
        return [y, *first, *outer.gradient(square, self.given)]

    def products(self):
        """Products with the Jacobian, one after the other, as the probability flow needs them."""
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(self.x)
            y = self.layer(self.x, shift=self.shift)
        return tf.map_fn(lambda v: tape.gradient(y, self.x, v), self.directions)


def xla(graph_def):
    """Whether XLA compiles a part of a graph."""
    return any(f.attr["_XlaMustCompile"].b for f in graph_def.library.function)


def test_compiled_passes_equal_the_plain_ones():
    """Values and first and second derivatives, as TensorFlow takes them of the plain formula."""
    assert LARGE <= 16 * 32 * 32
    both = Both()
    compiled, plain = (both.run(both.gradients, c) for c in (True, False))
    assert len(plain) == 9
    for one, other in zip(compiled, plain):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_compiled_passes_of_three_axes_equal_the_plain_ones():
    both = Both()
    both.x = tf.reshape(both.x, [2, 4, 4, 32, 32])
    both.direction = tf.reshape(both.direction, both.x.shape)
    both.given[0] = both.x
    compiled, plain = (both.run(both.gradients, c) for c in (True, False))
    assert compiled[0].shape == compiled[1].shape == both.x.shape
    for one, other in zip(compiled, plain):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_compiled_passes_inside_of_what_xla_compiles_as_a_whole():
    both = Both()
    compiled = both.run(both.gradients, True, jit_compile=True)
    for one, other in zip(compiled, both.run(both.gradients, False)):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_compiled_passes_under_a_tape_that_stays():
    both = Both()
    compiled, plain = (both.run(both.products, c) for c in (True, False))
    np.testing.assert_allclose(compiled, plain, atol=1e-5 * np.abs(plain).max())


def test_compiled_passes_under_a_tape_outside_of_the_graph():
    both = Both()

    def gradient(compiled):
        @tf.function
        def graph(x):
            with fused(compiled):
                return both.layer(x)

        with tf.GradientTape() as tape:
            tape.watch(both.x)
            y = graph(both.x)
        return tape.gradient(y, both.x, both.direction)

    np.testing.assert_allclose(gradient(True), gradient(False), atol=1e-5)


def test_compiled_passes_without_a_shift():
    both = Both()

    def gradient():
        with tf.GradientTape() as tape:
            tape.watch(both.x)
            y = both.layer(both.x)
        return tape.gradient(y, both.x, both.direction)

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

    spec = tf.TensorSpec([None, 8, 8, 32])
    assert not xla(small.get_concrete_function(spec).graph.as_graph_def())
    with fused():
        eager = layer(noise([2, 32, 32, 32]))
    np.testing.assert_array_equal(eager, layer(noise([2, 32, 32, 32])))


def drawing(model):
    """The graph in which `generate` makes a picture of the last state."""
    guided = Guided(None, None, tf.constant(1.0), tf.range(2))
    z = tf.zeros([2, *model.sampler.shape])
    last = tf.function(lambda z: model.finish_run(None, None)(z, tf.zeros([1]), guided, {}, {}))
    return last.get_concrete_function(z).graph.as_graph_def()


def in_file(folder):
    """Whether XLA compiles a part of a SavedModel."""
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return any(xla(meta.graph_def) for meta in saved.meta_graphs)


def test_models_compile_what_they_run_themselves_and_export_what_any_server_runs(tmp_path):
    network = UNet((32, 32, 1), channels=(16,), blocks=1, attention=(False,), transformers=False)
    model = kgen.DiffusionModel(network, GaussianDiffusion(CosineLogSNR()), ema_decay=0.9)
    model.compile(keras.optimizers.SGD(0.0))
    x = tf.zeros((2, 32, 32, 1))
    step = tf.function(model.train_step).get_concrete_function(x)
    assert xla(step.graph.as_graph_def())
    assert xla(drawing(model))

    @tf.function
    def run():
        with fused():
            return network(x, tf.zeros([2]))

    module = tf.Module()
    module.network, module.run = network, run
    tf.saved_model.save(module, str(tmp_path / "run"), run.get_concrete_function())
    assert in_file(tmp_path / "run")  # it would be seen
    kgen.export_saved_model(model, tmp_path / "exported")
    assert not in_file(tmp_path / "exported")


def test_a_decoder_is_compiled_in_generate_and_not_in_the_export(tmp_path):
    autoencoder = kgen.KLAutoencoder(
        encoder((32, 32, 3), 2, channels=(16, 16)), decoder((16, 16, 2), channels=(16, 16))
    )
    network = UNet((16, 16, 2), channels=(8,), blocks=1, attention=(False,), transformers=False)
    model = kgen.LatentDiffusion(autoencoder, network, GaussianDiffusion(CosineLogSNR()))
    assert xla(drawing(model))
    kgen.export_saved_model(model, tmp_path / "latent")
    kgen.export_saved_model(autoencoder, tmp_path / "autoencoder")
    assert not in_file(tmp_path / "latent")
    assert not in_file(tmp_path / "autoencoder")


@pytest.mark.parametrize("training", [True, False])
def test_training_compiles_passes_of_smaller_pictures(training):
    layer = with_weights(GroupNorm(8, 1e-5, "silu"), 192)
    x = noise([2, 4, 4, 192])
    assert LARGE_IN_TRAINING <= x[0].numpy().size < LARGE

    @tf.function
    def run(allowed):
        with fused(allowed, training=training):
            return layer(x)

    assert xla(run.get_concrete_function(True).graph.as_graph_def()) == training
    np.testing.assert_allclose(run(True), run(False), atol=1e-5)
