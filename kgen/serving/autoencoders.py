"""Autoencoders as functions for a server.

An autoencoder offers its methods, `encode`, `decode`, `reconstruct` and, where it has a prior,
`generate`, in dictionaries: data are `images`, codes `latents`.
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.ancestral import compiled_samples
from kgen.serving.signature import served


def autoencoder(model, generate=False):
    """Makes the functions that a SavedModel of an autoencoder offers, with the averaged weights.

    Args:
        model: an autoencoder, with `data_shape`, `latent_shape`, `encode` and `decode`.
        generate: whether the model can draw samples.

    Returns:
        The functions, by name: `encode(images) -> latents`, `decode(latents) -> images`,
        `reconstruct(images) -> images`, which is also `serving_default`, and, if asked for,
        `generate(num_samples: int32, temperature: float32, seed: int32[2]) -> images`, where
        pictures are uint8.
    """
    images = [tf.TensorSpec([None, *model.data_shape], tf.float32, "images")]
    latents = [tf.TensorSpec([None, *model.latent_shape], model.latent_dtype, "latents")]

    @tf.function(input_signature=images)
    def encode(images):
        with model.averaged():
            return {"latents": model.encode(images)}

    @tf.function(input_signature=latents)
    def decode(latents):
        with model.averaged():
            return {"images": model.decode(latents)}

    @tf.function(input_signature=images)
    def reconstruct(images):
        return decode(encode(images)["latents"])

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    if generate:
        functions["generate"] = generator(model)
    return {**functions, "serving_default": reconstruct}


def hierarchy(model):
    """Makes the functions that a SavedModel of an `HVAE` offers, with the averaged weights.

    Returns:
        As `autoencoder`, but for the latents of level l, which are named `latents_l`.
    """
    names = [f"latents_{i}" for i in range(len(model.levels))]
    images = [tf.TensorSpec([None, *model.data_shape], tf.float32, "images")]
    latents = [
        tf.TensorSpec([None, *level.latent_shape], tf.float32, name)
        for name, level in zip(names, model.levels)
    ]

    @tf.function(input_signature=images)
    def encode(images):
        with model.averaged():
            return dict(zip(names, model.encode(images)))

    @served(latents)
    def decode(*latents):
        with model.averaged():
            return {"images": model.decode(latents)}

    @tf.function(input_signature=images)
    def reconstruct(images):
        with model.averaged():
            return {"images": model.reconstruct(images)}

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    return {**functions, "generate": generator(model), "serving_default": reconstruct}


def generator(model):
    """The function `generate` of a SavedModel, from the `sample_data` of a model."""
    step = compiled_samples(model)

    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int32, "num_samples"),
            tf.TensorSpec([], tf.float32, "temperature"),
            tf.TensorSpec([2], tf.int32, "seed"),
        ]
    )
    def generate(num_samples, temperature, seed):
        return {
            "images": likelihoods.at_the_door(
                model.likelihood, step(num_samples, temperature, seed)
            )
        }

    return generate
