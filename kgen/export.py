"""Export of a model as a SavedModel, which runs without kgen and without Keras.

A SavedModel is a folder with graphs and the variables that they read, for TensorFlow in any
language and for TensorFlow Serving. A model provides its functions in `export_functions`:

    model.export_functions(**options) -> functions {name: tf.function}, resources [trackable]

Every function has one input signature and therefore one graph, for every batch size, number of
steps and guidance scale within bounds that are part of the graph (`kgen.serving.limits`;
`loaded.limits()` returns them). The folder holds only the variables that the functions read: the
averaged weights of a model that averages its weights, and no optimizer.

    loaded = tf.saved_model.load(directory)
    loaded.generate(prompts=..., num_steps=..., ...)    # returns a dictionary
    loaded.signatures["generate"](prompts=..., ...)     # the same, with keyword arguments only

TensorFlow Serving expects one folder per version: `directory` = `<models>/<name>/<number>`.
`examples/export_and_serve.py` is a complete example.

`kgen.export_parts` writes each network as a file of its own, for runtimes without TensorFlow.

References:
  https://www.tensorflow.org/guide/saved_model
  https://www.tensorflow.org/tfx/serving/api_rest
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import tensorflow as tf

from kgen.checks import check_one_of, check_path
from kgen.files.replacing import check_free, replaced
from kgen.models.generative_model import GenerativeModel
from kgen.serving.limits import Limits, use_limits
from kgen.serving.parts.writing import Runtime, export_parts
from kgen.serving.signature import ExportFunction, with_signature
from kgen.serving.warmup import write_warm_up
from kgen.training.averaging import copies_in
from kgen.types import Path

DTYPES = ("float16", "bfloat16")
SAVED_MODEL_FILES = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


def export_saved_model(
    model: GenerativeModel,
    directory: Path,
    *,
    max_steps: int = 1000,
    max_batch: int = 64,
    dtype: Literal["float16", "bfloat16", "int8"] | None = None,
    warm_up: bool = False,
    parts: bool | Runtime | Sequence[Runtime] = False,
    **options: Any,
) -> None:
    """Writes a model as a SavedModel.

    The folder is written completely or not at all. A SavedModel that is already there is replaced.

    Args:
        model: a model with `export_functions`, such as `LatentDiffusion` or `KLAutoencoder`.
        directory: folder to write; missing parents are created.
        max_steps: largest number of solver steps in one call.
        max_batch: largest number of examples in one call.
        dtype: type of the stored weights, which halves their size; None for that of the model.
            Computations have the type of the model. `"int8"` is possible with `parts` only, and
            `"bfloat16"` without `parts` only.
        warm_up: whether to write a request for each function, which TensorFlow Serving makes while
            it loads the model (`kgen.serving.warmup`).
        parts: whether to write the networks for other runtimes instead of a SavedModel, with
            `export_parts`, which gets `dtype` and `options`; or the names of the runtimes.
        **options: arguments of `model.export_functions`. For a `LatentDiffusion`: `inputs`, for
            texts `"prompts"` (strings; the default) or `"token_ids"` (operations of core TensorFlow
            only); `solver`; `guidance`; `editing`, whether to add image to image and inpainting;
            `negatives`, whether to add negative prompts; `from_noise`, whether to add a function
            that takes the initial noise; and `size` of the pictures, height and width.

    Raises:
        TypeError: if the model cannot be exported or does not have an option, if a bound is not a
            number, or if `directory` is not a path.
        ValueError: if a bound is not an integer of at least 1, an option has another value than
            those above, or a weight is too large for `dtype`; or if `parts` is used with an option
            of SavedModels.
        FileExistsError: if `directory` is a file, or holds other files than a SavedModel.

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
                "`parts` must be False with `warm_up`, `max_steps` or `max_batch`, which are "
                f"options of a SavedModel. Received: parts={parts!r}."
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
    cast = contextlib.nullcontext() if dtype is None else copies_in(model, dtype)
    with use_limits(bounds), cast:
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


def _caller(function: ExportFunction, concrete: Callable[..., Any]) -> ExportFunction:
    """Returns a function that calls a trace of `function`.

    TensorFlow traces a function again when it saves it. This saves the trace that was made with the
    bounds and the types of the export instead.
    """

    @with_signature(function.input_signature)
    def call(*arguments: tf.Tensor) -> Any:
        return concrete(*arguments)

    return call
