"""Calling networks of any kind, and inferring their outputs from symbolic inputs.

A network may be Sequential, functional (with positional or named inputs), a subclass of
`keras.Model` or `keras.Layer`, or a function; built or not. The caller passes named tensors, of
which the last may be a condition, a dictionary of tensors or None:

    {"x": x}        {"x": x, "cond": {"pooled": p}}        {"z": z, "log_snr": l, "cond": None}

The kind of the network determines how they are passed on:

    one input           A Sequential or functional model with one input receives the first tensor.
    several inputs      Of a functional model, an input with the name of a tensor, or of an entry of
                        the condition, receives that tensor. The other inputs receive the remaining
                        tensors in order, those of the condition last, in the order of `CONDITION`.
    any other network   It is called as `network(z, log_snr, cond)`; without `cond` if its signature
                        has no parameter for it, or if there is no condition and the parameter has a
                        default value.

So `encoder([x, pooled])`, `encoder({"x": x, "pooled": pooled})` and `encoder(x, cond)` are three
ways to write the same network. `training` is passed by name.

References:
  https://keras.io/api/layers/core_layers/input (symbolic tensors).
"""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras

from kgen.types import Network, Shape

CONDITION = ("pooled", "tokens", "mask", "picture")
FRAMES = ("Exception encountered when", "Could not automatically infer")  # Keras' own first lines


def symbolic(shape: Shape, dtype: str = "float32") -> keras.KerasTensor:
    """Returns a symbolic tensor: a batch of any size of examples of a shape.

    Example:
        >>> symbolic((28, 28, 1)).shape
        (None, 28, 28, 1)
    """
    return keras.KerasTensor((None, *shape), dtype)


def call(network: Network, inputs: Mapping[str, Any], training: bool = False) -> Any:
    """Calls a network of any kind, by the rules of this module.

    Args:
        network: a Keras model or layer, or a function.
        inputs: an ordered dictionary of tensors; the entry `"cond"`, if any, comes last and is a
            dictionary of tensors or None.
        training: whether layers such as dropout are active.

    Returns:
        The output of the network; symbolic if the inputs are.

    Raises:
        ValueError: if the network has more inputs than there are tensors.

    Example:
        >>> x, pooled = keras.Input((3,)), keras.Input((2,))
        >>> both = keras.Model([x, pooled], keras.layers.Concatenate()([x, pooled]))
        >>> cond = {"pooled": symbolic((2,))}
        >>> call(both, {"x": symbolic((3,)), "cond": cond}).shape
        (None, 5)
    """
    main = {name: value for name, value in inputs.items() if name != "cond"}
    cond = inputs.get("cond")
    declared = _declared(network)
    if declared is not None:
        return network(_arranged(network, declared, {**main, **(cond or {})}), training=training)
    layer = isinstance(network, keras.Layer)
    if not layer and any(isinstance(value, keras.KerasTensor) for value in main.values()):
        return _Function(network)({name: v for name, v in inputs.items() if v is not None})
    arguments, (parameters, knows_training) = list(main.values()), _signature(network)
    if len(parameters) > len(main):
        required = parameters[len(main)].default is inspect.Parameter.empty
        arguments += [cond] if cond is not None or required else []
    if layer and len(arguments) > 1 and type(network).build is keras.Layer.build:
        # Loaded from a file, it would be built by Keras for its first input alone.
        network.get_build_config = _no_config
    return network(*arguments, **({"training": training} if layer or knows_training else {}))


def output_spec(network: Network, inputs: Mapping[str, Any], name: str = "network") -> Any:
    """Infers the output of a network by one call on symbolic inputs, which builds the network.

    Args:
        network: see `call`.
        inputs: see `call`; all tensors are symbolic.
        name: name of the argument, for the message.

    Returns:
        A `keras.KerasTensor`, or a structure of them.

    Raises:
        ValueError: if the network does not accept these inputs.
        TypeError: if `network` is neither a network nor a function.

    Example:
        >>> output_spec(keras.layers.Dense(5), {"x": symbolic((3,))}).shape
        (None, 5)
    """
    if isinstance(network, type) or not callable(network):
        raise TypeError(
            f"`{name}` must be a Keras model, a layer or a function. Received: {name}={network!r}."
        )
    try:
        return call(network, inputs)
    except Exception as error:
        lines = re.sub("\x1b\\[[0-9]*m", "", str(error)).splitlines()
        lines = [line.strip() for line in lines if line.strip() and not line.startswith(FRAMES)]
        reason = next(iter(lines), "")
        raise ValueError(
            f"`{name}` must take {describe(inputs)}. Received: a {type(network).__name__} that "
            f"raises {type(error).__name__}: {reason}"
        ) from error


def takes_condition(network: Network, num_main: int = 1) -> bool:
    """Returns whether a network accepts a condition after `num_main` tensors.

    Example:
        >>> takes_condition(keras.layers.Dense(5)), takes_condition(lambda x, cond: x)
        (False, True)
    """
    declared = _declared(network)
    return len(_signature(network)[0] if declared is None else declared) > num_main


def input_shape(network: Network, name: str = "x") -> Shape | None:
    """Returns the shape, without the batch, that a network declares or was built for.

    Args:
        network: see `call`.
        name: name of the input, see `call`.

    Returns:
        A tuple, with None for a variable size; or None if the shape is not known.

    Example:
        >>> input_shape(keras.Sequential([keras.Input((28, 28, 1)), keras.layers.Flatten()]))
        (28, 28, 1)
    """
    declared = _declared(network)
    if declared and None not in declared.values():
        tensor = declared.get(name, next(iter(declared.values())))
        return tuple(tensor.shape[1:])
    known = getattr(network, "data_shape", None)  # as kgen's own networks have
    if known is not None:
        return tuple(known)
    shape = getattr(network, "input_shape", None)
    if shape is None and getattr(network, "built", False):
        shape = (network.get_build_config() or {}).get("input_shape")
    known = isinstance(shape, tuple) and all(v is None or isinstance(v, int) for v in shape)
    return shape[1:] if known and shape else None


def output_shape(network: Network) -> Shape | None:
    """Returns the shape, without the batch, of a network with one output; None if not declared.

    Example:
        >>> output_shape(keras.Sequential([keras.Input((2,)), keras.layers.Dense(5)]))
        (5,)
    """
    outputs = getattr(network, "outputs", None) or ()
    return tuple(outputs[0].shape[1:]) if len(outputs) == 1 else None


def describe(inputs: Mapping[str, Any]) -> str:
    """Describes the names and shapes of symbolic tensors, for messages.

    Example:
        >>> describe({"x": symbolic((4, 1)), "cond": {"pooled": symbolic((2,))}})
        'x [B, 4, 1] and cond {pooled [B, 2]}'
    """

    def one(name: str, value: Any) -> str:
        if isinstance(value, dict):
            return f"{name} {{{', '.join(one(key, item) for key, item in value.items())}}}"
        if isinstance(value, (list, tuple)):
            return f"{name} ({', '.join(one('', item).strip() for item in value)})"
        return f"{name} [{', '.join(map(str, ('B', *value.shape[1:])))}]"

    return " and ".join(one(name, value) for name, value in inputs.items() if value is not None)


class _Function(keras.Layer):
    """A layer that wraps a function, so that Keras can call it on symbolic tensors."""

    def __init__(self, function: Callable) -> None:
        super().__init__(autocast=False)
        self.function = function

    def call(self, inputs: Mapping[str, Any]) -> Any:
        """Calls the function on `inputs`, a dictionary as `kgen.symbolic.call` takes it."""
        return call(self.function, inputs)


def _no_config() -> None:
    """The build configuration, None, of a network that Keras must not build."""


def _declared(network: Network) -> dict[str, keras.KerasTensor | None] | None:
    """Returns the inputs of a Sequential or functional model, `{name: tensor}`, else None.

    The tensor is None for the input of a Sequential model that is not built.
    """
    if isinstance(network, keras.Sequential):
        return {"x": (getattr(network, "inputs", None) or [None])[0]}
    if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
        return None
    paths = keras.tree.flatten_with_path(network.input)
    return {path[-1] if path and isinstance(path[-1], str) else v.name: v for path, v in paths}


def _arranged(network: Network, declared: dict, tensors: dict[str, Any]) -> Any:
    """Arranges tensors in the structure of the inputs of a Sequential or functional model."""
    if len(declared) == 1:
        values = [next(iter(tensors.values()))]
    else:
        order = sorted(tensors, key=lambda name: CONDITION.index(name) if name in CONDITION else -1)
        left = [name for name in order if name not in declared]
        if len(declared) > len(tensors):
            raise ValueError(f"it has the inputs {list(declared)}, more than there are tensors")
        values = [tensors[name if name in tensors else left.pop(0)] for name in declared]
    if isinstance(network, keras.Sequential):
        return values[0]
    return keras.tree.pack_sequence_as(network.input, values)


def _signature(network: Network) -> tuple[list[inspect.Parameter], bool]:
    """Returns the positional parameters, and whether the network has the parameter `training`.

    `training` and `mask` are left out of the parameters.
    """
    try:
        function = network.call if isinstance(network, keras.Layer) else network
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin
        return [], False
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    special = ("training", "mask")
    positional = [p for p in parameters.values() if p.kind in kinds and p.name not in special]
    return positional, "training" in parameters
