"""The functions of a SavedModel of a diffusion model: from numbers, labels or texts to pictures.

    prompts --tokenizer--> ids, mask --text encoder--> cond --solver, decoder--> pictures --> PNG

The first arguments give the condition, as `signature` of the conditioner describes. A `TextEncoder`
has two forms. The default form takes strings. Its tokenizer consists of operations of TensorFlow
Text, which are part of TensorFlow Serving and which Python loads with `import tensorflow_text`
(this imports Keras too; `examples/export_and_serve.py` loads the operations alone). The form
`inputs="token_ids"` needs operations of core TensorFlow only; the client tokenizes the prompts
(`TextEncoder.tokenize`).

    no conditioner  num_samples     int32 []
    Labels          labels          int32 [B]
    TextEncoder     prompts         string [B]; long prompts are truncated
                or  token_ids       int32 [B, L]
                    padding_mask    bool [B, L]

    num_steps       int32 [], at least 1
    guidance_scale  float32 []; missing if there is neither a conditioner nor `guidance`
    seed            int32 [2]; (s, 0) gives the pictures of `generate(..., seed=s)` for s < 2^31,
                    up to rounding

These are arguments of one graph, so no call traces again. The unconditional prediction of the
guidance uses the null condition. All examples of a call are generated in one batch.

`generate_with_seeds` takes `seeds`, int32 `[B, 2]`, one for each example, which then does not
depend on the other examples. Three functions are optional. `generate_from_noise` takes z at t = 1
after the condition, as `generate(..., noise=...)` does: `noise`, float32 `[B, *shape of z]`; `seed`
is then only that of the noise that a stochastic solver adds. `generate_with_negatives` takes a
negative condition after the condition: `negative_labels`, `negative_prompts`, or
`negative_token_ids` and `negative_padding_mask`. `edit` starts from pictures; these arguments
follow the condition:

    images    float32 [B, H, W, C] in the range of the data
    mask      float32 [B or 1, H, W, 1], 1 where to paint; all ones to paint everywhere
    strength  float32 [], the start time in (0, 1]; at 1 nothing of the painted part is kept

References:
  Classifier-free guidance: Ho and Salimans (2022), https://arxiv.org/abs/2207.12598, equation 6.
  `edit` without a mask: Meng et al. (2022), SDEdit, https://arxiv.org/abs/2108.01073.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from kgen import solvers
from kgen.conditioning.conditioner import pictures_of
from kgen.distribution import fused
from kgen.models.denoiser_model import DenoiserModel
from kgen.models.density_model import DensityModel
from kgen.sampling.plan import plan_of
from kgen.sampling.sampler import Guided
from kgen.serving import limits
from kgen.serving.signature import ExportFunction, condition_inputs, with_signature
from kgen.types import Guidance, SolverName

SEED = tf.TensorSpec([2], tf.int32, "seed")
SEEDS = tf.TensorSpec([None, 2], tf.int32, "seeds")


def sampling(
    model: DenoiserModel,
    solver: SolverName | solvers.Solver | None = None,
    inputs: str | None = None,
    editing: bool = False,
    *,
    guidance: Guidance | None = None,
    negatives: bool = False,
    from_noise: bool = False,
    size: tuple[int, int] | None = None,
) -> tuple[dict[str, ExportFunction], list[Any]]:
    """Returns the functions of a SavedModel that generate, with averaged weights.

    Args:
        model: the model.
        solver: see `DenoiserModel.generate`; None for the default of the model.
        inputs: None for the values of the conditioner, or one of the conditioner's `forms`.
        editing: whether to add the function `edit`.
        guidance: see `DenoiserModel.generate`.
        negatives: whether to add the function `generate_with_negatives`.
        from_noise: whether to add the function `generate_from_noise`.
        size: see `DenoiserModel.generate`.

    Returns:
        The functions by name: `generate`, which is `serving_default` too, `generate_with_seeds`,
        and the optional ones; for token ids all names but `serving_default` end in `_from_tokens`.
        They return `{"images": uint8 [B, H, W, C]}` for pictures. And the trackable objects other
        than variables that they use.

    Raises:
        ValueError: for other `inputs`, or for `negatives` of a model without a conditioner.
    """
    specs, pack, resources, suffix = condition_inputs(model.conditioner, inputs)
    if negatives and not specs:
        raise ValueError("`negatives` needs a model with a conditioner.")
    plan = plan_of(model.default_solver if solver is None else solver, model.process)
    count = [] if specs else [tf.TensorSpec([], tf.int32, "num_samples")]
    guided = specs or guidance is not None
    scale = [tf.TensorSpec([], tf.float32, "guidance_scale")] if guided else []
    settings = [tf.TensorSpec([], tf.int32, "num_steps"), *scale]
    shape, z_shape = model.shapes_of(size)
    edit_specs = [
        tf.TensorSpec([None, *shape], tf.float32, "images"),
        tf.TensorSpec([None, *shape[:-1], 1], tf.float32, "mask"),
        tf.TensorSpec([], tf.float32, "strength"),
    ]
    noise_specs = [tf.TensorSpec([None, *z_shape], tf.float32, "noise")]
    negative_specs = [tf.TensorSpec(s.shape, s.dtype, f"negative_{s.name}") for s in specs]
    bounds, sampler = limits.current_limits(), dataclasses.replace(model.sampler)
    low, high = -float("inf"), float("inf")
    if model.bounded:
        low, high = float(model.likelihood.low), float(model.likelihood.high)

    def draw(
        number: tf.Tensor,
        values: Sequence[tf.Tensor],
        options: Sequence[tf.Tensor],
        given: Mapping[str, tf.Tensor] | None = None,
        negative: Sequence[tf.Tensor] = (),
    ) -> dict[str, tf.Tensor]:
        """Generates the examples of a call.

        Args:
            number: number of examples, an int32 scalar.
            values: the tensors that give the condition.
            options: `num_steps`, `guidance_scale` if there is one, and `seed` or `seeds`.
            given: `x`, `mask` and `strength` of `edit`, `noise` of `generate_from_noise`, or None.
            negative: the tensors that give the negative condition, or none.
        """
        checks = [limits.count_check("num_steps", options[0], bounds.max_steps)]
        if specs:
            checks.append(limits.batch_check(specs[0].name, values[0], bounds.max_batch))
        else:
            counted = "noise" if given and "noise" in given else "num_samples"
            checks.append(limits.count_check(counted, number, bounds.max_batch))
        checks += [limits.rows_check(s.name, v, number) for s, v in zip(specs, values)]
        checks += [limits.rows_check(s.name, v, number) for s, v in zip(negative_specs, negative)]
        for group in filter(len, (values, negative)):
            checks += model.conditioner.graph_checks(pack(group))
        if guided:
            checks.append(limits.finite_check("guidance_scale", options[1]))
        if options[-1].shape.rank == 2:
            checks.append(limits.rows_check("seeds", options[-1], number))
        if given and "noise" in given:
            checks += [
                limits.finite_check("noise", given["noise"]),
                limits.rows_check("noise", given["noise"], number),
            ]
        elif given:
            strength = given["strength"]
            checks += [
                ((strength > 0) & (strength <= 1), "`strength` must be in (0, 1]."),
                limits.range_check("images", given["x"], low, high),
                limits.finite_check("images", given["x"]),
                limits.rows_check("images", given["x"], number),
                limits.range_check("mask", given["mask"], 0, 1),
                limits.rows_check("mask", given["mask"], number, one=True),
            ]
        number, values, options, given, negative = limits.with_checks(
            (number, values, options, given or {}, negative), *checks
        )
        num_steps, *scale, seed = options
        if seed.shape.rank == 1:
            seeds, indices = tf.tile(seed[tf.newaxis], [number, 1]), tf.range(number)
        else:
            seeds, indices = seed, tf.zeros([number], tf.int32)
        with model.averaged(), fused(False), pictures_of(size):
            cond = null = model.conditioner(pack(values)) if specs else None
            if negative:
                null = model.conditioner(pack(negative))
            elif specs:
                null = model.conditioner.null(number)
            scale = scale[0] if scale else tf.constant(1.0)
            steering = Guided(cond, null, scale, tf.range(number))
            run = (plan, guidance, seeds, indices, num_steps, steering, given, size, sampler)
            images = model.draw(*run)
        return {"images": images}

    def generate_function(seed: tf.TensorSpec) -> ExportFunction:
        """Returns the function that takes `SEED`, or the one that takes `SEEDS`."""
        rest = [*settings, seed]
        # `seeds` has one row for each example, so that `num_samples` is not needed.
        counted = count if seed is SEED else []

        @with_signature([*specs, *counted, *rest])
        def generate(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
            values, options = arguments[: len(specs)], arguments[-len(rest) :]
            if specs:
                number = tf.shape(values[0])[0]
            else:
                number = arguments[0] if counted else tf.shape(options[-1])[0]
            return draw(number, values, options)

        return generate

    rest = [*settings, SEED]

    @with_signature([*specs, *noise_specs, *rest])
    def generate_from_noise(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        given = {"noise": arguments[len(specs)]}
        number = tf.shape(given["noise"])[0]
        return draw(number, arguments[: len(specs)], arguments[-len(rest) :], given)

    @with_signature([*specs, *negative_specs, *rest])
    def generate_with_negatives(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        values, negative = arguments[: len(specs)], arguments[len(specs) : -len(rest)]
        return draw(tf.shape(values[0])[0], values, arguments[-len(rest) :], negative=negative)

    @with_signature([*specs, *edit_specs, *rest])
    def edit(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        x, mask, strength = arguments[len(specs) : -len(rest)]
        given = {"x": x, "mask": mask, "strength": strength}
        return draw(tf.shape(x)[0], arguments[: len(specs)], arguments[-len(rest) :], given)

    generate = generate_function(SEED)
    functions = {
        "serving_default": generate,
        f"generate{suffix}": generate,
        f"generate_with_seeds{suffix}": generate_function(SEEDS),
    }
    if from_noise:
        functions[f"generate_from_noise{suffix}"] = generate_from_noise
    if negatives:
        functions[f"generate_with_negatives{suffix}"] = generate_with_negatives
    if editing:
        functions[f"edit{suffix}"] = edit
    return functions, resources


def as_png(generate: ExportFunction) -> ExportFunction:
    """Returns a function that encodes the pictures of another function as PNG files.

    Its output is `{"png_bytes": string [B]}`. The REST interface of TensorFlow Serving encodes a
    string as base64 only if its name ends in `_bytes`; otherwise it would send a PNG file as text,
    which damages it.
    """

    @with_signature(generate.input_signature)
    def generate_png(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        images = generate(*arguments)["images"]
        return {"png_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)}

    return generate_png


def log_likelihood(model: DensityModel, num_probes: int = 1) -> ExportFunction:
    """Returns the function `log_likelihood(images[, condition], seed)` of a SavedModel.

    It returns `{"log_likelihood": float32 [B]}` in nats, by the probability flow
    (`kgen.density.flow`).

    Args:
        model: the model.
        num_probes: number of random vectors with which the divergence is estimated.
    """
    specs, pack, _, _ = condition_inputs(model.conditioner)
    measure = model.flow_log_likelihood.anew()(solvers.DormandPrince(), num_probes, portable=True)
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")

    @with_signature([images, *specs, SEED])
    def log_likelihood(*arguments: tf.Tensor) -> dict[str, tf.Tensor]:
        images, *values, seed = arguments
        size = tf.shape(images)[0]
        images, values, seed = limits.with_checks(
            (images, values, seed),
            limits.batch_check("images", images, limits.current_limits().max_batch),
            limits.finite_check("images", images),
            *(limits.rows_check(s.name, v, size) for s, v in zip(specs, values)),
            *(model.conditioner.graph_checks(pack(values)) if specs else ()),
        )
        with model.averaged():
            cond = model.conditioner(pack(values)) if specs else None
        return {"log_likelihood": measure(images, cond, seed)}

    return log_likelihood
