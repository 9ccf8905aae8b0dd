"""The version of kgen, which files that it writes name."""

__version__ = "0.1.0"
