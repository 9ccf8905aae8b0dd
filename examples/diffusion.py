"""Train a variational diffusion model: on points in the plane, then on small grey pictures.

    python examples/diffusion.py --output runs/diffusion-2d                        # 2 minutes
    python examples/diffusion.py --data fashion_mnist --output runs/diffusion      # 2 hours

On the plane (`--data spirals`) a dense network learns two spirals; `--output` gets the training
curve, samples beside the data, and the density of the model, integrated along the probability flow.
On pictures a U-Net learns the bound, conditional on the class; `evaluate` prints it in bits per
dimension and its three terms in nats, and `--output` gets samples of every class at several scales
of the guidance.

Training is resumable: start the same command again. `--evaluate DIR` only evaluates a preset.
`--start DIR` starts from the weights of a preset. `--weighting elbo` trains on the bound, most of
which is due to low noise levels that are not visible; `sigmoid` gives more weight to shapes.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.conditioning import Labels
from kgen.data import grey
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR
from kgen.diffusion.weighting import WEIGHTINGS
from kgen.networks import TimeMLP, UNet
from kgen.pictures import contact_sheet, save_png, training_curves

SCALES = (0.0, 1.0, 2.0, 4.0)


def spirals(num, seed=0):
    """Returns points on two spirals with a little noise, float32 `[num, 2]`, of unit variance."""
    rng = np.random.default_rng(seed)
    turn = 3 * np.pi * np.sqrt(rng.uniform(0.05, 1, num))
    side = rng.choice([-1, 1], num)
    points = side[:, None] * turn[:, None] * np.stack([np.cos(turn), np.sin(turn)], axis=1)
    return (points / 4.5 + 0.05 * rng.normal(size=(num, 2))).astype("float32")


def build(data, width=128, blocks=3, **options):
    """Returns a diffusion model of points, or of 28 x 28 pictures with classes."""
    if data == "spirals":
        network = TimeMLP(2, width=width, blocks=blocks)
        process = GaussianDiffusion(CosineLogSNR(9.0, -9.0))
        return kgen.DiffusionModel(network, process, grey_levels=None, **options)
    network = UNet(
        (28, 28, 1),
        channels=(64, 96),
        blocks=1,
        attention=(False, True),
        transformers=False,
        pooled=64,
        patch=2,
    )
    classes = 7 if data == "emoji" else 10
    process = GaussianDiffusion(LinearLogSNR(13.3, -8.0))
    return kgen.DiffusionModel(network, process, conditioner=Labels(classes, 64), **options)


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    flat = args.data == "spirals"
    times = "cosine" if args.weighting == "sigmoid" else "stratified"  # more of those that count
    settings = {"weighting": args.weighting, "times": times, "ema_decay": 0.999, "seed": args.seed}
    if args.start is None:
        model = build(args.data, args.width, args.blocks, **settings)
    else:
        model = kgen.from_preset(args.start).with_settings(**settings)
    if flat:
        data = tf.data.Dataset.from_tensor_slices(spirals(50_000))
        data = data.shuffle(50_000, seed=args.seed).batch(500).prefetch(2)
    else:
        data = grey.load(args.data, values="signed", labels=True, batch_size=64, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, args.epochs * len(data), warmup_target=2e-3 if flat else 1e-3, warmup_steps=1
    )
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        jit_compile=kgen.distribution.default_jit(dense=flat),
        steps_per_execution=min(50, len(data)) if flat else 1,
    )
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    callbacks = [Resume(args.output / "resume"), log]
    model.fit(data, epochs=args.epochs, callbacks=callbacks, verbose=args.verbose)
    model.save_to_preset(args.output, dtype="float32")
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def draw_plane(model, output, side=60):
    """Draws data, samples and the density of a model of the plane."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axis = np.linspace(-2.6, 2.6, side, dtype="float32")
    grid = np.stack(np.meshgrid(axis, axis), axis=-1).reshape(-1, 2)
    log_p = model.log_likelihood(grid, rtol=1e-3, atol=1e-3).reshape(side, side)
    print(f"the density integrates to {np.exp(log_p).sum() * (axis[1] - axis[0]) ** 2:.2f}")
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.4))
    samples = model.generate(num_samples=4000, num_steps=50, seed=0)
    for plot, points, title in ((axes[0], spirals(4000), "data"), (axes[1], samples, "samples")):
        plot.scatter(*points.T, s=1, color="black")
        plot.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
    axes[2].imshow(np.exp(log_p), origin="lower", extent=(-2.6, 2.6) * 2, cmap="magma")
    axes[2].set(title="density of the model")
    figure.tight_layout()
    figure.savefig(output / "plane.png", dpi=100)
    pyplot.close(figure)


def draw_pictures(model, output, num_steps):
    """Generates every class at several scales of the guidance, from the same noise."""
    classes = np.repeat(np.arange(model.conditioner.num_classes), 2)
    rows = [
        model.generate(classes, num_steps=num_steps, guidance_scale=scale, seed=0)
        for scale in SCALES
    ]
    sheet = contact_sheet(np.concatenate(rows), columns=len(classes), scale=2)
    save_png(output / "samples.png", sheet)


def evaluate(model, data):
    """Prints the bound and its terms on held-out data."""
    model.compile()
    test = (
        spirals(10_000, seed=1)
        if data == "spirals"
        else grey.load(data, "test", values="signed", labels=True, batch_size=100)
    )
    logs = model.evaluate(test, verbose=0, return_dict=True)
    for name in ("bound", *model.bound_names, "bits_per_dim"):
        print(f"{name}: {logs[name]:.3f}")


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=("spirals", *grey.NAMES), default="spirals")
    parser.add_argument(
        "--output", type=pathlib.Path, help="output folder; default: runs/diffusion-DATA"
    )
    parser.add_argument(
        "--epochs", type=int, help="number of epochs; default: 60 on the plane, 16 on pictures"
    )
    parser.add_argument("--start", type=pathlib.Path, metavar="DIR", help="preset to start from")
    parser.add_argument(
        "--weighting",
        choices=sorted(WEIGHTINGS),
        help="default: snr_plus_one on the plane, elbo on pictures",
    )
    parser.add_argument("--width", type=int, default=128, help="width of the network of the plane")
    parser.add_argument(
        "--blocks", type=int, default=3, help="number of blocks of the network of the plane"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--num-steps", type=int, default=50, help="number of solver steps of the samples"
    )
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument(
        "--verbose", type=int, default=1, help="1 for a progress bar, 2 for one line per epoch"
    )
    parser.add_argument(
        "--evaluate",
        type=pathlib.Path,
        metavar="DIR",
        help="evaluate this preset instead of training",
    )
    args = parser.parse_args(argv)
    if args.evaluate is not None:
        return evaluate(kgen.from_preset(args.evaluate), args.data)
    args.output = args.output or pathlib.Path(f"runs/diffusion-{args.data}")
    args.epochs = args.epochs or (60 if args.data == "spirals" else 16)
    args.weighting = args.weighting or ("snr_plus_one" if args.data == "spirals" else "elbo")
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args)
    if args.data == "spirals":
        draw_plane(model, args.output)
    else:
        draw_pictures(model, args.output, args.num_steps)
    evaluate(model, args.data)
    return model


if __name__ == "__main__":
    main()
