"""Builds the data set that `kgen.data.drawings` reads: `python -m tools.drawings --help`."""
