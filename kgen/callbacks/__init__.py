"""Callbacks that save and resume a training, draw samples, and detect failures."""

from kgen.callbacks.guard import Guard
from kgen.callbacks.posterior_collapse import PosteriorCollapse
from kgen.callbacks.resume import Resume
from kgen.callbacks.sample_grid import SampleGrid

__all__ = ["Guard", "PosteriorCollapse", "Resume", "SampleGrid"]
