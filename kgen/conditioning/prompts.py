"""Validation of prompts, and their conversion to a string tensor `[B]`."""

from typing import Any

import numpy as np
import tensorflow as tf


def as_strings(prompts: Any, name: str = "prompts") -> tf.Tensor:
    """Validates prompts and converts them to a string tensor.

    Args:
        prompts: a string, a list of strings, or a string array or tensor of rank 0 or 1.
        name: name of the argument, for messages.

    Returns:
        A string tensor `[B]`.

    Raises:
        TypeError: if a prompt is not a string.
        ValueError: if there is no prompt, or the rank is higher.

    Example:
        >>> as_strings("a red heart").numpy().tolist()
        [b'a red heart']
    """
    if isinstance(prompts, (str, bytes)):
        prompts = [prompts]
    if isinstance(prompts, np.ndarray):
        prompts = prompts.tolist() if prompts.ndim else [prompts.item()]
    if isinstance(prompts, (list, tuple)):
        for prompt in prompts:
            if not isinstance(prompt, (str, bytes)):
                raise TypeError(
                    f"`{name}` must be a string, a list of strings or a string tensor; the empty "
                    f"prompt is ''. Received: {prompt!r} of type {type(prompt).__name__} in it."
                )
        if not prompts:
            raise ValueError(f"`{name}` must hold at least one prompt. Received: an empty list.")
    elif not tf.is_tensor(prompts):
        raise TypeError(
            f"`{name}` must be a string, a list of strings or a string tensor; the empty prompt is "
            f"''. Received: {name}={prompts!r} of type {type(prompts).__name__}."
        )
    tensor = tf.convert_to_tensor(prompts)
    if tensor.dtype != tf.string:
        raise TypeError(
            f"`{name}` must be strings. Received: a tensor of dtype {tensor.dtype.name}."
        )
    if tensor.shape.rank is None:
        return tf.ensure_shape(tensor, [None])
    if tensor.shape.rank == 0:
        tensor = tensor[tf.newaxis]
    if tensor.shape.rank != 1 or tensor.shape[0] == 0:
        raise ValueError(
            f"`{name}` must be one row of at least one prompt. "
            f"Received: a tensor of shape {tuple(tensor.shape)}."
        )
    return tensor
