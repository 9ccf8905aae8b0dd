"""Compare the speed of a pixel diffusion model with diffusers: a training step, or sampling.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers
    python examples/benchmarks/pixel_unet.py train --torch-python venv_torch/bin/python
    python examples/benchmarks/pixel_unet.py sample --torch-python venv_torch/bin/python

The network is the U-Net of DDPM for 28 x 28 grey pictures, with self-attention at 14 x 14: kgen's
`UNet(transformers=False)` and diffusers' `UNet2DModel`, whose groups of each normalisation and
biases of the three projections of each attention are set to kgen's, so that both have the same
number of parameters.

`train` is a step of DDPM: noise and times are drawn, the network predicts the noise, Adam updates
it. In kgen it is `DiffusionModel.train_step` in a `tf.function`, of which XLA compiles the
normalisations alone, in PyTorch the loop of diffusers' tutorial with its fused Adam, in eager mode
or, with `--compile`, with the network compiled by `torch.compile`.
`sample` is the whole of DDIM from noise to pictures with `--num-steps` evaluations of the network:
`DiffusionModel.generate`, whose last evaluation is the final x_hat, and `DDIMPipeline`.

The two sides alternate (`turns.py`). A ratio below 1 means that kgen is faster.
"""

import argparse

import turns

SHAPE = (28, 28, 1)
CHANNELS = (64, 128, 128)
ATTENTION = (False, True, False)
BLOCKS = 2
HEADS = 4
LEARNING_RATE = 1e-4


def kgen_side(args):
    """Returns the timed function of kgen, and the number of parameters."""
    import keras
    import numpy as np
    import tensorflow as tf

    import kgen
    from kgen.networks import UNet

    turns.set_threads(args)
    keras.utils.set_random_seed(0)
    model = kgen.DiffusionModel(
        UNet(
            SHAPE,
            channels=CHANNELS,
            blocks=BLOCKS,
            attention=ATTENTION,
            heads=HEADS,
            transformers=False,
            dtype={"float32": "float32", "bfloat16": "mixed_bfloat16"}[args.precision],
        ),
        kgen.diffusion.GaussianDiffusion(kgen.diffusion.LinearBeta()),
        prediction="eps",
        weighting="simple",
        levels=1000,
        seed=0,
    )
    parameters = model.network.count_params()
    if args.task == "sample":

        def sample():
            options = {"num_steps": args.num_steps - 1, "solver": "ddim", "seed": 0}
            return float(model.generate(num_samples=args.batch_size, **options).mean())

        return sample, parameters
    model.compile(keras.optimizers.Adam(LEARNING_RATE))
    update = tf.function(model.train_step, jit_compile=False)
    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(-1, 1, (args.batch_size, *SHAPE)), tf.float32)
    return lambda: float(update(x)["loss"]), parameters


def torch_side(args):
    """Returns the timed function of diffusers, and the number of parameters."""
    import diffusers
    import torch
    from diffusers.models.attention_processor import Attention

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    layout = getattr(
        torch, {"contiguous": "contiguous_format"}.get(args.torch_layout, "channels_last")
    )
    kinds = ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in ATTENTION]
    network = diffusers.UNet2DModel(
        sample_size=SHAPE[0],
        in_channels=SHAPE[-1],
        out_channels=SHAPE[-1],
        layers_per_block=BLOCKS,
        block_out_channels=CHANNELS,
        down_block_types=tuple(kinds),
        up_block_types=tuple(kind.replace("Down", "Up") for kind in reversed(kinds)),
        attention_head_dim=CHANNELS[1] // HEADS,
    )
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = min(32, module.num_channels // 4)
        if isinstance(module, Attention):
            module.to_q.bias = module.to_k.bias = module.to_v.bias = None
    network.to(memory_format=layout)
    parameters = sum(p.numel() for p in network.parameters())
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16")
    if args.task == "sample":
        pipeline = diffusers.DDIMPipeline(network.eval(), diffusers.DDIMScheduler())
        pipeline.unet = turns.compiled(network, args)
        pipeline.set_progress_bar_config(disable=True)

        def sample():
            with autocast:
                options = {"num_inference_steps": args.num_steps, "output_type": "np"}
                return float(pipeline(args.batch_size, **options).images.mean())

        return sample, parameters
    scheduler = diffusers.DDPMScheduler()
    optimizer = torch.optim.Adam(network.train().parameters(), LEARNING_RATE, fused=True)
    network = turns.compiled(network, args)
    x = torch.rand(args.batch_size, SHAPE[-1], *SHAPE[:2]) * 2 - 1
    x = x.contiguous(memory_format=layout)

    def update():
        optimizer.zero_grad(set_to_none=True)
        eps = torch.randn_like(x)
        times = torch.randint(0, 1000, (args.batch_size,))
        with autocast:
            output = network(scheduler.add_noise(x, eps, times), times).sample
        loss = torch.nn.functional.mse_loss(output.float(), eps)
        loss.backward()
        optimizer.step()
        return loss.item()

    return update, parameters


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("task", choices=("train", "sample"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument(
        "--num-steps",
        type=turns.positive,
        default=20,
        help="number of network evaluations of `sample`",
    )
    turns.run(parser, {"kgen": kgen_side, "torch": torch_side}, argv)


if __name__ == "__main__":
    main()
