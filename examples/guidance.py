"""Guide a diffusion model of classes, and measure the quality and variety of its samples.

    python examples/guidance.py --output runs/guidance                 # of the shipped model
    python examples/guidance.py --preset runs/diffusion-fashion_mnist  # of one of your own

Two classifiers are trained first: one of clean pictures, for the evaluation, and one of noisy
pictures, for classifier guidance. Then pictures are generated from the same noise at several scales
of classifier-free and of classifier guidance. For each scale the first classifier gives the share
of pictures that show their class; precision and recall, in its features, are the share of generated
pictures near real ones and the share of real pictures near generated ones. `--output` gets
`guidance.png`, these figures against the scale, and `samples.png`, the pictures.

The first classifier is trained on the training split, as the model is, and on no generated picture.
"""

import argparse
import pathlib

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kgen
from kgen import solvers
from kgen.data import grey
from kgen.diffusion import classifier_free, classifier_guidance
from kgen.metrics import precision_recall
from kgen.pictures import contact_sheet, save_png

SOLVERS = {
    "dpm": solvers.DPMSolver(2),
    "ancestral": solvers.DDIM(eta=1.0),
    "dpm-sde": solvers.DPMSolver(2, sde=True),
}
SHIPPED = pathlib.Path(__file__).parents[1] / "saved_models" / "diffusion_fashion_mnist"


def small_classifier(classes):
    """Returns a small convolutional classifier of pictures in [-1, 1], with a layer "features"."""
    x = keras.Input((28, 28, 1))
    h = layers.Conv2D(32, 3, 2, "same", activation="relu")(x)
    h = layers.Conv2D(64, 3, 2, "same", activation="relu")(h)
    h = layers.Dropout(0.3)(layers.Flatten()(h))
    h = layers.Dense(128, activation="relu", name="features")(h)
    return keras.Model(x, layers.Dense(classes)(layers.Dropout(0.3)(h)))


def guide(classes):
    """Returns a classifier of noisy pictures, conditional on their log-SNR."""
    x, log_snr = keras.Input((28, 28, 1)), keras.Input(())
    level = layers.Dense(64, activation="silu")(layers.Reshape((1,))(log_snr / 10))
    h = layers.Conv2D(32, 3, 2, "same")(x) + layers.Reshape((1, 1, 32))(layers.Dense(32)(level))
    h = layers.Conv2D(64, 3, 2, "same")(layers.Activation("silu")(h))
    h = h + layers.Reshape((1, 1, 64))(layers.Dense(64)(level))
    h = layers.Flatten()(layers.Activation("silu")(h))
    h = layers.Dense(128, activation="silu")(h)
    return keras.Model([x, log_snr], layers.Dense(classes)(h))


def train(make, view, model, args):
    """Trains a classifier on the output of `view` for each batch."""
    keras.utils.set_random_seed(args.seed)
    data = grey.load(args.data, values="signed", labels=True, batch_size=100, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    network = make(model.conditioner.num_classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    network.compile("adam", loss, metrics=["accuracy"], jit_compile=False)
    print(f"training the {make.__name__}")
    network.fit(data.map(view), epochs=args.epochs, shuffle=False, verbose=args.verbose)
    return network


def train_classifier(model, args):
    """Trains the classifier of clean pictures, for the evaluation."""
    return train(small_classifier, lambda batch: (batch["images"], batch["labels"]), model, args)


def train_guide(model, args):
    """Trains the classifier of noisy pictures, for classifier guidance."""

    def noisy(batch):
        t = tf.random.uniform(tf.shape(batch["labels"]))
        z = model.process.marginal(batch["images"], t)
        z = z.mean + z.std * tf.random.normal(tf.shape(z.mean))
        return (z, model.process.log_snr(t)), batch["labels"]

    return train(guide, noisy, model, args)


def with_features(network):
    """Returns a model with the features and the logits of a classifier as outputs."""
    return keras.Model(network.inputs, [network.get_layer("features").output, network.output])


def by_classifier(process, network, labels):
    """Returns the guidance by a classifier of noisy pictures, toward one label per example."""

    def log_prob(z, t, labels):
        log_snr = tf.broadcast_to(process.log_snr(t), tf.shape(z)[:1])
        log_p = tf.nn.log_softmax(network([z, log_snr], training=False))
        return tf.gather(log_p, labels, batch_dims=1)

    # Applied to the conditional model, so that the scale 0 is that model.
    return classifier_guidance(process, log_prob, labels)


def measure(model, classifier, labels, real_features, scale, args, **options):
    """Generates a picture for each label at one scale of the guidance.

    Returns:
        The pictures; the share of them that show their class; precision and recall with respect to
        real pictures, in the features of the classifier.
    """
    images = model.generate(
        labels,
        num_steps=args.num_steps,
        solver=SOLVERS[args.solver],
        guidance_scale=scale,
        seed=args.seed,
        **options,
    )
    features, logits = classifier.predict(images / 127.5 - 1.0, verbose=0)
    shown = (logits.argmax(-1) == labels).mean()
    return images, (shown, *precision_recall(real_features, features))


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", type=pathlib.Path, default=SHIPPED)
    parser.add_argument("--data", choices=grey.NAMES, default="fashion_mnist")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/guidance"))
    parser.add_argument("--epochs", type=int, default=8, help="number of epochs of the classifiers")
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument(
        "--num-samples", type=int, default=1000, help="number of pictures at each scale"
    )
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--solver", choices=SOLVERS, default="dpm")
    parser.add_argument("--scales", type=float, nargs="+", default=[0.0, 1.0, 1.5, 2.0, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", type=int, default=2)
    args = parser.parse_args(argv)
    model = kgen.from_preset(args.preset)
    classifier, noisy = with_features(train_classifier(model, args)), train_guide(model, args)

    test = grey.load(args.data, "test", values="signed", labels=True, batch_size=args.num_samples)
    real = next(iter(test))
    real_features, logits = classifier.predict(real["images"], verbose=0)
    accuracy = (logits.argmax(-1) == real["labels"].numpy()).mean()
    print(f"accuracy of the classifier on {len(logits)} real test pictures: {accuracy:.3f}")

    labels = np.arange(args.num_samples) % model.conditioner.num_classes
    kinds = {
        "classifier-free": classifier_free,
        "classifier": by_classifier(model.process, noisy, labels),
    }
    curves, sheets = {}, []
    for name, guidance in kinds.items():
        for scale in args.scales:
            images, values = measure(
                model, classifier, labels, real_features, scale, args, guidance=guidance
            )
            shown, precision, recall = values
            print(
                f"{name}, scale {scale:g}: accuracy {shown:.3f}, precision {precision:.3f}, "
                f"recall {recall:.3f}"
            )
            curves.setdefault(name, []).append(values)
            sheets.append(images[: 2 * model.conditioner.num_classes])
    args.output.mkdir(parents=True, exist_ok=True)
    draw(curves, args.scales, accuracy, args.output / "guidance.png")
    columns = len(sheets[0])
    save_png(
        args.output / "samples.png", contact_sheet(np.concatenate(sheets), columns=columns, scale=2)
    )
    return curves


def draw(curves, scales, accuracy, path):
    """Plots accuracy, precision and recall against the guidance scale."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2))
    for i, title in enumerate(("accuracy", "precision", "recall")):
        for name, values in curves.items():
            axes[i].plot(scales, [value[i] for value in values], marker="o", label=name)
        axes[i].set(title=title, xlabel="guidance scale", ylim=(0, 1.02))
    axes[0].axhline(accuracy, color="silver", label="real pictures")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
