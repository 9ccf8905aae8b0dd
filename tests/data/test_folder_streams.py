"""Pictures that stay on the disk: the same batches as from memory, and archives beside folders."""

import io
import json
import os
import re
import struct
import tarfile

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kgen.data import folder
from kgen.data.folder import shards

SIZE = 8


def encoded(seed, kind="PNG", size=(12, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype="uint8")
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def fill(directory, count=7, captions=None):
    directory.mkdir(exist_ok=True)
    for i in range(count):
        (directory / f"{i}.png").write_bytes(encoded(i))
        if captions:
            (directory / f"{i}.txt").write_text(captions(i))
    return directory


def assert_same(data, expected):
    count = 0
    for a, b in zip(data, expected, strict=True):
        tf.nest.map_structure(lambda x, y: np.testing.assert_array_equal(x, y), a, b)
        count += 1
    assert count > 1


# -- streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize("values", ["signed", "unit", "binary"])
def test_a_stream_has_the_batches_of_memory(tmp_path, values):
    fill(tmp_path, captions=lambda i: f"{i} one\n{i} two")
    options = {"captions": "txt", "values": values, "batch_size": 3, "seed": 4}
    stream, memory = (folder.load(tmp_path, SIZE, in_memory=m, **options) for m in (False, True))
    assert len(stream) == len(memory) == 3
    assert stream.element_spec == memory.element_spec
    for _ in range(2):  # epochs
        assert_same(stream, memory)
    still = [folder.load(tmp_path, SIZE, in_memory=m, shuffle=False, **options) for m in (0, 1)]
    assert_same(*still)


def test_small_sets_stay_in_memory_and_large_ones_do_not(tmp_path, monkeypatch):
    fill(tmp_path)
    small = folder.load(tmp_path, SIZE, shuffle=False)
    monkeypatch.setattr(folder, "MAX_BYTES_IN_MEMORY", 7 * SIZE * SIZE * 3 - 1)
    large = folder.load(tmp_path, SIZE, shuffle=False)
    os.remove(tmp_path / "3.png")
    assert sum(map(len, small)) == 7
    with pytest.raises(tf.errors.OpError, match=r"3\.png cannot be read.*could be read when"):
        list(large)


def test_a_stream_leaves_out_what_is_broken(tmp_path):
    fill(tmp_path, captions=str)
    (tmp_path / "4.png").write_bytes(encoded(4)[:100])
    with pytest.warns(UserWarning, match=r"4\.png cannot be read"):
        data = folder.load(
            tmp_path, SIZE, captions="txt", in_memory=False, on_error="skip", shuffle=False
        )
    assert b"".join(next(iter(data))["prompts"].numpy()) == b"012356"
    with pytest.raises(ValueError, match=r"4\.png cannot be read"):
        folder.load(tmp_path, SIZE, in_memory=False)


@pytest.mark.parametrize("value", ["yes", 2, "auto"])
def test_where_pictures_stay_is_a_yes_or_no(tmp_path, value):
    with pytest.raises(ValueError, match="`in_memory` must be"):
        folder.load(tmp_path, SIZE, in_memory=value)


def test_a_long_first_reading_has_a_progress_bar(tmp_path, monkeypatch, capsys):
    fill(tmp_path)
    folder.load(tmp_path, SIZE)
    assert capsys.readouterr().out == ""
    monkeypatch.setattr("kgen.data.folder.decoding.BAR_FROM", 7)
    folder.load(tmp_path, SIZE)
    assert "7/7" in capsys.readouterr().out
    folder.load(tmp_path, SIZE, progress=False)
    assert capsys.readouterr().out == ""


# -- archives ---------------------------------------------------------------------------------


def tar(path, members, **options):
    with tarfile.open(path, "w", **options) as file:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def record(**features):
    made = {}
    for name, value in features.items():
        value = value if isinstance(value, list) else [value]
        if isinstance(value[0], int):
            made[name] = tf.train.Feature(int64_list=tf.train.Int64List(value=value))
        else:
            made[name] = tf.train.Feature(bytes_list=tf.train.BytesList(value=value))
    return tf.train.Example(features=tf.train.Features(feature=made)).SerializeToString()


def records(path, rows):
    with tf.io.TFRecordWriter(str(path)) as file:
        for row in rows:
            file.write(row)


def archive(directory, kind, count=7):
    """Two archives of the pictures of `fill`, with a caption each."""
    directory.mkdir()
    for shard in range(2):
        numbers = range(shard, count, 2)
        if kind == "tfrecord":
            rows = [record(image=encoded(i), caption=f"caption {i}".encode()) for i in numbers]
            records(directory / f"x.tfrecord-0000{shard}-of-00002", rows)
        else:
            parts = [(f"{i}.png", encoded(i)) for i in numbers]
            parts += [(f"{i}.txt", f"caption {i}\n".encode()) for i in numbers]
            form = {"webdataset": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}[kind]
            tar(directory / f"{shard}.tar", sorted(parts), format=form)
    return directory


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("kind", ["webdataset", "pax", "tfrecord"])
def test_an_archive_holds_what_a_folder_does(tmp_path, kind, in_memory):
    fill(tmp_path / "plain", captions=lambda i: f"caption {i}")
    archive(tmp_path / "packed", kind)
    captions = kind.replace("pax", "webdataset")

    def by_caption(directory, **options):
        data = folder.load(directory, SIZE, batch_size=3, seed=1, **options)
        batches = list(data)
        assert [len(batch["images"]) for batch in batches] == [3, 3, 1]
        prompts = [text for batch in batches for text in batch["prompts"].numpy()]
        return dict(zip(prompts, (x.tobytes() for b in batches for x in b["images"].numpy())))

    found = by_caption(tmp_path / "packed", captions=captions, in_memory=in_memory)
    assert found == by_caption(tmp_path / "plain", captions="txt")


@pytest.mark.parametrize("name", ["a" * 90 + "/" + "b" * 90, "c" * 200, "d" * 99 + "/" + "e" * 300])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_a_tar_file(tmp_path, name, form):
    if form == tarfile.USTAR_FORMAT and len(name) > 182:
        pytest.skip("the format has no such names")
    parts = [(f"{name}.png", encoded(1)), (f"{name}.txt", b"long"), ("\u00e9.png", encoded(2))]
    tar(tmp_path / "a.tar", [*parts, ("\u00e9.txt", b"short")], format=form)
    images, columns = folder.load_arrays(tmp_path, SIZE, captions="webdataset")
    assert columns["prompts"].tolist() == ["long", "short"]
    assert images.shape == (2, SIZE, SIZE, 3)


def test_captions_and_classes_in_archives(tmp_path):
    for kind in ("json", "cls", "lines"):
        (tmp_path / kind).mkdir()
    rows = {"caption": ["one", "two"], "url": "..."}
    tar(tmp_path / "json" / "a.tar", [("a.jpg", encoded(1)), ("a.json", json.dumps(rows).encode())])
    prompts = folder.load_arrays(tmp_path / "json", SIZE, captions="webdataset")[1]["prompts"]
    assert prompts.to_list() == [[b"one", b"two"]]
    tar(tmp_path / "cls" / "a.tar", [("a.jpg", encoded(1)), ("a.cls", b"7")])
    columns = folder.load_arrays(tmp_path / "cls", SIZE, captions="webdataset")[1]
    assert columns["labels"].tolist() == [7]
    row = {"image/encoded": encoded(1), "image/class/label": 3}
    records(tmp_path / "lines" / "a.tfrecord", [record(**row)])
    columns = folder.load_arrays(tmp_path / "lines", SIZE, captions="tfrecord")[1]
    assert columns["labels"].tolist() == [3]


def test_parts_of_archives_share_no_picture(tmp_path):
    tar(tmp_path / "a.tar", [(f"{i}.png", encoded(i)) for i in range(60)])
    whole, *parts = (
        {x.tobytes() for x in folder.load_arrays(tmp_path, SIZE, captions="webdataset", split=s)[0]}
        for s in ("all", "train", "validation")
    )
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == whole
    assert len(parts[1]) > 1


@pytest.mark.parametrize("kind", ["webdataset", "tfrecord"])
def test_what_is_broken_in_an_archive_is_named(tmp_path, kind):
    whole, broken = encoded(1), encoded(2)[:90]
    if kind == "tfrecord":
        rows = [record(image=whole, text=b"a"), record(image=broken, text=b"b"), record(text=b"c")]
        records(tmp_path / "x.tfrecord", [*rows, b"\xff\xff", record(image=whole)])
        messages = ["record 1.* cannot be read", "record 2.*one picture", "record 3", "no caption"]
    else:
        parts = [("a.png", whole), ("a.txt", b"a"), ("b.png", broken), ("b.txt", b"b")]
        parts += [("c.txt", b"c"), ("d.png", whole), ("d.txt", b"\xff"), ("e.cls", b"x")]
        tar(tmp_path / "x.tar", parts)
        messages = [r"b\.png.* cannot be read", "c.* has no picture", r"d\.png.*no caption"]
    with pytest.raises(ValueError, match="leaves out others"):
        folder.load(tmp_path, SIZE, captions=kind)
    with pytest.warns(UserWarning, match="Left out") as caught:
        prompts = folder.load_arrays(tmp_path, SIZE, captions=kind, on_error="skip")[1]["prompts"]
    assert prompts.tolist() == ["a"]
    said = " ".join(str(warning.message) for warning in caught)
    for message in messages:
        assert re.search(message, said), message


def header(name=b"a.png", size=b"%011o\0" % 64, kind=b"0"):
    data = bytearray(512)
    data[: len(name)] = name
    data[124 : 124 + len(size)] = size
    data[156:157] = kind
    data[257:263] = b"ustar\0"
    data[148:156] = b"%06o\0 " % (sum(data) + 8 * 32)
    return bytes(data)


DAMAGED = {
    "a size beyond the end": header(size=b"77777777777\0") + bytes(1024),
    "a size of 2 ** 90": header(size=b"\x80" + b"\xff" * 11) + bytes(1024),
    "no number as a size": header(size=b"zzzzzzzzzzz\0") + bytes(1024),
    "another sum": header()[:148] + b"0000001\0" + header()[156:] + bytes(1024),
    "an extended header of 4 GB": header(size=b"%011o\0" % 2**32, kind=b"x") + bytes(1024),
    "an extended header in no form": header(size=b"%011o\0" % 9, kind=b"x") + b"zz path=a" * 57,
    "no tar file": b"hello" * 300,
    "an end inside a picture": header(size=b"%011o\0" % 600) + bytes(512),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_tar_file_is_refused(tmp_path, name):
    (tmp_path / "a.tar").write_bytes(DAMAGED[name])
    with pytest.raises(ValueError, match=r"a\.tar (is damaged|must have)"):
        folder.load(tmp_path, SIZE, captions="webdataset")


def test_holes_take_no_memory(tmp_path):
    """A text and a header of 4 GB that cost nothing on the disk."""
    path = tmp_path / "a.tar"
    for start in (header(b"a.txt", b"%011o\0" % 2**32), header(b"a", b"%011o\0" % 2**32, b"x")):
        path.write_bytes(start)
        os.truncate(path, 2**32 + 2048)
        with pytest.raises(ValueError, match="must have (texts|headers) of at most"):
            folder.load(tmp_path, SIZE, captions="webdataset")


def test_links_and_devices_in_a_tar_file_are_no_pictures(tmp_path):
    (tmp_path / "a.tar").write_bytes(
        b"".join(header(f"{k}.png".encode(), b"0" * 11, f"{k}".encode()) for k in range(1, 7))
        + bytes(1024)
    )
    with pytest.raises(ValueError, match="must hold pictures"):
        folder.load(tmp_path, SIZE, captions="webdataset")


def test_a_damaged_file_of_records_is_refused(tmp_path):
    records(tmp_path / "a.tfrecord", [record(image=encoded(1))])
    path = tmp_path / "a.tfrecord"
    path.write_bytes(struct.pack("<Q", 2**40) + path.read_bytes()[8:])
    with pytest.raises(ValueError, match=r"a\.tfrecord is damaged: its record at byte 0"):
        folder.load(tmp_path, SIZE, captions="tfrecord")


def test_archives_that_are_not_there_or_are_packed(tmp_path):
    for kind, name in (("webdataset", r"\*\.tar"), ("tfrecord", r"\*\.tfrecord")):
        with pytest.raises(FileNotFoundError, match=f"must hold {name} files"):
            folder.load(tmp_path, SIZE, captions=kind)
    (tmp_path / "a.tar.gz").write_bytes(b"\x1f\x8b" + bytes(99))
    with pytest.raises(ValueError, match=r"a\.tar\.gz must be unpacked to a \.tar"):
        folder.load(tmp_path, SIZE, captions="webdataset")
    with pytest.raises(ValueError, match='which has none; archives are read with `captions="web'):
        folder.load(tmp_path, SIZE)


def test_what_parts_of_an_example_have_in_common():
    assert shards._key("a.b/c.seg.png") == ("a.b/c", ".seg.png")
    assert shards._key("c.TXT") == ("c", ".txt")
