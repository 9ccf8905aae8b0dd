"""Learned noise in the bins of discrete data, against probabilities in closed form."""

import contextlib
import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR
from kgen.networks import TimeMLP
from kgen.serialization import serializable
from kgen.tensors import expand_to

LEVELS = 4
VALUES = np.linspace(-1, 1, LEVELS)
WIDTH = 2 / 3
SHARES = np.array([[0.1, 0.2, 0.3, 0.4], [0.4, 0.1, 0.4, 0.1]])
STD = 0.1


@pytest.fixture(scope="module")
def peaks(mixture_data):
    """A density on the plane with a narrow peak in each bin, off its middle."""
    means = np.stack([VALUES + 0.08, VALUES - 0.05])
    return type(mixture_data)(SHARES, means, np.full((2, LEVELS), STD))


@pytest.fixture(scope="module")
def grid():
    """Every pair of grey levels."""
    return np.stack(np.meshgrid(VALUES, VALUES), -1).reshape(-1, 2).astype("float32")


@pytest.fixture(scope="module")
def probability(peaks, grid):
    """The exact probability of each pair: differences of normal distribution functions."""
    below = np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))
    edges = grid[:, :, None, None] + np.array([-WIDTH / 2, WIDTH / 2])
    inside = np.diff(below((edges - peaks.means[..., None]) / STD), axis=-1)[..., 0]
    return (inside * SHARES).sum(-1).prod(-1)


def network(size=2):
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size,)),
            layers.Dense(32, "tanh"),
            layers.Dense(2 * size, kernel_initializer="zeros"),
        ]
    )


@pytest.fixture(scope="module")
def model(peaks):
    """A diffusion model whose network is the exact denoiser."""
    process = GaussianDiffusion(LinearLogSNR(12.0, -10.0))
    denoise = peaks.denoise(process)

    def exact(z, log_snr, cond=None, training=False):
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        return (z - alpha * denoise(z, process.schedule.time(log_snr))) / sigma

    return kgen.DiffusionModel(
        exact, process, data_shape=(2,), prediction="eps", grey_levels=LEVELS
    )


@pytest.fixture(scope="module")
def trained(model, grid, probability):
    noise = kgen.VariationalDequantization(network(), model, seed=0)
    data = np.random.default_rng(0).choice(16, 4000, p=probability / probability.sum())
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.01, 400))
    noise.compile(optimizer, steps_per_execution=20)
    noise.fit(grid[data], batch_size=200, epochs=20, verbose=0)
    return noise


def nats(model, x, dequantization, draws=200):
    """A bound on log P for each example, over many draws of the noise."""
    many = np.repeat(x, draws, axis=0)
    options = {"rtol": 1e-4, "atol": 1e-4, "batch_size": len(many)}
    log_p = model.log_likelihood(many, dequantization=dequantization, **options)
    return log_p.reshape(-1, draws).mean(1) + 2 * np.log(WIDTH)


def test_the_learned_bound_lies_between_the_even_one_and_the_probability(
    model, trained, peaks, grid, probability
):
    uniform, learned, exact = (
        nats(model, grid, "uniform"),
        nats(model, grid, trained),
        np.log(probability),
    )
    noise = (
        (np.arange(400) + 0.5) / 400 - 0.5
    ) * WIDTH  # by quadrature: a product over coordinates
    expected = [peaks.log_prob(x + noise[:, None]).mean() + 2 * np.log(WIDTH) for x in grid]
    np.testing.assert_allclose(uniform.mean(), np.mean(expected), atol=0.1)
    assert (learned > uniform + 1).all()
    assert (learned < exact + 0.03).all()
    assert 0 < np.mean(exact - learned) < 0.06


def test_evaluate_gives_the_bound_on_the_probability(trained, grid, probability):
    many, bounds = np.tile(grid, (2000, 1)), []
    for _ in range(10):  # the standard error of one is 0.08
        logs = trained.evaluate(many, batch_size=len(many), verbose=0, return_dict=True)
        bounds.append(logs["bound"])
    assert np.mean(bounds) == pytest.approx(-np.log(probability).mean(), abs=0.1)
    assert logs["bound"] == pytest.approx(logs["noise"] + logs["density"], abs=1e-4)
    assert logs["bits_per_dim"] == pytest.approx(logs["bound"] / 2 / np.log(2), abs=1e-4)


@serializable
class LogisticInBins(keras.layers.Layer):
    """A density in closed form: shares of three bins on the line, and logistic noise in each."""

    grey_levels, data_shape, likelihood = 3, (1,), kgen.likelihoods.LogisticMixture()
    shares, means, scales = (0.2, 0.5, 0.3), (0.0, 1.5, -0.7), (1.0, 0.3, 0.6)

    def averaged(self):
        return contextlib.nullcontext()

    def encode_condition(self, batch, training, seed):
        return None

    def check_batch(self, batch):
        pass

    def density_terms(self, x, cond, seed):
        """By the distribution function F((logit u - m) / s) of the place in the bin."""
        bin_of = tf.cast(tf.round(x[:, 0] + 1), tf.int32)
        share, mean, scale = (
            tf.gather(tf.constant(v), bin_of) for v in (self.shares, self.means, self.scales)
        )
        u = x[:, 0] + 1.5 - tf.cast(bin_of, tf.float32)
        with tf.GradientTape() as tape:
            tape.watch(u)
            below = tf.sigmoid((tf.math.log(u) - tf.math.log(1 - u) - mean) / scale)
        return {"reconstruction": -tf.math.log(share * tape.gradient(below, u))}


def test_the_probability_is_reached_where_the_family_holds_the_optimum():
    """Then log p(v) - log q(u | x) is log P(x) at every draw, not only on average."""
    density = LogisticInBins()
    noise = kgen.VariationalDequantization(network(1), density, seed=0)
    x = np.array([[-1.0], [0.0], [1.0]], "float32")
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 600))
    noise.compile(optimizer, steps_per_execution=50)
    noise.fit(np.tile(x, (20_000, 1)), batch_size=100, epochs=1, verbose=0)
    values, log_q = noise.dequantize(np.repeat(x, 500, axis=0), 1)
    log_p = -density.density_terms(values, None, None)["reconstruction"] - log_q
    log_p = log_p.numpy().reshape(3, 500)
    np.testing.assert_allclose(log_p.mean(1), np.log(density.shares), atol=5e-3)
    assert log_p.std(1).max() < 0.05
    output = noise.network(x).numpy()
    np.testing.assert_allclose(output[:, 0], density.means, atol=0.1)
    np.testing.assert_allclose(np.exp(output[:, 1]), density.scales, rtol=0.1)


def test_a_network_of_zeros_is_even_noise(model, grid):
    noise = kgen.VariationalDequantization(network(), model)
    values, log_q = noise.dequantize(np.repeat(grid, 1000, axis=0), 0)
    np.testing.assert_allclose(log_q, 0, atol=1e-4)
    inside = (values.numpy() - np.repeat(grid, 1000, axis=0)) / WIDTH
    assert np.abs(inside).max() <= 0.5
    np.testing.assert_allclose(np.quantile(inside, [0.1, 0.5, 0.9]), [-0.4, 0, 0.4], atol=0.01)


def learned(**options):
    model = kgen.DiffusionModel(
        TimeMLP(2, width=8, blocks=1), GaussianDiffusion(CosineLogSNR()), **options
    )
    return model


def test_it_learns_saves_and_loads_with_its_density(grid, tmp_path):
    density = learned(grey_levels=LEVELS, ema_decay=0.9)
    noise = kgen.VariationalDequantization(network(), density, ema_decay=0.9, seed=0)
    noise.compile(keras.optimizers.Adam(0.01))
    before = [v.numpy() for v in density.weights]
    noise.fit(grid, epochs=2, verbose=0)
    for variable, value in zip(density.weights, before):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(variable, value)
    assert len(noise.optimized_variables) == 4
    values, log_q = noise.dequantize(grid, 5)
    assert np.abs(log_q).max() > 0
    np.testing.assert_array_equal(noise.dequantize(grid.astype("float64"), 5)[0], values)
    noise.save(tmp_path / "noise.keras")
    noise.save_to_preset(tmp_path / "preset", "float32")
    for again in (
        keras.saving.load_model(tmp_path / "noise.keras", compile=False),
        kgen.from_preset(tmp_path / "preset"),
    ):
        np.testing.assert_allclose(again.dequantize(grid, 5)[0], values, atol=1e-6)
        options = {"dequantization": again, "rtol": 1e-2, "atol": 1e-2, "num_probes": 1}
        np.testing.assert_allclose(
            again.density.log_likelihood(grid, **options),
            density.log_likelihood(grid, **{**options, "dequantization": noise}),
            rtol=1e-4,
        )


def test_the_density_can_be_trained_on(grid):
    density = learned(grey_levels=LEVELS)
    before = [v.numpy() for v in density.trainable_variables]
    noise = kgen.VariationalDequantization(network(), density, ema_decay=0.9, seed=0)
    noise.compile("adam")
    noise.fit(grid, verbose=0)
    assert len(noise.averages.values) == 4
    for variable, value in zip(density.trainable_variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    density.compile("adam")
    density.fit(grid, verbose=0)
    assert any((v.numpy() != value).any() for v, value in zip(density.trainable_variables, before))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: (network(), network()), TypeError, "`density` must be a DiffusionModel or a Sc"),
        (lambda: (network(), learned(grey_levels=None)), ValueError, "must have `grey_levels`"),
        (lambda: (network(3), learned()), ValueError, r"`network` must take x \[B, 2\]"),
        (lambda: (lambda x: x, learned()), ValueError, r"`network` must return \(4,\)"),
    ],
)
def test_bad_parts(make, error, message):
    with pytest.raises(error, match=message):
        kgen.VariationalDequantization(*make())


def test_bad_data(model, grid):
    noise = kgen.VariationalDequantization(network(), model)
    noise.compile("adam")
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        noise.fit(2 * grid)
    with pytest.raises(ValueError, match="None, 'uniform' or a VariationalDequantization"):
        model.log_likelihood(grid, dequantization="variational")
