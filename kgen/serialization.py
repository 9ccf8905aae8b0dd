"""One decorator that makes a class saveable: registered with Keras, its config read off `__init__`.

Keras rebuilds an object from `get_config`, the dictionary of its constructor's arguments. Nearly
every kgen class keeps them under their own names, so the dictionary can be read from the
constructor call. Arguments that are Keras objects themselves (networks, schedules, processes) are
serialised in turn.
"""

import functools
import inspect
import warnings

import keras

PACKAGE = "kgen"


def serializable(cls):
    """Registers `cls` with Keras and derives `get_config` and `from_config` from `__init__`.

    Works for Keras layers and models, whose own options (`name`, `dtype`, `trainable`) pass through
    `**kwargs`, and for frozen dataclasses.

    Example:
        >>> import dataclasses
        >>> @serializable
        ... @dataclasses.dataclass(frozen=True)
        ... class Interval:
        ...     low: float
        ...     high: float = 1.0
        >>> config = keras.saving.serialize_keras_object(Interval(0.5))
        >>> keras.saving.deserialize_keras_object(config)
        Interval(low=0.5, high=1.0)
    """
    init = cls.__init__
    signature = inspect.signature(init)

    @functools.wraps(init)
    def recording_init(self, *args, **kwargs):
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        arguments.update(arguments.pop("kwargs", {}))
        object.__setattr__(self, "_init_arguments", Untracked(arguments))
        init(self, *args, **kwargs)

    def get_config(self):
        config = {key: _serialize(value) for key, value in constructor_arguments(self).items()}
        if isinstance(self, keras.layers.Layer):
            config.setdefault("name", self.name)
            config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    def from_config(cls, config):
        return cls(**{key: _deserialize(value) for key, value in config.items()})

    recording_init.__signature__ = signature  # Keras inspects it
    cls.__init__ = recording_init
    if "get_config" not in vars(cls):
        cls.get_config = get_config
    if "from_config" not in vars(cls):
        cls.from_config = classmethod(from_config)
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


def constructor_arguments(obj):
    """The arguments that an object of a serializable class was made with, defaults included.

    Example:
        >>> from kgen.diffusion import CosineLogSNR
        >>> sorted(constructor_arguments(CosineLogSNR(9.0)).items())
        [('log_snr_max', 9.0), ('log_snr_min', -15.0), ('shift', 0.0)]
    """
    return dict(obj._init_arguments.value)


class Untracked:
    """Hides a value from the trackers of Keras and TensorFlow, which look into attributes.

    Args:
        value: anything.

    Example:
        >>> Untracked([1, 2]).value
        [1, 2]
    """

    def __init__(self, value):
        self.value = value


def _serialize(value):
    return keras.saving.serialize_keras_object(value)


def _deserialize(value):
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        with warnings.catch_warnings():
            # The models of kgen build a network that Keras cannot, by a call on symbolic inputs.
            warnings.filterwarnings("ignore", "Model .* had a build config", UserWarning)
            return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _deserialize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_deserialize(item) for item in value)
    return value
