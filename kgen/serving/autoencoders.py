"""The functions of a SavedModel of an autoencoder.

They are the methods of the model: `encode`, `decode`, `reconstruct` and, for a model with a prior,
`generate`. They return dictionaries. Data are named `images` and codes `latents`, or `latents_l`
for level l of a hierarchical model. If the model has a conditioner, its inputs, such as `labels`,
follow them. Arguments must be finite, with at most `max_batch` examples (`kgen.serving.limits`).
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from kgen import likelihoods
from kgen.models.encoder_decoder import EncoderDecoder
from kgen.sampling.ancestral import compiled_samples
from kgen.serving import limits
from kgen.serving.signature import ExportFunction, condition_inputs, with_signature


def autoencoder(model: EncoderDecoder) -> tuple[dict[str, ExportFunction], list[Any]]:
    """Returns the functions that a SavedModel of an autoencoder offers, with averaged weights.

    Args:
        model: the autoencoder.

    Returns:
        The functions by name:
        `encode(images[, labels]) -> latents`,
        `decode(latents[, labels]) -> images`,
        `reconstruct(images[, labels]) -> images`, which is `serving_default` too, and
        `generate(num_samples: int32 or labels, temperature: float32, seed: int32[2]) -> images`
        in uint8, if the model can generate;
        and the trackable objects other than variables that they use.
    """
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")
    names = model.latent_names
    single = names == ("latents",)
    shapes = [model.latent_shape] if single else model.latent_shapes
    latents = [
        tf.TensorSpec([None, *shape], model.latent_dtype, name)
        for shape, name in zip(shapes, names)
    ]
    inputs = condition_inputs(model.conditioner)
    num_codes = getattr(model, "num_codes", None)

    def condition(values: Sequence[tf.Tensor]) -> Any:
        return inputs.pack(values) if values else None

    def validated(
        tensors: list[tf.Tensor], values: list[tf.Tensor]
    ) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Adds the checks of data or latents, and of their condition."""
        size = tf.shape(tensors[0])[0]
        named = [*tensors, *values]
        specs = [*(latents if len(tensors) > 1 else tensors), *inputs.specs]
        checks = [limits.batch_check("examples", tensors[0], limits.current_limits().max_batch)]
        checks += [
            limits.rows_check(getattr(spec, "name", "data"), value, size)
            for spec, value in zip(specs, named)
        ]
        for tensor in tensors:
            if tensor.dtype.is_floating:
                checks.append(limits.finite_check("data", tensor))
            else:
                checks.append(limits.range_check("latents", tensor, 0, num_codes - 1))
        if values:
            checks += model.conditioner.graph_checks(inputs.pack(values))
        return limits.with_checks((tensors, values), *checks)

    @with_signature([images, *inputs.specs])
    def encode(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        (x,), values = validated(list(arguments[:1]), list(arguments[1:]))
        codes = model.encode(x, condition=condition(values))
        return dict(zip(names, [codes] if single else codes))

    @with_signature([*latents, *inputs.specs])
    def decode(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        split = len(names)
        z, values = validated(list(arguments[:split]), list(arguments[split:]))
        return {"images": model.decode(z[0] if single else z, condition=condition(values))}

    @with_signature([images, *inputs.specs])
    def reconstruct(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        (x,), values = validated(list(arguments[:1]), list(arguments[1:]))
        return {"images": model.reconstruct(x, condition=condition(values))}

    functions = {"encode": encode, "decode": decode, "reconstruct": reconstruct}
    if hasattr(model, "sample_data"):
        functions["generate"] = _generate_function(model, inputs.specs, condition)
    return {**functions, "serving_default": reconstruct}, inputs.resources


def _generate_function(
    model: EncoderDecoder,
    specs: list[tf.TensorSpec],
    condition: Callable[[Sequence[tf.Tensor]], Any],
) -> ExportFunction:
    """Returns the function `generate`, which calls `model.sample_data`.

    Args:
        model: a model with a prior.
        specs: the tensors that give the condition.
        condition: a function from such tensors to the argument of the conditioner.
    """
    sample, max_batch = compiled_samples(model), limits.current_limits().max_batch
    first = specs or [tf.TensorSpec([], tf.int32, "num_samples")]
    temperature = tf.TensorSpec([], tf.float32, "temperature")

    @with_signature([*first, temperature, tf.TensorSpec([2], tf.int32, "seed")])
    def generate(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        *values, temperature, seed = arguments
        number = tf.shape(values[0])[0] if specs else values[0]
        positive = (temperature > 0) & tf.math.is_finite(temperature)
        number, values, temperature = limits.with_checks(
            (number, values, temperature),
            limits.count_check("num_samples", number, max_batch),
            (positive, "`temperature` must be positive and finite."),
            *(limits.rows_check(spec.name, v, number) for spec, v in zip(specs, values)),
        )
        options = {"rows": condition(values)} if specs else {}
        x = sample(number, temperature, seed, **options)
        return {"images": likelihoods.to_output(model.likelihood, x)}

    return generate
