import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import (
    BoundSteps,
    CosineLogSNR,
    Denoiser,
    GaussianDiffusion,
    LearnedLogSNR,
    LinearLogSNR,
    NoiseLevels,
    clip,
    prediction,
)
from kgen.networks import TimeMLP

TYPES = sorted(prediction.PREDICTION_TYPES)
DATA_STD = {"edm": 0.5, "edm_unit": 1.0}  # EDM's sigma_data


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_exact_networks_give_the_exact_denoiser(kind, scaling, gaussian_data):
    """Networks that output each quantity for Gaussian data, written out from its closed form.

    They are shown z at unit variance. EDM's input and output are those of its table 1:
    c_in = 1 / sqrt(sigma^2 + sigma_data^2) of the variance-exploding z / alpha.
    """
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), scaling)

    def network(z, log_snr, cond, training):
        alpha, sigma = (v[:, None] for v in process.alpha_sigma_of(tf.cast(log_snr, z.dtype)))
        std = DATA_STD.get(kind, 1.0)
        if kind in DATA_STD:
            z *= alpha * tf.sqrt((sigma / alpha) ** 2 + std**2)
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
        }
        for edm in DATA_STD:
            outputs[edm] = (x - std**2 / ((sigma / alpha) ** 2 + std**2) * z / alpha) / (
                std * sigma / alpha / tf.sqrt((sigma / alpha) ** 2 + std**2)
            )
        return outputs[kind]

    z = tf.constant(np.random.default_rng(0).normal(size=(5, 2)))
    for t in (0.3, tf.constant([0.1, 0.3, 0.5, 0.7, 0.9])):
        x_hat = Denoiser(network, process, kind)(z, t)
        expected = gaussian_data.denoise(process)(z, tf.cast(t, tf.float64))
        np.testing.assert_allclose(x_hat, expected, rtol=1e-4, atol=1e-5)


def test_network_is_told_log_snr_condition_and_mode():
    process = GaussianDiffusion(CosineLogSNR())
    seen = {}

    def network(z, log_snr, cond, training):
        seen.update(log_snr=log_snr, cond=cond, training=training)
        return tf.cast(z, tf.float16)

    denoise = Denoiser(network, process, "x")
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
    denoise = Denoiser(lambda z, log_snr, cond, training: z, process, "eps")
    x_hat = denoise(tf.ones([2, 3], tf.bfloat16), 0.9)
    assert x_hat.dtype == tf.bfloat16
    angle = 0.9 * np.pi / 2
    expected = np.full([2, 3], (1 - np.sin(angle)) / np.cos(angle))
    np.testing.assert_allclose(tf.cast(x_hat, tf.float64), expected, rtol=5e-3)


def test_clip():
    denoise = Denoiser(
        lambda z, log_snr, cond, training: 3 * z, GaussianDiffusion(CosineLogSNR()), "x"
    )
    clipped = clip(denoise, -1.0, 2.0)
    np.testing.assert_array_equal(clipped(tf.constant([[-2.0, 0.25, 2.0]]), 0.5), [[-1, 0.75, 2]])


def test_unknown_prediction():
    with pytest.raises(ValueError, match="`prediction` must be one of"):
        Denoiser(None, GaussianDiffusion(CosineLogSNR()), "noise")


def test_a_process_must_be_one():
    with pytest.raises(TypeError, match="`process` must be a GaussianDiffusion. Received: Cosine"):
        Denoiser(None, CosineLogSNR())


def silent(z, log_snr, cond, training):
    """A network whose output is 0."""
    return tf.zeros_like(z)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_error_of_a_network_that_is_silent(kind, scaling):
    """By hand: |eps - eps_hat|^2 where the network says that x, eps, v or eps - x is 0."""
    process = GaussianDiffusion(CosineLogSNR(8.0, -8.0), scaling)
    x, eps = tf.unstack(tf.constant(np.random.default_rng(0).normal(size=(2, 3, 4)), tf.float32))
    log_snr = tf.constant([-3.0, 0.5, 4.0])
    alpha, sigma = (v.numpy()[:, None] for v in process.alpha_sigma_of(log_snr))
    expected = {
        "x": alpha / sigma * x,  # z = sigma eps_hat
        "eps": eps,
        "score": eps,
        "v": alpha * (alpha * eps - sigma * x) / (alpha**2 + sigma**2),  # sigma z = (..) eps_hat
        "flow": alpha * (eps - x) / (alpha + sigma),  # z = (alpha + sigma) eps_hat
    }
    for edm, std in DATA_STD.items():  # x_hat = c_skip z / alpha
        c_skip = std**2 / ((sigma / alpha) ** 2 + std**2)
        expected[edm] = alpha * (c_skip * (x + sigma / alpha * eps) - x) / sigma
    expected = expected[kind]
    error = Denoiser(silent, process, kind).error(x, eps, log_snr)
    np.testing.assert_allclose(error, np.sum(np.square(expected), axis=1), rtol=2e-4)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ("stratified", 12 / 2),
        ("importance", 12 / 2),
        ("cosine", 12 / 2),
        (NoiseLevels(3), 12 / 2),
        (BoundSteps(4), 4 / 2 * np.expm1(12 / 4)),
        (BoundSteps(1000), 1000 / 2 * np.expm1(12 / 1000)),
    ],
)
def test_loss_of_a_network_that_is_silent(times, expected):
    """E |eps|^2 = D: the range of the log-SNR over 2, and with T levels T/2 expm1(range / T)."""
    denoiser = Denoiser(silent, GaussianDiffusion(LinearLogSNR(8.0, -4.0)), "eps")
    x = tf.zeros([20000, 3])
    seeds = tf.constant([[1, 2], [3, 4]])
    loss = denoiser.loss(x, None, seeds, times=times).numpy().astype("float64")
    assert loss.shape == (20000,)
    assert abs(loss.mean() - 3 * expected) < 4 * loss.std() / len(loss) ** 0.5
    assert loss.std() / len(loss) ** 0.5 < 0.03 * 3 * expected


def test_simple_weighting_is_half_the_mean_square():
    """DDPM's loss, (1/2) |eps - eps_hat|^2, from the same draws as the error."""
    denoiser = Denoiser(silent, GaussianDiffusion(CosineLogSNR()), "eps")
    seeds = tf.constant([[1, 2], [3, 4]])
    loss = denoiser.loss(tf.ones([50, 3]), None, seeds, weighting="simple", times="uniform")
    eps = tf.random.stateless_normal([50, 3], seeds[1], alg="philox").numpy()
    np.testing.assert_allclose(loss, (eps**2).sum(1) / 2, rtol=1e-5)


def test_training_and_condition_reach_the_network_in_the_loss():
    seen = []

    def network(z, log_snr, cond, training):
        seen.append((cond, training))
        return z

    denoiser = Denoiser(network, GaussianDiffusion(CosineLogSNR()))
    seeds = tf.constant([[1, 2], [3, 4]])
    denoiser.loss(tf.ones([2, 3]), "text", seeds, training=True)
    denoiser.loss(tf.ones([2, 3]), "text", seeds)
    denoiser(tf.ones([2, 3]), 0.5, "text", training=True)
    assert seen == [("text", True), ("text", False), ("text", True)]


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_both_scores_are_that_of_the_estimate(kind, scaling):
    """Tweedie's formula, (alpha x_hat - z) / sigma^2, for any network."""
    process = GaussianDiffusion(CosineLogSNR(6.0, -6.0), scaling)
    denoiser = Denoiser(lambda z, log_snr, cond, training: 0.3 * z + 0.1, process, kind)
    z = tf.constant(np.random.default_rng(0).normal(size=(3, 2)))
    t = tf.constant([0.2, 0.5, 0.9], tf.float64)
    alpha, sigma = (v.numpy()[:, None] for v in process.alpha_sigma(t))
    expected = (alpha * denoiser(z, t).numpy() - z) / sigma**2
    np.testing.assert_allclose(denoiser.score(z, t), expected, rtol=1e-6)
    np.testing.assert_allclose(denoiser.score_of(z, process.log_snr(t)), expected, rtol=1e-6)


def test_it_is_a_layer_that_keras_rebuilds():
    network = TimeMLP(2, width=8, blocks=1)
    process = GaussianDiffusion(LearnedLogSNR(8.0, -8.0), "flow")
    layer = Denoiser(network, process, "x", name="of_points")
    found = {id(v) for v in layer.trainable_variables}
    parts = [*network.trainable_variables, *process.schedule.trainable_variables]
    assert found == {id(v) for v in parts}
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert (again.name, again.prediction, again.process.scaling) == ("of_points", "x", "flow")
    rng = np.random.default_rng(0)
    layer.set_weights([rng.normal(size=w.shape) for w in layer.get_weights()])
    again.set_weights(layer.get_weights())
    z = tf.constant(rng.normal(size=(4, 2)), tf.float32)
    np.testing.assert_array_equal(again(z, 0.3), layer(z, 0.3))
    np.testing.assert_array_equal(layer.call(z, 0.3), layer(z, 0.3))
    assert np.abs(layer(z, 0.3)).max() > 0.01
