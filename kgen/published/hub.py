"""Download of published models by name, with the library `huggingface_hub` and its cache.

Only the files that kgen reads are downloaded: configurations, vocabularies, and the weights of one
variant as safetensors.
"""

import pathlib
import re

NAME = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
SMALL = (
    "model_index.json",
    "README.md",
    "scheduler/scheduler_config.json",
    "*/config.json",
    "tokenizer*/vocab.json",
    "tokenizer*/merges.txt",
    "tokenizer*/tokenizer_config.json",
)
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
STEMS |= {"text_encoder": "model", "text_encoder_2": "model"}


def is_name(value: object) -> bool:
    """Returns whether a value has the form of a name on the hub, `"owner/name"`.

    Example:
        >>> is_name("owner/name"), is_name("./folder"), is_name("owner/name/more")
        (True, False, False)
    """
    return isinstance(value, str) and NAME.fullmatch(value) is not None and value[0] != "."


def patterns(variant: str | None = None) -> list[str]:
    """Returns the patterns of the files of a model that kgen reads.

    Args:
        variant: None, or the variant of the weights, such as `"fp16"`.
    """
    middle = "" if variant is None else f".{variant}"
    weights = []
    for part, stem in STEMS.items():
        weights += [
            f"{part}/{stem}{middle}.safetensors",
            f"{part}/{stem}{middle}-?????-of-?????.safetensors",
            f"{part}/{stem}{middle}.safetensors.index.json",
        ]
        if variant is not None:
            weights += [
                f"{part}/{stem}.safetensors.index{middle}.json",
                f"{part}/{stem}.safetensors{middle}.index.json",
            ]
    return [*SMALL, *weights]


def fetch(name: str, variant: str | None = None) -> pathlib.Path:
    """Returns the folder of a model on the hub; downloads the files that are not in the cache.

    Args:
        name: `"owner/name"`.
        variant: None, or the variant of the weights, such as `"fp16"`.

    Raises:
        ImportError: if `huggingface_hub` is not installed.
        ValueError: if the name has another form.
    """
    if not is_name(name):
        raise ValueError(f'`name` must be of the form "owner/name". Received: name={name!r}.')
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            f"A model by name, {name!r}, needs the package huggingface_hub; or pass a folder."
        ) from error
    return pathlib.Path(huggingface_hub.snapshot_download(name, allow_patterns=patterns(variant)))
