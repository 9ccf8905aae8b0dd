"""An export answers calls that come at once as it answers them one after the other."""

import concurrent.futures
import threading

import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP, mlp

SHAPE = (4, 4, 1)
THREADS = 8
rng = np.random.default_rng(0)
CALLS = [
    {
        "labels": tf.constant(rng.integers(0, 3, size=1 + i % 3), tf.int32),
        "num_steps": tf.constant(1 + i % 4),
        "guidance_scale": tf.constant([1.0, 3.0][i % 2]),
        "seed": tf.constant([i, 0]),
    }
    for i in range(16)
]
IMAGES = [rng.uniform(0, 1, (1 + i % 3, *SHAPE)).astype("float32") for i in range(16)]


class Pixels(TimeMLP):
    """A dense network of pictures: that of a U-Net would take a minute to trace."""

    data_shape = SHAPE

    def call(self, z, log_snr, cond=None, training=False):
        flat = tf.reshape(z, [-1, SHAPE[0] * SHAPE[1]])
        return tf.reshape(super().call(flat, log_snr, cond, training), tf.shape(z))


@pytest.fixture(scope="module")
def diffusion(tmp_path_factory):
    network = Pixels(SHAPE[0] * SHAPE[1], width=16, blocks=1, pooled=4)
    process = GaussianDiffusion(CosineLogSNR())
    model = kgen.DiffusionModel(network, process, conditioner=Labels(3, 4), seed=0)
    for i, variable in enumerate(model.trainable_variables):  # some of a new network are zero
        variable.assign(np.random.default_rng(i).normal(0, 0.3, variable.shape))
    folder = tmp_path_factory.mktemp("diffusion")
    kgen.export_saved_model(model, folder)
    return tf.saved_model.load(folder)


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    model = kgen.VAE(mlp(SHAPE, (4,)), mlp((2,), SHAPE))
    folder = tmp_path_factory.mktemp("vae")
    kgen.export_saved_model(model, folder)
    return tf.saved_model.load(folder)


def at_once(function, arguments):
    """The results of calls from eight threads, which all begin together."""
    start = threading.Barrier(THREADS)

    def worker(part):
        start.wait()
        return [function(argument) for argument in part]

    parts = [arguments[i::THREADS] for i in range(THREADS)]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(worker, parts))
    return [results[i % THREADS][i // THREADS] for i in range(len(arguments))]


def assert_the_same(function, arguments):
    first = at_once(function, arguments)  # also the first calls of all
    alone = [function(argument) for argument in arguments]
    again = at_once(function, arguments[::-1])[::-1]
    for results in (first, again):
        for result, expected in zip(results, alone, strict=True):
            np.testing.assert_array_equal(result, expected)
    assert len({result.tobytes() for result in alone}) == len(arguments)


def test_pictures_of_classes(diffusion):
    def generate(call):
        return diffusion.signatures["serving_default"](**call)["images"].numpy()

    assert_the_same(generate, CALLS)


def test_a_vae_that_draws(vae):
    def generate(call):
        return vae.generate(4, 1.0, call["seed"])["images"].numpy()

    assert_the_same(generate, CALLS)


def test_a_vae_that_reconstructs(vae):
    def reconstruct(images):
        return vae.signatures["reconstruct"](images=tf.constant(images))["images"].numpy()

    assert_the_same(reconstruct, IMAGES)
