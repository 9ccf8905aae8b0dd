"""Names of types in annotations; shapes, units and ranges are in docstrings."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import keras
import numpy as np
import tensorflow as tf

# What `tf.convert_to_tensor` takes: a number, a nested list of numbers, an array or a tensor.
TensorLike: TypeAlias = tf.Tensor | tf.Variable | np.ndarray | float | Sequence

# What `kgen.tensors.as_seed` takes.
Seed: TypeAlias = int | Sequence[int] | tf.Tensor | None

# A tensor of a functional graph, or its values.
SymbolicTensor: TypeAlias = tf.Tensor | keras.KerasTensor

# A size that is not known before a call is None.
Shape: TypeAlias = tuple[int | None, ...]

# What a conditioner makes of the condition of a batch: named tensors `[B, ...]`.
Condition: TypeAlias = Mapping[str, tf.Tensor] | None

# A Keras model or layer, or a function, called as `kgen.symbolic` describes.
Network: TypeAlias = keras.Layer | Callable[..., Any]

# The estimate of the clean data: `denoise(z, t)`, and with a condition `denoise(z, t, cond)`.
Denoise: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
ConditionalDenoise: TypeAlias = Callable[[tf.Tensor, tf.Tensor, Any], tf.Tensor]

# `guidance(denoise, cond, null_cond, scale)`.
Guidance: TypeAlias = Callable[[ConditionalDenoise, Any, Any, TensorLike], Denoise]

# The memory of a multistep solver: nested tensors.
Memory: TypeAlias = Any

# A file or folder.
Path: TypeAlias = str | os.PathLike[str]

# Names of options; the tables that they are keys of document them.
Scaling: TypeAlias = Literal["vp", "ve", "sub_vp", "flow"]  # kgen.diffusion.process
Prediction: TypeAlias = Literal[
    "x", "eps", "v", "score", "flow", "edm", "edm_unit"
]  # kgen.diffusion.prediction
Weighting: TypeAlias = Literal[  # kgen.diffusion.weighting
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
TimeSampler: TypeAlias = Literal[  # kgen.diffusion.times
    "cosine", "importance", "log_normal", "uniform", "stratified", "logit_normal"
]
TimeGrid: TypeAlias = Literal["log_snr", "t", "karras"]  # kgen.diffusion.times
SolverName: TypeAlias = Literal[  # kgen.solvers
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
LikelihoodName: TypeAlias = Literal["bernoulli", "gaussian", "logistic_mixture"]
