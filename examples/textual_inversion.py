"""Textual inversion: learn the embeddings of a new word for a style, with all weights frozen.

    python examples/textual_inversion.py --output runs/word

adds the word "<streamline>" to the vocabulary of the shipped model and trains its vectors (4 x 384
numbers) on 30 pictures of that style (`examples/pictures/streamline`). A word can only select from
what the model can generate already: expect the most similar of its styles, not a new one; for that,
train a LoRA (`lora.py`). The word is written to a file of a few kilobytes, `word.safetensors`,
which `model.load_word` reads, also for Stable Diffusion (`kgen.from_diffusers`).

`before.png` and `after.png` show 12 held-out captions from the same noise below the real pictures;
the last line of the output is the loss on all 30 held-out pictures before and after, with the same
noise.
"""

import argparse
import pathlib

import keras
from lora import HELD_OUT, SHIPPED, SHOWN, batches, draw, load, rate, sheet

import kgen

HERE = pathlib.Path(__file__).parent
WORD = "<streamline>"


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/word"))
    parser.add_argument("--start", type=pathlib.Path, default=SHIPPED, help="preset to start from")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "pictures" / "streamline")
    parser.add_argument("--vectors", type=int, default=4)
    parser.add_argument(
        "--like", default="outline", help="word whose embedding is the initial value"
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=15)
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="peak learning rate")
    parser.add_argument("--num-steps", type=int, default=20, help="number of solver steps")
    args = parser.parse_args(argv)
    model = kgen.from_preset(args.start).with_settings(ema_decay=0.95)
    number = model.learn_word(WORD, like=args.like, vectors=args.vectors)
    print(f"{number:,} numbers are trained")
    images, prompts = load(args.folder, WORD)
    args.output.mkdir(parents=True, exist_ok=True)
    shown = slice(HELD_OUT, HELD_OUT + SHOWN)
    before = draw(model, prompts[shown], args)
    sheet(args.output / "before.png", images[shown], before, prompts[shown])

    # Latents are computed once; the text changes with the word, so that its ids are kept.
    data, held_out = (
        model.precompute(batches(images[rows], prompts[rows], 30), args.output / name, size)
        for name, rows, size in (
            ("latents", slice(HELD_OUT), args.batch_size),
            ("held_out", slice(HELD_OUT, None), 30),
        )
    )
    model.compile(keras.optimizers.Adam(rate(args.steps, args.learning_rate)))
    first = model.evaluate(held_out, verbose=0, return_dict=True)["loss"]
    epochs = min(6, args.steps)
    steps = max(1, args.steps // epochs)
    model.fit(data.repeat(), epochs=epochs, steps_per_epoch=steps, verbose=2)
    last = model.evaluate(held_out, verbose=0, return_dict=True)["loss"]
    model.save_word(WORD, args.output / "word.safetensors")
    after = draw(model, prompts[shown], args)
    sheet(args.output / "after.png", images[shown], after, prompts[shown])
    print(f"Loss on held-out pictures: {first:.4f} before, {last:.4f} after")


if __name__ == "__main__":
    main()
