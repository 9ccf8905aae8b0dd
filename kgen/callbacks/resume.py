"""Training that survives: whole states, written atomically, and found again.

A save holds all that the next step depends on: weights, averaged weights, optimizer, seeds, the
running means of the epoch, the number of finished epochs and of steps in the unfinished one.
Started again with the same directory, `fit` goes on from the newest save that can be read, at the
same place in the data, and ends with the weights of a training that was never interrupted: on CPUs
with `tf.config.experimental.enable_op_determinism()` bit for bit.

The place in the data is found as follows. A data set that is iterated once an epoch, shuffled or
drawn anew each time from a seed, is opened and closed again as often as epochs are finished, and
the steps of the unfinished epoch are read and dropped. With `steps_per_epoch` there is one
iteration for all epochs, so all steps before are read and dropped. This takes no training, only
reading. Whatever in a data set does not follow from a seed cannot be found again.

A save is read only if it holds tensors of the shapes and types of this training and finite weights
(`kgen.files.checkpoints`); the others are as good as damaged.

Of several workers the chief writes; all of them read, so the directory must be one that they share.
"""

import re
import signal
import tempfile
import threading
import warnings

import keras
import tensorflow as tf

from kgen.checks import check_count, check_path
from kgen.distribution import is_chief, several_workers
from kgen.files.checkpoints import STATE, check_checkpoint, names_other_folders


class Resume(keras.callbacks.Callback):
    """Saves the training, and goes on from the newest save.

    On SIGTERM, which clusters send before they take a machine away, the training is saved at the
    end of the step and the process ends with exit status 143.

    If a save fails, because the disk is full for example, the training goes on with a warning, and
    the save before is still whole. If the newest save cannot be read, the one before is taken, with
    a warning.

    Args:
        directory: where the saves live; created if missing.
        save_every: number of epochs between two saves.
        save_steps: None, or the number of steps between two saves within an epoch.
        keep: number of saves to keep.

    Raises:
        TypeError: if a number is none, or `directory` is no path.
        ValueError: if a number is not an integer of at least 1; in `fit`, if there are saves and
            none can be read.

    Example:
        >>> Resume("runs/vae/resume", save_steps=1000).keep
        2
    """

    exact = True  # `GenerativeModel.fit` sees to an order of the data, and calls `close`

    def __init__(self, directory, save_every=1, *, save_steps=None, keep=2):
        super().__init__()
        check_count("save_every", save_every)
        check_count("keep", keep)
        if save_steps is not None:
            check_count("save_steps", save_steps)
        self.directory = check_path("directory", directory)
        self.save_every = save_every
        self.save_steps = save_steps
        self.keep = keep
        self._terminated = self._handling = False

    def on_train_begin(self, logs=None):
        """Restores the newest save that can be read, if there is one."""
        self._epochs, self._steps = (
            tf.Variable(0, dtype=tf.int64, name=name) for name in ("epochs", "steps")
        )
        model = self.model
        self._checkpoint = tf.train.Checkpoint(
            model=model,
            optimizer=model.optimizer,
            # By themselves too: TensorFlow does not find the averaged weights inside the model.
            variables=[variable.value for variable in model.variables],
            optimizer_variables=[variable.value for variable in model.optimizer.variables],
            means=[variable.value for variable in self._mean_variables()],
            epochs_done=self._epochs,
            steps_done=self._steps,
        )
        self._means, self._left = None, 0
        saves = self._saves()
        if saves:
            self._restore(saves)
            self._find_place()
        # Other workers than the chief have to take part in a save, and throw theirs away.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()
        directory = str(self._scratch.name if self._scratch else self.directory)
        if names_other_folders(directory):
            warnings.warn(
                f"{directory}/{STATE} names saves in other folders and is written anew.",
                stacklevel=2,
            )
            (self.directory / STATE).unlink()
        self._manager = tf.train.CheckpointManager(self._checkpoint, directory, self.keep)
        self._terminated = False
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTERM, self._on_signal)
            self._handling = True

    def on_epoch_begin(self, epoch, logs=None):
        """Puts back the running means of an unfinished epoch, which Keras has just reset."""
        self._epoch = epoch
        if self._means is not None:
            for variable, value in self._means:
                variable.assign(value)
            self._means = None

    def on_train_batch_end(self, batch, logs=None):
        """Saves, when it is time to, or when the process is to end."""
        if self._left:
            return
        steps = batch + 1
        before, self._seen = self._seen, steps
        if self._ended():
            self._save(self._epoch, steps)
            raise SystemExit(128 + signal.SIGTERM)
        if self.save_steps and steps // self.save_steps > before // self.save_steps:
            self._save(self._epoch, steps)

    def on_epoch_end(self, epoch, logs=None):
        """Saves, when it is time to."""
        self._seen = 0
        ended = self._ended()
        if ended or (epoch + 1) % self.save_every == 0:
            self._save(epoch + 1, 0)
        if ended:
            raise SystemExit(128 + signal.SIGTERM)

    def close(self):
        """Gives back what was taken; `GenerativeModel.fit` calls it, also after an error."""
        if self._handling:
            signal.signal(signal.SIGTERM, self._handler or signal.SIG_DFL)
            self._handling = False
        if self.model is None:  # Keras has raised before it began
            return
        if self._left:
            self.model.train_function, self._left = None, 0
        self.model._initial_epoch = None  # another `fit` begins with the first epoch

    def _on_signal(self, number, frame):
        self._terminated = True

    def _ended(self):
        """Whether SIGTERM has come, to any of the workers: all save after the same step."""
        strategy = self.model.distribute_strategy
        if not several_workers(strategy):
            return self._terminated
        here = tf.constant(float(self._terminated))
        flags = strategy.experimental_distribute_values_from_function(lambda _: here)
        return float(strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None)) > 0

    _seen = 0
    _left = 0

    def _mean_variables(self):
        return [variable for mean in self.model.metrics for variable in mean.variables]

    def _saves(self):
        """The saves in the directory, the newest first."""
        found = [re.fullmatch(r"(ckpt-(\d+))\.index", path.name) for path in self._files()]
        newest = sorted((int(match[2]), match[1]) for match in found if match)[::-1]
        return [str(self.directory / name) for _, name in newest]

    def _files(self):
        return self.directory.iterdir() if self.directory.is_dir() else []

    def _restore(self, saves):
        for i, save in enumerate(saves):
            try:
                check_checkpoint(save, self._expected())
                self._checkpoint.restore(save).assert_existing_objects_matched()
                self._check_finite()
            except (OSError, tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
                reason = str(error).splitlines()[0]
                rest = "It is the last one." if i + 1 == len(saves) else "The one before is tried."
                warnings.warn(f"{save} cannot be read ({reason}). {rest}", stacklevel=2)
            else:
                return
        raise ValueError(
            f"`directory` must hold a save that can be read, or none. Received: {self.directory}, "
            f"with {len(saves)} damaged ones, or those of another model or version of kgen; "
            "remove them to start anew."
        )

    def _expected(self):
        """Shapes and types of all that a save holds."""
        variables = [*self.model.variables, *self.model.optimizer.variables]
        variables += [*self._mean_variables(), self._epochs, self._steps]
        values = {id(v): v for v in (*variables, *tf.nest.flatten(self._others()))}.values()
        return [(tuple(v.shape), v.dtype) for v in values]

    def _others(self):
        """TensorFlow's own variables of the model, such as counters."""
        return [v for v in vars(self.model).values() if isinstance(v, tf.Variable)]

    def _check_finite(self):
        for variable in self.model.trainable_variables:
            if not bool(tf.reduce_all(tf.math.is_finite(variable.value))):
                raise ValueError(f"{variable.path} is not finite")

    def _find_place(self):
        """Sees to it that `fit` begins where the save was made."""
        model, epochs, steps = self.model, int(self._epochs), int(self._steps)
        model._initial_epoch = epochs
        self._seen = steps
        if steps:
            self._means = [(variable, variable.numpy()) for variable in self._mean_variables()]
        data = getattr(model, "fit_data", None)
        dropped = steps
        if data is not None and data.steps_per_epoch is not None:
            dropped += epochs * data.steps_per_epoch
        elif data is not None:
            for _ in range(epochs):
                iter(data.dataset)
        if dropped:
            self._drop(dropped, steps)

    def _drop(self, num, steps):
        """Reads `num` steps without training, of which `steps` count as steps of this epoch."""
        model, train = self.model, self.model.train_function
        self._left = steps
        before = num - steps

        def function(iterator):
            nonlocal before
            for _ in range(before):
                next(iterator)
            before = 0
            if not self._left:
                return train(iterator)
            for _ in range(min(model.steps_per_execution, self._left)):
                next(iterator)
                self._left -= 1
            if not self._left:
                model.train_function = train
            return model.get_metrics_result()

        model.train_function = function

    def _save(self, epochs, steps):
        self._epochs.assign(epochs)
        self._steps.assign(steps)
        try:
            self._manager.save()
        except (OSError, tf.errors.OpError) as error:
            warnings.warn(
                f"The training could not be saved in {self.directory} and goes on: "
                f"{str(error).splitlines()[0]}",
                stacklevel=2,
            )
