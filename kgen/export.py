"""Export: a model as a SavedModel, which runs without kgen and without Keras.

A SavedModel is a folder with graphs and the variables they read, for TensorFlow in any language and
for TensorFlow Serving. A model says what it has to offer in `export_functions`; here it is written
down:

    model.export_functions(**options) -> functions {name: tf.function}, resources [trackable]

Every function has one input signature and so one graph, which serves every batch size, number of
steps and guidance scale, within bounds that are part of the graph (`kgen.serving.limits`;
`loaded.limits()` tells them). The folder holds the variables that the functions read and no others:
of a model that averages its weights the averaged ones, and no optimizer.

    loaded = tf.saved_model.load(directory)
    loaded.generate(prompts=..., num_steps=..., ...)    # a dictionary comes back
    loaded.signatures["generate"](prompts=..., ...)     # the same, of tensors by keyword only

TensorFlow Serving wants one folder per version: `directory` = `<models>/<name>/<number>`.
`examples/export_and_serve.py` shows the whole way.

`kgen.export_parts` writes the networks one by one instead, for runtimes without TensorFlow.

References:
  https://www.tensorflow.org/guide/saved_model
  https://www.tensorflow.org/tfx/serving/api_rest
"""

import contextlib
import dataclasses

import tensorflow as tf

from kgen.checks import check_one_of, check_path
from kgen.files.replacing import check_free, replaced
from kgen.serving.limits import Limits, chosen
from kgen.serving.parts.writing import export_parts
from kgen.serving.signature import served
from kgen.serving.warmup import write_warm_up
from kgen.training.averaging import copies_in

DTYPES = ("float16", "bfloat16")
SAVED_MODEL_FILES = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export_saved_model(
    model,
    directory,
    *,
    max_steps=1000,
    max_batch=64,
    dtype=None,
    warm_up=False,
    parts=False,
    **options,
):
    """Writes `model` as a SavedModel.

    The folder appears complete or not at all. A SavedModel that is already there is replaced.

    Args:
        model: a model with `export_functions`, such as `LatentDiffusion` or `KLAutoencoder`.
        directory: folder to write; its parents are made.
        max_steps: largest number of solver steps in one call.
        max_batch: largest number of examples in one call.
        dtype: None, or the type of the weights in the file, `"float16"` or `"bfloat16"`: half the
            size. They are computed with in the type of the model.
        warm_up: whether to write a request of each function, which TensorFlow Serving makes while
            it loads the model (`kgen.serving.warmup`).
        parts: whether to write the networks for other runtimes instead, by `export_parts`, which is
            then given `dtype` and the `options`; or the names of the runtimes.
        **options: arguments of `model.export_functions`. Of a `LatentDiffusion`: `inputs`, of texts
            `"prompts"` (strings; the default) or `"token_ids"` (TensorFlow's core operations only),
            `solver`, `guidance`, `editing`, whether to offer image to image and inpainting too,
            `negatives`, whether to offer negative prompts, `from_noise`, whether to offer given
            noise, and `size`, of the pictures.

    Raises:
        TypeError: if the model cannot be exported, or has no such option, or a bound is no number.
        ValueError: if a bound is less than 1, an option has another value than those above, or a
            weight is too large for `dtype`.
        FileExistsError: if `directory` is a file, or holds anything else than a SavedModel.

    Example:
        >>> import tempfile
        >>> from kgen import KLAutoencoder
        >>> from kgen.networks.conv import decoder, encoder
        >>> model = KLAutoencoder(
        ...     encoder((8, 8, 3), 2, channels=(8,)), decoder((8, 8, 2), channels=(8,))
        ... )
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_saved_model(model, folder)
        ...     loaded = tf.saved_model.load(folder)
        >>> loaded.reconstruct(tf.zeros([2, 8, 8, 3]))["images"].shape
        TensorShape([2, 8, 8, 3])
    """
    if parts:
        if warm_up or (max_steps, max_batch) != (1000, 64):
            raise ValueError(
                "`parts` must be False with `warm_up`, `max_steps` or `max_batch`, which are of a "
                f"SavedModel. Received: parts={parts!r}."
            )
        runtimes = {} if parts is True else {"runtimes": parts}
        export_parts(model, directory, dtype=dtype, **runtimes, **options)
        return
    if not callable(getattr(model, "export_functions", None)):
        raise TypeError(
            "`model` must have a method `export_functions`, as LatentDiffusion and KLAutoencoder "
            f"do. Received: model={model!r} of type {type(model).__name__}."
        )
    directory = check_path("directory", directory).absolute()
    check_free(directory, SAVED_MODEL_FILES, "saved_model.pb", "a SavedModel")
    bounds = Limits(max_steps, max_batch)
    if dtype is not None:
        check_one_of("dtype", dtype, DTYPES)
    halved = contextlib.nullcontext() if dtype is None else copies_in(model, dtype)
    with chosen(bounds), halved:
        functions, resources = model.export_functions(**options)
        traced = {function: function.get_concrete_function() for function in functions.values()}
        variables = [v for concrete in traced.values() for v in concrete.graph.variables]
    module = tf.Module()
    module.resources = list(resources)
    module.weights = list({id(v): v for v in variables}.values())
    module.limits = tf.function(
        lambda: {name: tf.constant(value) for name, value in dataclasses.asdict(bounds).items()},
        input_signature=[],
    )
    callers = {function: _caller(function, concrete) for function, concrete in traced.items()}
    functions = {name: callers[function] for name, function in functions.items()}
    for name, function in functions.items():
        setattr(module, name, function)

    with replaced(directory) as partial:
        tf.saved_model.save(
            module,
            str(partial),
            signatures=functions,
            options=tf.saved_model.SaveOptions(experimental_custom_gradients=False),
        )
        if warm_up:
            write_warm_up(partial, directory.parent.name, functions)


def _caller(function, concrete):
    """A function that calls a trace of `function`, since TensorFlow traces anew what it saves."""

    @served(function.input_signature)
    def call(*arguments):
        return concrete(*arguments)

    return call
