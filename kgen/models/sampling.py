"""From noise to data, as every diffusion model of the library does it.

z_1 ~ p(z_1), each example's noise a function of the seed and its own index
z_1 -> z_0 by a solver, with the guided denoiser
x = x_hat(z_0)
"""

import tensorflow as tf

from kgen.diffusion import classifier_free, time_grid
from kgen.solvers import solve
from kgen.tensors import fold_in, normal, split


def draw(
    sampler, process, solver, shape, cond, negative_cond, num_steps, guidance_scale, seed, indices
):
    """Draws examples.

    Args:
        sampler: a function of `z`, `t` and a condition that returns `x_hat`.
        process: a `GaussianDiffusion`.
        solver: a `Solver`.
        shape: of an example.
        cond: the condition, or None for an unconditional model.
        negative_cond: the condition to move away from; None as `cond`.
        num_steps: solver steps, an int32 scalar.
        guidance_scale: float32 scalar; without effect on an unconditional model.
        seed: an int32 pair.
        indices: int32 `[B]`; an example depends on the seed and its index alone.

    Returns:
        A float32 tensor `[B, *shape]`.
    """
    noise_seed, solver_seed = split(seed, 2)

    def noise(index):
        return normal(shape, fold_in(noise_seed, index))

    eps = tf.map_fn(noise, indices, fn_output_signature=tf.TensorSpec(shape, tf.float32))
    z = process.prior(eps).std * eps
    sampler = tf.function(sampler)  # its graph is traced once, however often called
    if cond is None:
        denoise = sampler
    else:
        denoise = classifier_free(sampler, cond, negative_cond, guidance_scale)
    times = time_grid(process, num_steps)
    z = solve(solver, denoise, process, z, times, seed=solver_seed)
    return denoise(z, times[-1])
