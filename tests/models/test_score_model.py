"""The score model: its losses against those of diffusion, learned scores against exact ones."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import GaussianDiffusion, LearnedLogSNR, LinearLogSNR
from kgen.networks import TimeMLP
from kgen.solvers import AnnealedLangevin, PredictorCorrector

SEED = tf.constant([5, 6])


def small(scaling="vp", log_snr_max=6.0, log_snr_min=-4.0, **options):
    keras.utils.set_random_seed(0)
    process = GaussianDiffusion(LinearLogSNR(log_snr_max, log_snr_min), scaling)
    options = {"grey_levels": None, "seed": 0, "ema_decay": 0.99, **options}
    width = options.pop("width", 32)
    pooled = {"pooled": 4} if "conditioner" in options else {}
    return kgen.ScoreModel(TimeMLP(2, width=width, blocks=1, **pooled), process, **options)


@pytest.mark.parametrize("scaling", ["ve", "sub_vp"])
def test_learned_scores_are_those_of_the_data(scaling, gaussian_data):
    model = small(scaling)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    x = gaussian_data.sample(4000).astype("float32")
    model.fit(x, epochs=15, batch_size=100, verbose=0)
    t = tf.constant(0.6)
    alpha, sigma = (v.numpy() for v in model.process.alpha_sigma(t))
    z = (alpha * x[:200] + sigma * np.random.default_rng(0).normal(size=(200, 2))).astype("float32")
    exact = gaussian_data.score(z, alpha, sigma)
    error = np.sqrt(np.mean((model.score(z, t) - exact) ** 2) / np.mean(exact**2))
    assert error < 0.2
    drawn = model.generate(2000, num_steps=50, solver=PredictorCorrector(), seed=0)
    np.testing.assert_allclose(drawn.mean(0), gaussian_data.mean, atol=0.2)
    np.testing.assert_allclose(drawn.std(0), gaussian_data.std, rtol=0.2)


def test_a_ladder_of_noise_levels_with_langevin_dynamics(gaussian_data):
    """NCSN: only the levels of the ladder are trained, and the chain visits those."""
    model = small("ve", levels=10, width=48)
    seen = []
    network = model.network.call

    def watch(z, log_snr, cond=None, training=False):
        seen.append(log_snr)
        return network(z, log_snr, cond, training)

    model.network.call = watch
    x = gaussian_data.sample(4000).astype("float32")
    model.loss_terms(x[:500], seed=SEED)
    ladder = np.linspace(6, -4, 11)[1:]
    np.testing.assert_allclose(np.unique(np.round(seen[0], 3)), np.sort(ladder), atol=1e-2)
    model.network.call = network
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    model.fit(x, epochs=15, batch_size=100, verbose=0)
    drawn = model.generate(2000, num_steps=10, solver=AnnealedLangevin(20, 0.5), seed=0)
    np.testing.assert_allclose(drawn.mean(0), gaussian_data.mean, atol=0.25)
    np.testing.assert_allclose(drawn.std(0), gaussian_data.std, rtol=0.25)


@pytest.mark.parametrize("objective", ["implicit", "sliced", "sliced_vr"])
def test_scores_are_learned_without_a_target(objective, gaussian_data):
    model = small("vp", 1.0, -1.0, objective=objective)
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=20)
    x = gaussian_data.sample(6000).astype("float32")
    model.fit(x, epochs=15, batch_size=200, verbose=0)
    t = tf.constant(0.5)
    alpha, sigma = (v.numpy() for v in model.process.alpha_sigma(t))
    z = (alpha * x[:200] + sigma * np.random.default_rng(0).normal(size=(200, 2))).astype("float32")
    exact = gaussian_data.score(z, alpha, sigma)
    error = np.sqrt(np.mean((model.score(z, t) - exact) ** 2) / np.mean(exact**2))
    assert error < 0.3


def test_a_score_model_saves_exports_and_measures(gaussian_data, tmp_path):
    model = small(conditioner=Labels(3, 4))
    labels = np.array([0, 2], "int32")
    expected = model.generate(labels, num_steps=4, guidance_scale=2.0, seed=3)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        again.generate(labels, num_steps=4, guidance_scale=2.0, seed=3), expected, atol=1e-5
    )
    kgen.export_saved_model(model, tmp_path / "export")
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    arguments = [tf.constant(v) for v in (labels, 4, 2.0)] + [tf.constant([3, 0])]
    np.testing.assert_allclose(loaded.generate(*arguments)["images"], expected, atol=1e-5)
    x = tf.constant(gaussian_data.sample(2), tf.float32)
    log_p = loaded.log_likelihood(x, tf.constant(labels), tf.constant([1, 0]))["log_likelihood"]
    exact = model.log_likelihood(x.numpy(), conditions=labels, num_probes=200)
    # The untrained network outputs zero: its Jacobian is a multiple of the unit, any probe exact.
    np.testing.assert_allclose(log_p, exact, rtol=1e-3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small(objective="denoising"), "`objective` must be one of"),
        (lambda: small(weighting="likelihood"), "`weighting` must be one of"),
        (lambda: small(prediction="noise"), "`prediction` must be one of"),
        (lambda: small(levels=0), "`levels` must be"),
        (lambda: small(cond_drop_rate=-0.1), "`cond_drop_rate` must be"),
        (
            lambda: kgen.ScoreModel(TimeMLP(2), GaussianDiffusion(LearnedLogSNR())),
            "A learned schedule needs a DiffusionModel",
        ),
    ],
)
def test_bad_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
