"""The files of a text encoder written for the preset of a model, in it or beside it."""

import hashlib
import json
import pathlib
import shutil

from kgen.conditioning import text_presets, tokenizers
from kgen.files.folders import flush


def store(encoder, directory, shared, origin):
    """Writes the files of an encoder for the preset of a model in one step.

    Args:
        encoder: a `TextEncoder`.
        directory: the folder of the model's preset.
        shared: None for a folder in it, or the name of one beside it.
        origin: where the encoder is from, if that is known.

    Returns:
        The folder, and the sums of its files.

    Raises:
        ValueError: if there is such a folder, with another encoder in it.
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


def _copied(origin, target):
    """Copies the files of the folder that an encoder is from, if they are still the same."""
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


def write_settings(encoder, folder):
    """Writes how kgen reads an encoder beside its files."""
    settings = {key: getattr(encoder, key) for key in text_presets.DEFAULT_SETTINGS}
    text = json.dumps(settings, indent=4) + "\n"
    (folder / text_presets.SETTINGS_FILE).write_text(text, encoding="utf-8")
