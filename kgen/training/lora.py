"""LoRA: a trained low-rank update of a frozen kernel.

    y = x (W + alpha / rank A B),    A [in, rank], B [rank, out],    B = 0 initially

It uses `enable_lora` of Keras. The kernels of the projections in Keras' multi-head attention have
three axes, for which the update of Keras is not the published one. These layers are changed to a
subclass in which A and B factorise the update of the kernel as a matrix.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import ops

from kgen.layer_tree import layers_of, walk
from kgen.serialization import Untracked
from kgen.types import Network

ATTENTION = ("to_q", "to_k", "to_v", "to_out", "query", "key", "value", "attention_output")
TARGETS = ("attention", "dense", "all")
DENSE = (keras.layers.Dense, keras.layers.EinsumDense)


class LoRA(keras.layers.Layer):
    """The layers of a model that have a LoRA, and their factors.

    Args:
        parts: the networks by name, such as `{"unet": network}`.
        ranks: `{part: {place: (rank, alpha)}}`, with places as in `candidates`. Layers that have a
            LoRA already keep it.
        **kwargs: `name` of a Keras layer.

    Attributes:
        factors: the variables A and B of each layer.

    Raises:
        ValueError: if there is no layer at a place.

    Example:
        >>> network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> lora = LoRA({"unet": network}, {"unet": {"0": (1, 1.0)}})
        >>> [tuple(factor.shape) for factor in lora.factors]
        [(3, 1), (1, 2)]
    """

    def __init__(
        self,
        parts: Mapping[str, Network],
        ranks: Mapping[str, Mapping[str, tuple[int, float]]],
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        found, changed = candidates(parts), []
        for part, layers in ranks.items():
            for place, (rank, alpha) in layers.items():
                if (part, place) not in found:
                    raise ValueError(f"LoRA: {part!r} has no layer at {place!r}.")
                layer = found[part, place]
                if not layer.lora_enabled:
                    enable(layer, rank, alpha)
                changed.append(layer)
        self._changed = Untracked(changed)
        # Tracked here too: a model does not track the weights of its text encoder.
        self.factors = [v for a in changed for v in (a.lora_kernel_a, a.lora_kernel_b)]
        self.built = True

    @property
    def layers(self) -> list[keras.layers.Layer]:
        """The layers with a LoRA."""
        return self._changed.value

    @contextlib.contextmanager
    def unmerged(self) -> Iterator[None]:
        """A context in which the kernels of the layers are read and saved without the update."""
        for layer in self.layers:
            layer.lora_enabled = False
        try:
            yield
        finally:
            for layer in self.layers:
                layer.lora_enabled = True

    def remove(self, merge: bool) -> None:
        """Removes the factors from the layers.

        Args:
            merge: whether to add the update to the kernels first.
        """
        for variable in list(self.factors):
            self._untrack_variable(variable)
        self.factors = []
        for layer in self.layers:
            disable(layer, merge)
        self._changed.value = []


def candidates(parts: Mapping[str, Network]) -> dict[tuple[str, str], keras.layers.Layer]:
    """Returns the layers that can have a LoRA.

    Args:
        parts: networks by name.

    Returns:
        The layers by the pair of a part and the dotted place in it (`kgen.layer_tree`).
    """
    return {
        (part, ".".join(map(str, place))): layer
        for part, network in parts.items()
        for place, layer in walk(network)
        if hasattr(layer, "enable_lora") and layer.built and len(layer.weights) > 0
        if not isinstance(layer, keras.layers.Embedding)
    }


def chosen(
    parts: Mapping[str, Network], targets: Literal["attention", "dense", "all"] | Sequence[str]
) -> dict[tuple[str, str], keras.layers.Layer]:
    """Returns the candidates that `targets` selects.

    Args:
        parts: networks by name.
        targets: `"attention"` for the projections of attention, `"dense"` for all dense layers,
            `"all"` for convolutions too, or names of layers.

    Returns:
        A dictionary as of `candidates`.

    Raises:
        ValueError: if `targets` is unknown, or selects no layer in one of the parts.
    """
    found = candidates(parts)
    if isinstance(targets, str) and targets not in TARGETS:
        raise ValueError(
            f"`targets` must be one of {TARGETS}, or a list of names of layers. "
            f"Received: targets={targets!r}."
        )
    names = ATTENTION if targets == "attention" else targets

    def wanted(layer: keras.layers.Layer) -> bool:
        if targets == "all":
            return True
        return isinstance(layer, DENSE) if targets == "dense" else layer.name in names

    result = {key: layer for key, layer in found.items() if wanted(layer)}
    for part in parts:
        if not any(key[0] == part for key in result):
            there = sorted({layer.name for key, layer in found.items() if key[0] == part})
            raise ValueError(
                f"`targets` must name layers of {part!r}, which has {', '.join(there[:20])}. "
                f"Received: targets={targets!r}."
            )
    return result


def names(network: Network) -> dict[int, str]:
    """Returns a readable name for each layer of a network, such as `down_1_0_attn_attn1.to_q`.

    A layer of a `Sequential` or functional model is named by its own name; a layer that is an
    attribute, by the name of the attribute.

    Returns:
        The names by the `id` of the layer.
    """
    named, result, taken = {(): ""}, {}, set()
    for place, layer in walk(network):
        if not place:
            continue
        above = max((p for p in named if p == place[: len(p)]), key=len)
        step = [str(s) for s in place[len(above) :]]
        listed = step[-1].isdigit() or step[-1].startswith("_")
        name = layer.name if listed else ".".join(step)
        name = f"{named[above]}.{name}" if named[above] else name
        while name in taken:
            name += "_"
        taken.add(name)
        named[place] = result[id(layer)] = name
    return result


def enable(layer: keras.layers.Layer, rank: int, alpha: float | None = None) -> None:
    """Adds a LoRA to a layer.

    Args:
        layer: a layer with `enable_lora`, built.
        rank: rank of the update.
        alpha: scale of the update alpha / rank A B; None for `rank`.

    Raises:
        ValueError: if the layer has a LoRA already.
    """
    if type(layer) is keras.layers.EinsumDense:
        layer.__class__ = _MatrixEinsumDense
    layer.enable_lora(int(rank), lora_alpha=alpha)
    for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
        factor.trainable = True


def disable(layer: keras.layers.Layer, merge: bool) -> None:
    """Removes the LoRA of a layer.

    Args:
        layer: a layer with a LoRA.
        merge: whether to add the update to the kernel first.
    """
    if merge:
        a, b = (ops.cast(f, "float32") for f in (layer.lora_kernel_a, layer.lora_kernel_b))
        kernel = layer._kernel
        change = layer.lora_alpha / layer.lora_rank * ops.matmul(a, b)
        kernel.assign(ops.cast(kernel, "float32") + ops.reshape(change, kernel.shape))
    for name in ("lora_kernel_a", "lora_kernel_b"):
        layer._untrack_variable(getattr(layer, name))
        # `del layer.name` would also run a slow garbage collection each time.
        super(keras.layers.Layer, layer).__delattr__(name)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    layer._kernel.trainable = True


def count(variables: Sequence[keras.Variable]) -> int:
    """Returns the number of parameters in variables."""
    return sum(math.prod(variable.shape) for variable in variables)


class FrozenWeights:
    """The weights of parts of a model, frozen while a few others are trained.

    Args:
        parts: layers whose weights are frozen.
        trained: the variables, of these layers or others, that are trained.

    Attributes:
        variables: the frozen variables, without the counters of random layers.
    """

    def __init__(
        self, parts: Sequence[keras.layers.Layer], trained: Sequence[keras.Variable]
    ) -> None:
        kept = {id(v) for v in trained}
        variables = {id(v): v for part in parts for v in part.variables}.values()
        inside = [layer for part in parts for layer in layers_of(part)]
        # Only leaves: a frozen layer has no trainable weights, those of a LoRA inside included.
        leaves = [a for a in inside if len(layers_of(a)) == 1]
        leaves = [a for a in leaves if not any(id(v) in kept for v in a.variables)]
        self._layers = [(layer, layer.trainable) for layer in leaves]
        self._variables = [(v, v.trainable) for v in variables]
        for layer in leaves:
            layer.trainable = False
        for variable in variables:
            variable.trainable = id(variable) in kept
        # The counters of random layers are integers, and change in training.
        self.variables = [v for v in variables if id(v) not in kept and "float" in v.dtype]

    def release(self) -> None:
        """Makes the layers and variables trainable again that were so before."""
        for layer, trainable in self._layers:
            layer.trainable = trainable
        for variable, trainable in self._variables:
            variable.trainable = trainable


class _MatrixEinsumDense(keras.layers.EinsumDense):
    """An `EinsumDense` whose LoRA updates the kernel as a matrix, inputs by outputs."""

    @property
    def kernel(self) -> tf.Tensor:
        """The kernel with the update, if there is one."""
        kernel = self._kernel
        if not self.lora_enabled:
            return kernel
        change = ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        change = self.lora_alpha / self.lora_rank * ops.reshape(change, kernel.shape)
        return ops.cast(ops.add(kernel, change), self.compute_dtype)

    def enable_lora(self, rank: int, lora_alpha: float | None = None) -> None:
        """Adds the factors, with the shapes of the kernel as a matrix.

        Raises:
            ValueError: if the layer has a LoRA already.
        """
        if self.lora_enabled:
            raise ValueError("lora is already enabled. This can only be done once per layer.")
        inputs, kernel = self.equation.split("->")[0].split(",")
        shape = self._kernel.shape
        rows = math.prod(n for n, axis in zip(shape, kernel) if axis in inputs)
        columns = math.prod(n for n, axis in zip(shape, kernel) if axis not in inputs)
        self._tracker.unlock()
        options = {"dtype": "float32"}
        self.lora_kernel_a = self.add_weight(
            name="lora_kernel_a", shape=(rows, rank), initializer="he_uniform", **options
        )
        self.lora_kernel_b = self.add_weight(
            name="lora_kernel_b", shape=(rank, columns), initializer="zeros", **options
        )
        self._kernel.trainable = False
        self._tracker.lock()
        self.lora_enabled = True
        self.lora_rank = rank
        self.lora_alpha = lora_alpha if lora_alpha is not None else rank
