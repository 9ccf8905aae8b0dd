"""The identity of a training: which model, optimizer and data its saves belong to.

The file `resume.json` beside the saves holds, of the model, a hash of its layers by their place,
with their settings and shapes, and a hash of its frozen weights; of the optimizer, its class and
settings; of the data, their form, length and batches. It is compared when a training is resumed:

    another model, optimizer or data     is an error: the state would not fit, or would have another
                                         meaning
    another setting of the optimizer     is a warning: the training continues with the new setting
"""

import hashlib
import json
import pathlib
import warnings
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import filelock
import keras

from kgen.files.text import read_json
from kgen.layer_tree import walk
from kgen.serialization import constructor_arguments
from kgen.tensors import fingerprint
from kgen.training.model import TermsModel

FILE, LOCK = "resume.json", ".lock"
SCALARS = (bool, int, float, str, type(None))
NOT_COMPARED = ("name", "dtype", "trainable", "seed", "batch_shape", "jit_compile")


def identity_of(model: TermsModel, order: SimpleNamespace) -> dict[str, dict[str, Any]]:
    """Returns the identity of a training, as values that JSON can hold.

    Args:
        model: the compiled model.
        order: the data set in its order, see `kgen.training.data.ordered`.

    Returns:
        Dictionaries by the names `"model"`, `"optimizer"` and `"data"`.
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


def check_identity(directory: pathlib.Path, identity: Mapping[str, Mapping[str, Any]]) -> None:
    """Checks that the saves in a folder belong to a training; warns of changed settings.

    Args:
        directory: the folder.
        identity: the identity of the training, see `identity_of`.

    Raises:
        ValueError: if the model, the class of the optimizer or the data differ, or the folder does
            not state the identity of its saves.
    """
    path = directory / FILE
    if not path.is_file():
        raise ValueError(
            f"{directory} holds saves of an old version of kgen that do not state which training "
            "they belong to: remove them to start anew."
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
                    f"The training in {directory} continues with other settings of the optimizer: "
                    f"{changes}.",
                    stacklevel=2,
                )
            continue
        differences += [f"{name} of the {part}" for name in names]
    if differences:
        raise ValueError(
            f"{directory} holds another training: {', '.join(differences)} differ. "
            "Use another folder, or remove this one to start anew."
        )


def write_identity(directory: pathlib.Path, identity: Mapping[str, Mapping[str, Any]]) -> None:
    """Writes the identity of a training into a folder, in one atomic step."""
    partial = directory / f".partial-{FILE}"
    partial.write_text(json.dumps(identity, indent=1), encoding="utf-8")
    partial.replace(directory / FILE)


def lock(directory: pathlib.Path) -> filelock.BaseFileLock:
    """Locks a folder for this process; returns the lock, which has `release()`.

    Raises:
        ValueError: if another process has locked it.
    """
    file_lock = filelock.FileLock(directory / LOCK)
    try:
        file_lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise ValueError(f"{directory} is in use by another training.") from error
    return file_lock


def _layer(place: tuple, layer: keras.Layer) -> list[Any]:
    """Returns the place, class, settings and own shapes of a layer."""
    try:
        config = layer.get_config()
    except Exception:  # a user's layer that cannot be saved
        config = {}
    own = [list(v.shape) for v in layer.variables] if not isinstance(layer, keras.Model) else []
    return [list(map(str, place)), type(layer).__name__, _scalars(config), own]


def _optimizer(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Returns the settings of an optimizer, with its learning rate or the schedule of it."""
    config = keras.saving.serialize_keras_object(optimizer)["config"]
    rate = config.pop("learning_rate", None)
    return {**_scalars(config), "learning_rate": rate}


def _scalars(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the numbers, texts and None of a configuration that are compared, sorted by name."""
    return {
        key: value
        for key, value in sorted(config.items())
        if isinstance(value, SCALARS) and key not in NOT_COMPARED
    }
