"""`kgen generate`: pictures, sheets of them, and animations of how they form."""

from kgen.cli import metadata
from kgen.cli.arguments import ANIMATIONS, DEFAULT_MODEL, PICTURES
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_draws_pictures, condition, open_model, sum_of
from kgen.cli.outputs import new_seed, paths, slug, upscaled, write

REPEATED = ("steps", "guidance", "solver", "size", "upscale")


def run(args, session):
    """Draws and writes; returns the result as a dictionary, and lines for a person."""
    remembered = _like(args)
    endings = ANIMATIONS if args.animate else PICTURES
    if args.output is not None:
        paths(args.output, ["check"], endings)
    name = args.model or DEFAULT_MODEL
    model, folder = open_model(name, session)
    check_draws_pictures(model)
    digest = sum_of(folder)
    if remembered.get("model_sha256") not in (None, digest):
        session.say(f"{name} has other weights than when {args.like} was made: expect another")
    prompts = args.prompts
    values = condition(model, prompts)
    count, first = args.count or 1, new_seed() if args.seed is None else args.seed
    seeds = [first + i for i in range(count)] * max(1, len(prompts))
    labels = [prompt for prompt in prompts for _ in range(count)] or [None] * count
    if values is not None:
        values = [value for value in values for _ in range(count)]
    options = {} if args.size is None else {"size": tuple(args.size)}
    if args.animate:
        options["trajectory"] = True
    session.say(f"Drawing {len(seeds)} of seed {first}")
    images = draw(model, args, session, seeds, values, **options)

    def description(label, seed):
        settings = {"command": "generate", **settings_of(model, args)}
        if args.upscale:
            settings |= {"upscale": args.upscale, "upscaled_by": "Lanczos"}
        return metadata.describe(
            model=name,
            model_sha256=digest,
            settings=settings,
            prompt=label,
            negative=args.negative,
            seed=seed,
        )

    files = _write(args, images, labels, seeds, description, endings)
    result = {
        "files": files,
        "seeds": seeds,
        "prompts": prompts,
        "model": name,
        "settings": settings_of(model, args),
    }
    return result, [f"Wrote {file}" for file in files]


def _write(args, images, labels, seeds, description, endings):
    from kgen.pictures import contact_sheet, save_animation, save_picture

    def larger(frames):
        return upscaled(frames, args.upscale)

    if args.sheet:
        texts = [label or f"seed {seed}" for label, seed in zip(labels, seeds)]
        scale = 1 if images.shape[-2] * (args.upscale or 1) > 96 else 2
        (path,) = paths(args.output, [f"sheet-{slug(labels[0])}-{seeds[0]}"], endings)
        prompts = list(dict.fromkeys(label for label in labels if label is not None))
        about = description("; ".join(prompts) or None, seeds[0])
        if not args.animate:
            sheet = contact_sheet(larger(images), texts, scale=scale)
            return [write(path, save_picture, sheet, about)]
        steps = range(images.shape[1])
        sheets = [contact_sheet(larger(images[:, i]), texts, scale=scale) for i in steps]
        return [write(path, save_animation, sheets, metadata=about)]
    names = [f"{slug(label)}-{seed}" for label, seed in zip(labels, seeds)]
    files = []
    for path, image, label, seed in zip(paths(args.output, names, endings), images, labels, seeds):
        about = description(label, seed)
        if args.animate:
            files.append(write(path, save_animation, larger(image), metadata=about))
        else:
            files.append(write(path, save_picture, larger(image[None])[0], about))
    return files


def _like(args):
    """Fills in what is not given with what a file says; returns that."""
    if args.like is None:
        return {}
    said, _ = metadata.read(args.like)
    settings = said.get("settings", {})
    if not said:
        raise UsageError(f"{args.like} does not say how it was made: kgen did not write it")
    if settings.get("command") != "generate":
        raise UsageError(f"{args.like} was made by another command: {settings.get('command')!r}")
    if not args.prompts and "prompt" in said:
        args.prompts = [said["prompt"]]
    for name in ("negative", "model"):
        if getattr(args, name) is None:
            setattr(args, name, said.get(name))
    if args.seed is None and said.get("seed", "").lstrip("-").isdigit():
        args.seed = int(said["seed"])
    for name in REPEATED:
        if getattr(args, name) is None:
            setattr(args, name, _plausible(name, settings.get(name), args.like))
    return said


def _plausible(name, value, path):
    """A setting of a file, if it is of the right type."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    good = {
        "steps": isinstance(value, int) and number and value >= 1,
        "guidance": number,
        "solver": isinstance(value, str),
        "size": isinstance(value, list) and len(value) == 2,
        "upscale": value in (2, 4),
    }[name]
    if value is not None and not good:
        raise UsageError(f"{path} has a setting that cannot be used: {name}={value!r:.80}")
    return value
