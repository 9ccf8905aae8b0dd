"""The expected values are closed forms: the probability flow of Gaussians and of mixtures."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from exact import exact

import kgen
from kgen.callbacks import Resume
from kgen.conditioning import Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.diffusion.prediction import target as output_for
from kgen.networks import TimeMLP
from kgen.solvers import Consistency
from kgen.tensors import expand_to

PROCESS = GaussianDiffusion(CosineLogSNR(6.0, -6.0))


def ends(process=PROCESS):
    """The pairs (alpha, sigma) at t = 1 and t = 0."""
    return [[v.numpy() for v in process.alpha_sigma(tf.constant(t))] for t in (1.0, 0.0)]


def flow_map(data, process=PROCESS):
    """A network whose x_hat is the end of the exact probability flow of Gaussian data."""
    end_mean, end_std = data.moments(*ends(process)[1])

    def network(z, log_snr, cond=None, training=False):
        z = z * tf.exp(process.log_std_of(expand_to(log_snr, z)))
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        mean, std = (tf.constant(v, z.dtype) for v in (data.mean, data.std))
        end = end_mean + (z - alpha * mean) * end_std / tf.sqrt(alpha**2 * std**2 + sigma**2)
        return output_for("v", end, (z - alpha * end) / sigma, alpha, sigma)

    return network


def of_mixture(data, **options):
    """The exact denoiser of a mixture as the teacher of a small network."""
    keras.utils.set_random_seed(0)
    options = {"intervals": 20, "solver": "heun", "seed": 0, **options}
    return kgen.Distillation(exact(data, PROCESS, "v"), TimeMLP(2, width=32), **options)


def small(ema_decay=0.9, seed=0, **options):
    """A distillation of an untrained conditional model, which is quick to make."""
    keras.utils.set_random_seed(3)
    teacher = kgen.DiffusionModel(
        TimeMLP(2, width=8, blocks=1, pooled=4),
        PROCESS,
        grey_levels=None,
        conditioner=Labels(2, 4),
        ema_decay=ema_decay,
    )
    return kgen.Distillation(teacher, seed=seed, **{"guidance_scale": 2.0, **options})


def points(num=64):
    rng = np.random.default_rng(0)
    return {
        "images": rng.normal(size=(num, 2)).astype("float32"),
        "labels": rng.integers(0, 2, num),
    }


def loss_of_the_exact_map(data, solver, intervals):
    """The mean l2 loss of a student that is the exact map, over the grid."""
    model = kgen.Distillation(
        exact(data, PROCESS, "v"),
        flow_map(data),
        solver=solver,
        intervals=intervals,
        distance="l2",
        target="student",
        seed=0,
    )
    x = tf.constant(data.sample(4096), tf.float32)
    return float(tf.reduce_mean(model.loss_terms(x, seed=tf.constant([1, 2]))["consistency"]))


@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("heun", 2)])
def test_the_exact_map_has_no_loss_but_the_error_of_a_step(solver, order, gaussian_data):
    """The error of one step is of order + 1, and the loss is its square."""
    coarse, fine = (loss_of_the_exact_map(gaussian_data, solver, n) for n in (8, 16))
    assert coarse < 0.05
    assert np.log2(coarse / fine) == pytest.approx(2 * (order + 1), abs=0.6)


def test_another_map_has_a_loss(gaussian_data):
    """The teacher's own estimate is not the end of its flow."""
    teacher = exact(gaussian_data, PROCESS, "v")
    options = {"solver": "heun", "intervals": 16, "distance": "l2", "target": "student"}
    model = kgen.Distillation(teacher, teacher.network, **options)
    x = tf.constant(gaussian_data.sample(4096), tf.float32)
    loss = tf.reduce_mean(model.loss_terms(x, seed=tf.constant([1, 2]))["consistency"])
    assert loss > 100 * loss_of_the_exact_map(gaussian_data, "heun", 16)


def test_at_the_end_of_the_grid_the_target_is_the_state(gaussian_data):
    """With one interval the loss is the distance to one solver step, whatever the target."""
    model = kgen.Distillation(
        exact(gaussian_data, PROCESS, "v"),
        lambda z, log_snr, cond=None, training=False: 7.0 * z,
        intervals=1,
        distance="l2",
        target="student",
        seed=0,
    )
    seed = tf.constant([1, 2])
    x = tf.constant(gaussian_data.sample(256), tf.float32)
    seeds = kgen.tensors.split(seed, 4)
    t, s = tf.ones([256]), tf.zeros([256])
    z = PROCESS.marginal(x, t).sample(seeds[3])
    difference = model.student.denoiser(z, t) - model.teacher_step(z, t, s)
    expected = np.mean(difference.numpy() ** 2, axis=1)
    np.testing.assert_allclose(model.loss_terms(x, seed=seed)["consistency"], expected, rtol=1e-4)


def test_a_student_learns_the_flow(mixture_data):
    """In one evaluation, against the flow by quantiles; the network begins untrained."""
    model = of_mixture(mixture_data, distance="l2")
    noise = np.random.default_rng(1).normal(size=(300, 2)).astype("float32")
    expected = mixture_data.flow(noise, *ends())

    def error():
        x = model.student.generate(num_samples=300, noise=noise, num_steps=1, seed=0)
        return np.sqrt(np.mean((x - expected) ** 2))

    before = error()
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=16)
    x = mixture_data.sample(4096).astype("float32")
    model.fit(x, batch_size=256, epochs=25, verbose=0)
    assert error() < 0.4 * before


def test_guidance_is_inside():
    """Two classes N(+-1, 1/4) and their mixture, exact: samples of one step at scale 2.

    The teacher draws many guided steps from the same noise, the student one.
    """
    std, scale = 0.5, 2.0

    def network(z, log_snr, cond, training=False):
        alpha, sigma = (expand_to(a, z) for a in PROCESS.alpha_sigma_of(log_snr))
        var = alpha**2 * std**2 + sigma**2
        which = cond["pooled"][:, :1]  # 1, -1, or 0 for both
        mean = tf.where(which == 0, tf.tanh(alpha * z / var), which)
        end = mean + std**2 * alpha / var * (z - alpha * mean)
        return output_for("v", end, (z - alpha * end) / sigma, alpha, sigma)

    keras.utils.set_random_seed(0)
    options = {"data_shape": (1,), "grey_levels": None, "conditioner": Labels(2, 1)}
    teacher = kgen.DiffusionModel(network, PROCESS, **options)
    teacher.conditioner.table.assign([[1.0], [-1.0], [0.0]])
    student = TimeMLP(1, width=32, pooled=1)
    model = kgen.Distillation(
        teacher, student, guidance_scale=scale, intervals=20, distance="l2", seed=0
    )
    labels = np.arange(4096) % 2
    x = np.random.default_rng(0).normal(1.0 - 2 * labels[:, None], std).astype("float32")
    model.compile(keras.optimizers.Adam(3e-3), steps_per_execution=16)
    model.fit(x, labels, batch_size=256, epochs=80, verbose=0)
    noise = np.random.default_rng(1).normal(size=(400, 1)).astype("float32")
    both = np.repeat([0, 1], 200)
    many = teacher.generate(both, noise=noise, num_steps=50, guidance_scale=scale, solver="ddim")
    plain = teacher.generate(both, noise=noise, num_steps=50, guidance_scale=1.0, solver="ddim")
    one = model.student.generate(both, noise=noise, num_steps=1, seed=0)
    for part in (slice(200), slice(200, None)):
        moved = abs(many[part].mean() - plain[part].mean())
        assert moved > 0.2
        assert abs(one[part].mean() - many[part].mean()) < 0.2 * moved


def test_the_student_starts_as_the_averaged_teacher():
    keras.utils.set_random_seed(3)
    teacher = kgen.DiffusionModel(
        TimeMLP(2, width=8, blocks=1), PROCESS, grey_levels=None, ema_decay=0.9
    )
    for variable in teacher.network.trainable_variables:
        variable.assign_add(tf.ones_like(variable))  # its averages stay
    z, t = tf.ones([3, 2]), tf.constant(0.4)
    expected = teacher.denoise(z, t).numpy()
    assert np.abs(expected - teacher.denoiser(z, t)).max() > 0.01
    model = kgen.Distillation(teacher)
    np.testing.assert_array_equal(model.student.denoise(z, t), expected)
    assert model.student.network is not teacher.network
    assert not teacher.trainable_variables


def test_trains_the_student_alone_and_generates_with_n_evaluations():
    model = small()
    teacher = [v.numpy() for v in model.teacher.weights]
    before = [v.numpy() for v in model.student.network.weights]
    model.compile("adam")
    model.fit(points(), batch_size=32, verbose=0)
    for old, new in zip(teacher, model.teacher.weights):
        np.testing.assert_array_equal(old, new)
    assert any(np.any(a != b) for a, b in zip(before, model.student.network.weights))
    student = model.student
    assert student.default_solver == Consistency()
    assert student.default_guidance_scale == 1.0
    assert student.default_num_steps == 2
    # One step is one evaluation at t = 1, and no other.
    noise = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    x = student.generate([0, 1, 1, 0], noise=noise, num_steps=1, seed=0)
    cond = student.conditioner(tf.constant([0, 1, 1, 0]))
    np.testing.assert_allclose(x, student.denoise(tf.constant(noise), 1.0, cond), rtol=1e-5)
    path = student.generate([0], num_steps=3, seed=0, trajectory=True)
    np.testing.assert_array_equal(path[:, -1], student.generate([0], num_steps=3, seed=0))


def test_seed_decides_the_training():
    losses = []
    for seed in (0, 0, 1):
        model = small(seed=seed)
        model.compile("adam")
        history = model.fit(points(), batch_size=32, epochs=2, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_saves_the_student_and_the_distillation(tmp_path):
    model = small()
    model.compile("adam")
    model.fit(points(), batch_size=32, verbose=0)
    expected = model.student.generate([0, 1], seed=0)
    model.student.save_to_preset(tmp_path / "student", dtype="float32")
    student = kgen.from_preset(tmp_path / "student")
    assert type(student) is kgen.DiffusionModel
    np.testing.assert_allclose(student.generate([0, 1], seed=0), expected, rtol=1e-5)
    model.save(tmp_path / "model.keras")
    loaded = kgen.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.generate([0, 1], seed=0), expected, rtol=1e-5)
    assert len(loaded.optimized_variables) == len(model.optimized_variables) > 0
    logs = (m.evaluate(points(), batch_size=32, verbose=0) for m in (model, loaded))
    np.testing.assert_allclose(*logs, rtol=1e-5)


def test_resumes(tmp_path):
    whole = small()
    whole.compile("adam")
    whole.fit(points(), batch_size=32, epochs=2, verbose=0, callbacks=[Resume(tmp_path / "a")])
    for epochs in (1, 2):
        parts = small()
        parts.compile("adam")
        callbacks = [Resume(tmp_path / "b")]
        parts.fit(points(), batch_size=32, epochs=epochs, verbose=0, callbacks=callbacks)
    for a, b in zip(whole.student.weights, parts.student.weights):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_latent_diffusion(make_diffusion, pictures, dataset, tmp_path):
    """Precomputed latents and conditions too."""
    model = kgen.Distillation(make_diffusion(), intervals=10, seed=0)
    assert model.guidance_scale == 3.0
    model.compile("adam")
    data = model.teacher.precompute(dataset(64), tmp_path, batch_size=64)
    history = model.fit(data, epochs=1, steps_per_epoch=1, verbose=0)
    assert np.isfinite(history.history["consistency"][0])
    assert type(model.student) is kgen.LatentDiffusion
    assert model.student.autoencoder is model.teacher.autoencoder
    images = model.student.generate(list(pictures["prompts"][:2]), num_steps=1, seed=0)
    assert images.shape == (2, 16, 16, 3)


def test_weights_of_the_steps():
    """1 / (n_t - n_s), for equal intervals of log-SNR a geometric series."""
    model = small(weighting="step", intervals=12)
    t, s, weight = (v.numpy() for v in model.draw_times(12, tf.constant([0, 1])))
    level = {v: np.exp(-PROCESS.log_snr(v).numpy() / 2) for v in {*t, *s}}
    product = weight * [level[a] - level[b] for a, b in zip(t, s)]
    np.testing.assert_allclose(product, product[0], rtol=2e-2)
    assert weight.mean() == pytest.approx(1, rel=1e-3)  # one of each interval
    assert s.min() == 0
    assert t.max() == 1


def test_wrong_arguments(gaussian_data):
    teacher = exact(gaussian_data, PROCESS, "v")
    with pytest.raises(TypeError, match="`teacher` must be a DiffusionModel"):
        kgen.Distillation(TimeMLP(2, width=8))
    with pytest.raises(ValueError, match="`network` must be given"):
        kgen.Distillation(teacher)
    for name, value in (
        ("solver", "dpm"),
        ("target", "teacher"),
        ("distance", "l1"),
        ("weighting", "elbo"),
        ("intervals", 0),
        ("ema_decay", None),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            kgen.Distillation(teacher, flow_map(gaussian_data), **{name: value})
