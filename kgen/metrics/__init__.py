"""How good are generated pictures? Measures on the features of a named extractor.

A figure means nothing without its extractor, its sample size and its sampler: say all three.
"""

from kgen.metrics.efficientnet import efficientnet_lite0
from kgen.metrics.features import extract
from kgen.metrics.retrieval import retrieval_ranks

__all__ = ["efficientnet_lite0", "extract", "retrieval_ranks"]
