"""The U-Net: one, two and three axes in space, any size, and the options of published networks."""

import dataclasses
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import UNet, noise_position
from kgen.serialization import serializable

SMALL = {"channels": (8, 16), "blocks": 1, "attention": (False, True), "heads": 2}
TEXT = {"tokens": (5, 12), "pooled": 6}


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def filled(network, seed=100):
    """With every weight drawn: nothing of the network is without effect."""
    for i, weight in enumerate(network.trainable_variables):
        weight.assign(0.2 * noise(weight.shape, seed + i))
    return network


def condition(batch, seed=3):
    return {
        "tokens": noise([batch, 5, 12], seed),
        "mask": tf.constant([[True] * 4 + [False]] * batch),
        "pooled": noise([batch, 6], seed + 1),
    }


def layer_weights(network):
    return {w.path: w for w in network.weights}


@pytest.mark.parametrize("halving", ["after", "both"])
@pytest.mark.parametrize("options", [{}, {"transformers": False}, {"channels": (8, 8, 8)}])
@pytest.mark.parametrize("rank", [1, 2])
def test_equal_rows_are_data_of_one_axis_less(rank, options, halving):
    """With kernels that are zero outside of their middle row, each row is by itself.

    Then rows (or pictures) that are equal have the statistics and the attention of a single one.
    """
    options = {**SMALL, **options, "halving": halving, "groups": 4}
    options["attention"] = (True,) * len(options["channels"])
    size = (12, 8)[:rank]
    small = filled(UNet((*size, 3), **options))
    large = UNet((4, *size, 3), **options)
    for one, other in zip(small.weights, large.weights):
        value = one.numpy()
        if value.ndim == rank + 2:  # a kernel of a convolution
            middle, value = value, np.zeros(other.shape, "float32")
            value[value.shape[0] // 2] = middle
        other.assign(value)
    z, log_snr = noise([2, *size, 3]), tf.constant([-1.0, 2.0])
    expected = small(z, log_snr)
    rows = large(tf.repeat(z[:, None], 4, axis=1), log_snr)
    assert np.abs(expected).max() > 0.1
    for i in range(4):
        np.testing.assert_allclose(rows[:, i], expected, atol=2e-4)


@pytest.mark.parametrize(
    ("shape", "around"),
    [
        ((7, 10, 3), [[0, 1], [1, 1]]),
        ((5, 8, 3), [[1, 2], [0, 0]]),
        ((3, 3), [[0, 1]]),
        ((2, 5, 4, 3), [[1, 1], [1, 2], [0, 0]]),
    ],
)
@pytest.mark.parametrize("patch", [1, 2])
def test_odd_sizes_are_padded_with_zeros_and_cropped(shape, around, patch):
    options = {**SMALL, "channels": (8, 8, 16) if patch == 1 else (8, 16), "patch": patch}
    options["attention"] = (False,) * (len(options["channels"]) - 1) + (True,)
    network = filled(UNet(shape, **options))
    z, log_snr = noise([2, *shape]), tf.constant([-1.0, 2.0])
    by_hand = network(tf.pad(z, [[0, 0], *around, [0, 0]]), log_snr)
    inside = (slice(None), *(slice(a, a + n) for (a, _), n in zip(around, shape)))
    out = network(z, log_snr)
    assert out.shape == z.shape
    np.testing.assert_array_equal(out, by_hand[inside])


def test_one_network_takes_any_size():
    """With the weights of a network that was made at that size, and where no size is known."""
    options = {**SMALL, **TEXT}
    network, other = UNet((8, 8, 4), **options), UNet((12, 20, 4), **options)
    free = UNet((None, None, 4), **{**options, "tokens": (None, 12)})
    assert (network.data_shape, free.data_shape) == ((8, 8, 4), (None, None, 4))
    filled(network)
    for one in (other, free):
        one.set_weights(network.get_weights())
    z, log_snr, cond = noise([2, 12, 20, 4]), tf.constant([-1.0, 2.0]), condition(2)
    expected = other(z, log_snr, cond)
    np.testing.assert_array_equal(network(z, log_snr, cond), expected)
    np.testing.assert_array_equal(free(z, log_snr, cond), expected)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 4]), tf.TensorSpec([None])])
    def run(z, log_snr):
        return network(z, log_snr, cond)

    np.testing.assert_allclose(run(z, log_snr), expected, atol=1e-4)
    np.testing.assert_allclose(
        run(z[:, :5, :7], log_snr), network(z[:, :5, :7], log_snr, cond), atol=1e-4
    )
    longer = {
        **cond,
        "tokens": tf.repeat(cond["tokens"], 2, 1),
        "mask": tf.repeat(cond["mask"], 2, 1),
    }
    np.testing.assert_allclose(free(z, log_snr, longer), expected, atol=1e-4)


def test_sizes_are_known_inside_where_the_caller_knows_them():
    """Also behind attention: fused normalisations and attention in chunks depend on it."""
    network = UNet((8, 8, 4), **{**SMALL, "attention": (True, True)})

    @tf.function
    def run(z):
        return network(z, tf.zeros([2]))

    graph = run.get_concrete_function(tf.TensorSpec([2, 12, 16, 4])).graph
    convolutions = [op.outputs[0].shape for op in graph.get_operations() if op.type == "Conv2D"]
    assert len(convolutions) > 10
    assert all(shape.is_fully_defined() for shape in convolutions)


def test_halving_pads_one_pixel_on_each_side():
    """A convolution of TensorFlow with explicit zeros."""
    x = noise([2, 6, 8, 4])
    for halving, zeros in (("both", [[0, 0], [1, 1], [1, 1], [0, 0]]), ("after", None)):
        network = filled(UNet((6, 8, 4), **SMALL, halving=halving))
        before, after = network.graph.get_layer("down_0_0_res_conv2"), network.graph.get_layer
        layer = after("down_0_downsample")
        assert before.filters == layer.filters == 8
        zeros = zeros or [[0, 0], [0, 1], [0, 1], [0, 0]]
        source = network.graph.get_layer("down_0_downsample").input
        while source._keras_history.operation.name.startswith("pad"):
            source = source._keras_history.operation.input
        inside = keras.Model(network.graph.input, [source, layer.output])
        h, halved = inside({"z": x, "log_snr": tf.zeros([2])})
        expected = tf.nn.conv2d(h, layer.kernel.value, 2, zeros) + layer.bias.value
        np.testing.assert_allclose(halved, expected, atol=1e-5)


def test_heads_by_level_as_a_count_or_as_a_width():
    options = {**SMALL, "attention": (True, True)}
    for heads in ({"heads": (2, 4)}, {"head_width": 4}, {"head_width": (4, 4)}):
        get = UNet((8, 8, 4), **{**options, **heads}).graph.get_layer
        names = ("down_0_0", "down_1_0", "mid", "up_1_1", "up_0_0")
        assert [get(f"{name}_attn_attn1").heads for name in names] == [2, 4, 4, 4, 2]


def test_another_round_of_a_transformer_that_changes_nothing():
    options = {**SMALL, "attention": (True, True), **TEXT}
    one, two = filled(UNet((8, 8, 4), **options)), UNet((8, 8, 4), depth=(1, 2), **options)
    ones = layer_weights(one)
    added = set()
    for name, weight in layer_weights(two).items():
        if name in ones:
            weight.assign(ones[name])
        else:
            added.add(name.partition("/")[0])
            last = "to_out" in name or "ff_out" in name
            weight.assign(tf.zeros(weight.shape) if last else noise(weight.shape))
    parts = ("norm1", "attn1", "norm2", "attn2", "norm3", "ff_in", "ff_out")
    places = ("down_1_0_attn_1", "mid_attn_1", "up_1_0_attn_1", "up_1_1_attn_1")
    assert added == {f"{place}_{part}" for place in places for part in parts}
    z, log_snr, cond = noise([2, 8, 8, 4]), tf.constant([-1.0, 2.0]), condition(2)
    np.testing.assert_allclose(two(z, log_snr, cond), one(z, log_snr, cond), atol=1e-5)


def test_blocks_by_level():
    names = {layer.name for layer in UNet((8, 8, 4), **{**SMALL, "blocks": (1, 2)}).graph.layers}
    convolutions = {name.removesuffix("_res_conv1") for name in names if name.endswith("res_conv1")}
    assert convolutions == {
        *("down_0_0", "down_1_0", "down_1_1", "mid_0", "mid_1"),
        *("up_1_0", "up_1_1", "up_1_2", "up_0_0", "up_0_1"),
    }


def test_a_middle_without_attention_is_one_whose_attention_returns_nothing():
    whole, without = (UNet((8, 8, 4), middle_attention=m, **SMALL) for m in (True, False))
    weights = layer_weights(filled(whole))
    for name, weight in layer_weights(without).items():
        weight.assign(weights[name])
    weights["mid_attn_proj_out/kernel"].assign(tf.zeros([16, 16]))
    weights["mid_attn_proj_out/bias"].assign(tf.zeros([16]))
    assert {name for name in weights if "mid_attn" not in name} == set(layer_weights(without))
    z, log_snr = noise([2, 8, 8, 4]), tf.constant([-1.0, 2.0])
    np.testing.assert_allclose(without(z, log_snr), whole(z, log_snr), atol=1e-6)


def test_an_added_vector_is_a_bias_of_the_embedding():
    options = {**SMALL, "transformers": False}
    with_vector = filled(UNet((8, 8, 4), pooled=32, pooled_dense=False, **options))
    without = UNet((8, 8, 4), **options)
    weights = layer_weights(with_vector)
    for name, weight in layer_weights(without).items():
        weight.assign(weights[name])
    bias = without.graph.get_layer("noise_dense_2").bias
    z, log_snr, pooled = noise([1, 8, 8, 4]), tf.constant([-1.0]), noise([1, 32], 4)
    bias.assign(bias + pooled[0])
    out = with_vector(z, log_snr, {"pooled": pooled})
    np.testing.assert_allclose(out, without(z, log_snr), atol=1e-4)


def test_a_picture_is_further_channels_of_the_input():
    with_picture = filled(UNet((8, 8, 3), picture=2, patch=2, **SMALL))
    joined = filled(UNet((8, 8, 5), patch=2, **SMALL))
    for one, other in zip(with_picture.weights, joined.weights):
        if "conv_out" not in one.path:
            other.assign(one)
    z, log_snr, picture = noise([2, 8, 7, 3]), tf.constant([-1.0, 2.0]), noise([2, 8, 7, 2], 4)
    ours, theirs = (n.graph.get_layer("conv_out") for n in (with_picture, joined))
    channels = np.arange(20).reshape(4, 5)[:, :3].ravel()  # of 2 x 2 pixels, without the picture's
    theirs.set_weights(
        [
            np.put_along_axis(a := w.numpy(), channels.reshape(*[1] * (a.ndim - 1), -1), v, -1) or a
            for w, v in zip(theirs.weights, ours.get_weights())
        ]
    )
    expected = joined(tf.concat([z, picture], -1), log_snr)[..., :3]
    np.testing.assert_allclose(with_picture(z, log_snr, {"picture": picture}), expected, atol=1e-4)


@serializable
@dataclasses.dataclass(frozen=True)
class Rounded:
    """The nearest multiple of a number to the position of kgen."""

    step: float

    def __call__(self, log_snr):
        return self.step * tf.round(noise_position(log_snr) / self.step)


def test_the_noise_can_be_given_as_another_position():
    options = {**SMALL, "transformers": False}
    default = filled(UNet((8, 8, 4), **options))
    rounded = UNet((8, 8, 4), noise_position=Rounded(100.0), **options)
    rounded.set_weights(default.get_weights())
    z = noise([2, 8, 8, 4])
    at = 4 * np.log(np.array([6 / 4, 3 / 7]))  # positions 400 and 700
    expected = default(z, tf.constant(at, tf.float32))
    again = UNet.from_config(rounded.get_config())
    again.set_weights(default.get_weights())
    for network in (rounded, again):
        out = network(z, tf.constant(at + [0.1, -0.1], tf.float32))
        np.testing.assert_allclose(out, expected, atol=1e-4)


def test_sines_first_are_rows_of_a_kernel_swapped():
    options = {**SMALL, "transformers": False}
    one, other = filled(UNet((8, 8, 4), **options)), UNet((8, 8, 4), sin_first=True, **options)
    other.set_weights(one.get_weights())
    kernel = other.graph.get_layer("noise_dense_1").kernel
    kernel.assign(tf.roll(kernel, 4, axis=0))
    z, log_snr = noise([2, 8, 8, 4]), tf.constant([-1.0, 2.0])
    np.testing.assert_allclose(one(z, log_snr), other(z, log_snr), atol=1e-4)
    shifted = UNet((8, 8, 4), freq_shift=1, **options).graph.get_layer("noise_embedding")
    assert (shifted.freq_shift, shifted.sin_first) == (1, False)


def test_groups_and_epsilon_reach_every_norm():
    network = UNet((8, 8, 4), **{**SMALL, "attention": (True, True)}, groups=8, epsilon=1e-3)
    norms = {v.name: v for v in network.graph.layers if type(v).__name__ == "GroupNorm"}
    assert {norm.groups for norm in norms.values()} == {8}
    assert {name for name, norm in norms.items() if norm.epsilon == 1e-6} == {
        name for name in norms if name.endswith("attn_norm")
    }
    assert {norm.epsilon for norm in norms.values()} == {1e-3, 1e-6}
    ddpm = UNet((8, 8, 4), **SMALL, transformers=False, epsilon=1e-3)
    norms = [v for v in ddpm.graph.layers if type(v).__name__ == "GroupNorm"]
    assert {norm.epsilon for norm in norms} == {1e-3}


def test_it_takes_channels_that_32_groups_do_not_divide():
    """Where the way up joins 96 and 48 channels, there are 144."""
    network = UNet((28, 28, 1), channels=(48, 96), blocks=1, attention=(False, False))
    norm = network.graph.get_layer("up_0_0_res_norm1")
    assert (norm.gamma.shape, norm.groups) == ((144,), 24)
    assert network(noise([1, 28, 28, 1]), tf.zeros([1])).shape == (1, 28, 28, 1)


@pytest.mark.parametrize("bias", [False, True])
def test_without_transformers_it_is_the_unet_of_ddpm(bias):
    """As many weights as diffusers' `UNet2DModel` of these sizes (with 2,304 biases of q, k, v)."""
    network = UNet(
        (28, 28, 1),
        channels=(64, 128, 128),
        attention=(False, True, False),
        transformers=False,
        attention_bias=bias,
    )
    assert network.count_params() == 6_469_889 - (0 if bias else 2_304)


COUNT = """
import keras
from kgen.networks import UNet, decoder, encoder

with keras.StatelessScope(initialize_variables=False):  # no memory is taken
    published = {"blocks": 2, "groups": 32, "halving": "both"}
    wide, three = (320, 640, 1280, 1280), (True, True, True, False)
    sd = UNet((64, 64, 4), channels=wide, attention=three, heads=8, tokens=(77, 768), **published)
    sd2 = UNet(
        (96, 96, 4), channels=wide, attention=three, heads=(5, 10, 20, 20), tokens=(77, 1024),
        **published,
    )
    xl = UNet(
        (128, 128, 4), channels=wide[:3], attention=(False, True, True), heads=(5, 10, 20),
        depth=(1, 2, 10), tokens=(77, 2048), pooled=2816, **published,
    )
    halves = {"channels": (128, 256, 512, 512), "blocks": 2, "groups": 32, "attention_bias": True}
    up = encoder((512, 512, 3), 4, quant=True, **halves)
    down = decoder((64, 64, 4), post_quant=True, **halves)
print(*(n.count_params() for n in (sd, sd2, xl)), up.count_params() + down.count_params())
"""


def test_published_networks_have_as_many_weights():
    """Stable Diffusion 1.5, 2.1 and XL as their weights are published, and the autoencoder."""
    run = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["859520964", "865910724", "2567463684", "83653863"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": (5, 12), "transformers": False}, "`tokens` need"),
        ({"channels": (16, 32), "attention": (True,)}, "`attention` must"),
        ({"channels": (16, 32), "heads": 3}, "`heads` must divide"),
        ({"channels": (16, 32), "heads": (1, 2, 4)}, "`heads` must have one entry per level"),
        ({"channels": (16, 32), "head_width": 12}, "`head_width` must divide"),
        ({"channels": (16, 32), "depth": (1,)}, "`depth` must have one entry per level"),
        ({"channels": (16, 32), "blocks": 0}, "`blocks` must be at least 1"),
        ({"channels": (16, 32), "groups": 3}, "`groups` must divide"),
        ({"channels": (16, 32), "halving": "before"}, "`halving` must be one of"),
        ({"channels": (16, 32), "pooled": 6, "pooled_dense": False}, "`pooled` must be 4"),
        ({"channels": (16, 32), "epsilon": 0.0}, "`epsilon` must be positive"),
        ({"shape": (4,)}, "one, two or three spatial axes"),
        ({"shape": (2, 2, 2, 2, 1)}, "one, two or three spatial axes"),
    ],
)
def test_it_refuses_options_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**{"shape": (8, 8, 4), **options})


def test_it_refuses_a_position_that_is_no_function():
    with pytest.raises(TypeError, match="`noise_position` must be None or a function"):
        UNet((8, 8, 4), noise_position="index", **SMALL)
