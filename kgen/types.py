"""Names of types in annotations; shapes, units and ranges are in docstrings."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

TensorLike: TypeAlias = tf.Tensor | tf.Variable | np.ndarray | float | Sequence
"""What `tf.convert_to_tensor` accepts: a number, a nested list of numbers, an array, a tensor."""

Seed: TypeAlias = int | Sequence[int] | tf.Tensor | None
"""What `kgen.tensors.as_seed` accepts: an integer, an int32 pair, or None for a random seed."""

Shape: TypeAlias = tuple[int | None, ...]
"""A shape; a size that is not known before a call is None."""

Condition: TypeAlias = Mapping[str, tf.Tensor] | None
"""The encoded condition of a batch: named tensors `[B, ...]`, such as `"pooled"`; or None."""

Batch: TypeAlias = tf.Tensor | dict[str, tf.Tensor]
"""A batch of `fit`: examples `[B, ...]`, or a dictionary of `"images"` and one entry per input."""

Network: TypeAlias = keras.Layer | Callable[..., Any]
"""A Keras model or layer, or a function, called as `kgen.symbolic` describes."""

Denoise: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""The estimate of the clean data, `denoise(z, t) -> x_hat`."""

ConditionalDenoise: TypeAlias = Callable[[tf.Tensor, tf.Tensor, Any], tf.Tensor]
"""The estimate of the clean data given a condition, `denoise(z, t, cond) -> x_hat`."""

Guidance: TypeAlias = Callable[[ConditionalDenoise, Any, Any, TensorLike], Denoise]
"""A guidance, `guidance(denoise, cond, null_cond, scale)`."""

Memory: TypeAlias = Any
"""The memory of a multistep solver: nested tensors of fixed shapes."""

Path: TypeAlias = str | os.PathLike[str]
"""The path of a file or folder."""

Scaling: TypeAlias = Literal["vp", "ve", "sub_vp", "flow"]
"""A key of `kgen.diffusion.SCALINGS`."""

Prediction: TypeAlias = Literal["x", "eps", "v", "score", "flow", "edm", "edm_unit"]
"""A key of `kgen.diffusion.prediction.PREDICTION_TYPES`."""

Weighting: TypeAlias = Literal[
    "elbo",
    "simple",
    "min_snr",
    "snr_plus_one",
    "flow",
    "edm",
    "edm_unit",
    "logit_normal",
    "sigmoid",
]
"""A key of `kgen.diffusion.weighting.WEIGHTINGS`."""

TimeSampler: TypeAlias = Literal[
    "cosine", "importance", "log_normal", "uniform", "stratified", "logit_normal"
]
"""A key of `kgen.diffusion.times.TIME_SAMPLERS`."""

TimeGrid: TypeAlias = Literal["log_snr", "t", "karras"]
"""A key of `kgen.diffusion.times.TIME_GRIDS`."""

SolverName: TypeAlias = Literal[
    "consistency",
    "ddim",
    "dormand_prince",
    "dpm",
    "euler_maruyama",
    "heun",
    "langevin",
    "pndm",
    "predictor_corrector",
    "unipc",
]
"""A key of `kgen.solvers.SOLVERS`."""

LikelihoodName: TypeAlias = Literal["bernoulli", "gaussian", "logistic_mixture"]
"""A key of `kgen.likelihoods.LIKELIHOODS`."""
