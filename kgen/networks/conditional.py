"""Conditional networks, the networks of denoisers: `network(z, log_snr, cond)`.

A network is a functional graph over named inputs,

    z [B, ..., C],  log_snr [B],  and of a condition:  tokens [B, L, D] and mask [B, L],
                                                       pooled [B, P],  picture [B, ..., Q]

and its output has the shape of z. A subclass defines the graph. With `any_size` the spatial sizes
are None in the graph, so that the network accepts any size.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kgen.networks.recompute import Recomputed
from kgen.types import Condition, Shape

CONDITIONS = ("tokens", "mask", "pooled", "picture")


@contextlib.contextmanager
def dtype_policy(policy: str | keras.DTypePolicy) -> Iterator[None]:
    """A context in which Keras layers are built under a dtype policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


class ConditionalNetwork(keras.Model):
    """Abstract base of networks of a noisy value, its log-SNR and a condition.

    The constructor of a subclass ends with `self.connect(shape, output)`, where `output` is a
    function from the dictionary of symbolic inputs to the output. Decorate the subclass with
    `kgen.serialization.serializable`, so that it can be saved and loaded.

    Args:
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, ..., C]`.
        log_snr: `[B]`.
        cond: None, or a dictionary with `"tokens"` `[B, L, D]` and `"mask"` `[B, L]`, `"pooled"`
            `[B, P]`, `"picture"` `[B, ..., Q]`, whichever the network was made for.
        training: whether layers such as dropout are active.

    Attributes:
        data_shape: shape of `z` without the batch, as passed to the constructor.
        takes_any_size: whether `z` may have other spatial sizes than `data_shape`.

    Example:
        >>> from kgen.serialization import serializable
        >>> @serializable
        ... class Linear(ConditionalNetwork):
        ...     def __init__(self, size, **kwargs):
        ...         super().__init__(**kwargs)
        ...         self.connect((size,), lambda inputs: keras.layers.Dense(size)(inputs["z"]))
        >>> Linear(3)(keras.ops.zeros((2, 3)), keras.ops.zeros((2,))).shape
        TensorShape([2, 3])
    """

    def __init__(self, **kwargs: Any) -> None:
        if type(self) is ConditionalNetwork:
            raise TypeError("`ConditionalNetwork` is abstract: make a subclass, or a `UNet`.")
        super().__init__(**kwargs)
        self.autocast = False
        self._recomputed = None

    def connect(
        self,
        shape: Shape,
        output: Callable[[dict[str, keras.KerasTensor]], keras.KerasTensor],
        *,
        tokens: tuple[int | None, int] | None = None,
        pooled: int | None = None,
        picture: int | None = None,
        any_size: bool = False,
    ) -> None:
        """Builds the graph of the network.

        Args:
            shape: shape of `z` without the batch.
            output: a function from the dictionary of symbolic inputs to the output.
            tokens: None, or `(L, D)`: the length of the text, None for any, and the token width.
            pooled: None, or the width of the pooled condition.
            picture: None, or the number of channels of a picture of the size of `z`.
            any_size: whether all axes but the last may have any size.
        """
        shape = tuple(shape)
        graph_shape = (*[None] * (len(shape) - 1), shape[-1]) if any_size else shape
        inputs = {
            "z": keras.Input(graph_shape, name="z"),
            "log_snr": keras.Input((), name="log_snr"),
        }
        if tokens is not None:
            inputs["tokens"] = keras.Input(tuple(tokens), name="tokens")
            inputs["mask"] = keras.Input(tuple(tokens)[:1], dtype="bool", name="mask")
        if pooled is not None:
            inputs["pooled"] = keras.Input((pooled,), name="pooled")
        if picture is not None:
            inputs["picture"] = keras.Input((*graph_shape[:-1], picture), name="picture")
        with dtype_policy(self.dtype_policy):
            self.graph = keras.Model(inputs, output(inputs), name="graph")
        self.graph.autocast = False
        self.data_shape = shape
        self.takes_any_size = any_size
        self.built = True

    def call(
        self, z: tf.Tensor, log_snr: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Computes the output; see the class.

        Raises:
            ValueError: if the condition lacks a key that the network was made for.
        """
        inputs = {"z": z, "log_snr": log_snr}
        for key in CONDITIONS:
            if key in self.graph.input:
                if cond is None or key not in cond:
                    raise ValueError(
                        f"`cond` must have the key {key!r} that this network was made for. "
                        f"Received: {None if cond is None else sorted(cond)}."
                    )
                inputs[key] = cond[key]
        if training and self._recomputed is not None:
            return self._recomputed(inputs)
        return self.graph(inputs, training=training)

    def recompute(self, recompute: bool = True) -> None:
        """Sets whether training computes activations again instead of keeping them.

        See `kgen.networks.recompute`. `compile(recompute=True)` of a model calls this method.

        Args:
            recompute: whether it does.

        Raises:
            ValueError: if the network has dropout, batch normalisation or an activity regulariser.
        """
        self._recomputed = Recomputed(self.graph) if recompute else None
