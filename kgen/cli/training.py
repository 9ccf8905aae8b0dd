"""The training of `kgen finetune` and `kgen train`: from a folder of pictures to a preset.

    DIR/config.json, weights.npz    the trained model
    DIR/lora.safetensors            with --lora, the trained factors, which are merged in the model
    DIR/README.md                   the card of the model
    DIR/training.json               the plan and the figures (`kgen.cli.plan`)
    DIR/log.csv                     loss and validation loss of each epoch
    DIR/samples/                    sheets of samples: before, during and after the training, and
                                    beside real pictures
    DIR/resume/, DIR/latents*/      the state of an unfinished training; removed at the end

After Ctrl-C, the same command continues the training.
"""

from __future__ import annotations

import argparse
import dataclasses
import pathlib
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from kgen.cli import card, folders
from kgen.cli import plan as plans
from kgen.cli.errors import CommandError, UsageError
from kgen.cli.outputs import write

if TYPE_CHECKING:
    from typing import Literal

    import keras
    import numpy as np
    import tensorflow as tf

    from kgen.cli.folders import Pictures
    from kgen.cli.plan import Plan
    from kgen.cli.session import Result, Session
    from kgen.models.generative_model import GenerativeModel
    from kgen.models.kl_autoencoder import KLAutoencoder
    from kgen.serving.capabilities import ConditionKind

SHEET_PICTURES = 8
BLURRED_PSNR = 22.0  # dB of an autoencoder, below which its reconstructions are visibly blurred


def run(
    args: argparse.Namespace,
    session: Session,
    command: plans.Command,
    build: Callable[[Pictures], GenerativeModel],
    kind: ConditionKind | Literal["any"],
    shape: Sequence[int],
    known_names: Sequence[str] | None = None,
) -> Result:
    """Trains a model and writes it.

    Args:
        args: the parsed arguments.
        session: the `Session`.
        command: `"finetune"` or `"train"`.
        build: a function from the pictures of the folder to the model to train.
        kind: what the model is conditional on; see `folders.read`.
        shape: shape of its pictures, `(H, W, C)`.
        known_names: the names of its classes, or None.

    Returns:
        The plan as a dictionary, and lines that describe the result.

    Raises:
        CommandError: if a file cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the training is saved.
        UsageError: if the pictures do not fit the model, or the output folder holds another
            training.
    """
    pictures = folders.read(args.folder, shape, kind, args.caption, known_names)
    for line in folders.summary(args.folder, pictures):
        session.say(line)
    training, held_out = folders.split(pictures, args.seed)
    number, lora = len(training.images), getattr(args, "lora", None)
    plan = plans.Plan(
        command=command,
        model=str(args.model),
        folder=str(args.folder),
        digest=pictures.digest(),
        captions=pictures.captions,
        pictures=number,
        held_out=len(held_out.images),
        batch_size=min(args.batch_size, number),
        learning_rate=args.learning_rate or plans.default_learning_rate(command, number, lora),
        seed=args.seed,
        lora=lora,
    )
    stored = plans.load_plan(args.output, plan)
    if stored is not None and args.steps is not None:
        plan.set_steps(args.steps)
        if plan.steps != stored.steps:
            raise UsageError(f"{args.output} holds a training of {stored.steps} steps")
    if stored is not None and stored.after is not None:
        return _result(args, stored, [f"The training in {args.output} is already finished."])
    session.say(f"{number} pictures for training, {plan.held_out} held out for validation")
    session.say(plans.expected_quality(command, number))
    model = build(pictures)
    trainer = _Trainer(args, session, model, training, held_out)
    plan = trainer.prepare(plan) if stored is None else stored
    trainer.fit(plan)
    return _result(args, plan, [f"Wrote {args.output}", *card.figures(plan)])


class _Trainer:
    """Trains one model on pictures in memory.

    Args:
        args: the parsed arguments.
        session: the `Session`.
        model: the model.
        training: the pictures to train on.
        held_out: the pictures for validation.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        session: Session,
        model: GenerativeModel,
        training: Pictures,
        held_out: Pictures,
    ) -> None:
        self.args = args
        self.session = session
        self.model = model
        self.training = training
        self.held_out = held_out
        self.output: pathlib.Path = args.output
        source = held_out if len(held_out.images) >= 4 else training
        self.sheet_pictures = source.rows(slice(0, SHEET_PICTURES))

    def prepare(self, plan: Plan) -> Plan:
        """Completes a plan: measures the figures before the training and sets the steps."""
        import keras

        args, model = self.args, self.model
        model.compile(self._optimizer(plan))
        plan.before = self._figures(plan)
        start = time.monotonic()
        self._write_sheet("before")
        drawing = time.monotonic() - start
        self.session.say("Measuring the duration of a step")
        each = plans.seconds_per_step(model, self._batches(self.training, plan, "latents").repeat())
        default = plans.default_steps(plan.command, plan.pictures, plan.batch_size)
        if args.steps:
            steps = args.steps
        elif args.minutes:
            steps = max(1, int((60 * args.minutes - 2 * drawing) / each))
            if steps > 10 * default:
                self.session.say(
                    f"This is far more than the default of {default} steps for so few pictures."
                )
        else:
            steps = default
        plan.set_steps(steps)
        total = plans.duration(plan.steps * each + 2 * drawing)
        self.session.say(f"{plan.steps} steps of {each:.2f} seconds: about {total}")
        plan.write(self.output)
        keras.utils.set_random_seed(args.seed % 2**32)
        return plan

    def fit(self, plan: Plan) -> None:
        """Trains the model, or continues its training, and writes all files of the output folder.

        Raises:
            CommandError: if a file cannot be written.
            KeyboardInterrupt: after Ctrl-C, once the training is saved.
        """
        import keras

        from kgen.callbacks import Resume, SampleGrid

        model, output = self.model, self.output
        if not model.compiled:
            model.compile(self._optimizer(plan))
        data = self._batches(self.training, plan, "latents").repeat()
        validation = self._batches(self.held_out, plan, "latents_held_out", shuffle=False)
        log = keras.callbacks.CSVLogger(output / "log.csv", append=True)
        callbacks = [
            _learning_rate_callback(plan),
            log,
            SampleGrid(
                output / "samples",
                self._conditions() or len(self.sheet_pictures.images),
                every=max(1, plan.epochs // 4),
                num_steps=self.args.sheet_steps,
                seed=plan.seed,
            ),
            Resume(output / "resume"),
        ]
        start = time.monotonic()
        try:
            with self.session.saving():
                model.fit(
                    data,
                    epochs=plan.epochs,
                    steps_per_epoch=plan.steps_per_epoch,
                    validation_data=validation,
                    callbacks=callbacks,
                    verbose=self.session.verbose,
                )
        except KeyboardInterrupt:
            log.on_train_end()  # closes its file
            plan.seconds += time.monotonic() - start
            plan.write(output)
            raise KeyboardInterrupt(
                "Interrupted. The training is saved: run the same command to continue it."
            ) from None
        plan.seconds += time.monotonic() - start
        plan.after = self._figures(plan)
        self._write_sheet("after")
        self._write_comparison()
        try:
            if plan.lora is not None:
                model.save_lora(output / "lora.safetensors")
                model.merge_lora()
            model.save_to_preset(output)
        except (OSError, ValueError) as error:
            raise CommandError(f"{output} cannot be written: {error}") from error
        card.write(output, plan, model, self.args)
        plan.write(output)
        for name in ("resume", "latents", "latents_held_out"):
            shutil.rmtree(output / name, ignore_errors=True)

    def _optimizer(self, plan: Plan) -> keras.optimizers.Optimizer:
        import keras

        return keras.optimizers.Adam(plan.learning_rate, beta_2=0.99, global_clipnorm=1.0)

    def _batches(
        self, pictures: Pictures, plan: Plan, name: str, shuffle: bool = True
    ) -> tf.data.Dataset:
        """Returns batches for `fit`.

        Args:
            pictures: the pictures.
            plan: the plan, for the batch size and the seed.
            name: name of a subfolder of the output, for the outputs of the frozen encoders of a
                latent diffusion model.
            shuffle: whether to shuffle the batches in each epoch.
        """
        from kgen.data.arrays import batches
        from kgen.likelihoods import Bernoulli

        model = self.model
        likelihood = model.likelihood
        values = "unit" if likelihood.low == 0 else "signed"
        values = "binary" if isinstance(likelihood, Bernoulli) else values
        size = min(plan.batch_size, len(pictures.images))
        options = {"values": values, "batch_size": size, "seed": plan.seed}
        latent = hasattr(model, "precompute")
        data = batches(pictures.images, pictures.columns, shuffle=shuffle and not latent, **options)
        if not latent:
            return data
        latents = model.precompute(data, self.output / name, size, seed=plan.seed)
        return latents if shuffle else _unshuffled(self.output / name, size)

    def _figures(self, plan: Plan) -> dict[str, float]:
        """Measures the validation loss, and the PSNR of the autoencoder in dB if there is one."""
        data = self._batches(self.held_out, plan, "latents_held_out", shuffle=False)
        logs = self.model.evaluate(data, verbose=0, return_dict=True)
        figures = {"validation loss": float(logs["loss"])}
        if hasattr(self.model, "autoencoder"):
            psnr = _psnr(self.model.autoencoder, self.held_out.images[:64])
            figures["autoencoder, dB"] = psnr
            if plan.before is None and psnr < BLURRED_PSNR:
                self.session.say(
                    f"The autoencoder reconstructs these pictures with a PSNR of {psnr:.1f} dB: "
                    "expect blurred samples, however long the training."
                )
        return figures

    def _conditions(self) -> list[str | int] | None:
        """Returns the captions or labels of the pictures of the sheets, or None without them."""
        for values in self.sheet_pictures.columns.values():
            return [v if isinstance(v, str) else int(v) for v in values.tolist()]
        return None

    def _draw(self) -> np.ndarray:
        """Generates the pictures of a sheet, uint8 `[N, H, W, C]`."""
        from kgen.serving.capabilities import has_solver

        conditions = self._conditions()
        options = {"seed": self.args.seed}
        if has_solver(self.model):
            options |= {"num_steps": self.args.sheet_steps, "verbose": self.session.progress_bar}
        if conditions is None:
            return self.model.generate(num_samples=len(self.sheet_pictures.images), **options)
        return self.model.generate(condition=conditions, **options)

    def _write_sheet(self, name: Literal["before", "after"]) -> None:
        """Writes the sheet of samples before or after the training."""
        from kgen.pictures import contact_sheet, save_picture

        self.session.say(f"Drawing samples {name} the training")
        conditions = self._conditions()
        labels = None if conditions is None else [str(value) for value in conditions]
        sheet = contact_sheet(self._draw(), labels)
        write(self.output / "samples" / f"{name}.png", save_picture, sheet)

    def _write_comparison(self) -> None:
        """Writes a sheet of real pictures above samples of the same captions or labels."""
        import numpy as np

        from kgen.pictures import contact_sheet, save_picture

        drawn = self._draw()
        conditions = self._conditions() or [""] * len(drawn)
        labels = ["real"] * len(drawn) + [str(value) for value in conditions]
        images = np.concatenate([self.sheet_pictures.images[: len(drawn)], drawn])
        sheet = contact_sheet(images, labels, columns=len(drawn))
        write(self.output / "samples" / "beside_real.png", save_picture, sheet)


def _unshuffled(directory: pathlib.Path, batch_size: int) -> tf.data.Dataset:
    """Returns batches of precomputed latents in the order of the pictures."""
    from kgen.training.latent_cache import LatentCache

    return LatentCache(directory).dataset(batch_size, shuffle=False)


def _psnr(autoencoder: KLAutoencoder, images: np.ndarray) -> float:
    """Returns the mean peak signal-to-noise ratio of the reconstructions of pictures.

    Args:
        autoencoder: a model with `reconstruct`, of pictures in [-1, 1].
        images: uint8 `[N, H, W, C]`.

    Returns:
        The mean over the pictures, in dB.
    """
    import numpy as np

    x = (images / 127.5 - 1).astype("float32")
    reconstructed = np.clip(np.asarray(autoencoder.reconstruct(x)), -1, 1)
    error = ((reconstructed - x) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(4 / np.maximum(error, 1e-10))))


def _learning_rate_callback(plan: Plan) -> keras.callbacks.Callback:
    """Returns the schedule of the learning rate: a linear warm-up, then a cosine decay to 0."""
    import keras

    warm_up = max(1, round(plans.WARM_UP * plan.steps))
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, plan.steps - warm_up), warmup_target=plan.learning_rate, warmup_steps=warm_up
    )

    class LearningRate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            optimizer = self.model.optimizer
            optimizer.learning_rate.assign(schedule(int(optimizer.iterations.numpy())))

    return LearningRate()


def _result(args: argparse.Namespace, plan: Plan, lines: Sequence[str]) -> Result:
    """Returns the plan as a dictionary, and lines with the next steps for the user."""
    result = {"output": str(args.output), **dataclasses.asdict(plan)}
    sheets = args.output / "samples"
    example = f'Try: kgen generate "..." --model {args.output}'
    return result, [*lines, f"Sheets: {sheets}", example]
