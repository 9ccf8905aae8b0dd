"""Sizes of data with one, two or three axes in space, which may be free: known only when called.

    fold, unfold      blocks of pixels into channels and out of them, `[B, H/p, W/p, p^2 C]`
    pad, crop         to the next size that a network can halve, and back
    tokens, pixels    the pixels as one sequence, `[B, H W, C]`, and back

The layers have no weights and take the sizes from what they are called with. So one graph serves
every size; where the sizes are known when it is called, they are known in all that follows.
"""

import tensorflow as tf
from keras import layers, ops

from kgen.checks import check_count
from kgen.serialization import serializable


def reshape(x: tf.Tensor, shape) -> tf.Tensor:
    """Reshapes to sizes of which some may be tensors, and keeps what is known of them.

    Example:
        >>> reshape(ops.zeros((2, 6)), (tf.constant(2), 3, 2)).shape
        TensorShape([2, 3, 2])
    """
    shape = list(shape)
    unknown = [i for i, size in enumerate(shape) if not isinstance(size, int)]
    if len(unknown) == 1:
        shape[unknown[0]] = -1
    return ops.reshape(x, shape)


@serializable
class Fold(layers.Layer):
    """Puts blocks of pixels into channels, `[B, H, W, C]` to `[B, H/p, W/p, p^2 C]`.

    Args:
        patch: side p of a block; must divide every size.

    Example:
        >>> Fold(2)(ops.zeros((1, 4, 6, 3))).shape
        TensorShape([1, 2, 3, 12])
    """

    def __init__(self, patch: int, **kwargs) -> None:
        super().__init__(**kwargs)
        check_count("patch", patch)
        self.patch = patch

    def call(self, x):
        """Folds `x`."""
        batch, *sizes, channels = ops.shape(x)
        rank, p = len(sizes), self.patch
        parts = [part for size in sizes for part in (size // p, p)]
        x = reshape(x, (batch, *parts, channels))
        inside, outside = range(2, 2 * rank + 1, 2), range(1, 2 * rank, 2)
        x = ops.transpose(x, (0, *outside, *inside, 2 * rank + 1))
        return reshape(x, (batch, *(size // p for size in sizes), p**rank * channels))

    def compute_output_shape(self, input_shape):
        """Each size divided by `patch`, the channels multiplied."""
        batch, *sizes, channels = input_shape
        sizes = (size and size // self.patch for size in sizes)
        return (batch, *sizes, self.patch ** (len(input_shape) - 2) * channels)


@serializable
class Unfold(layers.Layer):
    """Takes blocks of pixels out of channels, `[B, h, w, p^2 C]` to `[B, p h, p w, C]`.

    The inverse of `Fold`.

    Args:
        patch: side p of a block.

    Example:
        >>> Unfold(2)(ops.zeros((1, 2, 3, 12))).shape
        TensorShape([1, 4, 6, 3])
    """

    def __init__(self, patch: int, **kwargs) -> None:
        super().__init__(**kwargs)
        check_count("patch", patch)
        self.patch = patch

    def call(self, x):
        """Unfolds `x`."""
        batch, *sizes, width = ops.shape(x)
        rank, p = len(sizes), self.patch
        x = reshape(x, (batch, *sizes, *[p] * rank, width // p**rank))
        pairs = [axis for i in range(1, rank + 1) for axis in (i, rank + i)]
        x = ops.transpose(x, (0, *pairs, 2 * rank + 1))
        return reshape(x, (batch, *(size * p for size in sizes), width // p**rank))

    def compute_output_shape(self, input_shape):
        """Each size multiplied by `patch`, the channels divided."""
        batch, *sizes, width = input_shape
        sizes = (size and size * self.patch for size in sizes)
        return (batch, *sizes, width // self.patch ** (len(input_shape) - 2))


def fold(x, patch: int):
    """Puts blocks of pixels into channels, in float32; see `Fold`."""
    return x if patch == 1 else Fold(patch, dtype="float32")(x)


def unfold(x, patch: int):
    """Takes blocks of pixels out of channels, in float32; see `Unfold`."""
    return x if patch == 1 else Unfold(patch, dtype="float32")(x)


@serializable
class Pad(layers.Layer):
    """Zeros around `[B, H, W, C]`, as many as make its sizes multiples of a number.

    They are put on both sides of an axis, the odd one after the last pixel.

    Args:
        multiple: what the sizes become multiples of, an integer, or one for each axis in space.

    Example:
        >>> Pad(4)(ops.ones((1, 6, 8, 3))).shape
        TensorShape([1, 8, 8, 3])
    """

    def __init__(self, multiple: int | tuple[int, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.multiple = multiple

    def call(self, x):
        """Pads `x`."""
        totals = [-size % m for size, m in self._pairs(ops.shape(x))]
        if all(isinstance(n, int) and n == 0 for n in totals):
            return x
        return tf.pad(x, [[0, 0], *([n // 2, n - n // 2] for n in totals), [0, 0]])

    def compute_output_shape(self, input_shape):
        """The next multiples."""
        sizes = (size and size + -size % m for size, m in self._pairs(input_shape))
        return (input_shape[0], *sizes, input_shape[-1])

    def _pairs(self, shape):
        sizes = shape[1:-1]
        each = isinstance(self.multiple, int)
        return list(zip(sizes, [self.multiple] * len(sizes) if each else self.multiple))


@serializable
class Crop(layers.Layer):
    """The middle of `[B, H, W, C]`, of the size of another tensor: takes away what `Pad` added.

    Call arguments:
        x: `[B, H, W, C]`.
        like: `[B, h, w, c]`, not larger.

    Example:
        >>> Crop()(ops.ones((1, 8, 8, 3)), ops.ones((1, 5, 8, 1))).shape
        TensorShape([1, 5, 8, 3])
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)

    def call(self, x, like):
        """Crops `x` to the size of `like`."""
        return crop_to(x, ops.shape(like)[1:-1])

    def compute_output_shape(self, x_shape, like_shape):
        """The size of `like`, the channels of `x`."""
        return (x_shape[0], *like_shape[1:-1], x_shape[-1])


@serializable
class CropTo(layers.Layer):
    """The middle of `[B, H, W, C]`, of a given size.

    Args:
        size: `(h, w)`, not larger.

    Example:
        >>> CropTo((5, 8))(ops.ones((1, 8, 8, 3))).shape
        TensorShape([1, 5, 8, 3])
    """

    def __init__(self, size: tuple[int, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, x):
        """Crops `x`."""
        return crop_to(x, self.size)

    def compute_output_shape(self, input_shape):
        """The given size."""
        return (input_shape[0], *self.size, input_shape[-1])


def crop_to(x: tf.Tensor, sizes) -> tf.Tensor:
    """The middle of `x`, `[B, H, W, C]`, of other sizes, integers or scalar tensors.

    Example:
        >>> crop_to(ops.ones((1, 8, 8, 3)), (5, 8)).shape
        TensorShape([1, 5, 8, 3])
    """
    had = ops.shape(x)[1:-1]
    pairs = list(zip(had, sizes))
    if all(isinstance(n, int) and isinstance(m, int) and n == m for n, m in pairs):
        return x
    starts = [((n - m) // 2, m) for n, m in pairs]
    return x[(slice(None), *(slice(start, start + m) for start, m in starts))]


def tokens(x, **options):
    """The pixels of `[B, H, W, C]` as one sequence, `[B, H W, C]`.

    Example:
        >>> tokens(ops.zeros((1, 4, 6, 3))).shape
        TensorShape([1, 24, 3])
    """
    return layers.Reshape((-1, x.shape[-1]), **options)(x)


@serializable
class Pixels(layers.Layer):
    """A sequence `[B, H W, C]` as pixels `[B, H, W, C]`, in the size of another tensor.

    Call arguments:
        x: `[B, H W, C]`.
        like: `[B, H, W, c]`.

    Example:
        >>> Pixels()(ops.ones((1, 24, 3)), ops.ones((1, 4, 6, 1))).shape
        TensorShape([1, 4, 6, 3])
    """

    def __init__(self, **kwargs) -> None:
        super().__init__(**kwargs)

    def call(self, x, like):
        """Reshapes `x`."""
        return reshape(x, (*ops.shape(like)[:-1], x.shape[-1]))

    def compute_output_shape(self, x_shape, like_shape):
        """The size of `like`, the channels of `x`."""
        return (*like_shape[:-1], x_shape[-1])
