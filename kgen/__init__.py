"""kgen: deep generative models in Keras, from the autoencoder to text-to-image.

`import kgen` loads all public names; they are listed in `kgen.api`. In the process of the command
(`kgen ...` or `python -m kgen ...`) they are loaded when the first of them is used, so that
`kgen --help` does not wait for TensorFlow.
"""

import importlib
import pathlib
import sys

from kgen.version import __version__ as __version__


def _runs_the_command():
    """Whether this process was started as `kgen ...` or `python -m kgen ...`."""
    argv = getattr(sys, "argv", None) or [""]
    if argv[0] == "-m":  # while Python looks for the module
        return sys.orig_argv[-len(argv)].removeprefix("-m") == "kgen"
    return pathlib.Path(argv[0]).stem == "kgen"


if _runs_the_command():

    def __getattr__(name):
        return getattr(importlib.import_module("kgen.api"), name)

else:
    from kgen.api import *  # noqa: F403
    from kgen.api import __all__ as __all__
