"""Validation of TensorFlow checkpoints, which have an index and data files.

    ckpt-7.index    ckpt-7.data-00000-of-00001

TensorFlow allocates tensors of the shapes in the index. So the index is read first and compared
with the variables to restore and with the sizes of the data files.
"""

import glob
import math
import os
import pathlib
from collections.abc import Sequence

import tensorflow as tf

from kgen.files.text import check_regular, reason

MAX_INDEX_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 64 * 2**20  # of the description of the objects


def check_checkpoint(prefix: str, variables: Sequence[tuple]) -> None:
    """Checks that the tensors of a checkpoint fit the variables of a training.

    Args:
        prefix: the path of the checkpoint, without `.index`.
        variables: pairs of the shape and the dtype of each variable.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged, or a tensor fits no variable.
    """
    index, files = f"{prefix}.index", glob.glob(f"{glob.escape(prefix)}.data-?????-of-?????")
    for path in (index, *files):
        check_regular(path)
        if not pathlib.Path(path).resolve().is_relative_to(pathlib.Path(path).parent.resolve()):
            raise ValueError(f"{path} is refused: it is a link that leads out of its folder.")
    if os.path.getsize(index) > MAX_INDEX_BYTES:
        raise ValueError(f"{index} must have at most {MAX_INDEX_BYTES} bytes.")
    try:
        reader = tf.train.load_checkpoint(prefix)
        shapes, types = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
    except Exception as error:  # TensorFlow raises many kinds of errors for damaged files
        raise ValueError(f"{prefix} is damaged: {reason(error)}.") from error
    known = {(tuple(shape), tf.as_dtype(dtype)) for shape, dtype in variables}
    total = 0
    for name, shape in shapes.items():
        dtype = types[name]
        if dtype == tf.string:
            if shape:
                raise ValueError(f"{prefix} is refused: {name:.200} holds strings.")
            continue
        if shape and (tuple(shape), dtype) not in known:
            raise ValueError(
                f"{prefix} is refused: {name:.200} of shape {tuple(shape)} and type {dtype.name} "
                "is not a variable of this training."
            )
        total += math.prod(shape) * dtype.size
    held = sum(os.path.getsize(path) for path in files)
    if not total <= held <= total + MAX_TEXT_BYTES:
        raise ValueError(f"{prefix} is damaged: it declares {total} bytes, but holds {held}.")
    most = sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in variables)
    if total > most + 2**20:
        raise ValueError(f"{prefix} is refused: it holds more than the variables of this training.")
