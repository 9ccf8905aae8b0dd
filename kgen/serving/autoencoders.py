"""Autoencoders as functions for a server.

An autoencoder offers its methods, `encode`, `decode`, `reconstruct` and, where it has a prior,
`generate`, in dictionaries: data are `images`, codes `latents`, those of level l of a hierarchical
one `latents_l`. A model with a conditioner takes what that takes after them, such as `labels`.
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.ancestral import compiled_samples
from kgen.serving.signature import condition_inputs, served


def autoencoder(model):
    """Makes the functions that a SavedModel of an autoencoder offers, with the averaged weights.

    Args:
        model: an `EncoderDecoder`.

    Returns:
        The functions, by name: `encode(images[, labels]) -> latents`, `decode(latents[, labels]) ->
        images`, `reconstruct(images[, labels]) -> images`, which is also `serving_default`, and
        where the model can draw `generate(num_samples: int32 or labels, temperature: float32,
        seed: int32[2]) -> images`, where pictures are uint8; and the trackable objects besides
        variables that they use.
    """
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")
    names = model.latent_names
    one = names == ("latents",)
    shapes = [model.latent_shape] if one else model.latent_shapes
    latents = [
        tf.TensorSpec([None, *shape], model.latent_dtype, name)
        for shape, name in zip(shapes, names)
    ]
    given, pack, resources, _ = condition_inputs(model.conditioner)

    def condition(values):
        return pack(values) if values else None

    @served([images, *given])
    def encode(*arguments):
        codes = model.encode(arguments[0], condition=condition(arguments[1:]))
        return dict(zip(names, [codes] if one else codes))

    @served([*latents, *given])
    def decode(*arguments):
        codes = list(arguments[: len(names)])
        given_condition = condition(arguments[len(names) :])
        return {"images": model.decode(codes[0] if one else codes, condition=given_condition)}

    @served([images, *given])
    def reconstruct(*arguments):
        return {"images": model.reconstruct(arguments[0], condition=condition(arguments[1:]))}

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    if hasattr(model, "sample_data"):
        functions["generate"] = generator(model, given, condition)
    return {**functions, "serving_default": reconstruct}, resources


def generator(model, given, condition):
    """The function `generate` of a SavedModel, from the `sample_data` of a model."""
    step = compiled_samples(model)
    first = given or [tf.TensorSpec([], tf.int32, "num_samples")]
    temperature = tf.TensorSpec([], tf.float32, "temperature")

    @served([*first, temperature, tf.TensorSpec([2], tf.int32, "seed")])
    def generate(*arguments):
        *values, temperature, seed = arguments
        num = tf.shape(values[0])[0] if given else values[0]
        checks = (
            (num >= 1, "There must be at least one example to draw."),
            (temperature > 0, "`temperature` must be positive."),
        )
        with tf.control_dependencies([tf.debugging.Assert(ok, [text]) for ok, text in checks]):
            num = tf.identity(num)
        options = {"rows": condition(values)} if given else {}
        x = step(num, temperature, seed, **options)
        return {"images": likelihoods.at_the_door(model.likelihood, x)}

    return generate
