"""Pictures that are read from their files for each batch.

Only the places of the pictures, a few hundred bytes each, and the next batches are in memory.
"""

import concurrent.futures
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from kgen.data.folder.decoding import Reader
from kgen.data.folder.finding import Entry


def reading(entries: Sequence[Entry], read: Reader) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function of tensors that reads pictures by their indices.

    Args:
        entries: the places of the pictures, a list of `finding.Entry`.
        read: a `decoding.Reader`.

    Returns:
        A function from indices `[B]` to uint8 `[B, H, W, C]`, which raises an error that names the
        picture if one can no longer be read.
    """
    pool = concurrent.futures.ThreadPoolExecutor()

    def pictures(index: tf.Tensor) -> np.ndarray:
        images = list(pool.map(lambda i: read(entries[i]), index))
        problem = next((image for image in images if isinstance(image, str)), None)
        if problem is not None:
            raise ValueError(f"{problem}. It could be read when the data set was made.")
        return np.stack(images)

    def take(index: tf.Tensor) -> tf.Tensor:
        images = tf.numpy_function(pictures, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(images, [None, *read.shape])

    return take
