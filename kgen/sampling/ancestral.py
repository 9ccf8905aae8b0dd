"""Samples of latent-variable models: the latents from the prior, then the data.

A model has a `conditioner` or None, `condition(rows)` (see `kgen.models.encoder_decoder`), and
`sample_data(num, temperature, seed, cond)`, which runs with its averaged weights.
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.request import condition_and_number
from kgen.tensors import as_seed


def compiled_samples(model):
    """The compiled `sample_data` of a model, with its averaged weights; made once for a model."""
    if getattr(model, "_generate_step", None) is None:

        @tf.function(reduce_retracing=True)
        def step(num_samples, temperature, seed, rows=None):
            with model.averaged():
                cond = model.condition(rows)
                return model.sample_data(num_samples, temperature, seed, cond)

        model._generate_step = step
    return model._generate_step


def generate(model, num_samples, condition, temperature, seed):
    """Draws data of a model; the arguments and the result are those of `VAE.generate`."""
    rows, num = condition_and_number(model.conditioner, condition, num_samples)
    step = compiled_samples(model)
    options = {} if rows is None else {"rows": rows}
    x = step(tf.constant(num), tf.constant(temperature), as_seed(seed), **options)
    return likelihoods.to_output(model.likelihood, x).numpy()
