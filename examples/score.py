"""Train score models of points in the plane, and plot their scores and samples.

    python examples/score.py --output runs/score                          # about 2 minutes
    python examples/score.py --objective sliced_vr --output runs/sliced

A score is a vector in the direction in which the density increases. `--output` gets two pictures.
`field.png` shows the scores at three noise levels over noisy data. `samples.png` shows samples of
one model by Langevin dynamics, the predictor-corrector sampler and the ordinary differential
equation, with the number of evaluations and the energy distance of the samples to the data (in
units of the plane; that of two sets of data points of this size is about 0.002).

`--scaling` chooses the stochastic differential equation (VP, VE or sub-VP), `--levels 10` discrete
noise levels instead of continuous time (NCSN).
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf
from diffusion import spirals

import kgen
from kgen.callbacks import Resume
from kgen.diffusion import GaussianDiffusion, LinearLogSNR
from kgen.diffusion.score_matching import OBJECTIVES
from kgen.networks import TimeMLP
from kgen.pictures import training_curves
from kgen.solvers import AnnealedLangevin, DPMSolver, PredictorCorrector

SAMPLERS = (
    ("Langevin dynamics", AnnealedLangevin(langevin_steps=20), 20),
    ("predictor-corrector", PredictorCorrector(), 200),
    ("probability flow", DPMSolver(3), 40),
)


def train(args):
    """Trains a model and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    # Without a target there must be noise enough: the loss is steep where the density is.
    highest = 6.5 if args.objective == "dsm" else 5.0
    model = kgen.ScoreModel(
        TimeMLP(2),
        GaussianDiffusion(LinearLogSNR(highest, -4.0), args.scaling),
        objective=args.objective,
        levels=args.levels,
        grey_levels=None,
        ema_decay=0.999,
        seed=args.seed,
    )
    data = tf.data.Dataset.from_tensor_slices(spirals(50_000))
    data = data.shuffle(50_000, seed=args.seed).batch(500).prefetch(2)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, args.epochs * len(data))
    model.compile(
        keras.optimizers.Adam(rate, global_clipnorm=1.0),
        jit_compile=True,
        steps_per_execution=min(50, len(data)),
    )
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    callbacks = [Resume(args.output / "resume"), log]
    model.fit(data, epochs=args.epochs, callbacks=callbacks, verbose=args.verbose)
    model.save_to_preset(args.output, dtype="float32")
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return model


def energy_distance(a, b):
    """Returns the energy distance of two sets of points, `[N, D]` each."""

    def mean_distance(p, q):
        return np.sqrt(((p[:, None] - q[None]) ** 2).sum(-1)).mean()

    return 2 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)


def draw_field(model, output):
    """Plots the score as arrows over noisy data, at three noise levels."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.6))
    x = spirals(3000)
    for plot, log_snr in zip(axes, (4.0, 0.0, -4.0)):
        t = model.process.schedule.time(tf.constant(log_snr))
        z = model.process.marginal(x, t).sample(tf.constant([0, 1])).numpy()
        reach = 1.1 * np.quantile(np.abs(z), 0.995)
        axis = np.linspace(-reach, reach, 20, dtype="float32")
        grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
        arrows = model.score(tf.constant(grid), t).numpy()
        length = np.linalg.norm(arrows, axis=-1, keepdims=True)
        arrows /= np.sqrt(length)  # so that long and short ones can both be seen
        plot.scatter(*z.T, s=1, color="silver")
        plot.quiver(*grid.T, *arrows.T, angles="xy", width=0.004)
        plot.set(title=f"log-SNR {log_snr:g}", xlim=(-reach, reach), ylim=(-reach, reach))
        plot.set_aspect("equal")
    figure.tight_layout()
    figure.savefig(output / "field.png", dpi=100)
    pyplot.close(figure)


def draw_samples(model, output, num):
    """Plots samples of several methods side by side, and prints their distance to the data."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(SAMPLERS) + 1, figsize=(13, 3.8))
    data = spirals(num, seed=1)
    print(f"data against data: energy distance {energy_distance(data, spirals(num, seed=2)):.4f}")
    clouds = [("data", data)]
    for name, solver, num_steps in SAMPLERS:
        if model.levels and isinstance(solver, AnnealedLangevin):
            num_steps = model.levels - 1  # the noise levels of the training
        points = model.generate(num_samples=num, num_steps=num_steps, solver=solver, seed=0)
        distance = energy_distance(points, data)
        print(f"{name}, {solver.nfe(num_steps)} evaluations: energy distance {distance:.4f}")
        clouds.append((f"{name}\n{solver.nfe(num_steps)} evaluations, {distance:.4f}", points))
    for plot, (title, points) in zip(axes, clouds):
        plot.scatter(*points.T, s=1, color="black")
        plot.set(title=title, xlim=(-2.6, 2.6), ylim=(-2.6, 2.6), aspect="equal")
    figure.tight_layout()
    figure.savefig(output / "samples.png", dpi=100)
    pyplot.close(figure)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/score"))
    parser.add_argument("--objective", choices=OBJECTIVES, default="dsm")
    parser.add_argument("--scaling", choices=("vp", "ve", "sub_vp"), default="ve")
    parser.add_argument(
        "--levels", type=int, help="number of noise levels; default: continuous time"
    )
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument("--num-samples", type=int, default=3000)
    parser.add_argument(
        "--verbose", type=int, default=1, help="1 for a progress bar, 2 for one line per epoch"
    )
    args = parser.parse_args(argv)
    import matplotlib

    matplotlib.use("Agg")
    args.output.mkdir(parents=True, exist_ok=True)
    model = train(args)
    draw_field(model, args.output)
    draw_samples(model, args.output, args.num_samples)
    return model


if __name__ == "__main__":
    main()
