"""Validation of Keras configurations: the classes, functions and sizes that they may name.

Keras rebuilds an object from a dictionary that names its class:

    {"module": "keras.layers", "class_name": "Dense", "registered_name": null, "config": {...}}

Here every such name is resolved first, as Keras resolves it, and the class must be a part of
models: a layer, an operation, a loss, an initializer or the like of Keras, a backbone or a layer of
KerasHub, or a class that kgen or the user has registered. Classes that bring code or data of their
own are not allowed (`Lambda`, `TFSMLayer`, lookups with vocabularies), nor those whose memory is
not bounded by their weights (spectrograms). Resolving a name imports nothing.
"""

import math
import re
import sys
import types
from collections.abc import Sequence
from typing import Any

import keras

PACKAGES = ("kgen", "keras", "keras_hub", "keras_nlp", "builtins")
KINDS = (
    keras.Layer,
    keras.Operation,
    keras.Initializer,
    keras.Regularizer,
    keras.constraints.Constraint,
    keras.DTypePolicy,
    keras.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.Loss,
    keras.Metric,
)
LEFT_OUT = (
    "AugMix",
    "FlaxLayer",
    "IntegerLookup",
    "JaxLayer",
    "Lambda",
    "MelSpectrogram",
    "RandAugment",
    "STFT",
    "STFTInitializer",
    "STFTSpectrogram",
    "StringLookup",
    "TFSMLayer",
    "TextVectorization",
    "TorchModuleWrapper",
)
FUNCTIONS = ("activations", "constraints", "initializers", "losses", "metrics", "ops")
FUNCTIONS += ("optimizers", "regularizers")
VALUES = ("__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__")
DTYPES = ("bool", "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64")
DTYPES += ("uint8", "uint16", "uint32", "uint64")
LARGEST = 2**20  # largest number in a configuration, which may be the length of a Python loop
LARGEST_SHAPE = 2**26  # largest number of values in an example: 64 megapixels
MAX_VALUES = 250_000  # Keras takes up to 40 microseconds per value
_FREE_VALUES = 20_000
_VALUES_PER_ARRAY = 200  # a layer, with neighbours without weights, has about 100
_LARGEST_STEPS = 2**53  # in the configuration of `compile`, over which no loop runs
_LONGEST_SHAPE = 32
_REPEATED = re.compile("layers|blocks|depth|repeat|stages|experts")
_MOST = {"max_scores": 2**32}  # a limit of memory, not the length of a loop
_UNBOUNDED = ("seed", "shared_object_id")
_NAMES = ("class_name", "module", "registered_name", "spec_name")
_LOOKUPS = ("deserialize", "get", "serialize")


def check_config(
    config: Any, source: object, shapes: Sequence[Sequence[int]] | None = None
) -> None:
    """Checks, before anything is built, that a configuration names known classes and no code.

    Keras' safe mode rejects code too; this checks the whole configuration at once and names the
    file. A class may have a method `check_config(config)`, which is then called: a text encoder
    compares the checksums of its files.

    Args:
        config: the parsed content of a JSON file.
        source: the file, for messages.
        shapes: shapes of the arrays of the weights, or None if they are not known. Numbers outside
            of shapes are limited by the largest size of an array (or `LARGEST`, if greater), and
            numbers of layers or blocks by the number of arrays.

    Raises:
        ValueError: if the configuration names another class or function, or exceeds a limit.
    """
    asked, known = [], {}
    largest = max((n for shape in shapes or () for n in shape), default=1)
    largest, parts = max(largest, LARGEST), LARGEST if shapes is None else len(shapes)
    count, waiting = 0, [(config, None, largest)]
    values = min(_FREE_VALUES + _VALUES_PER_ARRAY * parts, MAX_VALUES)
    while waiting:
        value, key, most = waiting.pop()
        count += 1
        if count > values:
            raise ValueError(
                f"{source} is refused: it must hold at most {values} values for {parts} arrays."
            )
        shape = isinstance(key, str) and key.endswith("shape")
        if key == "compile_config":
            most = _LARGEST_STEPS
        if isinstance(value, dict):
            if "class_name" in value or "spec_name" in value:
                cls = _check_node(value, source, known)
                if hasattr(cls, "check_config"):
                    asked.append((cls, value["config"]))
            waiting += [(item, name, most) for name, item in value.items()]
        elif isinstance(value, list):
            if shape:
                _check_shape(value, key, source)
            waiting += [(item, key, most) for item in value]
        elif isinstance(value, str):
            if key not in _NAMES:
                _check_text(value, source)
        elif (
            isinstance(value, int)
            and abs(value) > _MOST.get(key, most)
            and key not in _UNBOUNDED
            and not shape
        ):
            bound = _MOST.get(key, most)
            raise ValueError(f"{source} is refused: {key!r:.100} must be at most {bound}.")
        elif isinstance(value, int) and value > parts and _repeats(key):
            raise ValueError(
                f"{source} is refused: {key!r:.100} must be at most {parts}, the number of arrays "
                f"that its weights hold. Received: {value}."
            )
        elif shape and isinstance(value, int):
            _check_shape([value], key, source)
    for cls, inner in asked:
        cls.check_config(inner)


def _repeats(key: object) -> bool:
    """Returns whether a key names a number of repeated parts, and not an index."""
    indices = key in ("input_layers", "output_layers")
    return not indices and _REPEATED.search(str(key)) is not None


def check_no_code(config: Any, source: object) -> None:
    """Checks that a configuration that only other programs use contains no code.

    Args:
        config: the parsed content of a JSON file.
        source: the file, for messages.

    Raises:
        ValueError: if the configuration names a class that contains code.
    """
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and str(value.get("class_name")) in ("__lambda__", *LEFT_OUT):
            raise ValueError(
                f"{source} is unsafe to load: it must not contain code. "
                f"Received: class_name={value['class_name']!r}."
            )
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value


def resolve(node: dict) -> Any:
    """Returns the class or function that Keras resolves a node of a configuration to, or None."""
    name, module = node.get("class_name"), node.get("module")
    if name == "function":
        name = node.get("config")
        found = _registered(name)
        if found is None and module == "builtins":
            groups = (getattr(keras, group) for group in FUNCTIONS)
            found = next((f for group in groups if (f := vars(group).get(name))), None)
    else:
        found = _registered(node.get("registered_name", name))
    if found is not None or not isinstance(module, str):
        return found
    root, _, rest = module.partition(".")
    if root == "keras":
        found = keras
        for part in [part for part in rest.split(".") if part] + [name]:
            found = vars(found).get(part) if isinstance(found, types.ModuleType) else None
        if found is not None and not rest.startswith("src"):
            return found
    loaded = sys.modules.get(module)
    return vars(loaded).get(name) if loaded is not None and root in PACKAGES else None


def _registered(name: object) -> Any:
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None


def _check_node(node: dict, source: object, known: dict[int, bool]) -> Any:
    """Checks the names of one node, and returns its class."""
    name, module = node.get("class_name"), node.get("module")
    texts = all(isinstance(v, (str, type(None))) for v in (module, node.get("registered_name")))
    if isinstance(name, str) and name in VALUES and "spec_name" not in node:
        return _check_value(node, source)
    found = None
    if isinstance(name, str) and texts and {"config", "module"} <= set(node):
        if str(module).partition(".")[0] in ("keras_hub", "keras_nlp"):
            import keras_hub  # noqa: F401, registers its classes

        if isinstance(node["config"], str if name == "function" else dict):
            found = resolve(node)
    if id(found) not in known:
        known[id(found)] = allowed(found)
    if not known[id(found)] or "spec_name" in node:
        raise ValueError(
            f"{source} is unsafe to load: it must name only parts of models, of the packages "
            f"{', '.join(PACKAGES)} or registered with Keras, and contain no code. "
            f"Received: class_name={name!r:.200}, module={module!r:.200}."
        )
    return found


def allowed(found: Any) -> bool:
    """Returns whether a configuration may name a class or function, given as an object."""
    root = str(getattr(found, "__module__", "")).partition(".")[0]
    if root in ("keras_hub", "keras_nlp"):
        import keras_hub

        hub = keras_hub.layers
        names = {id(item) for item in vars(hub).values()}
        return isinstance(found, type) and (
            issubclass(found, keras_hub.models.Backbone)
            or (
                id(found) in names
                and not issubclass(found, (hub.AudioConverter, hub.ImageConverter))
            )
        )
    if root == "keras":
        if isinstance(found, type):
            return issubclass(found, KINDS) and found.__name__ not in LEFT_OUT
        public = (vars(getattr(keras, group)) for group in FUNCTIONS)
        named = {id(f) for group in public for n, f in group.items() if n not in _LOOKUPS}
        return callable(found) and id(found) in named
    # Registered classes: those of kgen and of the user.
    return any(found is item for item in keras.saving.get_custom_objects().values())


def _check_value(node: dict, source: object) -> None:
    inner = node.get("config")
    if node["class_name"] in ("__numpy__", "__tensor__", "__keras_tensor__") and (
        not isinstance(inner, dict) or inner.get("dtype") not in DTYPES
    ):
        raise ValueError(
            f"{source} is refused: {node['class_name']} must have a dtype of {DTYPES}."
        )


def _check_text(text: str, source: object) -> None:
    """Checks a string, since Keras makes an object from the bare name of a registered class."""
    found = keras.saving.get_custom_objects().get(text)
    if found is not None and isinstance(found, type) and not allowed(found):
        raise ValueError(
            f"{source} is unsafe to load: it must not name {text!r:.200}, which is not part of a "
            "model."
        )


def _check_shape(shape: list, key: object, source: object) -> None:
    sizes = [size for size in shape if isinstance(size, int)]
    if (
        len(sizes) > _LONGEST_SHAPE
        or any(not -1 <= size <= LARGEST_SHAPE for size in sizes)
        or math.prod(max(size, 1) for size in sizes) > LARGEST_SHAPE
    ):
        raise ValueError(
            f"{source} is refused: {key!r:.100} must have at most {LARGEST_SHAPE} values. "
            f"Received: {shape!r:.200}."
        )
