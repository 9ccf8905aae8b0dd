"""Traversal of the tree of layers inside a Keras layer.

The place of a layer is its path from the root: the names of the attributes that hold it, positions
in lists, and positions among the layers of a `Sequential` or functional model. A model that is
rebuilt from its configuration has the same places, while the automatic names of its layers may be
numbered differently.
"""

from collections.abc import Iterator
from typing import Any

import keras


def walk(root: keras.Layer) -> Iterator[tuple[tuple, keras.Layer]]:
    """Yields `(place, layer)` for a layer and all layers inside it, each layer once.

    Args:
        root: a Keras layer.

    Yields:
        Pairs of a place, which is a tuple of strings and integers, and a layer; the root first.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> [place for place, _ in walk(model)]
        [(), (0,)]
    """
    seen = set()

    def visit(place: tuple, layer: keras.Layer) -> Iterator[tuple[tuple, keras.Layer]]:
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield place, layer
        for step, child in _children(layer):
            yield from visit((*place, *step), child)

    yield from visit((), root)


def layers_of(root: keras.Layer) -> list[keras.Layer]:
    """Returns a layer and all layers inside it, each once.

    Example:
        >>> [type(layer).__name__ for layer in layers_of(keras.layers.Dense(2))]
        ['Dense']
    """
    return [layer for _, layer in walk(root)]


def places(root: keras.Layer) -> dict[int, tuple[str, ...]]:
    """Returns the place of each variable inside a layer.

    Args:
        root: a built Keras layer.

    Returns:
        A dictionary from the `id` of a variable to a tuple of strings: the place of the layer that
        owns it, followed by its index among the variables of that layer.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> list(places(model).values())
        [('0', '0'), ('0', '1')]
    """
    found = {}
    pairs = list(walk(root))
    # The deepest first: variables that belong to no inner layer are the layer's own.
    for place, layer in reversed(pairs):
        inside = {id(v) for part in layers_of(layer)[1:] for v in part.variables}
        own = [v for v in layer.variables if id(v) not in inside]
        for number, variable in enumerate(own):
            found.setdefault(id(variable), (*map(str, place), str(number)))
    return {key: found[key] for _, layer in pairs for key in _ids(layer) if key in found}


def check_savable(root: keras.Layer) -> None:
    """Checks that a saved layer can be loaded again.

    Raises:
        ValueError: if a layer was quantised by `quantize`, whose files cannot be loaded.
    """
    names = [v.name for v in layers_of(root) if getattr(v, "quantization_mode", None)]
    if names:
        raise ValueError(
            "A model with quantised layers cannot be saved, since it could not be loaded: save it "
            f"before `quantize`, or `export` it. Received: {', '.join(names[:5])}."
        )


def freeze(root: keras.Layer) -> None:
    """Makes a layer and all layers inside it not trainable.

    Each layer is set by itself, because TensorFlow skips the assignment of a value that an
    attribute already has: on a frozen model that Keras has rebuilt, setting `trainable` of the root
    alone would not reach the inner layers.
    """
    for layer in layers_of(root):
        layer.trainable = False


def _ids(layer: keras.Layer) -> list[int]:
    return [id(variable) for variable in layer.variables]


def _children(layer: keras.Layer) -> Iterator[tuple[tuple, keras.Layer]]:
    """Yields pairs of the path to an inner layer, relative to `layer`, and the inner layer."""
    listed = isinstance(layer, keras.Sequential) or _functional(layer)
    if listed:
        yield from (((number,), part) for number, part in enumerate(layer.layers))
    for private in (False,) if listed else (False, True):  # public attributes first
        for name, value in sorted(vars(layer).items()):
            if name.startswith("_") == private:
                yield from _found((name,), value)


def _functional(layer: keras.Layer) -> bool:
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def _found(steps: tuple, value: Any) -> Iterator[tuple[tuple, keras.Layer]]:
    if isinstance(value, keras.layers.Layer):
        yield steps, value
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _found((*steps, number), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _found((*steps, str(key)), item)
