"""kgen: deep generative models in Keras, from the autoencoder to text-to-image.

`import kgen` provides the public names, which are listed in `kgen.api`. In a process that was
started as the command line (`kgen ...` or `python -m kgen ...`) they are imported when the first of
them is used, so that `kgen --help` does not wait for TensorFlow.
"""

import importlib
import importlib.util
import pathlib
import sys
from typing import TYPE_CHECKING, Any

from kgen.version import __version__ as __version__


def _runs_the_command() -> bool:
    """Returns whether this process was started as `kgen ...` or `python -m kgen ...`."""
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-m":  # Python is still looking for the module
        return sys.orig_argv[-len(argv)].removeprefix("-m") == "kgen"
    return pathlib.Path(argv[0]).stem == "kgen"


if not TYPE_CHECKING and _runs_the_command():

    def __getattr__(name: str) -> Any:
        # A module is imported alone: it may be a part of what `kgen.api` is about to import.
        if importlib.util.find_spec(f"kgen.{name}"):
            return importlib.import_module(f"kgen.{name}")
        return getattr(importlib.import_module("kgen.api"), name)

else:
    from kgen.api import *  # noqa: F403
    from kgen.api import __all__ as __all__
