import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import (
    CosineLogSNR,
    GaussianDiffusion,
    autoguidance,
    classifier_free,
    classifier_guidance,
    condition,
    dynamic_threshold,
)
from kgen.tensors import expand_to

Z = tf.random.stateless_normal([4, 3], [0, 1])


def counting_denoiser():
    calls = []

    def denoise(z, t, cond):
        calls.append(cond)
        return tf.sin(3.1 * z + tf.cast(cond, z.dtype)) / 3

    return denoise, calls


def test_condition_binds():
    denoise, calls = counting_denoiser()
    np.testing.assert_array_equal(condition(denoise, 0.7)(Z, 0.5), denoise(Z, 0.5, 0.7))
    assert calls == [0.7, 0.7]


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("in_graph", [False, True])
@pytest.mark.parametrize(("scale", "equal_to"), [(1.0, 0.7), (0.0, 0.2)])
def test_exact_at_one_and_zero(as_tensor, in_graph, scale, equal_to):
    denoise, _ = counting_denoiser()
    wrap = tf.function if in_graph else (lambda f: f)
    value = tf.constant(scale) if as_tensor else scale
    guided = wrap(lambda z, s: classifier_free(denoise, 0.7, 0.2, s)(z, 0.5))(Z, value)
    plain = wrap(lambda z: denoise(z, 0.5, equal_to))(Z)
    np.testing.assert_array_equal(guided, plain)


def test_scale_one_skips_the_unconditional_branch_at_run_time():
    runs = []

    def denoise(z, t, cond):
        return tf.numpy_function(lambda v: (runs.append(cond), v)[1], [z], z.dtype)

    @tf.function
    def guided(scale):
        return classifier_free(denoise, "text", "", scale)(Z, 0.5)

    guided(tf.constant(1.0))
    assert runs == ["text"]
    runs.clear()
    guided(tf.constant(2.0))
    assert sorted(runs) == ["", "text"]
    assert guided.experimental_get_tracing_count() == 1


def test_negative_prompt_takes_the_place_of_the_null_condition():
    """Along the line from the negative to the positive estimate, scale 3 is three times as far."""
    denoise, _ = counting_denoiser()
    positive, negative = denoise(Z, 0.5, 0.7), denoise(Z, 0.5, -2.0)
    guided = classifier_free(denoise, 0.7, -2.0, tf.constant(3.0))(Z, 0.5)
    np.testing.assert_allclose(guided - negative, 3 * (positive - negative), rtol=1e-4, atol=1e-6)


def test_guidance_of_x_is_guidance_of_scores(gaussian_data):
    process = GaussianDiffusion(CosineLogSNR(), "flow")
    t = tf.constant(0.4)
    exact = gaussian_data.denoise(process)

    def denoise(z, t, cond):
        return exact(z - cond, t) + cond

    z = Z[:, :2]
    scores = [process.score(z, denoise(z, t, cond), t) for cond in (1.0, 0.0)]
    guided = process.score(z, classifier_free(denoise, 1.0, 0.0, 2.5)(z, t), t)
    np.testing.assert_allclose(guided, 2.5 * scores[0] - 1.5 * scores[1], rtol=1e-4, atol=1e-4)


def test_float64_stays():
    denoise, _ = counting_denoiser()
    guided = classifier_free(denoise, 0.7, 0.2, tf.constant(1.5))
    assert guided(tf.cast(Z, tf.float64), 0.5).dtype == tf.float64


def test_rescale_keeps_the_spread_of_the_conditional_estimate():
    denoise, _ = counting_denoiser()
    spread = np.std(denoise(Z, 0.5, 0.7), axis=-1)
    plain, half, full = (
        classifier_free(denoise, 0.7, -2.0, 6.0, rescale=phi)(Z, 0.5).numpy()
        for phi in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(full.std(-1), spread, rtol=1e-5)
    np.testing.assert_allclose(half, (plain + full) / 2, rtol=1e-5, atol=1e-6)
    assert (plain.std(-1) > 1.5 * spread).any()


def test_interval_switches_guidance_off_outside():
    denoise, _ = counting_denoiser()
    guided = classifier_free(denoise, 0.7, -2.0, 3.0, interval=(0.3, 0.6))
    always = classifier_free(denoise, 0.7, -2.0, 3.0)
    np.testing.assert_array_equal(guided(Z, tf.constant(0.5)), always(Z, 0.5))
    for t in (0.2, 0.7):
        np.testing.assert_array_equal(guided(Z, tf.constant(t)), denoise(Z, t, 0.7))


def test_autoguidance_moves_away_from_the_weak_model():
    denoise, _ = counting_denoiser()
    guide = autoguidance(lambda z, t, cond: 0.5 * z)
    strong = denoise(Z, 0.5, 0.7)
    np.testing.assert_array_equal(guide(denoise, 0.7, None, 1.0)(Z, 0.5), strong)
    guided = guide(denoise, 0.7, None, 2.0)(Z, 0.5)
    np.testing.assert_allclose(guided, strong + (strong - 0.5 * Z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scaling", ["vp", "ve", "sub_vp", "flow"])
def test_classifier_guidance_with_the_exact_classifier_is_the_conditional_model(
    gaussian_data, scaling
):
    """Bayes' rule: two classes of Gaussian data at -2 and 2, p(class | z) from their densities."""
    process = GaussianDiffusion(CosineLogSNR(), scaling)
    exact, t = gaussian_data.denoise(process), tf.constant(0.45, tf.float64)
    z = tf.constant(np.random.default_rng(0).normal(size=(6, 2)))
    alpha, sigma = (v.numpy() for v in process.alpha_sigma(t))
    mean, std = gaussian_data.moments(alpha, sigma)

    def of_class(z, t, cond):
        a, _ = (expand_to(v, z) for v in process.alpha_sigma(t))
        return exact(z - a * cond, t) + cond

    def logits(z):
        shifts = [(z - mean - alpha * c) / std for c in (-2.0, 2.0)]
        return tf.stack([-0.5 * tf.reduce_sum(s**2, -1) for s in shifts], -1)

    def of_both(z, t, cond):
        share = tf.nn.softmax(logits(z))
        return share[:, :1] * of_class(z, t, -2.0) + share[:, 1:] * of_class(z, t, 2.0)

    guide = classifier_guidance(process, lambda z, t: tf.nn.log_softmax(logits(z))[:, 1])
    guided = guide(of_both, None, None, 1.0)(z, t)
    np.testing.assert_allclose(guided, of_class(z, t, 2.0), rtol=1e-6)


def test_dynamic_threshold_keeps_the_range():
    x = tf.constant([[0.5, -0.2, 0.9, 0.1], [4.0, -2.0, 1.0, 0.0]])
    limited = dynamic_threshold(lambda z, t: z, 0.6)(x, 0.5)
    # The second row's sizes are 0, 1, 2, 4; ceil(0.6 * 3) = 2 picks 2.
    np.testing.assert_allclose(limited, [[0.5, -0.2, 0.9, 0.1], [1.0, -1.0, 0.5, 0.0]])


@pytest.mark.parametrize("quantile", [0.5, 0.9, 1.0])
def test_dynamic_threshold_is_that_of_imagen(quantile):
    """Saharia et al., section 2.3: s a percentile of |x_hat|; where s > 1, clip to s, divide by s.

    In every example by itself, whatever its shape.
    """
    x = 1.5 * np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype("float32")
    x[0] /= 20
    limited = dynamic_threshold(lambda z, t: z, quantile)(tf.constant(x), 0.5)
    for before, after in zip(x, limited.numpy()):
        s = np.percentile(np.abs(before), 100 * quantile, method="higher")
        expected = np.clip(before, -s, s) / s if s > 1 else np.clip(before, -1, 1)
        np.testing.assert_allclose(after, expected, rtol=1e-6)
    np.testing.assert_array_equal(limited[0], x[0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: classifier_free(None, 0, 0, 1, rescale=1.5), "`rescale` must be in"),
        (lambda: classifier_free(None, 0, 0, 1, interval=(0.6, 0.3)), "`interval` must be"),
        (lambda: classifier_free(None, 0, 0, 1, interval=(0.6,)), "`interval` must be"),
        (lambda: dynamic_threshold(None, 0.0), "`quantile` must be in"),
    ],
)
def test_wrong_options(make, message):
    with pytest.raises(ValueError, match=message):
        make()
