"""Autoencoders as functions for a server.

An autoencoder offers its methods, `encode`, `decode`, `reconstruct` and, where it has a prior,
`generate`, in dictionaries: data are `images`, codes `latents`. What is given to them must be
finite, of at most `max_batch` examples of the export (`kgen.serving.limits`).
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.ancestral import compiled_samples
from kgen.serving import limits
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

    codes = getattr(model, "num_codes", None)

    @tf.function(input_signature=images)
    def encode(images):
        images = _checked("images", images)
        with model.averaged():
            return {"latents": model.encode(images)}

    @tf.function(input_signature=latents)
    def decode(latents):
        latents = _checked("latents", latents, codes)
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
        images = _checked("images", images)
        with model.averaged():
            return dict(zip(names, model.encode(images)))

    @served(latents)
    def decode(*latents):
        size = tf.shape(latents[0])[0]
        same = [limits.same(name, z, size) for name, z in zip(names, latents)]
        latents = [_checked(name, z) for name, z in zip(names, limits.checked(latents, *same))]
        with model.averaged():
            return {"images": model.decode(latents)}

    @tf.function(input_signature=images)
    def reconstruct(images):
        images = _checked("images", images)
        with model.averaged():
            return {"images": model.reconstruct(images)}

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    return {**functions, "generate": generator(model), "serving_default": reconstruct}


def generator(model):
    """The function `generate` of a SavedModel, from the `sample_data` of a model."""
    step, most = compiled_samples(model), limits.now_chosen().max_batch

    @tf.function(
        input_signature=[
            tf.TensorSpec([], tf.int32, "num_samples"),
            tf.TensorSpec([], tf.float32, "temperature"),
            tf.TensorSpec([2], tf.int32, "seed"),
        ]
    )
    def generate(num_samples, temperature, seed):
        num_samples, temperature, seed = limits.checked(
            (num_samples, temperature, seed),
            limits.count("num_samples", num_samples, most),
            (
                (temperature > 0) & tf.math.is_finite(temperature),
                "`temperature` must be positive and finite.",
            ),
        )
        return {
            "images": likelihoods.at_the_door(
                model.likelihood, step(num_samples, temperature, seed)
            )
        }

    return generate


def _checked(name, tensor, codes=None):
    """Examples, within the bounds: real values finite, numbers of codes below `codes`."""
    most = limits.now_chosen().max_batch
    values = limits.finite(name, tensor) if tensor.dtype.is_floating else None
    values = values or limits.within(name, tensor, 0, codes - 1)
    return limits.checked(tensor, limits.batch(name, tensor, most), values)
