"""Features of a Keras model are those of inference."""

import keras
import numpy as np
from keras import layers

from kgen.metrics import extract


def test_batch_norms_use_their_moving_statistics():
    """Also behind a layer such as `Resizing`, for which Keras assumes training by default."""
    x = np.random.default_rng(0).normal(2, 3, (8, 4, 4, 1)).astype("float32")
    model = keras.Sequential(
        [keras.Input((4, 4, 1)), layers.Resizing(4, 4), layers.BatchNormalization(epsilon=0.0)]
    )
    model.add(layers.Flatten())
    model.layers[1].moving_mean.assign([1.0])
    model.layers[1].moving_variance.assign([4.0])
    np.testing.assert_allclose(extract(model, x), (x.reshape(8, 16) - 1) / 2, rtol=1e-5, atol=1e-5)
