"""The abstract base of diffusion and score models of the data, which have a density.

    log p(x)    by the probability flow                (`kgen.density.flow`)
    -log p(x) <= reconstruction + prior + denoising    (`kgen.diffusion.bound`)

References:
  Song et al. (2021), https://arxiv.org/abs/2011.13456, section 4.3 and appendix D.2 (the flow).
  Kingma et al. (2021), https://arxiv.org/abs/2107.00630, eq. 11 (the bound).
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from kgen import likelihoods, solvers
from kgen.checks import check_count, check_data, check_interval
from kgen.conditioning import Conditioner
from kgen.density import flow
from kgen.diffusion import BoundSteps, GaussianDiffusion
from kgen.diffusion.bound import prior_term, reconstruction_term
from kgen.diffusion.times import TrainingTimes
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.variational_dequantization import VariationalDequantization
from kgen.sampling.compiled import Compiled
from kgen.sampling.plan import Plan
from kgen.sampling.request import condition_rows, rows_of, slices
from kgen.solvers import Solver
from kgen.symbolic import input_shape
from kgen.tensors import as_seed, fold_in, split
from kgen.types import Condition, Network, Prediction, SolverName, TensorLike


class DensityModel(DenoiserModel):
    """Abstract base of models that denoise the data themselves and so define a density.

    Args:
        network: called as `network(z, log_snr, cond, training)`; returns the shape of `z`.
        process: a `GaussianDiffusion`.
        prediction: what the network predicts, a key of
            `kgen.diffusion.prediction.PREDICTION_TYPES`.
        data_shape: shape of an example, or None for that of the network.
        levels: a number of timesteps or noise levels, or None for continuous time.
        grey_levels: number of values of a pixel in [-1, 1], or None for real values.
        conditioner: None, or a `Conditioner`.
        **kwargs: options of `DenoiserModel`.

    Raises:
        TypeError: if a number is of another type.
        ValueError: if an option is unknown or out of range, or the shape of the data is not known.
    """

    def __init__(
        self,
        network: Network,
        process: GaussianDiffusion,
        *,
        prediction: Prediction,
        data_shape: Sequence[int] | None,
        levels: int | None,
        grey_levels: int | None,
        conditioner: Conditioner | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if levels is not None:
            check_count("levels", levels)
        if grey_levels is not None:
            check_count("grey_levels", grey_levels)
            check_interval("grey_levels", grey_levels, "[2, inf)")
        if data_shape is None:
            data_shape = input_shape(network, "z")
        if data_shape is None or None in data_shape:
            raise ValueError(
                "`data_shape` must be given for a network that does not declare the shape of its "
                "input. Received: data_shape=None."
            )
        self.data_shape = tuple(data_shape)
        self.levels = levels
        self.grey_levels = grey_levels
        self.bounded = grey_levels is not None
        # The likelihood defines the range of the data, the bin width and the conversion to pixels.
        self.likelihood = (
            likelihoods.GaussianLikelihood()
            if grey_levels is None
            else likelihoods.LogisticMixture()
        )
        self.flow_log_likelihood = Compiled(self._log_likelihood, self.averaged)
        self.set_denoiser(network, process, prediction, conditioner, self.data_shape)

    def _log_likelihood(
        self, solver: Solver, num_probes: int | None, x: tf.Tensor, cond: Condition, seed: tf.Tensor
    ) -> tf.Tensor:
        return flow.log_likelihood(
            lambda z, t: self.denoiser(z, t, cond),
            self.process,
            x,
            solver=solver,
            num_probes=num_probes,
            seed=tf.ensure_shape(seed, [2]),
        )

    def log_likelihood(
        self,
        x: TensorLike,
        *,
        condition: Any = None,
        num_probes: int | None = None,
        dequantization: Literal["uniform"] | VariationalDequantization | None = None,
        rtol: float = 1e-5,
        atol: float = 1e-5,
        seed: int = 0,
        batch_size: int = 256,
        verbose: int = 0,
    ) -> np.ndarray:
        """Returns log p(x) by the probability flow; see `kgen.log_likelihood`.

        Args:
            x: data `[N, *data_shape]`.
            condition: for a conditional model, one condition for all examples or one per example.
            num_probes: None for the exact trace, or the number of random vectors with which it is
                estimated.
            dequantization: None for the density of the values themselves; `"uniform"` for
                log p(x + noise) with uniform noise of the width of a bin; or a trained
                `VariationalDequantization` for log p(x + noise) - log q, with q the density of its
                noise in bins. For the last two, `kgen.metrics.bits_per_dim` with the bin width
                gives a bound on the probability of the grey levels.
            rtol: relative tolerance of the integration.
            atol: absolute tolerance of the integration.
            seed: seed of the random vectors and of the noise.
            batch_size: number of examples that are computed at once.
            verbose: 1 for a progress bar, 0 for none.

        Returns:
            A float array `[N]`, in nats.

        Raises:
            TypeError: if an argument has the wrong type.
            ValueError: if an argument is unknown, out of range or of the wrong shape, or the
                condition of a conditional model is missing.
        """
        learned = isinstance(dequantization, VariationalDequantization)
        if not learned and dequantization not in (None, "uniform"):
            raise ValueError(
                "`dequantization` must be None, 'uniform' or a VariationalDequantization. "
                f"Received: {dequantization!r}."
            )
        if num_probes is not None:
            check_count("num_probes", num_probes)
        check_data("x", x, self.data_shape)
        x, seeds = tf.convert_to_tensor(x), split(as_seed(seed), 2)
        if dequantization == "uniform":
            x = flow.dequantize(x, seeds[0], self.grey_levels or 256)
        if condition is None and self.conditioner is not None:
            raise ValueError("`condition` must be given to a model with a conditioner.")
        rows = condition_rows(self.conditioner, condition, len(x))
        measure = self.flow_log_likelihood(solvers.DormandPrince(rtol, atol), num_probes)
        parts = []
        for part in slices(len(x), batch_size, verbose):
            cond, _ = self.conditions_of(rows_of(rows, part), None)
            values, log_q = x[part], 0.0
            if learned:
                values, log_q = dequantization.dequantize(values, fold_in(seeds[0], part.start))
            parts.append((measure(values, cond, fold_in(seeds[1], part.start)) - log_q).numpy())
        return np.concatenate(parts)

    @property
    def bound_times(self) -> TrainingTimes:
        """The times of the bound: continuous, or the T timesteps."""
        return "stratified" if self.levels is None else BoundSteps(self.levels)

    def to_data(self, z: tf.Tensor, given: dict[str, tf.Tensor]) -> tf.Tensor:
        """Converts data with grey levels to pixels; returns real values unchanged.

        Args:
            z: the last state of a run, `[B, *data_shape]`.
            given: see `DenoiserModel.to_data`.
        """
        return z if self.grey_levels is None else super().to_data(z, given)

    def density_terms(self, x: tf.Tensor, cond: Condition, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the terms of a bound on -log p(x) for real values x.

        Args:
            x: data `[B, *data_shape]`.
            cond: the encoded condition, or None.
            seed: an int32 pair.

        Returns:
            `reconstruction`, `prior` and `denoising`, `[B]` each, in nats.
        """
        return self._bound(x, cond, split(seed, 3), grey_levels=None)

    def _bound(
        self,
        x: tf.Tensor,
        cond: Condition,
        seeds: Sequence[tf.Tensor],
        grey_levels: int | None,
        training: bool = False,
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of the bound for discrete data; for real values, without grey levels.

        Args:
            x: data `[B, *data_shape]`.
            cond: the encoded condition, or None.
            seeds: int32 pairs of the times, of the noise and of the reconstruction term.
            grey_levels: number of values of a pixel, or None for real values.
            training: whether layers such as dropout are active.
        """
        if grey_levels is not None:
            step = 2 / (grey_levels - 1)
            x = step * tf.round((x + 1) / step) - 1
        return {
            "reconstruction": reconstruction_term(self.process, x, seeds[2], grey_levels),
            "prior": prior_term(self.process, x),
            "denoising": self.denoiser.loss(
                x,
                cond,
                seeds[:2],
                weighting="elbo",
                times=self.bound_times,
                training=training,
            ),
        }

    def export_functions(
        self, solver: Solver | Plan | SolverName | None = None, num_probes: int = 1, **options: Any
    ) -> tuple[dict[str, Any], list[Any]]:
        """Returns the functions of a SavedModel, and the resources that they use.

        They are the functions of `kgen.serving.denoising.sampling`, and
        `log_likelihood(images[, labels or prompts], seed)`, which returns nats `[B]`.

        Args:
            solver: the solver, its name or a plan; None for the default of the model.
            num_probes: number of random vectors with which the log-likelihood is estimated.
            **options: options of `kgen.serving.denoising.sampling`.
        """
        from kgen.serving import denoising as serving

        functions, resources = serving.sampling(self, solver, **options)
        functions["log_likelihood"] = serving.log_likelihood(self, num_probes)
        return functions, resources
