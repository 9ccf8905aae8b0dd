"""Crafted pictures, tables, text encoders, checkpoints, records and weights of other libraries."""

import functools
import io
import json
import os
import pathlib
import shutil
import struct
import warnings
import zlib

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

import kgen
from kgen.data import emoji, folder
from kgen.files.safetensors import read_header
from kgen.metrics.torch_weights import read_state_dict

CASES = {}


# -- pictures ---------------------------------------------------------------------------------


def picture(place, data, name="cat.png", hole=0, **options):
    path = place / name
    path.write_bytes(data)
    if hole:
        os.truncate(path, hole)
    return lambda: folder.load_arrays(place, 8, **options)


def saved(kind, size=(8, 8), mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, size, 7).save(file, kind, **options)
    return file.getvalue()


def chunk(name, data=b"", length=None):
    length = len(data) if length is None else length
    return struct.pack(">L", length) + name + data + struct.pack(">L", zlib.crc32(name + data))


def png(width=8, height=8, chunks=(), depth=8, colour=2, data=None):
    head = struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0)
    data = zlib.compress(b"\0" * 200) if data is None else data
    body = b"".join(chunks) + chunk(b"IDAT", data) + chunk(b"IEND")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def bmp(width, height):
    return b"BM" + struct.pack(
        "<LLLLllHHLLllLL", 54, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0
    )


def gif(width, height, extension=b""):
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\2\2\x44\1\0;"
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0" * 6 + extension + frame
    )


def tiff(entries, start=8):
    data = b"II*\0" + struct.pack("<L", start) + struct.pack("<H", len(entries))
    return data + b"".join(struct.pack("<HHLL", *entry) for entry in entries) + b"\0" * 4


def webp(*chunks):
    body = b"".join(n + struct.pack("<L", len(d)) + d + b"\0" * (len(d) % 2) for n, d in chunks)
    return b"RIFF" + struct.pack("<L", len(body) + 4) + b"WEBP" + body


SIZES = [(256, 1, 4, 30000), (257, 1, 4, 30000), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
SIZES += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, 1), (279, 4, 1, 9)]
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(touch /tmp/was-run) print\n%%EOF\n"
PICTURES = {
    "PostScript": POSTSCRIPT,
    "PostScript for DOS": struct.pack("<LLL", 0xC6D3D0C5, 32, 99) + b"\0" * 20 + POSTSCRIPT,
    "PDF": b"%PDF-1.4\n" + b"0" * 99,
    "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
    "an icon": saved("ICO", (16, 16)),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0" * 99,
    "FITS": b"SIMPLE  =                    T" + b" " * 99,
    "FLI": b"\0\0\0\0\x11\xaf" + b"\0" * 130,
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + b"\0" * 99,
    "a program": b"MZ" + b"\0" * 99,
    "PSD": b"8BPS\0\1" + b"\0" * 99,
    "GBR": struct.pack(">LLLLL", 99, 2, 30000, 30000, 4) + b"GIMP" + b"\0" * 99,
    "QOI": b"qoif" + struct.pack(">LL", 30000, 30000) + b"\4\0" * 9,
    "PCX": b"\n\5\1\x08" + b"\0" * 130,
    "text": b"hello, this is no picture at all",
    "nothing": b"",
    "a signature": b"\x89PNG\r\n\x1a\n",
    "a PNG of 169 megapixels": png(13000, 13000),
    "a PNG of a billion pixels": png(2**15, 2**15),
    "a PNG of no size": png(0, 8),
    "a wide PNG": png(2**31 - 1, 1),
    "a PNG that ends early": saved("PNG", (64, 64))[:90],
    "a PNG of large size that ends early": png(8000, 8000),
    "a PNG with another checksum": png(8, 8)[:29] + b"\0\0\0\0" + png(8, 8)[33:],
    "a PNG of many chunks": png(chunks=[chunk(b"prIv")] * 300000),
    "a PNG of a long text": png(chunks=[chunk(b"tEXt", b"a\0" + b"b" * (5 * 2**20))]),
    "a PNG of a packed text": png(
        chunks=[chunk(b"zTXt", b"a\0\0" + zlib.compress(b"b" * 2**25))] * 8
    ),
    "a PNG of a packed profile": png(
        chunks=[chunk(b"iCCP", b"a\0\0" + zlib.compress(b"b" * 2**25))] * 18
    ),
    "a PNG of another depth": png(depth=3),
    "a BMP of a billion pixels": bmp(2**15, 2**15),
    "a BMP that ends early": bmp(7000, 7000),
    "a BMP of negative size": bmp(-9, 8),
    "a GIF of a billion pixels": gif(65535, 65535),
    "a GIF whose frame is larger than it": gif(8, 8).replace(
        b"," + struct.pack("<HHHH", 0, 0, 8, 8), b"," + struct.pack("<HHHH", 0, 0, 65535, 65535)
    ),
    "a GIF of a long comment": gif(8, 8, b"!\xfe" + (b"\xff" + b"a" * 255) * 30000 + b"\0"),
    "a GIF that ends early": gif(8, 8)[:30],
    "a JPEG of a billion pixels": saved("JPEG").replace(
        struct.pack(">HH", 8, 8), struct.pack(">HH", 40000, 40000)
    ),
    "a JPEG of many scans": saved("JPEG", (64, 64)).replace(b"\xff\xd9", b"")
    + b"\xff\xda\0\x08" * 200,
    "a JPEG of long comments": b"\xff\xd8"
    + (b"\xff\xfe\xff\xff" + b"a" * 65533) * 100
    + saved("JPEG")[2:],
    "half a JPEG": saved("JPEG", (64, 64))[:300],
    "a TIFF of 900 megapixels": tiff(SIZES),
    "a TIFF of many strips": tiff([*SIZES[:5], (273, 4, 2**27, 8), *SIZES[6:]]),
    "a TIFF of many entries": tiff([(i, 4, 2**30, 8) for i in range(300)]),
    "a TIFF without a directory": tiff([], start=2**31),
    "a WebP of 268 megapixels": webp(
        (b"VP8X", b"\2\0\0\0" + b"\xfe\x3f\0" * 2), (b"ANIM", b"\0" * 6)
    ),
    "a WebP with a long description": webp(
        (b"VP8X", b"\4\0\0\0" + b"\7\0\0" * 2), (b"XMP ", b"a" * 2**23)
    ),
    "half a WebP": saved("WEBP", (64, 64), lossless=True)[:30],
    "a WAV file": b"RIFF" + struct.pack("<L", 99) + b"WAVE" + b"\0" * 99,
    "real numbers": saved("TIFF", mode="F"),
}
for name, data in PICTURES.items():
    CASES[f"picture: {name}"] = functools.partial(picture, data=data)
HOLES = {
    "a PNG with a hole of 4 GB": (png(), 4 * 2**30),
    "a PNG with a chunk of 150 MB": (png(chunks=[b"\x09\0\0\0prIv"]), 150 * 2**20),
    "a JPEG with a hole of 180 MB": (saved("JPEG")[:99], 180 * 2**20),
    "a TIFF with a tag of 150 MB": (tiff([*SIZES, (274, 3, 70 * 2**20, 200)]), 150 * 2**20),
    "a WebP with a hole of 180 MB": (webp((b"EXIF", b""))[:16] + b"\0\0\0\x08", 180 * 2**20),
}
for name, (data, hole) in HOLES.items():
    CASES[f"picture: {name}"] = functools.partial(picture, data=data, hole=hole)


def case(name):
    def register(function):
        CASES[name] = function
        return function

    return register


@case("picture: a link out of the folder")
def link(place):
    (place / "cat.png").symlink_to(pathlib.Path(__file__).parents[1] / "README.md")
    return lambda: folder.load_arrays(place, 8)


@case("picture: more pixels than are allowed")
def fewer(place):
    return picture(place, saved("PNG", (64, 64)), max_pixels=1000)


# -- tables -----------------------------------------------------------------------------------


def table(place, text, name="captions.csv", hole=0, captions="csv"):
    picture(place, saved("PNG"))
    (place / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    if hole:
        os.truncate(place / name, hole)
    return lambda: folder.load_arrays(place, 8, captions=captions)


TABLES = {
    "nothing": "",
    "other columns": "a,b\n1,2\n",
    "an open quote": 'file_name,caption\n"cat.png,a',
    "no text": b"\xff\xfe\0",
    "a zero": "file_name,caption\ncat.png,\0\n" * 2,
    "a long line": "file_name,caption\n" + "a" * (2 * 2**20),
    "a long field": 'file_name,caption\ncat.png,"' + "a\n" * (2 * 2**20) + '"\n',
    "many columns": "a," * 400000 + "\n",
    "many rows of other pictures": "file_name,caption\n" + "a.png,b\nb.png,c\n" * 100000,
    "a caption twice": "file_name,caption\ncat.png,a\ncat.png,a\n",
    "a picture above": "file_name,caption\n../../../etc/passwd,a\n",
    "a picture elsewhere": "file_name,caption\n/etc/passwd,a\n",
    "a picture of a zero": "file_name,caption\na\0b.png,a\n",
}
for name, text in TABLES.items():
    CASES[f"table: {name}"] = functools.partial(table, text=text)
CASES["table: a hole of 4 GB"] = functools.partial(
    table, text="file_name,caption\n", hole=4 * 2**30
)
CASES["text: a hole of 4 GB"] = functools.partial(
    table, text="a", name="cat.txt", hole=4 * 2**30, captions="txt"
)
CASES["text: no text"] = functools.partial(
    table, text=b"\xff\xfe\0", name="cat.txt", captions="txt"
)


@case("text: a link out of the folder")
def text_link(place):
    picture(place, saved("PNG"))
    (place / "cat.txt").symlink_to("/etc/passwd")
    return lambda: folder.load_arrays(place, 8, captions="txt")


# -- text encoders ----------------------------------------------------------------------------

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s"]


@functools.cache
def tiny():
    """The folder of a text encoder as it should be."""
    import keras_hub

    keras.utils.set_random_seed(1)
    sizes = {"num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    backbone = keras_hub.models.BertBackbone(vocabulary_size=9, max_sequence_length=12, **sizes)
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=PIECES, lowercase=True)
    place = pathlib.Path(os.environ["CRAFTED"]) / "tiny"
    kgen.TextEncoder(backbone, tokenizer, sequence_length=6).save_to_preset(place)
    return place


def encoder(place, edit):
    target = place / "encoder"
    shutil.copytree(tiny(), target)
    edit(target)
    return lambda: kgen.TextEncoder.from_preset(target)


def settings(name, change):
    def edit(place):
        content = json.loads((place / name).read_text())
        change(content)
        (place / name).write_text(json.dumps(content))

    return edit


def replaced(name, data):
    def edit(place):
        (place / name).unlink()
        if data is not None:
            (place / name).write_bytes(data)

    return edit


def linked(name, target):
    def edit(place):
        (place / name).unlink()
        (place / name).symlink_to(target)

    return edit


def truncated(name, size):
    return lambda place: os.truncate(place / name, size)


LAMBDA = {
    "module": "keras.layers", "class_name": "Lambda", "registered_name": None,
    "config": {"function": {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}}},
}  # fmt: skip
WORDS = "assets/tokenizer/vocabulary.txt"
ENCODERS = {
    "a Lambda in the tokenizer": settings(
        "tokenizer.json", lambda c: c["config"].update(special_tokens=[LAMBDA])
    ),
    "a Lambda for the tokenizer": settings("tokenizer.json", lambda c: c.update(LAMBDA)),
    "another class of tokenizer": settings(
        "tokenizer.json", lambda c: c.update(class_name="Tokenizer", registered_name=None)
    ),
    "a class of another package": settings(
        "tokenizer.json", lambda c: c.update(registered_name="someone>BertTokenizer")
    ),
    "a vocabulary elsewhere": settings(
        "tokenizer.json", lambda c: c["config"].update(vocabulary="/etc/passwd")
    ),
    "a configuration elsewhere": settings(
        "tokenizer.json", lambda c: c["config"].update(config_file="../x.json")
    ),
    "an unknown option": settings("tokenizer.json", lambda c: c["config"].update(run="id")),
    "a mark that is no word": settings(
        "tokenizer.json", lambda c: c["config"].update(oov_token="?")
    ),
    "no tokenizer": replaced("tokenizer.json", None),
    "a tokenizer that is no JSON": replaced("tokenizer.json", b"{"),
    "a tokenizer of a list": replaced("tokenizer.json", b"[]"),
    "no vocabulary": replaced(WORDS, None),
    "a vocabulary in a link": linked(WORDS, "/etc/passwd"),
    "a vocabulary of 4 GB": truncated(WORDS, 4 * 2**30),
    "a vocabulary that is no text": replaced(WORDS, b"\xff\xfe\0"),
    "an empty vocabulary": replaced(WORDS, b""),
    "another backbone": settings("config.json", lambda c: c.update(LAMBDA)),
    "a task for a backbone": settings(
        "config.json",
        lambda c: c.update(
            class_name="BertTextClassifier", registered_name="keras_hub>BertTextClassifier"
        ),
    ),
    "a dense layer for a backbone": settings(
        "config.json",
        lambda c: c.update(module="keras.layers", class_name="Dense", registered_name=None),
    ),
    "a backbone of many layers": settings(
        "config.json", lambda c: c["config"].update(num_layers=10**6)
    ),
    "a backbone of many words": settings(
        "config.json", lambda c: c["config"].update(vocabulary_size=10**9)
    ),
    "a wide backbone": settings("config.json", lambda c: c["config"].update(hidden_dim=10**5)),
    "a backbone of no heads": settings("config.json", lambda c: c["config"].update(num_heads=0)),
    "a long backbone": settings(
        "config.json", lambda c: c["config"].update(max_sequence_length=10**9)
    ),
    "a configuration in a link": linked("config.json", "/etc/passwd"),
    "a configuration of spaces": replaced("config.json", b" " * (17 * 2**20)),
    "a configuration of 4 GB": truncated("config.json", 4 * 2**30),
    "settings of a list": replaced("kgen_text_encoder.json", b"[]"),
    "an unknown setting": replaced("kgen_text_encoder.json", b'{"run": "id"}'),
    "a length that is a text": replaced("kgen_text_encoder.json", b'{"sequence_length": "a"}'),
    "a length without end": replaced("kgen_text_encoder.json", b'{"sequence_length": 1000000000}'),
    "a Lambda in a task": lambda place: (place / "task.json").write_text(json.dumps(LAMBDA)),
    "weights that are text": replaced("model.weights.h5", b"hello"),
    "weights that are a zip": replaced("model.weights.h5", b"PK\3\4" + b"\0" * 99),
    "half of the weights": truncated("model.weights.h5", 9000),
    "weights in a link": linked("model.weights.h5", "/etc/passwd"),
    "a map of weights elsewhere": lambda place: (place / "model.weights.json").write_text(
        json.dumps({"weight_map": {"a": "../../etc/passwd"}})
    ),
    "the format of another library": replaced("config.json", b'{"model_type": "bert"}'),
}
for name, edit in ENCODERS.items():
    CASES[f"text encoder: {name}"] = functools.partial(encoder, edit=edit)


# -- checkpoints ------------------------------------------------------------------------------


def training(place):
    """A small training that goes on from the saves in a folder."""
    from kgen.networks import mlp

    keras.utils.set_random_seed(0)
    keras.utils.clear_session()  # a training has the names of its layers
    model = kgen.Autoencoder(mlp((4,), (2,), hidden=(3,)), mlp((2,), (4,), hidden=(3,)), seed=0)
    model.compile("adam")
    return model, kgen.callbacks.Resume(place / "resume")


@functools.cache
def good_saves():
    place = pathlib.Path(os.environ["CRAFTED"]) / "training"
    place.mkdir()
    model, resume = training(place)
    model.fit(np.zeros((8, 4), "float32"), epochs=1, callbacks=[resume], verbose=0)
    return place / "resume"


def checkpoint(place, edit):
    good_saves()
    target = place / "resume"
    shutil.copytree(good_saves(), target)
    edit(target)
    model, resume = training(place)

    def load():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.fit(np.zeros((8, 4), "float32"), epochs=1, callbacks=[resume], verbose=0)

    return load


def other(**variables):
    def edit(place):
        for path in place.glob("ckpt-*"):
            path.unlink()
        values = {k: tf.Variable(v) for k, v in variables.items()}
        tf.train.Checkpoint(**values).write(str(place / "ckpt-1"))

    return edit


def garbled(place, seed=0):
    path = place / "ckpt-1.index"
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for i in rng.integers(0, len(data), 40):
        data[i] = rng.integers(0, 256)
    path.write_bytes(bytes(data))


CHECKPOINTS = {
    "of another training": other(a=np.zeros((7, 7), "float32")),
    "of a large array": other(a=np.zeros((4000, 4000), "float32")),
    "of texts": other(a=np.array(["a"] * 9)),
    "with an index of 4 GB": truncated("ckpt-1.index", 4 * 2**30),
    "with numbers of 4 GB": truncated("ckpt-1.data-00000-of-00001", 4 * 2**30),
    "with half of the numbers": truncated("ckpt-1.data-00000-of-00001", 60),
    "without numbers": replaced("ckpt-1.data-00000-of-00001", None),
    "with an empty index": replaced("ckpt-1.index", b""),
    "with numbers in a link": linked("ckpt-1.data-00000-of-00001", "/etc/passwd"),
    "with an index in a link": linked("ckpt-1.index", "/etc/passwd"),
    "of no numbers that are finite": lambda place: (
        place / "ckpt-1.data-00000-of-00001"
    ).write_bytes(b"\xff" * (place / "ckpt-1.data-00000-of-00001").stat().st_size),
    **{f"garbled, {i}": functools.partial(garbled, seed=i) for i in range(6)},
}
for name, edit in CHECKPOINTS.items():
    CASES[f"checkpoint: {name}"] = functools.partial(checkpoint, edit=edit)


# -- records ----------------------------------------------------------------------------------


def records(place, edit):
    target = place / "data"
    shutil.copytree(emoji.FOLDER, target)
    edit(target)
    return lambda: emoji.load_arrays("test", ["noto"], data_dir=target)


def of_record(place, data):
    path = next(place.glob("*test*.tfrecord*"))
    path.write_bytes(data)


RECORDS = {
    "a length without end": lambda p: of_record(p, struct.pack("<QL", 2**63, 0) + b"\0" * 99),
    "a length of 4 GB": lambda p: of_record(p, struct.pack("<QL", 2**32, 0) + b"\0" * 99),
    "half a record": lambda p: of_record(p, struct.pack("<QL", 90, 0) + b"\0" * 30),
    "half a length": lambda p: of_record(p, b"\0" * 5),
    "a class that imports": settings(
        "features.json", lambda c: c.update(pythonClassName="antigravity.Feature")
    ),
    "an old class that imports": settings("features.json", lambda c: c.update(type="this.That")),
    "a description of 4 GB": truncated("features.json", 4 * 2**30),
}
for name, edit in RECORDS.items():
    CASES[f"records: {name}"] = functools.partial(records, edit=edit)


# -- safetensors and PyTorch ------------------------------------------------------------------


def tensors(place, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path = place / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return lambda: read_header(path)


def entry(dtype="F32", shape=(3,), offsets=(0, 12)):
    return {"w": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


SAFETENSORS = {
    "nothing": (b"",),
    "a list": (b"[]",),
    "a header without end": (b"{}", b"", 2**63),
    "another type": (entry("PICKLE"), b"\0" * 12),
    "a negative shape": (entry(shape=(-3,)), b"\0" * 12),
    "a shape of 4 GB": (entry(shape=(2**30,)), b"\0" * 12),
    "offsets elsewhere": (entry(offsets=(4, 16)), b"\0" * 16),
    "offsets that are texts": (entry(offsets=("0", "12")), b"\0" * 12),
    "bytes behind": (entry(), b"\0" * 13),
    "bytes missing": (entry(), b"\0" * 11),
    "an entry that is no dictionary": ({"w": 3}, b""),
    "two entries of the same bytes": (entry() | {"v": entry()["w"]}, b"\0" * 12),
}
for name, arguments in SAFETENSORS.items():
    CASES[f"safetensors: {name}"] = lambda place, a=arguments: tensors(place, *a)


def pytorch(place, data):
    path = place / "model.pth"
    path.write_bytes(data)
    return lambda: read_state_dict(path)


PYTORCH = {
    "nothing": b"",
    "a call": b"\x80\x02cos\nsystem\n(S'id'\ntR.",
    "a call of the new kind": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02id\x85R.",
    "room for 4 billion objects": b"\x80\x02K\x07r\xff\xff\xff\xff.",
    "a text of 4 GB": b"\x80\x04\x8d" + struct.pack("<Q", 2**32) + b"a",
    "a frame of 4 GB": b"\x80\x04\x95" + struct.pack("<Q", 2**32) + b"N.",
    "deep lists": b"\x80\x02" + b"(" * 10**5 + b"l" * 10**5 + b".",
    "another number": b"\x80\x02K\x07.",
    "no end": b"\x80\x02K\x07",
    "an instruction that there is not": b"\x80\x02\xff.",
    "a zip": b"PK\3\4" + b"\0" * 99,
}
for name, data in PYTORCH.items():
    CASES[f"pytorch: {name}"] = functools.partial(pytorch, data=data)
