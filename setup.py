"""Adds the presets to a wheel: `saved_models` of the checkout as `kgen/saved_models`.

All else is in `pyproject.toml`. An editable installation reads the presets where they are.
"""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py

PRESETS = pathlib.Path("saved_models")


class WithPresets(build_py):
    """Builds the package, and the presets that lie beside it."""

    def run(self) -> None:
        """Copies packages, then presets."""
        super().run()
        if self.editable_mode:
            return
        target = pathlib.Path(self.build_lib, "kgen", "saved_models")
        shutil.rmtree(target, ignore_errors=True)
        for config in sorted(PRESETS.glob("*/config.json")):
            shutil.copytree(config.parent, target / config.parent.name)
        shutil.copy(PRESETS / "README.md", target)


setup(cmdclass={"build_py": WithPresets})
