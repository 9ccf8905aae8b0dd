"""Input pipelines: `tf.data` over pictures of one's own and over data sets of TFDS."""

from kgen.data import emoji, folder, grey

__all__ = ["emoji", "folder", "grey"]
