"""Small models on real pictures: emoji at 16 x 16 with a text encoder of random weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Conditioner
from kgen.conditioning.prompts import as_strings
from kgen.data import emoji
from kgen.networks import mlp
from kgen.networks.conv import decoder, encoder
from kgen.networks.hierarchy import conv_hierarchy, dense_hierarchy
from kgen.networks.unet import UNet
from kgen.serialization import serializable


@serializable
class HashedWords(Conditioner):
    """A conditioner without a language model: each word is a fixed pseudo-random vector."""

    batch_key = "prompts"

    def __init__(self, length=4, width=8, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self.length = length
        self.width = width
        self.table = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
        self.built = True

    def prepare(self, values):
        if isinstance(values, dict):
            return values
        words = tf.strings.split(as_strings(values))
        ids = tf.strings.to_hash_bucket_fast(words.to_tensor("", shape=[None, self.length]), 64)
        mask = tf.sequence_mask(tf.maximum(words.row_lengths(), 1), self.length)
        return {"ids": ids, "known": mask}

    def call(self, rows, training=False):
        tokens = tf.gather(self.table, rows["ids"]) * tf.cast(rows["known"][..., None], tf.float32)
        return {"tokens": tokens, "mask": rows["known"], "pooled": tf.reduce_mean(tokens, 1)}

    def null(self, batch_size):
        return self(tf.fill([batch_size], ""))

    def signature(self, form=None):
        return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}


@pytest.fixture
def hashed_words():
    return HashedWords()


@pytest.fixture(scope="session")
def pictures():
    """128 real pictures at 16 x 16 with their captions."""
    arrays = emoji.load_arrays("test", styles=("twemoji",))
    x = tf.cast(arrays["images"][:128], tf.float32) / 127.5 - 1
    return {
        "images": tf.image.resize(x, [16, 16], method="area").numpy(),
        "prompts": np.array([str(c) for c in arrays["captions"][:128]], dtype=object),
    }


@pytest.fixture(scope="session")
def dataset(pictures):
    def make(batch_size=32):
        tensors = {"images": pictures["images"], "prompts": pictures["prompts"].astype(str)}
        return tf.data.Dataset.from_tensor_slices(tensors).batch(batch_size)

    return make


@pytest.fixture(scope="session")
def make_autoencoder():
    def make(**options):
        keras.utils.set_random_seed(1)
        return kgen.KLAutoencoder(
            encoder((16, 16, 3), 4, channels=(8, 16), name="encoder"),
            decoder((8, 8, 4), channels=(8, 16), name="decoder"),
            **{"seed": 0, **options},
        )

    return make


@pytest.fixture(scope="session")
def make_diffusion(make_autoencoder):
    def make(dtype="float32", **options):
        autoencoder = make_autoencoder()
        keras.utils.set_random_seed(2)
        network = UNet(
            (8, 8, 4),
            channels=(16,),
            blocks=1,
            attention=(True,),
            heads=2,
            tokens=(4, 8),
            pooled=8,
            dtype=dtype,
        )
        process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
        return kgen.LatentDiffusion(
            autoencoder, network, process, HashedWords(), **{"seed": 0, **options}
        )

    return make


@pytest.fixture(scope="session")
def make_plain():
    def make(**options):
        keras.utils.set_random_seed(1)
        return kgen.Autoencoder(
            mlp((16, 16, 3), (8,), hidden=(32,), name="encoder"),
            mlp((8,), (16, 16, 3), hidden=(32,), name="decoder"),
            **{"seed": 0, "corruption": kgen.corruption.GaussianNoise(0.3), **options},
        )

    return make


@pytest.fixture(scope="session")
def make_vae():
    def make(likelihood="gaussian", **options):
        keras.utils.set_random_seed(1)
        channels = kgen.likelihoods.get(likelihood).parameter_channels(3)
        return kgen.VAE(
            mlp((16, 16, 3), (16,), hidden=(32,), name="encoder"),
            mlp((8,), (16, 16, channels), hidden=(32,), name="decoder"),
            likelihood,
            **{"seed": 0, **options},
        )

    return make


@pytest.fixture(scope="session")
def make_hvae():
    def make(kind="dense", **options):
        keras.utils.set_random_seed(1)
        shape = (16, 16, 3)
        if kind == "dense":
            networks = dense_hierarchy(shape, (4, 6), 6, hidden=(32,))
        else:
            networks = conv_hierarchy(shape, 6, sizes=(4, 8), counts=(1, 2), channels=(16, 8))
        levels = [
            kgen.GaussianLevel(*level[:3], state_shape=level[3], residual=kind == "conv")
            for level in networks[1]
        ]
        return kgen.HVAE(networks[0], levels, networks[2], "gaussian", **{"seed": 0, **options})

    return make


@pytest.fixture(scope="session")
def make_vqvae():
    def make(**options):
        keras.utils.set_random_seed(1)
        return kgen.VQVAE(
            mlp((16, 16, 3), (4, 4, 8), hidden=(32,), name="encoder"),
            mlp((4, 4, 8), (16, 16, 3), hidden=(32,), name="decoder"),
            16,
            **{"seed": 0, **options},
        )

    return make
