"""Pictures as a condition: their range and size, zeros for none."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import Picture


def test_bytes_are_put_in_the_range_of_pictures():
    rows = Picture((1, 3, 1)).prepare(np.array([[[[0], [51], [255]]]], "uint8"))
    np.testing.assert_allclose(rows[0, 0, :, 0], [-1, -0.6, 1], atol=1e-6)


def test_a_smaller_size_is_the_mean_of_the_pixels():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 6, 4, 3)).astype("float32")
    picture = Picture((6, 4, 3), (3, 2), method="area")
    expected = x.reshape(2, 3, 2, 2, 2, 3).mean((2, 4))
    np.testing.assert_allclose(picture(x)["picture"], expected, atol=1e-6)
    assert picture.null(2)["picture"].shape == (2, 3, 2, 3)
    assert not np.any(picture.null(2)["picture"])


def test_a_larger_size_repeats_the_nearest():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 2, 1)).astype("float32")
    larger = Picture((2, 2, 1), (4, 6), method="nearest")(x)["picture"]
    np.testing.assert_allclose(larger, x.repeat(2, axis=1).repeat(3, axis=2), atol=1e-6)


def test_without_a_size_pictures_stay_as_they_are():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 5, 2)).astype("float32")
    picture = Picture((3, 5, 2))
    np.testing.assert_array_equal(picture(x)["picture"], x)
    np.testing.assert_array_equal(picture(x[0])["picture"], x[:1])
    assert picture.channels == 2


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.zeros((1, 3, 4, 1), "float32"), ValueError, r"`source` must have shape \[B, 4, 4, 1\]"),
        (np.zeros((4, 4), "float32"), ValueError, r"`source` must have shape \[B, 4, 4, 1\]"),
        (np.full((1, 4, 4, 1), 1.1), ValueError, r"`source` must be in \[-1, 1\]"),
        (np.full((1, 4, 4, 1), np.nan), ValueError, r"`source` must be in \[-1, 1\]"),
        (np.zeros((1, 4, 4, 1), "int32"), TypeError, "`source` must be uint8 or floating-point"),
        (np.full((1, 4, 4, 1), "a"), TypeError, "`source` must be uint8 or floating-point"),
    ],
)
def test_what_is_no_picture(values, error, message):
    with pytest.raises(error, match=message):
        Picture((4, 4, 1)).prepare(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (4, 4)}, r"`shape` must be \(height, width, channels\)"),
        ({"shape": (4, None, 1)}, r"`shape` must be \(height, width, channels\)"),
        ({"shape": (4, 4, 1), "size": (2,)}, r"and `size` \(height, width\)"),
        ({"shape": (4, 4, 1), "method": "cubic"}, "`method` must be one of"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Picture(**arguments)


def test_a_batch_of_a_data_set_may_be_bytes():
    picture = Picture((2, 2, 1))
    encode = tf.function(lambda v: picture(v)["picture"])
    np.testing.assert_array_equal(
        encode(tf.constant([[[[0], [255]]] * 2], tf.uint8))[0, 0, 0], [-1]
    )
