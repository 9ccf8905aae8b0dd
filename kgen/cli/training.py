"""The training that `kgen finetune` and `kgen train` share, from a folder to a preset and its card.

    DIR/config.json, weights.npz    the model, at the end
    DIR/lora.safetensors            with --lora, the factors that were trained, merged in the model
    DIR/README.md                   its card
    DIR/training.json               the plan and the figures (`kgen.cli.plan`)
    DIR/log.csv                     loss and validation loss of each part
    DIR/samples/                    sheets before, during and after, and all side by side
    DIR/resume/, DIR/latents*/      what an interrupted training needs; removed at the end

Started again after Ctrl-C, the same command goes on where it was.
"""

import shutil
import time

from kgen.cli import card, folders
from kgen.cli import plan as plans
from kgen.cli.errors import CommandError, UsageError
from kgen.cli.outputs import write

SHOWN = 8  # pictures on a sheet


def run(args, session, command, build, wanted, shape, known=None):
    """Trains and writes.

    Args:
        args: of the command.
        session: the `Session`.
        command: `"finetune"` or `"train"`.
        build: a function of the `Pictures` that returns the model to train.
        wanted: what the model takes, as of `folders.read`.
        shape: of its pictures.
        known: the names of its classes, or None.

    Returns:
        The result as a dictionary, and lines for a person.
    """
    pictures = folders.read(args.folder, shape, wanted, args.caption, known)
    for line in folders.said(args.folder, pictures):
        session.say(line)
    training, held_out = folders.parted(pictures, args.seed)
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
        learning_rate=args.learning_rate or plans.default_rate(command, number, lora),
        seed=args.seed,
        lora=lora,
    )
    found = plans.of_before(args.output, plan)
    if found is not None and args.steps is not None:
        plan.cut(args.steps)
        if plan.steps != found.steps:
            raise UsageError(f"{args.output} holds a training of {found.steps} steps")
    if found is not None and found.after is not None:
        return _result(args, found, [f"{args.output} is finished: nothing is left to do."])
    session.say(f"{number} to train on, {plan.held_out} held out to validate with")
    session.say(plans.expectation(command, number))
    model = build(pictures)
    work = _Work(args, session, model, training, held_out)
    plan = work.planned(plan) if found is None else found
    work.fit(plan)
    return _result(args, plan, [f"Wrote {args.output}", *card.figures(plan)])


class _Work:
    """The steps of a training, in their order."""

    def __init__(self, args, session, model, training, held_out):
        self.args = args
        self.session = session
        self.model = model
        self.training = training
        self.held_out = held_out
        self.output = args.output
        first = held_out.rows(slice(0, SHOWN)) if len(held_out.images) >= 4 else training
        self.shown = first.rows(slice(0, SHOWN))

    def planned(self, plan):
        """Completes a plan: figures and a sheet before, steps by the number or the minutes."""
        import keras

        args, model = self.args, self.model
        model.compile(self._optimizer(plan))
        plan.before = self._figures(plan)
        began = time.monotonic()
        self._sheet("before")
        drawing = time.monotonic() - began
        self.session.say("Measuring the time of a step")
        each = plans.seconds_per_step(model, self._batches(self.training, plan, "latents").repeat())
        if args.steps:
            steps = args.steps
        elif args.minutes:
            steps = max(1, int((60 * args.minutes - 2 * drawing) / each))
            usual = plans.default_steps(plan.command, plan.pictures, plan.batch_size)
            if steps > 10 * usual:
                self.session.say(f"That is far more than the usual {usual} steps for so few.")
        else:
            steps = plans.default_steps(plan.command, plan.pictures, plan.batch_size)
        plan.cut(steps)
        about = plans.duration(plan.steps * each + 2 * drawing)
        self.session.say(f"{plan.steps} steps of {each:.2f} seconds: about {about}")
        plan.write(self.output)
        keras.utils.set_random_seed(args.seed % 2**32)
        return plan

    def fit(self, plan):
        """Trains, or goes on, and writes the preset, the sheets and the card."""
        import keras

        from kgen.callbacks import Resume, SampleGrid

        model, output = self.model, self.output
        if not model.compiled:
            model.compile(self._optimizer(plan))
        data = self._batches(self.training, plan, "latents").repeat()
        validation = self._batches(self.held_out, plan, "latents_held_out", shuffle=False)
        resume = output / "resume"
        log = keras.callbacks.CSVLogger(output / "log.csv", append=True)
        callbacks = [
            _rate(plan),
            log,
            SampleGrid(
                output / "samples",
                self._conditions() or len(self.shown.images),
                every=max(1, plan.epochs // 4),
                num_steps=self.args.sheet_steps,
                seed=plan.seed,
            ),
            Resume(resume),
        ]
        began = time.monotonic()
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
            plan.seconds += time.monotonic() - began
            plan.write(output)
            raise KeyboardInterrupt(
                "Interrupted, and saved: the same command goes on from here."
            ) from None
        plan.seconds += time.monotonic() - began
        plan.after = self._figures(plan)
        self._sheet("after")
        self._side_by_side()
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

    def _optimizer(self, plan):
        import keras

        return keras.optimizers.Adam(plan.learning_rate, beta_2=0.99, global_clipnorm=1.0)

    def _batches(self, pictures, plan, name, shuffle=True):
        """Batches for `fit`; of a latent diffusion model what its frozen encoders make of them."""
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
        made = model.precompute(data, self.output / name, size, seed=plan.seed)
        return made if shuffle else _in_order(self.output / name, size)

    def _figures(self, plan):
        """The validation loss and, of a model with an autoencoder, what that keeps."""
        data = self._batches(self.held_out, plan, "latents_held_out", shuffle=False)
        logs = self.model.evaluate(data, verbose=0, return_dict=True)
        found = {"validation loss": float(logs["loss"])}
        if hasattr(self.model, "autoencoder"):
            found["autoencoder, dB"] = _decibels(self.model.autoencoder, self.held_out.images[:64])
            if plan.before is None and found["autoencoder, dB"] < 22:
                self.session.say(
                    f"The autoencoder keeps {found['autoencoder, dB']:.1f} dB of these pictures: "
                    "expect them blurred, however long the training."
                )
        return found

    def _conditions(self):
        """What the shown pictures are conditional on, a list; or None."""
        for values in self.shown.columns.values():
            return [v if isinstance(v, str) else int(v) for v in values.tolist()]
        return None

    def _draw(self):
        from kgen.serving.typed import denoises

        conditions = self._conditions()
        options = {"seed": self.args.seed}
        if denoises(self.model):
            options |= {"num_steps": self.args.sheet_steps, "verbose": self.session.bar}
        if conditions is None:
            return self.model.generate(num_samples=len(self.shown.images), **options)
        return self.model.generate(condition=conditions, **options)

    def _sheet(self, name):
        from kgen.pictures import contact_sheet, save_picture

        self.session.say(f"Drawing the sheet {name} training")
        conditions = self._conditions()
        labels = None if conditions is None else [str(value) for value in conditions]
        sheet = contact_sheet(self._draw(), labels)
        write(self.output / "samples" / f"{name}.png", save_picture, sheet)

    def _side_by_side(self):
        """Real pictures of the shown captions above what the model draws now."""
        import numpy as np

        from kgen.pictures import contact_sheet, save_picture

        drawn = self._draw()
        conditions = self._conditions() or [""] * len(drawn)
        labels = ["real"] * len(drawn) + [str(value) for value in conditions]
        images = np.concatenate([self.shown.images[: len(drawn)], drawn])
        sheet = contact_sheet(images, labels, columns=len(drawn))
        write(self.output / "samples" / "beside_real.png", save_picture, sheet)


def _in_order(directory, size):
    from kgen.training.latent_cache import LatentCache

    return LatentCache(directory).dataset(size, shuffle=False)


def _decibels(autoencoder, images):
    """Mean peak signal-to-noise ratio of the reconstructions of uint8 pictures."""
    import numpy as np

    x = (images / 127.5 - 1).astype("float32")
    made = np.clip(np.asarray(autoencoder.reconstruct(x)), -1, 1)
    error = ((made - x) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(4 / np.maximum(error, 1e-10))))


def _rate(plan):
    """The callback that sets the rate: it rises for a tenth, then falls along a cosine to 0."""
    import keras

    warm = max(1, round(plans.WARM_UP * plan.steps))
    fall = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, plan.steps - warm), warmup_target=plan.learning_rate, warmup_steps=warm
    )

    class Rate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            optimizer = self.model.optimizer
            optimizer.learning_rate.assign(fall(int(optimizer.iterations.numpy())))

    return Rate()


def _result(args, plan, lines):
    import dataclasses

    result = {"output": str(args.output), **dataclasses.asdict(plan)}
    sheets = args.output / "samples"
    return result, [*lines, f"Sheets: {sheets}", f'Try: kgen generate "..." --model {args.output}']
