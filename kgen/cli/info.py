"""`kgen info`: what a model is and how it was trained, or how a picture was made."""

from __future__ import annotations

import argparse
import itertools
import json
import math
import pathlib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kgen.cli import metadata
from kgen.cli.errors import UsageError
from kgen.cli.models import CONFIG, locate, open_model, weights_sha256
from kgen.serving.capabilities import class_names, condition_kind

if TYPE_CHECKING:
    from kgen.cli.session import Result, Session
    from kgen.models.generative_model import GenerativeModel

MAX_CARD_BYTES = 2**20


def run(args: argparse.Namespace, session: Session) -> Result:
    """Describes a model or a picture file.

    Raises:
        CommandError: if the model or the file cannot be opened.
        UsageError: if there is no such model, or the record of its training is damaged.
    """
    path = pathlib.Path(args.target)
    if path.is_file():
        return describe_picture(path)
    return describe_model(args.target, session)


def describe_picture(path: pathlib.Path) -> Result:
    """Describes a picture file: its format, and how it was made if kgen made it.

    Raises:
        CommandError: if the file cannot be read as a picture.
    """
    values, facts = metadata.read(path)
    result = {"file": str(path), **facts, "made_by_kgen": bool(values), **values}
    height, width = facts["size"]
    frames = f", {facts['frames']} frames" if facts["frames"] > 1 else ""
    lines = [f"{path}: {facts['format']}, {width} x {height}, {facts['mode']}{frames}"]
    if not values:
        return result, [*lines, "It does not say how it was made."]
    for name in ("prompt", "negative", "seed", "model"):
        if name in values:
            lines.append(f"{name}: {values[name]}")
    settings = {k: v for k, v in values["settings"].items() if k != "command"}
    lines += [f"{name}: {value}" for name, value in settings.items()]
    if values["settings"].get("command") == "generate":
        lines.append(f"To repeat it: kgen generate --like {path}")
    return result, lines


def describe_model(name: str, session: Session) -> Result:
    """Describes a model: its class, shapes, parameters, card and training.

    Raises:
        CommandError: if the model cannot be opened.
        UsageError: if there is no such model, or the record of its training is damaged.
    """
    folder = locate(name)
    text = card_of(folder)
    model, _ = open_model(name, session)
    parts = parameters(model)
    versions = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("versions", {})
    result = {
        "model": str(name),
        "folder": str(folder),
        "kind": type(model).__name__,
        "draws": list(model.data_shape),
        "latents": _latent_shape(model),
        "takes": condition_kind(model),
        "classes": class_names(model),
        "parameters": sum(parts.values()),
        "parts": parts,
        "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "sha256": weights_sha256(folder),
        "versions": versions,
        "licence": licence_of(text),
        "training": training_of(folder),
        "card": text,
    }
    shape = " x ".join(map(str, result["draws"]))
    lines = [f"{name}: {result['kind']} of {shape}", f"folder: {folder}"]
    if result["latents"]:
        lines.append(f"latents: {' x '.join(map(str, result['latents']))}")
    kinds = {None: "nothing", "texts": "a text", "classes": "a class", "other": "other values"}
    lines.append(f"conditional on: {kinds[result['takes']]}")
    if result["classes"]:
        lines.append(f"classes: {', '.join(result['classes'])}")
    sizes = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    lines.append(f"parameters: {result['parameters']:,} ({sizes})")
    if isinstance(versions, dict):
        versions = ", ".join(f"{package} {version}" for package, version in versions.items())
    lines.append(f"on disk: {result['bytes'] / 1e6:.1f} MB, written by {versions or 'unknown'}")
    lines.append(f"licence: {result['licence'] or 'its card does not say'}")
    lines.append(f"trained: {summary_of(result['training'], text) or 'its card does not say'}")
    return result, lines


def parameters(model: GenerativeModel) -> dict[str, int]:
    """Returns the numbers of weights of the parts of a model, without averaged weights."""
    counts = {}
    for label in ("network", "autoencoder", "encoder", "decoder", "conditioner"):
        part = getattr(model, label, None)
        if part is None or not hasattr(part, "weights"):
            continue
        backbone = getattr(getattr(part, "parts", None), "backbone", None)
        weights = {id(v): v for v in [*part.weights, *getattr(backbone, "weights", [])]}
        averages = getattr(part, "averages", None)
        left_out = {id(v) for v in getattr(averages, "weights", [])}
        count = sum(math.prod(v.shape) for v in weights.values() if id(v) not in left_out)
        if count:
            counts[label] = count
    return counts or {"model": model.count_params()}


def _latent_shape(model: GenerativeModel) -> list[int] | None:
    """Returns the shape of the latents of an autoencoder, or None if there is not one shape."""
    shape = getattr(getattr(model, "autoencoder", model), "latent_shape", None)
    try:
        return None if shape is None else [int(number) for number in shape]
    except (TypeError, ValueError):
        return None


def card_of(folder: pathlib.Path) -> str | None:
    """Returns the card of a model.

    Returns:
        The text of README.md in the folder; else the section with the name of the folder in the
        README.md of its parent folder; or None.
    """
    own = _read(folder / "README.md")
    if own is not None:
        return own
    parent = _read(folder.absolute().parent / "README.md")
    if parent is None:
        return None
    sections = re.split(r"^(?=## )", parent, flags=re.MULTILINE)
    title = re.compile(rf"## {re.escape(folder.name)}\b")
    return next((section.strip() for section in sections if title.match(section)), None)


def licence_of(card: str | None) -> str | None:
    """Returns a card from the first line that mentions a licence to the end of its paragraph.

    A table's line, or an item of a list, is a paragraph of its own. None without such a line.
    """
    lines = (card or "").splitlines()
    for number, line in enumerate(lines):
        if re.search(r"licen[cs]e", line, re.IGNORECASE) and not line.startswith("#"):
            rest = itertools.takewhile(re.compile(r"[^\s#|*-]").match, lines[number + 1 :])
            rest = [] if line.startswith("|") else rest
            return " ".join([line.strip(" -*|"), *rest])
    return None


def training_of(folder: pathlib.Path) -> dict[str, Any] | None:
    """Returns the record of `kgen finetune` or `kgen train` (`training.json`), or None.

    Raises:
        UsageError: if the file is not JSON.
    """
    text = _read(folder / "training.json")
    try:
        record = json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder / 'training.json'} is damaged: {error}") from error
    return record if isinstance(record, dict) else None


def summary_of(record: Mapping[str, Any] | None, card: str | None) -> str | None:
    """Returns one line about the training of a model.

    Args:
        record: what `training_of` returned.
        card: the card of the model, or None. Its first paragraph that begins with "Trained" is used
            if there is no record.
    """
    if record:
        return (
            f"{record.get('steps')} steps on {record.get('pictures')} pictures of "
            f"{record.get('folder')}, from {record.get('model')} ({record.get('command')})"
        )
    for paragraph in re.split(r"\n\s*\n", card or ""):
        line = " ".join(paragraph.split())
        if re.match(r"(It was )?[Tt]rained\b", line):
            return re.sub(r":$", "", line)
    return None


def _read(path: pathlib.Path) -> str | None:
    """Returns the text of a file, or None if there is no file or it is too large for a card."""
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return None
    return path.read_text(encoding="utf-8", errors="replace")
