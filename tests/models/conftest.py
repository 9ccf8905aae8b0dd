"""Small models on real pictures: emoji at 16 x 16 with a text encoder of random weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Conditioner
from kgen.data import emoji
from kgen.networks.conv import decoder, encoder
from kgen.networks.unet import UNet
from kgen.serialization import serializable


@serializable
class HashedWords(Conditioner):
    """A conditioner without a language model: each word is a fixed pseudo-random vector."""

    batch_key = "prompts"

    def __init__(self, length=4, width=8, **kwargs):
        super().__init__(trainable=False, **kwargs)
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        self.length = length
        self.width = width
        self.table = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
        self.built = True

    def call(self, inputs, training=False):
        words = tf.strings.split(tf.convert_to_tensor(inputs))
        ids = tf.strings.to_hash_bucket_fast(words.to_tensor("", shape=[None, self.length]), 64)
        mask = tf.sequence_mask(tf.maximum(words.row_lengths(), 1), self.length)
        tokens = tf.gather(self.table, ids) * tf.cast(mask[..., None], tf.float32)
        return {"tokens": tokens, "mask": mask, "pooled": tf.reduce_mean(tokens, 1)}

    def null(self, batch_size):
        return self(tf.fill([batch_size], ""))

    def embed(self, prompts, progress=True):
        return {key: value.numpy() for key, value in self(prompts).items()}

    def clear_cache(self):
        pass


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
            channels=(16, 32),
            blocks=1,
            attention=(False, True),
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
