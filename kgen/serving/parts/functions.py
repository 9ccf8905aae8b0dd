"""The parts of a model as functions: conditioner, denoiser and decoder.

    values --conditioner--> condition
    z, log_snr, condition --denoiser--> x_hat
    latents[, condition] --decoder--> images

A part is one network with what belongs to it: of the denoiser the conversion of its output to the
estimate x_hat, of the conditioner the pooling, of the decoder the scale of the latents. The loop of
the solver is left to the client. All take any number of examples, and compute with the averaged
weights.

    conditioner   what its `signature` says, in numbers: `token_ids` int32 [B, L] and `padding_mask`
                  bool [B, L], or `labels` int32 [B], ...; returns `pooled`, `tokens`, `mask`
    denoiser      z float32 [B, ...], log_snr float32 [B] and what the conditioner returns;
                  returns x_hat float32 [B, ...]
    decoder       latents [B, ...]; returns images float32 [B, H, W, C], in the range of the data
"""

import tensorflow as tf

from kgen.conditioning.conditioner import pictures_of
from kgen.distribution import fused
from kgen.serving.signature import condition_inputs, served


def denoising_parts(model, size=None):
    """Returns the parts of a `DenoiserModel`: its denoiser and, if it has one, its conditioner.

    Args:
        model: the model.
        size: None, or `(height, width)` of the pictures.

    Returns:
        `tf.function`s by the names of the parts.
    """
    _, shape = model.shapes_of(size)
    condition, parts = _condition(model.conditioner, size), {}
    if condition:
        parts["conditioner"] = conditioner_part(model, size)
    noisy = [
        tf.TensorSpec([None, *shape], tf.float32, "z"),
        tf.TensorSpec([None], tf.float32, "log_snr"),
    ]

    @served([*noisy, *condition])
    def denoiser(z, log_snr, *condition_values):
        cond = _named(condition, condition_values)
        with model.averaged(), fused(False):
            return {"x_hat": model.denoiser.x_hat_of(z, log_snr, cond)}

    return {**parts, "denoiser": denoiser}


def conditioner_part(model, size=None):
    """Returns the conditioner of a model as a function of numbers.

    Args:
        model: a model with a conditioner.
        size: None, or `(height, width)` of the pictures.

    Raises:
        ValueError: if it takes nothing but texts.
    """
    taken, pack = numbers_taken(model.conditioner)

    @served(taken)
    def conditioner(*values):
        with model.averaged(), fused(False), pictures_of(size):
            return model.conditioner(pack(values))

    return conditioner


def decoder_part(autoencoder, shape=None):
    """Returns the decoder of an `EncoderDecoder` as a function of latents.

    Args:
        autoencoder: the model, with one tensor of latents.
        shape: None, or the shape of the latents of an example.

    Raises:
        ValueError: if a code has several tensors.
    """
    if autoencoder.latent_names != ("latents",):
        raise ValueError(
            "`model` must have codes of one tensor, for its decoder to be a part. "
            f"Received: a {type(autoencoder).__name__}, with {len(autoencoder.latent_names)}."
        )
    shape = autoencoder.latent_shape if shape is None else shape
    latents = tf.TensorSpec([None, *shape], autoencoder.latent_dtype, "latents")
    condition = _condition(autoencoder.conditioner)

    @served([latents, *condition])
    def decoder(latents, *condition_values):
        with fused(False):
            cond = _named(condition, condition_values)
            return {"images": autoencoder.decode(latents, condition=cond)}

    return decoder


def numbers_taken(conditioner):
    """Returns what a conditioner takes in numbers, and how that is packed for a call of it.

    Args:
        conditioner: a `Conditioner`.

    Returns:
        A list of `tf.TensorSpec`s, and a function from a sequence of tensors to what the
        conditioner takes.

    Raises:
        ValueError: if every form of it has texts.
    """
    for form in (None, *conditioner.forms):
        taken, pack, _, _ = condition_inputs(conditioner, form)
        if all(spec.dtype != tf.string for spec in taken):
            return taken, pack
    raise ValueError(
        "`model` must have a conditioner that takes numbers, by its `signature` or one of its "
        f"`forms`. Received: a {type(conditioner).__name__}, which takes texts only."
    )


def _condition(conditioner, size=None):
    """What a conditioner returns, as a list of `tf.TensorSpec`s."""
    if conditioner is None:
        return []
    with pictures_of(size):
        null = conditioner.null(1)
    return [tf.TensorSpec([None, *v.shape[1:]], v.dtype, key) for key, v in null.items()]


def _named(specs, values):
    return {spec.name: value for spec, value in zip(specs, values)} or None
