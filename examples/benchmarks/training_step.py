"""Time a training step beside the same network in PyTorch.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers
    python examples/benchmarks/training_step.py unet --torch-python venv_torch/bin/python
    python examples/benchmarks/training_step.py autoencoder --torch-python venv_torch/bin/python

The network is kgen's on one side and diffusers' (`UNet2DConditionModel`, `AutoencoderKL`) on the
other, of the same sizes, on the same processors with the same number of threads, batch and
precision. A step is forward, backward and an Adam update on fixed random data: a `tf.function`
without XLA, and PyTorch in eager mode with its fused Adam. Data, text encoder and averaged weights
are left out on both sides.

Two processes live as long as the benchmark and take turns. A round is one block of `--steps` steps
on each side, the first side changing from round to round, so a machine that slows down slows both;
the ratio is taken round by round. A ratio below 1 says that kgen is faster.

PyTorch is no requirement of kgen, so it may live in an interpreter of its own (`--torch-python`).

The U-Net is that of the shipped model without the pooled sentence vector, the autoencoder that of
the shipped model with `patch=1`; diffusers has neither option. Its number of groups in each
normalisation is set to kgen's. What may still differ costs nothing: biases of three projections in
each attention of the autoencoder, and the side on which a halving convolution of the U-Net pads.
"""

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

LATENT = (8, 8, 12)
IMAGE = (64, 64, 3)
TOKENS = (24, 384)
UNET_CHANNELS = (128, 256)
AUTOENCODER_CHANNELS = (48, 96, 128, 128)  # three halvings: 64 to 8
HEADS = 4
KL_WEIGHT = 1e-2
LEARNING_RATE = 1e-4
WARM_UP = 2
INSTALL = (
    "The other side of this benchmark needs PyTorch and diffusers: "
    "`python -m venv venv_torch && venv_torch/bin/pip install torch diffusers`, "
    "then add `--torch-python venv_torch/bin/python`."
)


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
    from kgen.networks.conv import decoder, encoder
    from kgen.networks.unet import UNet

    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
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
        with tf.GradientTape() as tape:
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
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE, fused=True)

    def update():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        return loss.item()

    return update, sum(p.numel() for p in network.parameters())


def serve(args):
    """Runs one side: a line in asks for a block of steps, a line of JSON out holds its seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        step, parameters = {"kgen": kgen_step, "torch": torch_step}[args.worker](args)
    except ImportError as error:
        answer(error=str(error))
        return
    for _ in range(WARM_UP):
        step()
    answer(parameters=parameters)
    for _ in sys.stdin:
        start = time.perf_counter()
        for _ in range(args.steps):
            loss = step()
        answer(seconds=(time.perf_counter() - start) / args.steps, loss=loss)


class Worker:
    """A process that runs one side and waits between its turns.

    Args:
        side: "kgen" or "torch".
        interpreter: the Python that runs it.
        options: command line of the benchmark.
        threads: number of threads and of processors.
    """

    def __init__(self, side, interpreter, options, threads):
        environment = {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": "-1",
            "KERAS_BACKEND": "tensorflow",
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": "2",
        }
        command = [interpreter, os.path.abspath(__file__), *options, "--worker", side]
        self.side = side
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            started = self._read()
            if side == "torch" and "error" in started:
                raise SystemExit(f"{INSTALL} Received: {started['error']}.")
            if "error" in started:
                raise SystemExit(
                    f"kgen's requirements must be installed. Received: {started['error']}."
                )
        except BaseException:
            self.close()
            raise
        self.parameters = started["parameters"]

    def time_block(self):
        """Seconds per step of one block."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self._read()["seconds"]

    def close(self):
        """Lets the process end."""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()

    def _read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"The {self.side} process ended with code {self.process.wait()}.")
        return json.loads(line)


def compare(args, options):
    """Runs the rounds and prints the table."""
    with contextlib.ExitStack() as stack:
        sides = {}
        for side, interpreter in (("torch", args.torch_python), ("kgen", sys.executable)):
            sides[side] = Worker(side, interpreter, options, args.threads)
            stack.callback(sides[side].close)
        parameters = {side: worker.parameters for side, worker in sides.items()}
        if abs(parameters["kgen"] / parameters["torch"] - 1) > 1e-3:
            raise SystemExit(f"The two networks must be the same. Received: {parameters}.")
        seconds = {side: [] for side in sides}
        for i in range(args.rounds):
            for side in sorted(sides, reverse=i % 2 == 1):
                seconds[side].append(sides[side].time_block())
            print(
                f"round {i + 1}/{args.rounds}: kgen {seconds['kgen'][-1]:.3f} s a step, "
                f"torch {seconds['torch'][-1]:.3f}",
                file=sys.stderr,
            )
    print(
        f"{args.network}, batch {args.batch_size}, {args.precision}, {args.threads} threads, "
        f"PyTorch layout {args.torch_layout}, {args.rounds} rounds of {args.steps} steps"
    )
    print(f"{'':8}{'parameters':>14}{'ms a step':>12}{'images/s':>12}")
    for side in sorted(seconds):
        step = statistics.median(seconds[side])
        print(f"{side:8}{parameters[side]:>14,}{1e3 * step:>12.1f}{args.batch_size / step:>12.1f}")
    ratios = [a / b for a, b in zip(seconds["kgen"], seconds["torch"])]
    print(
        f"time of kgen / time of torch, round by round: median {statistics.median(ratios):.3f}, "
        f"min {min(ratios):.3f}, max {max(ratios):.3f}"
    )


def processors():
    """The number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def positive(text):
    """A positive integer of the command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1. Received: {value}")
    return value


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("network", choices=("unet", "autoencoder"))
    parser.add_argument("--batch-size", type=positive, default=64)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=positive, default=7, help="pairs of blocks")
    parser.add_argument("--steps", type=positive, default=3, help="steps of a block")
    parser.add_argument(
        "--threads", type=positive, default=processors(), help="threads of each side"
    )
    parser.add_argument(
        "--torch-python",
        default=sys.executable,
        metavar="PATH",
        help="interpreter with torch and diffusers; this one if not given",
    )
    parser.add_argument(
        "--torch-layout",
        choices=("contiguous", "channels_last"),
        default="contiguous",
        help="memory layout of PyTorch's images: its default, or that of TensorFlow",
    )
    parser.add_argument("--worker", choices=("kgen", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if shutil.which(args.torch_python) is None:
        parser.error(f"`--torch-python` must be an interpreter. Received: {args.torch_python}")
    if args.worker:
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
        serve(args)
    else:
        compare(args, sys.argv[1:] if argv is None else argv)


if __name__ == "__main__":
    main()
