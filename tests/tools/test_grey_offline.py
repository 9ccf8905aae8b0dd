"""The archives in the cache of TensorFlow Datasets: the published bytes, from packages."""

import gzip
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from tools import grey_offline as offline


def test_restored_archives_have_name_and_time_and_the_same_content():
    content = b"some numbers" * 100
    archive = offline.restore_archive(gzip.compress(content, mtime=0), "train-images", 1234567)
    assert gzip.decompress(archive) == content
    assert archive[3] == 8
    assert int.from_bytes(archive[4:8], "little") == 1234567
    assert archive[10:23] == b"train-images\0"
    with pytest.raises(ValueError, match="`deflated` must be"):
        offline.restore_archive(archive, "train-images", 0)


def test_files_that_are_not_the_published_ones_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="`source` must hold"):
        offline.fill("mnist", tmp_path, source=tmp_path)
    for stem in offline.ARCHIVES["mnist"]:
        (tmp_path / stem).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not the published file"):
        offline.fill("mnist", tmp_path, source=tmp_path)
    with pytest.raises(ValueError, match="`name` must be one of"):
        offline.fill("cifar")


def test_the_checksums_are_those_of_tensorflow_datasets():
    import tensorflow_datasets as tfds

    for name, files in offline.ARCHIVES.items():
        infos = tfds.builder_cls(name).url_infos.values()
        published = {info.checksum for info in infos}
        assert {digest for _, digest in files.values()} <= published


def test_data_sets_with_files_of_the_same_name_are_not_taken_for_each_other(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    header, stem = bytes(16), "t10k-images-idx3-ubyte.gz"
    pixels = {"mnist": bytes([1, 2, 3]), "fashion_mnist": bytes([4, 5, 6])}
    extracted, prepared = {}, {}

    class Builder:
        """Extracts an archive once for each place, and prepares a data set once, as TFDS does."""

        def __init__(self, name, data_dir):
            self.name = name

        def download_and_prepare(self, download_dir):
            content = gzip.decompress((pathlib.Path(download_dir) / "manual" / stem).read_bytes())
            prepared.setdefault(self.name, extracted.setdefault(download_dir, content)[16:])

        def as_dataset(self, split, batch_size):
            return {"image": tf.constant(np.frombuffer(prepared[self.name], "uint8"))}

    monkeypatch.setattr(tfds, "builder", Builder)
    monkeypatch.setattr(
        offline, "_upstream", lambda source, stem, name, *_: gzip.compress(header + pixels[name])
    )
    for name in offline.NAMES:
        offline.fill(name, tmp_path, source=tmp_path)
    assert prepared == pixels
    prepared["fashion_mnist"] = pixels["mnist"]
    with pytest.raises(ValueError, match="holds other pictures than fashion_mnist"):
        offline.fill("fashion_mnist", tmp_path, source=tmp_path)
