"""LoRA: a change of low rank beside the kernel of a layer, which alone is trained.

    y = x (W + alpha / rank A B),    A [in, rank], B [rank, out],    B = 0 at the start

It is Keras' own `enable_lora`. Of the projections inside of Keras' multi-head attention, whose
kernels have three axes, Keras makes another change than the one that is published, so that these
layers get a class of their own here: A and B are those of the kernel as a matrix.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685, section 4.1.
"""

import contextlib
import math

import keras
from keras import ops

from kgen.layer_tree import layers_of, walk

ATTENTION = ("to_q", "to_k", "to_v", "to_out", "query", "key", "value", "attention_output")
TARGETS = ("attention", "dense", "all")
DENSE = (keras.layers.Dense, keras.layers.EinsumDense)


class LoRA(keras.layers.Layer):
    """The layers of a model that have a LoRA, and their factors.

    Args:
        parts: the networks by name, such as `{"unet": network}`.
        ranks: `{part: {place: (rank, alpha)}}`, the place as of `candidates`. Layers that have a
            LoRA already keep it.
        **kwargs: `name` of a Keras layer.

    Raises:
        ValueError: if there is no such layer.

    Example:
        >>> network = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> lora = LoRA({"unet": network}, {"unet": {"0": (1, 1.0)}})
        >>> [tuple(factor.shape) for factor in lora.factors]
        [(3, 1), (1, 2)]
    """

    def __init__(self, parts, ranks, **kwargs):
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
        self._changed = _Hidden(changed)
        # Tracked here too: those of a text encoder are in no other part of the model.
        self.factors = [v for a in changed for v in (a.lora_kernel_a, a.lora_kernel_b)]
        self.built = True

    @property
    def layers(self):
        """The layers."""
        return self._changed.value

    @contextlib.contextmanager
    def left_out(self):
        """A context in which the layers save their kernels as they are, without the change."""
        for layer in self.layers:
            layer.lora_enabled = False
        try:
            yield
        finally:
            for layer in self.layers:
                layer.lora_enabled = True

    def remove(self, merge):
        """Takes the factors out of the layers; with `merge` their change stays in the kernels."""
        for variable in list(self.factors):
            self._untrack_variable(variable)
        self.factors = []
        for layer in self.layers:
            disable(layer, merge)
        self._changed.value = []


def candidates(parts):
    """Returns the layers that can have a LoRA.

    Args:
        parts: networks by name.

    Returns:
        A dictionary from pairs of a part and a place in it (`kgen.layer_tree`, with dots) to the
        layer.
    """
    return {
        (part, ".".join(map(str, place))): layer
        for part, network in parts.items()
        for place, layer in walk(network)
        if hasattr(layer, "enable_lora") and layer.built and len(layer.weights) > 0
        if not isinstance(layer, keras.layers.Embedding)
    }


def chosen(parts, targets):
    """Returns the candidates that `targets` means.

    Args:
        parts: networks by name.
        targets: `"attention"` for the projections of attention, `"dense"` for all dense layers,
            `"all"` for convolutions too, or names of layers.

    Raises:
        ValueError: for another word, or if there is no such layer in one of the parts.
    """
    found = candidates(parts)
    if isinstance(targets, str) and targets not in TARGETS:
        raise ValueError(
            f"`targets` must be one of {TARGETS}, or a list of names of layers. "
            f"Received: targets={targets!r}."
        )
    names = ATTENTION if targets == "attention" else targets

    def wanted(layer):
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


def names(network):
    """Returns a readable name for each layer inside, by its `id`: `down_1_0_attn_attn1.to_q`.

    A layer of a `Sequential` or functional model is called by its own name, one that is an
    attribute by that of the attribute.
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


def enable(layer, rank, alpha=None):
    """Gives a layer a LoRA, `rank` and `alpha` as of Keras' `enable_lora`.

    Raises:
        ValueError: if the layer has one.
    """
    if type(layer) is keras.layers.EinsumDense:
        layer.__class__ = _MatrixEinsumDense
    layer.enable_lora(int(rank), lora_alpha=alpha)
    for factor in (layer.lora_kernel_a, layer.lora_kernel_b):
        factor.trainable = True


def disable(layer, merge):
    """Takes the LoRA of a layer away; with `merge` its change stays in the kernel."""
    if merge:
        a, b = (ops.cast(f, "float32") for f in (layer.lora_kernel_a, layer.lora_kernel_b))
        kernel = layer._kernel
        change = layer.lora_alpha / layer.lora_rank * ops.matmul(a, b)
        kernel.assign(ops.cast(kernel, "float32") + ops.reshape(change, kernel.shape))
    for name in ("lora_kernel_a", "lora_kernel_b"):
        layer._untrack_variable(getattr(layer, name))
        # As `del layer.name`, which also collects garbage for a while each time.
        super(keras.layers.Layer, layer).__delattr__(name)
    layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    layer._kernel.trainable = True


def count(variables):
    """Returns how many numbers variables have."""
    return sum(math.prod(variable.shape) for variable in variables)


class Held:
    """The weights of parts of a model, held as they are while a few are trained.

    Args:
        parts: the layers.
        trained: the variables in them, or beside them, that are trained.

    Attributes:
        frozen: the variables that are held.
    """

    def __init__(self, parts, trained):
        kept = {id(v) for v in trained}
        variables = {id(v): v for part in parts for v in part.variables}.values()
        inside = [layer for part in parts for layer in layers_of(part)]
        # The leaves: freezing what contains a LoRA would hide its weights.
        leaves = [a for a in inside if len(layers_of(a)) == 1]
        leaves = [a for a in leaves if not any(id(v) in kept for v in a.variables)]
        self._layers = [(layer, layer.trainable) for layer in leaves]
        self._variables = [(v, v.trainable) for v in variables]
        for layer in leaves:
            layer.trainable = False
        for variable in variables:
            variable.trainable = id(variable) in kept
        # Not the counters of random layers, which go on.
        self.frozen = [v for v in variables if id(v) not in kept and "float" in v.dtype]

    def release(self):
        """Makes trainable again what was."""
        for layer, trainable in self._layers:
            layer.trainable = trainable
        for variable, trainable in self._variables:
            variable.trainable = trainable


class _Hidden:
    """Layers that Keras shall not take for parts of another layer."""

    def __init__(self, value):
        self.value = value


class _MatrixEinsumDense(keras.layers.EinsumDense):
    """An `EinsumDense` whose LoRA changes its kernel as a matrix, inputs by outputs."""

    @property
    def kernel(self):
        kernel = self._kernel
        if not self.lora_enabled:
            return kernel
        change = ops.matmul(self.lora_kernel_a, self.lora_kernel_b)
        change = self.lora_alpha / self.lora_rank * ops.reshape(change, kernel.shape)
        return ops.cast(ops.add(kernel, change), self.compute_dtype)

    def enable_lora(self, rank, lora_alpha=None):
        """As of Keras, with factors of other shapes."""
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
