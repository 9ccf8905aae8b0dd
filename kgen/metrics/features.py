"""Features of pictures, computed in batches: the input of the measures in this package.

images [N, H, W, 3]  ->  extractor  ->  features [N, D]
"""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from kgen.types import TensorLike


def extract(
    extractor: Callable, images: np.ndarray, batch_size: int = 32, progress: bool = False
) -> np.ndarray:
    """Computes the features of pictures in batches.

    Args:
        extractor: a function or Keras model from `[B, H, W, C]` to `[B, D]`, such as
            `efficientnet_lite0()`.
        images: an array `[N, H, W, C]` in the range that the extractor expects.
        batch_size: number of pictures that are computed at once.
        progress: whether to show a progress bar.

    Returns:
        An array `[N, D]`.

    Raises:
        ValueError: if `images` is not an array of at least one picture.

    Example:
    >>> extract(lambda x: tf.reduce_mean(x, axis=(1, 2)), np.ones((5, 8, 8, 3)), batch_size=2).shape
    (5, 3)
    """
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"`images` must be [N, H, W, C]. Received: shape {images.shape}.")
    # Without it, a Keras model that begins with `Resizing` runs its batch norms as in training.
    options = {"training": False} if isinstance(extractor, keras.Layer) else {}
    run = tf.function(lambda x: extractor(x, **options), reduce_retracing=True)
    bar = keras.utils.Progbar(len(images)) if progress else None
    features = []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        features.append(run(tf.constant(batch)).numpy())
        if bar:
            bar.add(len(batch))
    return np.concatenate(features)


def check_features(a: TensorLike, b: TensorLike) -> tuple[np.ndarray, np.ndarray]:
    """Validates two sets of features and returns them as float64 arrays, `[N, D]` and `[M, D]`.

    Raises:
        ValueError: if a set has another rank or size, fewer than two rows, or is not finite.
    """
    a, b = (_numbers(name, features) for name, features in (("a", a), ("b", b)))
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"Both sets must have features of one size. Received: {a.shape} and {b.shape}."
        )
    return a, b


def _numbers(name: str, features: TensorLike) -> np.ndarray:
    features = np.asarray(features)
    number = np.issubdtype(features.dtype, np.number)
    if features.ndim != 2 or len(features) < 2 or not number or not np.isfinite(features).all():
        raise ValueError(
            f"`{name}` must be finite numbers [N, D] with N > 1. "
            f"Received: shape {features.shape}, dtype {features.dtype}."
        )
    return features.astype("float64")
