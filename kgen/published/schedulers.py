"""Published schedulers: their noise schedule, solver and times, and the start and end of a run.

A published "scheduler" combines a noise schedule, a solver and a grid of times. Its times are the
timestep indices i = 0 ... T - 1 (T = 1000; t = i / (T - 1)). In N steps the network is evaluated at

    spacing      DDIM, PNDM, Euler                     DPM-Solver++, UniPC
    "leading"    k floor(T / N) + offset, k < N        k floor(T / (N + 1)) + offset, 0 < k <= N
    "linspace"   linspace(0, T - 1, N)                 linspace(0, T - 1, N + 1), without 0
    "trailing"   T - k T / N - 1, k < N                the same
    Karras       -                                     N indices from the first to the last one

in decreasing order, rounded except for Euler with "linspace". With Karras' grid, the network of
DPM-Solver++ receives the nearest integer index. A run ends with

    "x_hat"   the estimate of the data at the last index (the final sigma is zero); or
    "state"   the state at index 0, which DDIM and PNDM take for the data
              (`set_alpha_to_one` is false)

so that N steps are N evaluations; without a published scheduler, `generate` makes N steps and an
additional evaluation. Sampling starts at noise of unit variance. Euler with "linspace" or
"trailing" multiplies it by sigma of the first index, as if the state had no signal.

A run differs from the published one, with a warning, for solvers and options that kgen does not
have (a similar one is used), and for DDIM and DDPM with "linspace", or with "trailing" if N does
not divide T. In these cases the published code makes steps of floor(T / N) indices, which do not
end at the index of the next evaluation; the steps of kgen do.

References:
  Lin et al. (2023), https://arxiv.org/abs/2305.08891, table 2 (the spacings).
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, eq. 5.
"""

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers import DDIM, PNDM, Ancestral, ClippedDDIM, DPMSolver, Solver, UniPC, solve
from kgen.types import Denoise, Prediction, TensorLike

SPACINGS = ("leading", "linspace", "trailing")
ENDS = ("x_hat", "state")
RHO = 7.0  # exponent of Karras' grid


@serializable
@dataclasses.dataclass(frozen=True)
class PublishedSteps:
    """The sampling of a published pipeline from noise to data, a plan (`kgen.sampling.plan`).

    Args:
        solver: a `kgen.solvers.Solver`.
        schedule: the `DiscreteBeta` noise schedule.
        spacing: `"leading"`, `"linspace"` or `"trailing"`.
        offset: number that is added to the indices of `"leading"`.
        inner: whether the grid has N + 1 indices, of which the last is left out.
        rounded: whether indices are rounded.
        karras: whether to use Karras' grid.
        end: `"x_hat"` or `"state"`.
        scaled: whether the initial noise is multiplied by sigma.
        clip: None, or the bound to which the final estimate is clipped.
        strides: whether the published code makes steps of floor(T / N) indices for every spacing.

    Raises:
        ValueError: if `spacing` or `end` is unknown.

    Example:
        >>> steps = PublishedSteps(DDIM(), DiscreteBeta(), offset=1, end="state")
        >>> (999 * steps.times(4)).numpy().round(3).tolist()
        [751.0, 501.0, 251.0, 1.0, 0.0]
    """

    solver: Solver
    schedule: DiscreteBeta
    spacing: str = "leading"
    offset: int = 0
    inner: bool = False
    rounded: bool = True
    karras: bool = False
    end: str = "x_hat"
    scaled: bool = False
    clip: float | None = None
    strides: bool = False

    def __post_init__(self) -> None:
        check_one_of("spacing", self.spacing, SPACINGS)
        check_one_of("end", self.end, ENDS)

    @property
    def noise_index(self) -> LevelIndex:
        """The function from the log-SNR to the timestep index that the network receives."""
        return LevelIndex(self.schedule, rounding=self.karras and self.rounded)

    def check(self, num_steps: int) -> None:
        """Validates a number of steps, and warns if the run differs from the published one.

        Raises:
            TypeError: if `num_steps` is not a number.
            ValueError: if `num_steps` is not an integer in 1 ... T.
        """
        timesteps = self.timesteps(num_steps).numpy()
        stride = self.schedule.num_levels // num_steps
        if self.strides and (timesteps[:-1] - timesteps[1:] != stride).any():
            warnings.warn(
                f"A run of {num_steps} steps with {self.spacing!r} spacing differs from the "
                f"published one, which makes steps of {stride} timesteps; the steps of kgen end at "
                "the next evaluation.",
                stacklevel=4,
            )

    def timesteps(self, num_steps: int | tf.Tensor) -> tf.Tensor:
        """Returns the timestep indices of the evaluations, decreasing, float64 `[num_steps]`.

        Args:
            num_steps: number of steps N, an integer or an int32 scalar tensor.

        Raises:
            TypeError: if `num_steps` is not a number.
            ValueError: if `num_steps` is not an integer in 1 ... T; a tensor is not checked.
        """
        total = self.schedule.num_levels
        if not tf.is_tensor(num_steps):
            check_count("num_steps", num_steps)
            check_interval("num_steps", num_steps, f"[1, {total}]")
        count = tf.cast(num_steps, tf.int32)
        wide = tf.cast(count, tf.float64)
        k = tf.cast(tf.range(count), tf.float64)[::-1]
        if self.karras:
            return self._karras(k, wide)
        if self.spacing == "leading":
            more = 1 if self.inner else 0
            ratio = tf.cast(total // (count + more), tf.float64)
            return (k + more) * ratio + self.offset
        if self.spacing == "trailing":
            back = tf.cast(tf.range(count), tf.float64)
            return tf.round(total - back * total / wide) - 1
        if self.inner:
            return self._rounded((k + 1) * (total - 1) / wide)
        return self._rounded(k * (total - 1) / tf.maximum(wide - 1, 1))

    def times(self, num_steps: int | tf.Tensor, strength: TensorLike | None = None) -> tf.Tensor:
        """Returns the times of a run, from the first evaluation to the end of the last step.

        Args:
            num_steps: number of steps N, an integer or an int32 scalar tensor.
            strength: None, or the fraction of the steps in (0, 1] that is made, the last ones, when
                sampling starts from a picture; a number or a scalar tensor.

        Returns:
            Decreasing times, float64: N if the run ends with an estimate, else N + 1; with a
            strength, accordingly fewer.
        """
        timesteps = self.timesteps(num_steps)
        if strength is not None:
            # The product may be slightly too small, since a strength is float32.
            kept = tf.floor(tf.cast(num_steps, tf.float64) * tf.cast(strength, tf.float64) + 1e-4)
            timesteps = timesteps[tf.size(timesteps) - tf.maximum(tf.cast(kept, tf.int32), 1) :]
        if self.end == "state":
            timesteps = tf.concat([timesteps, tf.zeros([1], tf.float64)], 0)
        return timesteps / (self.schedule.num_levels - 1)

    def start(self, noise: tf.Tensor, times: tf.Tensor, x: tf.Tensor | None = None) -> tf.Tensor:
        """Returns the state at `times[0]`.

        Args:
            noise: standard normal noise, `[B, ...]`.
            times: the output of `times`.
            x: None, or the examples from which sampling starts, `[B, ...]`.
        """
        alpha, sigma = GaussianDiffusion(self.schedule).alpha_sigma(tf.cast(times[0], noise.dtype))
        if x is not None:
            return alpha * x + sigma * noise
        return sigma * noise if self.scaled else noise

    def from_noise(self, noise: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        """Returns the state at `times[0]` of standard normal noise `[B, ...]` from a user."""
        return self.start(noise, times)

    def finish(self, denoise: Denoise, z: tf.Tensor, times: tf.Tensor) -> tf.Tensor:
        """Returns the data `[B, ...]` of the state at `times[-1]`.

        Args:
            denoise: a function of `z` and `t` that returns `x_hat`.
            z: the state, `[B, ...]`.
            times: the output of `times`.
        """
        if self.end == "state":
            return z
        x = denoise(z, tf.cast(times[-1], z.dtype))
        return x if self.clip is None else tf.clip_by_value(x, -self.clip, self.clip)

    def _rounded(self, timesteps: tf.Tensor) -> tf.Tensor:
        return tf.round(timesteps) if self.rounded else timesteps

    def _karras(self, k: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        """Returns the indices of N sigmas whose seventh roots are equally spaced."""
        ratios = self.schedule.ratios
        low, high = ratios[0] ** (1 / RHO), ratios[-1] ** (1 / RHO)
        share = k / tf.maximum(count - 1, 1)
        share = tf.where(count == 1, tf.ones_like(share), share)
        ratio = (low + share * (high - low)) ** RHO
        return self.schedule.index(-2 * tf.math.log(ratio))


def run(
    steps: PublishedSteps,
    denoise: Denoise,
    noise: tf.Tensor,
    num_steps: int | tf.Tensor,
    *,
    seed: tf.Tensor | None = None,
) -> tf.Tensor:
    """Runs a published pipeline from noise to data, without a model.

    Args:
        steps: a `PublishedSteps`.
        denoise: a function of `z` and `t` that returns `x_hat`.
        noise: standard normal noise, `[B, ...]`.
        num_steps: number of steps.
        seed: an int32 pair for stochastic solvers.

    Returns:
        The data, `[B, ...]`.
    """
    times = steps.times(num_steps)
    process = GaussianDiffusion(steps.schedule)
    z = solve(steps.solver, denoise, process, steps.start(noise, times), times, seed)
    return steps.finish(denoise, z, times)


# The default values of the options of each class.
_BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}
_COMMON = {
    **_BETAS,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "prediction_type": "epsilon",
    "rescale_betas_zero_snr": False,
    "steps_offset": 0,
    "timestep_spacing": "leading",
}
_CLIP = {"clip_sample": True, "clip_sample_range": 1.0, "thresholding": False}
_SIGMAS = {
    "final_sigmas_type": "zero",
    "timestep_spacing": "linspace",
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_flow_sigmas": False,
}
_EULER = {**_COMMON, **_SIGMAS, "interpolation_type": "linear"}
_DPM = {
    **_COMMON,
    **_SIGMAS,
    "thresholding": False,
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "midpoint",
    "use_lu_lambdas": False,
}
DEFAULTS = {
    "DDIMScheduler": {**_COMMON, **_CLIP, "set_alpha_to_one": True},
    "DDPMScheduler": {**_COMMON, **_CLIP, "variance_type": "fixed_small"},
    "PNDMScheduler": {**_COMMON, "set_alpha_to_one": False, "skip_prk_steps": False},
    "EulerDiscreteScheduler": _EULER,
    "EulerAncestralDiscreteScheduler": _EULER,
    "DPMSolverMultistepScheduler": _DPM,
    "UniPCMultistepScheduler": {**_DPM, "solver_type": "bh2", "predict_x0": True},
    # Replaced by DDIM with the same spacing, with a warning.
    "HeunDiscreteScheduler": {**_EULER, "beta_start": 0.00085, "beta_end": 0.012},
    "LMSDiscreteScheduler": _EULER,
    "KDPM2DiscreteScheduler": {**_EULER, "beta_start": 0.00085, "beta_end": 0.012},
    "KDPM2AncestralDiscreteScheduler": {**_EULER, "beta_start": 0.00085, "beta_end": 0.012},
    "DPMSolverSinglestepScheduler": _DPM,
    "DEISMultistepScheduler": {**_DPM, "algorithm_type": "deis", "solver_type": "logrho"},
    "DPMSolverSDEScheduler": {**_EULER, "beta_start": 0.00085, "beta_end": 0.012},
    "SASolverScheduler": _DPM,
}
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x"}
SCHEDULES = {
    "linear": "linear",
    "scaled_linear": "scaled_linear",
    "squaredcos_cap_v2": "squaredcos",
}


def read_scheduler(config: dict, source: object) -> tuple[PublishedSteps, str]:
    """Reads the configuration of a scheduler.

    Args:
        config: the content of `scheduler_config.json`.
        source: the file, for messages.

    Returns:
        The plan of sampling, and the prediction type of the network: `"eps"`, `"v"` or `"x"`.

    Raises:
        ValueError: if the class is unknown, or kgen does not support an option on which the
            training of the network depends.

    Example:
        >>> steps, prediction = read_scheduler(
        ...     {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear",
        ...      "beta_start": 0.00085, "beta_end": 0.012, "clip_sample": False,
        ...      "set_alpha_to_one": False, "steps_offset": 1}, "scheduler_config.json")
        >>> steps.solver, steps.end, prediction
        (DDIM(grid='log_snr', eta=0.0), 'state', 'eps')
    """
    name = config.get("_class_name")
    if name not in DEFAULTS:
        raise ValueError(
            f"{source} must be of one of {', '.join(sorted(DEFAULTS))}. Received: {name!r}."
        )
    config = DEFAULTS[name] | {key: v for key, v in config.items() if key in DEFAULTS[name]}
    schedule = _schedule(config, source)
    prediction = _choose(config, "prediction_type", PREDICTIONS, source)
    spacing = _choose(config, "timestep_spacing", {s: s for s in SPACINGS}, source)
    offset = config["steps_offset"]
    if type(offset) is not int or not 0 <= offset < schedule.num_levels:
        raise ValueError(
            f"{source} must have an integer of at least 0 as 'steps_offset'. Received: {offset!r}."
        )
    kind = _KINDS.get(name, _nearest)
    options, unsupported = kind(name, config, prediction, spacing)
    for key in ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"):
        if config.get(key):
            unsupported.append(f"{key}={config[key]!r}")
    steps = PublishedSteps(schedule=schedule, spacing=spacing, offset=offset, **options)
    if unsupported:
        warnings.warn(
            f"{source} asks for {', '.join(unsupported)} of {name}, which kgen does not have. "
            f"{steps.solver!r} with the same spacing is used instead.",
            stacklevel=2,
        )
    return steps, prediction


def _schedule(config: dict[str, Any], source: object) -> DiscreteBeta:
    """Returns the noise schedule of a configuration."""
    kind = _choose(config, "beta_schedule", SCHEDULES, source)
    if config["trained_betas"] is not None:
        raise ValueError(f"{source} must have null as 'trained_betas'. Received: a value.")
    try:
        return DiscreteBeta(
            kind,
            config["beta_start"],
            config["beta_end"],
            config["num_train_timesteps"],
            bool(config["rescale_betas_zero_snr"]),
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{source} does not describe a valid noise schedule: {error}") from error


def _choose(config: dict[str, Any], key: str, allowed: Mapping[str, str], source: object) -> str:
    """Returns kgen's name of the value of an option, after a check that the value is allowed."""
    value = config[key]
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{source} must have one of {sorted(allowed)} as {key!r}. Received: {value!r}."
        )
    return allowed[value]


def _ddim(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    end = "x_hat" if config["set_alpha_to_one"] else "state"
    options = {"solver": DDIM(), "end": end, "strides": True}
    if config["clip_sample"]:
        bound = float(config["clip_sample_range"])
        options |= {"solver": ClippedDDIM(bound), "clip": bound}
    return options, []


def _ddpm(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    """Returns the options of ancestral sampling, whose last step is the estimate x_hat."""
    kind = config["variance_type"]
    variances = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
    unsupported = [] if kind in variances else [f"variance_type={kind!r}"]
    clip = float(config["clip_sample_range"]) if config["clip_sample"] else None
    solver = Ancestral(variances.get(kind, "small"), clip)
    return {"solver": solver, "clip": clip, "strides": True}, unsupported


def _pndm(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    unsupported = [] if config["skip_prk_steps"] else ["skip_prk_steps=False"]
    solver = PNDM("v" if prediction == "v" else "eps")
    if spacing != "leading" or prediction == "x":
        unsupported, solver = [*unsupported, f"timestep_spacing={spacing!r}"], DDIM()
    return {
        "solver": solver,
        "end": "x_hat" if config["set_alpha_to_one"] else "state",
    }, unsupported


def _sigmas(
    config: dict[str, Any], solver: Solver, **options: Any
) -> tuple[dict[str, Any], list[str]]:
    unsupported = []
    if config["final_sigmas_type"] != "zero":
        unsupported.append(f"final_sigmas_type={config['final_sigmas_type']!r}")
    return {"solver": solver, "karras": bool(config["use_karras_sigmas"]), **options}, unsupported


def _euler(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    ancestral = name == "EulerAncestralDiscreteScheduler"
    options, unsupported = _sigmas(
        config,
        DDIM(eta=1.0 if ancestral else 0.0),
        rounded=spacing != "linspace",
        scaled=spacing != "leading",
    )
    if config["interpolation_type"] != "linear":
        unsupported.append(f"interpolation_type={config['interpolation_type']!r}")
    if options["karras"]:
        options["rounded"] = False
        if spacing == "leading":
            unsupported.append("use_karras_sigmas=True with timestep_spacing='leading'")
            options["karras"] = False
    return options, unsupported


def _dpm(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    stochastic = config["algorithm_type"] == "sde-dpmsolver++"
    unsupported = []
    if not stochastic and config["algorithm_type"] != "dpmsolver++":
        unsupported.append(f"algorithm_type={config['algorithm_type']!r}")
    if config["solver_type"] != "midpoint":
        unsupported.append(f"solver_type={config['solver_type']!r}")
    if config["solver_order"] not in (1, 2):
        unsupported.append(f"solver_order={config['solver_order']!r}")
    if config["use_lu_lambdas"]:
        unsupported.append("use_lu_lambdas=True")
    order = 1 if config["solver_order"] == 1 else 2
    options, more = _sigmas(config, DPMSolver(order, sde=stochastic), inner=True)
    return options, unsupported + more


def _unipc(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    unsupported = []
    if config["solver_type"] != "bh2":
        unsupported.append(f"solver_type={config['solver_type']!r}")
    if config["solver_order"] not in (1, 2):
        unsupported.append(f"solver_order={config['solver_order']!r}")
    if not config["predict_x0"]:
        unsupported.append("predict_x0=False")
    order = 1 if config["solver_order"] == 1 else 2
    options, more = _sigmas(config, UniPC(order), inner=True)
    return options, unsupported + more


def _nearest(
    name: str, config: dict[str, Any], prediction: Prediction, spacing: str
) -> tuple[dict[str, Any], list[str]]:
    options, unsupported = _euler(
        name, {"interpolation_type": "linear", **config}, prediction, spacing
    )
    return options, ["the method", *unsupported]


_KINDS = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
}
