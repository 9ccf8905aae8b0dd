"""Saving of a text encoder for the preset of a model, in its folder or beside it."""

import hashlib
import json
import pathlib
import shutil

from kgen.conditioning import text_presets, tokenizers
from kgen.conditioning.conditioner import Conditioner
from kgen.files.folders import flush


def save(encoder: Conditioner, folder: pathlib.Path, dtype: str | None) -> dict[str, str]:
    """Writes a KerasHub preset and the settings of a text encoder; see `TextEncoder`.

    Args:
        encoder: a `TextEncoder`.
        folder: the folder, created if missing.
        dtype: dtype of the weights in the file, or None for that of the backbone.

    Returns:
        The path and the checksums of the preset.
    """
    backbone, tokenizer = encoder.parts.backbone, encoder.parts.tokenizer
    if dtype is not None:
        config = backbone.get_config() | {"dtype": dtype}
        backbone = type(backbone).from_config(config)
        backbone.set_weights(encoder.parts.backbone.get_weights())
    backbone.save_to_preset(str(folder))
    tokenizer.save_to_preset(str(folder))
    write_settings(encoder, folder)
    return text_presets.origin(folder, folder, backbone, tokenizer)


def store(
    encoder: Conditioner, directory: pathlib.Path, shared: str | None, origin: dict[str, str] | None
) -> tuple[pathlib.Path, dict[str, str]]:
    """Writes the files of a text encoder for the preset of a model, in one atomic step.

    Args:
        encoder: a `TextEncoder`.
        directory: the folder of the model's preset.
        shared: None to write into a folder in `directory`, or the name of a folder beside it.
        origin: the path and the checksums of the preset from which the encoder was loaded, or None.

    Returns:
        The folder, and the checksums of its files.

    Raises:
        ValueError: if the folder exists and holds another encoder.
    """
    root = directory if shared is None else directory.absolute().parent
    partial = root / ".partial-text_encoder"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        if not _copied(origin, partial):
            encoder.save_to_preset(partial)
        write_settings(encoder, partial)
        sums = text_presets.file_sums(partial)
        settings = (partial / text_presets.SETTINGS_FILE).read_text(encoding="utf-8")
        content = hashlib.sha256("".join([*sums.values(), settings]).encode()).hexdigest()
        folder = root / (shared or f"text_encoder_{content[:12]}")
        if not folder.exists():
            for path in partial.rglob("*"):
                flush(path)
            partial.rename(folder)
        elif text_presets.file_sums(folder) != sums or text_presets.read_settings(
            folder
        ) != text_presets.read_settings(partial):
            raise ValueError(
                f"`text_encoder` must be a new folder, or that of the model's text encoder. "
                f"Received: {folder}, which holds another one."
            )
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder, sums


def _copied(origin: dict[str, str] | None, target: pathlib.Path) -> bool:
    """Copies the files of the original preset if they are unchanged; returns whether it did."""
    folder = text_presets.locate(origin["preset"]) if origin else None
    if (
        folder is None
        or not (folder / "config.json").is_file()
        or not text_presets.is_keras_preset(folder)
    ):
        return False
    if any(origin[key] != value for key, value in text_presets.file_sums(folder).items()):
        return False
    names = ["config.json", tokenizers.CONFIG, "metadata.json", "model.weights.json"]
    files = [folder / name for name in names] + sorted(folder.glob("model*.weights.h5"))
    files += sorted((folder / tokenizers.ASSETS).iterdir())
    for path in filter(pathlib.Path.is_file, files):
        copy = target / path.relative_to(folder)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
    return True


def write_settings(encoder: Conditioner, folder: pathlib.Path) -> None:
    """Writes the settings of a text encoder, such as its pooling, to a file in its folder."""
    settings = {key: getattr(encoder, key) for key in text_presets.DEFAULT_SETTINGS}
    text = json.dumps(settings, indent=4) + "\n"
    (folder / text_presets.SETTINGS_FILE).write_text(text, encoding="utf-8")
