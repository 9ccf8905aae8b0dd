"""Diffusion models as functions for a server: numbers, labels or texts in, pictures out.

    prompts --tokenizer--> ids, mask --text encoder--> cond --solver, decoder--> pictures --> PNG

A model takes what its conditioner says in `signature`. A `TextEncoder` has two forms. By default it
takes strings; its tokenizer is made of operations of TensorFlow Text, which TensorFlow Serving has
built in and Python gets from `import tensorflow_text` (which imports Keras;
`examples/export_and_serve.py` loads the operations alone). `inputs="token_ids"` begins one arrow
later and needs TensorFlow's core operations only; the client tokenizes (`TextEncoder.tokenize`).

    no conditioner  num_samples     int32 []
    Labels          labels          int32 [B]
    TextEncoder     prompts         string [B]; longer ones are truncated
                or  token_ids       int32 [B, L]
                    padding_mask    bool [B, L]

    num_steps       int32 [], at least 1
    guidance_scale  float32 []; not where there is neither a conditioner nor `guidance`
    seed            int32 [2]; (s, 0) makes the pictures of `generate(..., seed=s)` for s < 2^31,
                    but for rounding

All are arguments of one graph, so no call traces again. The unconditional branch of the guidance
sees the null condition. The whole batch is made at once.

`generate_with_seeds` takes `seeds`, int32 `[B, 2]`, one for each example, which then does not
depend on the others. Three more functions are there if asked for. `generate_from_noise` takes z at
t = 1 after the condition, as `generate(..., noise=...)` does: `noise`, float32 `[B, *shape of z]`;
`seed` then is of the noise that a stochastic solver adds. `generate_with_negatives` takes what to
move away from after what to show: `negative_labels`, `negative_prompts` or `negative_token_ids` and
`negative_padding_mask`. `edit` begins from pictures and not from noise alone; they come after the
condition:

    images    float32 [B, H, W, C] in the range of the data
    mask      float32 [B or 1, H, W, 1], 1 where to paint; ones paint all of it over
    strength  float32 [], the time in (0, 1] to begin from; 1 keeps nothing of what is painted over
"""

import dataclasses

import tensorflow as tf

from kgen import solvers
from kgen.conditioning.conditioner import pictures_of
from kgen.distribution import fused
from kgen.sampling.plan import plan_of
from kgen.sampling.sampler import Guided
from kgen.serving import limits
from kgen.serving.signature import condition_inputs, served

SEED = tf.TensorSpec([2], tf.int32, "seed")
SEEDS = tf.TensorSpec([None, 2], tf.int32, "seeds")


def sampling(
    model,
    solver=None,
    inputs=None,
    editing=False,
    *,
    guidance=None,
    negatives=False,
    from_noise=False,
    size=None,
):
    """Makes the functions that draw in a SavedModel, with the averaged weights.

    Args:
        model: a `DenoiserModel`.
        solver: as of its `generate`; None for the model's default.
        inputs: None for the values of its conditioner, or one of the conditioner's `forms`.
        editing: whether it can begin from examples, by `edit`.
        guidance: as of its `generate`.
        negatives: whether it can move away from a condition, by `generate_with_negatives`.
        from_noise: whether it can begin from given noise, by `generate_from_noise`.
        size: as of its `generate`.

    Returns:
        The functions by name: `generate`, also as `serving_default`, `generate_with_seeds`, and
        those asked for, all with `_from_tokens` behind their names for token ids, which return
        `{"images": ...}`; and the trackable objects besides variables that they use.

    Raises:
        ValueError: for other `inputs`, or for `negatives` of a model without a conditioner.
    """
    taken, pack, resources, ending = condition_inputs(model.conditioner, inputs)
    if negatives and not taken:
        raise ValueError("`negatives` needs a model with a conditioner.")
    plan = plan_of(model.default_solver if solver is None else solver, model.process)
    count = [] if taken else [tf.TensorSpec([], tf.int32, "num_samples")]
    guided = taken or guidance is not None
    scale = [tf.TensorSpec([], tf.float32, "guidance_scale")] if guided else []
    settings = [tf.TensorSpec([], tf.int32, "num_steps"), *scale]
    shape, z_shape = model.shapes_of(size)
    begin = [
        tf.TensorSpec([None, *shape], tf.float32, "images"),
        tf.TensorSpec([None, *shape[:-1], 1], tf.float32, "mask"),
        tf.TensorSpec([], tf.float32, "strength"),
    ]
    noise = [tf.TensorSpec([None, *z_shape], tf.float32, "noise")]
    away = [tf.TensorSpec(t.shape, t.dtype, f"negative_{t.name}") for t in taken]
    bounds, sampler = limits.now_chosen(), dataclasses.replace(model.sampler)
    low, high = -float("inf"), float("inf")
    if model.bounded:
        low, high = float(model.likelihood.low), float(model.likelihood.high)

    def draw(number, values, options, given=None, negative=()):
        checks = [limits.count("num_steps", options[0], bounds.max_steps)]
        if taken:
            checks.append(limits.batch(taken[0].name, values[0], bounds.max_batch))
        else:
            counted = "noise" if given and "noise" in given else "num_samples"
            checks.append(limits.count(counted, number, bounds.max_batch))
        checks += [limits.same(t.name, v, number) for t, v in zip(taken, values)]
        checks += [limits.same(t.name, v, number) for t, v in zip(away, negative)]
        for group in filter(len, (values, negative)):
            checks += model.conditioner.graph_checks(pack(group))
        if guided:
            checks.append(limits.finite("guidance_scale", options[1]))
        if options[-1].shape.rank == 2:
            checks.append(limits.same("seeds", options[-1], number))
        if given and "noise" in given:
            checks += [
                limits.finite("noise", given["noise"]),
                limits.same("noise", given["noise"], number),
            ]
        elif given:
            strength = given["strength"]
            checks += [
                ((strength > 0) & (strength <= 1), "`strength` must be in (0, 1]."),
                limits.within("images", given["x"], low, high),
                limits.finite("images", given["x"]),
                limits.same("images", given["x"], number),
                limits.within("mask", given["mask"], 0, 1),
                limits.same("mask", given["mask"], number, one=True),
            ]
        number, values, options, given, negative = limits.checked(
            (number, values, options, given or {}, negative), *checks
        )
        num_steps, *scale, seed = options
        if seed.shape.rank == 1:
            seeds, indices = tf.tile(seed[tf.newaxis], [number, 1]), tf.range(number)
        else:
            seeds, indices = seed, tf.zeros([number], tf.int32)
        with model.averaged(), fused(False), pictures_of(size):
            cond = null = model.conditioner(pack(values)) if taken else None
            if negative:
                null = model.conditioner(pack(negative))
            elif taken:
                null = model.conditioner.null(number)
            scale = scale[0] if scale else tf.constant(1.0)
            steering = Guided(cond, null, scale, tf.range(number))
            run = (plan, guidance, seeds, indices, num_steps, steering, given, size, sampler)
            images = model.draw(*run)
        return {"images": images}

    def generator(seed):
        rest = [*settings, seed]
        # With a seed for each example these say how many there are.
        counted = count if seed is SEED else []

        @served([*taken, *counted, *rest])
        def generate(*arguments):
            values, options = arguments[: len(taken)], arguments[-len(rest) :]
            if taken:
                number = tf.shape(values[0])[0]
            else:
                number = arguments[0] if counted else tf.shape(options[-1])[0]
            return draw(number, values, options)

        return generate

    rest = [*settings, SEED]

    @served([*taken, *noise, *rest])
    def generate_from_noise(*arguments):
        given = {"noise": arguments[len(taken)]}
        number = tf.shape(given["noise"])[0]
        return draw(number, arguments[: len(taken)], arguments[-len(rest) :], given)

    @served([*taken, *away, *rest])
    def generate_with_negatives(*arguments):
        values, negative = arguments[: len(taken)], arguments[len(taken) : -len(rest)]
        return draw(tf.shape(values[0])[0], values, arguments[-len(rest) :], negative=negative)

    @served([*taken, *begin, *rest])
    def edit(*arguments):
        x, mask, strength = arguments[len(taken) : -len(rest)]
        given = {"x": x, "mask": mask, "strength": strength}
        return draw(tf.shape(x)[0], arguments[: len(taken)], arguments[-len(rest) :], given)

    generate = generator(SEED)
    functions = {
        "serving_default": generate,
        f"generate{ending}": generate,
        f"generate_with_seeds{ending}": generator(SEEDS),
    }
    if from_noise:
        functions[f"generate_from_noise{ending}"] = generate_from_noise
    if negatives:
        functions[f"generate_with_negatives{ending}"] = generate_with_negatives
    if editing:
        functions[f"edit{ending}"] = edit
    return functions, resources


def as_png(generate):
    """A function that returns PNG files where another one returns pictures.

    They are named `png_bytes` because the REST interface of TensorFlow Serving sends a string as
    base64 only if its name ends in `_bytes`; as text a PNG would be broken.
    """

    @served(generate.input_signature)
    def generate_png(*arguments):
        images = generate(*arguments)["images"]
        return {"png_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)}

    return generate_png


def log_likelihood(model, num_probes=1):
    """The function `log_likelihood` of a SavedModel of a `DensityModel`, in nats.

    Args:
        model: the model.
        num_probes: random vectors in each.
    """
    taken, pack, _, _ = condition_inputs(model.conditioner)
    measure = model.flow_log_likelihood.anew()(solvers.DormandPrince(), num_probes, portable=True)
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")

    @served([images, *taken, SEED])
    def log_likelihood(*arguments):
        images, *values, seed = arguments
        size = tf.shape(images)[0]
        images, values, seed = limits.checked(
            (images, values, seed),
            limits.batch("images", images, limits.now_chosen().max_batch),
            limits.finite("images", images),
            *(limits.same(t.name, v, size) for t, v in zip(taken, values)),
            *(model.conditioner.graph_checks(pack(values)) if taken else ()),
        )
        with model.averaged():
            cond = model.conditioner(pack(values)) if taken else None
        return {"log_likelihood": measure(images, cond, seed)}

    return log_likelihood
