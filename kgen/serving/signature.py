"""Functions of a SavedModel: one graph each, arguments by position or by name."""

import inspect

import tensorflow as tf


def served(specs):
    """Decorates a function of `*arguments` as a `tf.function` of the named tensors `specs`.

    Example:
        >>> @served([tf.TensorSpec([], tf.int32, "first"), tf.TensorSpec([], tf.int32, "second")])
        ... def difference(*arguments):
        ...     return arguments[0] - arguments[1]
        >>> int(difference(5, 3)), int(difference(second=5, first=3))
        (2, -2)
    """
    either = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(spec.name, either) for spec in specs])

    def decorate(function):
        function.__signature__ = signature  # TensorFlow inspects it
        return tf.function(function, input_signature=specs, autograph=False)

    return decorate


def condition_inputs(conditioner, form=None):
    """Returns what a client gives for a conditioner.

    Args:
        conditioner: a `Conditioner` or None.
        form: None or the conditioner's `batch_key` for its values, or one of its `forms`.

    Returns:
        The specifications of the tensors, a list; a function that makes what the conditioner takes
        of such tensors; the trackable objects that it needs; and the ending of the names of
        functions that take this form.

    Raises:
        ValueError: for another form.
    """
    if conditioner is None:
        if form is not None:
            raise ValueError(f"`inputs` must be None without a conditioner. Received: {form!r}.")
        return [], lambda values: None, [], ""
    forms = conditioner.forms
    if form is not None and form != conditioner.batch_key and form not in forms:
        allowed = [conditioner.batch_key, *forms]
        raise ValueError(f"`inputs` must be None or one of {allowed}. Received: inputs={form!r}.")
    form = form if form in forms else None
    specs = conditioner.signature(form)

    def pack(values):
        return values[0] if len(specs) == 1 else dict(zip(specs, values))

    resources = conditioner.resources() if form is None else []
    return list(specs.values()), pack, resources, forms.get(form, "")
