"""Autoencoders as functions for a server.

An autoencoder offers its methods, `encode`, `decode`, `reconstruct` and, where it has a prior,
`generate`, in dictionaries: data are `images`, codes `latents`, those of level l of a hierarchical
one `latents_l`. A model with a conditioner takes what that takes after them, such as `labels`. What
is given must be finite, of at most `max_batch` examples of the export (`kgen.serving.limits`).
"""

import tensorflow as tf

from kgen import likelihoods
from kgen.sampling.ancestral import compiled_samples
from kgen.serving import limits
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

    codes = getattr(model, "num_codes", None)

    def condition(values):
        return pack(values) if values else None

    def checked(tensors, values):
        """Examples and what they are conditional on, within the bounds of the export."""
        size = tf.shape(tensors[0])[0]
        named = [*tensors, *values]
        specs = [*(latents if len(tensors) > 1 else tensors), *given]
        checks = [limits.batch("examples", tensors[0], limits.now_chosen().max_batch)]
        checks += [limits.same(getattr(s, "name", "data"), v, size) for s, v in zip(specs, named)]
        for tensor in tensors:
            if tensor.dtype.is_floating:
                checks.append(limits.finite("data", tensor))
            else:
                checks.append(limits.within("latents", tensor, 0, codes - 1))
        if given:
            checks += model.conditioner.graph_checks(pack(values))
        return limits.checked((tensors, values), *checks)

    @served([images, *given])
    def encode(*arguments):
        (x,), values = checked(list(arguments[:1]), list(arguments[1:]))
        codes = model.encode(x, condition=condition(values))
        return dict(zip(names, [codes] if one else codes))

    @served([*latents, *given])
    def decode(*arguments):
        split = len(names)
        z, values = checked(list(arguments[:split]), list(arguments[split:]))
        return {"images": model.decode(z[0] if one else z, condition=condition(values))}

    @served([images, *given])
    def reconstruct(*arguments):
        (x,), values = checked(list(arguments[:1]), list(arguments[1:]))
        return {"images": model.reconstruct(x, condition=condition(values))}

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    if hasattr(model, "sample_data"):
        functions["generate"] = generator(model, given, condition)
    return {**functions, "serving_default": reconstruct}, resources


def generator(model, given, condition):
    """The function `generate` of a SavedModel, from the `sample_data` of a model."""
    step, most = compiled_samples(model), limits.now_chosen().max_batch
    first = given or [tf.TensorSpec([], tf.int32, "num_samples")]
    temperature = tf.TensorSpec([], tf.float32, "temperature")

    @served([*first, temperature, tf.TensorSpec([2], tf.int32, "seed")])
    def generate(*arguments):
        *values, temperature, seed = arguments
        num = tf.shape(values[0])[0] if given else values[0]
        finite = (temperature > 0) & tf.math.is_finite(temperature)
        num, values, temperature = limits.checked(
            (num, values, temperature),
            limits.count("num_samples", num, most),
            (finite, "`temperature` must be positive and finite."),
            *(limits.same(spec.name, v, num) for spec, v in zip(given, values)),
        )
        options = {"rows": condition(values)} if given else {}
        x = step(num, temperature, seed, **options)
        return {"images": likelihoods.to_output(model.likelihood, x)}

    return generate
