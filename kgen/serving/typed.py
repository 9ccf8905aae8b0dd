"""What a person can type for a model: a text, a class, or nothing."""

import inspect


def denoises(model):
    """Whether a model draws with a solver, step by step."""
    generate = getattr(model, "generate", None)
    return generate is not None and "num_steps" in inspect.signature(generate).parameters


def takes(model):
    """What the condition of a model is on a command line.

    Returns:
        None without a condition; `"texts"`, `"classes"`, or `"other"` for what cannot be typed.
    """
    if model.conditioner is None:
        return None
    specs = list(model.conditioner.signature().values())
    if len(specs) == 1 and specs[0].shape.rank == 1:
        if specs[0].dtype.name == "string":
            return "texts"
        if specs[0].dtype.is_integer:
            return "classes"
    return "other"


def class_names(model):
    """The names of the classes of a model, or None."""
    given = getattr(model.conditioner, "names", None)
    return list(given) if given else None
