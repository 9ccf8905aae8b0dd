"""Input pipelines: `tf.data` data sets of your own pictures and of TensorFlow Datasets."""

from kgen.data import emoji, folder, grey

__all__ = ["emoji", "folder", "grey"]
