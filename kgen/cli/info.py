"""`kgen info`: what a model is and how it was trained, or how a picture was made."""

import json
import math
import pathlib
import re

from kgen.cli import metadata
from kgen.cli.errors import UsageError
from kgen.cli.models import CONFIG, locate, open_model, sum_of
from kgen.serving.typed import class_names, takes

MAX_CARD = 2**20


def run(args, session):
    """Returns the facts as a dictionary, and lines for a person."""
    path = pathlib.Path(args.what)
    if path.is_file():
        return of_picture(path)
    return of_model(args.what, session)


def of_picture(path):
    """What a picture file says of itself."""
    said, facts = metadata.read(path)
    result = {"file": str(path), **facts, "made_by_kgen": bool(said), **said}
    height, width = facts["size"]
    frames = f", {facts['frames']} frames" if facts["frames"] > 1 else ""
    lines = [f"{path}: {facts['format']}, {width} x {height}, {facts['mode']}{frames}"]
    if not said:
        return result, [*lines, "It does not say how it was made."]
    for name in ("prompt", "negative", "seed", "model"):
        if name in said:
            lines.append(f"{name}: {said[name]}")
    settings = {k: v for k, v in said["settings"].items() if k != "command"}
    lines += [f"{name}: {value}" for name, value in settings.items()]
    if said["settings"].get("command") == "generate":
        lines.append(f"Again: kgen generate --like {path}")
    return result, lines


def of_model(name, session):
    """What a model is: its kind, sizes, parameters, card and training."""
    folder = locate(name)
    text = card_of(folder)
    model, _ = open_model(name, session)
    parts = parameters(model)
    written = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("versions", {})
    result = {
        "model": str(name),
        "folder": str(folder),
        "kind": type(model).__name__,
        "draws": list(model.data_shape),
        "latents": _latents(model),
        "takes": takes(model),
        "classes": class_names(model),
        "parameters": sum(parts.values()),
        "parts": parts,
        "bytes": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()),
        "sha256": sum_of(folder),
        "versions": written,
        "licence": licence_of(text),
        "training": training_of(folder),
        "card": text,
    }
    shape = " x ".join(map(str, result["draws"]))
    lines = [f"{name}: {result['kind']} of {shape}", f"folder: {folder}"]
    if result["latents"]:
        lines.append(f"latents: {' x '.join(map(str, result['latents']))}")
    given = {None: "nothing", "texts": "a text", "classes": "a class", "other": "other values"}
    lines.append(f"conditional on: {given[result['takes']]}")
    if result["classes"]:
        lines.append(f"classes: {', '.join(result['classes'])}")
    sizes = ", ".join(f"{part} {count:,}" for part, count in parts.items())
    lines.append(f"parameters: {result['parameters']:,} ({sizes})")
    lines.append(f"on disk: {result['bytes'] / 1e6:.1f} MB, written by {written}")
    lines.append(f"licence: {result['licence'] or 'its card does not say'}")
    lines.append(f"trained: {summary_of(result['training'], text) or 'its card does not say'}")
    return result, lines


def parameters(model):
    """Numbers of weights by part, the averages of training left out."""
    counts = {}
    for label, attribute in (
        ("network", "network"),
        ("autoencoder", "autoencoder"),
        ("encoder", "encoder"),
        ("decoder", "decoder"),
        ("conditioner", "conditioner"),
    ):
        part = getattr(model, attribute, None)
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


def _latents(model):
    shape = getattr(getattr(model, "autoencoder", model), "latent_shape", None)
    try:
        return None if shape is None else [int(number) for number in shape]
    except (TypeError, ValueError):
        return None


def card_of(folder):
    """The card of a model: its README.md, or its section in that of the folder above; or None."""
    own = _read(folder / "README.md")
    if own is not None:
        return own
    above = _read(folder.absolute().parent / "README.md")
    if above is None:
        return None
    sections = re.split(r"^(?=## )", above, flags=re.MULTILINE)
    title = re.compile(rf"## {re.escape(folder.name)}\b")
    return next((section.strip() for section in sections if title.match(section)), None)


def licence_of(card):
    """The first sentence of a card that speaks of a licence, or None."""
    for line in (card or "").splitlines():
        if re.search(r"licen[cs]e", line, re.IGNORECASE) and not line.startswith("#"):
            return line.strip(" -*|")
    return None


def training_of(folder):
    """What `kgen finetune` and `kgen train` noted of the training, or None."""
    text = _read(folder / "training.json")
    try:
        noted = json.loads(text) if text else None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{folder / 'training.json'} is damaged: {error}") from error
    return noted if isinstance(noted, dict) else None


def summary_of(noted, card):
    """One line on the training."""
    if noted:
        return (
            f"{noted.get('steps')} steps on {noted.get('pictures')} pictures of "
            f"{noted.get('folder')}, from {noted.get('model')} ({noted.get('command')})"
        )
    for paragraph in re.split(r"\n\s*\n", card or ""):
        line = " ".join(paragraph.split())
        if re.match(r"(It was )?[Tt]rained\b", line):
            return re.sub(r":$", "", line)
    return None


def _read(path):
    if not path.is_file() or path.stat().st_size > MAX_CARD:
        return None
    return path.read_text(encoding="utf-8", errors="replace")
