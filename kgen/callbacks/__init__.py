"""Callbacks: training that can be watched and resumed."""

from kgen.callbacks.guard import Guard
from kgen.callbacks.posterior_collapse import PosteriorCollapse
from kgen.callbacks.resume import Resume
from kgen.callbacks.sample_grid import SampleGrid

__all__ = ["Guard", "PosteriorCollapse", "Resume", "SampleGrid"]
