"""Generate with published weights of Stable Diffusion: a folder, a file, or a name on the hub.

    python examples/stable_diffusion.py "a red heart" --model FOLDER --output heart.png
    python examples/stable_diffusion.py "a red heart" --model owner/name --dtype bfloat16
    python examples/stable_diffusion.py "a red heart" --model model.safetensors --config FOLDER

It prints the pipeline, the solver and the licence that the folder states, and shows a progress bar
of the steps. A name on the Hugging Face hub needs the network and `pip install -e ".[hub]"`, and
only the files that are needed are downloaded. kgen does not check the content of pictures: a safety
checker is not part of the model.
"""

import argparse
import pathlib

import kgen
from kgen.pictures import contact_sheet, save_png


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", nargs="+")
    parser.add_argument("--model", required=True, help="folder, file, or owner/name")
    parser.add_argument("--config", help="for a single file: folder of a model of the same kind")
    parser.add_argument("--variant", help="variant of the weights, such as fp16")
    parser.add_argument("--dtype", help="dtype policy, such as bfloat16; default: float32")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("pictures.png"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--negative", help="negative prompt")
    parser.add_argument("--num-steps", type=int, help="number of solver steps; default: 20")
    parser.add_argument("--guidance-scale", type=float, help="default: that of the pipeline")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    model = kgen.from_diffusers(
        args.model, variant=args.variant, dtype=args.dtype, config=args.config
    )
    if model.conditioner is None or model.conditioner.batch_key != "prompts":
        parser.error("`--model` must take texts")
    licence = model.published.licence or "not stated in the folder: look where you found them"
    print(f"{model.published.pipeline}, {model.count_params():,} weights, licence: {licence}")
    print(f"drawn with {model.default_solver.solver!r}")
    images = model.generate(
        args.prompts,
        negative=args.negative,
        size=None if args.size is None else tuple(args.size),
        num_steps=args.num_steps,
        guidance_scale=args.guidance_scale,
        seed=args.seed,
        batch_size=1,
        verbose=1,
    )
    if len(images) == 1:
        save_png(args.output, images[0])
    else:
        save_png(args.output, contact_sheet(images, args.prompts))
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
