"""The diffusion model: its bound against exact log likelihoods, conditions, sampling."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR
from kgen.diffusion.prediction import PREDICTION_TYPES, target
from kgen.networks import TimeMLP
from kgen.tensors import expand_to

SEED = tf.constant([5, 6])


def exact(data, process, prediction="eps", shape=(2,), **options):
    """A model whose network is the exact denoiser of the data."""
    denoise = data.denoise(process)

    def network(z, log_snr, cond=None, training=False):
        x_hat = denoise(z, process.schedule.time(log_snr))
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        return target(prediction, x_hat, (z - alpha * x_hat) / sigma, alpha, sigma)

    options = {"grey_levels": None, "prediction": prediction, "seed": 0, **options}
    return kgen.DiffusionModel(network, process, data_shape=shape, **options)


def bound(model, x, draws=40):
    run = tf.function(lambda seed: tf.add_n(list(model.bound_terms(x, seed=seed).values())))
    return np.mean([run(tf.constant([i, 0])).numpy() for i in range(draws)], axis=0)


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_bound_of_the_exact_denoiser_of_gaussian_data_is_its_log_likelihood(gaussian_data, scaling):
    process = GaussianDiffusion(LinearLogSNR(11.0, -11.0), scaling)
    x = tf.constant(np.tile(gaussian_data.sample(100), (100, 1)), tf.float32)
    model = exact(gaussian_data, process)
    expected = -gaussian_data.log_prob(x.numpy()).mean()
    assert bound(model, x).mean() == pytest.approx(expected, abs=0.01)


def test_bound_falls_to_the_continuous_one_with_levels(gaussian_data):
    process = GaussianDiffusion(LinearLogSNR(11.0, -11.0))
    x = tf.constant(np.tile(gaussian_data.sample(100), (100, 1)), tf.float32)
    bounds = [bound(exact(gaussian_data, process, levels=n), x).mean() for n in (10, 100, 1000)]
    expected = -gaussian_data.log_prob(x.numpy()).mean()
    gaps = np.array(bounds) - expected
    assert gaps[0] > gaps[1] > gaps[2] > 0
    # T/2 expm1(l_s - l_t) exceeds the integral by its half step: the gap falls as 1 / T.
    assert 7 < gaps[1] / gaps[2] < 13
    assert gaps[2] < 0.2


@pytest.mark.parametrize("prediction", sorted(PREDICTION_TYPES))
def test_loss_is_the_same_for_every_prediction_type(gaussian_data, prediction):
    """Luo (2022), eq. 100-108: the three (here five) objectives are one."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    wrong = kgen.diffusion.prediction

    def network(kind):
        def predict(z, log_snr, cond=None, training=False):
            alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
            x_hat = 0.4 * z
            return wrong.target(kind, x_hat, (z - alpha * x_hat) / sigma, alpha, sigma)

        return predict

    x = tf.constant(gaussian_data.sample(64), tf.float32)
    losses = [
        kgen.DiffusionModel(
            network(kind), process, data_shape=(2,), prediction=kind, grey_levels=None
        ).loss_terms(x, seed=SEED)["weighted_denoising"]
        for kind in ("eps", prediction)
    ]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-3)


class UniformLevels:
    """Data that take each of the 256 grey levels with equal probability."""

    @staticmethod
    def denoise(process):
        values = tf.linspace(-1.0, 1.0, 256)

        def denoise(z, t):
            alpha, sigma = (expand_to(a, z)[..., None] for a in process.alpha_sigma(t))
            logits = -0.5 * ((z[..., None] - alpha * values) / sigma) ** 2
            return tf.reduce_sum(tf.nn.softmax(logits) * values, axis=-1)

        return denoise


def test_discrete_bound_of_uniform_grey_levels_is_eight_bits():
    """-log2(1/256) = 8 bits per dimension, for the closed-form denoiser; levels 13.3 of log-SNR."""
    process = GaussianDiffusion(LinearLogSNR(13.3, -11.0))
    levels = np.random.default_rng(0).integers(0, 256, (500, 4, 4, 1))
    x = tf.constant(levels * 2 / 255 - 1, tf.float32)
    model = exact(UniformLevels, process, shape=(4, 4, 1), grey_levels=256)
    bits = bound(model, x, draws=200).mean() / (16 * np.log(2))
    assert bits == pytest.approx(8.0, abs=0.01)


def test_reconstruction_of_grey_levels_is_bayes_rule(gaussian_data):
    """By explicit sums over the 256 values, with a noise that is wide enough to matter."""
    process = GaussianDiffusion(LinearLogSNR(8.0, -8.0))
    model = exact(gaussian_data, process, shape=(1, 1, 1), grey_levels=256)
    x = np.full((4000, 1, 1, 1), 2 * 100 / 255 - 1, "float32")
    actual = model.bound_terms(x, seed=SEED)["reconstruction"].numpy().mean()
    noise = np.exp(-4.0)
    rng, values = np.random.default_rng(3), np.arange(256) * 2 / 255 - 1
    observed = x[0, 0, 0, 0] + noise * rng.normal(size=(4000, 1))
    weights = np.exp(-0.5 * ((observed - values) / noise) ** 2)
    expected = -np.log(weights[:, 100] / weights.sum(1)).mean()
    assert actual == pytest.approx(expected, abs=0.05)


def test_samples_of_the_exact_denoiser_are_the_data(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(10.0, -10.0))
    model = exact(gaussian_data, process)
    x = model.generate(4000, num_steps=40, seed=1)
    np.testing.assert_allclose(x.mean(0), gaussian_data.mean, atol=0.08)
    np.testing.assert_allclose(x.std(0), gaussian_data.std, rtol=0.06)
    np.testing.assert_allclose(model.generate(5, num_steps=40, seed=1), x[:5], atol=1e-5)


def test_log_likelihood_method_is_the_function(gaussian_data):
    process = GaussianDiffusion(LinearLogSNR(12.0, -12.0))
    x = gaussian_data.sample(5).astype("float32")
    log_p = exact(gaussian_data, process).log_likelihood(x)
    np.testing.assert_allclose(log_p, gaussian_data.log_prob(x), atol=0.02)


@pytest.fixture(scope="module")
def conditional():
    """Two classes at (-2, 0) and (2, 0), learned by a small network."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000).astype("int32")
    x = rng.normal(size=(4000, 2)) * 0.3 + np.stack([4.0 * labels - 2, 0 * labels], 1)
    model = kgen.DiffusionModel(
        TimeMLP(2, width=48, blocks=2, pooled=8),
        GaussianDiffusion(CosineLogSNR(8.0, -8.0)),
        conditioner=Labels(2, 8),
        grey_levels=None,
        weighting="snr_plus_one",
        ema_decay=0.99,
        seed=0,
    )
    data = {"images": x.astype("float32"), "labels": labels}
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    history = model.fit(data, epochs=15, batch_size=100, verbose=0).history
    return model, history, data


def test_a_conditional_model_learns_its_classes(conditional):
    model, history, data = conditional
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    labels = np.array([0, 1] * 100)
    x = model.generate(labels, num_steps=20, seed=0)
    assert ((x[:, 0] > 0) == labels).mean() > 0.97
    far = model.generate(labels, num_steps=20, guidance_scale=4.0, seed=0)
    off = model.generate(labels, num_steps=20, guidance_scale=0.0, seed=0)
    assert np.abs(far[:, 0]).mean() > np.abs(x[:, 0]).mean()
    assert 0.2 < ((off[:, 0] > 0) == labels).mean() < 0.8
    logs = model.evaluate(data, verbose=0, return_dict=True)
    parts = sum(logs[name] for name in ("reconstruction", "prior", "denoising"))
    assert logs["bound"] == pytest.approx(parts, rel=1e-5)


def test_a_conditional_model_saves_and_loads(conditional, tmp_path):
    model = conditional[0]
    labels = np.array([0, 1, 1])
    expected = model.generate(labels, num_steps=5, seed=3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(again.generate(labels, num_steps=5, seed=3), expected, atol=1e-5)
    model.save_to_preset(tmp_path / "preset", "float32")
    preset = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(preset.generate(labels, num_steps=5, seed=3), expected, atol=1e-5)


def test_exports_make_the_same_samples(conditional, tmp_path):
    """Loaded without kgen's classes, as far as a SavedModel can know them."""
    model, labels = conditional[0], np.array([1, 0, 1], "int32")
    kgen.export_saved_model(model, tmp_path / "labels")
    loaded = tf.saved_model.load(str(tmp_path / "labels"))
    arguments = [tf.constant(v) for v in (labels, 6, 2.0)] + [tf.constant([3, 0])]
    expected = model.generate(labels, num_steps=6, guidance_scale=2.0, seed=3)
    np.testing.assert_allclose(loaded.generate(*arguments)["images"], expected, atol=1e-5)

    plain = small(grey_levels=None)
    kgen.export_saved_model(plain, tmp_path / "plain")
    loaded = tf.saved_model.load(str(tmp_path / "plain"))
    x = loaded.generate(tf.constant(4), tf.constant(5), tf.constant([1, 0]))["images"]
    np.testing.assert_allclose(x, plain.generate(4, num_steps=5, seed=1), atol=1e-5)


def small(**options):
    process = GaussianDiffusion(CosineLogSNR())
    return kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1), process, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: small(prediction="noise"), ValueError, "`prediction` must be one of"),
        (lambda: small(weighting="snr"), ValueError, "`weighting` must be one of"),
        (lambda: small(times="random"), ValueError, "`times` must be one of"),
        (lambda: small(levels=0), ValueError, "`levels` must be"),
        (lambda: small(grey_levels=1), ValueError, "`grey_levels` must be"),
        (lambda: small(cond_drop_rate=1.5), ValueError, "`cond_drop_rate` must be"),
        (lambda: small().generate(0), ValueError, "`num_samples` must be"),
        (lambda: small().generate(2, num_steps=0), ValueError, "`num_steps` must be"),
        (lambda: small().generate(2, solver="euler"), ValueError, "`solver` must be"),
        (
            lambda: small().log_likelihood(np.zeros((2, 3), "float32")),
            ValueError,
            "must have shape",
        ),
        (lambda: small().log_likelihood(np.zeros((2, 2), "int32")), TypeError, "floating-point"),
        (
            lambda: kgen.DiffusionModel(lambda z, log_snr: z, GaussianDiffusion(CosineLogSNR())),
            ValueError,
            "`data_shape` must be given",
        ),
        (lambda: Labels(0), ValueError, "`num_classes` must be"),
        (lambda: Labels(3)(np.array([3])), ValueError, r"`labels` must be in 0..2"),
        (lambda: Labels(3)(np.array([-1])), ValueError, r"`labels` must be in 0..2"),
        (lambda: Labels(3)(np.array([0.5])), TypeError, "`labels` must be integers"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()
