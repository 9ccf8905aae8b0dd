"""kgen: deep generative models in Keras, from the autoencoder to text-to-image.

`import kgen` loads all public names; they are listed in `kgen.api`. In the process of the command
(`kgen ...` or `python -m kgen ...`) they are loaded when the first of them is used, so that
`kgen --help` does not wait for TensorFlow.
"""

import importlib
import pathlib
import sys

<<<<<<< HEAD
from kgen import (
    callbacks,
    conditioning,
    corruption,
    data,
    diffusion,
    distribution,
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
from kgen.models.hvae import HVAE
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.models.levels import GaussianLevel
from kgen.models.score_model import ScoreModel
from kgen.models.vae import VAE
from kgen.models.variational_dequantization import VariationalDequantization
from kgen.models.vqvae import VQVAE
from kgen.presets import from_preset
from kgen.published.opening import from_diffusers, to_diffusers
from kgen.sampling import editing

__all__ = [
    "HVAE",
    "VAE",
    "VQVAE",
    "Autoencoder",
    "DiffusionModel",
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
    "export_saved_model",
    "from_diffusers",
    "from_preset",
    "likelihoods",
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
=======

def _runs_the_command():
    """Whether this process was started as `kgen ...` or `python -m kgen ...`."""
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-m":  # while Python looks for the module
        return sys.orig_argv[-len(argv)].removeprefix("-m") == "kgen"
    return pathlib.Path(argv[0]).stem == "kgen"


if _runs_the_command():

    def __getattr__(name):
        return getattr(importlib.import_module("kgen.api"), name)

else:
    from kgen.api import *  # noqa: F403
    from kgen.api import __all__ as __all__
>>>>>>> hands
