"""Published schedulers: their levels, and whole runs with guidance against the references."""

import functools
import warnings

import numpy as np
import pytest
import tensorflow as tf
from published.opened import FIXTURES, open_unet, reference, tokens

from kgen.diffusion import DiscreteBeta, GaussianDiffusion
from kgen.diffusion.discrete_beta import LevelIndex
from kgen.diffusion.prediction import to_x
from kgen.published.files import Folder
from kgen.published.schedulers import PublishedSteps, read_scheduler, run
from kgen.published.text import open_text
from kgen.solvers import DDIM, PNDM, Ancestral, ClippedDDIM, DPMSolver, UniPC, solve
from kgen.tensors import expand_to

CLASSES = {
    "ddim": "DDIMScheduler",
    "ddim_alpha_one": "DDIMScheduler",
    "ddim_unclipped": "DDIMScheduler",
    "ddim_zero_snr": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "dpm_karras": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler_leading": "EulerDiscreteScheduler",
    "euler_trailing": "EulerDiscreteScheduler",
    "pndm": "PNDMScheduler",
    "unipc": "UniPCMultistepScheduler",
}
RUNS = [(p, run) for p in ("sd1", "sd2") for run in CLASSES if not run.endswith("unclipped")]
RUNS.remove(("sd1", "ddim_zero_snr"))


def steps_of(pipeline, name):
    config = reference(pipeline)[0]["runs"][name]["config"]
    return read_scheduler({**config, "_class_name": CLASSES[name]}, "scheduler_config.json")


@pytest.mark.parametrize(
    ("pipeline", "name"), [*RUNS, ("ddpm", "ddim"), ("ddpm", "ddim_unclipped")]
)
def test_levels(pipeline, name):
    """The timesteps that the networks of the references were given, and the sigmas there."""
    described = reference(pipeline)[0]["runs"][name]
    steps, _ = steps_of(pipeline, name)
    times = steps.times(10)
    evaluated = times[:-1] if steps.end == "state" else times
    log_snr = tf.cast(steps.schedule.log_snr(evaluated), tf.float32)
    expected = list(described["timesteps"])
    if name == "pndm":
        del expected[2]  # 801 twice: called at the end of a first try, and again
    np.testing.assert_allclose(steps.noise_index(log_snr), expected, atol=1e-3)
    if "sigmas" in described:
        sigmas = tf.exp(-steps.schedule.log_snr(evaluated) / 2)
        np.testing.assert_allclose(sigmas, described["sigmas"][:-1], rtol=1e-6)


@functools.cache
def unet(pipeline, noise_index):
    network, _, _ = open_unet(FIXTURES / pipeline, noise_index)
    return tf.function(network)


@functools.cache
def conditions(pipeline):
    described, _ = reference(pipeline)
    text = open_text(Folder(FIXTURES / pipeline), xl=False)
    return tuple(text(described[key])["tokens"] for key in ("prompts", "negative_prompts"))


def guided(pipeline, steps, prediction, rescale=0.0):
    """A denoiser with guidance as the references had it: of the network's output."""
    process = GaussianDiffusion(steps.schedule)
    network = unet(pipeline, steps.noise_index)
    given, negative = map(tokens, conditions(pipeline))
    scale = reference(pipeline)[0]["guidance_scale"]

    def denoise(z, t):
        t = tf.cast(t, z.dtype)
        log_snr = tf.fill(tf.shape(z)[:1], process.log_snr(t))
        with_text, without = network(z, log_snr, given), network(z, log_snr, negative)
        output = without + scale * (with_text - without)
        if rescale:
            axes = [1, 2, 3]
            ratio = tf.math.reduce_std(with_text, axes) / tf.math.reduce_std(output, axes)
            output *= expand_to(rescale * ratio + 1 - rescale, output)
        return to_x(prediction, output, z, *process.alpha_sigma(t))

    return denoise, process


@pytest.mark.parametrize(("pipeline", "name"), RUNS)
def test_run(pipeline, name):
    """The first state and the last, in the units of the references."""
    described, arrays = reference(pipeline)
    described, expected = described["runs"][name], arrays[f"run.{name}"]
    steps, prediction = steps_of(pipeline, name)
    rescale = described.get("guidance_rescale", 0.0)
    denoise, process = guided(pipeline, steps, prediction, rescale)
    noise = tf.constant(arrays["run.noise"])
    # The gap to float64, the largest difference of two right answers, is of the same kind.
    tolerance = 5 * described["float64_differs_by"]
    received = run(steps, denoise, noise, 10)
    np.testing.assert_allclose(received, expected[-1], atol=tolerance)
    times = steps.times(10)
    if name == "unipc":
        return  # its first state is corrected before it is written down
    first = solve(steps.solver, denoise, process, steps.start(noise, times), times[:2])
    if name.startswith("euler"):  # states in the units of the signal
        first /= tf.cast(process.alpha_sigma(times[1])[0], first.dtype)
    if name == "pndm":
        return  # its first state is that of the first try
    np.testing.assert_allclose(first, expected[0], atol=tolerance)


@pytest.mark.parametrize("name", ["ddim", "dpm", "euler"])
@pytest.mark.parametrize("pipeline", ["sd1", "sd2"])
def test_run_from_a_picture(pipeline, name):
    described, arrays = reference(pipeline)
    steps, prediction = steps_of(pipeline, name)
    denoise, process = guided(pipeline, steps, prediction)
    times = steps.times(10, strength=0.6)
    assert len(times) == (7 if steps.end == "state" else 6)
    alpha, sigma = (tf.cast(a, tf.float32) for a in process.alpha_sigma(times[0]))
    z = alpha * arrays["edit.z"] + sigma * arrays["edit.noise"]
    z = solve(steps.solver, denoise, process, z, times)
    tolerance = 5 * described["runs"][name]["float64_differs_by"]
    np.testing.assert_allclose(
        steps.finish(denoise, z, times), arrays[f"edit.{name}"][-1], atol=tolerance
    )


@pytest.mark.parametrize("name", ["ddim", "ddim_unclipped"])
def test_run_of_ddpm(name):
    _, arrays = reference("ddpm")
    steps, prediction = steps_of("ddpm", name)
    network, labels, _ = open_unet(FIXTURES / "ddpm", steps.noise_index)
    process = GaussianDiffusion(steps.schedule)
    cond = {"pooled": labels(arrays["unet.labels"])}

    @tf.function
    def denoise(z, t):
        t = tf.cast(t, z.dtype)
        output = network(z, tf.fill([2], process.log_snr(t)), cond)
        return to_x(prediction, output, z, *process.alpha_sigma(t))

    states, noise = arrays[f"run.{name}"], tf.constant(arrays["run.noise"])
    # Random weights answer a difference in the sixth digit with one in the fourth after ten steps.
    spread = np.abs(states[-1]).max()
    np.testing.assert_allclose(run(steps, denoise, noise, 10), states[-1], atol=3e-4 * spread)
    if name == "ddim":
        times = steps.times(10)
        for i, before in enumerate([noise, *states[:-2]]):
            z = solve(steps.solver, denoise, process, before, times[i : i + 2])
            np.testing.assert_allclose(z, states[i], atol=1e-5)


def test_run_of_xl():
    """From prompts: two text encoders, size conditions, and zeros as the null condition."""
    described, arrays = reference("sdxl")
    config = Folder(FIXTURES / "sdxl").read_json("scheduler/scheduler_config.json")
    steps, prediction = read_scheduler(config, "scheduler_config.json")
    process, network = GaussianDiffusion(steps.schedule), unet("sdxl", steps.noise_index)
    options = {"null": "zeros", "sizes": 8, "size": (32, 32)}
    text = open_text(Folder(FIXTURES / "sdxl"), xl=True, **options)
    given, null = text(described["prompts"]), text.null(2)

    def denoise(z, t):
        t = tf.cast(t, z.dtype)
        log_snr = tf.fill([2], process.log_snr(t))
        with_text, without = network(z, log_snr, given), network(z, log_snr, null)
        output = without + described["guidance_scale"] * (with_text - without)
        return to_x(prediction, output, z, *process.alpha_sigma(t))

    received = run(steps, denoise, tf.constant(arrays["run.noise"]), 10)
    expected = arrays["run.euler"][-1]
    np.testing.assert_allclose(received, expected, atol=2e-5 * expected.std())


def test_ancestral_step_of_ddpm():
    """From level 501 to 500, of which the reference is not clipped."""
    _, arrays = reference("ddpm")
    config = Folder(FIXTURES / "ddpm").read_json("scheduler/scheduler_config.json")
    steps, prediction = read_scheduler(config, "scheduler_config.json")
    assert steps.solver == Ancestral("large", 1.0)
    network, labels, _ = open_unet(FIXTURES / "ddpm", steps.noise_index)
    process = GaussianDiffusion(steps.schedule)
    cond = {"pooled": labels(arrays["unet.labels"])}
    output = network(arrays["unet.z"], tf.fill([2], process.log_snr(np.float32(501 / 999))), cond)

    def denoise(z, t):
        return to_x(prediction, output, z, *process.alpha_sigma(t))

    z, times = tf.constant(arrays["unet.z"]), np.float32([501, 500]) / np.float32(999)
    solver = Ancestral("large")
    draws = [solve(solver, denoise, process, z, times, seed=[i, 0]) for i in range(100)]
    expected, spread = arrays["ancestral.mean"], arrays["ancestral.std"].item()
    np.testing.assert_allclose(np.std(draws, axis=0).mean(), spread, rtol=0.01)
    np.testing.assert_allclose(np.mean(draws, axis=0), expected, atol=5 * spread / 10)
    assert abs(np.mean(draws) - expected.mean()) < 4 * spread / np.sqrt(100 * expected.size)


def test_one_compiled_function_serves_every_number_of_steps():
    for pipeline, name in [*RUNS, ("ddpm", "ddim")]:
        steps, _ = steps_of(pipeline, name)
        compiled = tf.function(steps.times, input_signature=[tf.TensorSpec([], tf.int32)])
        for num_steps in (1, 7, 20, 50):
            times = steps.times(num_steps)
            np.testing.assert_allclose(compiled(tf.constant(num_steps)), times, rtol=1e-12)
            assert len(times) == num_steps + (steps.end == "state")
            assert (np.diff(times) < 0).all()
            assert times[-1] >= 0
            assert times[0] <= 1


# Published classes with what numpy makes of their formulas at N = 7, which does not divide 1000.
TIMESTEPS = {
    ("DDIMScheduler", "leading"): np.arange(7) * 142,
    ("DDIMScheduler", "linspace"): np.linspace(0, 999, 7).round(),
    ("DDIMScheduler", "trailing"): np.round(np.arange(1000, 0, -1000 / 7))[::-1] - 1,
    ("EulerDiscreteScheduler", "linspace"): np.linspace(0, 999, 7),
    ("EulerDiscreteScheduler", "leading"): np.arange(7) * 142,
    ("EulerDiscreteScheduler", "trailing"): np.arange(1000, 0, -1000 / 7).round()[::-1] - 1,
    ("DPMSolverMultistepScheduler", "linspace"): np.linspace(0, 999, 8).round()[1:],
    ("DPMSolverMultistepScheduler", "leading"): (np.arange(8) * 125)[1:],
    ("DPMSolverMultistepScheduler", "trailing"): np.arange(1000, 0, -1000 / 7).round()[::-1] - 1,
    ("UniPCMultistepScheduler", "leading"): (np.arange(8) * 125)[1:],
}


@pytest.mark.parametrize(("name", "spacing"), TIMESTEPS)
def test_timesteps_of_an_odd_number_of_steps(name, spacing):
    config = {"_class_name": name, "timestep_spacing": spacing, "steps_offset": 0}
    steps, _ = read_scheduler(config, "scheduler_config.json")
    np.testing.assert_allclose(steps.timesteps(7), TIMESTEPS[name, spacing][::-1], atol=1e-9)


def test_what_a_configuration_leaves_out_is_its_classs_own():
    """DPM-Solver++ and Euler made from the file of Stable Diffusion 1.5 are not "leading"."""
    config = Folder(FIXTURES / "sd1").read_json("scheduler/scheduler_config.json")
    steps, prediction = read_scheduler(config, "scheduler_config.json")
    assert prediction == "eps"
    assert (steps.solver, steps.spacing, steps.offset, steps.end) == (PNDM(), "leading", 1, "state")
    for name, solver in (
        ("DPMSolverMultistepScheduler", DPMSolver(2)),
        ("EulerDiscreteScheduler", DDIM()),
        ("UniPCMultistepScheduler", UniPC(2)),
    ):
        steps, _ = read_scheduler({**config, "_class_name": name}, "scheduler_config.json")
        assert (steps.solver, steps.spacing, steps.end) == (solver, "linspace", "x_hat")
    steps, _ = read_scheduler({**config, "_class_name": "EulerAncestralDiscreteScheduler"}, "")
    assert steps.solver == DDIM(eta=1.0)
    steps, _ = read_scheduler({"_class_name": "DDIMScheduler"}, "scheduler_config.json")
    assert (steps.solver, steps.end, steps.clip) == (ClippedDDIM(1.0), "x_hat", 1.0)


NEAREST = [
    ("PNDMScheduler", {}, "skip_prk_steps=False", PNDM()),
    ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "trailing"}, "spacing", DDIM()),
    ("HeunDiscreteScheduler", {}, "the method of HeunDiscreteScheduler", DDIM()),
    ("LMSDiscreteScheduler", {}, "the method", DDIM()),
    ("DPMSolverSDEScheduler", {}, "the method", DDIM()),
    ("SASolverScheduler", {}, "the method", DDIM()),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}, "solver_order=3", DPMSolver(2)),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, "solver_type='heun'", DPMSolver(2)),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver"}, "algorithm_", DPMSolver(2)),
    ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, "final_", DPMSolver(2)),
    (
        "DDPMScheduler",
        {"variance_type": "learned"},
        "variance_type='learned'",
        Ancestral(bound=1.0),
    ),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}, "solver_type='bh1'", UniPC(2)),
    ("EulerDiscreteScheduler", {"use_beta_sigmas": True}, "use_beta_sigmas=True", DDIM()),
    ("DDIMScheduler", {"thresholding": True, "clip_sample": False}, "thresholding", DDIM()),
]


@pytest.mark.parametrize(("name", "options", "message", "solver"), NEAREST)
def test_what_kgen_does_not_have_warns_once_and_takes_the_nearest(name, options, message, solver):
    with pytest.warns(UserWarning, match=message) as record:
        steps, _ = read_scheduler({"_class_name": name, **options}, "scheduler_config.json")
    assert len(record) == 1
    assert steps.solver == solver


STRIDES = [  # whether a timestep less 1000 // N is the next one, all the way
    ("DDIMScheduler", "leading", 7, True),
    ("DDIMScheduler", "linspace", 10, False),
    ("DDIMScheduler", "trailing", 10, True),
    ("DDIMScheduler", "trailing", 7, False),
    ("DDPMScheduler", "trailing", 30, False),
    ("EulerDiscreteScheduler", "linspace", 10, True),  # has sigmas of its own for its steps
    ("DPMSolverMultistepScheduler", "linspace", 7, True),
]


@pytest.mark.parametrize(("name", "spacing", "num_steps", "published"), STRIDES)
def test_steps_that_are_not_the_published_ones_warn(name, spacing, num_steps, published):
    config = {"_class_name": name, "timestep_spacing": spacing}
    steps, _ = read_scheduler(config, "scheduler_config.json")
    if published:
        steps.check(num_steps)  # a warning is an error in tests
        return
    with pytest.warns(UserWarning, match="differs from the published one"):
        steps.check(num_steps)


BAD = [
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "must be of one of"),
    ({}, "must be of one of"),
    ({"beta_schedule": "sigmoid"}, "'beta_schedule'"),
    ({"prediction_type": "flow"}, "'prediction_type'"),
    ({"timestep_spacing": "random"}, "'timestep_spacing'"),
    ({"trained_betas": [0.1, 0.2]}, "'trained_betas'"),
    ({"beta_start": -1.0}, "valid noise schedule"),
    ({"beta_end": "0.02"}, "valid noise schedule"),
    ({"num_train_timesteps": 10**9}, "valid noise schedule"),
    ({"num_train_timesteps": 1}, "valid noise schedule"),
    ({"steps_offset": -1}, "'steps_offset'"),
    ({"steps_offset": 1.5}, "'steps_offset'"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_configuration(options, message):
    config = {"_class_name": "DDIMScheduler", **options} if options else {}
    with pytest.raises(ValueError, match=message) as error:
        read_scheduler(config, "scheduler/scheduler_config.json")
    assert "scheduler/scheduler_config.json" in str(error.value)


def test_more_steps_than_levels():
    steps = PublishedSteps(DDIM(), DiscreteBeta())
    with pytest.raises(ValueError, match=r"`num_steps` must be in \[1, 1000\]"):
        steps.times(1001)


def test_nearest_index_on_karras_grid():
    """Published code rounds what it interpolates in the logarithm of sigma."""
    schedule = DiscreteBeta()
    log_sigmas, sigma = np.log(schedule.ratios), 1.2345
    expected = np.interp(np.log(sigma), log_sigmas, np.arange(1000))
    index = LevelIndex(schedule, rounding=True)(tf.constant([-2 * np.log(sigma)], tf.float32))
    assert index.numpy() == [round(expected)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert schedule.index(-2 * np.log(sigma), "log_snr").numpy() == pytest.approx(expected)
