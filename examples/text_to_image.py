"""Generate pictures from texts with the shipped model, or train such a model.

    python examples/text_to_image.py "a red heart" --output heart.png

uses the model in `saved_models/text_to_image` (8 x 8 x 12 latents of 64 x 64 emoji, a sentence
encoder, a U-Net with cross-attention). Several prompts give one labelled sheet. To train a model:

    python examples/text_to_image.py --train --output runs/text_to_image     about 2 hours, 2 cores
    python examples/text_to_image.py --quick --output runs/quick             about 7 minutes

`--train` is resumable: start the same command again. `--quick` trains on a few hundred pictures of
one style and one group, whose captions are the prompts of its sheets. Both precompute latents and
embeddings once, write a sheet of samples after every few epochs, and write a preset to `--output`,
which `--preset` reads.

`--train --data drawings` trains on drawings of 128 pixels and scenes made of them, which `python -m
tools.drawings` builds, with the autoencoder of `examples/kl_autoencoder.py --data drawings`, which
`--autoencoder` names.
"""

import argparse
import pathlib

import keras
import tensorflow as tf

import kgen
from kgen.callbacks import Resume, SampleGrid
from kgen.data import drawings, emoji
from kgen.networks.unet import UNet
from kgen.pictures import contact_sheet, save_png

SAVED = pathlib.Path(__file__).parents[1] / "saved_models"
SHEET_PROMPTS = (
    "red heart, noto",
    "grinning face, twemoji",
    "dog face, noto",
    "pizza, fluent flat",
    "rocket, emojione",
    "flag of france, noto",
    "blue apple",
    "green cat",
)
DRAWINGS_PROMPTS = (
    "a red heart",
    "a dog",
    "pizza",
    "a rocket, icon park",
    "three apples",
    "a green pear left of a red apple",
    "a blue car",
    "a purple cat",
)
SEQUENCE_LENGTH = 24


def build(autoencoder, *, channels=(96, 192), precision=None, ema_decay=0.9995, like=None):
    """Returns the latent diffusion model of this example, with a trained autoencoder.

    Args:
        autoencoder: a trained `KLAutoencoder`.
        channels: widths of the U-Net.
        precision: Keras dtype policy of the U-Net; None for that of the hardware.
        ema_decay: decay of the averaged weights.
        like: preset of a model of other latents, whose U-Net of the same widths this one starts
            from; None for a random start.
    """
    text_encoder = kgen.TextEncoder.from_preset(
        str(SAVED / "minilm_l6_v2"), sequence_length=SEQUENCE_LENGTH
    )
    network = UNet(
        autoencoder.latent_shape,
        channels=channels,
        blocks=1,
        attention=(False, True),
        heads=4,
        tokens=(SEQUENCE_LENGTH, text_encoder.hidden_dim),
        pooled=text_encoder.hidden_dim,
        dtype=precision or kgen.distribution.default_precision(),
    )
    if like is not None:
        copy_weights(network, kgen.from_preset(like).network)
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR(9.0, -9.0))
    return kgen.LatentDiffusion(
        autoencoder, network, process, text_encoder, ema_decay=ema_decay, seed=0
    )


def copy_weights(network, other):
    """Copies the weights of a U-Net, except those that depend on the channels of the latents.

    Args:
        network: a U-Net.
        other: a U-Net of the same widths, for other latents.
    """
    pairs = list(zip(network.weights, other.weights, strict=True))
    differ = [v.path for v, value in pairs if v.shape != value.shape]
    if len(differ) > 3:  # the first kernel, and the last one with its bias
        raise SystemExit(
            "--like needs a U-Net of the same --channels. Received weights of other shapes: "
            f"{', '.join(differ[:5])}."
        )
    for variable, value in pairs:
        if variable.shape == value.shape:
            variable.assign(value)


def train(
    output,
    *,
    autoencoder=None,
    start=None,
    epochs=100,
    batch_size=64,
    passes=4,
    learning_rate=1e-3,
    sheet_every=5,
    steps_per_epoch=None,
    data=None,
    prompts=SHEET_PROMPTS,
    num_steps=20,
    **options,
):
    """Trains on captioned pictures and writes a preset.

    Args:
        output: folder of the preset, of `resume/`, `samples/` and `latents/`.
        autoencoder: preset of a trained `KLAutoencoder`; None for that of `start`, or the shipped
            model's.
        start: preset of a trained model to start from; None from scratch.
        epochs: total number of epochs, including those before an interruption.
        batch_size: number of pictures per step.
        passes: number of epochs of composed captions that are precomputed.
        learning_rate: peak of the schedule (linear warm-up, then cosine to 0).
        sheet_every: number of epochs between two sheets of samples.
        steps_per_epoch: number of steps per epoch; None for the whole data set.
        data: None for all captioned emoji, or a function from `batch_size` to the data.
        prompts: prompts of the sheets.
        num_steps: number of solver steps of the sheets.
        **options: options of `build`; with `start`, the settings to change.
    """
    output = pathlib.Path(output)
    if start is not None:
        precision = kgen.distribution.default_precision()
        if autoencoder is not None:
            options["autoencoder"] = kgen.from_preset(autoencoder)
        model = kgen.from_preset(start, dtype=precision).with_settings(**options)
    elif autoencoder is None:
        model = build(kgen.from_preset(SAVED / "text_to_image").autoencoder, **options)
    else:
        model = build(kgen.from_preset(autoencoder), **options)
    data = (data or emoji_batches)(batch_size)
    per_epoch = len(data)
    data = model.precompute(data.repeat(passes), output / "latents", batch_size)
    steps = steps_per_epoch or per_epoch
    total = steps * epochs
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, total, warmup_target=learning_rate, warmup_steps=min(500, total // 10)
    )
    model.compile(keras.optimizers.Adam(schedule, beta_2=0.99, global_clipnorm=1.0))
    callbacks = [
        Resume(output / "resume"),
        SampleGrid(
            output / "samples",
            prompts,
            every=sheet_every,
            num_steps=num_steps,
            tensorboard=output / "logs",
        ),
    ]
    model.fit(data.repeat(), epochs=epochs, steps_per_epoch=steps, callbacks=callbacks)
    model.save_to_preset(output)
    return model


def emoji_batches(batch_size):
    """Returns all captioned emoji."""
    return emoji.load("train", batch_size=batch_size, recolour=0.15)


def drawings_batches(batch_size):
    """Returns all captioned drawings, and scenes made of them."""
    return drawings.load("train", batch_size=batch_size)


DATA = {"emoji": emoji_batches, "drawings": drawings_batches}


def _few(batch_size):
    """Returns the pictures of one style and group, the data of `--quick`."""
    data = emoji.load("train", batch_size=batch_size, styles=("twemoji",), captions="label")
    return (
        data.unbatch()
        .take(QUICK_PICTURES)
        .batch(batch_size)
        .apply(tf.data.experimental.assert_cardinality(-(-QUICK_PICTURES // batch_size)))
    )


QUICK_PICTURES = 400


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="*", help="one prompt, or several for a sheet")
    parser.add_argument(
        "--output", type=pathlib.Path, help="PNG file; with --train and --quick, folder"
    )
    parser.add_argument("--preset", type=pathlib.Path, default=SAVED / "text_to_image")
    parser.add_argument("--num-steps", type=int, default=20, help="solver steps (default 20)")
    parser.add_argument(
        "--guidance-scale", type=float, default=3.0, help="guidance scale; 1 is off (default 3)"
    )
    parser.add_argument("--negative-prompt", help="negative prompt")
    parser.add_argument("--seed", type=int, default=0, help="seed of the noise (default 0)")
    parser.add_argument("--train", action="store_true", help="train from scratch, resumable")
    parser.add_argument("--quick", action="store_true", help="train a small model in minutes")
    parser.add_argument(
        "--autoencoder",
        type=pathlib.Path,
        help="preset of the autoencoder (default: that of --start, or of the shipped model)",
    )
    parser.add_argument("--data", choices=DATA, default="emoji", help="of --train")
    parser.add_argument(
        "--channels", type=int, nargs="+", default=(96, 192), help="widths of the U-Net to train"
    )
    parser.add_argument("--start", type=pathlib.Path, help="preset to start from")
    parser.add_argument(
        "--like", type=pathlib.Path, help="preset of other latents whose U-Net to start from"
    )
    parser.add_argument(
        "--epochs", type=int, help="number of epochs (default: --train 100, --quick 120)"
    )
    parser.add_argument(
        "--steps-per-epoch",
        type=int,
        help="number of steps per epoch (default: the whole data set)",
    )
    args = parser.parse_args(argv)
    if args.like is not None and (not args.train or args.start is not None):
        parser.error("--like is for --train without --start")
    if args.train or args.quick:
        if args.prompts:
            parser.error("give either sentences or --train/--quick")
        options = {
            "autoencoder": args.autoencoder,
            "steps_per_epoch": args.steps_per_epoch,
            "num_steps": args.num_steps,
        }
        if args.train:
            if args.data == "drawings":
                if args.start is None and args.autoencoder is None:
                    parser.error("--data drawings needs --autoencoder or --start")
                options |= {"data": drawings_batches, "prompts": DRAWINGS_PROMPTS}
            if args.start is None:
                options |= {"channels": tuple(args.channels), "like": args.like}
            output = args.output or "runs/text_to_image"
            train(output, start=args.start, epochs=args.epochs or 100, **options)
        else:
            output = args.output or pathlib.Path("runs/quick")
            train(
                output,
                epochs=args.epochs or 120,
                passes=1,
                sheet_every=20,
                data=_few,
                ema_decay=0.99,
                prompts=[p.decode() for b in _few(8).take(2) for p in b["prompts"].numpy()],
                **options,
            )
        return
    if not args.prompts:
        parser.error('give a sentence, such as "a red heart", or --train')
    model = kgen.from_preset(args.preset)
    images = model.generate(
        args.prompts,
        num_steps=args.num_steps,
        guidance_scale=args.guidance_scale,
        negative=args.negative_prompt,
        seed=args.seed,
    )
    output = args.output or pathlib.Path("picture.png")
    single = len(images) == 1
    save_png(output, images[0] if single else contact_sheet(images, args.prompts, scale=2))
    print(f"Wrote {output}")


if __name__ == "__main__":
    main()
