"""Ancestral samples of latent-variable models: the latents from the prior, then the data."""

import tensorflow as tf


def compiled_samples(model):
    """The compiled `sample_data` of a model, with its averaged weights; made once for a model."""
    if getattr(model, "_generate_step", None) is None:

        @tf.function(reduce_retracing=True)
        def step(num_samples, temperature, seed):
            with model.averaged():
                return model.sample_data(num_samples, temperature, seed)

        model._generate_step = step
    return model._generate_step
