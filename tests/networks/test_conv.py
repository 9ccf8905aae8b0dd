"""The convolutional autoencoder: sizes, axes, and the options of published weights."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.networks import decoder, encoder


def noise(shape, seed=0):
    return tf.random.stateless_normal(shape, [seed, 1])


def filled(network, seed=100):
    for i, weight in enumerate(network.weights):
        weight.assign(0.2 * noise(weight.shape, seed + i))
    return network


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("size", [(16,), (16, 12), (8, 4, 4)])
def test_encoder_and_decoder_mirror_each_other(patch, size):
    code = encoder((*size, 3), 4, channels=(8, 16), patch=patch)
    small = tuple(n // (2 * patch) for n in size)
    assert code.output_shape == (None, *small, 8)
    picture = decoder((*small, 4), channels=(8, 16), patch=patch)
    assert picture.output_shape == (None, *size, 3)
    assert picture(code(noise([2, *size, 3]))[..., :4]).shape == (2, *size, 3)


def test_equal_rows_are_data_of_one_axis():
    """With kernels that are zero outside of their middle row; see the same test of the U-Net."""
    options = {"channels": (8, 16), "groups": 4}
    pairs = [
        (encoder((12, 3), 2, **options), encoder((4, 12, 3), 2, **options), (12, 3)),
        (decoder((6, 2), **options), decoder((2, 6, 2), **options), (6, 2)),
    ]
    for small, large, shape in pairs:
        filled(small)
        for one, other in zip(small.weights, large.weights):
            value = one.numpy()
            if value.ndim == 3:
                middle, value = value, np.zeros(other.shape, "float32")
                value[value.shape[0] // 2] = middle
            other.assign(value)
        x = noise([2, *shape])
        rows = large(tf.repeat(x[:, None], large.input_shape[1], axis=1))
        expected = small(x)
        assert np.abs(expected).max() > 0.1
        for i in range(rows.shape[1]):
            np.testing.assert_allclose(rows[:, i], expected, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 2])
def test_odd_sizes_are_padded_with_zeros_and_cropped(patch):
    options = {"channels": (8, 8, 16) if patch == 1 else (8, 16), "patch": patch}
    odd, even = (filled(encoder((*size, 3), 2, **options)) for size in ((7, 10), (8, 12)))
    x = noise([2, 7, 10, 3])
    np.testing.assert_array_equal(odd(x), even(tf.pad(x, [[0, 0], [0, 1], [1, 1], [0, 0]])))
    assert odd.output_shape == (None, 2, 3, 4)
    cropped = filled(decoder((2, 3, 2), size=(7, 10), **options))
    whole = filled(decoder((2, 3, 2), **options))
    z = noise([2, 2, 3, 2])
    np.testing.assert_array_equal(cropped(z), whole(z)[:, :7, 1:11])
    assert cropped.output_shape == (None, 7, 10, 3)


def test_a_size_that_is_known_only_when_called():
    free, fixed = (filled(encoder((n, n, 3), 2, channels=(8, 16))) for n in (None, 12))
    x = noise([2, 12, 12, 3])
    np.testing.assert_array_equal(free(x), fixed(x))
    free, fixed = (filled(decoder((n, n, 2), channels=(8, 16))) for n in (None, 6))
    z = noise([2, 6, 6, 2])
    np.testing.assert_array_equal(free(z), fixed(z))


@pytest.mark.parametrize("size", [(9, 16), (12, 16), (16,)])
def test_a_size_that_has_another_code_is_refused(size):
    with pytest.raises(ValueError, match="`size` must be that of a picture"):
        decoder((4, 4, 2), channels=(8, 8, 8), size=size)


def test_convolutions_before_and_after_the_code():
    """Matrices on the channels of each pixel."""
    options = {"channels": (8, 16)}
    x, z = noise([2, 8, 8, 3]), noise([2, 4, 4, 2])
    with_quant = filled(encoder((8, 8, 3), 2, quant=True, **options))
    without = encoder((8, 8, 3), 2, **options)
    *rest, kernel, bias = with_quant.get_weights()
    without.set_weights(rest)
    np.testing.assert_allclose(with_quant(x), without(x) @ kernel[0, 0] + bias, atol=1e-5)

    with_quant = filled(decoder((4, 4, 2), post_quant=True, **options))
    without = decoder((4, 4, 2), **options)
    kernel, bias, *rest = with_quant.get_weights()
    without.set_weights(rest)
    np.testing.assert_allclose(with_quant(z), without(z @ kernel[0, 0] + bias), atol=1e-5)
    assert with_quant.layers[1].name == "post_quant_conv"


def test_options_reach_their_layers():
    for network in (
        encoder((8, 8, 3), 2, channels=(8, 16), groups=2, epsilon=1e-3, attention_bias=True),
        decoder((4, 4, 2), channels=(8, 16), groups=2, epsilon=1e-3, attention_bias=True),
    ):
        norms = [v for v in network.layers if type(v).__name__ == "GroupNorm"]
        assert {(norm.groups, norm.epsilon) for norm in norms} == {(2, 1e-3)}
        assert network.get_layer("mid_attn").to_k.use_bias


def test_blocks_by_level_and_no_attention_in_the_middle():
    options = {"channels": (8, 16), "blocks": (1, 3), "middle_attention": False}
    down, up = encoder((8, 8, 3), 2, **options), decoder((4, 4, 2), **options)
    for network, more in ((down, 0), (up, 1)):
        names = [v.name for v in network.layers]
        assert not any("attn" in name for name in names)
        for level, blocks in ((0, 1), (1, 3)):
            first = [
                n for n in names if f"_{level}_res_" in n and n.endswith("norm1") and "mid" not in n
            ]
            assert len(first) == blocks + more
