import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, denoiser, prediction

TYPES = sorted(prediction.PREDICTION_TYPES)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_exact_networks_give_the_exact_denoiser(kind, scaling, gaussian_data):
    """Networks that output each quantity for Gaussian data, written out from its closed form.

    They are shown z at unit variance. EDM's input and output are those of its table 1, with
    sigma_data = 1/2: c_in = 1 / sqrt(sigma^2 + sigma_data^2) of the variance-exploding z / alpha.
    """
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), scaling)

    def network(z, log_snr, cond, training):
        alpha, sigma = (v[:, None] for v in process.alpha_sigma_of(tf.cast(log_snr, z.dtype)))
        if kind == "edm":
            z *= alpha * tf.sqrt((sigma / alpha) ** 2 + 0.25)
        else:
            z *= tf.sqrt(alpha**2 + sigma**2)
        score = tf.constant(gaussian_data.score(z, alpha.numpy(), sigma.numpy()))
        x, eps = (z + sigma**2 * score) / alpha, -sigma * score
        outputs = {
            "x": x,
            "eps": eps,
            "v": alpha * eps - sigma * x,
            "score": score,
            "flow": eps - x,
            "edm": (x - 0.25 / ((sigma / alpha) ** 2 + 0.25) * z / alpha)
            / (0.5 * sigma / alpha / tf.sqrt((sigma / alpha) ** 2 + 0.25)),
        }
        return outputs[kind]

    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    for t in (0.3, tf.constant([0.1, 0.3, 0.5, 0.7, 0.9])):
        x_hat = denoiser(network, process, kind)(z, t)
        expected = gaussian_data.denoise(process)(z, tf.cast(t, tf.float64))
        np.testing.assert_allclose(x_hat, expected, rtol=1e-4, atol=1e-5)


def test_network_is_told_log_snr_condition_and_mode():
    process = GaussianDiffusion(CosineLogSNR())
    seen = {}

    def network(z, log_snr, cond, training):
        seen.update(log_snr=log_snr, cond=cond, training=training)
        return tf.cast(z, tf.float16)

    denoise = denoiser(network, process, "x")
    assert denoise(tf.ones([3, 2], tf.float64), 0.5).dtype == tf.float64
    assert seen["log_snr"].dtype == tf.float32
    assert seen["cond"] is None
    assert seen["training"] is False
    np.testing.assert_allclose(seen["log_snr"], np.zeros(3), atol=1e-5)
    assert denoise(tf.ones([3, 2]), tf.constant([0.1, 0.2, 0.3]), "text").dtype == tf.float32
    assert seen["cond"] == "text"
    np.testing.assert_allclose(seen["log_snr"], process.log_snr(tf.constant([0.1, 0.2, 0.3])))


def test_half_precision_conversion_runs_in_float32():
    """(1 - sigma) / alpha, with sigma rounded to bfloat16, would be off by 5 %."""
    process = GaussianDiffusion(CosineLogSNR(40.0, -40.0))
    denoise = denoiser(lambda z, log_snr, cond, training: z, process, "eps")
    x_hat = denoise(tf.ones([2, 3], tf.bfloat16), 0.9)
    assert x_hat.dtype == tf.bfloat16
    angle = 0.9 * np.pi / 2
    expected = np.full([2, 3], (1 - np.sin(angle)) / np.cos(angle))
    np.testing.assert_allclose(tf.cast(x_hat, tf.float64), expected, rtol=5e-3)


def test_clip():
    denoise = denoiser(
        lambda z, log_snr, cond, training: 3 * z,
        GaussianDiffusion(CosineLogSNR()),
        "x",
        clip=(-1.0, 2.0),
    )
    np.testing.assert_array_equal(denoise(tf.constant([[-2.0, 0.25, 2.0]]), 0.5), [[-1, 0.75, 2]])


def test_unknown_prediction():
    with pytest.raises(ValueError, match="`prediction` must be one of"):
        denoiser(None, GaussianDiffusion(CosineLogSNR()), "noise")
