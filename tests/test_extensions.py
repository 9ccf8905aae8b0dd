"""Parts written outside of the package, a file each, go through a whole life of a model.

A solver, a schedule, a guidance, a conditioner, a network and a prediction type: each trains,
draws, is saved and loaded, and is exported, with nothing in kgen that knows of it.
"""

import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Conditioner, Labels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, NoiseSchedule, prediction, time_grid
from kgen.networks import TimeMLP
from kgen.serialization import serializable
from kgen.solvers import Solver, solve


@serializable
@dataclasses.dataclass(frozen=True)
class Midpoint(Solver):
    """The midpoint rule of d(z / sigma) / dl = exp(l) x_hat, l = log(alpha / sigma)."""

    order = 2

    def nfe(self, num_steps):
        return 2 * num_steps

    def step(self, denoise, process, z, t, s, index, memory, seed):
        start, end = process.log_snr(t) / 2, process.log_snr(s) / 2
        middle = process.schedule.time(start + end)
        sigma_t, sigma_m, sigma_s = (process.alpha_sigma(v)[1] for v in (t, middle, s))
        h = end - start
        half = sigma_m * (z / sigma_t + h / 2 * tf.exp(start) * denoise(z, t))
        slope = tf.exp((start + end) / 2) * denoise(half, middle)
        return sigma_s * (z / sigma_t + h * slope), memory


@serializable
@dataclasses.dataclass(frozen=True)
class Quadratic(NoiseSchedule):
    """log-SNR that falls as (t + t^2) / 2."""

    log_snr_max: float = 8.0
    log_snr_min: float = -8.0

    def log_snr(self, t):
        t = tf.convert_to_tensor(t)
        return self.log_snr_max - (self.log_snr_max - self.log_snr_min) * (t + t**2) / 2

    def time(self, log_snr):
        share = (self.log_snr_max - log_snr) / (self.log_snr_max - self.log_snr_min)
        return (tf.sqrt(1 + 8 * share) - 1) / 2


def early(denoise, cond, null_cond, scale):
    """Guidance: classifier-free, with a scale that fades to 1 toward the data."""

    def guided(z, t):
        s = 1 + (scale - 1) * tf.cast(t, z.dtype)
        return (1 - s) * denoise(z, t, null_cond) + s * denoise(z, t, cond)

    return guided


@serializable
class Hours(Conditioner):
    """The hour of a day, on a circle; names of hours, too."""

    batch_key = "hours"

    def __init__(self, width=4, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.kernel = self.add_weight(shape=(2, width), name="kernel")
        self.built = True

    def prepare(self, values):
        if not tf.is_tensor(values):
            names = {"noon": 12.0, "midnight": 0.0}
            values = [names.get(v, v) for v in values]
        return tf.cast(values, tf.float32)

    def call(self, rows, training=False):
        angle = rows * (2 * np.pi / 24)
        return {"pooled": tf.stack([tf.cos(angle), tf.sin(angle)], -1) @ self.kernel}

    def null(self, batch_size):
        return {"pooled": tf.zeros([batch_size, self.width])}

    def signature(self, form=None):
        return {"hours": tf.TensorSpec([None], tf.float32, "hours")}


@serializable
class Plain(keras.Model):
    """A network of two layers, without any base of kgen."""

    data_shape = (2,)

    def __init__(self, width=16, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.hidden = keras.layers.Dense(width, "swish")
        self.last = keras.layers.Dense(2)

    def call(self, z, log_snr, cond=None, training=False):
        features = [z, log_snr[:, None] / 8]
        if cond is not None:
            features.append(cond["pooled"])
        return self.last(self.hidden(tf.concat(features, -1)))


def parts(kind):
    """What a model is made of, one part from outside, and options of drawing and exporting."""
    process = GaussianDiffusion(Quadratic() if kind == "schedule" else CosineLogSNR(8.0, -8.0))
    conditioner = Hours() if kind == "conditioner" else Labels(3, 4)
    network = Plain() if kind == "network" else TimeMLP(2, width=16, blocks=1, pooled=4)
    options = {"conditioner": conditioner, "grey_levels": None, "seed": 0, "ema_decay": 0.5}
    options["weighting"] = "snr_plus_one"
    if kind == "network":
        options["data_shape"] = (2,)
    if kind == "prediction":
        options["prediction"] = "sum"
    draw = {"num_steps": 4, "seed": 1, "guidance_scale": 2.0}
    exported = {}
    if kind == "solver":
        draw["solver"] = exported["solver"] = Midpoint()
    if kind == "guidance":
        draw["guidance"] = exported["guidance"] = early
    return network, process, options, draw, exported


@pytest.fixture
def sum_of_both(monkeypatch):
    """A prediction type is a row: the network says 2 eps - x."""
    monkeypatch.setitem(prediction.PREDICTION_TYPES, "sum", lambda alpha, sigma: (-1.0, 2.0))


@pytest.mark.parametrize(
    "kind", ["solver", "schedule", "guidance", "conditioner", "network", "prediction"]
)
@pytest.mark.usefixtures("sum_of_both")
def test_a_part_from_outside_lives_a_whole_life(kind, tmp_path):
    keras.utils.set_random_seed(0)
    network, process, options, draw, exported = parts(kind)
    model = kgen.DiffusionModel(network, process, **options)
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 240)
    x = np.stack([2.0 * classes - 2, 0.5 * classes], 1) + 0.2 * rng.normal(size=(240, 2))
    given = 8 * classes if kind == "conditioner" else classes
    data = {"images": x.astype("float32"), model.conditioner.batch_key: given}
    model.compile(keras.optimizers.Adam(1e-2))
    history = model.fit(data, epochs=6, batch_size=24, verbose=0).history
    assert history["loss"][-1] < history["loss"][0]

    condition = ["noon", 3.5, "midnight"] if kind == "conditioner" else [2, 0, 1]
    expected = model.generate(condition, **draw)
    assert np.isfinite(expected).all()
    assert np.abs(model.generate(condition[::-1], **draw) - expected[::-1]).max() > 1e-3

    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again.generate(condition, **draw), expected, atol=1e-5)
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    again = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(again.generate(condition, **draw), expected, atol=1e-4)

    kgen.export_saved_model(model, tmp_path / "export", **exported)
    loaded = tf.saved_model.load(str(tmp_path / "export"))
    numbers = [12.0, 3.5, 0.0] if kind == "conditioner" else condition
    drawn = loaded.generate(tf.constant(numbers), tf.constant(4), tf.constant(2.0), [1, 0])
    np.testing.assert_allclose(drawn["images"], expected, atol=1e-4)


def test_the_solver_has_its_order(mixture_data):
    """The rule from outside goes through the one loop, with an error of the second order."""
    process = GaussianDiffusion(Quadratic(6.0, -6.0))
    z = tf.constant(np.random.default_rng(0).normal(size=(12, 2)))
    ends = [
        [v.numpy() for v in process.alpha_sigma(tf.constant(t, tf.float64))] for t in (1.0, 0.0)
    ]
    exact, denoise, steps = mixture_data.flow(z, *ends), mixture_data.denoise(process), [64, 256]
    errors = []
    for num_steps in steps:
        times = time_grid(process, num_steps, dtype="float64")
        found = tf.function(solve)(Midpoint(), denoise, process, z, times)
        errors.append(np.sqrt(np.mean((found - exact) ** 2)))
    order = np.log(errors[0] / errors[1]) / np.log(4)
    assert order == pytest.approx(Midpoint.order, abs=0.2)


def test_the_schedule_is_one():
    """Decreasing between its ends, its own inverse, with a slope by automatic differentiation."""
    schedule, t = Quadratic(8.0, -6.0), np.linspace(0, 1, 11)
    level = schedule.log_snr(t).numpy()
    assert (level[0], level[-1]) == (8.0, -6.0)
    np.testing.assert_allclose(schedule.time(level), t, atol=1e-12)
    np.testing.assert_allclose(schedule.slope(t), -14 * (1 + 2 * t) / 2)


@pytest.mark.usefixtures("sum_of_both")
def test_the_row_converts():
    """2 eps - x and alpha x + sigma eps, solved by hand for x and eps."""
    alpha, sigma, x, eps = 0.6, 0.8, 1.5, -0.5
    z, output = alpha * x + sigma * eps, 2 * eps - x
    assert prediction.to_x("sum", output, z, alpha, sigma) == pytest.approx(x)
    assert prediction.to_eps("sum", output, z, alpha, sigma) == pytest.approx(eps)
