"""The export of the parts of a model to a folder.

    <directory>/parts.json            shapes, schedule, defaults; see
                                      `kgen.serving.parts.description`
    <directory>/null_condition.json   the null condition of the denoiser, one row
    <directory>/denoiser.tflite, denoiser.onnx, ...
    <directory>/vocabulary/           the vocabulary of the tokenizer

The loop of the solver is the client's. That of `examples/parts.py` needs only NumPy.
"""

import json
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

from kgen.checks import check_one_of, check_path
from kgen.files.replacing import check_free, replaced
from kgen.layer_tree import layers_of
from kgen.models.generative_model import GenerativeModel
from kgen.serving.parts import description, litert, onnx_file
from kgen.serving.signature import ExportFunction
from kgen.types import Path
from kgen.version import __version__

Runtime: TypeAlias = Literal["litert", "onnx"]
"""A key of `RUNTIMES`."""

RUNTIMES = {"litert": ("tflite", litert.convert), "onnx": ("onnx", onnx_file.convert)}
DTYPES = ("float16", "int8")
FILES = {"parts.json", "null_condition.json", "vocabulary"}
MAX_BYTES = 2**31 - 1  # of a file, in either format
FORMAT = 1


def export_parts(
    model: GenerativeModel,
    directory: Path,
    *,
    runtimes: Runtime | Sequence[Runtime] = ("litert", "onnx"),
    dtype: Literal["float16", "int8"] | None = None,
    **options: Any,
) -> None:
    """Writes each network of a model as a LiteRT and an ONNX file.

    The networks of a latent diffusion model are its text encoder or other conditioner, its denoiser
    and its decoder; those of a diffusion model the first two; that of an autoencoder its decoder.
    `parts.json` describes their inputs and outputs and how to sample with them
    (`kgen.serving.parts.description`). The folder is written completely or not at all. Parts that
    are already there are replaced.

    Args:
        model: a model with `part_functions`, such as `LatentDiffusion` or `VAE`.
        directory: folder to write; missing parents are created.
        runtimes: the runtime or the runtimes for which to write. ONNX needs the extra `runtimes`.
        dtype: type of the large weights in the files: `"float16"` for half the size, `"int8"` for
            about a quarter, None for float32; see `kgen.serving.parts.litert` and
            `kgen.serving.parts.onnx_file`.
        **options: arguments of `model.part_functions`. For models that denoise: `solver`, a
            deterministic `DPMSolver` of order 1 or 2 or `DDIM`, and `size` of the pictures, height
            and width.

    Raises:
        TypeError: if the model has no parts or does not have an option, or if `directory` is not a
            path.
        ValueError: for another runtime or `dtype`, or if a network cannot be written, because it
            computes in half precision, is larger than 2 GB, or has an operation for which the
            runtime has no operator.
        ImportError: if `"onnx"` is among the runtimes and tf2onnx is not installed.
        FileExistsError: if `directory` is a file, or holds other files than parts.

    Example:
        >>> import json, pathlib, tempfile
        >>> from kgen import VAE
        >>> from kgen.networks import mlp
        >>> model = VAE(mlp((8, 8, 1), (4,)), mlp((2,), (8, 8, 1)), "bernoulli")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_parts(model, folder, runtimes="litert")
        ...     description = json.loads(pathlib.Path(folder, "parts.json").read_text())
        >>> description["parts"]["decoder"]["files"], description["shapes"]["latents"]
        ({'litert': 'decoder.tflite'}, [2])
    """
    if not callable(getattr(model, "part_functions", None)):
        raise TypeError(
            "`model` must have a method `part_functions`, as LatentDiffusion and VAE do. "
            f"Received: model={model!r} of type {type(model).__name__}."
        )
    runtimes = (runtimes,) if isinstance(runtimes, str) else tuple(runtimes)
    for runtime in runtimes:
        check_one_of("runtimes", runtime, RUNTIMES)
    if not runtimes:
        raise ValueError(f"`runtimes` must be some of {[*RUNTIMES]}. Received: an empty sequence.")
    if dtype is not None:
        check_one_of("dtype", dtype, DTYPES)
    directory = check_path("directory", directory).absolute()
    check_free(directory, FILES, "parts.json", "parts", (".tflite", ".onnx"))
    _check_precision(model)
    functions, described_model = model.part_functions(**options)
    with replaced(directory) as folder:
        folder.mkdir()
        described_vocabulary = {}
        if model.conditioner is not None:
            described_vocabulary = model.conditioner.write_vocabulary(folder / "vocabulary")
            null = description.null_condition(model, options.get("size"))
            (folder / "null_condition.json").write_text(json.dumps(null), encoding="utf-8")
        described_parts = {}
        for name, function in functions.items():
            _check_size(name, function)
            files = {}
            for runtime in runtimes:
                ending, convert = RUNTIMES[runtime]
                files[runtime] = f"{name}.{ending}"
                (folder / files[runtime]).write_bytes(convert(function, dtype))
            described_parts[name] = {"files": files, **description.inputs_and_outputs(function)}
        content = {
            "format": FORMAT,
            "kgen": __version__,
            "model": type(model).__name__,
            "weights": dtype or "float32",
            "parts": described_parts,
            **described_model,
            **described_vocabulary,
        }
        text = json.dumps(content, indent=1)
        (folder / "parts.json").write_text(text, encoding="utf-8")


def _check_precision(model: GenerativeModel) -> None:
    """Checks that no layer of a model computes in half precision.

    Raises:
        ValueError: if one does.
    """
    half = {layer.compute_dtype for layer in layers_of(model)} & {"float16", "bfloat16"}
    if half:
        raise ValueError(
            "`model` must compute in float32 to be exported as parts: open it with "
            "`kgen.from_preset(folder)`. "
            f"Received: layers in {' and '.join(sorted(half))}."
        )


def _check_size(name: str, function: ExportFunction) -> None:
    """Checks that the variables of a part fit in a file.

    Raises:
        ValueError: if they do not.
    """
    variables = function.get_concrete_function().graph.variables
    size = sum(v.dtype.size * v.shape.num_elements() for v in variables)
    if size > MAX_BYTES:
        raise ValueError(
            "`model` must have parts of less than 2 GB, the limit of the file formats. "
            f"Received: a {name} of {size / 1e9:.1f} GB."
        )
