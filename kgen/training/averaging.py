"""The exponential moving average of the weights: what evaluation, sampling and presets use.

    average <- d average + (1 - d) weight,    d = min(decay, (1 + n) / (10 + n)) after n updates

References:
  Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
"""

import contextlib
import contextvars

import keras
import tensorflow as tf

from kgen.layer_tree import layers_of, places
from kgen.serialization import Untracked

_COPIES = contextvars.ContextVar("copies", default=None)


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
        self._model = Untracked(model)
        place = places(model) if self.decay is not None else {}
        variables = [] if self.decay is None else sorted(variables, key=lambda v: place[id(v)])
        # Hidden, so that Keras does not take the weights of the model for those of this layer.
        self._averaged = Untracked(variables)
        self.values = []
        if self.decay is None:
            return
        self.updates.assign(0)
        self.values = [self._average_of(v, i) for i, v in enumerate(variables)]
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

    def save_own_variables(self, store):
        """Writes the averages under the places of their weights, for a `.keras` file.

        A layer that was frozen by hand, after the model was made, has averages that a rebuilt model
        would not know of.

        Raises:
            ValueError: for layers with `enable_lora`, which Keras saves merged into their weights.
        """
        if self.decay is None:
            return
        model = self._model.value
        adapted = [layer.name for layer in layers_of(model) if getattr(layer, "lora_enabled", 0)]
        if adapted:
            raise ValueError(
                "Averaged weights cannot be saved beside layers with `enable_lora`, which Keras "
                f"saves merged: use `save_to_preset`. Received: {', '.join(adapted[:5])}."
            )
        place = places(model)
        store["updates"] = self.updates.numpy()
        for variable, average in self.pairs():
            store[_key(place[id(variable)])] = average.numpy()

    def load_own_variables(self, store):
        """Reads what `save_own_variables` wrote, or a file of an earlier version."""
        names = set(store.keys())
        if "updates" not in names:
            super().load_own_variables(store)
            return
        model = self._model.value
        place = places(model)
        variables = {_key(place[id(v)]): v for v in model.variables if id(v) in place}
        stored = [v for key, v in variables.items() if key in names]
        if len(stored) < len(names) - 1:
            raise ValueError("The averaged weights are those of another model.")
        self._hold(stored)
        self.updates.assign(store["updates"])
        for variable, average in self.pairs():
            average.assign(store[_key(place[id(variable)])])

    def _hold(self, variables):
        """Has averages of these weights, which keep their values where there are any."""
        present = {id(v): average for v, average in self.pairs()}
        kept = {id(v) for v in variables}
        for key, average in present.items():
            if key not in kept:
                self._untrack_variable(average)
        self.values = [
            present[id(v)] if id(v) in present else self._average_of(v, len(present) + i)
            for i, v in enumerate(variables)
        ]
        self._averaged = Untracked(list(variables))

    def _average_of(self, variable, number):
        """A new average; in half precision a step of 1 - d would round to none."""
        return self.add_weight(
            shape=variable.shape,
            dtype="float64" if variable.dtype == "float64" else "float32",
            trainable=False,
            name=f"average_{number}",
        )

    def scope(self):
        """Returns a context in which the averages stand in for the trained weights.

        Variables assigned inside keep their old values outside.
        """
        copies = _COPIES.get()
        if copies is not None:
            return _StandIns(copies)
        if self.decay is None:
            return contextlib.nullcontext()
        return _StandIns({id(v): average.value for v, average in self.pairs()})


@contextlib.contextmanager
def copies_in(model, dtype):
    """Within it, the scopes of averages read copies of all weights, of another type.

    A copy of a weight that is averaged is one of its average. For exports: a graph that is traced
    in such a scope reads the copies that it needs, and casts them to the types of the weights.

    Args:
        model: the model; that of models inside it too.
        dtype: type of the copies of weights in float32 or float64, such as `"float16"`.

    Raises:
        ValueError: if a weight is too large for it.
    """
    averages = {}
    for part in layers_of(model):
        if isinstance(part, WeightAverages):
            averages |= {id(v): average for v, average in part.pairs()}
    of_averages = {id(average) for average in averages.values()}
    copies = {}
    for variable in model.variables:
        if variable.dtype not in ("float32", "float64") or id(variable) in of_averages:
            continue
        copy = tf.Variable(tf.cast(averages.get(id(variable), variable).value, dtype))
        if not tf.reduce_all(tf.math.is_finite(copy)):
            raise ValueError(
                f"Weights must be finite as `dtype`. Received: dtype={dtype!r} and "
                f"{variable.path} with NaN, infinite or too large values."
            )
        copies[id(variable)] = copy
    token = _COPIES.set(copies)
    try:
        yield
    finally:
        _COPIES.reset(token)


class _StandIns(keras.StatelessScope):
    """A scope in which other variables stand in for weights, and are cast where they are read.

    A cast where the scope begins would be a tensor of one graph, which no other graph could read.
    """

    def __init__(self, variables):
        super().__init__()
        self.variables = variables

    def get_current_value(self, variable):
        """Returns the value that was assigned inside, or of the stand-in, or None."""
        value = super().get_current_value(variable)
        stand_in = self.variables.get(id(variable))
        if value is not None or stand_in is None:
            return value
        return tf.cast(stand_in, variable.dtype)


def _key(place):
    """The name of an average in a file."""
    return "average." + ".".join(place)
