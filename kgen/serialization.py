"""A decorator that makes a class serialisable by Keras, from the arguments of its constructor.

Keras rebuilds an object from `get_config`, the dictionary of its constructor's arguments. The
decorator records these arguments when the constructor is called. Arguments that are Keras objects
themselves (networks, schedules, processes) are serialised in turn.
"""

import functools
import inspect
import warnings
from typing import Any, TypeVar

import keras

PACKAGE = "kgen"

T = TypeVar("T")


def serializable(cls: type[T]) -> type[T]:
    """Registers `cls` with Keras and derives `get_config` and `from_config` from `__init__`.

    It works for frozen dataclasses, and for Keras layers and models, which pass the options of
    their base (`name`, `dtype`, `trainable`) through `**kwargs`.

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
    def recording_init(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        arguments = dict(list(bound.arguments.items())[1:])
        arguments.update(arguments.pop("kwargs", {}))
        object.__setattr__(self, "_init_arguments", Untracked(arguments))
        init(self, *args, **kwargs)

    def get_config(self: Any) -> dict[str, Any]:
        config = {key: _serialize(value) for key, value in constructor_arguments(self).items()}
        if isinstance(self, keras.layers.Layer):
            config.setdefault("name", self.name)
            config["dtype"] = keras.saving.serialize_keras_object(self.dtype_policy)
        return config

    def from_config(cls: type, config: dict[str, Any]) -> Any:
        return cls(**{key: _deserialize(value) for key, value in config.items()})

    recording_init.__signature__ = signature  # Keras inspects it
    cls.__init__ = recording_init
    if "get_config" not in vars(cls):
        cls.get_config = get_config
    if "from_config" not in vars(cls):
        cls.from_config = classmethod(from_config)
    return keras.saving.register_keras_serializable(PACKAGE)(cls)


def constructor_arguments(obj: object) -> dict[str, Any]:
    """Returns the arguments with which a serialisable object was made, defaults included.

    Example:
        >>> from kgen.diffusion import CosineLogSNR
        >>> sorted(constructor_arguments(CosineLogSNR(9.0)).items())
        [('log_snr_max', 9.0), ('log_snr_min', -15.0), ('shift', 0.0)]
    """
    return dict(obj._init_arguments.value)


def copied(obj: Any) -> Any:
    """Returns a new object with the configuration of another; a layer with initial weights.

    Example:
        >>> from kgen.diffusion import CosineLogSNR
        >>> copied(CosineLogSNR(9.0))
        CosineLogSNR(log_snr_max=9.0, log_snr_min=-15.0, shift=0.0)
    """
    return _deserialize(_serialize(obj))


class Untracked:
    """Hides a value from the attribute tracking of Keras and TensorFlow.

    Args:
        value: any object.

    Example:
        >>> Untracked([1, 2]).value
        [1, 2]
    """

    def __init__(self, value: Any) -> None:
        self.value = value


def _serialize(value: Any) -> Any:
    return keras.saving.serialize_keras_object(value)


def _deserialize(value: Any) -> Any:
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        with warnings.catch_warnings():
            # Models of kgen build such networks themselves, by a call on symbolic inputs.
            warnings.filterwarnings("ignore", "Model .* had a build config", UserWarning)
            return keras.saving.deserialize_keras_object(value)
    if isinstance(value, dict):
        return {key: _deserialize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return tuple(_deserialize(item) for item in value)
    return value
