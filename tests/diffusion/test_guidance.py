import numpy as np
import pytest
import tensorflow as tf

from kgen.diffusion import CosineLogSNR, GaussianDiffusion, classifier_free, condition

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
