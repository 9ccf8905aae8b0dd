"""Replacing the dtype policies in a Keras configuration, to rebuild a model in another precision.

A network is trained in one precision, usually float32, or in half precision, mixed or not, with
some layers such as its output in float32. To rebuild it in another precision,

    in a network with half policies     these are replaced; its float32 layers stay
    in a network without                all policies are replaced, but under a half policy its
                                        outputs stay float32, as in networks that train in one

A model of kgen consists of several networks, which are treated separately. Layers that choose their
precision when they are built, such as embeddings of time, keep it.
"""

from collections.abc import Sequence
from typing import Any

HALF = ("bfloat16", "float16", "mixed_bfloat16", "mixed_float16")
OWN = "kgen>"  # prefix of the registered names of kgen's classes
SIZES = ("units", "filters", "kernel_size", "depth_multiplier")  # arguments of layers with a kernel


def in_dtype(config: Any, dtype: str) -> Any:
    """Returns the configuration of a model in another precision.

    Args:
        config: the result of `keras.saving.serialize_keras_object`, which is not changed.
        dtype: name of a Keras policy.

    Example:
        >>> layer = {"class_name": "Dense", "config": {"units": 3, "dtype": "float32"}}
        >>> in_dtype(layer, "mixed_bfloat16")["config"]["dtype"]
        'mixed_bfloat16'
    """
    if isinstance(config, list):
        return [in_dtype(item, dtype) for item in config]
    if not isinstance(config, dict):
        return config
    if "class_name" not in config or str(config.get("registered_name")).startswith(OWN):
        inner = {key: in_dtype(value, dtype) for key, value in config.items() if key != "dtype"}
        own = {key: value for key, value in config.items() if key == "dtype"}
        inner |= _replaced(own, (*HALF, "float32"), dtype)
        return {key: inner[key] for key in config}
    if set(_names(config)) & set(HALF):
        return _replaced(config, HALF, dtype)
    return _replaced(config, ("float32",), dtype, dtype in HALF)


def _replaced(config: Any, old: Sequence[str], dtype: str, keep_outputs: bool = False) -> Any:
    """Returns the configuration with every policy in `old` replaced by `dtype`."""
    if isinstance(config, list):
        return [_replaced(item, old, dtype, keep_outputs) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "InputLayer":  # has the type of the data
        return config
    kept = _output_layers(config) if keep_outputs else ()
    result = {}
    for key, value in config.items():
        if key == "dtype" and _name(value) in old:
            value = {**value, "config": {"name": dtype}} if isinstance(value, dict) else dtype
        elif key == "layers" and isinstance(value, list):
            value = [
                layer if _layer_name(layer) in kept else _replaced(layer, old, dtype, keep_outputs)
                for layer in value
            ]
        elif key not in ("build_config", "inbound_nodes"):
            value = _replaced(value, old, dtype, keep_outputs)
        result[key] = value
    return result


def _output_layers(config: Any) -> set[str]:
    """Returns the names of the output layers of a Sequential or functional model.

    These are the layers from each output back to the first layer with a kernel.
    """
    layers = config.get("layers")
    if not isinstance(layers, list):
        return set()
    by_name = {_layer_name(layer): layer for layer in layers}
    order = [_layer_name(layer) for layer in layers]
    before = {name: _sources(layer) for name, layer in by_name.items()}
    if "output_layers" in config:
        found = [name for name in by_name if name in _texts(config["output_layers"])]
    else:  # Sequential
        found = order[-1:]
        before = {name: order[max(i - 1, 0) : i] for i, name in enumerate(order)}
    kept = set()
    while found:
        name = found.pop()
        if name in kept or name not in by_name:
            continue
        kept.add(name)
        inner = by_name[name].get("config")
        if not (isinstance(inner, dict) and any(key in inner for key in (*SIZES, "layers"))):
            found.extend(before[name])
    return {name for name in kept if "layers" not in by_name[name].get("config", {})}


def _layer_name(layer: Any) -> str | None:
    """Returns the name of a serialised layer."""
    inner = layer.get("config") if isinstance(layer, dict) else None
    return inner.get("name") if isinstance(inner, dict) else None


def _sources(layer: Any) -> list[str]:
    """Returns the names of the layers whose outputs are the inputs of a serialised layer."""
    found = []

    def visit(value: Any) -> None:
        if isinstance(value, dict):
            history = value.get("keras_history")
            if isinstance(history, list) and history:
                found.append(history[0])
            for item in value.values():
                visit(item)
        elif isinstance(value, list):
            for item in value:
                visit(item)

    visit(layer.get("inbound_nodes") if isinstance(layer, dict) else None)
    return found


def _texts(value: Any) -> list:
    if isinstance(value, (list, tuple)):
        return [text for item in value for text in _texts(item)]
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [value]


def _names(config: Any) -> list[str | None]:
    """Returns the names of all policies in a configuration."""
    if isinstance(config, list):
        return [name for item in config for name in _names(item)]
    if not isinstance(config, dict):
        return []
    own = [_name(config["dtype"])] if "dtype" in config else []
    return own + [name for value in config.values() for name in _names(value)]


def _name(policy: Any) -> str | None:
    """Returns the name of a policy, which Keras writes as a string or as an object."""
    inner = policy.get("config") if isinstance(policy, dict) else None
    name = inner.get("name") if isinstance(inner, dict) else policy
    return name if isinstance(name, str) else None
