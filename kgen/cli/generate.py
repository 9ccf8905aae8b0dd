"""`kgen generate`: pictures, sheets of pictures, and animations of the sampling."""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kgen.cli import metadata
from kgen.cli.arguments import ANIMATION_SUFFIXES, DEFAULT_MODEL, PICTURE_SUFFIXES
from kgen.cli.drawing import draw, settings_of
from kgen.cli.errors import UsageError
from kgen.cli.models import check_generates_pictures, open_model, parse_condition, weights_sha256
from kgen.cli.outputs import output_paths, random_seed, slug, upscaled, write

if TYPE_CHECKING:
    import numpy as np

    from kgen.cli.session import Result, Session

REPEATED_SETTINGS = ("steps", "guidance", "solver", "size", "upscale")


def run(args: argparse.Namespace, session: Session) -> Result:
    """Generates the pictures and writes the files.

    Raises:
        CommandError: if the model cannot be opened, or a file cannot be read or written.
        UsageError: if there is no such model, or the model does not accept an argument.
    """
    stored = _apply_like(args)
    suffixes = ANIMATION_SUFFIXES if args.animate else PICTURE_SUFFIXES
    if args.output is not None:
        output_paths(args.output, ["check"], suffixes)
    name = args.model or DEFAULT_MODEL
    model, folder = open_model(name, session)
    check_generates_pictures(model)
    digest = weights_sha256(folder)
    if stored.get("model_sha256") not in (None, digest):
        session.say(f"{args.like} was made with other weights of {name}: expect another picture")
    prompts = args.prompts
    values = parse_condition(model, prompts)
    count, first = args.count or 1, random_seed() if args.seed is None else args.seed
    seeds = [first + i for i in range(count)] * max(1, len(prompts))
    labels = [prompt for prompt in prompts for _ in range(count)] or [None] * count
    if values is not None:
        values = [value for value in values for _ in range(count)]
    options = {} if args.size is None else {"size": tuple(args.size)}
    if args.animate:
        options["trajectory"] = True
    noun = "picture" if len(seeds) == 1 else "pictures"
    session.say(f"Drawing {len(seeds)} {noun} from seed {first}")
    images = draw(model, args, session, seeds, values, **options)

    def describe(prompt: str | None, seed: int) -> dict[str, str]:
        settings = {"command": "generate", **settings_of(model, args)}
        if args.upscale:
            settings |= {"upscale": args.upscale, "upscaled_by": "Lanczos"}
        return metadata.describe(
            model=name,
            model_sha256=digest,
            settings=settings,
            prompt=prompt,
            negative=args.negative,
            seed=seed,
        )

    files = _write(args, images, labels, seeds, describe, suffixes)
    result = {
        "files": files,
        "seeds": seeds,
        "prompts": prompts,
        "model": name,
        "settings": settings_of(model, args),
    }
    return result, [f"Wrote {file}" for file in files]


def _write(
    args: argparse.Namespace,
    images: np.ndarray,
    labels: Sequence[str | None],
    seeds: Sequence[int],
    describe: Callable[[str | None, int], dict[str, str]],
    suffixes: Sequence[str],
) -> list[str]:
    """Writes the pictures, or one sheet of all of them.

    Args:
        args: the parsed arguments.
        images: uint8 `[N, H, W, C]`; of animations `[N, num_frames, H, W, C]`.
        labels: the prompt of each picture, or None.
        seeds: the seed of each picture.
        describe: the metadata of a prompt and a seed.
        suffixes: allowed suffixes of the files.

    Returns:
        The paths of the files.
    """
    from kgen.pictures import contact_sheet, save_animation, save_picture

    def enlarged(frames: np.ndarray) -> np.ndarray:
        return upscaled(frames, args.upscale)

    if args.sheet:
        texts = [label or f"seed {seed}" for label, seed in zip(labels, seeds)]
        scale = 1 if images.shape[-2] * (args.upscale or 1) > 96 else 2
        (path,) = output_paths(args.output, [f"sheet-{slug(labels[0])}-{seeds[0]}"], suffixes)
        prompts = list(dict.fromkeys(label for label in labels if label is not None))
        values = describe("; ".join(prompts) or None, seeds[0])
        if not args.animate:
            sheet = contact_sheet(enlarged(images), texts, scale=scale)
            return [write(path, save_picture, sheet, values)]
        steps = range(images.shape[1])
        sheets = [contact_sheet(enlarged(images[:, i]), texts, scale=scale) for i in steps]
        return [write(path, save_animation, sheets, metadata=values)]
    names = [f"{slug(label)}-{seed}" for label, seed in zip(labels, seeds)]
    paths = output_paths(args.output, names, suffixes)
    files = []
    for path, image, label, seed in zip(paths, images, labels, seeds):
        values = describe(label, seed)
        if args.animate:
            files.append(write(path, save_animation, enlarged(image), metadata=values))
        else:
            files.append(write(path, save_picture, enlarged(image[None])[0], values))
    return files


def _apply_like(args: argparse.Namespace) -> dict[str, Any]:
    """Fills in arguments that were not given from the metadata of the file of `--like`.

    Returns:
        The metadata; empty without `--like`.

    Raises:
        CommandError: if the file cannot be read as a picture.
        UsageError: if `kgen generate` did not write the file, or it has unusable settings.
    """
    if args.like is None:
        return {}
    stored, _ = metadata.read(args.like)
    settings = stored.get("settings", {})
    if not stored:
        raise UsageError(f"{args.like} does not say how it was made: kgen did not write it")
    if settings.get("command") != "generate":
        raise UsageError(f"{args.like} was made by another command: {settings.get('command')!r}")
    if not args.prompts and "prompt" in stored:
        args.prompts = [stored["prompt"]]
    for name in ("negative", "model"):
        if getattr(args, name) is None:
            setattr(args, name, stored.get(name))
    if args.seed is None and stored.get("seed", "").lstrip("-").isdigit():
        args.seed = int(stored["seed"])
    for name in REPEATED_SETTINGS:
        if getattr(args, name) is None:
            setattr(args, name, _validated(name, settings.get(name), args.like))
    return stored


def _validated(name: str, value: Any, path: pathlib.Path) -> Any:
    """Returns a setting of a file.

    Raises:
        UsageError: if the setting has the wrong type or is out of range.
    """
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    valid = {
        "steps": isinstance(value, int) and is_number and value >= 1,
        "guidance": is_number,
        "solver": isinstance(value, str),
        "size": isinstance(value, list) and len(value) == 2,
        "upscale": value in (2, 4),
    }[name]
    if value is not None and not valid:
        raise UsageError(f"{path} has a setting that cannot be used: {name}={value!r:.80}")
    return value
