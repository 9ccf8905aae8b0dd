"""Diffusion models as functions for a server: numbers, labels or texts in, pictures out.

    prompts --tokenizer--> ids, mask --text encoder--> cond --solver, decoder--> pictures --> PNG

A model takes what its conditioner does. Of a `TextEncoder` there are two doors. `"prompts"` takes
strings; its tokenizer is made of operations of TensorFlow Text, which TensorFlow Serving has built
in and Python gets from `import tensorflow_text` (which imports Keras;
`examples/export_and_serve.py` loads the operations alone). `"token_ids"` begins one arrow later and
needs TensorFlow's core operations only; the client tokenizes (`TextEncoder.tokenize`).

    no conditioner  num_samples     int32 []
    Labels          labels          int32 [B]
    TextEncoder     prompts         string [B]; longer ones are truncated
                or  token_ids       int32 [B, L]
                    padding_mask    bool [B, L]

    num_steps       int32 [], at least 1 and at most `max_steps` of the export
    guidance_scale  float32 [], finite; not where there is neither a conditioner nor `guidance`
    seed            int32 [2]; (s, 0) makes the pictures of `generate(..., seed=s)` for s < 2^31,
                    but for rounding

All are arguments of one graph, so no call traces again. The unconditional branch of the guidance
sees the null condition. The whole batch is made at once, of at most `max_batch` examples of the
export. Arguments are checked as `generate` checks them (`kgen.serving.limits`).

Two more are there if asked for. `generate_with_negatives` takes what to move away from after what
to show: `negative_labels`, `negative_prompts` or `negative_token_ids` and `negative_padding_mask`.
`edit` begins from pictures and not from noise alone; they come after the condition:

    images    float32 [B, H, W, C] in the range of the data
    mask      float32 [B or 1, H, W, 1], 1 where to paint; ones paint all of it over
    strength  float32 [], the time in (0, 1] to begin from; 1 keeps nothing of what is painted over
"""

import tensorflow as tf

from kgen import solvers
from kgen.conditioning import Labels, TextEncoder
from kgen.serving import limits
from kgen.serving.signature import served

INPUTS = ("prompts", "token_ids")
SEED = tf.TensorSpec([2], tf.int32, "seed")


def sampling(
    model, solver="dpm", inputs="prompts", editing=False, *, guidance=None, negatives=False
):
    """Makes the functions that draw in a SavedModel, with the averaged weights.

    Args:
        model: a `DenoisingModel`.
        solver: as of its `generate`.
        inputs: of a model of texts, `"prompts"` or `"token_ids"`.
        editing: whether it can begin from examples, by `edit`.
        guidance: as of its `generate`.
        negatives: whether it can move away from a condition, by `generate_with_negatives`.

    Returns:
        The functions by name: `generate`, also as `serving_default`, and those asked for, all with
        `_from_tokens` behind their names for token ids, which return `{"images": ...}`; and the
        trackable objects besides variables that they use.

    Raises:
        TypeError: if the model's conditioner is another one than `Labels` and `TextEncoder`.
        ValueError: for other `inputs`, or for `negatives` of a model without a conditioner.
    """
    told, encode, resources = _door(model, inputs)
    if negatives and not told:
        raise ValueError("`negatives` needs a model with a conditioner.")
    count = [] if told else [tf.TensorSpec([], tf.int32, "num_samples")]
    guided = told or guidance is not None
    scale = [tf.TensorSpec([], tf.float32, "guidance_scale")] if guided else []
    rest = [tf.TensorSpec([], tf.int32, "num_steps"), *scale, SEED]
    begin = [
        tf.TensorSpec([None, *model.data_shape], tf.float32, "images"),
        tf.TensorSpec([None, *model.data_shape[:-1], 1], tf.float32, "mask"),
        tf.TensorSpec([], tf.float32, "strength"),
    ]
    away = [tf.TensorSpec(t.shape, t.dtype, f"negative_{t.name}") for t in told]
    step = model.generate_step(solver, guidance, portable=True)
    bounds = limits.now_chosen()
    low, high = -float("inf"), float("inf")
    if model.bounded:
        low, high = float(model.likelihood.low), float(model.likelihood.high)

    def draw(size, values, options, given=None, negative=()):
        checks = [limits.count("num_steps", options[0], bounds.max_steps)]
        if told:
            checks.append(limits.batch(told[0].name, values[0], bounds.max_batch))
        else:
            checks.append(limits.count("num_samples", size, bounds.max_batch))
        checks += [limits.same(t.name, v, size) for t, v in zip(told, values)]
        checks += [limits.same(t.name, v, size) for t, v in zip(away, negative)]
        checks += _tokens(model, told, values) + _tokens(model, told, negative)
        if guided:
            checks.append(limits.finite("guidance_scale", options[1]))
        if given:
            checks += [
                (
                    (given["strength"] > 0) & (given["strength"] <= 1),
                    "`strength` must be in (0, 1].",
                ),
                limits.within("images", given["x"], low, high),
                limits.finite("images", given["x"]),
                limits.same("images", given["x"], size),
                limits.within("mask", given["mask"], 0, 1),
                limits.same("mask", given["mask"], size, one=True),
            ]
        size, values, options, given, negative = limits.checked(
            (size, values, options, given or {}, negative), *checks
        )
        num_steps, *scale, seed = options
        with model.averaged():
            cond = null = encode(*values)
            if negative:
                null = encode(*negative)
            elif told:
                null = model.conditioner.null(size)
        scale = scale[0] if scale else tf.constant(1.0)
        return {"images": step(cond, null, num_steps, scale, seed, tf.range(size), given)}

    @served([*told, *count, *rest])
    def generate(*arguments):
        size = tf.shape(arguments[0])[0] if told else arguments[0]
        return draw(size, arguments[: len(told)], arguments[-len(rest) :])

    @served([*told, *away, *rest])
    def generate_with_negatives(*arguments):
        values, negative = arguments[: len(told)], arguments[len(told) : -len(rest)]
        return draw(tf.shape(values[0])[0], values, arguments[-len(rest) :], negative=negative)

    @served([*told, *begin, *rest])
    def edit(*arguments):
        x, mask, strength = arguments[len(told) : -len(rest)]
        given = {"x": x, "mask": mask, "strength": strength}
        return draw(tf.shape(x)[0], arguments[: len(told)], arguments[-len(rest) :], given)

    suffix = "_from_tokens" if inputs == "token_ids" else ""
    functions = {"serving_default": generate, f"generate{suffix}": generate}
    if negatives:
        functions[f"generate_with_negatives{suffix}"] = generate_with_negatives
    if editing:
        functions[f"edit{suffix}"] = edit
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
    told, encode, _ = _door(model, "prompts")
    measure = model.likelihood_step(solvers.DormandPrince(), num_probes, portable=True)
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")

    @served([images, *told, SEED])
    def log_likelihood(*arguments):
        images, *values, seed = arguments
        size = tf.shape(images)[0]
        images, values, seed = limits.checked(
            (images, values, seed),
            limits.batch("images", images, limits.now_chosen().max_batch),
            limits.finite("images", images),
            *(limits.same(t.name, v, size) for t, v in zip(told, values)),
        )
        with model.averaged():
            cond = encode(*values)
        return {"log_likelihood": measure(images, cond, seed)}

    return log_likelihood


def _door(model, inputs):
    """What a client tells a model, the function that encodes it, and the objects that this uses."""
    conditioner = model.conditioner
    text = isinstance(conditioner, TextEncoder)
    if inputs not in INPUTS:
        raise ValueError(f"`inputs` must be one of {INPUTS}. Received: inputs={inputs!r}.")
    if not text and conditioner is not None and type(conditioner) is not Labels:
        raise TypeError(
            f"A {type(model).__name__} can be exported when it has no conditioner, Labels or a "
            f"TextEncoder. Received one of type {type(conditioner).__name__}."
        )
    if not text and inputs == "token_ids":
        raise ValueError("`inputs` must be 'prompts' for a model without a TextEncoder.")
    if conditioner is None:
        return [], lambda: None, []
    if not text:
        return [tf.TensorSpec([None], tf.int32, "labels")], conditioner, []
    if inputs == "prompts":
        told = [tf.TensorSpec([None], tf.string, "prompts")]
        return told, conditioner, [conditioner.parts.tokenizer]
    row = [None, conditioner.sequence_length]
    told = [tf.TensorSpec(row, tf.int32, "token_ids"), tf.TensorSpec(row, tf.bool, "padding_mask")]
    return told, conditioner.encode, []


def _tokens(model, told, values):
    """Checks of ids that a client has made: each known, and of each text one that is real."""
    if len(told) != 2 or not values:
        return []
    ids, mask = values
    most = model.conditioner.parts.tokenizer.vocabulary_size() - 1
    real = tf.reduce_all(tf.reduce_any(mask, axis=1))
    return [
        limits.within(told[0].name, ids, 0, most),
        (real, f"`{told[1].name}` must mark a token of each text."),
    ]
