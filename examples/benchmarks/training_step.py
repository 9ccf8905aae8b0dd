"""Compare the speed of a training step with the same network in PyTorch.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers
    python examples/benchmarks/training_step.py unet --torch-python venv_torch/bin/python
    python examples/benchmarks/training_step.py autoencoder --torch-python venv_torch/bin/python

The network is kgen's on one side and diffusers' (`UNet2DConditionModel`, `AutoencoderKL`) on the
other, of the same sizes, on the same processors with the same number of threads, batch and
precision. A step is forward, backward and an Adam update on fixed random data: a `tf.function`
with the fusions of `fit`, and PyTorch with its fused Adam, in eager mode or, with `--compile`, by
`torch.compile`. Data, text encoder and averaged weights are left out on both sides.

The two sides alternate (`turns.py`). A ratio below 1 means that kgen is faster.

The U-Net is that of the shipped model without the pooled sentence vector, the autoencoder that of
the shipped model with `patch=1`; diffusers has neither option. Its number of groups in each
normalisation is set to kgen's. What may still differ costs nothing: biases of three projections in
each attention of the autoencoder, and the side on which a halving convolution of the U-Net pads.
"""

import argparse

import turns

LATENT = (8, 8, 12)
IMAGE = (64, 64, 3)
TOKENS = (24, 384)
UNET_CHANNELS = (128, 256)
AUTOENCODER_CHANNELS = (48, 96, 128, 128)  # three halvings: 64 to 8
HEADS = 4
KL_WEIGHT = 1e-2
LEARNING_RATE = 1e-4


def random_batch(network, batch_size):
    """Fixed random inputs as numpy arrays, channels last."""
    import numpy as np

    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal((batch_size, *shape), dtype="float32")

    if network == "autoencoder":
        return {"x": np.tanh(normal(*IMAGE))}
    lengths = rng.integers(4, TOKENS[0] + 1, (batch_size, 1))
    return {
        "z": normal(*LATENT),
        "target": normal(*LATENT),
        "log_snr": 4 * normal(),
        "tokens": normal(*TOKENS),
        "mask": np.arange(TOKENS[0]) < lengths,
    }


def kgen_step(args):
    """Returns the training step of kgen and its number of parameters."""
    import keras
    import tensorflow as tf

    from kgen import Gaussian
    from kgen.distribution import fused
    from kgen.networks.conv import decoder, encoder
    from kgen.networks.unet import UNet

    turns.set_threads(args)
    keras.utils.set_random_seed(0)
    if args.precision == "bfloat16":
        keras.config.set_dtype_policy("mixed_bfloat16")
    batch = {k: tf.constant(v) for k, v in random_batch(args.network, args.batch_size).items()}

    if args.network == "unet":
        network = UNet(
            LATENT,
            channels=UNET_CHANNELS,
            blocks=1,
            attention=(False, True),
            heads=HEADS,
            tokens=TOKENS,
        )
        networks = [network]

        def loss_of(batch):
            cond = {"tokens": batch["tokens"], "mask": batch["mask"]}
            output = network(batch["z"], batch["log_snr"], cond, training=True)
            return tf.reduce_mean((output - batch["target"]) ** 2)

    else:
        networks = [
            encoder(IMAGE, LATENT[-1], channels=AUTOENCODER_CHANNELS),
            decoder(LATENT, channels=AUTOENCODER_CHANNELS),
        ]

        def loss_of(batch):
            x = batch["x"]
            q = Gaussian.from_moments(networks[0](x, training=True))
            z = q.mean + tf.exp(q.log_std) * tf.random.normal(tf.shape(q.mean))
            x_hat = networks[1](z, training=True)
            variance = tf.exp(2 * q.log_std)
            kl = 0.5 * tf.reduce_sum(q.mean**2 + variance - 1 - 2 * q.log_std)
            return tf.reduce_mean((x - x_hat) ** 2) + KL_WEIGHT * kl / tf.size(x, tf.float32)

    variables = [v for network in networks for v in network.trainable_variables]
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    optimizer.build(variables)

    @tf.function(jit_compile=False)
    def update(batch):
        with fused(training=True), tf.GradientTape() as tape:  # as in `fit`
            loss = loss_of(batch)
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return lambda: float(update(batch)), sum(network.count_params() for network in networks)


def torch_step(args):
    """Returns the training step of diffusers and its number of parameters."""
    import diffusers
    import torch

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    bfloat16 = args.precision == "bfloat16"
    layout = {
        "contiguous": torch.contiguous_format,
        "channels_last": torch.channels_last,
    }[args.torch_layout]
    batch = {k: torch.from_numpy(v) for k, v in random_batch(args.network, args.batch_size).items()}
    for name in {"z", "target", "x"} & set(batch):
        batch[name] = batch[name].permute(0, 3, 1, 2).contiguous(memory_format=layout)

    if args.network == "unet":
        network = diffusers.UNet2DConditionModel(
            sample_size=LATENT[0],
            in_channels=LATENT[-1],
            out_channels=LATENT[-1],
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=UNET_CHANNELS,
            layers_per_block=1,
            cross_attention_dim=TOKENS[1],
            attention_head_dim=HEADS,  # diffusers reads it as the number of heads
            use_linear_projection=True,
        )

        def loss_of(batch):
            position = 1000 * torch.sigmoid(-batch["log_snr"] / 4)
            output = network(
                batch["z"],
                position,
                encoder_hidden_states=batch["tokens"],
                encoder_attention_mask=batch["mask"],
            ).sample
            return torch.mean((output.float() - batch["target"]) ** 2)

    else:
        levels = len(AUTOENCODER_CHANNELS)
        network = diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=AUTOENCODER_CHANNELS,
            layers_per_block=1,
            latent_channels=LATENT[-1],
            norm_num_groups=16,
            sample_size=IMAGE[0],
            use_quant_conv=False,
            use_post_quant_conv=False,
        )

        def loss_of(batch):
            x = batch["x"]
            moments = network.encoder(x).float()
            mean, log_variance = moments.chunk(2, dim=1)
            z = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
            x_hat = network.decoder(z).float()
            kl = 0.5 * torch.sum(mean**2 + torch.exp(log_variance) - 1 - log_variance)
            return torch.mean((x - x_hat) ** 2) + KL_WEIGHT * kl / x.numel()

    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = min(32, module.num_channels // 4)
    network.train().to(memory_format=layout)
    parameters = list(network.parameters())
    optimizer = torch.optim.Adam(parameters, LEARNING_RATE, fused=True)
    if args.network == "unet":
        network = turns.compiled(network, args)
    else:
        network.encoder = turns.compiled(network.encoder, args)
        network.decoder = turns.compiled(network.decoder, args)

    def update():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return update, sum(p.numel() for p in parameters)


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=("unet", "autoencoder"))
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    turns.run(parser, {"kgen": kgen_step, "torch": torch_step}, argv)


if __name__ == "__main__":
    main()
