"""Gradient checkpointing: the same outputs and gradients, with less memory."""

import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import DiT, TimeMLP, UNet
from kgen.networks.recompute import Recomputed

NETWORKS = {
    "unet": lambda: UNet(
        (8, 8, 4), channels=(8, 16), attention=(False, True), heads=2, tokens=(5, 6), pooled=7
    ),
    "dit": lambda: DiT((8, 8, 4), width=16, depth=5, heads=2, pooled=7),
    "mlp": lambda: TimeMLP(6, width=16, blocks=12),
}


def filled(name):
    """A network with weights that let every input matter, and its inputs."""
    network, rng = NETWORKS[name](), np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(rng.normal(0, 0.2, variable.shape))
    shapes = {"z": network.data_shape, "log_snr": (), "tokens": (5, 6), "pooled": (7,)}
    inputs = {
        name: tf.constant(rng.normal(size=(3, *shape)), tf.float32)
        for name, shape in shapes.items()
        if name in network.graph.input
    }
    if "mask" in network.graph.input:
        inputs["mask"] = tf.sequence_mask([2, 5, 1], 5)
    return network, inputs


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_the_same(name):
    network, inputs = filled(name)
    variables = [variable.value for variable in network.trainable_variables]
    recomputed = Recomputed(network.graph)
    assert len(recomputed.segments) > 1

    @tf.function
    def gradients(function):
        with tf.GradientTape() as tape:
            tape.watch(inputs["z"])
            output = function(inputs)
            loss = tf.reduce_sum(output**2)
        return output, tape.gradient(loss, [inputs["z"], *variables])

    expected, of_all = gradients(lambda inputs: network.graph(inputs, training=True))
    output, of_segments = gradients(recomputed)
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(of_segments, of_all, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_a_training_is_the_same():
    """Also from a .keras file, which knows how the model was compiled."""

    def trained(recompute):
        keras.utils.set_random_seed(0)
        process = GaussianDiffusion(CosineLogSNR())
        network = UNet((8, 8, 1), channels=(8, 8), attention=(False, True), heads=2)
        model = kgen.DiffusionModel(network, process, seed=0)
        model.compile(keras.optimizers.SGD(1e-2), recompute=recompute)
        x = np.random.default_rng(0).uniform(-1, 1, (16, 8, 8, 1)).astype("float32")
        losses = model.fit(x, epochs=2, batch_size=8, verbose=0).history["loss"]
        return model, losses

    (model, losses), (_, expected) = trained(True), trained(False)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert model.get_compile_config()["recompute"]


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.Dropout(0.1),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(3, activity_regularizer="l2"),
    ],
)
def test_what_differs_a_second_time_is_refused(layer):
    x = keras.Input((3,), name="x")
    with pytest.raises(ValueError, match="without dropout, batch normalisation"):
        Recomputed(keras.Model({"x": x}, layer(x)))


def test_a_network_of_another_kind_is_refused():
    model = kgen.DiffusionModel(
        lambda z, log_snr: tf.zeros_like(z), GaussianDiffusion(CosineLogSNR()), data_shape=(2,)
    )
    with pytest.raises(TypeError, match="`recompute` needs a network with"):
        model.compile("adam", recompute=True)


PEAK = """
import pathlib, re, sys
import numpy as np
import keras, kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import UNet
network = UNet((32, 32, 3), channels=(32, 32), blocks=3, attention=False)
model = kgen.DiffusionModel(network, GaussianDiffusion(CosineLogSNR()), seed=0)
x = np.zeros((256, 32, 32, 3), "float32")

def peak():  # ru_maxrss begins with that of the parent process
    return int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

model.compile("sgd", recompute=sys.argv[1] == "True")
model.fit(x[:1], batch_size=1, verbose=0)
before = peak()
model.fit(x, batch_size=256, verbose=0)
print(peak() - before)
"""


@pytest.mark.slow
def test_memory_is_less():
    def peak(recompute):
        run = [sys.executable, "-c", PEAK, str(recompute)]
        return int(subprocess.run(run, check=True, capture_output=True).stdout.split()[-1])

    assert peak(True) < 0.8 * peak(False)
