"""Half precision: losses, bounds and samples are those of float32, and nothing is silently NaN.

bfloat16 keeps 8 bits of the significand, so each rounding is off by up to 2^-9 of a value. The
networks round their activations a few dozen times; if the errors are independent they add up to
some 2^-9 sqrt(50), 1.4 % of the output. The error of a prediction enters the squared error to first
order, and its mean over many values by far less: 2 % bound a loss, with room. Process, loss and
solver state are float32 throughout, so reconstruction and prior have nothing to lose.
"""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import GaussianDiffusion, LinearLogSNR
from kgen.networks import DiT, TimeMLP, UNet, mlp
from kgen.networks.blocks import dtype_policy

SEED = tf.constant([5, 6])
SHAPE = (8, 8, 1)


def fill_zeros(network):
    rng = np.random.default_rng(0)
    for weight in network.trainable_variables:
        if np.all(weight.numpy() == 0) and len(weight.shape) > 1:  # or the output would be zero
            weight.assign(rng.normal(0, 1 / np.sqrt(np.prod(weight.shape[:-1])), weight.shape))


def make(kind, dtype, classes=None):
    keras.utils.set_random_seed(0)
    network = UNet(
        SHAPE,
        channels=(16, 32),
        blocks=1,
        attention=(False, False),  # the middle has it
        heads=2,
        pooled=None if classes is None else 8,
        dtype=dtype,
    )
    fill_zeros(network)
    conditioner = None if classes is None else Labels(classes, 8, dtype=dtype)
    process = GaussianDiffusion(LinearLogSNR(13.3, -8.0))
    return kind(network, process, conditioner=conditioner, seed=0)


@pytest.fixture(scope="module")
def x():
    levels = np.random.default_rng(1).integers(0, 256, (64, *SHAPE))
    return tf.constant(levels * 2 / 255 - 1, tf.float32)


@pytest.fixture(scope="module", params=[kgen.DiffusionModel, kgen.ScoreModel])
def pair(request):
    """The same weights, computed in float32 and in bfloat16."""
    return [make(request.param, dtype) for dtype in ("float32", "mixed_bfloat16")]


def test_losses_bounds_and_samples_are_those_of_float32(pair, x):
    assert pair[1].network.graph.get_layer("mid_0_res_conv1").compute_dtype == "bfloat16"
    results = []
    for model in pair:
        loss = tf.add_n(list(model.loss_terms(x, seed=SEED).values()))
        images = model.generate(num_samples=8, num_steps=5, seed=0).astype("float32")
        results.append({"loss": loss, **model.density_terms(x, None, SEED), "images": images})
    full, half = ({k: np.asarray(v) for k, v in result.items()} for result in results)
    for name in ("reconstruction", "prior"):
        np.testing.assert_array_equal(half[name], full[name])
    for name in ("loss", "denoising"):
        assert half[name].dtype == np.float32
        assert np.isfinite(half[name]).all()
        assert half[name].mean() == pytest.approx(full[name].mean(), rel=0.02)
        assert not np.array_equal(half[name], full[name])
    # Five steps, each with 1.4 % of an x_hat in [-1, 1]: a few of the 256 grey levels.
    assert np.abs(half["images"] - full["images"]).mean() < 0.014 * 128 * np.sqrt(5)


@pytest.mark.slow
def test_training_in_half_precision_is_finite_and_follows_float32(pair, x):
    losses, bits = [], []
    for model in pair:
        model.compile(keras.optimizers.Adam(1e-3))
        logs = model.evaluate(x, batch_size=64, verbose=0, return_dict=True)
        bits.append(logs.get("bits_per_dim", 0.0))  # a score model has no bound of grey levels
        losses.append(model.fit(x, epochs=6, batch_size=32, verbose=0).history["loss"])
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
        assert all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)
    assert bits[1] == pytest.approx(bits[0], rel=0.02)
    assert losses[1][-1] < losses[1][0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)


@pytest.mark.parametrize("everywhere", [False, True])
@pytest.mark.parametrize(
    "network",
    [
        functools.partial(UNet, SHAPE, channels=(8,), blocks=1, attention=(False,)),
        functools.partial(DiT, SHAPE, width=16, depth=1),
        functools.partial(TimeMLP, 2, width=16),
    ],
)
def test_networks_compute_in_half_precision_and_are_told_the_noise_in_full(network, everywhere):
    """5 and 5.01 are one number in bfloat16, whose steps are 1/32 there."""
    keras.utils.set_random_seed(0)
    with dtype_policy("mixed_bfloat16" if everywhere else "float32"):
        network = network() if everywhere else network(dtype="mixed_bfloat16")
    fill_zeros(network)
    dense = [layer for layer in network.graph.layers if isinstance(layer, keras.layers.Dense)]
    assert "bfloat16" in {layer.compute_dtype for layer in dense}
    one, other = network(tf.ones([2, *network.data_shape]), tf.constant([5.0, 5.01]))
    assert np.abs(one - other).max() > 0.01 * np.abs(one).max()
    # 1 and 1.003 are one number too. A noisy value near the data has no more noise than that.
    shown = [network(v * tf.ones([1, *network.data_shape]), tf.zeros([1])) for v in (1.0, 1.003)]
    assert np.abs(shown[0] - shown[1]).max() > 0


def test_a_model_of_classes_trains_and_is_guided_as_in_float32(x):
    batch = {"images": x, "labels": np.arange(64) % 3}
    results = []
    for dtype in ("float32", "mixed_bfloat16"):
        model = make(kgen.DiffusionModel, dtype, classes=3)
        model.conditioner.table.assign(np.random.default_rng(2).normal(size=(4, 8)))
        loss = model.loss_terms(batch, training=True, seed=SEED)["weighted_denoising"]
        images = model.generate([0, 1, 2, 0], num_steps=5, guidance_scale=2.0, seed=0)
        results.append((loss.numpy().mean(), images.astype("float32")))
    (full, clear), (half, rounded) = results
    assert half == pytest.approx(full, rel=0.02)
    assert np.abs(rounded - clear).mean() < 3 * 0.014 * 128 * np.sqrt(5)  # 3 = |1 - s| + |s|
    model.compile(keras.optimizers.Adam(1e-3), run_eagerly=True)
    assert np.isfinite(model.fit(batch, batch_size=32, verbose=0).history["loss"]).all()


def test_averages_of_half_precision_weights_move_by_small_steps():
    """From 1 toward 2 by 1 % of what is left, for which bfloat16 has no number."""
    with dtype_policy("bfloat16"):
        model = kgen.Autoencoder(mlp((3,), (2,)), mlp((2,), (3,)), ema_decay=0.99)
    variable = model.encoder.get_layer("dense_0").kernel
    assert variable.dtype == "bfloat16"
    variable.assign(tf.ones_like(variable))
    model.averages.reset()
    variable.assign(2 * tf.ones_like(variable))
    model.averages.updates.assign(10**6)
    for _ in range(20):
        model.averages.update()
    with model.averaged():
        average = tf.convert_to_tensor(variable)
        assert average.dtype == tf.bfloat16
        np.testing.assert_allclose(tf.cast(average, tf.float32), 2 - 0.99**20, rtol=2**-8)


def test_nan_is_never_silent(x):
    """What is not finite comes out as such, not as black pictures or as a finite loss."""
    model = make(kgen.DiffusionModel, "mixed_bfloat16")
    kernel = model.network.graph.get_layer("mid_0_res_conv1").kernel
    kernel.assign(tf.fill(kernel.shape, np.nan))
    assert np.isnan(model.loss_terms(x, seed=SEED)["weighted_denoising"]).all()
    with pytest.raises(tf.errors.InvalidArgumentError, match="The samples are not finite"):
        model.generate(num_samples=2, num_steps=2, seed=0)
    model.compile("sgd", skip_above=float("inf"))
    with pytest.raises(FloatingPointError, match="weighted_denoising"):
        model.fit(x, epochs=6, batch_size=32, verbose=0, callbacks=[kgen.callbacks.Guard()])
