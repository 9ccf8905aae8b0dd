"""Gradient checkpointing: activations are computed again in the backward pass, instead of kept.

The graph of a network is cut into segments of about a dozen operations,

    network = segment_n o ... o segment_1

at the places where the fewest tensors cross, such as between two residual blocks. Of the forward
pass only the tensors at the cuts are kept. The backward pass goes through the segments from the
last to the first, and computes the activations of each once more when it comes to it. Gradients are
the same; a training step evaluates the network once more.

References:
  Chen et al. (2016), https://arxiv.org/abs/1604.06174, section 3.
"""

from collections.abc import Mapping, Sequence

import keras
import tensorflow as tf

from kgen.layer_tree import layers_of

LENGTH = 12  # operations in a segment, on average


class Recomputed:
    """A function that computes the output of a functional model segment by segment.

    Args:
        graph: a functional `keras.Model` with a dictionary of inputs and one output. Its weights
            are used, not copied.

    Call arguments:
        inputs: a dictionary of tensors.

    Raises:
        ValueError: if a layer would not compute the same a second time, such as dropout.

    Example:
        >>> x = keras.Input((3,), name="x")
        >>> graph = keras.Model({"x": x}, keras.layers.Dense(2)(keras.ops.silu(x)))
        >>> Recomputed(graph)({"x": tf.ones([1, 3])}).shape
        TensorShape([1, 2])
    """

    def __init__(self, graph: keras.Model) -> None:
        check_repeatable(graph)
        self.names = {id(tensor): name for name, tensor in graph.input.items()}
        self.output = graph.outputs[0]
        operations = [op for op in graph.operations if not isinstance(op, keras.layers.InputLayer)]
        self.segments = []
        start, inputs = 0, list(graph.input.values())
        for cut in _cuts(operations, inputs, self.output):
            made = _tensors(operations[start:cut], "output")
            later = _ids(_tensors(operations[cut:], "input")) | {id(self.output)}
            taken = _ids(_tensors(operations[start:cut], "input"))
            takes = [t for t in inputs if id(t) in taken]
            gives = [t for t in _once(made) if id(t) in later]
            model = keras.Model(takes, gives)
            model.autocast = False
            self.segments.append((model, takes, gives))
            start, inputs = cut, [t for t in (*inputs, *gives) if id(t) in later]

    def __call__(self, inputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        """Returns the output of the network in training."""
        values = {key: inputs[name] for key, name in self.names.items()}
        for model, takes, gives in self.segments:
            results = _recomputed(model, [values[id(tensor)] for tensor in takes])
            values |= zip((id(tensor) for tensor in gives), results)
        return values[id(self.output)]


def check_repeatable(graph: keras.Model) -> None:
    """Checks that all layers of a model compute the same when they are called again.

    Raises:
        ValueError: if one does not.
    """
    for layer in layers_of(graph):
        random = getattr(layer, "seed_generator", None) is not None
        penalised = layer.activity_regularizer is not None
        if random or penalised or isinstance(layer, keras.layers.BatchNormalization):
            raise ValueError(
                "`recompute` calls layers twice in a step, so that they must be without dropout, "
                "batch normalisation and activity regularisers. Received: the layer "
                f"{layer.name!r}, a {type(layer).__name__}."
            )


def _recomputed(model: keras.Model, tensors: Sequence[tf.Tensor]) -> Sequence[tf.Tensor]:
    """Calls a model whose activations are not kept. Integers and masks have no gradient."""
    floating = [tensor.dtype.is_floating for tensor in tensors]

    @tf.recompute_grad
    def segment(*changing: tf.Tensor) -> tuple[tf.Tensor, ...]:
        rest = iter(changing)
        results = model(
            [next(rest) if is_float else tensor for is_float, tensor in zip(floating, tensors)],
            training=True,
        )
        return tuple(keras.tree.flatten(results))

    kept = [tensor for is_float, tensor in zip(floating, tensors) if is_float]
    return keras.tree.flatten(segment(*kept))


def _cuts(
    operations: Sequence[keras.Operation],
    inputs: Sequence[keras.KerasTensor],
    output: keras.KerasTensor,
) -> list[int]:
    """Returns the ends of the segments, as numbers of operations before them."""
    produced = {id(tensor): 0 for tensor in inputs}
    last_used = {}
    for place, operation in enumerate(operations, 1):
        last_used |= dict.fromkeys(_ids(_tensors([operation], "input")), place)
        produced |= dict.fromkeys(_ids(_tensors([operation], "output")), place)
    last_used[id(output)] = len(operations)

    def crossing(cut: int) -> int:
        return sum(made <= cut < last_used.get(key, 0) for key, made in produced.items())

    ends = []
    while len(operations) - (ends[-1] if ends else 0) > 2 * LENGTH:
        start = ends[-1] if ends else 0
        ends.append(min(range(start + LENGTH // 2, start + 3 * LENGTH // 2), key=crossing))
    return [*ends, len(operations)]


def _tensors(operations: Sequence[keras.Operation], side: str) -> list[keras.KerasTensor]:
    """Returns the inputs or the outputs of operations."""
    return [t for op in operations for t in keras.tree.flatten(getattr(op, side))]


def _ids(tensors: Sequence[keras.KerasTensor]) -> set[int]:
    return {id(tensor) for tensor in tensors}


def _once(tensors: Sequence[keras.KerasTensor]) -> list[keras.KerasTensor]:
    return list({id(tensor): tensor for tensor in tensors}.values())
