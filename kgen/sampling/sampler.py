"""From noise to data, as every diffusion and score model of the library does it.

    z_1 ~ p(z_1), each example's noise a function of the seed and its own index
    z_1 -> z_0 by a solver, with the guided denoiser
    x = x_hat(z_0)

`generate` may also begin from given noise, from a picture at a time t < 1 (image to image), and
keep a part of it (inpainting); `kgen.sampling.editing` has the mathematics.
"""

import dataclasses
import functools

import keras
import numpy as np
import tensorflow as tf

from kgen import solvers
from kgen.checks import check_count, check_data, check_interval
from kgen.diffusion import classifier_free, time_grid
from kgen.distribution import fused
from kgen.sampling import editing
from kgen.solvers import solve
from kgen.tensors import fold_in, normal, split


@dataclasses.dataclass(frozen=True)
class Sampler:
    """What the compiled functions of a model are made of.

    Args:
        denoise: a function of `z`, `t` and a condition that returns `x_hat`.
        process: a `GaussianDiffusion`.
        shape: of an example.
    """

    denoise: object
    process: object
    shape: tuple

    def draw(self, solver, guidance, cond, negative, num_steps, scale, seed, indices, given):
        """Draws examples.

        Args:
            solver: a `Solver`.
            guidance: a function of the denoiser, `cond`, `negative` and `scale` that returns a
                function of `z` and `t`; None for classifier-free guidance where there is a
                condition, and none at all where there is not.
            cond: the condition, or None for an unconditional model.
            negative: the condition to move away from; None as `cond`.
            num_steps: solver steps, an int32 scalar.
            scale: of the guidance, a float32 scalar.
            seed: an int32 pair.
            indices: int32 `[B]`; an example depends on the seed and its index alone, and with a
                stochastic solver on the first index too.
            given: a dictionary that may hold `"noise"`, z at t = 1; `"x"`, examples, and
                `"strength"`, the time at which to begin from them; `"mask"`, 0 where `x` is kept.

        Returns:
            A float32 tensor `[B, *shape]`.

        Raises:
            tf.errors.InvalidArgumentError: if one is not finite, which as a pixel would be black.
        """
        if hasattr(guidance, "of_examples"):
            guidance = guidance.of_examples(indices)
        denoise, start = self._guided(guidance, cond, negative, scale), 1.0
        noise_seed, solver_seed = split(seed, 2)
        # Or every part of the examples would follow the same random path.
        solver_seed = fold_in(solver_seed, tf.reduce_min(indices))
        if "noise" in given:
            z = given["noise"]
        else:
            eps = tf.map_fn(
                lambda index: normal(self.shape, fold_in(noise_seed, index)),
                indices,
                fn_output_signature=tf.TensorSpec(self.shape, tf.float32),
            )
            z = self.process.prior(eps).std * eps
            if "strength" in given:
                start = given["strength"]
                alpha, sigma = self.process.alpha_sigma(start)
                # At t = 1 there is nothing left of x to begin from.
                z = tf.where(start < 1, alpha * given["x"] + sigma * eps, z)
        if "mask" in given:
            denoise = editing.inpaint(denoise, given["x"], given["mask"])
        times = time_grid(self.process, num_steps, solver.grid, start=start)
        z = solve(solver, denoise, self.process, z, times, seed=solver_seed)
        return tf.debugging.check_numerics(denoise(z, times[-1]), "The samples are not finite")

    def invert(self, solver, guidance, cond, negative, num_steps, scale, x):
        """The noise from which `draw` makes `x`, `[B, *shape]`."""
        denoise = self._guided(guidance, cond, negative, scale)
        return editing.invert(solver, denoise, self.process, x, num_steps)

    def _guided(self, guidance, cond, negative, scale):
        denoise = tf.function(self.denoise)  # its graph is traced once, however often called
        if guidance is None and cond is None:
            return lambda z, t: denoise(z, t, None)
        return (guidance or classifier_free)(denoise, cond, negative, scale)


class Steps:
    """Compiled functions of a model, one for each solver and a second option.

    Args:
        model: runs with its averaged weights.
        function: called with a solver, the option, such as a guidance, and tensors.
    """

    def __init__(self, model, function):
        self._model = model
        self._function = function
        self._compiled = {}

    def __call__(self, solver="dpm", option=None, portable=False):
        """Returns the function of tensors for a solver, an instance or a name, and an option.

        With `portable`, for exports, XLA compiles no part of it.
        """
        solver = solvers.get(solver)
        key = (solver, _identity(option), portable)
        if key not in self._compiled:

            def step(*tensors):
                with self._model.averaged(), fused(not portable):
                    return self._function(solver, option, *tensors)

            self._compiled[key] = tf.function(step, reduce_retracing=True)
        return self._compiled[key]


def _identity(option):
    """What tells an option from others: of a partial function its parts, if they can be hashed."""
    if not isinstance(option, functools.partial):
        return option
    parts = (option.func, option.args, tuple(sorted(option.keywords.items())))
    try:
        hash(parts)
    except TypeError:
        return option
    return parts


def slices(num, size, verbose=0):
    """The slices of `num` examples, `size` at once; with `verbose` a progress bar of those done."""
    check_count("batch_size", size)
    bar = keras.utils.Progbar(num, verbose=verbose)
    for start in range(0, num, size):
        yield slice(start, min(start + size, num))
        bar.add(min(size, num - start))


def check_given(num, shape, noise, images, strength, mask):
    """Checks what sampling is to begin from, and puts numbers and masks into a dictionary.

    Args:
        num: number of examples.
        shape: of the noise of one.
        noise: None or z at t = 1, `[num, *shape]`.
        images: None or the examples to begin from.
        strength: None or the time at which to begin.
        mask: None or 1 where there is something to paint, `[num or 1, H, W, 1]`.

    Raises:
        ValueError: if one of them does not fit or goes without another.
    """
    given = {}
    if noise is not None:
        if tuple(np.shape(noise)) != (num, *shape):
            raise ValueError(
                f"`noise` must have shape {(num, *shape)}. Received: {tuple(np.shape(noise))}."
            )
        check_data("noise", noise, shape)
        if images is not None and mask is None:
            raise ValueError("`noise` and `images` must not be given together without a `mask`.")
        given["noise"] = tf.cast(noise, tf.float32)
    if images is None:
        if mask is not None or strength is not None:
            raise ValueError("`strength` and `mask` need `images`. Received: images=None.")
        return given
    if np.shape(images)[:1] != (num,):
        raise ValueError(f"`images` must be {num} examples. Received: shape {np.shape(images)}.")
    if noise is not None and strength is not None:
        raise ValueError("`strength` must be None with `noise`, which begins at t = 1.")
    strength = (0.6 if mask is None else 1.0) if strength is None else strength
    check_interval("strength", strength, "(0, 1]")
    if noise is None:
        given["strength"] = tf.constant(strength, tf.float32)
    if mask is not None:
        mask = _mask(mask, num, shape, np.shape(images))
        given["mask"] = tf.repeat(mask, num // len(mask), axis=0)
    return given


def _mask(mask, num, shape, images):
    """The mask as float32, checked; `images` is the shape of the pictures."""
    mask = np.asarray(mask)
    if mask.dtype.kind not in "bfiu":
        raise TypeError(f"`mask` must hold numbers. Received: dtype {mask.dtype}.")
    size, channels = images[1:-1], (1, shape[-1]) if images[1:] == tuple(shape) else (1,)
    fits = mask.ndim == len(images) and mask.shape[1:-1] == size
    if not fits or mask.shape[-1] not in channels or len(mask) not in (1, num):
        expected = ", ".join(map(str, [f"{num} or 1", *size, 1]))
        raise ValueError(f"`mask` must have shape [{expected}]. Received: shape {mask.shape}.")
    if not (mask.min() >= 0 and mask.max() <= 1):  # NaN is neither
        raise ValueError(
            "`mask` must be in [0, 1], 1 where there is something to paint. "
            f"Received: values in [{mask.min()}, {mask.max()}]."
        )
    return mask.astype("float32")


def share(given, part):
    """The part of what `check_given` returned that belongs to a part of the examples."""
    return {key: value[part] if value.shape.rank else value for key, value in given.items()}
