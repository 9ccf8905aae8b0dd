"""What the autoencoders share: networks of any kind, averaged weights, errors at construction."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning.labels import Labels
from kgen.networks import mlp
from kgen.priors import VampPrior
from kgen.serialization import serializable
from kgen.symbolic import call

X = np.random.default_rng(0).uniform(size=(6, 4)).astype("float32")
SEED = tf.constant([1, 2])


@serializable
class Dense(keras.Model):
    """A subclassed network whose layers are built by its first call."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.hidden = keras.layers.Dense(7, activation="relu")
        self.out = keras.layers.Dense(width)

    def call(self, x, training=False):
        return self.out(self.hidden(x))


def sequential(width, *first):
    return keras.Sequential([*first, keras.layers.Dense(7, "relu"), keras.layers.Dense(width)])


def functional(width, inputs):
    x = keras.Input((inputs,), name="x")
    h = keras.layers.Dense(width)(keras.layers.Dense(7, "relu")(x))
    return keras.Model({"x": x}, h)


PAIRS = {
    "subclassed": lambda: (Dense(4), Dense(4)),
    "sequential": lambda: (sequential(4), sequential(4)),
    "sequential with inputs": lambda: (sequential(4, keras.Input((4,))), sequential(4)),
    "functional, named": lambda: (functional(4, 4), functional(4, 2)),
    "layers": lambda: (keras.layers.Dense(4), keras.layers.Dense(4)),
    "a function": lambda: (Dense(4), lambda z: tf.concat([z, -z], -1)),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_networks_of_any_kind(kind):
    encoder, decoder = PAIRS[kind]()
    model = kgen.VAE(encoder, decoder, data_shape=(4,), ema_decay=0.9, seed=0)
    assert (model.data_shape, model.latent_shape) == ((4,), (2,))
    assert len(model.averages.values) == len(model.trainable_variables) > 0
    moments = call(encoder, {"x": X}).numpy()
    np.testing.assert_allclose(model.posterior(X).mean, moments[:, :2], rtol=1e-6)
    probability = tf.sigmoid(call(decoder, {"z": moments[:, :2]}))
    np.testing.assert_allclose(model.reconstruct(X), probability, rtol=1e-6)
    before = [v.numpy() for v in model.trainable_variables]
    model.compile("adam")
    model.fit(X, verbose=0)
    assert any(np.any(a != b) for a, b in zip(before, model.trainable_variables))
    assert model.generate(3, seed=0).shape == (3, 4)


def test_a_subclassed_network_that_was_not_built_is_saved_and_loaded(tmp_path):
    model = kgen.VAE(Dense(4), Dense(4), data_shape=(4,), ema_decay=0.9, seed=0)
    for weight in model.averages.values:
        weight.assign(tf.ones_like(weight) * 0.1)
    model.save(tmp_path / "model.keras")
    again = kgen.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again.reconstruct(X), model.reconstruct(X))
    for one, other in zip(again.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_that_was_built_by_data_says_its_shape():
    encoder = Dense(4)
    encoder(X)
    assert kgen.VAE(encoder, Dense(4)).data_shape == (4,)


def test_an_encoder_of_open_sizes_takes_the_shape_that_is_given():
    layers = [
        keras.Input((None, None, 1)),
        keras.layers.Conv2D(4, 3, 2, "same"),
    ]
    decoder = keras.Sequential([keras.layers.Conv2DTranspose(1, 3, 2, "same")])
    model = kgen.VAE(keras.Sequential(layers), decoder, data_shape=(6, 8, 1))
    assert model.latent_shape == (3, 4, 2)
    assert model.generate(2, seed=0).shape == (2, 6, 8, 1)


def hvae(**options):
    levels = [
        kgen.GaussianLevel(None, mlp((4,), (4,))),
        kgen.GaussianLevel(mlp((2,), (4,)), mlp([(2,), (4,)], (4,))),
    ]
    return kgen.HVAE(mlp((4,), (4,)), levels, mlp((2,), (4,)), **options)


MODELS = {
    "Autoencoder": lambda **o: kgen.Autoencoder(mlp((4,), (2,)), mlp((2,), (4,)), **o),
    "VAE": lambda **o: kgen.VAE(mlp((4,), (4,)), mlp((2,), (4,)), **o),
    "VQVAE": lambda **o: kgen.VQVAE(mlp((4,), (3, 2)), mlp((3, 2), (4,)), 8, **o),
    "HVAE": hvae,
    "KLAutoencoder": lambda **o: kgen.KLAutoencoder(mlp((4,), (4,)), mlp((2,), (4,)), **o),
}


@pytest.mark.parametrize("kind", MODELS)
def test_codes_and_data_are_those_of_the_averaged_weights(kind):
    """Of a second model whose weights are the averages of the first; training uses the weights."""
    model, other = MODELS[kind](ema_decay=0.9, seed=0), MODELS[kind](seed=0)
    rng = np.random.default_rng(0)
    for average in model.averages.values:
        average.assign(rng.normal(0, 0.5, average.shape))
    if kind == "VQVAE":
        other.codes.assign(model.codes)
    with model.averaged():
        values = [tf.convert_to_tensor(v).numpy() for v in model.trainable_variables]
    for variable, value in zip(other.trainable_variables, values, strict=True):
        variable.assign(value)
    codes = other.encode(X)
    for one, expected in zip(keras.tree.flatten(model.encode(X)), keras.tree.flatten(codes)):
        np.testing.assert_allclose(one, expected, rtol=1e-5)
    np.testing.assert_allclose(model.decode(codes), other.decode(codes), rtol=1e-5)
    expected = other.reconstruct(X)
    np.testing.assert_allclose(model.reconstruct(X), expected, rtol=1e-5)
    np.testing.assert_allclose(model.predict(X, verbose=0), expected, rtol=1e-3)
    np.testing.assert_allclose(model(X), expected, rtol=1e-5)
    with model.averaged():
        averaged = model.loss_terms(X, training=True, seed=SEED)
    trained = model.loss_terms(X, training=True, seed=SEED)
    assert any(np.abs(averaged[name] - trained[name]).max() > 1e-3 for name in trained)
    with tf.GradientTape() as tape:
        loss = tf.add_n(list(model.loss_terms(X, training=True, seed=SEED).values()))
    gradients = tape.gradient(loss, model.trainable_variables)
    assert any(g is not None and np.abs(g).max() > 0 for g in gradients)


def heads(*outputs):
    x = keras.Input((4,))
    return keras.Model(x, [keras.layers.Dense(n)(x) for n in outputs])


def vae(encoder, decoder=None, **options):
    return kgen.VAE(encoder, decoder or mlp((2,), (4,)), **options)


def labelled(encoder=None, decoder=None, **options):
    encoder = encoder or mlp([(4,), (3,)], (4,))
    decoder = decoder or mlp([(2,), (3,)], (4,))
    return kgen.VAE(encoder, decoder, conditioner=Labels(5, 3), **options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: vae(heads(2, 2)), ValueError, r"Concatenate\(\)\(\[mean, 0.5 \* log_variance\]"),
        (lambda: vae(heads(2, 2, 2)), ValueError, "`encoder` must return one tensor .* 2 C"),
        (
            lambda: kgen.Autoencoder(heads(2, 2), mlp((2,), (4,))),
            ValueError,
            r"`encoder` must return one tensor. Received: outputs \(\[B, 2\], \[B, 2\]\)",
        ),
        (
            lambda: vae(keras.Sequential([keras.Input((None, None, 1)), keras.layers.Dense(4)])),
            ValueError,
            r"`data_shape` must be given, .* Received: .* \(None, None, 1\)",
        ),
        (lambda: vae(Dense(4)), ValueError, "`data_shape` must be given"),
        (
            lambda: vae(mlp((4,), (4,)), data_shape=(5,)),
            ValueError,
            r"the input shape of `encoder`, \(4,\)",
        ),
        (lambda: vae(Dense(4), data_shape=(0,)), ValueError, "`data_shape` must be at least 1"),
        (lambda: vae(Dense(3), data_shape=(4,)), ValueError, "`encoder` must return twice"),
        (lambda: vae("encoder", data_shape=(4,)), TypeError, "`encoder` must be a Keras model"),
        (
            lambda: vae(mlp((4,), (4,)), Dense(3)),
            ValueError,
            "`decoder` must return the shape that",
        ),
        (
            lambda: vae(mlp((4,), (4,)), lambda z: heads(4, 4)(tf.concat([z, z], -1))),
            ValueError,
            "`decoder` must return the shape that `encoder`",
        ),
        (
            lambda: kgen.HVAE(
                mlp((4,), (4,)),
                [
                    kgen.GaussianLevel(None, mlp((4,), (4,))),
                    kgen.GaussianLevel(None, mlp((5,), (4,))),
                ],
                mlp((2,), (4,)),
            ),
            ValueError,
            r"`levels\[1\]` must take state \[B, 2\] and features \[B, 4\]. Received: .*5",
        ),
        (
            lambda: labelled(decoder=mlp((2,), (4,))),
            ValueError,
            r"`decoder` must accept the condition .* `decoder\(\[z, pooled\]\)`",
        ),
        (
            lambda: labelled(encoder=mlp([(4,), (2,)], (4,))),
            ValueError,
            r"`encoder` must take x \[B, 4\] and cond \{pooled \[B, 3\]\}",
        ),
        (lambda: labelled(prior=VampPrior(3, (4,))), ValueError, "must not have pseudo-inputs"),
        (lambda: labelled().generate(3), ValueError, "`condition` must be given"),
        (lambda: labelled().generate(0, condition=[1]), ValueError, "`num_samples` must be"),
        (lambda: labelled().generate(condition=[7]), ValueError, "`labels` must be in 0..4"),
        (lambda: labelled().encode(X), ValueError, "`condition` must be given"),
        (lambda: labelled().log_likelihood(X, 2, condition=[1]), ValueError, "one entry for each"),
        (lambda: MODELS["VAE"]().generate(), ValueError, "`num_samples` must be given"),
        (lambda: MODELS["VAE"]().encode(X, condition=1), ValueError, "needs a model with a cond"),
        (lambda: MODELS["VQVAE"]().encode(X, SEED), ValueError, "`seed` must be None"),
    ],
)
def test_what_does_not_fit_is_explained(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("batch", [X, {"images": X}])
def test_a_batch_without_its_condition(batch):
    model = labelled()
    model.compile("adam")
    with pytest.raises(ValueError, match='must have the key "labels"'):
        model.fit(batch, verbose=0)
