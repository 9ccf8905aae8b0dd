"""`kgen edit`: a picture of any size, all of it or the white part of a mask redrawn from a text."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kgen.cli import metadata
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_generates_pictures, open_model, parse_condition, weights_sha256
from kgen.cli.outputs import output_paths, random_seed, slug, write
from kgen.serving.capabilities import has_solver

if TYPE_CHECKING:
    import numpy as np

    from kgen.cli.session import Result, Session


def run(args: argparse.Namespace, session: Session) -> Result:
    """Edits the picture and writes the files.

    Raises:
        CommandError: if the model cannot be opened, or a file cannot be read or written.
        UsageError: if a file or the model does not exist, or the model does not accept an argument.
    """
    from kgen.cli.pictures import open_mask, open_upright
    from kgen.fitting import fitted, mask_for, put_back

    first = random_seed() if args.seed is None else args.seed
    seeds = [first + i for i in range(args.count)]
    names = [f"{args.picture.stem}-{slug(' '.join(args.prompts), 'edited')}-{s}" for s in seeds]
    paths = output_paths(args.output, names)
    picture = open_upright(args.picture)
    mask = None if args.mask is None else open_mask(args.mask, picture.size)
    model, folder = open_model(args.model, session)
    check_generates_pictures(model)
    if not has_solver(model):
        raise UsageError(f"a {type(model).__name__} cannot edit pictures")
    if len(args.prompts) > 1:
        raise UsageError(f"one prompt is needed; put it in quotes. Received: {len(args.prompts)}")
    values = parse_condition(model, args.prompts)
    height, width = model.data_shape[:2]
    small = fitted(picture.pixels, model.data_shape)
    options = {"images": small[None].repeat(args.count, axis=0), "strength": args.strength}
    if mask is not None:
        options["mask"] = mask_for(mask, model.data_shape)[None]
    if values is not None:
        values = values * args.count
    scale = "" if picture.size == (height, width) else ", resized back"
    session.say(
        f"Redrawing {args.picture} ({picture.size[1]} x {picture.size[0]}) "
        f"at {width} x {height}{scale}, from seed {first}"
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
    digest, files = weights_sha256(folder), []
    for path, image, seed in zip(paths, images, seeds):
        description = metadata.describe(
            model=args.model,
            model_sha256=digest,
            settings=settings,
            prompt=args.prompts[0] if args.prompts else None,
            negative=args.negative,
            seed=seed,
        )
        edited = put_back(image, picture, mask)
        files.append(write(path, _save, edited, picture.mode, description))
    result = {"files": files, "seeds": seeds, "model": args.model, "settings": settings}
    return result, [f"Wrote {file}" for file in files]


def _save(
    path: pathlib.Path, pixels: np.ndarray, mode: str, description: Mapping[str, str]
) -> None:
    """Writes pixels, uint8 `[H, W, C]`, as a picture of a mode of Pillow."""
    from kgen.fitting import in_mode
    from kgen.pictures import FORMATS, save_picture

    save_picture(path, in_mode(pixels, mode, FORMATS[path.suffix.lower()]), description)
