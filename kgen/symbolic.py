"""Networks of any kind: how one is called, and what it returns, found by a call without numbers.

A network may be Sequential, functional (its inputs by position or by name), a subclass of
`keras.Model` or `keras.Layer`, or a function; built or not. Its caller holds named tensors, of
which the last may be a condition, a dictionary of tensors or None:

    {"x": x}        {"x": x, "cond": {"pooled": p}}        {"z": z, "log_snr": l, "cond": None}

One rule says what the network is given of them:

    one input           of a Sequential or functional model takes the first tensor
    several inputs      of a functional model: one that has the name of a tensor, or of an entry of
                        the condition, takes that; the others take the tensors that are left, in
                        their order, those of the condition last and in the order of `CONDITION`
    any other network   is called as `network(z, log_snr, cond)`; without `cond` where its signature
                        has no place for it, or where there is no condition and it has a default

so `encoder([x, pooled])`, `encoder({"x": x, "pooled": pooled})` and `encoder(x, cond)` are three
ways of writing one network. `training` is passed by name.

References:
  https://keras.io/api/layers/core_layers/input (symbolic tensors).
"""

import inspect
import re

import keras

CONDITION = ("pooled", "tokens", "mask", "picture")
FRAMES = ("Exception encountered when", "Could not automatically infer")  # around Keras' errors


def symbolic(shape, dtype="float32"):
    """A tensor without numbers: a batch of any size of examples of `shape`.

    Example:
        >>> symbolic((28, 28, 1)).shape
        (None, 28, 28, 1)
    """
    return keras.KerasTensor((None, *shape), dtype)


def call(network, inputs, training=False):
    """Calls a network of any kind by the rule of this module.

    Args:
        network: a Keras model or layer, or a function.
        inputs: a dictionary of tensors in order; `"cond"`, if there is one, comes last and is a
            dictionary of tensors or None.
        training: whether layers such as dropout are active.

    Returns:
        What the network returns; symbolic tensors for symbolic ones.

    Raises:
        ValueError: if it has more inputs than there are tensors.

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
        # From a file Keras would build it for its first input alone; whoever calls it builds it.
        network.get_build_config = _no_config
    return network(*arguments, **({"training": training} if layer or knows_training else {}))


def output_spec(network, inputs, name="network"):
    """What a network returns, found by one call on symbolic inputs; an unbuilt one is built by it.

    Args:
        network: as of `call`.
        inputs: as of `call`, of symbolic tensors.
        name: name of the argument, for the message.

    Returns:
        A `keras.KerasTensor`, or a structure of them.

    Raises:
        ValueError: if the network does not take these inputs.
        TypeError: if it is neither a network nor a function.

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


def takes_condition(network, num_main=1):
    """Whether a network has a place for a condition after `num_main` tensors.

    Example:
        >>> takes_condition(keras.layers.Dense(5)), takes_condition(lambda x, cond: x)
        (False, True)
    """
    declared = _declared(network)
    return len(_signature(network)[0] if declared is None else declared) > num_main


def input_shape(network, name="x"):
    """The shape without the batch that a network declares for one of its inputs, or was built for.

    Args:
        network: as of `call`.
        name: name of the tensor, as of `call`.

    Returns:
        A tuple, with None for a size that is open; or None where nothing is known.

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


def output_shape(network):
    """The shape without the batch that a network of one output declares, or None.

    Example:
        >>> output_shape(keras.Sequential([keras.Input((2,)), keras.layers.Dense(5)]))
        (5,)
    """
    outputs = getattr(network, "outputs", None) or ()
    return tuple(outputs[0].shape[1:]) if len(outputs) == 1 else None


def describe(inputs):
    """Symbolic tensors in words.

    Example:
        >>> describe({"x": symbolic((4, 1)), "cond": {"pooled": symbolic((2,))}})
        'x [B, 4, 1] and cond {pooled [B, 2]}'
    """

    def one(name, value):
        if isinstance(value, dict):
            return f"{name} {{{', '.join(one(key, item) for key, item in value.items())}}}"
        if isinstance(value, (list, tuple)):
            return f"{name} ({', '.join(one('', item).strip() for item in value)})"
        return f"{name} [{', '.join(map(str, ('B', *value.shape[1:])))}]"

    return " and ".join(one(name, value) for name, value in inputs.items() if value is not None)


class _Function(keras.Layer):
    """A function as a layer, so that Keras can call it on symbolic tensors."""

    def __init__(self, function):
        super().__init__(autocast=False)
        self.function = function

    def call(self, inputs):
        """Calls it on the inputs of the function `call`."""
        return call(self.function, inputs)


def _no_config():
    """The build configuration of a network that Keras is not to build."""


def _declared(network):
    """The inputs of a Sequential or functional model, `{name: tensor}`, or None of any other.

    The one input of a Sequential model that is not built has no tensor yet.
    """
    if isinstance(network, keras.Sequential):
        return {"x": (getattr(network, "inputs", None) or [None])[0]}
    if not isinstance(network, keras.Model) or not getattr(network, "inputs", None):
        return None
    paths = keras.tree.flatten_with_path(network.input)
    return {path[-1] if path and isinstance(path[-1], str) else v.name: v for path, v in paths}


def _arranged(network, declared, tensors):
    """The tensors in the structure of the inputs of a Sequential or functional model."""
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


def _signature(network):
    """Positional parameters without `training` and `mask`, and whether `training` is known."""
    try:
        function = network.call if isinstance(network, keras.Layer) else network
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin
        return [], False
    kinds = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    special = ("training", "mask")
    positional = [p for p in parameters.values() if p.kind in kinds and p.name not in special]
    return positional, "training" in parameters
