"""Loading of text encoders: from a folder, a published preset, or the file of a model.

The configuration of an encoder in the file of a model names a folder and the checksums of its
files:

    {"name": ..., "preset": a folder, "sha256": ..., "tokenizer_sha256": ...,
     "sequence_length": 32, "trainable": false, "words": {...}}
"""

import pathlib
from typing import Any

from kgen.conditioning import text_presets, tokenizers
from kgen.conditioning.conditioner import Conditioner
from kgen.files.folders import Opened, named_folder, now_opened
from kgen.files.text import reason
from kgen.types import Path

OPTIONS = {"name", "sequence_length", "trainable", "words"}


def load(
    cls: type[Conditioner],
    preset: Path,
    folder: pathlib.Path | None,
    sequence_length: int | None = None,
    **kwargs: Any,
) -> Conditioner:
    """Builds the encoder of a folder, or of a published preset.

    Args:
        cls: the class, `TextEncoder`.
        preset: the path or the name by which the caller knows the encoder.
        folder: its folder; None for a published preset.
        sequence_length: number of ids in a row; None for the setting of the preset.
        **kwargs: arguments of `cls`, which replace the settings of the preset.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or unsafe, or the preset is not a text encoder.
    """
    if folder is None or not text_presets.is_keras_preset(folder):
        backbone, tokenizer = text_presets.load_published(folder or preset)
    else:
        text_presets.check_files(folder)
        backbone = text_presets.load_backbone(folder)
        tokenizer = tokenizers.build(folder)
    settings = text_presets.read_settings(folder) | kwargs
    if sequence_length is not None:
        settings["sequence_length"] = sequence_length
    backbone = getattr(backbone, "text_encoder", backbone)
    try:
        encoder = cls(backbone, tokenizer, **settings)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{folder or preset} is not a text encoder: {reason(error)}.") from error
    encoder.origin = text_presets.origin(preset, folder, backbone, tokenizer)
    return encoder


def load_config(cls: type[Conditioner], config: dict[str, Any]) -> Conditioner:
    """Builds the encoder of a model that is being loaded.

    Args:
        cls: the class, `TextEncoder`.
        config: the configuration of the encoder in the file of the model.

    Raises:
        ValueError: if no model is being loaded by kgen, the configuration names no folder that may
            be opened, or the encoder in the folder is not that of the model.
    """
    place = now_opened()
    if place is None:
        raise ValueError(
            "A TextEncoder is saved in a folder of its own, which is not in the file: load the "
            "file with `kgen.load_model(path)` or `kgen.from_preset(directory)`, which find it "
            "beside the file, or pass them the folder as `text_encoder`. "
            f"Received: preset={config.get('preset')!r:.200}."
        )
    check_config(config)
    preset, folder, options = _parse(config, place)
    encoder = load(cls, preset, folder, **options)
    text_presets.check_sums(_checksums(config), encoder.origin, preset)
    return encoder


def check_config(config: dict[str, Any]) -> None:
    """Compares the checksums in a configuration with those of the files, without loading them.

    Raises:
        ValueError: if they differ, or the configuration names no folder that may be opened.
    """
    place = now_opened()
    if place is not None:
        preset, folder, _ = _parse(config, place)
        if folder is not None and text_presets.is_keras_preset(folder):
            sums = text_presets.file_sums(folder)
            text_presets.check_sums(_checksums(config), sums, preset)


def _parse(
    config: dict[str, Any], place: Opened
) -> tuple[Any, pathlib.Path | None, dict[str, Any]]:
    """Validates a configuration and finds the folder of the encoder.

    Args:
        config: the configuration.
        place: the file of the model, which determines where the folder may be.

    Returns:
        The preset (a path or a name), its folder or None for a published preset, and the options of
        the encoder.

    Raises:
        ValueError: if the configuration has no checksums or other options, or names no folder that
            may be opened.
    """
    options = {key: value for key, value in config.items() if key not in text_presets.SUMS}
    preset, replacement = options.pop("preset", None), place.given
    if set(options) - OPTIONS or not _checksums(config):
        raise ValueError(
            f"{place.source} must give a TextEncoder a preset, its sums, and no other options than "
            f"name, sequence_length, trainable and words. Received: {sorted(config)}."
        )
    if replacement is not None:
        return replacement, text_presets.locate(replacement), options
    folder = named_folder(preset, place)
    if not text_presets.is_keras_preset(folder):
        raise ValueError(f"{folder} must be a text encoder in the format of KerasHub.")
    return folder, folder, options


def _checksums(config: dict[str, Any]) -> dict[str, str]:
    """Returns the checksums in a configuration, or an empty dictionary if there are none.

    Configurations of the first version have only that of the weights.
    """
    sums = {key: config[key] for key in text_presets.SUMS if key in config}
    return sums if "sha256" in sums else {}
