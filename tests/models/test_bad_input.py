"""Wrong input of the autoencoders: each gets an error that names the argument and what came."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks import mlp
from kgen.priors import GaussianMixture, StandardNormal, VampPrior

SHAPE = (4, 4, 1)


def vae(likelihood="bernoulli", **options):
    return kgen.VAE(mlp(SHAPE, (4,)), mlp((2,), SHAPE), likelihood, **options)


def signed_vae(**options):
    return vae(kgen.likelihoods.GaussianLikelihood(0.1), **options)


def hvae(**options):
    level = kgen.GaussianLevel(None, mlp((4,), (4,)))
    return kgen.HVAE(mlp(SHAPE, (4,)), [level], mlp((2,), SHAPE), **options)


def plain(**options):
    return kgen.Autoencoder(mlp(SHAPE, (2,)), mlp((2,), SHAPE), **options)


def vqvae(**options):
    return kgen.VQVAE(mlp(SHAPE, (3, 2)), mlp((3, 2), SHAPE), 8, **options)


GOOD = np.full((6, *SHAPE), 0.5, "float32")


def with_value(value):
    x = GOOD.copy()
    x[3, 1, 2] = value
    return x


BAD_DATA = {
    "nan": (with_value(np.nan), ValueError, "`x` must be finite"),
    "infinite": (with_value(np.inf), ValueError, "`x` must be finite"),
    "rank": (GOOD[..., 0], ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
    "size": (GOOD[:, :3], ValueError, r"`x` must have shape \[N, 4, 4, 1\]"),
    "uint8": ((255 * GOOD).astype("uint8"), TypeError, "`x` must be a floating-point array"),
    "strings": (np.full((2, *SHAPE), "a"), TypeError, "`x` must be a floating-point array"),
    "empty": (GOOD[:0], ValueError, "`x` must hold at least one example"),
}


@pytest.mark.parametrize("make", [plain, vae, hvae, vqvae])
@pytest.mark.parametrize("method", ["fit", "evaluate"])
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(make, method, case):
    x, error, message = BAD_DATA[case]
    model = make()
    model.compile("adam")
    with pytest.raises(error, match=message):
        getattr(model, method)(x, verbose=0)


@pytest.mark.parametrize("make", [vae, hvae])
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_of_log_likelihood(make, case):
    x, error, message = BAD_DATA[case]
    with pytest.raises(error, match=message):
        make().log_likelihood(x, 2, verbose=0)


@pytest.mark.parametrize(
    ("make", "x", "message"),
    [
        (vae, GOOD * 510, r"in \[0, 1\] for Bernoulli. Received: values in \[255, 255\]"),
        (vae, GOOD - 1, r"in \[0, 1\] for Bernoulli"),
        (signed_vae, GOOD * 510, r"in \[-1, 1\] for GaussianLikelihood"),
        (lambda: plain(error="cross_entropy"), GOOD * 3, r"in \[0, 1\]"),
        (hvae, -GOOD, r"in \[0, 1\] for Bernoulli"),
    ],
)
def test_data_out_of_range(make, x, message):
    model = make()
    model.compile("adam")
    with pytest.raises(ValueError, match=message):
        model.fit(x, verbose=0)


@pytest.mark.parametrize("make", [plain, vae, hvae, vqvae])
def test_an_empty_data_set(make):
    model = make()
    model.compile("adam")
    data = tf.data.Dataset.from_tensor_slices(GOOD).batch(2).take(0)
    with pytest.raises(ValueError, match="`x` must hold at least one example"):
        model.fit(data, verbose=0)


@pytest.mark.parametrize("make", [plain, vae, hvae, vqvae])
def test_other_targets_are_refused(make):
    model = make()
    model.compile("adam")
    for y in (np.arange(len(GOOD)), 0.5 * GOOD):
        with pytest.raises(ValueError, match=r"instead of `fit\(x, y\)`"):
            model.fit(GOOD, y, verbose=0)


def sigmoid_decoder():
    return keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(16, activation="sigmoid"),
            keras.layers.Reshape(SHAPE),
        ]
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vae("bernouli"), ValueError, "`likelihood` must be one of"),
        (lambda: vae("logistic_mixture"), ValueError, "`decoder` must return"),
        (lambda: vae("gaussian"), ValueError, "`decoder` must return"),
        (lambda: vae(beta=-1.0), ValueError, "`beta` must be finite and at least 0"),
        (lambda: vae(beta=float("nan")), ValueError, "`beta` must be finite"),
        (lambda: vae(beta="1"), TypeError, "`beta` must be a number"),
        (lambda: vae(warm_up=-5), ValueError, "`warm_up` must be"),
        (lambda: vae(capacity=0), ValueError, "`capacity` must be"),
        (lambda: vae(num_samples=0), ValueError, "`num_samples` must be"),
        (lambda: vae(objective="elb"), ValueError, "`objective` must be one of"),
        (lambda: vae(gradient="dreg"), ValueError, "`gradient` must be one of"),
        (lambda: vae(gradient="doubly_reparameterised"), ValueError, "needs `objective"),
        (lambda: vae(prior="normal"), TypeError, "`prior` must be None or an object"),
        (lambda: vae(prior=GaussianMixture(3, (5,))), ValueError, r"latent_shape \(2,\)"),
        (lambda: vae(prior=VampPrior(3, (4, 4, 3))), ValueError, r"data_shape \(4, 4, 1\)"),
        (lambda: vae(prior=VampPrior(3, SHAPE, low=-1)), ValueError, "`prior` must have low=0, as"),
        (lambda: hvae(prior=StandardNormal((3,))), ValueError, r"latent_shape \(2,\)"),
        (lambda: hvae(prior=VampPrior), TypeError, "`prior` must be None or an object"),
        (lambda: vae(ema_decay=1.0), ValueError, "`ema_decay` must be"),
        (lambda: kgen.VAE(mlp(SHAPE, (3,)), mlp((2,), SHAPE)), ValueError, "`encoder` must return"),
        (
            lambda: kgen.KLAutoencoder(mlp(SHAPE, (4,)), mlp((2,), (5, 5, 1))),
            ValueError,
            "`decoder` must return the shape that `encoder`",
        ),
        (
            lambda: kgen.VAE(mlp(SHAPE, (4,)), sigmoid_decoder()),
            ValueError,
            "must return logits, not probabilities",
        ),
        (lambda: hvae(free_bits=-1), ValueError, "`free_bits` must be"),
        (lambda: hvae(beta=-1), ValueError, "`beta` must be"),
        (lambda: kgen.HVAE(mlp(SHAPE, (4,)), [], mlp((2,), SHAPE)), ValueError, "`levels` must"),
        (lambda: plain(error="mse"), ValueError, "`error` must be one of"),
        (
            lambda: kgen.Autoencoder(mlp(SHAPE, (3,)), mlp((2,), SHAPE)),
            ValueError,
            "`encoder` must return the shape that `decoder` accepts",
        ),
        (
            lambda: kgen.Autoencoder(mlp(SHAPE, (2,)), mlp((2,), (5,))),
            ValueError,
            "`decoder` must return the shape that `encoder` accepts",
        ),
        (lambda: vqvae(decay=1.0), ValueError, "`decay` must be"),
        (lambda: vqvae(commitment=-1), ValueError, "`commitment` must be"),
        (
            lambda: kgen.VQVAE(mlp(SHAPE, (3, 2)), mlp((2, 2), SHAPE), 8),
            ValueError,
            "`encoder` must return the shape that `decoder` accepts",
        ),
        (lambda: vae().generate(-1), ValueError, "`num_samples` must be"),
        (lambda: vae().generate("3"), TypeError, "`num_samples` must be a number"),
        (lambda: vae().generate(1, temperature=0), ValueError, "`temperature` must be"),
        (lambda: vae().generate(1, seed="a"), ValueError, "seed"),
        (lambda: vae().log_likelihood(GOOD, 0), ValueError, "`num_samples` must be"),
        (lambda: vae().log_likelihood(GOOD, 2, chunk=0), ValueError, "`chunk` must be"),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_pictures_in_another_range_are_warned_of():
    from kgen.networks.conv import decoder, encoder

    networks = encoder((8, 8, 1), 4, channels=(8,)), decoder((8, 8, 4), 1, channels=(8,))
    x = np.random.default_rng(0).uniform(size=(4, 8, 8, 1)).astype("float32")
    model = kgen.KLAutoencoder(*networks)
    model.compile()
    with pytest.warns(UserWarning, match=r"no value below 0 .* `2 \* x - 1`.*in \[0\.0"):
        model.fit(x, verbose=0)
    model.fit(2 * x - 1, verbose=0)
    model.fit(tf.data.Dataset.from_tensor_slices(2 * x - 1).batch(2), verbose=0)


@pytest.mark.parametrize("kind", ["vae", "diffusion"])
def test_columns_of_a_huge_scale_are_warned_of_and_stay_finite(kind):
    from kgen.networks import TimeMLP, mlp

    x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32") * [1, 10, 1e3, 1e5]
    x = x.astype("float32")
    if kind == "vae":
        model = kgen.VAE(mlp((4,), (4,)), mlp((2,), (8,)), "gaussian", seed=0)
    else:
        process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
        model = kgen.DiffusionModel(TimeMLP(4, width=16), process, grey_levels=None, seed=0)
    model.compile()
    with pytest.warns(UserWarning, match=r"of the order of \S+e\+0[45] .*of channel 3"):
        losses = model.fit(x, epochs=3, verbose=0).history["loss"]
    assert np.isfinite(losses).all()
    assert all(np.isfinite(w.numpy()).all() for w in model.weights)


def test_a_batch_of_another_range_in_the_middle_of_an_epoch_is_an_error():
    from kgen.networks.conv import decoder, encoder

    networks = encoder((8, 8, 1), 4, channels=(8,)), decoder((8, 8, 4), 1, channels=(8,))
    model = kgen.KLAutoencoder(*networks)
    model.compile(skip_above=float("inf"))
    x = np.random.default_rng(0).uniform(-1, 1, size=(12, 8, 8, 1)).astype("float32")
    x[5] *= 1.3  # as a filter of resampling may leave it
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(4), verbose=0)
    x[9] = np.nan
    model.fit(tf.data.Dataset.from_tensor_slices(x).batch(4), verbose=0)
    assert model.skipped_steps.numpy() == 1
    x[6] = (x[6] + 1) * 127.5
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"a batch must be in \[-1, 1\]"):
        model.fit(tf.data.Dataset.from_tensor_slices(x).batch(4), verbose=0)


def test_labels_of_a_model_without_a_conditioner_are_warned_of():
    model = kgen.VAE(mlp((4,), (4,), hidden=(8,)), mlp((2,), (4,), hidden=(8,)))
    model.compile()
    batch = {"images": np.random.default_rng(0).uniform(size=(8, 4)).astype("float32")}
    with pytest.warns(UserWarning, match=r"The entries \['labels'\] of a batch are not used"):
        model.fit({**batch, "labels": np.arange(8)}, verbose=0)
    model.fit(batch, verbose=0)
