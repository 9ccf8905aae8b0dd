"""Checkpoints of TensorFlow: an index of names, types, shapes and places, and files of numbers.

    ckpt-7.index    ckpt-7.data-00000-of-00001    checkpoint, which names the saves of the folder

TensorFlow makes a tensor of the shape that the index says. So the index is read first, by itself,
and compared with the variables that are to be filled and with the sizes of the files.
"""

import glob
import math
import os
import pathlib

import tensorflow as tf

from kgen.files.text import check_regular, reason

MAX_INDEX_BYTES = 64 * 2**20
MAX_TEXT_BYTES = 64 * 2**20  # of the description of the objects
STATE = "checkpoint"


def check_checkpoint(prefix, variables):
    """Checks that a checkpoint holds variables of a training and little else.

    Args:
        prefix: the path of the checkpoint, without `.index`.
        variables: pairs of the shape and the type of each.

    Raises:
        OSError: if a file cannot be read.
        ValueError: if a file is damaged, or holds tensors that no variable has the shape of.
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
    except Exception as error:  # TensorFlow has many kinds of errors for damage
        raise ValueError(f"{prefix} is damaged: {reason(error)}.") from error
    known = {(tuple(shape), tf.as_dtype(dtype)) for shape, dtype in variables}
    total = 0
    for name, shape in shapes.items():
        dtype = types[name]
        if dtype == tf.string:
            if shape:
                raise ValueError(f"{prefix} is refused: {name:.200} holds texts.")
            continue
        if shape and (tuple(shape), dtype) not in known:
            raise ValueError(
                f"{prefix} is refused: {name:.200} of shape {tuple(shape)} and type {dtype.name} "
                "is no variable of this training."
            )
        total += math.prod(shape) * dtype.size
    held = sum(os.path.getsize(path) for path in files)
    if not total <= held <= total + MAX_TEXT_BYTES:
        raise ValueError(f"{prefix} is damaged: it declares {total} bytes and holds {held}.")
    most = sum(math.prod(shape) * tf.as_dtype(dtype).size for shape, dtype in variables)
    if total > most + 2**20:
        raise ValueError(f"{prefix} is refused: it holds more than the variables of this training.")


def names_other_folders(directory):
    """Whether the list of saves in a folder names files elsewhere, which would be removed in time.

    Raises:
        OSError: if it cannot be read.
    """
    path = pathlib.Path(directory) / STATE
    if not path.exists():
        return False
    if not path.is_file() or path.stat().st_size > MAX_INDEX_BYTES:
        return True
    state = tf.train.get_checkpoint_state(str(directory))
    if state is None:
        return False
    paths = [state.model_checkpoint_path, *state.all_model_checkpoint_paths]
    here = os.path.realpath(directory)
    return any(os.path.realpath(os.path.dirname(p)) != here for p in paths if p)
