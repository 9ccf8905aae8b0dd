"""Published modules and kgen's layers, side by side, in both directions.

A published network is a tree of modules, each with a `weight` and perhaps a `bias`; a table of kgen
pairs a module's name with a layer. From such a table follow reading, writing, and where a LoRA file
belongs. What differs is the order of the axes:

    linear        [out, in]             kernel [in, out], or [in, heads, width], [heads, width, out]
    convolution   [out, in, h, w]       kernel [h, w, in, out]
    1 x 1         [out, in, 1, 1]       kernel [in, out], where kgen has a dense layer
    norm          weight, bias          gamma, beta
    embedding     [entries, width]      embeddings

Every array of a file is used and every variable is filled, or it is an error that lists both.
"""

import dataclasses
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf

from kgen.published.weights import Weights

LISTED = 12  # names in an error


@dataclasses.dataclass(frozen=True)
class Slot:
    """A variable and the published arrays that it is made of.

    Args:
        names: names of the arrays.
        shapes: their shapes.
        variable: the variable.
        to_ours: makes the value of the variable from the arrays, and from nothing else.
        to_published: makes the list of arrays from the value.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    variable: keras.Variable
    to_ours: Callable
    to_published: Callable


@dataclasses.dataclass(frozen=True)
class Module:
    """A published module and the layer that it is in kgen.

    Args:
        layer: the layer.
        kind: `"linear"`, `"convolution"`, `"pointwise"`, `"norm"` or `"embedding"`.
        inputs: of a linear one, how many axes of the kernel are inputs.
    """

    layer: keras.layers.Layer
    kind: str = "linear"
    inputs: int = 1

    def slots(self, name: str) -> list[Slot]:
        """Returns the variables with their arrays."""
        layer = self.layer
        if self.kind == "norm":
            return [_vector(f"{name}.weight", layer.gamma), _vector(f"{name}.bias", layer.beta)]
        if self.kind == "embedding":
            return [_vector(f"{name}.weight", layer.embeddings)]
        slots = [self._kernel(f"{name}.weight", self.kernel)]
        if getattr(layer, "bias", None) is not None:
            size = int(np.prod(layer.bias.shape))
            slots.append(_vector(f"{name}.bias", layer.bias, (size,)))
        return slots

    @property
    def kernel(self) -> keras.Variable:
        """The weight of the layer; `layer.kernel` of one with LoRA is a tensor, the sum of both."""
        names = ("kernel", "_kernel")
        found = [v for v in self.layer.weights if v.name in names]
        return found[0]

    def to_published(self, kernel: np.ndarray) -> np.ndarray:
        """Returns a kernel of the layer as the published weight."""
        if self.kind == "convolution":
            return np.transpose(kernel, (3, 2, 0, 1))
        inputs = int(np.prod(kernel.shape[: self.inputs]))
        weight = np.transpose(np.reshape(kernel, (inputs, -1)))
        return weight[:, :, None, None] if self.kind == "pointwise" else weight

    def to_ours(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a published weight as a kernel of the layer, of that shape."""
        if self.kind == "convolution":
            return np.transpose(weight, (2, 3, 1, 0))
        return np.reshape(np.transpose(np.reshape(weight, weight.shape[:2])), shape)

    def _kernel(self, name, variable):
        shape = tuple(variable.shape)
        # A view of one number tells the published shape without the memory of a weight.
        published = self.to_published(np.broadcast_to(np.float32(0), shape)).shape
        return Slot(
            (name,),
            (tuple(published),),
            variable,
            lambda weight: self.to_ours(weight, shape),
            lambda kernel: [self.to_published(kernel)],
        )


def _vector(name, variable, published=None):
    shape = tuple(variable.shape)
    published = shape if published is None else published
    return Slot(
        (name,),
        (published,),
        variable,
        lambda value: np.reshape(value, shape),
        lambda value: [np.reshape(value, published)],
    )


class Renamed(Mapping):
    """Arrays under other names.

    Args:
        weights: the arrays.
        rename: a function of a name that returns the other one, or None for an array to leave out.

    Raises:
        ValueError: if two arrays get one name.
    """

    def __init__(self, weights: Weights, rename: Callable):
        self.weights = weights
        self.names = {}
        for name in weights:
            new = rename(name)
            if new is None:
                continue
            if new in self.names:
                raise ValueError(
                    f"{describe(weights)} has {name!r} and {self.names[new]!r}, which are one."
                )
            self.names[new] = name
        self.paths = weights.paths

    def __getitem__(self, name):
        return self.weights[self.names[name]]

    def __iter__(self):
        return iter(self.names)

    def __len__(self):
        return len(self.names)

    def __contains__(self, name):
        return name in self.names

    def shape(self, name):
        """Returns the shape of an array, without reading it."""
        return self.weights.shape(self.names[name])

    def close(self):
        """Lets the mapped file go."""
        self.weights.close()


def describe(weights) -> str:
    """Returns the name of the file of weights, or of the first of several."""
    more = len(weights.paths) - 1
    return f"{weights.paths[0]}" + (f" (and {more} more)" if more else "")


def check_names(slots: list[Slot], weights: Weights):
    """Checks that there is an array for every variable, of its shape, and no other array.

    Raises:
        ValueError: if not; lists what is missing and what is left over.
    """
    expected = {}
    for slot in slots:
        expected |= dict(zip(slot.names, slot.shapes))
    missing = [name for name in expected if name not in weights]
    unused = [name for name in weights if name not in expected]
    if missing or unused:
        raise ValueError(
            f"{describe(weights)} must have the weights of the network that its configuration "
            f"describes. Missing are {_listed(missing)}; unknown are {_listed(unused)}."
        )
    for name, shape in expected.items():
        check_shape(weights, name, shape)


def check_shape(weights: Weights, name: str, shape: tuple[int, ...]):
    """Checks that there is an array of a shape; ones at the end do not count.

    Raises:
        ValueError: if not; names the array.
    """
    if name not in weights:
        raise ValueError(f"{describe(weights)} must have {name!r}. It is missing.")
    received = weights.shape(name)
    if _significant(received) != _significant(shape):
        raise ValueError(
            f"{describe(weights)} must have {name!r} of shape {list(shape)}, as its configuration "
            f"says. Received: {list(received)}."
        )


def read_slots(slots: list[Slot], weights: Weights):
    """Reads arrays into variables, one by one, after `check_names`.

    Raises:
        ValueError: if a name or a shape is not as it must be, or an array is not finite.
    """
    check_names(slots, weights)
    for slot in slots:
        slot.variable.assign(_value(slot, weights))
    weights.close()


def _value(slot, weights):
    """The value of a variable in its own type; of a large one few copies exist at a time."""
    value = slot.to_ours(*(weights[name] for name in slot.names))
    # A sum is finite where all numbers are; one of half precision is made in float32.
    if not np.isfinite(np.sum(value, dtype=np.float32)) and not np.isfinite(value).all():
        raise ValueError(f"{describe(weights)} must have finite numbers in {slot.names[0]!r}.")
    return np.ascontiguousarray(value, tf.as_dtype(slot.variable.dtype).as_numpy_dtype)


def write_slots(slots: list[Slot], dtype: str | None = None) -> dict[str, np.ndarray]:
    """Returns the published arrays of variables, by name.

    Args:
        slots: the variables.
        dtype: None for the type of the variables, or another one, such as `"float16"`.
    """
    arrays = {}
    for slot in slots:
        value = keras.ops.convert_to_numpy(slot.variable)
        for name, array in zip(slot.names, slot.to_published(value)):
            arrays[name] = np.ascontiguousarray(array, dtype)
    return arrays


def slots_of(modules: dict[str, Module]) -> list[Slot]:
    """Returns the slots of a table of modules."""
    return [slot for name, module in modules.items() for slot in module.slots(name)]


def check_filled(slots: list[Slot], *networks: keras.layers.Layer):
    """Checks that a table has every weight of a network; a fault of the table, not of a file.

    Raises:
        RuntimeError: if one is left out.
    """
    filled = {id(slot.variable) for slot in slots}
    left = [v.path for network in networks for v in network.weights if id(v) not in filled]
    if left:
        raise RuntimeError(f"No published weight is known for {_listed(left)}.")


def _significant(shape):
    shape = list(shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape


def _listed(names):
    if not names:
        return "none"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(repr(name) for name in names[:LISTED]) + more
