"""The forward process and the meaning of predictions: what all diffusion models share."""

from kgen.diffusion import prediction, timesteps, weighting
from kgen.diffusion.denoiser import denoiser
from kgen.diffusion.guidance import classifier_free, condition
from kgen.diffusion.process import SCALINGS, GaussianDiffusion
from kgen.diffusion.schedule import CosineLogSNR, LinearBeta, LinearLogSNR, NoiseSchedule
from kgen.diffusion.timesteps import sample_times, time_grid

__all__ = [
    "SCALINGS",
    "CosineLogSNR",
    "GaussianDiffusion",
    "LinearBeta",
    "LinearLogSNR",
    "NoiseSchedule",
    "classifier_free",
    "condition",
    "denoiser",
    "prediction",
    "sample_times",
    "time_grid",
    "timesteps",
    "weighting",
]
