"""One way to draw for all models: each picture by its own seed.

A model with a solver takes a seed for each picture of a batch; another, such as a VAE, draws the
pictures one after the other.
"""

from kgen.cli.errors import UsageError, arguments_from_user
from kgen.serving.typed import denoises

OF_SOLVERS = ("negative", "steps", "guidance", "solver", "size")


def settings_of(model, args):
    """Returns the settings of a drawing by their names on the command line, defaults filled in."""
    names = {name: getattr(args, name, None) for name in OF_SOLVERS if name != "negative"}
    if not denoises(model):
        return {}
    defaults = {
        "steps": model.default_num_steps,
        "guidance": model.default_guidance_scale,
        "solver": model.default_solver,
        "size": None,
    }
    return {name: defaults[name] if value is None else value for name, value in names.items()}


def draw(model, args, session, seeds, condition=None, **options):
    """Draws one picture for each seed.

    Args:
        model: a model that draws pictures.
        args: the arguments, of which those of solvers are used.
        session: the `Session`.
        seeds: a list of integers.
        condition: None, or one for each seed or for all.
        **options: of `model.generate`, such as `images` or `trajectory`.

    Returns:
        uint8 `[N, H, W, C]`, of a trajectory `[N, num_steps, H, W, C]`.

    Raises:
        UsageError: if the model has no such option, or refuses a value.
    """
    import numpy as np

    if not denoises(model):
        given = [name for name in OF_SOLVERS if getattr(args, name, None) is not None]
        given = [f"--{name}" for name in given] + sorted(options)
        if given:
            raise UsageError(f"a {type(model).__name__} draws in one step: it has no {given[0]}")
        many = condition if isinstance(condition, list) and len(condition) == len(seeds) else None
        with arguments_from_user():
            return np.concatenate(
                [
                    model.generate(1, condition=many[i : i + 1] if many else condition, seed=seed)
                    for i, seed in enumerate(seeds)
                ]
            )
    if model.conditioner is None:
        options["num_samples"] = len(seeds)
    with arguments_from_user():
        return model.generate(
            condition,
            seed=list(seeds),
            negative=_negative(model, args.negative),
            num_steps=args.steps,
            guidance_scale=args.guidance,
            solver=args.solver,
            batch_size=args.batch_size,
            verbose=session.bar,
            **options,
        )


def _negative(model, text):
    if text is None:
        return None
    from kgen.cli.models import condition

    return condition(model, [text])
