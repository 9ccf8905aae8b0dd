"""Published schedulers: which noise schedule, which solver, at which times, from where to where.

A published "scheduler" is kgen's noise schedule, solver and grid of times in one. Its times count
levels i = 0 ... T - 1 (T = 1000; t = i / (T - 1)); N steps evaluate the network at

    spacing      DDIM, PNDM, Euler                     DPM-Solver++, UniPC
    "leading"    k floor(T / N) + offset, k < N        k floor(T / (N + 1)) + offset, 0 < k <= N
    "linspace"   linspace(0, T - 1, N)                 linspace(0, T - 1, N + 1), 0 left out
    "trailing"   T - k T / N - 1, k < N                the same
    Karras       -                                     N levels between the first and the last one

in falling order, rounded but for Euler with "linspace". Of Karras' levels the network of
DPM-Solver++ is given the nearest index. What follows the last evaluation is either

    "x_hat"   the estimate of the data itself: sigma is zero at last; or
    "state"   the state at level 0, whose signal DDIM and PNDM take for the data
              (`set_alpha_to_one` false)

so that N evaluations make N steps; kgen's own `generate` makes N steps and an estimate. Sampling
begins at noise of unit variance, but Euler with "linspace" or "trailing" scales it by sigma of its
first level, as if there were no signal in it.

Not the published run, and therefore with a warning: solvers and options that kgen does not have
(the nearest one is taken), and DDIM and DDPM with "linspace", or with "trailing" where N does not
divide T. There the published code steps by floor(T / N) levels, to beside where it evaluates next;
kgen steps to where it evaluates.

References:
  Lin et al. (2023), https://arxiv.org/abs/2305.08891, table 2 (the spacings).
  Karras et al. (2022), https://arxiv.org/abs/2206.00364, eq. 5.
"""

import dataclasses
import warnings

import tensorflow as tf

from kgen.checks import check_count, check_interval, check_one_of
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers import DDIM, PNDM, Ancestral, ClippedDDIM, DPMSolver, Solver, UniPC, solve

SPACINGS = ("leading", "linspace", "trailing")
ENDS = ("x_hat", "state")
RHO = 7.0  # of Karras' grid


@serializable
@dataclasses.dataclass(frozen=True)
class PublishedSteps:
    """How a published pipeline gets from noise to data: a plan (`kgen.sampling.plan`).

    Args:
        solver: a kgen solver.
        schedule: the `DiscreteBeta` that it steps along.
        spacing: `"leading"`, `"linspace"` or `"trailing"`.
        offset: added to the levels of `"leading"`.
        inner: whether N + 1 levels are laid out of which the last one is left out.
        rounded: whether levels are whole numbers.
        karras: whether the levels are Karras'.
        end: `"x_hat"` or `"state"`.
        scaled: whether the noise at the start is scaled by sigma.
        clip: None, or the bound of the final estimate.
        strides: whether published code steps by floor(T / N) levels whatever the spacing.

    Raises:
        ValueError: for another `spacing` or `end`.

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

    def __post_init__(self):
        check_one_of("spacing", self.spacing, SPACINGS)
        check_one_of("end", self.end, ENDS)

    @property
    def noise_index(self):
        """What the network is given of the noise, a function of the log-SNR."""
        return LevelIndex(self.schedule, rounding=self.karras and self.rounded)

    def check(self, num_steps):
        """Checks a number of steps, and warns if the run of as many is not the published one.

        Raises:
            TypeError: if it is no integer.
            ValueError: if it is not in 1 ... T.
        """
        levels = self.levels(num_steps).numpy()
        stride = self.schedule.num_levels // num_steps
        if self.strides and (levels[:-1] - levels[1:] != stride).any():
            warnings.warn(
                f"A run of {num_steps} steps with {self.spacing!r} spacing is not the published "
                f"one, whose steps of {stride} levels end beside where it evaluates next. Here "
                "they end there.",
                stacklevel=4,
            )

    def levels(self, num_steps) -> tf.Tensor:
        """Returns the levels at which the network is evaluated, falling, float64 `[num_steps]`.

        Args:
            num_steps: N, an integer or an int32 scalar tensor.

        Raises:
            ValueError: if an integer is not in 1 ... T.
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
            return self._whole((k + 1) * (total - 1) / wide)
        return self._whole(k * (total - 1) / tf.maximum(wide - 1, 1))

    def times(self, num_steps, strength=None) -> tf.Tensor:
        """Returns the times of the steps, from the first evaluation to where the last step leads.

        Args:
            num_steps: N, an integer or an int32 scalar tensor.
            strength: None, or the share of the steps in (0, 1] that is made, the last ones, for
                sampling that begins at a picture; a number or a scalar tensor.

        Returns:
            Falling times, float64: N of them if the end is an estimate, else N + 1.
        """
        levels = self.levels(num_steps)
        if strength is not None:
            # A strength in float32 is a little less than what was meant.
            made = tf.floor(tf.cast(num_steps, tf.float64) * tf.cast(strength, tf.float64) + 1e-4)
            levels = levels[tf.size(levels) - tf.maximum(tf.cast(made, tf.int32), 1) :]
        if self.end == "state":
            levels = tf.concat([levels, tf.zeros([1], tf.float64)], 0)
        return levels / (self.schedule.num_levels - 1)

    def start(self, noise, times, x=None):
        """Returns the state at `times[0]`.

        Args:
            noise: of unit variance, `[B, ...]`.
            times: what `times` returned.
            x: None, or what to begin from, `[B, ...]`.
        """
        alpha, sigma = GaussianDiffusion(self.schedule).alpha_sigma(tf.cast(times[0], noise.dtype))
        if x is not None:
            return alpha * x + sigma * noise
        return sigma * noise if self.scaled else noise

    def from_noise(self, noise, times):
        """Returns the state at `times[0]` of noise that a user gives, of unit variance."""
        return self.start(noise, times)

    def finish(self, denoise, z, times):
        """Returns what the pipeline ends with, from the state at `times[-1]`."""
        if self.end == "state":
            return z
        x = denoise(z, tf.cast(times[-1], z.dtype))
        return x if self.clip is None else tf.clip_by_value(x, -self.clip, self.clip)

    def _whole(self, levels):
        return tf.round(levels) if self.rounded else levels

    def _karras(self, k, count):
        """Levels of N sigmas whose seventh roots are equidistant, those of the ends included."""
        ratios = self.schedule.ratios
        low, high = ratios[0] ** (1 / RHO), ratios[-1] ** (1 / RHO)
        share = k / tf.maximum(count - 1, 1)
        share = tf.where(count == 1, tf.ones_like(share), share)
        ratio = (low + share * (high - low)) ** RHO
        return self.schedule.index(-2 * tf.math.log(ratio))


def run(steps: PublishedSteps, denoise, noise, num_steps, *, seed=None):
    """Follows a published pipeline from noise to the data of the network.

    Args:
        steps: a `PublishedSteps`.
        denoise: a function of `z` and `t` that returns `x_hat`.
        noise: of unit variance, `[B, ...]`.
        num_steps: N.
        seed: an int32 pair for stochastic solvers.

    Returns:
        The result, `[B, ...]`.
    """
    times = steps.times(num_steps)
    process = GaussianDiffusion(steps.schedule)
    z = solve(steps.solver, denoise, process, steps.start(noise, times), times, seed)
    return steps.finish(denoise, z, times)


# What a configuration leaves out is as its class defines it.
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
    # Taken for DDIM of the same spacing, with a warning.
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
    """Reads a scheduler's configuration.

    Args:
        config: what `scheduler_config.json` holds.
        source: where it is from, for the messages.

    Returns:
        The steps, and what the network predicts: `"eps"`, `"v"` or `"x"`.

    Raises:
        ValueError: for an unknown class, or an option that changes what was trained and that kgen
            does not have.

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
    options, missed = kind(name, config, prediction, spacing)
    for key in ("thresholding", "use_exponential_sigmas", "use_beta_sigmas", "use_flow_sigmas"):
        if config.get(key):
            missed.append(f"{key}={config[key]!r}")
    steps = PublishedSteps(schedule=schedule, spacing=spacing, offset=offset, **options)
    if missed:
        warnings.warn(
            f"{source} asks for {', '.join(missed)} of {name}, which kgen does not have. "
            f"{steps.solver!r} takes its place, with the same spacing.",
            stacklevel=2,
        )
    return steps, prediction


def _schedule(config, source):
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
        raise ValueError(f"{source} describes no noise schedule: {error}") from error


def _choose(config, key, allowed, source):
    value = config[key]
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(
            f"{source} must have one of {sorted(allowed)} as {key!r}. Received: {value!r}."
        )
    return allowed[value]


def _ddim(name, config, prediction, spacing):
    end = "x_hat" if config["set_alpha_to_one"] else "state"
    options = {"solver": DDIM(), "end": end, "strides": True}
    if config["clip_sample"]:
        bound = float(config["clip_sample_range"])
        options |= {"solver": ClippedDDIM(bound), "clip": bound}
    return options, []


def _ddpm(name, config, prediction, spacing):
    """Ancestral sampling; its last step draws no noise and is the estimate itself."""
    kind = config["variance_type"]
    variances = {"fixed_small": "small", "fixed_small_log": "small", "fixed_large": "large"}
    missed = [] if kind in variances else [f"variance_type={kind!r}"]
    clip = float(config["clip_sample_range"]) if config["clip_sample"] else None
    solver = Ancestral(variances.get(kind, "small"), clip)
    return {"solver": solver, "clip": clip, "strides": True}, missed


def _pndm(name, config, prediction, spacing):
    missed = [] if config["skip_prk_steps"] else ["skip_prk_steps=False"]
    solver = PNDM("v" if prediction == "v" else "eps")
    if spacing != "leading" or prediction == "x":
        missed, solver = [*missed, f"timestep_spacing={spacing!r}"], DDIM()
    return {"solver": solver, "end": "x_hat" if config["set_alpha_to_one"] else "state"}, missed


def _sigmas(config, solver, **options):
    missed = []
    if config["final_sigmas_type"] != "zero":
        missed.append(f"final_sigmas_type={config['final_sigmas_type']!r}")
    return {"solver": solver, "karras": bool(config["use_karras_sigmas"]), **options}, missed


def _euler(name, config, prediction, spacing):
    ancestral = name == "EulerAncestralDiscreteScheduler"
    options, missed = _sigmas(
        config,
        DDIM(eta=1.0 if ancestral else 0.0),
        rounded=spacing != "linspace",
        scaled=spacing != "leading",
    )
    if config["interpolation_type"] != "linear":
        missed.append(f"interpolation_type={config['interpolation_type']!r}")
    if options["karras"]:
        options["rounded"] = False
        if spacing == "leading":
            missed.append("use_karras_sigmas=True with timestep_spacing='leading'")
            options["karras"] = False
    return options, missed


def _dpm(name, config, prediction, spacing):
    stochastic = config["algorithm_type"] == "sde-dpmsolver++"
    missed = []
    if not stochastic and config["algorithm_type"] != "dpmsolver++":
        missed.append(f"algorithm_type={config['algorithm_type']!r}")
    if config["solver_type"] != "midpoint":
        missed.append(f"solver_type={config['solver_type']!r}")
    if config["solver_order"] not in (1, 2):
        missed.append(f"solver_order={config['solver_order']!r}")
    if config["use_lu_lambdas"]:
        missed.append("use_lu_lambdas=True")
    order = 1 if config["solver_order"] == 1 else 2
    options, more = _sigmas(config, DPMSolver(order, sde=stochastic), inner=True)
    return options, missed + more


def _unipc(name, config, prediction, spacing):
    missed = []
    if config["solver_type"] != "bh2":
        missed.append(f"solver_type={config['solver_type']!r}")
    if config["solver_order"] not in (1, 2):
        missed.append(f"solver_order={config['solver_order']!r}")
    if not config["predict_x0"]:
        missed.append("predict_x0=False")
    order = 1 if config["solver_order"] == 1 else 2
    options, more = _sigmas(config, UniPC(order), inner=True)
    return options, missed + more


def _nearest(name, config, prediction, spacing):
    options, missed = _euler(name, {"interpolation_type": "linear", **config}, prediction, spacing)
    return options, ["the method", *missed]


_KINDS = {
    "DDIMScheduler": _ddim,
    "DDPMScheduler": _ddpm,
    "PNDMScheduler": _pndm,
    "EulerDiscreteScheduler": _euler,
    "EulerAncestralDiscreteScheduler": _euler,
    "DPMSolverMultistepScheduler": _dpm,
    "UniPCMultistepScheduler": _unipc,
}
