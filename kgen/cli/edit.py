"""`kgen edit`: a picture of any size redrawn after a text, all of it or where a mask is white."""

from kgen.cli import metadata
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_draws_pictures, condition, open_model, sum_of
from kgen.cli.outputs import new_seed, paths, slug, write
from kgen.serving.typed import denoises


def run(args, session):
    """Draws and writes; returns the result as a dictionary, and lines for a person."""
    from kgen.cli.pictures import open_mask, open_upright
    from kgen.fitting import fitted, mask_for, put_back

    seed = new_seed() if args.seed is None else args.seed
    seeds = [seed + i for i in range(args.count)]
    names = [f"{args.picture.stem}-{slug(' '.join(args.prompts), 'edited')}-{s}" for s in seeds]
    targets = paths(args.output, names)
    picture = open_upright(args.picture)
    mask = None if args.mask is None else open_mask(args.mask, picture.size)
    model, folder = open_model(args.model, session)
    check_draws_pictures(model)
    if not denoises(model):
        raise UsageError(f"a {type(model).__name__} cannot begin from a picture")
    if len(args.prompts) > 1:
        raise UsageError(f"one prompt is needed; put it in quotes. Received: {len(args.prompts)}")
    values = condition(model, args.prompts)
    height, width = model.data_shape[:2]
    small = fitted(picture.pixels, model.data_shape)
    options = {"images": small[None].repeat(args.count, axis=0), "strength": args.strength}
    if mask is not None:
        options["mask"] = mask_for(mask, model.data_shape)[None]
    if values is not None:
        values = values * args.count
    scale = "" if picture.size == (height, width) else ", enlarged again"
    session.say(
        f"Redrawing {args.picture} ({picture.size[1]} x {picture.size[0]}) "
        f"at {width} x {height}{scale}, seed {seed}"
    )
    images = draw(model, args, session, seeds, values, **options)
    settings = {
        "command": "edit",
        "picture": args.picture.name,
        "mask": None if args.mask is None else args.mask.name,
        "strength": args.strength or (0.6 if mask is None else 1.0),
        "drawn_at": [height, width],
        **settings_of(model, args),
    }
    digest, files = sum_of(folder), []
    for path, image, one in zip(targets, images, seeds):
        about = metadata.describe(
            model=args.model,
            model_sha256=digest,
            settings=settings,
            prompt=args.prompts[0] if args.prompts else None,
            negative=args.negative,
            seed=one,
        )
        files.append(write(path, _save, put_back(image, picture, mask), picture.mode, about))
    result = {"files": files, "seeds": seeds, "model": args.model, "settings": settings}
    return result, [f"Wrote {file}" for file in files]


def _save(path, pixels, mode, about):
    from kgen.fitting import in_mode
    from kgen.pictures import FORMATS, save_picture

    save_picture(path, in_mode(pixels, mode, FORMATS[path.suffix.lower()]), about)
