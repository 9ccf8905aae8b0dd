"""Compare Stable Diffusion in kgen with diffusers: equality of pictures, time and memory.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers transformers
    python examples/benchmarks/stable_diffusion.py evaluate --torch-python venv_torch/bin/python
    python examples/benchmarks/stable_diffusion.py decode --torch-python venv_torch/bin/python
    python examples/benchmarks/stable_diffusion.py equal --folder FOLDER \
        --torch-python venv_torch/bin/python
    python examples/benchmarks/stable_diffusion.py memory --precision bfloat16

Without `--folder` a pipeline of the sizes of Stable Diffusion 1.5 is written first, with random
weights in half precision (2.1 GB, removed afterwards), since the time of a step does not depend on
the values of the weights. Its vocabulary is that of the tiny pipeline of the tests.

`evaluate` is an evaluation of the U-Net with text, `decode` a decoding of the autoencoder, both at
`--size` pixels. The two sides alternate (`turns.py`); a ratio below 1 means that kgen is faster.
`equal` opens the folder in kgen, writes it by `to_diffusers`, generates with diffusers and with
kgen from the same noise, and fails if pictures in [-1, 1] differ by more than `--tolerance`.
`memory` opens the folder and generates in a separate process, and prints the peak memory of each
beyond that of opening a tiny pipeline, and the size of the weights. It needs kgen only.
"""

import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

import turns

ROOT = pathlib.Path(__file__).parents[2]
TINY = ROOT / "tests" / "published" / "fixtures" / "sd1"
PROMPT, NEGATIVE, SCALE = "a red heart", "a cat", 7.5
STEM = "diffusion_pytorch_model"
UNET = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 64,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
}
VAE = {
    "_class_name": "AutoencoderKL",
    "sample_size": 512,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
TEXT |= {"num_attention_heads": 12, "projection_dim": 768}


def write_pipeline(folder):
    """Writes a pipeline of the sizes of Stable Diffusion 1.5, of random weights in float16."""
    import numpy as np
    from safetensors.numpy import save_file

    from kgen.conditioning.clip_tower import CLIPTower
    from kgen.published.autoencoder import autoencoder_slots, build_autoencoder
    from kgen.published.configs import read_config
    from kgen.published.files import Folder
    from kgen.published.modules import slots_of
    from kgen.published.text import read_vocabulary, tower_modules, write_tokenizer
    from kgen.published.unet import build_unet, unet_modules

    noise = np.random.default_rng(0).standard_normal(2**20, "float32")

    def save(part, stem, slots, config):
        arrays = {}
        for slot in slots:
            for name, shape in zip(slot.names, slot.shapes):
                fan_in = max(1, int(np.prod(shape[1:])))
                array = np.resize((noise / fan_in**0.5).astype("float16"), shape)
                if "norm" in name and name.endswith("weight"):
                    array = np.ones(shape, "float16")
                arrays[name] = array
        (folder / part).mkdir(parents=True)
        save_file(arrays, folder / part / f"{stem}.safetensors")
        (folder / part / "config.json").write_text(json.dumps(config))

    folder = pathlib.Path(folder)
    config = read_config(UNET, UNET["_class_name"], "unet")
    network = build_unet(config, "unet", noise_index=None, dtype="bfloat16")
    save("unet", STEM, slots_of(unet_modules(network, config, "unet")), UNET)
    del network
    config = read_config(VAE, VAE["_class_name"], "vae")
    networks = build_autoencoder(config, "vae", dtype="bfloat16")
    save("vae", STEM, autoencoder_slots(*networks, config), VAE)
    text = json.loads((TINY / "text_encoder" / "config.json").read_text()) | TEXT
    vocabulary, merges, pad = read_vocabulary(Folder(TINY), "tokenizer", text["vocab_size"])
    tower = CLIPTower(
        vocabulary,
        merges,
        width=text["hidden_size"],
        depth=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        hidden=text["intermediate_size"],
        pad=pad,
    )
    save("text_encoder", "model", slots_of(tower_modules(tower)), text)
    write_tokenizer(tower, folder / "tokenizer")
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text((TINY / name).read_text())


def open_in_kgen(args):
    """Opens the model."""
    import kgen

    turns.set_threads(args)
    return kgen.from_diffusers(args.folder, size=args.size, dtype=args.precision)


def kgen_side(args):
    """Returns the timed function of kgen, and the number of parameters of its network."""
    import numpy as np
    import tensorflow as tf

    model = open_in_kgen(args)
    rng = np.random.default_rng(0)
    z = tf.constant(rng.normal(size=(args.batch_size, *model.autoencoder.latent_shape)), tf.float32)
    if args.task == "decode":
        decode = tf.function(model.autoencoder.decode)
        return lambda: float(tf.reduce_mean(decode(z))), model.autoencoder.decoder.count_params()
    cond = model.conditioner([PROMPT] * args.batch_size)
    evaluate = tf.function(lambda: model.denoiser(z, 0.5, cond))
    return lambda: float(tf.reduce_mean(evaluate())), model.network.count_params()


def torch_side(args):
    """Returns the timed function of diffusers, and the number of parameters of its network."""
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    dtype = getattr(torch, args.precision)
    options = {"torch_dtype": dtype, "safety_checker": None}
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(args.folder, **options)
    sides = [side // pipeline.vae_scale_factor for side in args.size]
    z = torch.randn(args.batch_size, 4, *sides, dtype=dtype)
    if args.task == "decode":
        parts = (pipeline.vae.decoder, pipeline.vae.post_quant_conv)
        parameters = sum(p.numel() for part in parts for p in part.parameters())
        return lambda: pipeline.vae.decode(z).sample.float().mean().item(), parameters
    tokens = pipeline.encode_prompt([PROMPT] * args.batch_size, "cpu", 1, False)[0]
    parameters = sum(p.numel() for p in pipeline.unet.parameters())
    return lambda: pipeline.unet(z, 500, tokens).sample.float().mean().item(), parameters


DRAW = """
import sys
import diffusers, numpy as np, torch
folder, noise, output, steps, prompt, negative = sys.argv[1:]
pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32)
latents = torch.from_numpy(np.load(noise))
size = {"height": latents.shape[2] * pipeline.vae_scale_factor}
size["width"] = latents.shape[3] * pipeline.vae_scale_factor
images = pipeline(prompt, negative_prompt=negative, num_inference_steps=int(steps),
                  guidance_scale=7.5, latents=latents, output_type="np", **size).images
np.save(output, 2 * images - 1)
"""


def equal(args):
    """Generates the same pictures with kgen and with diffusers, and compares them."""
    import numpy as np
    import tensorflow as tf

    import kgen
    from kgen.diffusion import classifier_free
    from kgen.published.schedulers import run

    model = kgen.from_diffusers(args.folder, size=args.size)
    if not isinstance(model, kgen.LatentDiffusion):
        raise SystemExit(f"`--folder` must be a text-to-image pipeline. Received: {args.folder}.")
    shape = model.autoencoder.latent_shape
    noise = np.random.default_rng(0).normal(size=(1, *shape)).astype("float32")
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        kgen.to_diffusers(model, place / "written")
        np.save(place / "noise.npy", np.moveaxis(noise, -1, 1))
        command = [args.torch_python, "-c", DRAW, place / "written", place / "noise.npy"]
        command += [place / "images.npy", args.num_steps, PROMPT, NEGATIVE]
        subprocess.run(list(map(str, command)), check=True)
        expected = np.load(place / "images.npy")
    cond, null = (model.conditioner([text]) for text in (PROMPT, NEGATIVE))
    denoise = tf.function(classifier_free(model.denoise, cond, null, tf.constant(SCALE)))
    z = run(model.default_solver, denoise, tf.constant(noise), args.num_steps)
    images = np.clip(model.autoencoder.decode(z), -1, 1)
    difference = np.abs(images - expected).max()
    print(f"pictures of {images.shape[1:3]} pixels differ by at most {difference:.2e} in [-1, 1]")
    if not difference < args.tolerance:
        raise SystemExit(f"That is more than {args.tolerance}.")


def memory(args):
    """Opens a folder, generates a picture, and prints the peak memory."""
    import numpy as np
    import tensorflow as tf

    import kgen

    def held():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # of Linux, in KiB

    turns.set_threads(args)
    kgen.from_diffusers(TINY)  # what Python and TensorFlow need for any model is not counted
    before = held()
    model = open_in_kgen(args)
    sizes = [np.prod(v.shape) * tf.as_dtype(v.dtype).size for v in model.variables]
    weights, opened = sum(sizes) / 2**30, held()
    print(f"weights {weights:.2f} GiB in {args.precision}, any model {before:.2f} GiB")
    print(f"opened: {opened - before:.2f} GiB at most, {(opened - before) / weights:.3f} of them")
    model.generate([PROMPT], num_steps=args.num_steps, seed=0, verbose=1)
    print(f"drawn: {held() - before - weights:.2f} GiB at most beyond the weights")


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("evaluate", "decode", "equal", "memory"))
    parser.add_argument("--folder", help="folder of a pipeline; default: random weights")
    parser.add_argument(
        "--size",
        type=turns.positive,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of a picture in pixels (default 512 512, and that of the folder for `equal`)",
    )
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--num-steps", type=turns.positive, default=2, help="number of solver steps"
    )
    parser.add_argument("--tolerance", type=float, default=1e-4, help="tolerance of `equal`")
    turns.add_options(parser, batch_size=1)
    argv = sys.argv[1:] if argv is None else argv
    args = parser.parse_args(argv)
    if args.folder is not None:
        return run(args, argv)
    with tempfile.TemporaryDirectory() as folder:
        # In a process of its own, whose memory is not counted.
        script = f"import stable_diffusion; stable_diffusion.write_pipeline({folder!r})"
        subprocess.run(
            [sys.executable, "-c", script], check=True, cwd=pathlib.Path(__file__).parent
        )
        argv = [*argv, "--folder", folder]
        return run(parser.parse_args(argv), argv)


def run(args, argv):
    """Runs a task on a folder."""
    if args.task == "equal":
        return equal(args)
    args.size = args.size or (512, 512)
    if args.task == "memory":
        return memory(args)
    return turns.start(args, {"kgen": kgen_side, "torch": torch_side}, argv)


if __name__ == "__main__":
    main()
