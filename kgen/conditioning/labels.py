"""Class labels as a condition: one learned vector for each class, and one for none.

    cond = {"pooled": table[label]},    null = {"pooled": table[num_classes]}

References:
  Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, section 3.1 (the null token).
"""

import tensorflow as tf

from kgen.checks import check_count
from kgen.conditioning.conditioner import Conditioner
from kgen.serialization import serializable


@serializable
class Labels(Conditioner):
    """A table of class embeddings.

    Args:
        num_classes: how many classes there are; labels are 0 to `num_classes - 1`.
        width: width of an embedding.
        **kwargs: `name` and `dtype` of a Keras layer.

    Raises:
        ValueError: if `num_classes` or `width` is less than 1.

    Example:
        >>> Labels(10, 8)(tf.constant([3, 1]))["pooled"].shape
        TensorShape([2, 8])
    """

    batch_key = "labels"

    def __init__(self, num_classes, width=64, **kwargs):
        super().__init__(**kwargs)
        check_count("num_classes", num_classes)
        check_count("width", width)
        self.num_classes = num_classes
        self.width = width
        self.table = self.add_weight(
            shape=(num_classes + 1, width), initializer="random_normal", name="table"
        )
        self.built = True

    def call(self, inputs, training=False):
        """Embeddings of integer labels `[B]`.

        Raises:
            TypeError: if they are not integers.
            ValueError: if they are not one for each example, or one is out of range.
            tf.errors.InvalidArgumentError: for the latter inside of a compiled function.
        """
        labels = self.check(inputs)
        return {"pooled": tf.gather(self.table, labels)}

    def check(self, inputs):
        """Returns labels as a tensor, with the errors of `call`."""
        labels = tf.convert_to_tensor(inputs)
        if not labels.dtype.is_integer:
            raise TypeError(f"`labels` must be integers. Received: {labels.dtype.name}.")
        if labels.shape.rank not in (1, None):
            raise ValueError(f"`labels` must have shape [B]. Received: shape {labels.shape}.")
        valid = tf.reduce_all((labels >= 0) & (labels < self.num_classes))
        message = f"`labels` must be in 0..{self.num_classes - 1}."
        if tf.inside_function():
            with tf.control_dependencies([tf.debugging.Assert(valid, [message, labels])]):
                return tf.identity(labels)
        if not bool(valid):
            raise ValueError(f"{message} Received: {labels.numpy()}.")
        return labels

    def null(self, batch_size):
        """The embedding of no class, `batch_size` times."""
        rows = tf.gather(self.table, tf.fill([batch_size], self.num_classes))
        return {"pooled": tf.cast(rows, self.compute_dtype)}  # as `call`, which Keras casts
