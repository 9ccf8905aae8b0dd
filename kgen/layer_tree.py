"""The tree of layers inside of a Keras layer, walked by public attributes.

The place of a layer is how one gets to it from the root: the attribute that holds it, the position
in a list, its position among the layers of a `Sequential` or functional model. A model that is
rebuilt from its configuration has the same places, while the display names of its layers may be
numbered otherwise.
"""

import keras


def walk(root):
    """Yields `(place, layer)` for a layer and all inside of it, each layer once.

    Args:
        root: a Keras layer.

    Yields:
        Pairs of a tuple of strings and numbers, and a layer, the root first.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> [place for place, _ in walk(model)]
        [(), (0,)]
    """
    seen = set()

    def visit(place, layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield place, layer
        for step, child in _children(layer):
            yield from visit((*place, *step), child)

    yield from visit((), root)


def layers_of(root):
    """Returns a layer and all layers inside of it, each once.

    Example:
        >>> [type(layer).__name__ for layer in layers_of(keras.layers.Dense(2))]
        ['Dense']
    """
    return [layer for _, layer in walk(root)]


def places(root):
    """Returns the place of each variable inside of a layer.

    Args:
        root: a built Keras layer.

    Returns:
        A dictionary from the `id` of a variable to a tuple: the place of its layer and its number
        among the variables that this layer holds itself.

    Example:
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> list(places(model).values())
        [('0', '0'), ('0', '1')]
    """
    found = {}
    pairs = list(walk(root))
    # The deepest first: what a layer lists beside the variables of its parts is its own.
    for place, layer in reversed(pairs):
        inside = {id(v) for part in layers_of(layer)[1:] for v in part.variables}
        own = [v for v in layer.variables if id(v) not in inside]
        for number, variable in enumerate(own):
            found.setdefault(id(variable), (*map(str, place), str(number)))
    return {key: found[key] for _, layer in pairs for key in _ids(layer) if key in found}


def check_savable(root):
    """Checks that what is saved of a layer can be read again.

    Raises:
        ValueError: for layers that `quantize` has made of others: files of them are not read.
    """
    names = [v.name for v in layers_of(root) if getattr(v, "quantization_mode", None)]
    if names:
        raise ValueError(
            "Quantised layers cannot be saved, as such files are not read: save the model before "
            f"`quantize`, or `export` it. Received: {', '.join(names[:5])}."
        )


def freeze(root):
    """Makes a layer and all inside of it not trainable.

    One by one: TensorFlow skips the assignment of a value that an attribute already has, so that
    setting it on a frozen model that Keras has rebuilt does not reach the layers inside.
    """
    for layer in layers_of(root):
        layer.trainable = False


def _ids(layer):
    return [id(variable) for variable in layer.variables]


def _children(layer):
    """Pairs of the steps to a layer inside, and that layer."""
    listed = isinstance(layer, keras.Sequential) or _functional(layer)
    if listed:
        yield from (((number,), part) for number, part in enumerate(layer.layers))
    for private in (False,) if listed else (False, True):  # first what has a public name
        for name, value in sorted(vars(layer).items()):
            if name.startswith("_") == private:
                yield from _found((name,), value)


def _functional(layer):
    return isinstance(layer, keras.Model) and bool(getattr(layer, "inputs", None))


def _found(steps, value):
    if isinstance(value, keras.layers.Layer):
        yield steps, value
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from _found((*steps, number), item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _found((*steps, str(key)), item)
