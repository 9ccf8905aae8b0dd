"""The exponential moving average of the weights: what evaluation, sampling and presets use.

    average <- d average + (1 - d) weight,    d = min(decay, (1 + n) / (10 + n)) after n updates

References:
  Polyak and Juditsky (1992), https://doi.org/10.1137/0330046.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from kgen.layer_tree import layers_of, places
from kgen.serialization import Untracked

_COPIES = contextvars.ContextVar("copies", default=None)


class WeightAverages(keras.layers.Layer):
    """Averages of the trainable weights of a model.

    The averages are ordered by the places of their weights in the tree of layers
    (`kgen.layer_tree`). Unlike names, these are the same in a model that is rebuilt from its
    configuration.

    Args:
        model: the layer whose weights are averaged, built; it has this object as an attribute.
        decay: d, in [0, 1); None for no averages.
        variables: the weights to average; None for all trainable ones.
        **kwargs: `name` of a Keras layer.

    Example:
        >>> dense = keras.layers.Dense(1, kernel_initializer="ones")
        >>> dense.build((None, 1))
        >>> averages = WeightAverages(dense, 0.9)
        >>> [average.numpy().tolist() for _, average in averages.pairs()]
        [[[1.0]], [0.0]]
    """

    def __init__(
        self,
        model: keras.layers.Layer,
        decay: float | None,
        variables: Sequence[keras.Variable] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(trainable=False, dtype="float32", **kwargs)
        self.decay = decay
        self.built = True
        self.values = []
        if decay is not None:
            self.updates = self.add_weight(
                shape=(), dtype="int32", trainable=False, name="updates", initializer="zeros"
            )
        self.restart(model, model.trainable_variables if variables is None else variables)

    def restart(self, model: keras.layers.Layer, variables: Sequence[keras.Variable]) -> None:
        """Replaces the averages by those of other weights, at their present values.

        Args:
            model: the layer whose weights are averaged.
            variables: the weights of the model to average.
        """
        for average in self.values:
            self._untrack_variable(average)
        self._model = Untracked(model)
        place = places(model) if self.decay is not None else {}
        variables = [] if self.decay is None else sorted(variables, key=lambda v: place[id(v)])
        # Untracked, so that the weights of the model do not become weights of this layer.
        self._averaged = Untracked(variables)
        self.values = []
        if self.decay is None:
            return
        self.updates.assign(0)
        self.values = [self._average_of(v, i) for i, v in enumerate(variables)]
        self.reset()

    def pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        """Returns the pairs of a trained weight and its average."""
        return list(zip(self._averaged.value, self.values, strict=True))

    def reset(self) -> None:
        """Sets the averages to the present weights."""
        for variable, average in self.pairs():
            average.assign(variable)

    def update(self) -> None:
        """Updates the averages, after an update of the weights."""
        if self.decay is None:
            return
        n = tf.cast(self.updates.value, tf.float32)
        decay = tf.minimum(self.decay, (1 + n) / (10 + n))
        for variable, average in self.pairs():
            difference = tf.cast(variable, average.dtype) - average
            average.assign(average + tf.cast(1 - decay, average.dtype) * difference)
        self.updates.assign_add(1)

    def save_own_variables(self, store: Any) -> None:
        """Writes the averages to a `.keras` file, with the places of their weights as keys.

        The keys are needed because a rebuilt model may average fewer weights: `trainable` may have
        been set to False on a layer of this model after its construction.

        Args:
            store: the dictionary of arrays that Keras passes.

        Raises:
            ValueError: if a layer has a LoRA by Keras' `enable_lora`, which Keras merges into the
                kernel when it saves.
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

    def load_own_variables(self, store: Any) -> None:
        """Reads the averages from a `.keras` file, of this or an earlier version of kgen.

        Args:
            store: the dictionary of arrays that Keras passes.

        Raises:
            ValueError: if the averages are those of another model.
        """
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
        self._select(stored)
        self.updates.assign(store["updates"])
        for variable, average in self.pairs():
            average.assign(store[_key(place[id(variable)])])

    def _select(self, variables: Sequence[keras.Variable]) -> None:
        """Averages exactly the given weights; averages that exist already keep their values."""
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

    def _average_of(self, variable: keras.Variable, number: int) -> keras.Variable:
        """Creates an average, at least float32: in half precision a small update rounds to 0."""
        return self.add_weight(
            shape=variable.shape,
            dtype="float64" if variable.dtype == "float64" else "float32",
            trainable=False,
            name=f"average_{number}",
        )

    def scope(self) -> AbstractContextManager:
        """Returns a context in which the averages replace the trained weights.

        An assignment to a variable inside of the context has no effect after it.
        """
        copies = _COPIES.get()
        if copies is not None:
            return _ReplacementScope(copies)
        if self.decay is None:
            return contextlib.nullcontext()
        return _ReplacementScope({id(v): average.value for v, average in self.pairs()})


@contextlib.contextmanager
def copies_in(model: keras.Model, dtype: str) -> Iterator[None]:
    """A context in which `WeightAverages.scope` uses copies of all weights in another dtype.

    Of an averaged weight, the average is copied. It is used by exports: a graph that is traced in
    the context reads the copies, and casts them to the dtypes of the weights.

    Args:
        model: the model whose weights are copied, with the models inside it.
        dtype: dtype of the copies of float32 and float64 weights, such as `"float16"`.

    Raises:
        ValueError: if a weight is not finite in this dtype.
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


class _ReplacementScope(keras.StatelessScope):
    """A scope in which other variables replace weights, cast to their dtypes on each read.

    A cast at the start of the scope would be a tensor of one graph, which other graphs cannot read.

    Args:
        replacements: variables by the `id` of the weight that they replace.
    """

    def __init__(self, replacements: dict[int, Any]) -> None:
        super().__init__()
        self.replacements = replacements

    def get_current_value(self, variable: keras.Variable) -> Any:
        """Returns the value assigned in the scope, or else that of the replacement, or None."""
        value = super().get_current_value(variable)
        replacement = self.replacements.get(id(variable))
        if value is not None or replacement is None:
            return value
        return tf.cast(replacement, variable.dtype)


def _key(place: Sequence[str]) -> str:
    """Returns the key of an average in a file."""
    return "average." + ".".join(place)
