"""The plan of a training: how many steps, at which rate, for how long; kept in `training.json`.

Steps of fine-tuning: 160 where there are 300 pictures, the one size that was tried, and with the
root of the number for others, so that few pictures are seen more often each, but not learned by
heart. Steps from scratch: about 100 passes, as the shipped model made, but at least 2,000.
"""

import dataclasses
import json
import math
import statistics
import time

from kgen.cli.errors import UsageError

FILE = "training.json"
EPOCHS = 8  # parts of a training, each of which ends with a validation, and most with a sheet
MEASURED = 3  # steps whose time is taken, after one that compiles
WARM_UP = 0.1  # share of the steps in which the rate rises


@dataclasses.dataclass
class Plan:
    """What is decided before a training and must be the same when it goes on.

    Attributes:
        command: `"finetune"` or `"train"`.
        model: name or folder of the model that it begins with.
        folder: the folder of pictures.
        digest: the sum of the pictures and captions.
        captions: how they were found.
        pictures: how many are trained on.
        held_out: how many are held out.
        batch_size: pictures in a step.
        learning_rate: the peak of the rate.
        seed: of order, noise and sheets.
        lora: None, or the rank of the LoRA that alone is trained.
        steps: steps in all.
        epochs: parts of the training.
        before: figures before the training.
        after: figures after it; a training that has them is finished.
        seconds: what the training took, all runs together.
    """

    command: str
    model: str
    folder: str
    digest: str
    captions: str | None
    pictures: int
    held_out: int
    batch_size: int
    learning_rate: float
    seed: int
    lora: int | None = None
    steps: int = 0
    epochs: int = 0
    before: dict | None = None
    after: dict | None = None
    seconds: float = 0.0

    @property
    def steps_per_epoch(self):
        """Steps in a part."""
        return self.steps // self.epochs

    def cut(self, steps):
        """Takes a number of steps, rounded up to equal parts."""
        each = math.ceil(steps / min(EPOCHS, steps))
        self.epochs = math.ceil(steps / each)
        self.steps = each * self.epochs

    def write(self, output):
        """Writes it into the folder of the training, whole or not at all."""
        output.mkdir(parents=True, exist_ok=True)
        partial = output / f".partial-{FILE}"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")
        partial.replace(output / FILE)


def of_before(output, plan):
    """Returns the plan of a training in `output` that was begun, or None.

    Args:
        output: its folder.
        plan: the plan of now, without steps.

    Raises:
        UsageError: if it is of another training.
    """
    path = output / FILE
    if not path.is_file():
        if (output / "config.json").exists():
            raise UsageError(f"{output} holds a model already: name another --output")
        return None
    try:
        found = Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{path} is damaged: remove {output} or name another --output") from error
    names = ("command", "model", "digest", "batch_size", "learning_rate", "seed", "lora")
    other = [name for name in names if getattr(found, name) != getattr(plan, name)]
    if other:
        what = {"digest": "pictures or captions"}.get(other[0], other[0].replace("_", " "))
        raise UsageError(f"{output} holds a training with another {what}: name another --output")
    return found


def default_steps(command, number, batch_size):
    """Steps by the number of pictures.

    Example:
        >>> default_steps("finetune", 300, 32), default_steps("train", 9000, 64)
        (160, 14062)
    """
    if command == "finetune":
        return max(40, min(2000, round(160 * math.sqrt(number / 300))))
    return max(2000, min(20000, 100 * number // batch_size))


def default_rate(command, number, lora=None):
    """The peak of the rate by the number of pictures: a lower one for few, which soon fit.

    The factors of a LoRA, one of which begins at zero, take a higher one.
    """
    if lora is not None:
        return 3e-3 if number >= 100 else 1e-3
    if command == "train":
        return 1e-3
    return 5e-4 if number >= 100 else 2e-4


def expectation(command, number):
    """What a number of pictures can give, in a sentence."""
    if command == "finetune":
        if number < 30:
            return (
                f"{number} pictures are few: expect their colours and manner, and some of them "
                "learned by heart."
            )
        return "Expect the manner of your pictures on what the model can draw already."
    if number < 1000:
        return (
            f"From scratch, {number} pictures give colours and rough shapes at best (a trial with "
            "300 drew blobs): `kgen finetune` does far more with as many."
        )
    if number < 5000:
        return (
            f"From scratch, {number} pictures give shapes of what is often among them; "
            "`kgen finetune` needs fewer."
        )
    return (
        "The model text_to_image was trained so, on 8,926 pictures for about two hours on two "
        "cores: 15 of 24 prompts that no caption held came out right."
    )


def seconds_per_step(model, data):
    """Measures the time of a training step, and leaves the model as it was.

    Args:
        model: the compiled model.
        data: endless batches for `fit`.
    """
    import keras
    import tensorflow as tf

    class Times(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            self.began = time.monotonic()

        def on_train_batch_end(self, batch, logs=None):
            times.append(time.monotonic() - self.began)

    times = []
    variables = {id(v): v for v in [*model.variables, *model.optimizer.variables]}.values()
    before = [(v, tf.identity(v.value)) for v in variables if hasattr(v, "assign")]
    model.fit(data, epochs=1, steps_per_epoch=MEASURED + 1, verbose=0, callbacks=[Times()])
    for variable, value in before:
        variable.assign(value)
    model.reset_metrics()
    return statistics.median(times[1:])


def duration(seconds):
    """A time for a person.

    Example:
        >>> duration(45), duration(600), duration(9000)
        ('45 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
