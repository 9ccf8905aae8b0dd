"""The public names of kgen: what `import kgen` provides."""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        "kgen needs the TensorFlow backend of Keras: set KERAS_BACKEND=tensorflow in the "
        f"environment, or leave it unset. Received: {keras.backend.backend()!r}."
    )

from kgen import (
    callbacks,
    conditioning,
    corruption,
    data,
    diffusion,
    distribution,
    finetuning,
    likelihoods,
    metrics,
    networks,
    penalties,
    priors,
    solvers,
)
from kgen.conditioning import TextEncoder
from kgen.density.flow import log_likelihood
from kgen.export import export_saved_model
from kgen.files.keras_files import load_model
from kgen.gaussian import Gaussian, standard_normal
from kgen.models.autoencoder import Autoencoder
from kgen.models.diffusion_model import DiffusionModel
from kgen.models.distillation import Distillation
from kgen.models.hvae import HVAE
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.models.levels import GaussianLevel
from kgen.models.score_model import ScoreModel
from kgen.models.vae import VAE
from kgen.models.variational_dequantization import VariationalDequantization
from kgen.models.vqvae import VQVAE
from kgen.preset_names import list_presets
from kgen.presets import from_preset
from kgen.published.opening import from_diffusers, to_diffusers
from kgen.sampling import editing
from kgen.serving.parts.writing import export_parts

__all__ = [
    "HVAE",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "DiffusionModel",
    "Distillation",
    "Gaussian",
    "GaussianLevel",
    "KLAutoencoder",
    "LatentDiffusion",
    "ScoreModel",
    "TextEncoder",
    "VariationalDequantization",
    "callbacks",
    "conditioning",
    "corruption",
    "data",
    "diffusion",
    "distribution",
    "editing",
    "export_parts",
    "export_saved_model",
    "finetuning",
    "from_diffusers",
    "from_preset",
    "likelihoods",
    "list_presets",
    "load_model",
    "log_likelihood",
    "metrics",
    "networks",
    "penalties",
    "priors",
    "solvers",
    "standard_normal",
    "to_diffusers",
]
