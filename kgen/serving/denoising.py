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

    num_steps       int32 [], at least 1
    guidance_scale  float32 []; not where there is neither a conditioner nor `guidance`
    seed            int32 [2]; (s, 0) makes the pictures of `generate(..., seed=s)` for s < 2^31,
                    but for rounding

All are arguments of one graph, so no call traces again. The unconditional branch of the guidance
sees the null condition. The whole batch is made at once.

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
    bound = float(model.likelihood.high) if model.bounded else float("inf")

    def draw(size, values, options, given=None, negative=None):
        num_steps, *scale, seed = options
        positive = tf.debugging.assert_positive(num_steps, "`num_steps` must be at least 1.")
        with tf.control_dependencies([positive]):
            num_steps = tf.identity(num_steps)
        with model.averaged():
            cond = null = encode(*values)
            if negative is not None:
                null = encode(*negative)
            elif told:
                null = model.conditioner.null(size)
        scale = scale[0] if scale else tf.constant(1.0)
        return {"images": step(cond, null, num_steps, scale, seed, tf.range(size), given or {})}

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
        inside = tf.reduce_all(tf.abs(x) <= bound)
        checks = (
            ((strength > 0) & (strength <= 1), "`strength` must be in (0, 1]."),
            (inside, f"`images` must be in [-{bound:g}, {bound:g}]."),
        )
        with tf.control_dependencies([tf.debugging.Assert(ok, [text]) for ok, text in checks]):
            x = tf.identity(x)
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
