"""The exponential moving average of the weights: what evaluation, sampling and presets use.

    ema <- d ema + (1 - d) weights,    d = min(ema_decay, (1 + n) / (10 + n)) after n updates

References:
  Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
"""

import contextlib
import re
import types

import keras
import tensorflow as tf


class WeightAveraging:
    """The averaged weights of a Keras model with an attribute `ema_decay`; None means none."""

    ema_weights = ()

    def start_averaging(self, variables=None):
        """Creates the averaged weights; a subclass calls it at the end of its construction.

        Args:
            variables: what is averaged; None means all trainable variables.
        """
        if self.ema_decay is None:
            return
        self.ema_updates = self.add_weight(
            shape=(), dtype="int32", trainable=False, name="ema_updates", initializer="zeros"
        )
        # By path: a network that Keras rebuilds may hold its variables in another order.
        variables = self.trainable_variables if variables is None else variables
        variables = sorted(variables, key=lambda v: natural_order(v.path))
        # A namespace, so that Keras does not take the variables for the model's own.
        self._averaging = types.SimpleNamespace(variables=variables)
        # In half precision a step of 1 - d would round to none.
        dtypes = ["float64" if v.dtype == "float64" else "float32" for v in variables]
        self.ema_weights = [
            self.add_weight(
                shape=v.shape, dtype=dtype, trainable=False, name=f"ema_{i}", initializer="zeros"
            )
            for i, (v, dtype) in enumerate(zip(variables, dtypes))
        ]
        self.reset_averages()

    @property
    def average_state(self):
        """The averages and the number of their updates: what there is beside the weights."""
        return [] if self.ema_decay is None else [*self.ema_weights, self.ema_updates]

    def reset_averages(self):
        """Sets the averaged weights to the present ones."""
        for variable, average in self.averages():
            average.assign(variable)

    def update_averages(self):
        """Lets the averaged weights follow, after an update of the weights."""
        if not self.ema_weights:
            return
        n = tf.cast(self.ema_updates.value, tf.float32)
        decay = tf.minimum(self.ema_decay, (1 + n) / (10 + n))
        for variable, average in self.averages():
            difference = tf.cast(variable, average.dtype) - average
            average.assign(average + tf.cast(1 - decay, average.dtype) * difference)
        self.ema_updates.assign_add(1)

    def averaged(self):
        """A context in which the averaged weights stand in for the trained ones.

        Variables assigned inside keep their old values outside.
        """
        if not self.ema_weights:
            return contextlib.nullcontext()
        return keras.StatelessScope([(v, tf.cast(a.value, v.dtype)) for v, a in self.averages()])

    def averages(self):
        """Pairs of a trained weight and its average."""
        if not self.ema_weights:
            return []
        return list(zip(self._averaging.variables, self.ema_weights, strict=True))


def natural_order(path):
    """A key that sorts numbers in a path as numbers.

    Keras numbers layers without a name from a counter of the process, so a network that is rebuilt
    has other numbers in the same order: 9, 10 become 11, 12.

    Example:
        >>> sorted(["dense_10/kernel", "dense_9/kernel", "dense/kernel"], key=natural_order)
        ['dense/kernel', 'dense_9/kernel', 'dense_10/kernel']
    """
    parts = re.split(r"(\d+)", path)
    return [int(part) if part.isdigit() else part for part in parts]
