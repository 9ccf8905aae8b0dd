"""Conditional networks: what a denoiser calls, `network(z, log_snr, cond)` -> the shape of `z`.

A network is one functional graph over named inputs,

    z [B, ..., C],  log_snr [B],  and of a condition:  tokens [B, L, D] and mask [B, L],
                                                       pooled [B, P],  picture [B, ..., Q]

and a subclass says what is computed from them. Sizes in space are free in the graph: a network that
needs no particular size takes any, and its layers know the size where the caller does.
"""

import contextlib

import keras

CONDITIONS = ("tokens", "mask", "pooled", "picture")


@contextlib.contextmanager
def dtype_policy(policy):
    """Builds the layers inside the `with` block under a Keras dtype policy."""
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(previous)


class ConditionalNetwork(keras.Model):
    """Abstract base of networks that take a noisy value, its log-SNR and a condition.

    A subclass ends its constructor with `self.connect(shape, output)`, where `output` is a function
    of the symbolic inputs, by name. Decorate it with `kgen.serialization.serializable`, and it is
    saved and rebuilt.

    Args:
        **kwargs: `name` and `dtype` of a Keras model.

    Call arguments:
        z: `[B, ..., C]`.
        log_snr: `[B]`.
        cond: None, or a dictionary with `"tokens"` `[B, L, D]` and `"mask"` `[B, L]`, `"pooled"`
            `[B, P]`, `"picture"` `[B, ..., Q]`, whichever the network was made for.
        training: whether layers such as dropout have an effect.

    Attributes:
        data_shape: shape of the noisy input without the batch, as the constructor was given it.
        takes_any_size: whether `z` may have other sizes in space than `data_shape`.

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

    def __init__(self, **kwargs) -> None:
        if type(self) is ConditionalNetwork:
            raise TypeError("`ConditionalNetwork` is abstract: make a subclass, or a `UNet`.")
        super().__init__(**kwargs)
        self.autocast = False

    def connect(
        self,
        shape,
        output,
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
            tokens: None, or `(L, D)`: length, or None for any, and width of the tokens.
            pooled: None, or the width of the pooled condition.
            picture: None, or the channels of a picture of the size of `z`.
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

    def call(self, z, log_snr, cond=None, training=False):
        """Runs the network; see the class.

        Raises:
            ValueError: if the condition has not what the network was made for.
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
        return self.graph(inputs, training=training)
