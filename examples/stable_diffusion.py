"""Draw with published weights of Stable Diffusion: a folder, a single file, or a name on the hub.

    python examples/stable_diffusion.py "a red heart" --model FOLDER --output heart.png
    python examples/stable_diffusion.py "a red heart" --model owner/name --dtype bfloat16
    python examples/stable_diffusion.py "a red heart" --model model.safetensors --config FOLDER

It says what was opened, with which solver it is drawn and which licence the folder states, and
shows a progress bar of the steps. A name on the Hugging Face hub needs the network and
`pip install -e ".[hub]"`, and only the files that are needed are fetched. kgen does not check what
is drawn: a safety checker is no part of the model.
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
    parser.add_argument("--model", required=True, help="a folder, a file, or owner/name")
    parser.add_argument("--config", help="of a single file: a folder of the same kind of model")
    parser.add_argument("--variant", help="of the weights, such as fp16")
    parser.add_argument("--dtype", help="such as bfloat16; float32 if not given")
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("pictures.png"))
    parser.add_argument("--size", type=int, nargs=2, metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--negative", help="what to move away from")
    parser.add_argument("--num-steps", type=int, help="20 if not given")
    parser.add_argument("--guidance-scale", type=float, help="that of the pipeline if not given")
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
