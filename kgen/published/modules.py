"""Conversion of weights between published modules and layers of kgen, in both directions.

A published network is a tree of modules, each with a `weight` and usually a `bias`. A table maps
the names of modules to layers; it is used to read and write weights and LoRA files. The order of
the axes differs:

    linear        [out, in]             kernel [in, out], or [in, heads, width], [heads, width, out]
    convolution   [out, in, h, w]       kernel [h, w, in, out]
    1 x 1         [out, in, 1, 1]       kernel [in, out], if kgen has a dense layer
    norm          weight, bias          gamma, beta
    embedding     [entries, width]      embeddings

If an array of a file is not used, or a variable is not filled, an error lists the names.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf

from kgen.published.weights import Arrays

LISTED = 12  # largest number of names in an error message


@dataclasses.dataclass(frozen=True)
class Slot:
    """A variable and the published arrays from which its value is computed.

    Args:
        names: names of the arrays.
        shapes: shapes of the arrays.
        variable: the variable.
        to_ours: a function from the arrays to the value of the variable.
        to_published: a function from the value to the list of arrays.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    variable: keras.Variable
    to_ours: Callable
    to_published: Callable


@dataclasses.dataclass(frozen=True)
class Module:
    """The layer of kgen that corresponds to a published module.

    Args:
        layer: the layer.
        kind: `"linear"`, `"convolution"`, `"pointwise"`, `"norm"` or `"embedding"`.
        inputs: of a linear module, the number of axes of the kernel that are inputs.
    """

    layer: keras.layers.Layer
    kind: str = "linear"
    inputs: int = 1

    def slots(self, name: str) -> list[Slot]:
        """Returns the variables with their arrays; `name` is the published name of the module."""
        layer = self.layer
        if self.kind == "norm":
            return [_vector(f"{name}.weight", layer.gamma), _vector(f"{name}.bias", layer.beta)]
        if self.kind == "embedding":
            return [_vector(f"{name}.weight", layer.embeddings)]
        slots = [self._kernel_slot(f"{name}.weight", self.kernel)]
        if getattr(layer, "bias", None) is not None:
            size = int(np.prod(layer.bias.shape))
            slots.append(_vector(f"{name}.bias", layer.bias, (size,)))
        return slots

    @property
    def kernel(self) -> keras.Variable:
        """The variable of the kernel; with a LoRA, `layer.kernel` is a tensor with the update."""
        names = ("kernel", "_kernel")
        found = [v for v in self.layer.weights if v.name in names]
        return found[0]

    def to_published(self, kernel: np.ndarray) -> np.ndarray:
        """Converts a kernel of the layer to the published weight."""
        if self.kind == "convolution":
            return np.transpose(kernel, (3, 2, 0, 1))
        inputs = int(np.prod(kernel.shape[: self.inputs]))
        weight = np.transpose(np.reshape(kernel, (inputs, -1)))
        return weight[:, :, None, None] if self.kind == "pointwise" else weight

    def to_ours(self, weight: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Converts a published weight to a kernel of the layer.

        Args:
            weight: the published weight.
            shape: shape of the kernel.
        """
        if self.kind == "convolution":
            return np.transpose(weight, (2, 3, 1, 0))
        return np.reshape(np.transpose(np.reshape(weight, weight.shape[:2])), shape)

    def _kernel_slot(self, name: str, variable: keras.Variable) -> Slot:
        shape = tuple(variable.shape)
        # A broadcast view has the shape of the weight but needs no memory.
        published = self.to_published(np.broadcast_to(np.float32(0), shape)).shape
        return Slot(
            (name,),
            (tuple(published),),
            variable,
            lambda weight: self.to_ours(weight, shape),
            lambda kernel: [self.to_published(kernel)],
        )


def _vector(name: str, variable: keras.Variable, published: tuple[int, ...] | None = None) -> Slot:
    """Returns the slot of a variable that is only reshaped to the published shape."""
    shape = tuple(variable.shape)
    published = shape if published is None else published
    return Slot(
        (name,),
        (published,),
        variable,
        lambda value: np.reshape(value, shape),
        lambda value: [np.reshape(value, published)],
    )


class Renamed(Arrays):
    """Arrays with changed names.

    Args:
        weights: the arrays.
        rename: a function from the name of an array to its new name, or to None to leave it out.

    Raises:
        ValueError: if two arrays have the same new name.
    """

    def __init__(self, weights: Arrays, rename: Callable[[str], str | None]) -> None:
        self.weights = weights
        self.names = {}
        for name in weights:
            new = rename(name)
            if new is None:
                continue
            if new in self.names:
                raise ValueError(
                    f"{describe(weights)} has {name!r} and {self.names[new]!r}, two names of one "
                    "array."
                )
            self.names[new] = name
        self.paths = weights.paths

    def __getitem__(self, name: str) -> np.ndarray:
        return self.weights[self.names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the shape of an array without reading it."""
        return self.weights.shape(self.names[name])

    def close(self) -> None:
        """Closes the file that is mapped into memory."""
        self.weights.close()


def describe(weights: Arrays) -> str:
    """Returns the path of the file of weights, of several that of the first, for messages."""
    more = len(weights.paths) - 1
    return f"{weights.paths[0]}" + (f" (and {more} more)" if more else "")


def check_names(slots: list[Slot], weights: Arrays) -> None:
    """Checks that the arrays are those of the variables, with the same names and shapes.

    Raises:
        ValueError: if not; the message lists missing and unknown arrays.
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


def check_shape(weights: Arrays, name: str, shape: tuple[int, ...]) -> None:
    """Checks the shape of an array, in which axes of size 1 at the end are ignored.

    Args:
        weights: the arrays of files.
        name: name of the array.
        shape: the expected shape.

    Raises:
        ValueError: if the array is missing or has another shape.
    """
    if name not in weights:
        raise ValueError(f"{describe(weights)} must have {name!r}. It is missing.")
    received = weights.shape(name)
    if _significant(received) != _significant(shape):
        raise ValueError(
            f"{describe(weights)} must have {name!r} of shape {list(shape)}, as its configuration "
            f"says. Received: {list(received)}."
        )


def read_slots(slots: list[Slot], weights: Arrays) -> None:
    """Assigns the arrays of files to variables, one by one, after `check_names`.

    Args:
        slots: the variables.
        weights: the arrays, whose files are closed at the end.

    Raises:
        ValueError: if an array is missing or unknown, has another shape, or is not finite.
    """
    check_names(slots, weights)
    for slot in slots:
        slot.variable.assign(_value(slot, weights))
    weights.close()


def _value(slot: Slot, weights: Arrays) -> np.ndarray:
    """Returns the value of a variable in its dtype, with few temporary copies."""
    value = slot.to_ours(*(weights[name] for name in slot.names))
    # If the sum is finite, so are all numbers; the exact test needs an array of booleans.
    if not np.isfinite(np.sum(value, dtype=np.float32)) and not np.isfinite(value).all():
        raise ValueError(f"{describe(weights)} must have finite numbers in {slot.names[0]!r}.")
    return np.ascontiguousarray(value, tf.as_dtype(slot.variable.dtype).as_numpy_dtype)


def write_slots(slots: list[Slot], dtype: str | None = None) -> dict[str, np.ndarray]:
    """Returns the published arrays of variables, by name.

    Args:
        slots: the variables.
        dtype: None for the dtype of the variables, or another one, such as `"float16"`.
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


def check_filled(slots: list[Slot], *networks: keras.layers.Layer) -> None:
    """Checks that a table contains every weight of networks.

    Raises:
        RuntimeError: if a weight is missing, which is a mistake in the table and not in a file.
    """
    filled = {id(slot.variable) for slot in slots}
    left = [v.path for network in networks for v in network.weights if id(v) not in filled]
    if left:
        raise RuntimeError(f"No published weight is known for {_listed(left)}.")


def _significant(shape: Sequence[int]) -> list[int]:
    """Returns a shape without the axes of size 1 at its end."""
    shape = list(shape)
    while shape and shape[-1] == 1:
        shape.pop()
    return shape


def _listed(names: Sequence[str]) -> str:
    """Returns the first names for a message, and the number of the others."""
    if not names:
        return "none"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(repr(name) for name in names[:LISTED]) + more
