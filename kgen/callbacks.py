"""Callbacks: training that can be watched and resumed.

`Resume` writes the whole state of a training, atomically, after every epoch: weights, averaged
weights, optimizer, seeds and the number of finished epochs. Started again with the same directory,
`fit` goes on where it stopped.

`SampleGrid` draws the same prompts from the same noise after every epoch, so that what changes on
the sheet is the model and nothing else.

`PosteriorCollapse` counts the units of a VAE's code that still carry information, draws the KL of
each, and warns when hardly any are left.
"""

import importlib.util
import pathlib
import warnings

import keras
import numpy as np
import tensorflow as tf

from kgen.metrics.active_units import active_units
from kgen.models.generative_model import images_of
from kgen.pictures import contact_sheet, save_png


class Resume(keras.callbacks.Callback):
    """Saves the training after every `save_every` epochs and goes on from the newest save.

    Args:
        directory: where the saves live; created if missing.
        save_every: number of epochs between two saves.
        keep: number of saves to keep.

    Raises:
        ValueError: if `save_every` or `keep` is less than 1.
    """

    def __init__(self, directory, save_every=1, keep=2):
        super().__init__()
        if save_every < 1 or keep < 1:
            raise ValueError(
                f"`save_every` and `keep` must be at least 1. "
                f"Received: save_every={save_every}, keep={keep}."
            )
        self.directory = pathlib.Path(directory)
        self.save_every = save_every
        self.keep = keep

    def on_train_begin(self, logs=None):
        """Restores the newest save, if there is one."""
        self.model.optimizer.build(self.model.trainable_variables)
        self.epochs_done = tf.Variable(0, dtype=tf.int64)
        checkpoint = tf.train.Checkpoint(
            model=self.model, optimizer=self.model.optimizer, epochs_done=self.epochs_done
        )
        self.manager = tf.train.CheckpointManager(checkpoint, str(self.directory), self.keep)
        if self.manager.restore_or_initialize():
            self.model._initial_epoch = int(self.epochs_done)

    def on_epoch_end(self, epoch, logs=None):
        """Saves, when it is time to."""
        self.epochs_done.assign(epoch + 1)
        if (epoch + 1) % self.save_every == 0:
            self.manager.save()


class SampleGrid(keras.callbacks.Callback):
    """Draws a labelled sheet of generated pictures as the training goes on.

    Each sheet is `epoch_0001.png`, ... in `directory`: the state after that many epochs. The last
    epoch of a training is always drawn.

    Args:
        directory: where the sheets go; created if missing.
        prompts: a sequence of strings, one for each picture.
        every: number of epochs between two sheets.
        num_steps: solver steps.
        guidance_scale: of `model.generate`.
        seed: integer seed of the noise, the same for every sheet.
        tensorboard: None, or a log directory in which the sheets also appear, as `samples`.

    Raises:
        ValueError: if `prompts` is not a sequence of strings, or `every` is less than 1.
        ImportError: if `tensorboard` is asked for and not installed.

    Example:
    >>> grid = SampleGrid("runs/samples", ["a red heart", "a blue apple"], every=5)
    >>> grid.prompts
    ['a red heart', 'a blue apple']
    """

    def __init__(
        self,
        directory,
        prompts,
        *,
        every=1,
        num_steps=20,
        guidance_scale=3.0,
        seed=0,
        tensorboard=None,
    ):
        super().__init__()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
            raise ValueError(f"`prompts` must be a sequence of strings. Received: {prompts!r}.")
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}.")
        if tensorboard is not None and importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "`tensorboard` needs the package of that name: pip install tensorboard."
            )
        self.directory = pathlib.Path(directory)
        self.prompts = prompts
        self.every = every
        self.num_steps = num_steps
        self.guidance_scale = guidance_scale
        self.seed = seed
        self.tensorboard = tensorboard
        self._finished = self._drawn = 0

    def on_train_begin(self, logs=None):
        """Forgets the epochs of an earlier training."""
        self._finished = self._drawn = 0

    def on_epoch_end(self, epoch, logs=None):
        """Draws, when it is time to."""
        self._finished = epoch + 1
        if self._finished % self.every == 0:
            self._draw()

    def on_train_end(self, logs=None):
        """Draws the last epoch, if that is still to be done."""
        if self._drawn < self._finished:
            self._draw()

    def _draw(self):
        images = self.model.generate(
            self.prompts,
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
        )
        sheet = contact_sheet(images, self.prompts)
        save_png(self.directory / f"epoch_{self._finished:04d}.png", sheet)
        if self.tensorboard is not None:
            with tf.summary.create_file_writer(str(self.tensorboard)).as_default():
                tf.summary.image("samples", sheet[None], step=self._finished)
        self._drawn = self._finished


class PosteriorCollapse(keras.callbacks.Callback):
    """Watches how many units of a VAE's code carry information.

    A unit is active when its posterior mean varies over the data by more than `threshold`
    (Burda et al. (2015), section 5.2). After every `every` epochs the number of active units is in
    the logs, as `active_units`, and `collapse_0001.png`, ... in `directory` shows the KL of each
    unit to N(0, I), in nats, the active ones dark.

    Args:
        data: batches of pictures to look at; a few hundred are enough.
        directory: where the pictures go; None draws none.
        every: number of epochs between two looks.
        threshold: variance of the mean of an active unit.
        alarm: the share of active units below which a warning is given.

    Raises:
        ValueError: if `every` is less than 1.
    """

    def __init__(self, data, directory=None, *, every=1, threshold=0.01, alarm=0.05):
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1. Received: every={every}.")
        self.data = data
        self.directory = None if directory is None else pathlib.Path(directory)
        self.every = every
        self.threshold = threshold
        self.alarm = alarm

    def on_epoch_end(self, epoch, logs=None):
        """Looks, when it is time to."""
        if (epoch + 1) % self.every:
            return
        with self.model.averaged():
            posteriors = [self.model.posterior(images_of(batch)) for batch in self.data]
        mean = np.concatenate([q.mean.numpy().reshape(len(q.mean), -1) for q in posteriors])
        log_std = np.concatenate([q.log_std.numpy().reshape(len(q.mean), -1) for q in posteriors])
        kl = 0.5 * (np.exp(2 * log_std) + mean**2 - 1 - 2 * log_std).mean(axis=0)
        active = active_units(mean, self.threshold)
        if logs is not None:
            logs["active_units"] = float(active.sum())
        if active.mean() < self.alarm:
            warnings.warn(
                f"Posterior collapse: {active.sum()} of {len(active)} units of the code are "
                "active. A KL warm-up (`warm_up`), a smaller `beta` or `free_bits` may help.",
                stacklevel=2,
            )
        if self.directory is not None:
            self._draw(kl, active, epoch + 1)

    def _draw(self, kl, active, epoch):
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        order = np.argsort(-kl)
        figure, axis = pyplot.subplots(figsize=(8, 3))
        colours = np.where(active[order], "black", "silver")
        axis.bar(range(len(kl)), kl[order], color=colours.tolist())
        axis.set(
            xlabel="unit, sorted",
            ylabel="KL to N(0, I), nats",
            title=f"epoch {epoch}: {active.sum()} of {len(kl)} units active",
        )
        figure.tight_layout()
        self.directory.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.directory / f"collapse_{epoch:04d}.png", dpi=100)
        pyplot.close(figure)
