"""Of which model, optimizer and data the saves of a training are.

`resume.json` beside the saves holds, of the model, the layers by their place, with their numbers
and names, and the sha256 of what is frozen; of the optimizer its class and settings; of the data
their form, length and batches. It is compared when a training goes on:

    another model, optimizer or batch   is an error: the state would not fit, or not mean the same
    another setting of the optimizer    is a warning: it holds from here on
"""

import hashlib
import json
import warnings

import filelock
import keras

from kgen.files.text import read_json
from kgen.layer_tree import walk
from kgen.serialization import constructor_arguments
from kgen.tensors import fingerprint

FILE, LOCK = "resume.json", ".lock"
SCALARS = (bool, int, float, str, type(None))
NOT_COMPARED = ("name", "dtype", "trainable", "seed", "batch_shape", "jit_compile")


def of(model, order):
    """Returns what tells a training from others, as plain values.

    Args:
        model: the compiled model.
        order: the data set in its order, as of `kgen.training.data.ordered`.
    """
    layers = [_layer(place, layer) for place, layer in walk(model)]
    frozen = [
        fingerprint([weight for weight in layer.weights if not weight.trainable])
        for _, layer in walk(model)
        if layer is not model and isinstance(layer, keras.Model) and not layer.trainable
    ]
    if model.frozen_weights:
        frozen.append(fingerprint(model.frozen_weights))
    settings = constructor_arguments(model) if hasattr(model, "_init_arguments") else {}
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    return {
        "model": {
            "class": type(model).__name__,
            "settings": _scalars(settings),
            "layers": hashlib.sha256(json.dumps(layers).encode()).hexdigest(),
            "frozen weights": hashlib.sha256("".join(frozen).encode()).hexdigest(),
        },
        "optimizer": {"class": type(optimizer).__name__, **_optimizer(optimizer)},
        "data": order.description,
    }


def compare(directory, identity):
    """Raises an error if the saves in a folder are of another training.

    Args:
        directory: the folder, a path.
        identity: what `of` returned.

    Raises:
        ValueError: if the model, the class of the optimizer or the data are others.
    """
    path = directory / FILE
    if not path.is_file():
        raise ValueError(
            f"{directory} holds saves of a version of kgen that did not say of which training they "
            "are: remove them to start anew."
        )
    before = read_json(path)
    differences = []
    for part in ("model", "optimizer", "data"):
        old, new = before.get(part, {}), identity[part]
        names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if part == "optimizer" and "class" not in names:
            if names:
                changes = ", ".join(f"{n} {old.get(n)} -> {new.get(n)}" for n in sorted(names))
                warnings.warn(
                    f"The training in {directory} goes on with other settings of the optimizer: "
                    f"{changes}.",
                    stacklevel=2,
                )
            continue
        differences += [f"{name} of the {part}" for name in names]
    if differences:
        raise ValueError(
            f"{directory} holds the training of something else: {', '.join(differences)} differ. "
            "Use another folder, or remove this one to start anew."
        )


def write(directory, identity):
    """Writes the file that `compare` reads, whole or not at all."""
    partial = directory / f".partial-{FILE}"
    partial.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    partial.replace(directory / FILE)


def lock(directory):
    """Takes a folder for this process; returns the lock, which has `release()`.

    Raises:
        ValueError: if another process has it.
    """
    taken = filelock.FileLock(directory / LOCK)
    try:
        taken.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(f"{directory} is in use by another training.") from error
    return taken


def _layer(place, layer):
    try:
        config = layer.get_config()
    except Exception:  # a layer of the user that cannot be saved
        config = {}
    own = [list(v.shape) for v in layer.variables] if not isinstance(layer, keras.Model) else []
    return [list(map(str, place)), type(layer).__name__, _scalars(config), own]


def _optimizer(optimizer):
    config = keras.saving.serialize_keras_object(optimizer)["config"]
    rate = config.pop("learning_rate", None)
    return {**_scalars(config), "learning_rate": rate}


def _scalars(config):
    return {
        key: value
        for key, value in sorted(config.items())
        if isinstance(value, SCALARS) and key not in NOT_COMPARED
    }
