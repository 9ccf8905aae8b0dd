"""The diffusion model: its bound against exact log likelihoods, conditions, sampling."""

import dataclasses
import functools
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from exact import exact

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR, time_grid
from kgen.networks import TimeMLP
from kgen.sampling.editing import slerp
from kgen.sampling.plan import plan_of
from kgen.sampling.sampler import Guided
from kgen.solvers import DDIM, AnnealedLangevin, EulerMaruyama, get, solve
from kgen.tensors import expand_to

SEED = tf.constant([5, 6])


def bound(model, x, draws=40):
    run = tf.function(lambda seed: tf.add_n(list(model.bound_terms(x, seed=seed).values())))
    return np.mean([run(tf.constant([i, 0])).numpy() for i in range(draws)], axis=0)


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
    model = exact(gaussian_data, process, shape=(1, 1, 2), grey_levels=256)
    x = np.full((4000, 1, 1, 2), 2 * 100 / 255 - 1, "float32")
    terms = tf.function(lambda: model.bound_terms(x, seed=SEED))()  # eager is slow
    actual = terms["reconstruction"].numpy().mean() / 2  # of each of the two values
    noise = np.exp(-4.0)
    rng, values = np.random.default_rng(3), np.arange(256) * 2 / 255 - 1
    observed = x[0, 0, 0, 0] + noise * rng.normal(size=(4000, 1))
    weights = np.exp(-0.5 * ((observed - values) / noise) ** 2)
    expected = -np.log(weights[:, 100] / weights.sum(1)).mean()
    assert actual == pytest.approx(expected, abs=0.05)


def test_samples_of_the_exact_denoiser_are_the_data(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(10.0, -10.0))
    model = exact(gaussian_data, process)
    x = model.generate(num_samples=4000, num_steps=40, seed=1)
    np.testing.assert_allclose(x.mean(0), gaussian_data.mean, atol=0.08)
    np.testing.assert_allclose(x.std(0), gaussian_data.std, rtol=0.06)
    np.testing.assert_allclose(
        model.generate(num_samples=5, num_steps=40, seed=1), x[:5], atol=1e-5
    )


def test_long_work_shows_a_bar_if_asked(gaussian_data, capsys):
    model = exact(gaussian_data, GaussianDiffusion(CosineLogSNR(6.0, -6.0)))
    x = model.generate(num_samples=5, num_steps=1, batch_size=2)
    model.log_likelihood(x, batch_size=2, rtol=0.1)
    assert capsys.readouterr().out == ""
    np.testing.assert_array_equal(
        model.generate(num_samples=5, num_steps=1, batch_size=2, seed=3, verbose=1),
        model.generate(num_samples=5, num_steps=1, seed=3),
    )
    model.log_likelihood(x, batch_size=2, rtol=0.1, verbose=1)
    out = capsys.readouterr().out
    assert (out.count("3/3"), out.count("5/5")) == (1, 1)  # steps of batches, and examples


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
    guide = functools.partial(kgen.diffusion.classifier_free, rescale=1.0)
    kgen.export_saved_model(model, tmp_path / "labels", negatives=True, guidance=guide)
    loaded = tf.saved_model.load(str(tmp_path / "labels"))
    arguments = [tf.constant(v) for v in (6, 2.0)] + [tf.constant([3, 0])]
    options = {"num_steps": 6, "guidance_scale": 2.0, "seed": 3}
    expected = model.generate(labels, guidance=guide, **options)
    drawn = loaded.generate(tf.constant(labels), *arguments)["images"]
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    assert np.abs(model.generate(labels, **options) - expected).max() > 1e-2
    away = model.generate(labels, guidance=guide, negative=1 - labels, **options)
    drawn = loaded.generate_with_negatives(tf.constant(labels), tf.constant(1 - labels), *arguments)
    np.testing.assert_allclose(drawn["images"], away, atol=1e-5)

    plain, right = small(grey_levels=None), lambda z, t: tf.math.log_sigmoid(3.0 * z[:, 0])
    kgen.export_saved_model(plain, tmp_path / "plain")
    loaded = tf.saved_model.load(str(tmp_path / "plain"))
    x = loaded.generate(tf.constant(4), tf.constant(5), tf.constant([1, 0]))["images"]
    np.testing.assert_allclose(x, plain.generate(num_samples=4, num_steps=5, seed=1), atol=1e-5)
    guide = kgen.diffusion.classifier_guidance(plain.process, right)
    kgen.export_saved_model(plain, tmp_path / "plain", guidance=guide)
    loaded = tf.saved_model.load(str(tmp_path / "plain"))
    drawn = loaded.generate(*[tf.constant(v) for v in (4, 5, 2.0)], tf.constant([1, 0]))["images"]
    options = {"num_steps": 5, "guidance": guide, "guidance_scale": 2.0, "seed": 1}
    np.testing.assert_allclose(drawn, plain.generate(num_samples=4, **options), atol=1e-5)
    assert np.abs(drawn - x).max() > 0.1
    with pytest.raises(ValueError, match="`negatives` needs a model with a conditioner"):
        kgen.export_saved_model(plain, tmp_path / "new", negatives=True)


@pytest.mark.parametrize("grid", ["log_snr", "t", "karras"])
def test_generate_walks_the_grid_of_the_solver(grid, gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0))
    denoise = gaussian_data.denoise(process)
    noise = np.random.default_rng(0).normal(size=(50, 2)).astype("float32")
    times = time_grid(process, 4, grid)
    expected = denoise(solve(DDIM(), denoise, process, tf.constant(noise), times), times[-1])
    solver = DDIM(grid=grid)
    x = exact(gaussian_data, process).generate(
        num_samples=50, num_steps=4, solver=solver, noise=noise
    )
    np.testing.assert_allclose(x, expected, atol=1e-3)


# What is slow differs from the others by its schedule, which has tests of its own.
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) for name in ("ddpm", "vdm", "flow")]
    + ["iddpm", "edm", "sd3"],
)
def test_every_setting_of_the_table_trains(name, gaussian_data):
    """Those of README: DDPM, improved DDPM, VDM, EDM, flow matching.

    An error of eps_hat is one of x_hat times sigma / alpha, 12 at a log-SNR of -5 and 33 at -7.
    """
    diffusion = kgen.diffusion
    settings = {
        "ddpm": (
            diffusion.LinearBeta(log_snr_min=-7.0),
            "vp",
            {"prediction": "eps", "weighting": "simple"},
        ),
        "iddpm": (
            CosineLogSNR(9.0, -5.0),
            "vp",
            {"prediction": "eps", "weighting": "simple", "levels": 1000},
        ),
        "vdm": (diffusion.LearnedLogSNR(9.0, -7.0), "vp", {"prediction": "eps"}),
        "edm": (
            diffusion.EDMLogSNR(sigma_max=10.0),
            "ve",
            {"prediction": "edm", "weighting": "edm", "times": "log_normal"},
        ),
        "flow": (
            diffusion.FlowLogSNR(9.0, -9.0),
            "flow",
            {"prediction": "flow", "weighting": "flow", "times": "uniform"},
        ),
    }
    settings["sd3"] = (
        *settings["flow"][:2],
        {"prediction": "flow", "weighting": "logit_normal", "times": "logit_normal"},
    )
    schedule, scaling, options = settings[name]
    keras.utils.set_random_seed(0)
    network, process = TimeMLP(2, width=32, blocks=1), GaussianDiffusion(schedule, scaling)
    model = kgen.DiffusionModel(network, process, grey_levels=None, seed=0, **options)
    rate = keras.optimizers.schedules.CosineDecay(1e-2, 400)
    model.compile(keras.optimizers.Adam(rate), steps_per_execution=20)
    scale = 0.5 if name == "edm" else 1.0  # EDM reckons with data of standard deviation 1/2
    x = scale * gaussian_data.sample(2000).astype("float32")
    model.fit(x, epochs=20, batch_size=100, verbose=0)
    drawn = model.generate(num_samples=2000, num_steps=40, seed=1) / scale
    np.testing.assert_allclose(drawn.mean(0), gaussian_data.mean, atol=0.25)
    np.testing.assert_allclose(drawn.std(0), gaussian_data.std, rtol=0.25)


def test_a_learned_schedule_reduces_the_variance_of_the_loss(gaussian_data):
    """And changes neither its mean nor its ends; the optimum has one mean square at all times."""
    schedule = kgen.diffusion.LearnedLogSNR(9.0, -9.0)
    process = GaussianDiffusion(schedule)
    # The exact denoiser as a function of the log-SNR: its time takes a search in this schedule.
    denoise = gaussian_data.denoise(types.SimpleNamespace(alpha_sigma=process.alpha_sigma_of))

    def network(z, log_snr, cond=None, training=False):
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        return (z - alpha * denoise(z, log_snr)) / sigma

    options = {"prediction": "eps", "grey_levels": None, "seed": 0}
    model = kgen.DiffusionModel(network, process, data_shape=(2,), **options)
    x = tf.constant(np.tile(gaussian_data.sample(100), (40, 1)), tf.float32)

    def spread():
        model.times, terms = "uniform", []
        for seed in range(5):
            terms.append(model.loss_terms(x, seed=tf.constant([seed, 0]))["weighted_denoising"])
        return np.mean(terms), np.std(terms)

    before = spread()
    optimizer = keras.optimizers.Adam(0.05)
    weights = schedule.trainable_variables

    @tf.function
    def train():
        with tf.GradientTape() as tape:
            terms = model.loss_terms(x, training=True)
            loss = tf.reduce_mean(terms["schedule"])
        tf.debugging.assert_equal(loss, 0.0)
        optimizer.apply(tape.gradient(loss, weights), weights)

    for _ in range(150):
        train()
    after = spread()
    assert after[1] < 0.8 * before[1]
    assert after[0] == pytest.approx(before[0], rel=0.05)
    np.testing.assert_allclose(schedule.log_snr(tf.constant([0.0, 1.0])), [9.0, -9.0])


def test_the_schedule_has_the_gradient_of_the_mean_square(gaussian_data):
    """d/ds log E[L^2] by finite differences of the loss itself, at fixed noise and times."""
    schedule = kgen.diffusion.LearnedLogSNR(6.0, -6.0, width=4)

    def network(z, log_snr, cond=None, training=False):
        return 0.4 * z * tf.sigmoid(-log_snr)[:, None]

    process = GaussianDiffusion(schedule)
    options = {"prediction": "eps", "grey_levels": None, "times": "uniform"}
    model = kgen.DiffusionModel(network, process, data_shape=(2,), **options)
    x = tf.constant(gaussian_data.sample(200), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        terms = model.loss_terms(x, training=True, seed=SEED)
        variance = tf.reduce_mean(terms["schedule"])
        loss = tf.reduce_mean(terms["weighted_denoising"])
    weights = schedule.trainable_variables
    assert all(g is None for g in tape.gradient(loss, weights))
    for weight, gradient in zip(weights, tape.gradient(variance, weights)):
        values = []
        for step in (1e-2, -1e-2):
            weight.assign_add(step * tf.sign(gradient))
            loss = model.loss_terms(x, training=True, seed=SEED)["weighted_denoising"]
            values.append(np.log(np.mean(np.square(loss, dtype="float64"))))
            weight.assign_add(-step * tf.sign(gradient))
        difference = (values[0] - values[1]) / 2e-2
        assert np.sum(np.abs(gradient)) == pytest.approx(difference, rel=0.05, abs=1e-4)


def test_a_learned_schedule_is_trained_and_saved(gaussian_data, tmp_path):
    model = small(grey_levels=None, schedule=kgen.diffusion.LearnedLogSNR(9.0, -9.0))
    before = model.learned_schedule.get_weights()
    model.compile(keras.optimizers.Adam(0.01))
    history = model.fit(gaussian_data.sample(400).astype("float32"), epochs=2, verbose=0).history
    assert history["schedule"][-1] == 0.0
    after = model.learned_schedule.get_weights()
    assert all(np.abs(a - b).max() > 1e-4 for a, b in zip(before, after))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(
        again.generate(num_samples=3, num_steps=4, seed=1),
        model.generate(num_samples=3, num_steps=4, seed=1),
        atol=1e-5,
    )


def test_guidance_through_generate(conditional):
    """A classifier in closed form pulls to its side; a model is not changed by itself."""
    model = conditional[0]

    def right(z, t):
        return tf.math.log_sigmoid(3.0 * z[:, 0])

    labels = np.zeros(100, "int64")
    plain = model.generate(labels, num_steps=20, seed=0)
    guide = kgen.diffusion.classifier_guidance(model.process, right)
    pulled = model.generate(labels, num_steps=20, guidance=guide, guidance_scale=1.0, seed=0)
    assert pulled[:, 0].mean() > plain[:, 0].mean() + 0.2
    away = model.generate(labels, num_steps=20, guidance_scale=2.0, negative=1, seed=0)
    assert away[:, 0].mean() < plain[:, 0].mean()


def test_a_weak_model_that_shows_another_class_is_a_negative_condition(conditional):
    """Both extrapolate from the same estimate."""
    model = conditional[0]
    with model.averaged():
        other = model.conditioner(tf.ones([20], tf.int32))

    def weak(z, t, cond):
        return model.denoise(z, t, other)

    options = {"num_steps": 10, "guidance_scale": 2.0, "seed": 0}
    labels = np.zeros(20, "int64")
    guided = model.generate(labels, guidance=kgen.diffusion.autoguidance(weak), **options)
    away = model.generate(labels, negative=1, **options)
    np.testing.assert_allclose(guided, away, atol=1e-4)


def test_a_classifier_guides_each_part_to_its_own_labels(conditional):
    model = conditional[0]
    labels = np.array([0, 1, 1, 0, 1, 0, 0], "int32")

    def log_prob(z, t, labels):
        return tf.math.log_sigmoid(3.0 * z[:, 0] * (2.0 * tf.cast(labels, tf.float32) - 1))

    guide = kgen.diffusion.classifier_guidance(model.process, log_prob, labels)
    options = {"num_steps": 20, "guidance": guide, "guidance_scale": 2.0, "seed": 0}
    # The condition is the other class, so that a guide with labels in a wrong order would show.
    whole, parts = (model.generate(1 - labels, batch_size=n, **options) for n in (7, 3))
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    plain = model.generate(1 - labels, num_steps=20, seed=0)
    assert ((whole - plain)[:, 0] * (2 * labels - 1) > 0.1).all()


def test_options_of_guidance_reach_generate(conditional):
    """Each against what it is for; equal partial functions are one compiled function."""
    model = conditional[0]
    labels = np.array([0, 1] * 10)
    options = {"num_steps": 10, "guidance_scale": 6.0, "seed": 0}
    make = functools.partial(functools.partial, kgen.diffusion.classifier_free)
    limited = model.generate(labels, guidance=make(threshold=1.0), **options)
    assert np.abs(limited).max() <= 1  # of data at -2 and 2
    plain = model.generate(labels, **options)
    never = model.generate(labels, guidance=make(interval=(-2.0, -1.0)), **options)
    unguided = model.generate(labels, num_steps=10, seed=0)
    np.testing.assert_allclose(never, unguided, atol=1e-5)
    assert np.abs(plain - unguided).max() > 0.1
    rescaled = model.generate(labels, guidance=make(rescale=1.0), **options)
    assert np.abs(rescaled).mean() < 0.9 * np.abs(plain).mean()
    first = model.advance_run(get("dpm"), make(rescale=1.0))
    assert model.advance_run(get("dpm"), make(rescale=1.0)) is first
    assert model.advance_run(get("dpm"), make(rescale=0.5)) is not first


def test_denoise_is_that_of_the_samples(conditional, tmp_path):
    """A preset holds the averaged weights alone, with which `generate` runs."""
    model = conditional[0]
    model.save_to_preset(tmp_path, dtype="float32")
    z, t = tf.constant([[0.3, -0.2]]), tf.constant(0.5)
    cond = {"pooled": tf.ones([1, 8])}
    again = kgen.from_preset(tmp_path).denoise(z, t, cond)
    np.testing.assert_allclose(model.denoise(z, t, cond), again, atol=1e-5)
    trained = model.denoiser(z, t, cond)
    assert np.abs(trained - again).max() > 1e-4


def test_editing_through_generate(conditional):
    model = conditional[0]
    labels = np.array([0, 1] * 50)
    x = model.generate(labels, num_steps=30, seed=5)
    noise = model.invert(x, labels, num_steps=200)
    again = model.generate(labels, num_steps=200, solver="ddim", noise=noise)
    assert np.abs(again - x).mean() < 0.05
    near, far = (
        np.abs(model.generate(labels, images=x, strength=s, num_steps=30, seed=1) - x).mean()
        for s in (0.05, 0.9)
    )
    assert near < 0.5 * far
    # The other label, from the same point: there is nothing left of it at strength 1.
    fresh = model.generate(1 - labels, num_steps=30, seed=1)
    moved = model.generate(1 - labels, images=x, strength=1.0, num_steps=30, seed=1)
    np.testing.assert_allclose(moved, fresh, atol=1e-5)
    known = model.generate(labels, images=x, mask=[[0.0, 1.0]], num_steps=30, seed=1)
    np.testing.assert_allclose(known[:, 0], x[:, 0], atol=1e-6)
    assert np.abs(known[:, 1] - x[:, 1]).mean() > 0.1


def test_interpolation_through_generate(gaussian_data):
    """A denoiser of N(0, s^2) is linear: the picture between two noises is between the pictures."""
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0))
    centred = dataclasses.replace(gaussian_data, mean=np.zeros(2))
    model, options = exact(centred, process), {"num_steps": 20, "solver": "ddim"}
    ends = [np.array([[1.0, 0.5]], "float32"), np.array([[-0.4, 0.8]], "float32")]
    images = [model.generate(num_samples=1, noise=noise, **options) for noise in ends]
    angle = np.arccos(np.sum(ends[0] * ends[1]) / np.prod([np.linalg.norm(v) for v in ends]))
    for weight in (0.0, 0.3, 1.0):
        between = model.generate(num_samples=1, noise=slerp(*ends, weight), **options)
        shares = np.sin(np.array([1 - weight, weight]) * angle) / np.sin(angle)
        np.testing.assert_allclose(
            between, shares[0] * images[0] + shares[1] * images[1], atol=1e-4
        )


@pytest.mark.parametrize("times", ["cosine", "importance", "log_normal", "stratified"])
def test_the_loss_is_the_same_in_the_mean_however_times_are_drawn(times, gaussian_data):
    """Unbiased against uniform times, whose estimate has an error of at most two hundredths."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))

    def network(z, log_snr, cond=None, training=False):
        return 0.4 * z * tf.sigmoid(-log_snr)[:, None]

    x = tf.constant(np.tile(gaussian_data.sample(100), (400, 1)), tf.float32)
    means, errors = [], []
    for kind, seed in (("uniform", 1), (times, 2)):
        options = {"prediction": "eps", "grey_levels": None, "times": kind, "data_shape": (2,)}
        model = kgen.DiffusionModel(network, process, **options)
        loss = model.loss_terms(x, training=True, seed=tf.constant([seed, 0]))
        values = loss["weighted_denoising"].numpy().astype("float64")
        means.append(values.mean())
        errors.append(values.std() / len(x) ** 0.5)
    assert abs(means[0] - means[1]) < 4 * np.hypot(*errors)
    assert np.hypot(*errors) < 0.02 * means[0]


def test_log_likelihood_of_classes(conditional):
    model = conditional[0]
    x = np.array([[-2.0, 0.0], [2.0, 0.0]], "float32")
    options = {"rtol": 1e-3, "atol": 1e-3}
    right = model.log_likelihood(x, condition=[0, 1], **options)
    wrong = model.log_likelihood(x, condition=[1, 0], **options)
    assert (right > wrong + 3).all()


def test_log_likelihood_with_even_noise(gaussian_data):
    """At the mean of N(m, s^2) noise u costs E u^2 / 2 s^2 = w^2 / 24 s^2 nats in each number."""
    width, std = 2 / 255, 0.005
    data = dataclasses.replace(gaussian_data, std=np.full(2, std))
    model = exact(data, GaussianDiffusion(LinearLogSNR(16.0, -12.0)))
    x = np.tile(data.mean, (400, 1)).astype("float32")
    options = {"rtol": 1e-4, "atol": 1e-4}
    plain = model.log_likelihood(x, **options)
    uniform = model.log_likelihood(x, dequantization="uniform", **options)
    assert (plain - uniform).mean() == pytest.approx(2 * width**2 / (24 * std**2), rel=0.1)


def small(schedule=None, **options):
    process = GaussianDiffusion(schedule or CosineLogSNR())
    return kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1), process, **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: small(schedule=kgen.diffusion.LearnedLogSNR(), weighting="simple"),
            ValueError,
            "A learned schedule needs a `weighting`",
        ),
        (
            lambda: small(schedule=kgen.diffusion.LearnedLogSNR(), levels=5),
            ValueError,
            "A learned schedule needs a `weighting`",
        ),
        (lambda: small().generate(num_samples=2, strength=0.5), ValueError, "need `images`"),
        (
            lambda: small().generate(num_samples=2, noise=np.zeros((2, 3))),
            ValueError,
            "`noise` must have",
        ),
        (
            lambda: small().generate(num_samples=2, images=np.zeros((3, 2), "float32")),
            ValueError,
            "`images` must be 2 examples",
        ),
        (
            lambda: small().generate(
                num_samples=2, images=np.zeros((2, 2), "float32"), strength=0.0
            ),
            ValueError,
            "`strength` must be in",
        ),
        (
            lambda: small().generate(
                num_samples=2, images=np.zeros((2, 2), "float32"), mask=[0.0, 1.0]
            ),
            ValueError,
            "`mask` must have shape",
        ),
        (
            lambda: small().generate(
                num_samples=2, images=np.zeros((2, 2), "float32"), mask=[[0.0, 2.0]]
            ),
            ValueError,
            "`mask` must be in",
        ),
        (lambda: small().generate(num_samples=2, negative=1), ValueError, "needs a model with"),
        (
            lambda: small().invert(np.zeros((2, 2), "float32"), solver="euler_maruyama"),
            ValueError,
            "must be deterministic",
        ),
        (
            lambda: small().log_likelihood(np.zeros((2, 2), "float32"), dequantization="flow"),
            ValueError,
            "`dequantization` must be",
        ),
        (lambda: small(prediction="noise"), ValueError, "`prediction` must be one of"),
        (lambda: small(weighting="snr"), ValueError, "`weighting` must be one of"),
        (lambda: small(times="random"), ValueError, "`times` must be one of"),
        (lambda: small(levels=0), ValueError, "`levels` must be"),
        (lambda: small(grey_levels=1), ValueError, "`grey_levels` must be"),
        (lambda: small(cond_drop_rate=1.5), ValueError, "`cond_drop_rate` must be"),
        (lambda: small().generate(num_samples=0), ValueError, "`num_samples` must be"),
        (lambda: small().generate(num_samples=2, num_steps=0), ValueError, "`num_steps` must be"),
        (lambda: small().generate(num_samples=2, solver="euler"), ValueError, "`solver` must be"),
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
        (lambda: Labels(3)(np.array([[1], [2]])), ValueError, r"`labels` must have shape \[B\]"),
        (lambda: Labels(3)(np.array([0.5])), TypeError, "`labels` must be integers"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_unconditional_model_takes_no_conditions():
    process = GaussianDiffusion(CosineLogSNR())
    model = kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1), process, grey_levels=None)
    x = np.zeros((3, 2), "float32")
    for method in (model.log_likelihood, model.invert):
        with pytest.raises(ValueError, match="`condition` needs a model with a conditioner"):
            method(x, condition=[0, 1, 2])


@pytest.mark.parametrize(
    ("channels", "grey_levels", "dtype"),
    [(1, 256, "uint8"), (3, 256, "uint8"), (3, None, "float32"), (8, None, "float32")],
)
def test_grey_levels_leave_as_pixels_and_real_values_as_they_are(channels, grey_levels, dtype):
    """Latents of another model have the rank of pictures, and any number of channels."""
    shape, process = (4, 4, channels), GaussianDiffusion(CosineLogSNR())
    network = keras.layers.Conv2D(channels, 1)
    network.build((None, *shape))

    def at_every_level(z, log_snr, cond=None, training=False):
        return network(z)

    options = {"data_shape": shape, "grey_levels": grey_levels, "seed": 0}
    model = kgen.DiffusionModel(at_every_level, process, **options)
    model.parts = network  # so that there is something to train
    x = model.generate(num_samples=2, num_steps=2)
    assert (x.dtype, x.shape) == (dtype, (2, *shape))
    model.compile()
    large = np.full((2, *shape), 3.7, "float32")
    if grey_levels is None:
        assert np.isfinite(model.fit(large, verbose=0).history["loss"]).all()
        return
    with pytest.raises(ValueError, match=r"`x` must be in \[-1, 1\]"):
        model.fit(large, verbose=0)
    for begin in (model.invert, lambda x: model.generate(num_samples=2, images=x)):
        with pytest.raises(ValueError, match=r"`images` must be in \[-1, 1\]"):
            begin(large)


@pytest.mark.parametrize("solver", [DDIM(eta=1.0), EulerMaruyama(), AnnealedLangevin()])
def test_parts_of_the_examples_follow_paths_of_their_own(solver, gaussian_data):
    """A stochastic path forgets where it began: two on one path would end in one place."""
    model = exact(gaussian_data, GaussianDiffusion(CosineLogSNR(6.0, -6.0)))
    x = model.generate(num_samples=400, num_steps=30, solver=solver, seed=0, batch_size=200)
    distance = np.linalg.norm(x[:200] - x[200:], axis=1)
    others = np.linalg.norm(x[:200] - np.roll(x[:200], 1, axis=0), axis=1)
    assert np.median(distance) == pytest.approx(np.median(others), rel=0.3)


def test_the_bound_of_a_value_between_grey_levels_is_that_of_the_nearest():
    """Of a real value there is no probability, which the 8-bit bound would seem to have."""
    process = GaussianDiffusion(LinearLogSNR(13.3, -11.0))
    model = exact(UniformLevels, process, shape=(4, 4, 1), grey_levels=256)
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (20, 4, 4, 1))
    between = np.clip(levels + rng.uniform(-0.4, 0.4, levels.shape), 0, 255)
    for x, other in zip(
        *(model.bound_terms(v / 127.5 - 1, seed=SEED).values() for v in (levels, between))
    ):
        np.testing.assert_allclose(x, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ({"labels": [0, 1, 2]}, ValueError, r"`labels` must be in 0..1\. Received: \[0 1 2\]"),
        ({"labels": [-1, 1, 0]}, ValueError, r"`labels` must be in 0..1"),
        ({"labels": [0.0, 1.0, 1.0]}, TypeError, "`labels` must be integers"),
        ({}, ValueError, 'must have the key "labels"'),
        (None, ValueError, 'must have the key "labels"'),
    ],
)
def test_labels_are_looked_at_before_training(conditional, batch, error, message):
    x = np.zeros((3, 2), "float32")
    data = x if batch is None else {"images": x, **{k: np.array(v) for k, v in batch.items()}}
    for take in (conditional[0].fit, conditional[0].evaluate):
        with pytest.raises(error, match=message):
            take(data, verbose=0)


def test_a_label_that_is_none_in_a_later_batch_is_an_error(conditional):
    labels = np.array([0, 1, 1, 2], "int32")  # 2 would be the row of no class
    data = {"images": np.zeros((4, 2), "float32"), "labels": labels}
    batches = tf.data.Dataset.from_tensor_slices(data).batch(2)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"`labels` must be in 0..1"):
        conditional[0].evaluate(batches, verbose=0)


def test_no_examples_are_drawn_as_none(gaussian_data):
    """A server may be sent an empty batch."""
    model = exact(gaussian_data, GaussianDiffusion(CosineLogSNR()))
    seeds, none = tf.zeros([0, 2], tf.int32), tf.zeros([0], tf.int32)
    steering = Guided(None, None, tf.constant(1.0), none)
    x = model.draw(plan_of("dpm", model.process), None, seeds, none, tf.constant(2), steering, {})
    assert x.shape == (0, 2)
