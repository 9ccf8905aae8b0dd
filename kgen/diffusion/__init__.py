"""The forward process and the meaning of predictions: what all diffusion models share."""

from kgen.diffusion import prediction, timesteps, weighting
from kgen.diffusion.clock_schedules import EDMLogSNR, FlowLogSNR, PolynomialLogSNR
from kgen.diffusion.denoiser import denoiser
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.diffusion.guidance import (
    autoguidance,
    classifier_free,
    classifier_guidance,
    condition,
    dynamic_threshold,
)
from kgen.diffusion.learned_schedule import LearnedLogSNR
from kgen.diffusion.linear_beta import LinearBeta
from kgen.diffusion.process import SCALINGS, GaussianDiffusion
from kgen.diffusion.schedule import CosineLogSNR, LinearLogSNR, NoiseSchedule
from kgen.diffusion.timesteps import sample_times, time_grid

__all__ = [
    "SCALINGS",
    "CosineLogSNR",
    "DiscreteBeta",
    "EDMLogSNR",
    "FlowLogSNR",
    "GaussianDiffusion",
    "LearnedLogSNR",
    "LevelIndex",
    "LinearBeta",
    "LinearLogSNR",
    "NoiseSchedule",
    "PolynomialLogSNR",
    "autoguidance",
    "classifier_free",
    "classifier_guidance",
    "condition",
    "denoiser",
    "dynamic_threshold",
    "prediction",
    "sample_times",
    "time_grid",
    "timesteps",
    "weighting",
]
