"""The KL autoencoder: its terms, its latent scale, noise, perceptual term and discriminator."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks.conv import decoder, encoder


def test_terms_are_means_over_values(make_autoencoder, pictures):
    model = make_autoencoder(l1=2.0, l2=3.0, kl_weight=0.5)
    x = pictures["images"][:4]
    moments = model.encoder(x).numpy()
    mean, log_std = moments[..., :4], moments[..., 4:]
    x_hat = model.decoder(mean).numpy()
    axes = (1, 2, 3)
    kl = 0.5 * (np.exp(2 * log_std) + mean**2 - 1 - 2 * log_std).sum(axes)
    terms = model.loss_terms({"images": x}, seed=tf.constant([0, 1]))
    np.testing.assert_allclose(terms["l1"], 2 * np.abs(x - x_hat).mean(axes), rtol=1e-4)
    np.testing.assert_allclose(terms["l2"], 3 * ((x - x_hat) ** 2).mean(axes), rtol=1e-4)
    np.testing.assert_allclose(terms["kl"], 0.5 * kl / x[0].size, rtol=1e-3)


def test_measured_latents_have_unit_variance(make_autoencoder, dataset, pictures):
    """Samples of the posterior, which here is as wide as its means are spread."""
    model, x = make_autoencoder(), pictures["images"]
    before = model.reconstruct(x)
    model.measure_latents(dataset(48))
    z = np.concatenate([model.encode(x, tf.constant([i, 0])) for i in range(20)]).reshape(-1, 4)
    np.testing.assert_allclose(z.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(z.std(0), 1, atol=0.02)
    assert np.std(model.encode(x).numpy().reshape(-1, 4), 0).max() < 0.9
    np.testing.assert_allclose(model.reconstruct(x), before, atol=1e-4)
    of_all = make_autoencoder()
    of_all.measure_latents(x)
    np.testing.assert_allclose(of_all.latent_std, model.latent_std, rtol=1e-3)


def test_the_hinge_loss_is_that_of_each_patch(make_autoencoder, pictures):
    """Logits 5 and -3 of two halves of a picture: means of max(0, 1 -+ D), not of their mean."""

    class Critic(keras.layers.Layer):
        def call(self, x, training=False):
            return tf.tile(tf.constant([[5.0, -3.0]]), [tf.shape(x)[0], 1])

    critic = keras.Sequential([keras.Input((16, 16, 3)), Critic()])
    model = make_autoencoder(discriminator=critic, adversarial=0.5)
    model.compile("sgd", run_eagerly=True)
    history = model.fit(pictures["images"][:8], verbose=0).history
    assert history["discriminator"] == [pytest.approx((0 + 4) / 2 + (6 + 0) / 2)]
    assert history["adversarial"] == [pytest.approx(-0.5 * 1.0)]


def test_samples_of_the_posterior_follow_the_seed(make_autoencoder, pictures):
    model, x = make_autoencoder(), pictures["images"][:2]
    one, again, other = (model.encode(x, tf.constant(s)) for s in ([1, 1], [1, 1], [1, 2]))
    np.testing.assert_array_equal(one, again)
    assert np.any(one.numpy() != other.numpy())


def test_latent_noise_reaches_half_of_the_batch(make_autoencoder, pictures):
    x, seed = pictures["images"][:8], tf.constant([1, 2])
    quiet, noisy = (
        make_autoencoder(latent_noise=n).loss_terms(x, training=True, seed=seed)["l2"].numpy()
        for n in (0.0, 0.5)
    )
    assert np.all(quiet[:4] != noisy[:4])
    np.testing.assert_allclose(quiet[4:], noisy[4:], rtol=1e-5)


def test_perceptual_term_is_the_distance_of_features(make_autoencoder, pictures):
    features = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(5, 3)])
    model = make_autoencoder(features=features, perceptual=0.7)
    x = pictures["images"][:3]
    terms = model.loss_terms(x, seed=tf.constant([0, 0]))
    x_hat = model.decoder(model.encoder(x)[..., :4])
    expected = 0.7 * np.mean((features(x) - features(x_hat)).numpy() ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(terms["perceptual"], expected, rtol=1e-4)
    assert not features.trainable_variables


@pytest.mark.parametrize("start", [0, 1000])
def test_discriminator_joins_after_the_warm_up(make_autoencoder, dataset, start):
    critic = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(1, 4, 4)])
    model = make_autoencoder(discriminator=critic, adversarial_start=start, ema_decay=0.9)
    optimizers = keras.optimizers.Adam(1e-3), keras.optimizers.Adam(1e-3)
    model.compile(*optimizers, run_eagerly=start == 0)
    before = [w.numpy() for w in critic.weights]
    history = model.fit(dataset(), epochs=2, verbose=0).history
    moved = max(np.abs(a - b).max() for a, b in zip(before, critic.get_weights(), strict=True))
    assert (moved > 1e-4) == (start == 0)
    assert (history["adversarial"][-1] != 0) == (start == 0)
    assert history["l2"][-1] < history["l2"][0]


def test_networks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="`encoder` must return twice the channels"):
        kgen.KLAutoencoder(
            encoder((16, 16, 3), 4, channels=(8, 16)), decoder((8, 8, 3), channels=(8, 16))
        )


def test_a_perceptual_weight_needs_features(make_autoencoder):
    with pytest.raises(ValueError, match="`features` must be a network"):
        make_autoencoder(perceptual=1.0)


def test_measuring_needs_data(make_autoencoder, dataset):
    with pytest.raises(ValueError, match="`dataset` must yield"):
        make_autoencoder().measure_latents(dataset().take(0))
