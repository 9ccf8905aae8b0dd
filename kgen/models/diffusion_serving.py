"""Diffusion models as functions for a server.

Text-to-image takes strings and numbers and returns pictures.

    prompts --tokenizer--> ids, mask --text encoder--> cond --solver, decoder--> pictures --> PNG

There are two doors. `"prompts"` takes strings; its tokenizer is made of operations of TensorFlow
Text, which TensorFlow Serving has built in and Python gets from `import tensorflow_text` (which
imports Keras; `examples/export_and_serve.py` loads the operations alone).
`"token_ids"` begins one arrow later and needs TensorFlow's core operations only; the client
tokenizes (`TextEncoder.tokenize`).

    prompts         string [B]; longer ones are truncated     | token_ids     int32 [B, L]
                                                              | padding_mask  bool [B, L]
    num_steps       int32 [], at least 1
    guidance_scale  float32 []
    seed            int32 [2]; (s, 0) makes the pictures of `generate(..., seed=s)` for s < 2^31

All are arguments of one graph, so no call traces again. The unconditional branch of the guidance
sees the empty prompt. The whole batch is made at once.

`edit`, which is there if asked for, begins from pictures and not from noise alone:

    images    float32 [B, H, W, C] in [-1, 1]
    mask      float32 [B or 1, H, W, 1], 1 where to paint; ones paint all of it over
    strength  float32 [], the time in (0, 1] to begin from; 1 keeps nothing of what is painted over

The PNG files are named `png_bytes` because the REST interface of TensorFlow Serving sends a string
as base64 only if its name ends in `_bytes`; as text a PNG would be broken.
"""

import tensorflow as tf

from kgen import solvers
from kgen.conditioning import Labels, TextEncoder

INPUTS = ("prompts", "token_ids")


def diffusion(model, solver="dpm", num_probes=1, editing=False):
    """Makes the functions that a SavedModel of a diffusion or score model offers.

    Args:
        model: a `DiffusionModel` or `ScoreModel`.
        solver: of `generate` and `edit`.
        num_probes: random vectors in each `log_likelihood`.
        editing: whether it can begin from examples, by `edit`.

    Returns:
        The functions by name: `generate`, also as `serving_default`, from a number of samples, from
        labels or from prompts; `log_likelihood` of data, in nats; and `edit`, if asked for; and the
        trackable objects besides variables that they use.

    Raises:
        TypeError: if the model's conditioner is another one than `Labels` and `TextEncoder`.
    """
    step = model.generate_step(solver)
    measure = model.likelihood_step(solvers.DormandPrince(), num_probes)
    images = tf.TensorSpec([None, *model.data_shape], tf.float32, "images")
    rest = [tf.TensorSpec([], tf.int32, "num_steps"), tf.TensorSpec([2], tf.int32, "seed")]
    begin = _edit_signature(model.data_shape)
    if model.conditioner is None:

        def draw(num_samples, num_steps, seed, given):
            indices, scale = tf.range(num_samples), tf.constant(1.0)
            return {"images": step(None, None, num_steps, scale, seed, indices, given)}

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32, "num_samples"), *rest])
        def generate(num_samples, num_steps, seed):
            return draw(num_samples, num_steps, seed, {})

        @tf.function(input_signature=[*begin, *rest])
        def edit(images, mask, strength, num_steps, seed):
            given = {"x": images, "mask": mask, "strength": strength}
            return draw(tf.shape(images)[0], num_steps, seed, given)

        @tf.function(input_signature=[images, rest[1]])
        def log_likelihood(images, seed):
            return {"log_likelihood": measure(images, None, seed)}

        resources = []
    else:
        kinds = {Labels: ("labels", tf.int32), TextEncoder: ("prompts", tf.string)}
        if type(model.conditioner) not in kinds:
            raise TypeError(
                f"A {type(model).__name__} can be exported when it has no conditioner, Labels or a "
                f"TextEncoder. Received one of type {type(model.conditioner).__name__}."
            )
        name, dtype = kinds[type(model.conditioner)]
        condition = tf.TensorSpec([None], dtype, name)

        rest.insert(1, tf.TensorSpec([], tf.float32, "guidance_scale"))

        def draw(condition, num_steps, guidance_scale, seed, given):
            size = tf.size(condition)
            with model.averaged():
                cond, null = model.conditioner(condition), model.conditioner.null(size)
            images = step(cond, null, num_steps, guidance_scale, seed, tf.range(size), given)
            return {"images": images}

        @tf.function(input_signature=[condition, *rest])
        def generate(condition, num_steps, guidance_scale, seed):
            return draw(condition, num_steps, guidance_scale, seed, {})

        @tf.function(input_signature=[condition, *begin, *rest])
        def edit(condition, images, mask, strength, num_steps, guidance_scale, seed):
            given = {"x": images, "mask": mask, "strength": strength}
            return draw(condition, num_steps, guidance_scale, seed, given)

        @tf.function(input_signature=[images, condition, rest[-1]])
        def log_likelihood(images, condition, seed):
            with model.averaged():
                cond = model.conditioner(condition)
            return {"log_likelihood": measure(images, cond, seed)}

        resources = [model.conditioner.parts.tokenizer] if name == "prompts" else []
    functions = {"generate": generate, "log_likelihood": log_likelihood}
    if editing:
        functions["edit"] = edit
    return {**functions, "serving_default": generate}, resources


def _edit_signature(shape):
    """What `edit` of data of a shape begins from: examples, a mask and a time."""
    return [
        tf.TensorSpec([None, *shape], tf.float32, "images"),
        tf.TensorSpec([None, *shape[:-1], 1], tf.float32, "mask"),
        tf.TensorSpec([], tf.float32, "strength"),
    ]


def text_to_image(model, inputs="prompts", solver="dpm", editing=False):
    """Makes the functions that a SavedModel of a `LatentDiffusion` offers.

    Args:
        model: a `LatentDiffusion` with a `TextEncoder`.
        inputs: `"prompts"` or `"token_ids"`.
        solver: as of `LatentDiffusion.generate`.
        editing: whether it can begin from pictures, by `edit` or `edit_from_tokens`.

    Returns:
        The functions, by the names of their signatures, and the trackable objects besides variables
        that they use. `serving_default` and `edit` return `{"images": uint8 [B, H, W, C]}` and
        `generate_png` `{"png_bytes": string [B]}`; for token ids `generate_from_tokens` is another
        name of `serving_default`.

    Raises:
        TypeError: if the model's conditioner is not a `TextEncoder`.
        ValueError: for other `inputs`.
    """
    encoder, step = model.conditioner, model.generate_step(solver)
    if not isinstance(encoder, TextEncoder):
        raise TypeError(
            "A LatentDiffusion can be exported when its conditioner is a TextEncoder. "
            f"Received one of type {type(encoder).__name__}."
        )
    if inputs not in INPUTS:
        raise ValueError(f"`inputs` must be one of {INPUTS}. Received: inputs={inputs!r}.")

    def pictures(cond, num_steps, guidance_scale, seed, given=None):
        positive = tf.debugging.assert_positive(num_steps, "`num_steps` must be at least 1.")
        with tf.control_dependencies([positive]):
            num_steps = tf.identity(num_steps)
        batch_size = tf.shape(cond["mask"])[0]
        null, indices = encoder.null(batch_size), tf.range(batch_size)
        return step(cond, null, num_steps, guidance_scale, seed, indices, given or {})

    def edited(cond, images, mask, strength, *rest):
        drawn = pictures(cond, *rest, {**model.begin(images, mask), "strength": strength})
        return {"images": model.keep(images, mask, drawn)}

    begin = _edit_signature(model.autoencoder.data_shape)
    rest = [
        tf.TensorSpec([], tf.int32, "num_steps"),
        tf.TensorSpec([], tf.float32, "guidance_scale"),
        tf.TensorSpec([2], tf.int32, "seed"),
    ]
    if inputs == "prompts":
        told = [tf.TensorSpec([None], tf.string, "prompts")]
        signature = [*told, *rest]

        @tf.function(input_signature=signature)
        def generate(prompts, num_steps, guidance_scale, seed):
            return {"images": pictures(encoder(prompts), num_steps, guidance_scale, seed)}

        @tf.function(input_signature=signature)
        def generate_png(prompts, num_steps, guidance_scale, seed):
            return _png(generate(prompts, num_steps, guidance_scale, seed)["images"])

        @tf.function(input_signature=[*told, *begin, *rest])
        def edit(prompts, *arguments):
            return edited(encoder(prompts), *arguments)

        functions = {"serving_default": generate, "generate_png": generate_png}
        return functions | ({"edit": edit} if editing else {}), [encoder.parts.tokenizer]

    row = [None, encoder.sequence_length]
    told = [
        tf.TensorSpec(row, tf.int32, "token_ids"),
        tf.TensorSpec(row, tf.bool, "padding_mask"),
    ]
    signature = [*told, *rest]

    @tf.function(input_signature=signature)
    def generate_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed):
        cond = encoder.encode(token_ids, padding_mask)
        return {"images": pictures(cond, num_steps, guidance_scale, seed)}

    @tf.function(input_signature=signature)
    def generate_png_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed):
        images = generate_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed)
        return _png(images["images"])

    @tf.function(input_signature=[*told, *begin, *rest])
    def edit_from_tokens(token_ids, padding_mask, *arguments):
        return edited(encoder.encode(token_ids, padding_mask), *arguments)

    functions = {
        "serving_default": generate_from_tokens,
        "generate_from_tokens": generate_from_tokens,
        "generate_png": generate_png_from_tokens,
    }
    return functions | ({"edit_from_tokens": edit_from_tokens} if editing else {}), []


def _png(images):
    return {"png_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)}
