"""Download of the packages of the drawings.

The clients `npm pack` and `apt-get download` write the packages to one folder. A package is used
only if its sha256 is the pinned one. Existing files are not downloaded again; a file gets its final
name when it is complete.
"""

import hashlib
import pathlib
import shutil
import subprocess
import tarfile
import tempfile

from tqdm import tqdm

from tools.drawings.sources import SOURCES, WORDNET, WORDS


def fetch(folder, packages=None):
    """Downloads, checks and unpacks all packages; reuses what exists.

    Args:
        folder: path of the folder for the archives and, beside them, their unpacked folders.
        packages: sequence of `Package`, or None for all.

    Raises:
        FileNotFoundError: if a client (`npm`, `apt-get`, `dpkg-deb`) is missing.
        RuntimeError: if a package cannot be fetched.
        ValueError: if an archive is not the pinned one.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if packages is None:
        packages = [WORDS, WORDNET, *(source.package for source in SOURCES)]
    for package in tqdm(packages, desc="packages", mininterval=2.0):
        archive = folder / package.archive
        if not archive.is_file():
            _download(package, archive)
        received = hashlib.sha256(archive.read_bytes()).hexdigest()
        if received != package.sha256:
            raise ValueError(
                f"{archive} must have the sha256 {package.sha256}. Received: {received}. "
                "Delete it to fetch it again."
            )
        if not (folder / package.folder).is_dir():
            _unpack(package, archive, folder / package.folder)


def _download(package, archive):
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        if package.is_debian:
            _run(["apt-get", "download", package.spec], scratch)
        else:
            _run(["npm", "pack", package.spec, "--silent"], scratch)
        next(pathlib.Path(scratch).iterdir()).rename(archive)


def _unpack(package, archive, folder):
    with tempfile.TemporaryDirectory(dir=archive.parent) as scratch:
        inner = pathlib.Path(scratch) / "package"
        if package.is_debian:
            _run(["dpkg-deb", "-x", str(archive), str(inner)], scratch)
        else:
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
        inner.rename(folder)


def _run(command, folder):
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(
            f"`{command[0]}` is not installed. Put the archives, under the names that `tools/"
            "drawings/sources.py` gives them, into the folder of downloads yourself."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        hint = " Try `apt-get update` first." if command[0] == "apt-get" else ""
        raise RuntimeError(f"`{' '.join(command)}` failed.{hint}\n{done.stderr.strip()}")
