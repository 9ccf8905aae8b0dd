"""Functions of a SavedModel: one graph each, with arguments by position or by name."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import tensorflow as tf

from kgen.conditioning.conditioner import Conditioner

ExportFunction: TypeAlias = tf.types.experimental.PolymorphicFunction
"""A `tf.function` with one input signature, of named tensors, that returns a dictionary."""


def with_signature(specs: Sequence[tf.TensorSpec]) -> Callable[[Callable], ExportFunction]:
    """Returns a decorator that makes a `tf.function` of a function of `*arguments`.

    Args:
        specs: the tensors that the function takes. Their names become the names of its arguments.

    Example:
        >>> @with_signature(
        ...     [tf.TensorSpec([], tf.int32, "first"), tf.TensorSpec([], tf.int32, "second")]
        ... )
        ... def difference(*arguments):
        ...     return arguments[0] - arguments[1]
        >>> int(difference(5, 3)), int(difference(second=5, first=3))
        (2, -2)
    """
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(spec.name, either) for spec in specs])

    def decorate(function: Callable) -> ExportFunction:
        function.__signature__ = signature  # TensorFlow inspects it
        return tf.function(function, input_signature=specs, autograph=False)

    return decorate


class ConditionInputs(NamedTuple):
    """The part of the arguments of an exported function from which a conditioner gets its values.

    Attributes:
        specs: the tensors that the function takes; empty for a model without a conditioner.
        pack: a function from a sequence of such tensors to the argument of the conditioner.
        resources: trackable objects that the conditioner uses, other than variables.
        suffix: suffix of the names of functions that take this form, such as `"_from_tokens"`.
    """

    specs: list[tf.TensorSpec]
    pack: Callable[[Sequence[tf.Tensor]], Any]
    resources: list[Any]
    suffix: str


def condition_inputs(conditioner: Conditioner | None, form: str | None = None) -> ConditionInputs:
    """Returns the arguments of an exported function that give the condition.

    Args:
        conditioner: a conditioner, or None.
        form: None or the conditioner's `batch_key` for its values; or one of its `forms`.

    Raises:
        ValueError: for another form, or any form without a conditioner.
    """
    if conditioner is None:
        if form is not None:
            raise ValueError(f"`inputs` must be None without a conditioner. Received: {form!r}.")
        return ConditionInputs([], lambda values: None, [], "")
    forms = conditioner.forms
    if form is not None and form != conditioner.batch_key and form not in forms:
        allowed = [conditioner.batch_key, *forms]
        raise ValueError(f"`inputs` must be None or one of {allowed}. Received: inputs={form!r}.")
    form = form if form in forms else None
    specs = conditioner.signature(form)

    def pack(values: Sequence[tf.Tensor]) -> Any:
        return values[0] if len(specs) == 1 else dict(zip(specs, values))

    resources = conditioner.resources() if form is None else []
    return ConditionInputs(list(specs.values()), pack, resources, forms.get(form, ""))
