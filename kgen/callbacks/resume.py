"""Training that survives: whole states, written atomically, and found again.

A save holds all that the next step depends on: weights, averaged weights, optimizer, seeds, the
running means of the epoch, the number of finished epochs and of steps in the unfinished one, and
what the other callbacks remember. Started again with the same directory, `fit` goes on from the
newest save that can be read, at the same place in the data, and ends with the weights of a training
that was never interrupted: on CPUs with `tf.config.experimental.enable_op_determinism()` bit for
bit. Models inside that are frozen, such as the autoencoder of a latent diffusion model, are not
saved, nor is what a LoRA leaves as it is; these weights must be the same when the training goes on.

The place in the data is found as follows. A data set that is iterated once an epoch, shuffled or
drawn anew each time from a seed, is opened and closed again as often as epochs are finished, and
the steps of the unfinished epoch are read and dropped. With `steps_per_epoch` there is one
iteration for all epochs, so all steps before are read and dropped. This takes no training, only
reading. Whatever in a data set does not follow from a seed cannot be found again.

Beside the saves `resume.json` says of which model, optimizer and data they are. What cannot be
continued is an error; another learning rate is a warning.

Of several workers the chief writes; all of them read, so the directory must be one that they share.
"""

import os
import re
import signal
import tempfile
import threading
import warnings

import keras
import tensorflow as tf

from kgen.callbacks import callback_state, training_identity
from kgen.checks import check_count, check_path
from kgen.distribution import is_chief, several_workers
from kgen.files.checkpoints import check_checkpoint
from kgen.layer_tree import layers_of

SIGNALS = (signal.SIGINT, signal.SIGTERM)
PATTERN = "[]*?\\"  # characters of a path that TensorFlow does not take as they are


class Resume(keras.callbacks.Callback):
    """Saves the training, and goes on from the newest save.

    On SIGTERM, which clusters send before they take a machine away, and on Ctrl-C the training is
    saved at the end of the step; the process then ends with exit status 143, or `fit` with
    `KeyboardInterrupt`. A second Ctrl-C ends it at once.

    If a save fails, because the disk is full for example, the training goes on with a warning, and
    the save before is still whole. Weights, or a state of the optimizer, that are not finite are
    not saved, so that the saves before stay. If the newest save cannot be read, the one before is
    taken, with a warning.

    It acts after all other callbacks, wherever it stands in their list, and saves what
    `EarlyStopping`, `ReduceLROnPlateau`, `ModelCheckpoint` and other callbacks remember: their
    numbers, texts and arrays.

    Args:
        directory: where the saves live, a folder of this machine; created if missing. One process
            at a time may use it.
        save_every: number of epochs between two saves.
        save_steps: None, or the number of steps between two saves within an epoch.
        keep: number of saves to keep.

    Raises:
        TypeError: if an argument is not a number, or `directory` not a path.
        ValueError: if a number is not an integer of at least 1, or `directory` is an address or
            has one of the characters `[]*?`; in `fit`, if there are saves and none can be
            read, if they are of another model, optimizer or other data, or if another process uses
            the directory.

    Example:
        >>> Resume("runs/vae/resume", save_steps=1000).keep
        2
    """

    exact = True  # `TermsModel.fit` sees to an order of the data, and calls `begin` and `close`

    def __init__(self, directory, save_every=1, *, save_steps=None, keep=2):
        super().__init__()
        check_count("save_every", save_every)
        check_count("keep", keep)
        if save_steps is not None:
            check_count("save_steps", save_steps)
        self.directory = check_path("directory", directory)
        if "://" in str(directory) or re.match(r"\w{2,}:/", str(self.directory)):
            raise ValueError(
                "`directory` must be a folder of this machine; mount other storage first. "
                f"Received: directory={str(directory)!r}."
            )
        if set(PATTERN) & set(str(self.directory.absolute())):
            raise ValueError(
                f"`directory` must have none of the characters {PATTERN} in its path, which "
                f"TensorFlow reads as a pattern. Received: {self.directory.absolute()}."
            )
        self.save_every = save_every
        self.save_steps = save_steps
        self.keep = keep
        self._signal = None
        self._handlers = {}
        self._lock = None
        self._seen = self._left = 0
        self._restored = None

    def begin(self, model, order, options):
        """Finds the newest save and the place in the data; `TermsModel.fit` calls it.

        Args:
            model: the compiled model.
            order: the data set in its order, as of `kgen.training.data.ordered`.
            options: of `fit`; `initial_epoch` is set.
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
        self._means, self._left, self._seen, self._restored = None, 0, 0, None
        self.directory.mkdir(parents=True, exist_ok=True)
        if is_chief():
            self._lock = training_identity.lock(self.directory)
        identity = training_identity.of(model, order)
        saves = self._saves()
        if saves:
            training_identity.compare(self.directory, identity)
            self._restore(saves)
            self._find_place(order, options)
        if is_chief():
            training_identity.write(self.directory, identity)
        # Other workers than the chief have to take part in a save, and throw theirs away.
        self._scratch = None if is_chief() else tempfile.TemporaryDirectory()

    def on_train_begin(self, logs=None):
        """Gives the other callbacks back what they remembered, and takes the signals."""
        if self._restored is not None:
            callback_state.restore(self._restored, self._others())
            self._restored = None
        self._signal = None
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._noticed) for number in SIGNALS}

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
        ended = self._ended()
        if ended or (self.save_steps and steps // self.save_steps > before // self.save_steps):
            self._save(self._epoch, steps)
        self._end(ended)

    def on_epoch_end(self, epoch, logs=None):
        """Saves, when it is time to."""
        self._seen = 0
        ended = self._ended()
        if ended or self.model.stop_training or (epoch + 1) % self.save_every == 0:
            self._save(epoch + 1, 0)
        self._end(ended)

    def close(self):
        """Gives back what was taken; `TermsModel.fit` calls it, also after an error."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)
        self._handlers = {}
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        if self.model is not None and self._left:
            self.model.train_function, self._left = None, 0

    def _noticed(self, number, frame):
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def _ended(self):
        """The signal that came to any of the workers, or None: all save after the same step."""
        strategy = self.model.distribute_strategy
        if not several_workers(strategy):
            return self._signal
        here = tf.constant(float(self._signal or 0))
        flags = strategy.experimental_distribute_values_from_function(lambda _: here)
        total = float(strategy.reduce(tf.distribute.ReduceOp.SUM, flags, axis=None))
        return (self._signal or signal.SIGTERM) if total > 0 else None

    def _end(self, ended):
        if ended == signal.SIGINT:
            raise KeyboardInterrupt
        if ended:
            raise SystemExit(128 + ended)

    def _others(self):
        """The callbacks beside this one, in their order."""
        return self.model.fit_callbacks

    def _variables(self):
        """The variables of the model, but those that are frozen."""
        frozen = {id(variable) for variable in self.model.frozen_weights} | {
            id(variable)
            for layer in layers_of(self.model)[1:]
            if isinstance(layer, keras.Model) and not layer.trainable
            for variable in layer.variables
            if not variable.trainable
        }
        return [variable for variable in self.model.variables if id(variable) not in frozen]

    def _optimizer_variables(self):
        names = ("optimizer", "discriminator_optimizer")
        optimizers = [getattr(self.model, name, None) for name in names]
        return [v for optimizer in optimizers if optimizer for v in optimizer.variables]

    def _mean_variables(self):
        return [variable for mean in self.model.metrics for variable in mean.variables]

    def _counters(self):
        """TensorFlow's own variables of the model, such as the number of skipped steps."""
        return [v for _, v in sorted(vars(self.model).items()) if isinstance(v, tf.Variable)]

    def _saves(self):
        """The numbers of the saves in the directory, the newest first."""
        found = [re.fullmatch(r"ckpt-(\d+)\.index", name) for name in os.listdir(self.directory)]
        return sorted((int(match[1]) for match in found if match), reverse=True)

    def _restore(self, saves):
        for i, number in enumerate(saves):
            save = str(self.directory / f"ckpt-{number}")
            try:
                check_checkpoint(save, self._expected())
                self._checkpoint.read(save).assert_existing_objects_matched()
                self._check_finite()
                self._restored = callback_state.read(self.directory, number)
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
        variables = [*self._variables(), *self._optimizer_variables(), *self._mean_variables()]
        variables += [*self._counters(), self._epochs, self._steps]
        return [(tuple(v.shape), v.dtype) for v in variables]

    def _check_finite(self):
        for variable in [*self._variables(), *self._optimizer_variables()]:
            value = tf.convert_to_tensor(variable.value)
            if value.dtype.is_floating and not bool(tf.reduce_all(tf.math.is_finite(value))):
                raise ValueError(f"{variable.path} is not finite")

    def _find_place(self, order, options):
        """Sees to it that `fit` begins where the save was made."""
        epochs, steps = int(self._epochs), int(self._steps)
        before = max(epochs - options.get("initial_epoch", 0), 0)
        options["initial_epoch"] = epochs
        self._seen = steps
        self._say(epochs, steps, options.get("epochs", 1))
        if steps:
            self._means = [(variable, variable.numpy()) for variable in self._mean_variables()]
        dropped = steps
        if order.steps_per_epoch is not None:
            dropped += before * order.steps_per_epoch
        else:
            for _ in range(before):
                iter(order.dataset)
        if dropped:
            self._drop(dropped, steps)

    def _say(self, epochs, steps, wanted):
        if not is_chief():
            return
        done = f"{epochs} epochs" + (f" and {steps} steps" if steps else "")
        rest = f"it goes on to epoch {wanted}."
        if epochs >= wanted:
            rest = f"nothing is left of the {wanted} that were asked for."
        print(f"{self.directory} holds a training of {done}: {rest}")

    def _drop(self, num, steps):
        """Reads `num` steps without training, of which `steps` count as steps of this epoch."""
        model = self.model
        model.make_train_function()
        train = model.train_function
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
                callback_state.write(self.directory, number, self._others())
            self._checkpoint.write(os.path.join(directory, f"ckpt-{number}"))
            if is_chief():
                self._remove_old()
        except (OSError, tf.errors.OpError) as error:
            if is_chief():
                self._remove(number)
            warnings.warn(
                f"The training could not be saved in {self.directory} and goes on: "
                f"{str(error).splitlines()[0]}",
                stacklevel=2,
            )

    def _remove_old(self):
        """Removes the saves beyond those to keep, the index first, without which a save is none."""
        for number in self._saves()[self.keep :]:
            self._remove(number)

    def _remove(self, number):
        names = [n for n in os.listdir(self.directory) if n.startswith(f"ckpt-{number}.")]
        for name in sorted(names, key=lambda name: not name.endswith(".index")):
            (self.directory / name).unlink(missing_ok=True)
