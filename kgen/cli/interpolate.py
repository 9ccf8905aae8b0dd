"""`kgen interpolate`: an animation from one text and noise to another.

The embeddings of two texts are interpolated along a straight line, and their noises along a great
circle (`kgen.sampling.editing.slerp`), which keeps the norm of the noise.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kgen.cli import metadata
from kgen.cli.arguments import ANIMATION_SUFFIXES
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_generates_pictures, open_model, parse_condition, weights_sha256
from kgen.cli.outputs import output_paths, random_seed, slug, upscaled, write
from kgen.serving.capabilities import has_solver

if TYPE_CHECKING:
    import numpy as np

    from kgen.cli.session import Result, Session
    from kgen.models.denoiser_model import DenoiserModel


def run(args: argparse.Namespace, session: Session) -> Result:
    """Generates the frames and writes the animation.

    Raises:
        CommandError: if the model cannot be opened, or the file cannot be written.
        UsageError: if there is no such model, or the model does not accept an argument.
    """
    name = "-to-".join(slug(prompt)[:20] for prompt in args.prompts[:3])
    (path,) = output_paths(args.output, [name], ANIMATION_SUFFIXES)
    if len(args.prompts) < 2:
        raise UsageError(f"at least two prompts are needed. Received: {len(args.prompts)}")
    if args.frames < len(args.prompts):
        raise UsageError(f"--frames must be at least {len(args.prompts)}, one for each prompt")
    model, folder = open_model(args.model, session)
    check_generates_pictures(model)
    if not has_solver(model):
        raise UsageError(f"a {type(model).__name__} has no noise to interpolate")
    values = parse_condition(model, args.prompts)
    seed = random_seed() if args.seed is None else args.seed
    seeds = [seed] * len(values) if args.same_noise else [seed + i for i in range(len(values))]
    cond, noise = interpolated(model, values, seeds, args.frames)
    session.say(f"Drawing {args.frames} frames from seed {seed}")
    images = draw(model, args, session, [seed] * args.frames, cond, noise=noise)
    from kgen.pictures import save_animation

    settings = {
        "command": "interpolate",
        **settings_of(model, args),
        "frames": args.frames,
        "same_noise": args.same_noise,
        "upscale": args.upscale,
        "upscaled_by": "Lanczos" if args.upscale else None,
    }
    description = metadata.describe(
        model=args.model,
        model_sha256=weights_sha256(folder),
        settings=settings,
        prompt="; ".join(args.prompts),
        negative=args.negative,
        seed=seed,
    )
    frames = upscaled(images, args.upscale)
    file = write(path, save_animation, frames, metadata=description)
    result = {"files": [file], "seeds": seeds, "prompts": args.prompts, "model": args.model}
    return result, [f"Wrote {file}"]


def interpolated(
    model: DenoiserModel, values: Sequence[Any], seeds: Sequence[int], frames: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Interpolates between conditions, and between noises.

    Args:
        model: a model with a conditioner.
        values: K values that the conditioner accepts, at least 2.
        seeds: K seeds of the noises.
        frames: the number N of frames, at least K.

    Returns:
        The conditions of the frames, arrays `[N, ...]`, and their initial noises, float32
        `[N, *shape of z]`.
    """
    import numpy as np
    import tensorflow as tf

    from kgen.sampling.editing import slerp
    from kgen.tensors import as_seed

    shape = model.sampler.shape
    cond, _ = model.conditions_of(model.conditioner.prepare(values), None)
    ends = {key: np.asarray(value) for key, value in cond.items()}
    eps = np.stack([tf.random.stateless_normal(shape, as_seed(seed)) for seed in seeds])
    std = np.asarray(model.process.prior(tf.constant(eps)).std)
    position = np.linspace(0, len(values) - 1, frames)
    left = np.minimum(position.astype(int), len(values) - 2)
    weight = (position - left).astype("float32")
    cond = {key: _mixed(value[left], value[left + 1], weight) for key, value in ends.items()}
    noise = slerp(eps[left], eps[left + 1], weight).numpy()
    return cond, (noise * np.broadcast_to(std, eps.shape)[:1]).astype("float32")


def _mixed(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolates the rows of two arrays `[N, ...]`, with weights `[N]` of the second one.

    Of boolean masks, an entry is true where it is true in an array whose weight is not zero.
    """
    weight = weight.reshape([-1] + [1] * (a.ndim - 1))
    if a.dtype == bool:
        return (a & (weight < 1)) | (b & (weight > 0))
    return ((1 - weight) * a + weight * b).astype(a.dtype)
