"""The command line: `python -m tools.drawings --output FOLDER`."""

import argparse
import pathlib

from kgen.data.drawings.files import default_folder
from tools.drawings import build, download, write


def main(arguments=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.drawings",
        description="Downloads the sources of kgen.data.drawings and builds the data set.",
    )
    parser.add_argument(
        "--output", type=pathlib.Path, default=default_folder(), help="folder to make"
    )
    parser.add_argument(
        "--packages",
        type=pathlib.Path,
        default=pathlib.Path("~/.cache/kgen/packages").expanduser(),
        help="folder of downloads, kept for the next time",
    )
    options = parser.parse_args(arguments)
    if options.output.exists():
        parser.error(f"{options.output} exists already; remove it or choose another --output")
    download.fetch(options.packages)
    splits, dropped = build.collect(options.packages)
    index = write.write(splits, options.output, build.attribution())
    print({split: entry["examples"] for split, entry in index["splits"].items()})
    print({"dropped": dropped})


if __name__ == "__main__":
    main()
