"""Data whose diffusion is known in closed form.

Each distribution is a product over the coordinates, `[D]`, so its probability flow moves every
coordinate alone and keeps the order of points: it maps quantiles to quantiles, which is an exact
solution to compare solvers with.
"""

import ctypes
import dataclasses
import gc
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.framework import ops

from kgen import distribution
from kgen.tensors import expand_to

pytest_plugins = ["small_models"]  # fixtures of small models on real pictures
collect_ignore = ["killed.py"]  # what test_kills.py runs, in processes of their own
# Two processes share the cores, and a small graph costs more to optimise than to run.
tf.config.threading.set_intra_op_parallelism_threads(1)
tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Independent one-dimensional Gaussian mixtures; all arrays are `[D, K]`."""

    weights: np.ndarray
    means: np.ndarray
    stds: np.ndarray

    def sample(self, num, seed=0):
        rng = np.random.default_rng(seed)
        num_coordinates, num_modes = self.weights.shape
        x = np.empty((num, num_coordinates))
        for d in range(num_coordinates):
            k = rng.choice(num_modes, size=num, p=self.weights[d])
            x[:, d] = rng.normal(self.means[d, k], self.stds[d, k])
        return x

    def denoise(self, process):
        """The exact E[x given z_t = z], as a function of `z` and `t`."""

        def denoise(z, t):
            weights, means, stds = (
                tf.constant(v, z.dtype) for v in (self.weights, self.means, self.stds)
            )
            alpha, sigma = (expand_to(v, z)[..., None] for v in process.alpha_sigma(t))
            var = alpha**2 * stds**2 + sigma**2
            shift = z[..., None] - alpha * means
            mode = tf.nn.softmax(tf.math.log(weights / tf.sqrt(var)) - shift**2 / (2 * var))
            return tf.reduce_sum(mode * (means + stds**2 * alpha / var * shift), axis=-1)

        return denoise

    def log_prob(self, z, alpha=1.0, sigma=0.0):
        """Log density of `alpha x + sigma eps`, nats `[B]`, in numpy."""
        std = np.sqrt(alpha**2 * self.stds**2 + sigma**2)
        shift = (np.asarray(z)[..., None] - alpha * self.means) / std
        density = self.weights * np.exp(-(shift**2) / 2) / (std * math.sqrt(2 * math.pi))
        return np.log(density.sum(-1)).sum(-1)

    def score(self, z, alpha=1.0, sigma=0.0):
        """Gradient of `log_prob`, `[B, D]`, by finite differences."""
        step = 1e-5 * np.eye(np.shape(z)[-1])
        return np.stack(
            [
                (self.log_prob(z + e, alpha, sigma) - self.log_prob(z - e, alpha, sigma)) / 2e-5
                for e in step
            ],
            axis=-1,
        )

    def flow(self, z, start, end):
        """The probability flow between two pairs (alpha, sigma), by matching quantiles."""
        level = self._tails(np.asarray(z), *start)
        low, high = np.full(np.shape(z), -1e4), np.full(np.shape(z), 1e4)
        for _ in range(100):
            middle = (low + high) / 2
            too_low = self._tails(middle, *end) < level
            low, high = np.where(too_low, middle, low), np.where(too_low, high, middle)
        return (low + high) / 2

    def _tails(self, z, alpha, sigma):
        """The distribution function F as log F - log(1 - F), precise in both tails."""
        std = np.sqrt(alpha**2 * self.stds**2 + sigma**2)
        shift = (z[..., None] - alpha * self.means) / (std * math.sqrt(2))
        erfc = np.vectorize(math.erfc)
        below, above = (self.weights * erfc(-shift)).sum(-1), (self.weights * erfc(shift)).sum(-1)
        with np.errstate(divide="ignore"):
            return np.log(below) - np.log(above)


@dataclasses.dataclass(frozen=True)
class GaussianData:
    """N(mean, std^2), arrays `[D]`."""

    mean: np.ndarray
    std: np.ndarray

    def sample(self, num, seed=0):
        return np.random.default_rng(seed).normal(self.mean, self.std, (num, len(self.mean)))

    def moments(self, alpha, sigma):
        """Mean and standard deviation of `alpha x + sigma eps`."""
        return alpha * self.mean, np.sqrt(alpha**2 * self.std**2 + sigma**2)

    def denoise(self, process):
        """The exact E[x given z_t = z], as a function of `z` and `t`."""

        def denoise(z, t):
            mean, std = tf.constant(self.mean, z.dtype), tf.constant(self.std, z.dtype)
            alpha, sigma = (expand_to(v, z) for v in process.alpha_sigma(t))
            gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
            return mean + gain * (z - alpha * mean)

        return denoise

    def log_prob(self, z, alpha=1.0, sigma=0.0):
        mean, std = self.moments(alpha, sigma)
        shift = (np.asarray(z) - mean) / std
        return (-(shift**2) / 2 - np.log(std) - math.log(2 * math.pi) / 2).sum(-1)

    def score(self, z, alpha=1.0, sigma=0.0):
        mean, std = self.moments(alpha, sigma)
        return (mean - np.asarray(z)) / std**2

    def flow(self, z, start, end):
        """The probability flow between two pairs (alpha, sigma): an affine map."""
        (mean_0, std_0), (mean_1, std_1) = self.moments(*start), self.moments(*end)
        return mean_1 + (np.asarray(z) - mean_0) * std_1 / std_0


@pytest.fixture(scope="session")
def gaussian_data():
    """A two-dimensional Gaussian with exact `denoise`, `score`, `log_prob` and `flow`."""
    return GaussianData(mean=np.array([0.7, -0.4]), std=np.array([0.5, 1.3]))


@pytest.fixture(scope="session")
def mixture_data():
    """A mixture of four Gaussians in 2-D with exact `denoise`, `score`, `log_prob` and `flow`."""
    return Mixture(
        weights=np.array([[0.3, 0.7], [0.6, 0.4]]),
        means=np.array([[-1.0, 0.8], [-0.5, 1.2]]),
        stds=np.array([[0.5, 0.4], [0.3, 0.6]]),
    )


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left_over(request):
    """Gives back, after each file of tests, what it, Keras and TensorFlow keep of its models.

    TensorFlow keeps the gradient of every `tf.custom_gradient` in a graph (that of `tf.nn.silu`,
    say) for ever, and with it the graph: 80 MB for each small U-Net that was trained.
    """
    yield
    if type(request.node) is pytest.Module:  # not a file of doctests
        for value in vars(request.module).values():
            if hasattr(value, "cache_clear"):  # models in `functools.cache`
                value.cache_clear()
    keras.utils.clear_session()
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    gc.unfreeze()
    gc.collect()
    if hasattr(ctypes.CDLL(None), "malloc_trim"):  # up to a tenth of the memory of the process
        ctypes.CDLL(None).malloc_trim(0)
    gc.freeze()  # later collections pass over what is left, the tests themselves above all


@pytest.fixture(scope="session")
def strategies():
    """The strategies of one and of two devices. TensorFlow has one set of collectives a process."""
    one = tf.config.list_logical_devices("CPU")[0].name
    return [tf.distribute.MirroredStrategy([one]), distribution.strategy()]
