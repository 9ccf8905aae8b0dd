"""What a model is told of its examples, from the door to the network.

    labels or prompts  --as_rows-->  [N]  --encoded, some at a time-->  cond, null_cond

A model without a conditioner is told nothing: then all of these are None.
"""

import numpy as np
import tensorflow as tf

from kgen.conditioning.prompts import as_strings


def as_rows(conditioner, values, num=None, name=None):
    """Makes one row for each example of labels or prompts.

    Args:
        conditioner: a `Conditioner` or None.
        values: a label or prompt, or a sequence of them.
        num: None, or the number of examples; one value is then that of all.
        name: of the argument, for the message, if it is another one than `batch_key`.

    Returns:
        An array or tensor `[N]`, or None without a conditioner.

    Raises:
        TypeError: if a prompt is not a string.
        ValueError: if there is none, if there are not as many as examples, or if an argument of
            that name needs a conditioner.
    """
    if conditioner is None:
        if name is not None and values is not None:
            raise ValueError(f"`{name}` needs a model with a conditioner.")
        return None
    name = name or conditioner.batch_key
    rows = as_strings(values, name) if conditioner.batch_key == "prompts" else _array(values, name)
    if num is not None and len(rows) == 1:
        return tf.tile(rows, [num])
    if num not in (None, len(rows)):
        raise ValueError(
            f"`{name}` must be one for all examples or one for each. "
            f"Received: {len(rows)} for {num} examples."
        )
    return rows


def encoded(model, rows, negatives, part):
    """The condition of a part of the examples, and the one to move away from.

    Args:
        model: has a `conditioner`, which runs with the averaged weights.
        rows: what `as_rows` returned.
        negatives: the same of negative prompts; None for the null condition.
        part: a slice.
    """
    if rows is None:
        return None, None
    with model.averaged():
        cond = model.conditioner(rows[part])
        if negatives is not None:
            return cond, model.conditioner(negatives[part])
        return cond, model.conditioner.null(len(rows[part]))


def _array(values, name):
    many = list(values) if isinstance(values, (list, tuple)) or np.ndim(values) else [values]
    kinds = {"O" if np.ndim(value) else np.asarray(value).dtype.kind for value in many}
    if len(kinds) != 1 or not kinds <= set("iufUS"):
        raise ValueError(f"`{name}` must be one for each example. Received: {name}={values!r}.")
    return np.array(many)
