"""A callback that draws sheets of samples from the same prompts and noise during training."""

import importlib.util
import inspect
import warnings
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_number, check_path
from kgen.distribution import is_chief
from kgen.pictures import contact_sheet, save_png
from kgen.tensors import as_seed
from kgen.types import Path


class SampleGrid(keras.callbacks.Callback):
    """Draws labelled sheets of generated pictures during training.

    The sheet after epoch 1 is `epoch_0001.png` in `directory`, and so on. All sheets use the same
    noise, so that they differ by the weights of the model only. The last epoch is always drawn.

    Args:
        directory: folder for the sheets; created if missing.
        prompts: a sequence of strings or of labels, one per picture; for an unconditional model,
            the number of images.
        every: number of epochs between two sheets.
        num_steps: number of solver steps, for models with a solver.
        guidance_scale: guidance scale, for models with a solver.
        seed: integer seed of the noise, the same for every sheet.
        tensorboard: None, or a log directory to which the sheets are also written, as `samples`.

    Raises:
        TypeError: if an argument is not a number, or a directory is not a path.
        ValueError: if `prompts` has another form, or a number is out of range.
        ImportError: if `tensorboard` is given and the package is not installed.

    Example:
    >>> grid = SampleGrid("runs/samples", ["a red heart", "a blue apple"], every=5)
    >>> grid.prompts
    ['a red heart', 'a blue apple']
    """

    def __init__(
        self,
        directory: Path,
        prompts: Sequence[str] | Sequence[int] | int,
        *,
        every: int = 1,
        num_steps: int = 20,
        guidance_scale: float = 3.0,
        seed: int = 0,
        tensorboard: Path | None = None,
    ) -> None:
        super().__init__()
        many = [prompts] if isinstance(prompts, str) else prompts
        if isinstance(many, (int, np.integer)) and not isinstance(many, bool):
            check_count("prompts", many)
        else:
            sequence = isinstance(many, (list, tuple, np.ndarray)) and len(many)
            if not sequence or not (_all(many, str) or _all(many, (int, np.integer))):
                raise ValueError(
                    "`prompts` must be a sequence of strings or of labels, or a number. "
                    f"Received: {prompts!r}."
                )
            many = list(many)
        check_count("every", every)
        check_count("num_steps", num_steps)
        check_number("guidance_scale", guidance_scale)
        as_seed(seed)
        if tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "`tensorboard` needs the package of that name: pip install tensorboard."
            )
        self.directory = check_path("directory", directory)
        self.prompts = many
        self.every = every
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.seed = seed
        self.tensorboard = None if tensorboard is None else check_path("tensorboard", tensorboard)
        self._finished = self._drawn = 0

    def on_train_begin(self, logs: dict | None = None) -> None:
        """Resets the epoch of the last sheet."""
        self._finished = self._drawn = 0

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Draws after every `every` epochs."""
        self._finished = epoch + 1
        if self._finished % self.every == 0:
            self._draw()

    def on_train_end(self, logs: dict | None = None) -> None:
        """Draws the last epoch, if it was not drawn."""
        if self._drawn < self._finished:
            self._draw()

    def _draw(self) -> None:
        if not is_chief():
            return
        options = {"num_steps": self.num_steps, "guidance_scale": self.guidance_scale}
        known = inspect.signature(self.model.generate).parameters
        if "num_steps" not in known:  # such as a VAE
            options = {}
        if isinstance(self.prompts, list):
            options["condition"] = self.prompts
            labels = [str(prompt) for prompt in self.prompts]
        else:
            options["num_samples"] = self.prompts
            labels = None
        images = self.model.generate(seed=self.seed, **options)
        sheet = contact_sheet(images, labels)
        try:
            save_png(self.directory / f"epoch_{self._finished:04d}.png", sheet)
        except OSError as error:  # a full disk, for example, must not end a training
            warnings.warn(f"No sheet was saved: {error}", stacklevel=2)
        if self.tensorboard is not None:
            with tf.summary.create_file_writer(str(self.tensorboard)).as_default():
                tf.summary.image("samples", sheet[None], step=self._finished)
        self._drawn = self._finished


def _all(values: object, kind: type | tuple) -> bool:
    return all(isinstance(value, kind) for value in values)
