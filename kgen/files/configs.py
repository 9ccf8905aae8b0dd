"""Configurations of Keras: which classes and functions one may name.

Keras rebuilds an object from a dictionary that names its class:

    {"module": "keras.layers", "class_name": "Dense", "registered_name": null, "config": {...}}

Here every such name is looked up first, in the way that Keras will, and the class must be of a kind
that models are made of: a layer, an operation, a loss, an initializer and the like of Keras, a
backbone or a layer of KerasHub, or a class that kgen or the user has registered. What is left out
brings code or data of its own (`Lambda`, `TFSMLayer`, lookups with their vocabularies), or takes
memory that no weight accounts for (spectrograms). Nothing is imported to look a name up.
"""

import math
import re
import sys
import types

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
LARGEST = 2**20  # number in a configuration; loops of Python are as long
LARGEST_SHAPE = 2**26  # values of an example: 64 megapixels
MAX_VALUES = 250_000  # Keras takes up to 40 microseconds for each
_FREE_VALUES = 20_000
_VALUES_PER_ARRAY = 200  # a layer with its neighbours that have no weights has about 100
_LARGEST_STEPS = 2**53  # in the settings of a training, which nothing loops over
_LONGEST_SHAPE = 32
_REPEATED = re.compile("layers|blocks|depth|repeat|stages|experts")
_MOST = {"max_scores": 2**32}  # how much a layer may hold at once, which bounds it and no loop
_UNBOUNDED = ("seed", "shared_object_id")
_NAMES = ("class_name", "module", "registered_name", "spec_name")
_LOOKUPS = ("deserialize", "get", "serialize")


def check_config(config, source, shapes=None):
    """Checks, before anything is built, that a configuration names known classes and no code.

    Keras' safe mode refuses code too; this looks at all of a configuration at once and names the
    file. A class with a method `check_config(config)` of its own is asked too: so a text encoder
    compares the sums of its files.

    Args:
        config: what a JSON file holds.
        source: where it is from, for the message.
        shapes: shapes of the arrays of the weights, or None if they are not known. No number that
            is no part of a shape may be larger than all their sides, and no number of layers or
            blocks larger than that of the arrays.

    Raises:
        ValueError: if it names something else, or holds a number or a shape that no model has.
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


def _repeats(key):
    """Whether a number says how many parts there are, and not which one."""
    return key not in ("input_layers", "output_layers") and _REPEATED.search(str(key))


def check_no_code(config, source):
    """Checks that a configuration that is not read brings no code, for those that read it.

    Raises:
        ValueError: if it does.
    """
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and str(value.get("class_name")) in ("__lambda__", *LEFT_OUT):
            raise ValueError(
                f"{source} is unsafe to load: it must bring no code. "
                f"Received: class_name={value['class_name']!r}."
            )
        if isinstance(value, (dict, list)):
            waiting += value.values() if isinstance(value, dict) else value


def resolve(node):
    """The class or function that Keras will take for a node of a configuration, or None."""
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


def _registered(name):
    return keras.saving.get_registered_object(name) if isinstance(name, str) else None


def _check_node(node, source, known):
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
            f"{source} is unsafe to load: it must name classes of {', '.join(PACKAGES)} or such as "
            "are registered with Keras, of which models are made, and no code. "
            f"Received: class_name={name!r:.200}, module={module!r:.200}."
        )
    return found


def allowed(found):
    """Whether a configuration may name a class or a function."""
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
    # kgen's own classes, and what the user has registered.
    return any(found is item for item in keras.saving.get_custom_objects().values())


def _check_value(node, source):
    inner = node.get("config")
    if node["class_name"] in ("__numpy__", "__tensor__", "__keras_tensor__") and (
        not isinstance(inner, dict) or inner.get("dtype") not in DTYPES
    ):
        raise ValueError(f"{source} is refused: {node['class_name']} must have one of {DTYPES}.")


def _check_text(text, source):
    """A name of a registered class, alone, makes an object of it too."""
    found = keras.saving.get_custom_objects().get(text)
    if found is not None and isinstance(found, type) and not allowed(found):
        raise ValueError(
            f"{source} is unsafe to load: it must not name {text!r:.200}, which is no part of a "
            "model."
        )


def _check_shape(shape, key, source):
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
