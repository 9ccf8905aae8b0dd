"""A callback that monitors posterior collapse: the number of active units of a VAE's code."""

import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_interval, check_path, check_positive
from kgen.distribution import is_chief
from kgen.metrics.active_units import active_units
from kgen.models.generative_model import images_of
from kgen.types import Path


class PosteriorCollapse(keras.callbacks.Callback):
    """Monitors how many units of a VAE's code carry information.

    A unit is active when its posterior mean varies over the data by more than `threshold`
    (Burda et al. (2015), section 5.2). After every `every` epochs the number of active units is in
    the logs, as `active_units`, and `collapse_0001.png`, ... in `directory` shows the KL of each
    unit to N(0, I), in nats, the active ones dark.

    Args:
        data: pictures to encode, an array or batches; a few hundred are enough.
        directory: folder for the charts; None for no charts.
        every: number of epochs between two measurements.
        threshold: variance of the posterior mean above which a unit is active.
        alarm: share of active units below which a warning is given.

    Raises:
        TypeError: if an argument is not a number, or `directory` is not a path.
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        data: Any,
        directory: Path | None = None,
        *,
        every: int = 1,
        threshold: float = 0.01,
        alarm: float = 0.05,
    ) -> None:
        super().__init__()
        check_count("every", every)
        check_positive("threshold", threshold, zero=True)
        check_interval("alarm", alarm, "[0, 1]")
        self.data = [data] if isinstance(data, (np.ndarray, tf.Tensor)) else data
        self.directory = None if directory is None else check_path("directory", directory)
        self.every = every
        self.threshold = threshold
        self.alarm = alarm

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Measures after every `every` epochs."""
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
                "active. A KL warm-up (`warm_up`) or a smaller `beta` may help.",
                stacklevel=2,
            )
        if self.directory is not None and is_chief():
            self._draw(kl, active, epoch + 1)

    def _draw(self, kl: np.ndarray, active: np.ndarray, epoch: int) -> None:
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
