"""The parts of a text encoder that Keras must not track: its networks and compiled functions."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kgen.conditioning.packing import Packer


class Parts(tf.Module):
    """The backbone and the tokenizer, tracked by a SavedModel but not by Keras or checkpoints.

    Keras does not search a `tf.Module` for layers, so that their weights are not part of a model.

    Args:
        backbone: a text backbone of KerasHub.
        tokenizer: a tokenizer of KerasHub.
    """

    def __init__(self, backbone: keras.Model, tokenizer: keras.layers.Layer) -> None:
        super().__init__(name="parts")
        self.backbone = backbone
        self.tokenizer = tokenizer

    def _trackable_children(self, save_type: str = "checkpoint", **kwargs: Any) -> dict[str, Any]:
        return {} if save_type == "checkpoint" else super()._trackable_children(save_type, **kwargs)


class Compiled:
    """The compiled functions, in an object that a SavedModel does not save.

    Args:
        packer: converts prompts to rows of ids.
        encode: a function of ids and a mask, `[B, L]` each, that returns the condition.
    """

    def __init__(self, packer: Packer, encode: Callable[..., dict[str, tf.Tensor]]) -> None:
        self.packer = packer
        self.tokenize = tf.function(
            packer.__call__,
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )
        row = [None, None]
        self.encode = tf.function(
            encode,
            input_signature=[tf.TensorSpec(row, tf.int32), tf.TensorSpec(row, tf.bool)],
            autograph=False,
        )
