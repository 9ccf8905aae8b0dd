"""The contract of conditional networks, of those of kgen and of one that is not kgen's own."""

import contextlib

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks import ConditionalNetwork, DiT, TimeMLP, UNet
from kgen.networks.conditional import dtype_policy
from kgen.serialization import serializable


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


@serializable
class Mixer(ConditionalNetwork):
    """A network as a user would write it: convolutions of the input and the pooled condition."""

    def __init__(self, shape, *, width=8, pooled=None, **kwargs):
        super().__init__(**kwargs)

        def output(inputs):
            h = keras.layers.Conv2D(width, 3, padding="same", name="conv_in")(inputs["z"])
            noise = keras.layers.Dense(width)(inputs["log_snr"][:, None])
            h = h + noise[:, None, None, :]
            if pooled is not None:
                h = h + keras.layers.Dense(width)(inputs["pooled"])[:, None, None, :]
            return keras.layers.Conv2D(shape[-1], 1, name="conv_out")(keras.ops.silu(h))

        self.connect(shape, output, pooled=pooled, any_size=True)


UNET = {"channels": (16, 32), "attention": (False, True)}
KINDS = {
    "unet": (UNet, UNET),
    "unet without cross-attention": (UNet, {**UNET, "transformers": False}),
    "folded unet": (UNet, {**UNET, "patch": 2}),
    "dit": (DiT, {"width": 16, "depth": 2}),
    "user's": (Mixer, {}),
}


@pytest.fixture(scope="module", params=list(KINDS))
def network(request):
    kind, options = KINDS[request.param]
    if kind is not Mixer and options.get("transformers", True):
        options = {**options, "tokens": (5, 12), "picture": 2}
    return filled(kind((8, 8, 4), pooled=6, **options))


def filled(network):
    """With other numbers where a network begins with zeros."""
    for weight in network.trainable_variables:
        if np.all(weight.numpy() == 0) and len(weight.shape) > 1:
            weight.assign(0.1 * noise(weight.shape))
    return network


def condition(network, batch, seed=3):
    cond = {
        "tokens": noise([batch, 5, 12], seed),
        "mask": tf.ones([batch, 5], tf.bool),
        "pooled": noise([batch, 6], seed + 1),
        "picture": noise([batch, 8, 8, 2], seed + 2),
    }
    return {key: value for key, value in cond.items() if key in network.graph.input}


def test_network_depends_on_every_input(network):
    z, log_snr, cond = noise([2, 8, 8, 4]), tf.constant([0.0, 1.0]), condition(network, 2)
    base = network(z, log_snr, cond).numpy()
    assert base.shape == (2, 8, 8, 4)
    changed = {key: -value for key, value in cond.items() if key != "mask"}
    if "mask" in cond:
        changed["mask"] = tf.constant([[True] + [False] * 4] * 2)
    others = [network(z + 1, log_snr, cond), network(z, log_snr + 2, cond)]
    others += [network(z, log_snr, {**cond, key: value}) for key, value in changed.items()]
    for other in others:
        assert np.abs(other - base).max() > 1e-3


def test_network_treats_examples_alone(network):
    z, log_snr, cond = noise([3, 8, 8, 4]), tf.constant([0.0, 1.0, -2.0]), condition(network, 3)
    whole = network(z, log_snr, cond)
    for i in range(3):
        row = {key: value[i : i + 1] for key, value in cond.items()}
        np.testing.assert_allclose(
            network(z[i : i + 1], log_snr[i : i + 1], row)[0], whole[i], atol=1e-4
        )


def test_network_round_trips_its_config(network):
    again = type(network).from_config(network.get_config())
    again.set_weights(network.get_weights())
    z, log_snr, cond = noise([1, 8, 8, 4]), tf.zeros([1]), condition(network, 1)
    np.testing.assert_array_equal(network(z, log_snr, cond), again(z, log_snr, cond))
    assert again.data_shape == (8, 8, 4)


def test_network_asks_for_a_missing_condition(network):
    z, log_snr, cond = noise([1, 8, 8, 4]), tf.zeros([1]), condition(network, 1)
    for key in cond:
        rest = {k: v for k, v in cond.items() if k != key}
        with pytest.raises(ValueError, match=f"`cond` must have the key '{key}'"):
            network(z, log_snr, rest)
    with pytest.raises(ValueError, match="Received: None"):
        network(z, log_snr)


def test_network_takes_keys_that_it_was_not_made_for(network):
    z, log_snr, cond = noise([1, 8, 8, 4]), tf.zeros([1]), condition(network, 1)
    more = {**cond, "other": tf.zeros([1])}
    np.testing.assert_array_equal(network(z, log_snr, more), network(z, log_snr, cond))


def test_network_is_called_on_symbolic_inputs(network):
    """At construction of a model, before there are data."""
    cond = condition(network, 1)
    cond = {k: keras.Input(v.shape[1:], dtype=v.dtype.name, name=k) for k, v in cond.items()}
    assert network(keras.Input((8, 8, 4)), keras.Input(()), cond).shape == (None, 8, 8, 4)


def test_base_is_abstract():
    with pytest.raises(TypeError, match="`ConditionalNetwork` is abstract"):
        ConditionalNetwork()


def test_dense_network_has_its_size():
    network = TimeMLP(3, width=8, pooled=2)
    assert (network.data_shape, network.takes_any_size) == ((3,), False)
    with pytest.raises(ValueError, match="`cond` must have the key 'pooled'"):
        network(tf.zeros([1, 3]), tf.zeros([1]))


def test_a_users_network_trains_draws_and_is_saved(tmp_path):
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    model = kgen.DiffusionModel(Mixer((4, 4, 1)), process, grey_levels=None, seed=0)
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(tf.ones([64, 4, 4, 1]), epochs=3, batch_size=16, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]
    drawn = model.generate(num_samples=2, num_steps=2, seed=1)
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    again = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(again.generate(num_samples=2, num_steps=2, seed=1), drawn, atol=1e-6)


def test_policy_lasts_as_long_as_its_block():
    before = keras.config.dtype_policy()
    with dtype_policy("mixed_bfloat16"):
        assert keras.layers.Dense(1).compute_dtype == "bfloat16"
    assert keras.config.dtype_policy() == before
    with contextlib.suppress(KeyError), dtype_policy("mixed_bfloat16"):
        raise KeyError
    assert keras.config.dtype_policy() == before
