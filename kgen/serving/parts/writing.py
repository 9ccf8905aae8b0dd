"""Parts in a folder: their files, what a client must know, the vocabulary of a tokenizer.

    <directory>/parts.json            shapes, schedule, defaults (`kgen.serving.parts.description`)
    <directory>/null_condition.json   what the denoiser is given for no condition, one row
    <directory>/denoiser.tflite, denoiser.onnx, ...
    <directory>/vocabulary/           of a tokenizer

The loop of the solver is the client's; `examples/parts.py` has one, which needs numpy alone.
"""

import json

from kgen.checks import check_one_of, check_path
from kgen.files.replacing import check_free, replaced
from kgen.layer_tree import layers_of
from kgen.serving.parts import description, litert, onnx_file
from kgen.version import __version__

RUNTIMES = {"litert": ("tflite", litert.convert), "onnx": ("onnx", onnx_file.convert)}
DTYPES = ("float16", "int8")
FILES = {"parts.json", "null_condition.json", "vocabulary"}
MOST_BYTES = 2**31 - 1  # of a part, in either format
FORMAT = 1


def export_parts(model, directory, *, runtimes=("litert", "onnx"), dtype=None, **options):
    """Writes the networks of `model` one by one, as LiteRT and ONNX files.

    A latent diffusion model has a text encoder or another conditioner, a denoiser and a decoder; a
    diffusion model the first two; an autoencoder a decoder. `parts.json` has their inputs and
    outputs and what else a client must know (`kgen.serving.parts.description`). The folder appears
    complete or not at all; parts that are already there are replaced.

    Args:
        model: a model with `part_functions`, such as `LatentDiffusion` or `VAE`.
        directory: folder to write; its parents are made.
        runtimes: `"litert"`, `"onnx"` or both. ONNX needs the extra `runtimes`.
        dtype: None, or the type of the large weights in the files: `"float16"`, half the size, or
            `"int8"`, a quarter; see `kgen.serving.parts.litert` and `kgen.serving.parts.onnx_file`.
        **options: arguments of `model.part_functions`. Of models that denoise: `solver`, a
            deterministic `DPMSolver` of order 1 or 2 or `DDIM`, and `size`, of the pictures.

    Raises:
        TypeError: if the model has no parts, or no such option.
        ValueError: for another runtime or `dtype`, or if a network cannot be written: it computes
            in half precision, is larger than 2 GB, or has an operation without an operator of the
            runtime.
        ImportError: if tf2onnx is not installed and `"onnx"` is among the runtimes.
        FileExistsError: if `directory` is a file, or holds anything else than parts.

    Example:
        >>> import json, pathlib, tempfile
        >>> from kgen import VAE
        >>> from kgen.networks import mlp
        >>> model = VAE(mlp((8, 8, 1), (4,)), mlp((2,), (8, 8, 1)), "bernoulli")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     export_parts(model, folder, runtimes="litert")
        ...     said = json.loads(pathlib.Path(folder, "parts.json").read_text())
        >>> said["parts"]["decoder"]["files"], said["shapes"]["latents"]
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
        raise ValueError(f"`runtimes` must be some of {[*RUNTIMES]}. Received: none.")
    if dtype is not None:
        check_one_of("dtype", dtype, DTYPES)
    directory = check_path("directory", directory).absolute()
    check_free(directory, FILES, "parts.json", "parts", (".tflite", ".onnx"))
    _check_precision(model)
    functions, said = model.part_functions(**options)
    with replaced(directory) as folder:
        folder.mkdir()
        conditioner, about = model.conditioner, {}
        if conditioner is not None:
            about = conditioner.write_vocabulary(folder / "vocabulary")
            null = description.null_condition(model, options.get("size"))
            (folder / "null_condition.json").write_text(json.dumps(null), encoding="utf-8")
        described = {}
        for name, function in functions.items():
            _check_size(name, function)
            files = {}
            for runtime in runtimes:
                ending, convert = RUNTIMES[runtime]
                files[runtime] = f"{name}.{ending}"
                (folder / files[runtime]).write_bytes(convert(function, dtype))
            described[name] = {"files": files, **description.inputs_and_outputs(function)}
        said = {
            "format": FORMAT,
            "kgen": __version__,
            "model": type(model).__name__,
            "weights": dtype or "float32",
            "parts": described,
            **said,
            **about,
        }
        text = json.dumps(said, indent=1)
        (folder / "parts.json").write_text(text, encoding="utf-8")


def _check_precision(model):
    half = {layer.compute_dtype for layer in layers_of(model)} & {"float16", "bfloat16"}
    if half:
        raise ValueError(
            "`model` must compute in float32, which is how `kgen.from_preset(folder)` opens it, "
            f"for its networks to be parts. Received: layers in {' and '.join(sorted(half))}."
        )


def _check_size(name, function):
    variables = function.get_concrete_function().graph.variables
    size = sum(v.dtype.size * v.shape.num_elements() for v in variables)
    if size > MOST_BYTES:
        raise ValueError(
            f"`model` must have parts of less than 2 GB, the limit of their files. "
            f"Received: its {name} of {size / 1e9:.1f} GB."
        )
