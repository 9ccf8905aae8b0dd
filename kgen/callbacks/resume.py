"""Resumable training: the complete state of a training, saved atomically and restored.

A save holds everything that the next step depends on: weights, averaged weights, optimizer, seeds,
the running means of the epoch, the number of finished epochs and of steps in the unfinished epoch,
and the state of the other callbacks. When `fit` is started again with the same directory, it
resumes from the newest save that can be read, at the same position in the data, and ends with the
weights of an uninterrupted training: on CPUs with
`tf.config.experimental.enable_op_determinism()` bit for bit. Weights that do not change are not
saved: frozen models inside the model, such as the autoencoder of a latent diffusion model, and what
a LoRA leaves unchanged. They must be equal when the training is resumed.

The position in the data is found by reading. A data set that is iterated once per epoch, and that
is shuffled or drawn again in each epoch from a seed, is opened and closed once for each finished
epoch, and the steps of the unfinished epoch are read and dropped. With `steps_per_epoch` there is
one iteration over all epochs, so that all earlier steps are read and dropped. This costs the time
for reading, and none for training. Randomness in a data set that does not follow from a seed cannot
be reproduced.

The file `resume.json` beside the saves states which model, optimizer and data they belong to. A
difference that makes resuming impossible is an error; another learning rate is a warning.

With several workers the chief writes the saves and all workers read them, so the directory must be
shared between them.
"""

import os
import re
import signal
import tempfile
import threading
import types
import warnings
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.callbacks import callback_state, training_identity
from kgen.checks import check_count, check_path
from kgen.distribution import is_chief, several_workers
from kgen.files.checkpoints import check_checkpoint
from kgen.layer_tree import layers_of
from kgen.training.model import TermsModel
from kgen.types import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATTERN = "[]*?\\"  # characters with a special meaning in the paths of TensorFlow


class Resume(keras.callbacks.Callback):
    r"""Saves the state of a training, and resumes the training from the newest save.

    On SIGTERM, which clusters send before they stop a machine, and on Ctrl-C, the training is saved
    after the current step. Then the process ends with exit status 143 after SIGTERM, and `fit`
    raises `KeyboardInterrupt` after Ctrl-C. A second Ctrl-C stops without saving.

    If a save fails, for example because the disk is full, the training continues with a warning,
    and the previous save is still complete. If weights or the state of the optimizer are not
    finite, they are not saved, so that the previous saves remain. If the newest save cannot be
    read, the previous one is used, with a warning.

    This callback acts after all other callbacks, regardless of its position in their list. It saves
    the state of `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and other callbacks: their
    attributes that are numbers, texts or arrays.

    Args:
        directory: local folder of the saves; created if missing. Only one process at a time may use
            it.
        save_every: number of epochs between two saves.
        save_steps: number of steps between two saves within an epoch; None to save at the ends of
            epochs only.
        keep: number of saves to keep.

    Raises:
        TypeError: if an argument is not a number, or `directory` not a path.
        ValueError: if a number is not an integer of at least 1, or `directory` is a URL or has one
            of the characters `[]*?\`; in `fit`, if there are saves and none can be read, if they
            belong to another model, optimizer or data, or if another process uses the directory.

    Example:
        >>> Resume("runs/vae/resume", save_steps=1000).keep
        2
    """

    exact = True  # `TermsModel.fit` makes the order of data reproducible, calls `begin` and `close`

    def __init__(
        self,
        directory: Path,
        save_every: int = 1,
        *,
        save_steps: int | None = None,
        keep: int = 2,
    ) -> None:
        super().__init__()
        check_count("save_every", save_every)
        check_count("keep", keep)
        if save_steps is not None:
            check_count("save_steps", save_steps)
        self.directory = check_path("directory", directory)
        if "://" in str(directory) or re.match(r"\w{2,}:/", str(self.directory)):
            raise ValueError(
                "`directory` must be a local folder; mount remote storage first. "
                f"Received: directory={str(directory)!r}."
            )
        if set(PATTERN) & set(str(self.directory.absolute())):
            raise ValueError(
                f"`directory` must have none of the characters {PATTERN} in its path, which "
                f"TensorFlow interprets as a pattern. Received: {self.directory.absolute()}."
            )
        self.save_every = save_every
        self.save_steps = save_steps
        self.keep = keep
        self._signal = None
        self._handlers = {}
        self._lock = None
        self._steps_seen = self._steps_to_skip = 0
        self._restored = None

    def begin(
        self, model: TermsModel, order: types.SimpleNamespace, options: dict[str, Any]
    ) -> None:
        """Restores the newest save and finds the position in the data.

        `TermsModel.fit` calls this method before it trains.

        Args:
            model: the compiled model.
            order: the data set in its order, see `kgen.training.data.ordered`.
            options: the arguments of `fit`; `initial_epoch` is set.

        Raises:
            ValueError: if there are saves and none can be read, if they belong to another model,
                optimizer or data, or if another process uses the directory.
        """
        self.set_model(model)
        self._epochs, self._steps = (
            tf.Variable(0, dtype=tf.int64, name=name) for name in ("epochs", "steps")
        )
        self._checkpoint = tf.train.Checkpoint(
            variables=[variable.value for variable in self._variables()],
            optimizer=[variable.value for variable in self._optimizer_variables()],
            means=[variable.value for variable in self._mean_variables()],
            counters=self._counters(),
            epochs_done=self._epochs,
            steps_done=self._steps,
        )
        self._means, self._steps_to_skip, self._steps_seen, self._restored = None, 0, 0, None
        self.directory.mkdir(parents=True, exist_ok=True)
        if is_chief():
            self._lock = training_identity.lock(self.directory)
        identity = training_identity.identity_of(model, order)
        saves = self._saves()
        if saves:
            training_identity.check_identity(self.directory, identity)
            self._restore(saves)
            self._seek(order, options)
        if is_chief():
            training_identity.write_identity(self.directory, identity)
        # All workers must take part in a save; all but the chief write to a temporary folder.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the state of the other callbacks, and handles the signals from now on."""
        if self._restored is not None:
            callback_state.restore(self._restored, self._other_callbacks())
            self._restored = None
        self._signal = None
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._on_signal) for number in SIGNALS}

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Restores the running means of an unfinished epoch, which Keras has just reset."""
        self._epoch = epoch
        if self._means is not None:
            for variable, value in self._means:
                variable.assign(value)
            self._means = None

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves if `save_steps` steps have passed, or after a signal."""
        if self._steps_to_skip:
            return
        steps = batch + 1
        before, self._steps_seen = self._steps_seen, steps
        number = self._received_signal()
        if number or (self.save_steps and steps // self.save_steps > before // self.save_steps):
            self._save(self._epoch, steps)
        self._stop(number)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Saves if `save_every` epochs have passed, if the training stops, or after a signal."""
        self._steps_seen = 0
        number = self._received_signal()
        if number or self.model.stop_training or (epoch + 1) % self.save_every == 0:
            self._save(epoch + 1, 0)
        self._stop(number)

    def close(self) -> None:
        """Restores the signal handlers and unlocks the directory.

        `TermsModel.fit` calls this method after the training, also after an error.
        """
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._handlers = {}
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.model is not None and self._steps_to_skip:
            self.model.train_function, self._steps_to_skip = None, 0

    def _on_signal(self, number: int, frame: types.FrameType | None) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def _received_signal(self) -> int | None:
        """Returns the signal that any worker has received, or None.

        It is the same in all workers, so that all of them save after the same step.
        """
        strategy = self.model.distribute_strategy
        if not several_workers(strategy):
            return self._signal
        here = tf.constant(float(self._signal or 0))
        flags = strategy.experimental_distribute_values_from_function(lambda _: here)
        total = float(strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None))
        return (self._signal or signal.SIGTERM) if total > 0 else None

    def _stop(self, number: int | None) -> None:
        """Ends the training after a signal.

        Raises:
            KeyboardInterrupt: after SIGINT.
            SystemExit: after another signal.
        """
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if number:
            raise SystemExit(128 + number)

    def _other_callbacks(self) -> Sequence[keras.callbacks.Callback]:
        """Returns the other callbacks, in their order."""
        return self.model.fit_callbacks

    def _variables(self) -> list[keras.Variable]:
        """Returns the variables of the model that are not frozen."""
        frozen = {id(variable) for variable in self.model.frozen_weights} | {
            id(variable)
            for layer in layers_of(self.model)[1:]
            if isinstance(layer, keras.Model) and not layer.trainable
            for variable in layer.variables
            if not variable.trainable
        }
        return [variable for variable in self.model.variables if id(variable) not in frozen]

    def _optimizer_variables(self) -> list[keras.Variable]:
        names = ("optimizer", "discriminator_optimizer")
        optimizers = [getattr(self.model, name, None) for name in names]
        return [v for optimizer in optimizers if optimizer for v in optimizer.variables]

    def _mean_variables(self) -> list[keras.Variable]:
        """Returns the variables of the running means of the epoch."""
        return [variable for mean in self.model.metrics for variable in mean.variables]

    def _counters(self) -> list[tf.Variable]:
        """Returns the attributes of the model that are `tf.Variable`s, such as step counters."""
        return [v for _, v in sorted(vars(self.model).items()) if isinstance(v, tf.Variable)]

    def _saves(self) -> list[int]:
        """Returns the numbers of the saves in the directory, the newest first."""
        found = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in os.listdir(self.directory)]
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _restore(self, saves: Sequence[int]) -> None:
        """Restores the first save of a list that can be read; warns of those that cannot.

        Raises:
            ValueError: if none can be read.
        """
        for i, number in enumerate(saves):
            save = str(self.directory / f"ckpt-{number}")
            try:
                check_checkpoint(save, self._expected())
                self._checkpoint.read(save).assert_existing_objects_matched()
                self._check_finite()
                self._restored = callback_state.read(self.directory, number)
            except (OSError, tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
                reason = str(error).splitlines()[0]
                is_last = i + 1 == len(saves)
                rest = "There is no other save." if is_last else "The previous save is tried."
                warnings.warn(f"{save} cannot be read ({reason}). {rest}", stacklevel=2)
            else:
                return
        raise ValueError(
            "`directory` must hold a save that can be read, or no saves. Received: "
            f"{self.directory}, with {len(saves)} saves that are damaged, or of another model or "
            "version of kgen; remove them to start anew."
        )

    def _expected(self) -> list[tuple[tuple[int, ...], Any]]:
        """Returns the shapes and dtypes of all variables in a save."""
        variables = [*self._variables(), *self._optimizer_variables(), *self._mean_variables()]
        variables += [*self._counters(), self._epochs, self._steps]
        return [(tuple(v.shape), v.dtype) for v in variables]

    def _check_finite(self) -> None:
        """Checks that all weights and the state of the optimizer are finite.

        Raises:
            ValueError: if a variable is not.
        """
        for variable in [*self._variables(), *self._optimizer_variables()]:
            value = tf.convert_to_tensor(variable.value)
            if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ValueError(f"{variable.path} is not finite")

    def _seek(self, order: types.SimpleNamespace, options: dict[str, Any]) -> None:
        """Makes `fit` begin at the epoch and step of the restored save; see `begin`."""
        epochs, steps = int(self._epochs), int(self._steps)
        before = max(epochs - options.get("initial_epoch", 0), 0)
        options["initial_epoch"] = epochs
        self._steps_seen = steps
        self._print_position(epochs, steps, options.get("epochs", 1))
        if steps:
            self._means = [(variable, variable.numpy()) for variable in self._mean_variables()]
        skipped = steps
        if order.steps_per_epoch is not None:
            skipped += before * order.steps_per_epoch
        else:
            for _ in range(before):
                iter(order.dataset)
        if skipped:
            self._skip(skipped, steps)

    def _print_position(self, epochs: int, steps: int, num_epochs: int) -> None:
        """Prints where the training is resumed, and the number of epochs at which it ends."""
        if not is_chief():
            return
        done = f"{epochs} epochs" + (f" and {steps} steps" if steps else "")
        rest = f"it continues until epoch {num_epochs}."
        if epochs >= num_epochs:
            rest = f"all of the {num_epochs} requested epochs are done."
        print(f"{self.directory} holds a training of {done}: {rest}")

    def _skip(self, num: int, steps: int) -> None:
        """Makes `fit` read batches without training on them, before it trains.

        Args:
            num: number of steps whose batches are skipped.
            steps: how many of them, the last ones, count as steps of the current epoch.
        """
        model = self.model
        model.make_train_function()
        train = model.train_function
        self._steps_to_skip = steps
        before = num - steps

        def function(iterator: Any) -> dict[str, Any]:
            nonlocal before
            for _ in range(before):
                next(iterator)
            before = 0
            if not self._steps_to_skip:
                return train(iterator)
            for _ in range(min(model.steps_per_execution, self._steps_to_skip)):
                next(iterator)
                self._steps_to_skip -= 1
            if not self._steps_to_skip:
                model.train_function = train
            return model.get_metrics_result()

        model.train_function = function

    def _save(self, epochs: int, steps: int) -> None:
        """Saves the training, after a number of epochs and of steps in the unfinished epoch."""
        try:
            self._check_finite()
        except ValueError as error:
            warnings.warn(f"The training is not saved: {error}.", stacklevel=2)
            return
        self._epochs.assign(epochs)
        self._steps.assign(steps)
        directory = self._scratch.name if self._scratch else self.directory
        number = max(self._saves(), default=0) + 1
        try:
            if is_chief():
                callback_state.write(self.directory, number, self._other_callbacks())
            self._checkpoint.write(os.path.join(directory, f"ckpt-{number}"))
            if is_chief():
                self._remove_old()
        except (OSError, tf.errors.OpError) as error:
            if is_chief():
                self._remove(number)
            warnings.warn(
                f"The training could not be saved in {self.directory} and continues: "
                f"{str(error).splitlines()[0]}",
                stacklevel=2,
            )

    def _remove_old(self) -> None:
        """Removes all saves but the newest `keep`."""
        for number in self._saves()[self.keep :]:
            self._remove(number)

    def _remove(self, number: int) -> None:
        """Removes a save, its index first, without which the other files do not count as a save."""
        names = [n for n in os.listdir(self.directory) if n.startswith(f"ckpt-{number}.")]
        for name in sorted(names, key=lambda name: not name.endswith(".index")):
            (self.directory / name).unlink(missing_ok=True)
