"""The networks of a hierarchical VAE: a bottom-up encoder, and the levels of a top-down pass.

Dense networks: the state is the concatenation of all latents so far.

    features   x -> h_0 ... h_L        one per level; that of the top level is the deepest
    prior      state -> 2 C            the top level has none
    posterior  [state, h_l] -> 2 C     at the top level h_0 -> 2 C
    merge      [state, z] -> concatenation of state and z

Convolutional networks, with levels at several resolutions: the state is a feature map that every
level updates.

    features   x -> [residual blocks, halve] ...     one map per resolution
    prior      block(state) -> 2 C
    posterior  block([state, h]) -> 2 C
    merge      state + conv(z), block; upsampled before the first level of the next resolution

Both functions return an encoder, a list of the networks `(prior, posterior, merge, state_shape)` of
each level, from which `kgen.GaussianLevel` makes a level, and a decoder of the last state.

References:
  Sonderby et al. (2016), https://arxiv.org/abs/1602.02282, figure 1 d (ladder VAE: the prior and
  the posterior share the top-down pass).
  Child (2020), https://arxiv.org/abs/2011.10650, figure 3 and section 3.3 (bottleneck blocks; last
  convolution scaled by 1 / sqrt(number of levels)).
"""

import itertools
import math
from typing import Any

import keras
from keras import layers, ops

from kgen.networks.blocks import conv, spatial_rank
from kgen.networks.mlp import mlp
from kgen.networks.shapes import CropTo, Pad


def dense_hierarchy(
    shape: tuple[int, ...],
    latents: tuple[int, ...],
    output_channels: int,
    *,
    hidden: tuple[int, ...] = (300, 300),
    gated: bool = True,
) -> tuple[keras.Model, list[tuple], keras.Model]:
    """Builds the dense networks of a hierarchical VAE.

    Args:
        shape: shape of an example, such as `(28, 28, 1)`.
        latents: number of latents of each level, from the top level down.
        output_channels: number of channels of the decoder's output.
        hidden: widths of the hidden layers of every network.
        gated: whether the hidden layers are gated linear units.

    Returns:
        The encoder; the networks `(prior, posterior, merge, state_shape)` of each level; the
        decoder.

    Example:
        >>> encoder, levels, decoder = dense_hierarchy((4, 4, 1), (2, 3), 1, hidden=(8,))
        >>> len(levels), decoder.input_shape
        (2, (None, 5))
    """
    options: dict[str, Any] = {"gated": gated, "activation": "relu"}
    x = keras.Input(shape, name="x")
    h, features = x, []
    for i in range(len(latents)):
        network = mlp(tuple(h.shape[1:]), (hidden[-1],), hidden=hidden, name=f"up_{i}", **options)
        h = network(h)
        features.insert(0, h)
    encoder = keras.Model(x, features, name="encoder")
    levels, width = [], 0
    for i, size in enumerate(latents):
        h_shape = (hidden[-1],)
        if i == 0:
            posterior = mlp(h_shape, (2 * size,), hidden=hidden[:1], name="posterior_0", **options)
            levels.append((None, posterior, None, ()))
        else:
            prior = mlp((width,), (2 * size,), hidden=hidden, name=f"prior_{i}", **options)
            both = [(width,), h_shape]
            posterior = mlp(both, (2 * size,), hidden=hidden, name=f"posterior_{i}", **options)
            state, z = keras.Input((width,)), keras.Input((size,))
            merge = keras.Model([state, z], layers.Concatenate()([state, z]), name=f"merge_{i}")
            levels.append((prior, posterior, merge, ()))
        width += size
    output = (*shape[:-1], output_channels)
    decoder = mlp((width,), output, hidden=hidden, name="decoder", **options)
    return encoder, levels, decoder


def conv_hierarchy(
    shape: tuple[int, ...],
    output_channels: int,
    *,
    sizes: tuple[int | tuple[int, ...], ...] = (7, 14),
    counts: tuple[int, ...] = (6, 6),
    channels: tuple[int, ...] = (64, 32),
    latents: tuple[int, ...] = (8, 4),
) -> tuple[keras.Model, list[tuple], keras.Model]:
    """Builds the convolutional networks of a hierarchical VAE.

    Data have one, two or three spatial axes. The last feature map is smaller than the data by an
    integer factor, rounded up: the data are padded with zeros to a multiple of that factor, and the
    output is cropped.

    Args:
        shape: shape of an example, such as `(H, W, C)`.
        output_channels: number of channels of the decoder's output.
        sizes: sizes of the feature maps, from the top level down, each a divisor of the next: the
            side of a square, or one size per spatial axis, such as `(h, w)`.
        counts: number of levels at each size.
        channels: number of channels of the state at each size.
        latents: number of channels of a latent at each size.

    Returns:
        The encoder; the networks `(prior, posterior, merge, state_shape)` of each level; the
        decoder.

    Raises:
        ValueError: if a size does not divide the next, or `counts`, `channels` or `latents` does
            not have one entry per size.

    Example:
        >>> encoder, levels, decoder = conv_hierarchy((8, 8, 1), 1, sizes=(2, 4), counts=(1, 2))
        >>> [posterior.output_shape[1:] for _, posterior, _, _ in levels]
        [(2, 2, 16), (4, 4, 8), (4, 4, 8)]
    """
    sizes, ratios = _map_sizes(shape, sizes)
    for name, value in (("counts", counts), ("channels", channels), ("latents", latents)):
        if len(value) != len(sizes):
            raise ValueError(
                f"`{name}` must have one entry for each of the {len(sizes)} `sizes`. "
                f"Received: {name}={value}."
            )
    scale = 1 / math.sqrt(sum(counts))
    factor = tuple(-(-n // size) for n, size in zip(shape, sizes[-1]))
    kernel = tuple(f + 2 for f in factor)
    h = x = keras.Input(shape, name="x")
    if any(n % f for n, f in zip(shape, factor)):
        h = Pad(factor, name="pad_in")(h)
    h = conv(h, channels[-1], "conv_in", kernel, factor)
    maps = []
    for i in reversed(range(len(sizes))):
        width = channels[i]
        if i < len(sizes) - 1:
            h = conv(h, width, f"halve_{i}", ratios[i], ratios[i], "valid")
        for k in range(2):
            h = _residual(h, width, f"up_{i}_{k}", 1.0)
        maps.insert(0, h)
    features = [maps[i] for i, count in enumerate(counts) for _ in range(count)]
    encoder = keras.Model(x, features, name="encoder")

    levels = []
    for i, count in enumerate(counts):
        for k in range(count):
            last = k == count - 1
            name, width = f"{i}_{k}", channels[i]
            map_shape, latent = (*sizes[i], width), latents[i]
            state, h, z = (
                keras.Input(map_shape),
                keras.Input(map_shape),
                keras.Input((*sizes[i], latent)),
            )
            prior = keras.Model(
                state, _block(state, width, 2 * latent, "prior", 0.0), name=f"prior_{name}"
            )
            both = layers.Concatenate()([state, h])
            posterior = keras.Model(
                [state, h], _block(both, width, 2 * latent, "post", scale), name=f"post_{name}"
            )
            merged = state + conv(z, width, "conv_z", 1, kernel_initializer=_scaled(scale))
            merged = _residual(merged, width, "out", scale)
            if last and i < len(counts) - 1:
                merged = conv(merged, channels[i + 1], "widen", 1)
                ratio = ratios[i] if len(ratios[i]) > 1 else ratios[i][0]
                merged = _of_rank("UpSampling{}D", merged)(ratio, name="double")(merged)
            merge = keras.Model([state, z], merged, name=f"merge_{name}")
            levels.append((prior, posterior, merge, map_shape if not levels else ()))

    state = keras.Input((*sizes[-1], channels[-1]), name="state")
    h = ops.gelu(_residual(state, channels[-1], "last", scale), approximate=True)
    output = _of_rank("Conv{}DTranspose", h)(
        output_channels, kernel, factor, "same", dtype="float32", name="conv_out"
    )(h)
    if output.shape[1:-1] != tuple(shape[:-1]):
        output = CropTo(shape[:-1], dtype="float32", name="crop_out")(output)
    return encoder, levels, keras.Model(state, output, name="decoder")


def _map_sizes(
    shape: tuple[int, ...], sizes: tuple[int | tuple[int, ...], ...]
) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Returns the sizes of the feature maps per axis, and the ratios of consecutive sizes."""
    rank = len(shape) - 1
    full = [tuple(s) if isinstance(s, (tuple, list)) else (s,) * rank for s in sizes]
    for size, following in zip(full, [*full[1:], None]):
        fits = following is None or all(n % m == 0 for m, n in zip(size, following))
        if len(size) != rank or not fits or any(m > n for m, n in zip(size, shape)):
            raise ValueError(
                f"`sizes` must have a number, or {rank} numbers, for each feature map, which "
                "divide those of the next map and are at most the size of the data. "
                f"Received: sizes={sizes} for data of shape {tuple(shape)}."
            )
    ratios = [tuple(n // m for m, n in zip(a, b)) for a, b in itertools.pairwise(full)]
    return full, ratios


def _of_rank(name: str, x: keras.KerasTensor) -> type:
    """Returns the Keras layer class, such as `Conv{}DTranspose`, for the spatial rank of `x`."""
    return getattr(layers, name.format(spatial_rank(x)))


def _scaled(scale: float) -> keras.Initializer:
    return keras.initializers.VarianceScaling(max(scale, 1e-3) ** 2, "fan_in", "truncated_normal")


def _residual(x: keras.KerasTensor, width: int, name: str, scale: float) -> keras.KerasTensor:
    return x + _block(x, width, width, name, scale)


def _block(
    x: keras.KerasTensor, width: int, outputs: int, name: str, scale: float
) -> keras.KerasTensor:
    """Applies convolutions 1x1, 3x3, 3x3, 1x1, with half the width inside.

    The initial weights of the last convolution are scaled by `scale`.
    """
    inner = width // 2
    for i, kernel in enumerate((1, 3, 3)):
        x = conv(ops.gelu(x, approximate=True), inner, f"{name}_{i}", kernel)
    x = ops.gelu(x, approximate=True)
    return conv(x, outputs, f"{name}_3", 1, kernel_initializer=_scaled(scale))
