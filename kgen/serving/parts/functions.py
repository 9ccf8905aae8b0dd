"""The parts of a model as functions: the conditioner, the denoiser and the decoder.

    values --conditioner--> condition
    z, log_snr, condition --denoiser--> x_hat
    latents[, condition] --decoder--> images

A part is one network and the computations that belong to it: the pooling of the conditioner, the
conversion of the denoiser's output to the estimate x_hat, and the scaling of the decoder's latents.
The loop of the solver is the client's. The parts take any number of examples and use the averaged
weights.

    part          inputs                                   outputs
    conditioner   those of a `signature` of it without     the condition: `pooled`, or `tokens` and
                  strings: `token_ids` int32 [B, L] and    `mask`, ...
                  `padding_mask` bool [B, L], or
                  `labels` int32 [B], ...
    denoiser      `z` float32 [B, ...], `log_snr`          `x_hat` float32 [B, ...]
                  float32 [B] and the condition
    decoder       `latents` [B, ...] and the condition,    `images` float32 [B, H, W, C] in the
                  if the autoencoder has one               range of the data
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kgen.conditioning.conditioner import Conditioner, pictures_of
from kgen.distribution import fused
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.models.generative_model import GenerativeModel
from kgen.serving.signature import ExportFunction, condition_inputs, with_signature
from kgen.types import Condition, Shape


def denoising_parts(
    model: DenoiserModel, size: Sequence[int] | None = None
) -> dict[str, ExportFunction]:
    """Returns the conditioner, if there is one, and the denoiser of a model, by name.

    Args:
        model: the model.
        size: `(height, width)` of the pictures, or None for the size of the training data.

    Raises:
        TypeError: if `size` does not hold numbers.
        ValueError: if the model cannot generate pictures of this size, or if the conditioner takes
            strings only.
    """
    _, shape = model.shapes_of(size)
    condition_specs, parts = _condition_specs(model.conditioner, size), {}
    if condition_specs:
        parts["conditioner"] = conditioner_part(model, size)
    noisy_specs = [
        tf.TensorSpec([None, *shape], tf.float32, "z"),
        tf.TensorSpec([None], tf.float32, "log_snr"),
    ]

    @with_signature([*noisy_specs, *condition_specs])
    def denoiser(z: tf.Tensor, log_snr: tf.Tensor, *condition: tf.Tensor) -> dict[str, tf.Tensor]:
        cond = _by_name(condition_specs, condition)
        with model.averaged(), fused(False):
            return {"x_hat": model.denoiser.x_hat_of(z, log_snr, cond)}

    return {**parts, "denoiser": denoiser}


def conditioner_part(model: GenerativeModel, size: Sequence[int] | None = None) -> ExportFunction:
    """Returns the conditioner of a model as a function of numbers.

    Args:
        model: a model with a conditioner.
        size: `(height, width)` of the pictures, or None for the size of the training data.

    Raises:
        ValueError: if the conditioner takes strings only.
    """
    specs, pack = numeric_inputs(model.conditioner)

    @with_signature(specs)
    def conditioner(*values: tf.Tensor) -> dict[str, tf.Tensor]:
        with model.averaged(), fused(False), pictures_of(size):
            return model.conditioner(pack(values))

    return conditioner


def decoder_part(autoencoder: EncoderDecoder, shape: Shape | None = None) -> ExportFunction:
    """Returns the decoder of an autoencoder as a function of latents.

    Args:
        autoencoder: the autoencoder, whose codes are one tensor.
        shape: shape of the latents of an example, or None for that of the training data.

    Raises:
        ValueError: if a code has several tensors.
    """
    if autoencoder.latent_names != ("latents",):
        raise ValueError(
            "`model` must have codes of one tensor, for its decoder to be a part. "
            f"Received: a {type(autoencoder).__name__}, with {len(autoencoder.latent_names)}."
        )
    shape = autoencoder.latent_shape if shape is None else shape
    latents_spec = tf.TensorSpec([None, *shape], autoencoder.latent_dtype, "latents")
    condition_specs = _condition_specs(autoencoder.conditioner)

    @with_signature([latents_spec, *condition_specs])
    def decoder(latents: tf.Tensor, *condition: tf.Tensor) -> dict[str, tf.Tensor]:
        with fused(False):
            cond = _by_name(condition_specs, condition)
            return {"images": autoencoder.decode(latents, condition=cond)}

    return decoder


def numeric_inputs(
    conditioner: Conditioner,
) -> tuple[list[tf.TensorSpec], Callable[[Sequence[tf.Tensor]], Any]]:
    """Returns the inputs of a conditioner in the first of its forms without strings.

    Returns:
        The tensors, and a function from a sequence of such tensors to the argument of the
        conditioner.

    Raises:
        ValueError: if every form has strings.
    """
    for form in (None, *conditioner.forms):
        inputs = condition_inputs(conditioner, form)
        if all(spec.dtype != tf.string for spec in inputs.specs):
            return inputs.specs, inputs.pack
    raise ValueError(
        "`model` must have a conditioner that takes numbers, by its `signature` or one of its "
        f"`forms`. Received: a {type(conditioner).__name__}, which takes texts only."
    )


def _condition_specs(
    conditioner: Conditioner | None, size: Sequence[int] | None = None
) -> list[tf.TensorSpec]:
    """Returns the tensors of the condition, none without a conditioner."""
    if conditioner is None:
        return []
    with pictures_of(size):
        null = conditioner.null(1)
    return [tf.TensorSpec([None, *v.shape[1:]], v.dtype, key) for key, v in null.items()]


def _by_name(specs: list[tf.TensorSpec], values: Sequence[tf.Tensor]) -> Condition:
    """Returns the condition of tensors, None without tensors."""
    return {spec.name: value for spec, value in zip(specs, values)} or None
