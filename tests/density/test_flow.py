"""The probability-flow likelihood against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR

every_scaling = pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])


def at_zero(process):
    return [float(v) for v in process.alpha_sigma(0.0)]


@every_scaling
@pytest.mark.parametrize("kind", ["gaussian", "mixture"])
def test_log_density_at_the_start_of_the_process(request, kind, scaling):
    """Exact trace, float32, log-SNR from -12 to 10: within 0.005 nats of the closed form."""
    data = request.getfixturevalue(f"{kind}_data")
    process = GaussianDiffusion(LinearLogSNR(10.0, -12.0), scaling)
    alpha, sigma = at_zero(process)
    x = alpha * data.sample(6) + sigma * np.random.default_rng(1).normal(size=(6, 2))
    z = tf.constant(x, tf.float32)
    denoise = data.denoise(process)
    log_p = tf.function(lambda z: kgen.log_likelihood(denoise, process, z, rtol=1e-5))(z)
    np.testing.assert_allclose(log_p, data.log_prob(x, alpha, sigma), atol=0.005)


def test_hutchinson_is_unbiased(mixture_data):
    process = GaussianDiffusion(CosineLogSNR(8.0, -10.0))
    denoise = mixture_data.denoise(process)
    x = tf.repeat(tf.constant(mixture_data.sample(1), tf.float32), 400, axis=0)

    # A rotation makes the Jacobian's off-diagonal matter, which is what the estimate is noisy in.
    c, s = np.cos(0.6), np.sin(0.6)
    turn = tf.constant([[c, -s], [s, c]], tf.float32)

    def turned(z, t):
        return tf.matmul(denoise(tf.matmul(z, turn), t), turn, transpose_b=True)

    exact = kgen.log_likelihood(turned, process, x[:1])
    estimates = kgen.log_likelihood(turned, process, x, num_probes=1, rtol=1e-4).numpy()
    error = estimates.std() / np.sqrt(len(estimates))
    assert error > 1e-4
    assert abs(estimates.mean() - float(exact[0])) < 3 * error + 1e-3


def test_a_value_does_not_depend_on_the_other_examples(mixture_data):
    process = GaussianDiffusion(CosineLogSNR(8.0, -10.0))
    denoise = mixture_data.denoise(process)
    x = tf.constant([[0.1, 0.3], [40.0, -25.0], [-1.0, 1.2]])  # one far from all others
    options = {"rtol": 1e-3, "atol": 1e-3}
    alone = [
        float(kgen.log_likelihood(denoise, process, x[i : i + 1], **options)[0]) for i in range(3)
    ]
    together = kgen.log_likelihood(denoise, process, x, **options)
    np.testing.assert_allclose(together, alone, rtol=5e-6)  # float32; 1e-3 if the steps were shared


def test_too_few_steps_are_an_error(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR())
    with pytest.raises(tf.errors.InvalidArgumentError, match="`max_steps` must be more than 2"):
        kgen.log_likelihood(gaussian_data.denoise(process), process, tf.zeros([1, 2]), max_steps=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": 0.0}, "`rtol` must be positive"),
        ({"atol": -1.0}, "`atol` must be positive"),
        ({"max_steps": 0}, "`max_steps` must be at least 1"),
        ({"num_probes": 0}, "`num_probes` must be at least 1"),
    ],
)
def test_wrong_options_are_refused(gaussian_data, options, message):
    process = GaussianDiffusion(CosineLogSNR())
    with pytest.raises(ValueError, match=message):
        kgen.log_likelihood(gaussian_data.denoise(process), process, tf.zeros([1, 2]), **options)
