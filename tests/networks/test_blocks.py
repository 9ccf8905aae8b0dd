"""The blocks against Keras' own layers with the same weights."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import DiT, UNet, blocks
from kgen.networks.conv import decoder, encoder
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def test_upsampling_equals_keras():
    """Nearest neighbour and a convolution, two layers of Keras; and the gradients."""
    x, weights = noise([2, 5, 6, 3]), [noise([3, 3, 3, 4], 1), noise([4], 2)]
    ours = blocks.UpsampleConv(4)
    theirs = keras.Sequential(
        [keras.layers.UpSampling2D(2), keras.layers.Conv2D(4, 3, padding="same")]
    )
    results = []
    for layer in (ours, theirs):
        layer(x)
        layer.set_weights(weights)
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
            loss = tf.reduce_sum(y * noise(y.shape, 3))
        kernel, bias = (v.value for v in layer.trainable_variables)
        results.append([y, *tape.gradient(loss, [x, kernel, bias])])
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert ours.compute_output_shape((2, 5, 6, 3)) == (2, 10, 12, 4)


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(2, 1), (8, 2), (48, 12), (96, 24), (128, 32), (144, 24), (192, 32), (320, 32), (998, 2)],
)
def test_group_norm_takes_groups_that_divide(channels, groups):
    x = keras.Input((2, 2, channels))
    norm = keras.Model(x, blocks.group_norm(x, "norm")).get_layer("norm")
    assert norm.groups == groups


def test_unet_takes_channels_that_32_groups_do_not_divide():
    """Where the way up joins 96 and 48 channels, there are 144."""
    network = UNet((28, 28, 1), channels=(48, 96), blocks=1, attention=(False, False))
    norm = network.graph.get_layer("up_0_0_res_norm1")
    assert (norm.gamma.shape, norm.groups) == ((144,), 24)
    assert network(noise([1, 28, 28, 1]), tf.zeros([1])).shape == (1, 28, 28, 1)


def test_attention_equals_keras():
    x, context = noise([2, 7, 16]), noise([2, 5, 12], 1)
    mask = tf.constant([[True] * 3 + [False] * 2, [True] * 5])
    ours, theirs = blocks.Attention(4), keras.layers.MultiHeadAttention(4, 4)
    ours(x, context, mask)
    theirs(x, context, attention_mask=mask[:, None, :])
    pairs = [
        (ours.to_q, theirs._query_dense),
        (ours.to_k, theirs._key_dense),
        (ours.to_v, theirs._value_dense),
        (ours.to_out, theirs._output_dense),
    ]
    for a, b in pairs:
        b.kernel.assign(tf.reshape(a.kernel, b.kernel.shape))
        b.bias.assign(tf.zeros_like(b.bias))
    expected = theirs(x, context, attention_mask=mask[:, None, :])
    np.testing.assert_allclose(ours(x, context, mask), expected, atol=1e-5)


def test_masked_tokens_do_not_matter():
    x, context = noise([1, 4, 8]), noise([1, 3, 8], 1)
    attention = blocks.Attention(2)
    mask = tf.constant([[True, True, False]])
    changed = tf.concat([context[:, :2], 100 * context[:, 2:]], 1)
    np.testing.assert_array_equal(attention(x, context, mask), attention(x, changed, mask))


def test_embedding_is_published_formula_at_zero_and_orthogonal_pairs():
    embedding = SinusoidalEmbedding(8)(tf.constant([0.0, 3.0])).numpy()
    np.testing.assert_array_equal(embedding[0], [1, 1, 1, 1, 0, 0, 0, 0])
    np.testing.assert_allclose(embedding[1, :4] ** 2 + embedding[1, 4:] ** 2, 1, rtol=1e-5)
    np.testing.assert_allclose(embedding[1, 4], np.sin(3.0), rtol=1e-5)


def test_noise_position_rises_with_the_noise():
    position = noise_position(tf.linspace(-15.0, 15.0, 50)).numpy()
    assert np.all(np.diff(position) < 0)
    assert position.min() > 0
    assert position.max() < 1000


@pytest.mark.parametrize("patch", [1, 2])
def test_encoder_and_decoder_mirror_each_other(patch):
    code = encoder((16, 16, 3), 4, channels=(8, 16), patch=patch)
    size = 8 // patch
    assert code.output_shape == (None, size, size, 8)
    picture = decoder((size, size, 4), channels=(8, 16), patch=patch)
    assert picture.output_shape == (None, 16, 16, 3)
    assert picture(code(noise([2, 16, 16, 3]))[..., :4]).shape == (2, 16, 16, 3)


def test_folding_pixels_and_unfolding_them_is_the_identity():
    x = noise([2, 4, 6, 3])
    folded = blocks.fold(x, 2)
    np.testing.assert_array_equal(folded, tf.nn.space_to_depth(x, 2))
    np.testing.assert_array_equal(blocks.unfold(folded, 2), x)


UNET = {"channels": (16, 32), "attention": (False, True)}


@pytest.fixture(
    scope="module",
    params=[(UNet, UNET), (UNet, {**UNET, "patch": 2}), (DiT, {"width": 16, "depth": 2})],
    ids=["unet", "folded", "dit"],
)
def network(request):
    kind, options = request.param
    network = kind((8, 8, 4), tokens=(5, 12), pooled=6, **options)
    for weight in network.trainable_variables:
        if np.all(weight.numpy() == 0) and len(weight.shape) > 1:
            weight.assign(0.1 * noise(weight.shape))
    return network


def condition(batch, seed=3):
    return {
        "tokens": noise([batch, 5, 12], seed),
        "mask": tf.ones([batch, 5], tf.bool),
        "pooled": noise([batch, 6], seed + 1),
    }


def test_network_hears_every_input(network):
    z, log_snr, cond = noise([2, 8, 8, 4]), tf.constant([0.0, 1.0]), condition(2)
    base = network(z, log_snr, cond).numpy()
    assert base.shape == (2, 8, 8, 4)
    others = [
        network(z + 1, log_snr, cond),
        network(z, log_snr + 2, cond),
        network(z, log_snr, {**cond, "tokens": -cond["tokens"]}),
        network(z, log_snr, {**cond, "pooled": -cond["pooled"]}),
        network(z, log_snr, {**cond, "mask": tf.constant([[True] + [False] * 4] * 2)}),
    ]
    for other in others:
        assert np.abs(other - base).max() > 1e-3


def test_network_treats_examples_alone(network):
    z, log_snr, cond = noise([3, 8, 8, 4]), tf.constant([0.0, 1.0, -2.0]), condition(3)
    whole = network(z, log_snr, cond)
    for i in range(3):
        row = {key: value[i : i + 1] for key, value in cond.items()}
        np.testing.assert_allclose(
            network(z[i : i + 1], log_snr[i : i + 1], row)[0], whole[i], atol=1e-4
        )


def test_network_round_trips_its_config(network):
    again = type(network).from_config(network.get_config())
    again.set_weights(network.get_weights())
    z, log_snr, cond = noise([1, 8, 8, 4]), tf.zeros([1]), condition(1)
    np.testing.assert_array_equal(network(z, log_snr, cond), again(z, log_snr, cond))


def test_network_asks_for_a_missing_condition(network):
    with pytest.raises(ValueError, match="`cond` must have the key 'tokens'"):
        network(noise([1, 8, 8, 4]), tf.zeros([1]), {"pooled": tf.zeros([1, 6])})


def test_without_transformers_it_is_the_unet_of_ddpm():
    """As many weights as diffusers' `UNet2DModel` of these sizes (less 2,304 biases of q, k, v)."""
    network = UNet(
        (28, 28, 1),
        channels=(64, 128, 128),
        attention=(False, True, False),
        transformers=False,
    )
    assert network.count_params() == 6_469_889 - 2_304


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 8, 4), "tokens": (5, 12), "transformers": False}, "`tokens` need"),
        ({"shape": (8, 8, 4), "channels": (16, 32), "attention": (True,)}, "`attention` must"),
        ({"shape": (8, 8, 4), "channels": (16, 32), "heads": 3}, "`heads` must divide"),
        ({"shape": (8, 8, 4), "channels": (16, 32, 64), "patch": 4}, "`attention` must have"),
    ],
)
def test_unet_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        UNet(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (8, 8, 4), "width": 30, "heads": 3}, "`width` must be divisible by 4"),
        ({"shape": (8, 8, 4), "width": 32, "heads": 3}, "`width` must be divisible by 4"),
    ],
)
def test_dit_refuses_sizes_that_do_not_fit(options, message):
    with pytest.raises(ValueError, match=message):
        DiT(**options)


def test_dit_blocks_begin_as_the_identity():
    """adaLN-Zero: before training the blocks change nothing, whatever their other weights."""
    network = DiT((8, 8, 4), width=16, depth=2)
    layers = {layer.name: layer for layer in network.graph.layers}
    inside = keras.Model(
        network.graph.input, [layers["positions"].output, layers["norm_out"].input]
    )
    before, after = inside({"z": noise([2, 8, 8, 4]), "log_snr": tf.zeros([2])})
    np.testing.assert_array_equal(before, after)


def test_dit_knows_where_a_patch_is():
    """The same patch everywhere gives outputs that differ from place to place."""
    network = DiT((8, 8, 4), width=16, depth=1)
    for weight in network.trainable_variables:
        weight.assign(0.2 * noise(weight.shape, 7))
    out = network(tf.ones([1, 8, 8, 4]), tf.zeros([1])).numpy()
    patches = out.reshape(4, 2, 4, 2, 4).transpose(0, 2, 1, 3, 4).reshape(16, -1)
    assert len(np.unique(patches.round(4), axis=0)) == 16
