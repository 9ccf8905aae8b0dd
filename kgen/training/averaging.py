"""The exponential moving average of the weights: what evaluation, sampling and presets use.

    average <- d average + (1 - d) weight,    d = min(decay, (1 + n) / (10 + n)) after n updates

References:
  Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
"""

import contextlib

import keras
import tensorflow as tf

from kgen.layer_tree import places
from kgen.serialization import Untracked


class WeightAverages(keras.layers.Layer):
    """Averages of the trainable weights of a model, which owns this object.

    Averages are kept in the order of the places of their weights in the tree of layers, which a
    model that is rebuilt from its configuration shares; never by a name.

    Args:
        model: the layer whose weights are averaged; its networks are built.
        decay: d, in [0, 1); None for no averages.
        variables: which weights; None for all trainable ones.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> dense.build((None, 1))
        >>> averages = WeightAverages(dense, 0.9)
        >>> [average.numpy().tolist() for _, average in averages.pairs()]
        [[[1.0]], [0.0]]
    """

    def __init__(self, model, decay, variables=None, **kwargs):
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.decay = decay
        self.built = True
        self.values = []
        if decay is not None:
            self.updates = self.add_weight(
                shape=(), dtype="int32", trainable=False, name="updates", initializer="zeros"
            )
        self.follow(model, model.trainable_variables if variables is None else variables)

    def follow(self, model, variables):
        """Begins anew, as averages of other weights of the model, at their present values."""
        for average in self.values:
            self._untrack_variable(average)
        place = places(model) if self.decay is not None else {}
        variables = [] if self.decay is None else sorted(variables, key=lambda v: place[id(v)])
        # Hidden, so that Keras does not take the weights of the model for those of this layer.
        self._averaged = Untracked(variables)
        self.values = []
        if self.decay is None:
            return
        self.updates.assign(0)
        # In half precision a step of 1 - d would round to none.
        dtypes = ["float64" if v.dtype == "float64" else "float32" for v in variables]
        self.values = [
            self.add_weight(shape=v.shape, dtype=dtype, trainable=False, name=f"average_{i}")
            for i, (v, dtype) in enumerate(zip(variables, dtypes))
        ]
        self.reset()

    def pairs(self):
        """Returns pairs of a trained weight and its average."""
        return list(zip(self._averaged.value, self.values, strict=True))

    def reset(self):
        """Sets the averages to the present weights."""
        for variable, average in self.pairs():
            average.assign(variable)

    def update(self):
        """Lets the averages follow, after an update of the weights."""
        if self.decay is None:
            return
        n = tf.cast(self.updates.value, tf.float32)
        decay = tf.minimum(self.decay, (1 + n) / (10 + n))
        for variable, average in self.pairs():
            difference = tf.cast(variable, average.dtype) - average
            average.assign(average + tf.cast(1 - decay, average.dtype) * difference)
        self.updates.assign_add(1)

    def scope(self):
        """Returns a context in which the averages stand in for the trained weights.

        Variables assigned inside keep their old values outside.
        """
        if self.decay is None:
            return contextlib.nullcontext()
        return keras.StatelessScope([(v, tf.cast(a.value, v.dtype)) for v, a in self.pairs()])
