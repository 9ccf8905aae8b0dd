"""Measures of generative models: of generated pictures by their features, of codes, of likelihoods.

A figure depends on the feature extractor, the number of samples and the sampler: report all three.
"""

from kgen.metrics.active_units import active_units
from kgen.metrics.bits_per_dim import bits_per_dim
from kgen.metrics.efficientnet import efficientnet_lite0, perceptual_features
from kgen.metrics.features import extract
from kgen.metrics.frechet import frechet_distance, kernel_distance
from kgen.metrics.precision_recall import precision_recall
from kgen.metrics.retrieval import retrieval_ranks

__all__ = [
    "active_units",
    "bits_per_dim",
    "efficientnet_lite0",
    "extract",
    "frechet_distance",
    "kernel_distance",
    "perceptual_features",
    "precision_recall",
    "retrieval_ranks",
]
