"""Text-to-image as functions for a server: strings and numbers in, pictures out.

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

The PNG files are named `png_bytes` because the REST interface of TensorFlow Serving sends a string
as base64 only if its name ends in `_bytes`; as text a PNG would be broken.
"""

import tensorflow as tf

from kgen.conditioning import TextEncoder

INPUTS = ("prompts", "token_ids")


def text_to_image(model, inputs="prompts", solver="dpm"):
    """Makes the functions that a SavedModel of a `LatentDiffusion` offers.

    Args:
        model: a `LatentDiffusion` with a `TextEncoder`.
        inputs: `"prompts"` or `"token_ids"`.
        solver: as of `LatentDiffusion.generate`.

    Returns:
        The functions, by the names of their signatures, and the trackable objects besides variables
        that they use. `serving_default` returns `{"images": uint8 [B, H, W, C]}` and `generate_png`
        `{"png_bytes": string [B]}`; for token ids `generate_from_tokens` is another name of
        `serving_default`.

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

    def pictures(cond, num_steps, guidance_scale, seed):
        positive = tf.debugging.assert_positive(num_steps, "`num_steps` must be at least 1.")
        with tf.control_dependencies([positive]):
            num_steps = tf.identity(num_steps)
        batch_size = tf.shape(cond["mask"])[0]
        null, indices = encoder.null(batch_size), tf.range(batch_size)
        return step(cond, null, num_steps, guidance_scale, seed, indices)

    rest = [
        tf.TensorSpec([], tf.int32, "num_steps"),
        tf.TensorSpec([], tf.float32, "guidance_scale"),
        tf.TensorSpec([2], tf.int32, "seed"),
    ]
    if inputs == "prompts":
        signature = [tf.TensorSpec([None], tf.string, "prompts"), *rest]

        @tf.function(input_signature=signature)
        def generate(prompts, num_steps, guidance_scale, seed):
            return {"images": pictures(encoder(prompts), num_steps, guidance_scale, seed)}

        @tf.function(input_signature=signature)
        def generate_png(prompts, num_steps, guidance_scale, seed):
            return _png(generate(prompts, num_steps, guidance_scale, seed)["images"])

        functions = {"serving_default": generate, "generate_png": generate_png}
        return functions, [encoder.parts.tokenizer]

    row = [None, encoder.sequence_length]
    signature = [
        tf.TensorSpec(row, tf.int32, "token_ids"),
        tf.TensorSpec(row, tf.bool, "padding_mask"),
        *rest,
    ]

    @tf.function(input_signature=signature)
    def generate_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed):
        cond = encoder.encode(token_ids, padding_mask)
        return {"images": pictures(cond, num_steps, guidance_scale, seed)}

    @tf.function(input_signature=signature)
    def generate_png_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed):
        images = generate_from_tokens(token_ids, padding_mask, num_steps, guidance_scale, seed)
        return _png(images["images"])

    return {
        "serving_default": generate_from_tokens,
        "generate_from_tokens": generate_from_tokens,
        "generate_png": generate_png_from_tokens,
    }, []


def _png(images):
    return {"png_bytes": tf.map_fn(tf.io.encode_png, images, fn_output_signature=tf.string)}
