"""Models without anything to learn: their network is the exact denoiser of known data."""

import tensorflow as tf

import kgen
from kgen.diffusion.prediction import target
from kgen.tensors import expand_to


def exact(data, process, prediction="eps", shape=(2,), model=None, **options):
    """A model (a `DiffusionModel` if None) whose network is the exact denoiser of the data."""
    denoise = data.denoise(process)

    def network(z, log_snr, cond=None, training=False):
        z = z * tf.exp(process.log_std_of(expand_to(log_snr, z)))  # shown at unit variance
        x_hat = denoise(z, process.schedule.time(log_snr))
        alpha, sigma = (expand_to(a, z) for a in process.alpha_sigma_of(log_snr))
        return target(prediction, x_hat, (z - alpha * x_hat) / sigma, alpha, sigma)

    options = {"grey_levels": None, "prediction": prediction, "seed": 0, **options}
    return (model or kgen.DiffusionModel)(network, process, data_shape=shape, **options)
