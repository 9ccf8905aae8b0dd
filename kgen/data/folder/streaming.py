"""Pictures that are read from their files when a batch of them is due.

What stays in memory is where each picture is, a few hundred bytes, and the batches under way.
"""

import concurrent.futures

import numpy as np
import tensorflow as tf


def reading(entries, read):
    """A function of tensors that reads pictures by their numbers.

    Args:
        entries: where the pictures are.
        read: a `decoding.Reader`.

    Returns:
        A function: numbers `[B]` to uint8 `[B, H, W, C]`. A picture that cannot be read any more is
        an error that names it, in the middle of an epoch.
    """
    pool = concurrent.futures.ThreadPoolExecutor()

    def pictures(index):
        images = list(pool.map(lambda i: read(entries[i]), index))
        problem = next((image for image in images if isinstance(image, str)), None)
        if problem is not None:
            raise ValueError(f"{problem}. It could be read when the data set was made.")
        return np.stack(images)

    def take(index):
        images = tf.numpy_function(pictures, [index], tf.uint8, stateful=False)
        return tf.ensure_shape(images, [None, *read.shape])

    return take
