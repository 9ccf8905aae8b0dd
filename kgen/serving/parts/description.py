"""What a client of parts needs to know beside them: a dictionary for a small JSON file.

Of a model that denoises:

    process     scaling       of alpha and sigma, by the log-SNR (`kgen.diffusion.process`)
                log_snr_max   the log-SNR at t = 0
                log_snr_min   the log-SNR at t = 1
                prior_std     standard deviation of z at t = 1, where sampling begins
    sampling    order         of the multistep solver `DPMSolver`; that of order 1 is `DDIM`
                grid          the quantity in which its steps are equally spaced
                num_steps     how many there are by default
                log_snr       the num_steps + 1 log-SNRs between which they lead
                guidance_scale    the default
    pictures    low, high     the range of the numbers of a picture; null for other data

The last state of the run is at `log_snr_max`; the result is the estimate x_hat there.
"""

import numpy as np

from kgen.conditioning.conditioner import pictures_of
from kgen.likelihoods import is_picture
from kgen.sampling.plan import Plan, plan_of
from kgen.solvers import DDIM, DPMSolver


def sampling(model, solver=None, size=None):
    """Describes how a `DenoiserModel` draws.

    Args:
        model: the model.
        solver: a deterministic `DPMSolver` of order 1 or 2 or `DDIM`, or its name; None for the
            default of the model if it is one, else `"dpm"`.
        size: None, or `(height, width)` of the pictures.

    Returns:
        A dictionary of numbers and texts.

    Raises:
        ValueError: for another solver.
    """
    plan = plan_of(model.default_solver if solver is None else solver, model.process)
    if not _known(plan):
        if solver is not None:
            raise ValueError(
                "`solver` must be a deterministic DPMSolver of order 1 or 2, or DDIM, where parts "
                f"are exported. Received: solver={solver!r}."
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


def decoding(model):
    """Describes how an autoencoder decodes, a dictionary as of `sampling`."""
    return {
        "shapes": {"latents": list(model.latent_shape), "images": list(model.data_shape)},
        "pictures": picture_range(model.likelihood, model.data_shape),
    }


def picture_range(likelihood, shape):
    """Returns the range of the numbers of a picture; None where data are no pictures."""
    if likelihood is None or not is_picture(shape):
        return None
    return {"low": float(likelihood.low), "high": float(likelihood.high)}


def null_condition(model, size=None):
    """Returns the null condition of a model, one row, as lists of numbers by their keys."""
    with model.averaged(), pictures_of(size):
        null = model.conditioner.null(1)
    return {key: np.asarray(value).tolist() for key, value in null.items()}


def inputs_and_outputs(function):
    """Describes what a part takes and returns, in the order of its arguments.

    Args:
        function: a `tf.function` with one input signature, which returns a dictionary.

    Returns:
        `{"inputs": {name: {"shape": [...], "dtype": ...}}, "outputs": ...}`; None in a shape is the
        number of examples.
    """
    outputs = function.get_concrete_function().structured_outputs
    return {
        "inputs": {spec.name: _tensor(spec) for spec in function.input_signature},
        "outputs": {name: _tensor(value) for name, value in outputs.items()},
    }


def _tensor(spec):
    return {"shape": [None, *spec.shape.as_list()[1:]], "dtype": spec.dtype.name}


def _known(plan):
    """Whether a plan is one that a client can follow by the description."""
    solver = plan.solver
    if type(plan) is not Plan or solver.stochastic:
        return False
    return type(solver) is DDIM or (type(solver) is DPMSolver and solver.order <= 2)
