"""Embeddings of the noise against the published formulas, in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import SinusoidalEmbedding, noise_position
from kgen.networks.embeddings import NoisePosition


def test_embedding_is_published_formula_at_zero_and_orthogonal_pairs():
    embedding = SinusoidalEmbedding(8)(tf.constant([0.0, 3.0])).numpy()
    np.testing.assert_array_equal(embedding[0], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(embedding[1, :4] ** 2 + embedding[1, 4:] ** 2, 1, rtol=1e-5)
    np.testing.assert_allclose(embedding[1, 4], np.sin(3.0), rtol=1e-5)


def test_embedding_of_ddpm():
    """Sines first, and frequencies from 1 to 1 / 10000: the logarithm falls in 3 equal steps."""
    t = np.array([0.0, 1.0, 501.0, 999.0])
    embedding = SinusoidalEmbedding(8, sin_first=True, freq_shift=1)(tf.constant(t, tf.float32))
    angles = t[:, None] * np.geomspace(1.0, 1e-4, 4)
    expected = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    np.testing.assert_allclose(embedding, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("dim", "options", "message"),
    [(7, {}, "`dim` must be even"), (4, {"freq_shift": 2}, "`freq_shift` must be less")],
)
def test_embedding_refuses(dim, options, message):
    with pytest.raises(ValueError, match=message):
        SinusoidalEmbedding(dim, **options)


def test_noise_position_rises_with_the_noise():
    position = noise_position(tf.linspace(-15.0, 15.0, 50)).numpy()
    assert np.all(np.diff(position) < 0)
    assert position.min() > 0
    assert position.max() < 1000


def test_another_position_stays_in_float32():
    layer = NoisePosition(lambda log_snr: tf.round(100 - log_snr))
    assert layer(tf.constant([0.4, 3.0])).numpy().tolist() == [100.0, 97.0]
    assert layer(tf.constant([0.4])).dtype == tf.float32
    with pytest.raises(TypeError, match="`noise_position` must be None or a function"):
        NoisePosition(3)
