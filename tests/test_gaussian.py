"""The Gaussian against quadrature, and its samples against their moments."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.gaussian import Gaussian, standard_normal

GRID = np.linspace(-30, 30, 200_001)


def density(mean, std):
    return np.exp(-0.5 * ((GRID - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))


@pytest.mark.parametrize(
    ("mean", "std", "other_mean", "other_std"),
    [(0.0, 1.0, 0.0, 1.0), (0.7, 0.5, -1.0, 2.0), (2.0, 1.5, 0.0, 1.0), (0.0, 3.0, 1.0, 2.5)],
)
def test_kl_is_the_integral(mean, std, other_mean, other_std):
    p, q = density(mean, std), density(other_mean, other_std)
    log_ratio = (
        -0.5 * ((GRID - mean) / std) ** 2
        + 0.5 * ((GRID - other_mean) / other_std) ** 2
        - np.log(std / other_std)
    )
    expected = np.trapezoid(p * log_ratio, GRID)
    shape = [2, 3]
    a = Gaussian(tf.fill(shape, mean), tf.fill(shape, np.float32(np.log(std))))
    b = Gaussian(tf.fill(shape, other_mean), tf.fill(shape, np.float32(np.log(other_std))))
    np.testing.assert_allclose(a.kl(b), [3 * expected] * 2, atol=1e-5, rtol=1e-5)
    assert q.min() >= 0


def test_density_integrates_to_one_and_peaks_at_the_mean():
    g = Gaussian(tf.fill([len(GRID), 1], 0.4), tf.fill([len(GRID), 1], np.float32(np.log(0.3))))
    p = np.exp(g.log_prob(tf.constant(GRID[:, None], tf.float32)).numpy().astype("float64"))
    np.testing.assert_allclose(np.trapezoid(p, GRID), 1.0, rtol=1e-4)
    np.testing.assert_allclose(GRID[p.argmax()], 0.4, atol=1e-3)


def test_event_is_summed():
    x = tf.random.stateless_normal([4, 2, 3, 5], [0, 1])
    whole = standard_normal(x).log_prob(x)
    parts = standard_normal(tf.reshape(x, [-1, 1])).log_prob(tf.reshape(x, [-1, 1]))
    np.testing.assert_allclose(whole, tf.reduce_sum(tf.reshape(parts, [4, -1]), 1), rtol=1e-5)


def test_samples_have_the_moments_and_follow_the_seed():
    g = Gaussian(tf.fill([100_000, 1], 2.0), tf.fill([100_000, 1], np.float32(np.log(0.5))))
    x = g.sample([1, 2]).numpy()
    assert abs(x.mean() - 2.0) < 4 * 0.5 / np.sqrt(x.size)
    assert abs(x.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * x.size)
    np.testing.assert_array_equal(x, g.sample([1, 2]))
    assert np.any(x != g.sample([1, 3]).numpy())


def test_moments_are_split_on_the_last_axis():
    moments = tf.reshape(tf.range(8.0), [1, 2, 4])
    g = Gaussian.from_moments(moments)
    np.testing.assert_array_equal(g.mean, [[[0, 1], [4, 5]]])
    np.testing.assert_array_equal(g.log_std, [[[2, 3], [6, 7]]])


def test_a_log_std_is_bounded_beyond_ten_only():
    """As it is to 10; then monotone towards 11, continuous with its slope, finite at any size."""
    inside = np.float32([[-10.0, -3.3, 0.0, 9.999, 10.0]])
    moments = np.concatenate([inside, inside], -1)
    np.testing.assert_array_equal(Gaussian.from_moments(moments).log_std, inside)
    beyond = tf.constant([[10.001, 10.1, 11.0, 20.0, 1e5, 1e30]])
    for sign in (1, -1):
        with tf.GradientTape() as tape:
            tape.watch(beyond)
            q = Gaussian.from_moments(tf.concat([0 * beyond, sign * beyond], -1))
        values = sign * q.log_std.numpy()[0]
        np.testing.assert_allclose(values[:3], [10.001, 10 + 1 / 11, 10.5], rtol=1e-5)
        assert np.all(np.diff(values[:5]) > 0)
        assert values[-1] == pytest.approx(11)
        slope = sign * tape.gradient(q.log_std, beyond).numpy()[0]
        assert slope[0] == pytest.approx(1, abs=0.01)
        assert np.isfinite(slope).all()
        assert np.isfinite(q.kl(standard_normal(q.mean))).all()
