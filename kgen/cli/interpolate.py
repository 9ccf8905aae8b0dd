"""`kgen interpolate`: from one text and one noise to another, as an animation.

The embeddings of two texts are mixed along a straight line, their noises along the great circle
(`kgen.sampling.editing.slerp`).
"""

from kgen.cli import metadata
from kgen.cli.arguments import ANIMATIONS
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_draws_pictures, condition, open_model, sum_of
from kgen.cli.outputs import new_seed, paths, slug, upscaled, write
from kgen.serving.typed import denoises


def run(args, session):
    """Draws and writes; returns the result as a dictionary, and lines for a person."""
    name = "-to-".join(slug(prompt)[:20] for prompt in args.prompts[:3])
    (path,) = paths(args.output, [name], ANIMATIONS)
    if len(args.prompts) < 2:
        raise UsageError(f"two prompts are needed, or more. Received: {len(args.prompts)}")
    if args.frames < len(args.prompts):
        raise UsageError(f"--frames must be at least {len(args.prompts)}, one for each prompt")
    model, folder = open_model(args.model, session)
    check_draws_pictures(model)
    if not denoises(model):
        raise UsageError(f"a {type(model).__name__} has no noise to interpolate")
    values = condition(model, args.prompts)
    seed = new_seed() if args.seed is None else args.seed
    noises = [seed] * len(values) if args.same_noise else [seed + i for i in range(len(values))]
    cond, noise = between(model, values, noises, args.frames)
    session.say(f"Drawing {args.frames} frames of seed {seed}")
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
    about = metadata.describe(
        model=args.model,
        model_sha256=sum_of(folder),
        settings=settings,
        prompt="; ".join(args.prompts),
        negative=args.negative,
        seed=seed,
    )
    file = write(path, save_animation, upscaled(images, args.upscale), metadata=about)
    result = {"files": [file], "seeds": noises, "prompts": args.prompts, "model": args.model}
    return result, [f"Wrote {file}"]


def between(model, values, seeds, frames):
    """Returns the conditions and the noise of all frames.

    Args:
        model: a `DenoiserModel` with a conditioner.
        values: what its conditioner takes, K of them.
        seeds: K integers, of the noise of each.
        frames: N, at least K.

    Returns:
        A dictionary of tensors `[N, ...]`, and float32 `[N, *shape of z]`.
    """
    import numpy as np
    import tensorflow as tf

    from kgen.sampling.editing import slerp
    from kgen.tensors import as_seed

    shape = model.sampler.shape
    cond, _ = model.conditions_of(model.conditioner.prepare(values), None)
    ends = {key: np.asarray(value) for key, value in cond.items()}
    eps = np.stack([tf.random.stateless_normal(shape, as_seed(seed)) for seed in seeds])
    scale = np.asarray(model.process.prior(tf.constant(eps)).std)
    place = np.linspace(0, len(values) - 1, frames)
    left = np.minimum(place.astype(int), len(values) - 2)
    weight = (place - left).astype("float32")
    cond = {key: _mixed(value[left], value[left + 1], weight) for key, value in ends.items()}
    noise = slerp(eps[left], eps[left + 1], weight).numpy()
    return cond, (noise * np.broadcast_to(scale, eps.shape)[:1]).astype("float32")


def _mixed(a, b, weight):
    """Rows between `a` and `b`; of masks what is true in one of the two, where it has weight."""
    weight = weight.reshape([-1] + [1] * (a.ndim - 1))
    if a.dtype == bool:
        return (a & (weight < 1)) | (b & (weight > 0))
    return ((1 - weight) * a + weight * b).astype(a.dtype)
