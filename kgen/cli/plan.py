"""The plan of a training: number of steps, learning rate and duration; stored in `training.json`.

Default number of fine-tuning steps: 450 for 300 pictures, the only number of pictures at which this
was tuned, and proportional to the square root of their number otherwise, so that each picture of a
small folder is seen more often. At 300 pictures 450 steps give much better pictures of captions of
the folder than 160, and others as good as before, although the loss of held-out pictures rises.
Default number of steps from scratch: about 100 epochs, as for the included text-to-image model, and
at least 2,000.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import statistics
import time
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from kgen.cli.errors import UsageError

if TYPE_CHECKING:
    import tensorflow as tf

    from kgen.cli.folders import CaptionSource
    from kgen.models.generative_model import GenerativeModel

FILE = "training.json"
MAX_EPOCHS = 8  # each ends with a validation, and most of them with a sheet of samples
TIMED_STEPS = 3  # after a first step, which also compiles
WARM_UP = 0.1  # share of the steps in which the learning rate rises

Command: TypeAlias = Literal["finetune", "train"]
"""The command that trains."""


@dataclasses.dataclass
class Plan:
    """The settings of a training, which must not change when an interrupted training continues.

    Attributes:
        command: `"finetune"` or `"train"`.
        model: name or folder of the model that the training starts from.
        folder: the folder of pictures.
        digest: sha256 of the pictures and captions.
        captions: where the captions come from; see `kgen.cli.folders.Pictures`.
        pictures: number of pictures to train on.
        held_out: number of pictures held out for validation.
        batch_size: number of pictures per step.
        learning_rate: peak learning rate.
        seed: seed of the order of the data, the noise and the sheets of samples.
        lora: rank of the LoRA that is trained; None to train all weights.
        steps: number of steps.
        epochs: number of epochs, each of `steps_per_epoch` steps.
        before: figures before the training.
        after: figures after the training; None until it is finished.
        seconds: duration of the training, over all runs.
    """

    command: Command
    model: str
    folder: str
    digest: str
    captions: CaptionSource
    pictures: int
    held_out: int
    batch_size: int
    learning_rate: float
    seed: int
    lora: int | None = None
    steps: int = 0
    epochs: int = 0
    before: dict[str, float] | None = None
    after: dict[str, float] | None = None
    seconds: float = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in an epoch."""
        return self.steps // self.epochs

    def set_steps(self, steps: int) -> None:
        """Sets the number of steps, rounded up to a multiple of the number of epochs."""
        each = math.ceil(steps / min(MAX_EPOCHS, steps))
        self.epochs = math.ceil(steps / each)
        self.steps = each * self.epochs

    def write(self, output: pathlib.Path) -> None:
        """Writes `training.json` into the folder of the training, in one atomic step."""
        output.mkdir(parents=True, exist_ok=True)
        partial = output / f".partial-{FILE}"
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=1), encoding="utf-8")
        partial.replace(output / FILE)


def load_plan(output: pathlib.Path, plan: Plan) -> Plan | None:
    """Returns the plan of the training that was started in a folder, or None.

    Args:
        output: the folder.
        plan: the plan of the current command, whose steps are not set yet.

    Raises:
        UsageError: if the folder holds a model or another training, or the file is damaged.
    """
    path = output / FILE
    if not path.is_file():
        if (output / "config.json").exists():
            raise UsageError(f"{output} holds a model already: choose another --output")
        return None
    try:
        stored = Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (TypeError, ValueError) as error:
        message = f"{path} is damaged: remove {output} or choose another --output"
        raise UsageError(message) from error
    names = ("command", "model", "digest", "batch_size", "learning_rate", "seed", "lora")
    different = [name for name in names if getattr(stored, name) != getattr(plan, name)]
    if different:
        what = {"digest": "pictures or captions"}.get(different[0], different[0].replace("_", " "))
        raise UsageError(
            f"{output} holds a training with different {what}: choose another --output"
        )
    return stored


def default_steps(command: Command, number: int, batch_size: int) -> int:
    """Returns the default number of steps for a number of pictures.

    Args:
        command: `"finetune"` or `"train"`.
        number: number of pictures to train on.
        batch_size: number of pictures per step.

    Example:
        >>> default_steps("finetune", 300, 32), default_steps("train", 9000, 64)
        (450, 14062)
    """
    if command == "finetune":
        return max(40, min(2000, round(450 * math.sqrt(number / 300))))
    return max(2000, min(20000, 100 * number // batch_size))


def default_learning_rate(command: Command, number: int, lora: int | None = None) -> float:
    """Returns the default peak learning rate for a number of pictures.

    It is lower for few pictures, to which a model overfits quickly, and higher for a LoRA, one of
    whose factors starts at zero.

    Args:
        command: `"finetune"` or `"train"`.
        number: number of pictures to train on.
        lora: rank of the LoRA that is trained, or None.
    """
    if lora is not None:
        return 3e-3 if number >= 100 else 1e-3
    if command == "train":
        return 1e-3
    return 5e-4 if number >= 100 else 2e-4


def expected_quality(command: Command, number: int) -> str:
    """Returns a sentence on the results to expect from a number of pictures."""
    if command == "finetune":
        if number < 30:
            return (
                f"{number} pictures are few: expect their colours and style, and some of them "
                "memorised."
            )
        return "Expect the style of your pictures, applied to what the model can already draw."
    if number < 1000:
        return (
            f"From scratch, {number} pictures give colours and rough shapes at best (300 pictures "
            "gave blobs): `kgen finetune` gives far better results."
        )
    if number < 5000:
        return (
            f"From scratch, {number} pictures give the shapes of frequent objects; "
            "`kgen finetune` needs fewer pictures."
        )
    return (
        "The model text_to_image was trained from scratch on 8,926 pictures, for about two hours "
        "on two cores: 15 of 24 prompts that are no caption of the training data came out right."
    )


def seconds_per_step(model: GenerativeModel, data: tf.data.Dataset) -> float:
    """Measures the duration of a training step and then restores the model.

    Args:
        model: the compiled model.
        data: batches for `fit`, repeated without end.

    Returns:
        The median over `TIMED_STEPS` steps, in seconds.
    """
    import keras
    import tensorflow as tf

    class StepTimer(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            self.start = time.monotonic()

        def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
            times.append(time.monotonic() - self.start)

    times: list[float] = []
    variables = {id(v): v for v in [*model.variables, *model.optimizer.variables]}.values()
    before = [(v, tf.identity(v.value)) for v in variables if hasattr(v, "assign")]
    model.fit(data, epochs=1, steps_per_epoch=TIMED_STEPS + 1, verbose=0, callbacks=[StepTimer()])
    for variable, value in before:
        variable.assign(value)
    model.reset_metrics()
    return statistics.median(times[1:])


def duration(seconds: float) -> str:
    """Returns a rounded duration with its unit.

    Example:
        >>> duration(45), duration(600), duration(9000)
        ('45 seconds', '10 minutes', '2.5 hours')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} seconds"
    if seconds < 5400:
        return f"{round(seconds / 60)} minutes"
    return f"{seconds / 3600:.1f} hours"
