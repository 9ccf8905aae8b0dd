"""Grey pictures of 28 x 28 pixels: the digits of MNIST, the clothes of Fashion-MNIST, and emoji.

MNIST and Fashion-MNIST are loaded by `tfds.load`, which downloads them (`tools/grey_offline.py`
fills its cache without its servers); they have 50,000 training, 10,000 validation and 10,000 test
pictures. The emoji are part of kgen: light on black, 8,926 for training and 991 with held-out
captions for testing; their validation split is the test split.

For `values`, the conversion of pixels, see `kgen.data.arrays`.

References:
  Burda et al. (2015), https://arxiv.org/abs/1509.00519, section 5 (dynamic binarisation).
  Xiao et al. (2017), https://arxiv.org/abs/1708.07747 (Fashion-MNIST).
"""

import functools
from typing import Literal

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_one_of
from kgen.data import emoji
from kgen.data.arrays import VALUES, batches
from kgen.types import Path

NAMES = ("mnist", "fashion_mnist", "emoji")
SPLITS = ("train", "validation", "test")
_TFDS_SPLITS = {"train": "train[:50000]", "validation": "train[50000:]", "test": "test"}


def load(
    name: str = "mnist",
    split: Literal["train", "validation", "test"] = "train",
    *,
    values: Literal["binary", "unit", "signed"] = "binary",
    batch_size: int = 100,
    labels: bool = False,
    shuffle: bool | None = None,
    seed: int = 0,
    data_dir: Path | None = None,
) -> tf.data.Dataset:
    """Returns the batches of one split, ready for `model.fit`.

    Args:
        name: `"mnist"`, `"fashion_mnist"` or `"emoji"`.
        split: `"train"`, `"validation"` or `"test"`.
        values: `"binary"`, `"unit"` or `"signed"`.
        batch_size: number of pictures in a batch, a positive integer.
        labels: whether batches are dictionaries with `"images"` and `"labels"`.
        shuffle: whether to shuffle (and binarise) again in each epoch; None for the training split
            only.
        seed: integer seed of the order and the binarisation.
        data_dir: cache of TensorFlow Datasets; None for its default.

    Returns:
        A `tf.data.Dataset` of float32 `[B, 28, 28, 1]`; with `labels`, of dictionaries of these and
        int32 `[B]`.

    Raises:
        ValueError: if an argument has another value.
        RuntimeError: if the data are not in the cache and cannot be downloaded.

    Example:
        >>> next(iter(load("emoji", "test", values="signed", batch_size=4))).shape
        TensorShape([4, 28, 28, 1])
    """
    check_one_of("name", name, NAMES)  # before `load_arrays`, whose cache hashes its arguments
    check_one_of("split", split, SPLITS)
    check_one_of("values", values, VALUES)
    check_count("batch_size", batch_size)
    arrays = load_arrays(name, split, data_dir=data_dir)
    return batches(
        arrays["images"],
        {"labels": arrays["labels"]} if labels else {},
        values=values,
        batch_size=batch_size,
        shuffle=split == "train" if shuffle is None else shuffle,
        seed=seed,
    )


@functools.lru_cache(maxsize=4)
def load_arrays(
    name: str = "mnist",
    split: Literal["train", "validation", "test"] = "train",
    *,
    data_dir: Path | None = None,
) -> dict[str, np.ndarray]:
    """Returns one split in memory; the arrays are shared between calls, so do not write to them.

    Args:
        name: `"mnist"`, `"fashion_mnist"` or `"emoji"`.
        split: `"train"`, `"validation"` or `"test"`.
        data_dir: cache of TensorFlow Datasets; None for its default.

    Returns:
        A dictionary of arrays: `images` uint8 `[N, 28, 28, 1]` and `labels` int32 `[N]` (for emoji
        the index of the style in `kgen.data.emoji.STYLES`).

    Raises:
        ValueError: if an argument has another value.
        RuntimeError: if the data are not in the cache and cannot be downloaded.
    """
    check_one_of("name", name, NAMES)
    check_one_of("split", split, SPLITS)
    images, labels = _emoji(split) if name == "emoji" else _tfds(name, split, data_dir)
    for array in (images, labels):
        array.setflags(write=False)
    return {"images": images, "labels": labels}


def _tfds(
    name: str, split: Literal["train", "validation", "test"], data_dir: Path | None
) -> tuple[np.ndarray, np.ndarray]:
    import tensorflow_datasets as tfds

    try:
        tensors = tfds.load(name, split=_TFDS_SPLITS[split], batch_size=-1, data_dir=data_dir)
    except Exception as error:  # downloads fail in many ways
        raise RuntimeError(
            f"`{name}` is not in the cache of TensorFlow Datasets and could not be downloaded. "
            f"`python -m tools.grey_offline {name}` prepares it from a package instead; "
            "`name='emoji'` needs no download."
        ) from error
    return tensors["image"].numpy(), tensors["label"].numpy().astype("int32")


def _emoji(split: Literal["train", "validation", "test"]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pictures at 28 x 28 as 255 minus luma, with the index of their style."""
    arrays = emoji.load_arrays("train" if split == "train" else "test")
    ink = 255 - arrays["images"].astype("float32") @ np.array([0.299, 0.587, 0.114], "float32")
    small = tf.image.resize(ink[..., None], [28, 28], method="area")
    images = np.round(np.clip(small.numpy(), 0, 255)).astype("uint8")
    styles = {style: index for index, style in enumerate(emoji.STYLES)}
    return images, np.array([styles[str(style)] for style in arrays["styles"]], "int32")
