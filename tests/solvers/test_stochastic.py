"""Stochastic solvers: the mean and the variance of what they draw."""

import itertools

import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR, time_grid
from kgen.solvers import (
    DDIM,
    AnnealedLangevin,
    DormandPrince,
    DPMSolver,
    EulerMaruyama,
    Heun,
    PredictorCorrector,
    UniPC,
    solve,
)
from kgen.solvers.euler_maruyama import reverse_step
from kgen.tensors import fold_in, normal

every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
SEED = [1, 2]


def run(solver, process, data, num_steps, num_samples=20000):
    z = process.prior(tf.zeros([num_samples, 2], tf.float64)).sample(tf.constant([7, 8]))
    times = time_grid(process, num_steps, dtype="float64")
    return solve(solver, data.denoise(process), process, z, times, seed=SEED).numpy()


@every_scaling
def test_euler_maruyama_moments_follow_the_recursion(scaling, gaussian_data):
    """z_s = (1 + (s - t) (f + g^2 / v)) z + const: both moments by hand, v the variance of q(z_t).

    f and g^2 by finite differences of log alpha and sigma^2 / alpha^2.
    """
    process = GaussianDiffusion(LinearLogSNR(4.0, -4.0), scaling)
    times = time_grid(process, 12, dtype="float64")
    step = 1e-6
    prior = process.prior(tf.zeros([1, 2], tf.float64))
    mean, var = np.zeros(2), np.exp(2 * prior.log_std.numpy()) * np.ones(2)
    for t, s in itertools.pairwise(times.numpy()):
        near = tf.constant([t - step, t, t - 2 * step] if t == 1 else [t - step, t, t + step])
        alpha, sigma = (v.numpy() for v in process.alpha_sigma(near))
        gap = near.numpy()[2] - near.numpy()[0]
        f = (np.log(alpha[2]) - np.log(alpha[0])) / gap
        g2 = alpha[1] ** 2 * ((sigma / alpha)[2] ** 2 - (sigma / alpha)[0] ** 2) / gap
        total = alpha[1] ** 2 * gaussian_data.std**2 + sigma[1] ** 2
        gain = 1 + (s - t) * (f + g2 / total)
        mean = gain * mean - (s - t) * g2 / total * alpha[1] * gaussian_data.mean
        var = gain**2 * var + g2 * (t - s)
    z = run(EulerMaruyama(), process, gaussian_data, 12)
    assert np.all(np.abs(z.mean(0) - mean) < 5 * np.sqrt(var / len(z)) + 1e-3 * np.abs(mean))
    np.testing.assert_allclose(z.var(0), var, rtol=0.05)


def test_euler_maruyama_approaches_the_data(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "vp")
    errors = [
        np.abs(run(EulerMaruyama(), process, gaussian_data, n).std(0) - gaussian_data.std).max()
        for n in (10, 300)
    ]
    assert errors[1] < 0.012 < 0.05 < errors[0]


@pytest.mark.parametrize("scaling", ["vp", "ve"])
def test_langevin_steps_lead_to_the_distribution_of_the_level(scaling, gaussian_data):
    """Many steps are made at the last level: variance v / (1 - a / 4v) of the discrete chain."""
    process = GaussianDiffusion(LinearLogSNR(1.0, -4.0), scaling)
    solver = AnnealedLangevin(langevin_steps=200, step_size=0.5)
    z = run(solver, process, gaussian_data, 2, num_samples=8000)
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(tf.constant(0.0, tf.float64)))
    var = alpha**2 * gaussian_data.std**2 + sigma**2
    a = (0.5 * sigma) ** 2
    np.testing.assert_allclose(z.mean(0), alpha * gaussian_data.mean, atol=0.06)
    np.testing.assert_allclose(z.var(0), var / (1 - a / (4 * var)), rtol=0.06)


def test_the_corrector_helps_the_predictor(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0), "vp")
    plain, corrected = (
        np.abs(run(solver, process, gaussian_data, 10).std(0) - gaussian_data.std).max()
        for solver in (EulerMaruyama(), PredictorCorrector(snr=0.3))
    )
    assert corrected < 0.85 * plain


def test_a_corrector_step_by_hand():
    """One corrector step of Song et al. (2021), algorithm 5, in numpy, with the same noise.

    Of a length in proportion to sigma^2, as in Song and Ermon (2019), algorithm 1.
    """
    process = GaussianDiffusion(LinearLogSNR(4.0, -4.0), "vp")
    z, t, s = (tf.constant(v, tf.float64) for v in ([[1.0, -2.0], [0.3, 0.5]], 0.6, 0.5))

    def denoise(z, t):
        return tf.zeros_like(z) + 3.0

    drawn, _ = PredictorCorrector(snr=0.2).step(denoise, process, z, t, s, 0, (), SEED)
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(s))
    noise = normal([2, 2], SEED, tf.float64)
    predicted = reverse_step(denoise, process, z, t, s, noise).numpy()
    eps = normal([2, 2], fold_in(SEED, 1), tf.float64).numpy()
    score = (alpha * 3.0 - predicted) / sigma**2
    a = 2 * 0.2**2 * sigma**2
    np.testing.assert_allclose(drawn, predicted + a * score + np.sqrt(2 * a) * eps, rtol=1e-6)


@every_scaling
def test_a_corrector_of_an_untrained_network_stays_finite(scaling):
    """A network that says eps = 0 claims no score; unbounded, the step would be infinite."""
    process = GaussianDiffusion(LinearLogSNR(4.0, -4.0), scaling)
    z = process.prior(tf.zeros([50, 2])).sample(tf.constant([7, 8]))

    def denoise(z, t):
        return z / process.alpha_sigma(t)[0]

    drawn = solve(PredictorCorrector(), denoise, process, z, time_grid(process, 50), seed=SEED)
    assert float(tf.reduce_max(tf.abs(drawn))) < 1e4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: UniPC(order=3), "`order` must be 1 or 2"),
        (lambda: AnnealedLangevin(langevin_steps=0), "at least 1"),
        (lambda: AnnealedLangevin(step_size=0.0), "`step_size` must be positive"),
        (lambda: PredictorCorrector(corrector_steps=0), "at least 1"),
        (lambda: PredictorCorrector(snr=-1.0), "`snr` must be positive"),
    ],
)
def test_wrong_options_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def marginal_variance(process, data, t):
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(tf.constant(t, tf.float64)))
    return alpha**2 * data.std**2 + sigma**2


def variance_error(solver, process, data, num_steps, monkeypatch):
    """The relative error of a solver's variance of Gaussian data, free of any sampling error.

    It begins with the exact variance at t = 1. A solver that is affine in z and in its noise is
    read off its action on unit vectors: nothing, z, and each draw of noise, put in by hand.
    """
    draws = num_steps * getattr(solver, "langevin_steps", 1)
    times = time_grid(process, num_steps, dtype="float64")
    z = np.zeros([draws + 2, 2])
    z[1] = 1.0
    count = itertools.count(2)

    def noise(shape, seed, dtype):
        eps = np.zeros(shape)
        eps[next(count)] = 1.0
        return tf.constant(eps, dtype)

    monkeypatch.setattr(f"{type(solver).__module__}.normal", noise)
    z = tf.constant(z)
    memory, denoise = solver.initial_memory(z), data.denoise(process)
    for i, (t, s) in enumerate(itertools.pairwise(tf.unstack(times))):
        z, memory = solver.step(denoise, process, z, t, s, i, memory, SEED)
    assert next(count) == draws + 2  # every draw was seen
    gains = (z - z[0]).numpy()[1:]
    start, end = (marginal_variance(process, data, t) for t in (1.0, 0.0))
    return (gains[0] ** 2 * start + (gains[1:] ** 2).sum(0)) / end - 1


@pytest.mark.parametrize(
    ("solver", "steps"),
    [
        (DPMSolver(1, sde=True), (80, 160, 320)),
        (DPMSolver(2, sde=True), (80, 160, 320)),
        (DDIM(eta=1.0), (80, 160, 320)),
        (EulerMaruyama(), (80, 160, 320)),
        (AnnealedLangevin(20), (8, 16, 32)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("scaling", ["vp", "ve"])
def test_weak_order(solver, steps, scaling, gaussian_data, monkeypatch):
    """The error of the variance falls with the declared order."""
    process = GaussianDiffusion(LinearLogSNR(3.0, -3.0), scaling)
    errors = [
        np.abs(variance_error(solver, process, gaussian_data, n, monkeypatch)).max() for n in steps
    ]
    print(errors)
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - solver.order) < 0.2


def test_churn_of_every_step_leaves_an_error(gaussian_data, monkeypatch):
    """However many steps: each goes back by a fifth of its noise. So there is no order."""
    process = GaussianDiffusion(LinearLogSNR(3.0, -3.0))
    errors = [
        np.abs(
            variance_error(Heun(churn=0.2, picture="ve"), process, gaussian_data, n, monkeypatch)
        ).max()
        for n in (20, 160, 320)
    ]
    assert errors[2] < 0.2 * errors[0]
    assert errors[2] > 0.7 * errors[1]  # a first order would have half
    assert Heun(churn=0.2).order is None
    assert Heun().order == 2


def test_the_corrector_of_a_predictor_leaves_an_error(gaussian_data):
    """The variance u of z <- (1 - a / v) z + sqrt(2 a) eps is where u (2 / v - a / v^2) = 2.

    With a = 2 snr^2 sigma^2, v = 1 and sigma^2 = 1/2 at the end, u = 1 / (1 - snr^2 / 2), however
    many steps there are.
    """
    process = GaussianDiffusion(LinearLogSNR(0.0, -6.0))
    solver = PredictorCorrector(snr=0.4)
    unit = type(gaussian_data)(np.zeros(2), np.ones(2))
    z = run(solver, process, unit, 400, num_samples=40000)
    assert solver.order is None
    assert z.var() == pytest.approx(1 / (1 - 0.4**2 / 2), rel=0.02)


@pytest.mark.parametrize(
    "solver",
    [PredictorCorrector(), AnnealedLangevin(3), EulerMaruyama(), DDIM(eta=1.0), Heun(churn=0.2)],
    ids=repr,
)
def test_an_example_can_be_made_again_alone_from_its_seed(solver, mixture_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0))
    denoise = mixture_data.denoise(process)
    seeds = tf.constant([[1, 2], [3, 4], [5, 6]])
    z = tf.constant([[0.3, -1.0], [25.0, 9.0], [-0.1, 0.4]], tf.float64)
    times = time_grid(process, 6, dtype="float64")
    together = solve(solver, denoise, process, z, times, seeds)
    for i in range(3):
        one = slice(i, i + 1)
        alone = solve(solver, denoise, process, z[one], times, seeds[one])
        np.testing.assert_allclose(together[one], alone, rtol=1e-12)


def test_the_sde_form_of_order_one_is_ancestral_sampling(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "flow")
    one, other = (
        run(solver, process, gaussian_data, 8, num_samples=50)
        for solver in (DPMSolver(1, sde=True), DDIM(eta=1.0))
    )
    np.testing.assert_allclose(one, other, rtol=1e-9)


def test_churn_keeps_the_distribution(gaussian_data):
    """With the exact denoiser fresh noise changes points, not moments."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), "vp")
    plain, churned = (
        run(Heun(churn), process, gaussian_data, 40, num_samples=20000) for churn in (0.0, 0.3)
    )
    assert np.abs(plain - churned).max() > 0.5
    np.testing.assert_allclose(churned.mean(0), gaussian_data.mean, atol=0.03)
    np.testing.assert_allclose(churned.std(0), gaussian_data.std, rtol=0.03)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Heun(churn=0.5), "`churn` must be in"),
        (lambda: Heun(noise=0.0), "`noise` must be positive"),
        (lambda: Heun(between=(2.0, 1.0)), "`between` must be two noise levels"),
        (lambda: DPMSolver(3, sde=True), "`order` must be 1 or 2 with `sde`"),
        (lambda: DormandPrince(rtol=0.0), "`rtol` must be positive"),
        (lambda: DormandPrince(max_steps=0), "`max_steps` must be at least 1"),
    ],
)
def test_wrong_options_of_other_solvers_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
