"""Ancestral sampling of latent-variable models: the latents from the prior, then the data.

A model has the attribute `conditioner`, which may be None, and the methods `condition(rows)` (see
`kgen.models.encoder_decoder`) and `sample_data(num, temperature, seed, cond)`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.request import condition_and_number
from kgen.tensors import as_seed
from kgen.types import Seed, TensorLike


def compiled_samples(model: Any) -> Callable:
    """Returns the compiled `sample_data` of a model with its averaged weights, made once."""
    if getattr(model, "_generate_step", None) is None:

        @tf.function(reduce_retracing=True)
        def step(
            num_samples: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor, rows: Any = None
        ) -> tf.Tensor:
            with model.averaged():
                cond = model.condition(rows)
                return model.sample_data(num_samples, temperature, seed, cond)

        model._generate_step = step
    return model._generate_step


def generate(
    model: Any, num_samples: int | None, condition: Any, temperature: TensorLike, seed: Seed
) -> np.ndarray:
    """Draws data from a model; the arguments and the result are those of `VAE.generate`."""
    rows, num = condition_and_number(model.conditioner, condition, num_samples)
    step = compiled_samples(model)
    options = {} if rows is None else {"rows": rows}
    x = step(tf.constant(num), tf.constant(temperature), as_seed(seed), **options)
    return likelihoods.to_output(model.likelihood, x).numpy()
