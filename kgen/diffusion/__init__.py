"""The parts of diffusion models: noise schedules, forward process, denoiser, losses, guidance."""

from kgen.diffusion import prediction, times, weighting
from kgen.diffusion.closed_form_schedules import EDMLogSNR, FlowLogSNR, PolynomialLogSNR
from kgen.diffusion.denoiser import Denoiser
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.diffusion.guidance import (
    autoguidance,
    classifier_free,
    classifier_guidance,
    clip,
    condition,
    dynamic_threshold,
)
from kgen.diffusion.learned_schedule import LearnedLogSNR
from kgen.diffusion.linear_beta import LinearBeta
from kgen.diffusion.process import SCALINGS, GaussianDiffusion
from kgen.diffusion.schedule import CosineLogSNR, LinearLogSNR, NoiseSchedule
from kgen.diffusion.times import BoundSteps, NoiseLevels, sample_times, time_grid

__all__ = [
    "SCALINGS",
    "BoundSteps",
    "CosineLogSNR",
    "Denoiser",
    "DiscreteBeta",
    "EDMLogSNR",
    "FlowLogSNR",
    "GaussianDiffusion",
    "LearnedLogSNR",
    "LevelIndex",
    "LinearBeta",
    "LinearLogSNR",
    "NoiseLevels",
    "NoiseSchedule",
    "PolynomialLogSNR",
    "autoguidance",
    "classifier_free",
    "classifier_guidance",
    "clip",
    "condition",
    "dynamic_threshold",
    "prediction",
    "sample_times",
    "time_grid",
    "times",
    "weighting",
]
