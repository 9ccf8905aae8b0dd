"""Distil a text-to-image model into one that generates in 1 to 4 evaluations.

    python examples/distill.py --output runs/distilled

The student (`kgen.Distillation`) learns the guided probability flow of a preset, by default of the
shipped model, on the captioned emoji, whose latents and embeddings are precomputed once. The output
is the preset of the student and `sheet.png`: the teacher with guidance in 20 steps, which are 42
evaluations, above the student in 1, 2 and 4 evaluations, from the same noise.

Training is resumable: start the same command again. `--evaluate DIR` only draws the sheet of a
student that is trained.

References:
  Song et al. (2023), https://arxiv.org/abs/2303.01469.
  Luo et al. (2023), https://arxiv.org/abs/2310.04378.
"""

import argparse
import pathlib

import keras
import numpy as np

import kgen
from kgen.callbacks import Resume
from kgen.data import emoji
from kgen.pictures import contact_sheet, save_png, training_curves

SHIPPED = pathlib.Path(__file__).parents[1] / "saved_models" / "text_to_image"
PROMPTS = (
    "red heart, noto",
    "grinning face, twemoji",
    "dog face, noto",
    "pizza, fluent flat",
    "rocket, emojione",
    "blue apple",
)
EVALUATIONS = (1, 2, 4)


def train(teacher, args):
    """Trains a student and saves it as a preset."""
    keras.utils.set_random_seed(args.seed)
    distillation = kgen.Distillation(
        teacher,
        guidance_scale=args.guidance_scale,
        intervals=args.intervals,
        solver=args.solver,
        seed=args.seed,
    )
    data = emoji.load("train", batch_size=args.batch_size, recolour=0.15, seed=args.seed)
    if args.steps_per_epoch:
        data = data.take(args.steps_per_epoch)
    steps = len(data)
    data = teacher.precompute(data.repeat(args.passes), args.output / "latents", args.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, args.epochs * steps, warmup_target=args.learning_rate, warmup_steps=min(200, steps)
    )
    distillation.compile(keras.optimizers.Adam(rate, beta_2=0.99, global_clipnorm=1.0))
    log = keras.callbacks.CSVLogger(args.output / "log.csv", append=True)
    distillation.fit(
        data.repeat(),
        epochs=args.epochs,
        steps_per_epoch=steps,
        callbacks=[Resume(args.output / "resume"), log],
        verbose=args.verbose,
    )
    distillation.student.save_to_preset(args.output)
    training_curves(args.output / "curves.png", args.output / "log.csv")
    return distillation.student


def draw(teacher, student, args):
    """Writes a sheet of samples of the teacher above those of the student."""
    rows = [
        teacher.generate(
            args.prompts,
            num_steps=args.num_steps,
            guidance_scale=args.guidance_scale,
            seed=args.seed,
        )
    ]
    rows += [
        student.generate(args.prompts, num_steps=number, seed=args.seed) for number in EVALUATIONS
    ]
    labels = [f"teacher, {args.num_steps} steps", *(f"student, {n}" for n in EVALUATIONS)]
    labels = [label for label in labels for _ in args.prompts]
    sheet = contact_sheet(np.concatenate(rows), labels, columns=len(args.prompts), scale=2)
    save_png(args.output / "sheet.png", sheet)
    print(f"Wrote {args.output / 'sheet.png'}")


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", type=pathlib.Path, default=SHIPPED, help="the teacher")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/distilled"))
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--intervals", type=int, default=50, help="number of intervals of the grid")
    parser.add_argument("--solver", choices=("ddim", "heun"), default="ddim")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=2e-4)
    parser.add_argument(
        "--passes", type=int, default=4, help="epochs of captions that are precomputed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompts", nargs="+", default=PROMPTS, help="prompts of the sheet")
    parser.add_argument(
        "--num-steps", type=int, default=20, help="number of solver steps of the teacher's samples"
    )
    parser.add_argument(
        "--steps-per-epoch", type=int, help="number of steps per epoch; default: the whole data set"
    )
    parser.add_argument(
        "--verbose", type=int, default=1, help="1 for a progress bar, 2 for one line per epoch"
    )
    parser.add_argument(
        "--evaluate", type=pathlib.Path, metavar="DIR", help="the preset of a trained student"
    )
    args = parser.parse_args(argv)
    args.output.mkdir(parents=True, exist_ok=True)
    teacher = kgen.from_preset(args.preset)
    student = train(teacher, args) if args.evaluate is None else kgen.from_preset(args.evaluate)
    draw(teacher, student, args)
    return student


if __name__ == "__main__":
    main()
