"""Descriptions of how to use the parts of a model, which are written as JSON.

The description of a model that denoises has these entries:

    shapes      z               shape of the noisy value of an example
                images          shape of an example
    process     scaling         alpha and sigma as functions of the log-SNR, see
                                `kgen.diffusion.process`
                log_snr_max     log-SNR at t = 0
                log_snr_min     log-SNR at t = 1
                prior_std       standard deviation of z at t = 1, where sampling starts
    sampling    order           order of the multistep solver `DPMSolver`; order 1 is `DDIM`
                grid            quantity in which the steps have equal lengths
                num_steps       default number of steps
                log_snr         the num_steps + 1 log-SNRs at the ends of these steps, increasing
                guidance_scale  default guidance scale
    pictures    low, high       range of the values of a picture; null for other data

The last step ends at `log_snr_max`; the sample is the estimate x_hat there. The description of an
autoencoder has `shapes`, of `latents` and `images`, and `pictures`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.conditioning.conditioner import pictures_of
from kgen.likelihoods import Likelihood, is_picture
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import GenerativeModel
from kgen.sampling.plan import Plan, plan_of
from kgen.serving.signature import ExportFunction
from kgen.solvers import DDIM, DPMSolver, Solver
from kgen.types import Shape, SolverName


def sampling(
    model: DenoiserModel,
    solver: Solver | SolverName | None = None,
    size: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Returns the description of a model that denoises.

    Args:
        model: the model.
        solver: a deterministic `DPMSolver` of order 1 or 2, a deterministic `DDIM`, or the name of
            one; None for the default of the model if it is such a solver, else for `"dpm"`.
        size: `(height, width)` of the pictures, or None for the size of the training data.

    Returns:
        A dictionary that can be written as JSON; see the module.

    Raises:
        TypeError: if `size` does not hold numbers.
        ValueError: for another solver, or if the model cannot generate pictures of this size.
    """
    plan = plan_of(model.default_solver if solver is None else solver, model.process)
    if not _is_described(plan):
        if solver is not None:
            raise ValueError(
                "`solver` must be a deterministic DPMSolver of order 1 or 2, or DDIM, in an export "
                f"of parts. Received: solver={solver!r}."
            )
        plan = plan_of("dpm", model.process)
    data_shape, shape = model.shapes_of(size)
    process, num_steps = model.process, model.default_num_steps
    with model.averaged():
        log_snr = process.log_snr(plan.times(num_steps)).numpy()
        prior_std = float(process.prior(()).std)
    return {
        "shapes": {"z": list(shape), "images": list(data_shape)},
        "process": {
            "scaling": process.scaling,
            "log_snr_max": float(log_snr[-1]),
            "log_snr_min": float(log_snr[0]),
            "prior_std": prior_std,
        },
        "sampling": {
            "order": plan.solver.order,
            "grid": plan.solver.grid,
            "num_steps": num_steps,
            "log_snr": [float(value) for value in log_snr],
            "guidance_scale": float(model.default_guidance_scale),
        },
        "pictures": picture_range(model.likelihood, data_shape),
    }


def decoding(model: EncoderDecoder) -> dict[str, Any]:
    """Returns the description of an autoencoder, a dictionary that can be written as JSON."""
    return {
        "shapes": {"latents": list(model.latent_shape), "images": list(model.data_shape)},
        "pictures": picture_range(model.likelihood, model.data_shape),
    }


def picture_range(likelihood: Likelihood | None, shape: Shape) -> dict[str, float] | None:
    """Returns the range of the values of a picture, `{"low", "high"}`; None for other data.

    Args:
        likelihood: the likelihood of the model, or None.
        shape: shape of an example.
    """
    if likelihood is None or not is_picture(shape):
        return None
    return {"low": float(likelihood.low), "high": float(likelihood.high)}


def null_condition(
    model: GenerativeModel, size: Sequence[int] | None = None
) -> dict[str, list[Any]]:
    """Returns the null condition of a model with a conditioner.

    Args:
        model: the model.
        size: `(height, width)` of the pictures, or None for the size of the training data.

    Returns:
        Nested lists of numbers of shape `[1, ...]`, by the keys of the condition.
    """
    with model.averaged(), pictures_of(size):
        null = model.conditioner.null(1)
    return {key: np.asarray(value).tolist() for key, value in null.items()}


def inputs_and_outputs(function: ExportFunction) -> dict[str, Any]:
    """Returns the names, shapes and types of the inputs and outputs of a part.

    Returns:
        `{"inputs": {name: {"shape": [...], "dtype": ...}}, "outputs": {...}}`, with the inputs in
        the order of the arguments; None in a shape is the number of examples.
    """
    outputs = function.get_concrete_function().structured_outputs
    return {
        "inputs": {spec.name: _tensor(spec) for spec in function.input_signature},
        "outputs": {name: _tensor(value) for name, value in outputs.items()},
    }


def _tensor(spec: tf.TensorSpec | tf.Tensor) -> dict[str, Any]:
    return {"shape": [None, *spec.shape.as_list()[1:]], "dtype": spec.dtype.name}


def _is_described(plan: Plan) -> bool:
    """Returns whether a description has everything that a client needs to follow a plan."""
    solver = plan.solver
    if type(plan) is not Plan or solver.stochastic:
        return False
    return type(solver) is DDIM or (type(solver) is DPMSolver and solver.order <= 2)
