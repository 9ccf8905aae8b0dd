"""kgen: deep generative models in Keras, from the autoencoder to text-to-image."""

from kgen import callbacks, diffusion, networks, solvers
from kgen.conditioning import TextEncoder
from kgen.export import export_saved_model
from kgen.gaussian import Gaussian, standard_normal
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.presets import from_preset

__all__ = [
    "Gaussian",
    "KLAutoencoder",
    "LatentDiffusion",
    "TextEncoder",
    "callbacks",
    "diffusion",
    "export_saved_model",
    "from_preset",
    "networks",
    "solvers",
    "standard_normal",
]
