"""Crafted presets and `.keras` files: each generator writes one and returns what loads it.

`CASES` has them by name. Bombs are made of what compresses well or of holes in files, so that they
take no room either.
"""

import copy
import functools
import hashlib
import io
import json
import os
import pathlib
import pickle
import random
import shutil
import struct
import zipfile

import h5py
import keras
import numpy as np

import kgen
from kgen.networks import mlp

ROOT = pathlib.Path(__file__).parents[1]
SAVED = ROOT / "saved_models"
CASES = {}


def case(name):
    """Registers a generator `function(folder) -> loader`."""

    def register(function):
        CASES[name] = function
        return function

    return register


# -- what is well formed ----------------------------------------------------------------------


@functools.cache
def small():
    """A model, its configuration and its arrays."""
    keras.utils.set_random_seed(0)
    model = kgen.VAE(mlp((4,), (4,), hidden=(3,)), mlp((2,), (4,), hidden=(3,)), seed=0)
    folder = pathlib.Path(os.environ["CRAFTED"]) / "small"
    model.save_to_preset(folder)
    model.save(folder / "small.keras")
    content = json.loads((folder / "config.json").read_text())
    with np.load(folder / "weights.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    return folder, content, arrays


def preset(folder, content=None, text=None, weights=None, arrays=None):
    """Writes a preset whose sums fit, as a stranger would, and returns its loader."""
    source, good, _ = small()
    content = copy.deepcopy(good) if content is None else content
    if arrays is not None:
        np.savez_compressed(folder / "weights.npz", **arrays)
    elif weights is not None:
        weights(folder / "weights.npz")
    else:
        shutil.copy(source / "weights.npz", folder)
    if isinstance(content, dict):
        content["sha256"] = hashlib.sha256((folder / "weights.npz").read_bytes()).hexdigest()
    text = json.dumps(content) if text is None else text
    (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    return lambda: kgen.from_preset(folder)


def keras_file(folder, config=None, text=None, weights=None, more=(), kind=zipfile.ZIP_STORED):
    """Writes a `.keras` file and returns its loader."""
    source, _, _ = small()
    with zipfile.ZipFile(source / "small.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    if config is not None:
        parts["config.json"] = json.dumps(config)
    if text is not None:
        parts["config.json"] = text
    if weights is not None:
        parts["model.weights.h5"] = weights
    path = folder / "model.keras"
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in [*parts.items(), *more]:
            archive.writestr(name, data)
    return lambda: kgen.load_model(path)


def keras_config():
    source, _, _ = small()
    with zipfile.ZipFile(source / "small.keras") as archive:
        return json.loads(archive.read("config.json"))


def hdf5(edit):
    """The bytes of the weights of the small model, after `edit(file)`."""
    source, _, _ = small()
    with zipfile.ZipFile(source / "small.keras") as archive:
        file = io.BytesIO(archive.read("model.weights.h5"))
    with h5py.File(file, "r+") as root:
        edit(root)
    return file.getvalue()


# -- code and names ---------------------------------------------------------------------------


def node(module, name, config=None, registered=None):
    config = {} if config is None else config
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


ENCODER = "kgen.conditioning.text_encoder", "TextEncoder"


def text_encoder(**config):
    config = {"name": "t", "sequence_length": 6, "trainable": False, "sha256": "0" * 64, **config}
    return node(*ENCODER, config, "kgen>TextEncoder")


NODES = {
    "os.system": node("os", "system", {"command": "id"}),
    "subprocess": node("subprocess", "Popen", {"args": ["id"]}),
    "pickle": node("pickle", "loads", {"data": ""}),
    "exec": node("builtins", "function", "exec", "exec"),
    "a download": node("keras.utils", "get_file", {"fname": "a", "origin": "file:///etc/passwd"}),
    "a pretrained model": node("keras.applications", "function", "VGG16", "VGG16"),
    "unsafe mode": node("keras.config", "enable_unsafe_deserialization"),
    "a module": node("keras.src.saving.saving_lib", "os"),
    "a private function": node("keras.src.saving.saving_lib", "load_model"),
    "TorchModuleWrapper": node("keras.layers", "TorchModuleWrapper", {"module": "gASV"}),
    "TFSMLayer": node("keras.layers", "TFSMLayer", {"filepath": "/tmp"}),
    "Lambda": node("keras.layers", "Lambda", {"function": {"class_name": "__lambda__"}}),
    "Lambda by its path": node("keras.src.layers.core.lambda_layer", "Lambda", {}),
    "marshalled code": {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
    "JaxLayer": node("keras.layers", "JaxLayer", {}),
    "a vocabulary": node("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}),
    "a vectorizer": node("keras.layers", "TextVectorization", {"vocabulary": "/etc/passwd"}),
    "a tokenizer": node(
        "keras_hub.tokenizers", "WordPieceTokenizer", {"vocabulary": "/etc/passwd"},
        "keras_hub>WordPieceTokenizer",
    ),
    "a task": node("keras_hub.models", "TextClassifier", {}, "keras_hub>TextClassifier"),
    "a preprocessor": node("keras_hub.models", "Preprocessor", {}, "keras_hub>Preprocessor"),
    "a callback": node("keras.callbacks", "CSVLogger", {"filename": "/tmp/x"}),
    "a data set": node("keras.datasets.mnist", "load_data", {}),
    "no module": {"class_name": "Dense", "config": {"units": 3}},
    "no string": node("keras.layers", ["Dense"]),
    "no text for a module": node(["keras.layers"], "Dense"),
    "no configuration": {"module": "keras.layers", "class_name": "Dense"},
    "a type of TensorFlow": {
        "class_name": "__typespec__", "spec_name": "TensorSpec", "module": "tensorflow",
        "config": [[1], "float32"], "registered_name": None,
    },
    "a large string array": {
        "class_name": "__numpy__", "config": {"value": "a", "dtype": "S1000000000"},
    },
    "a spectrogram": node("keras.layers", "STFTSpectrogram", {"frame_length": 100000}),
    "many augmentations": node("keras.layers", "RandAugment", {"num_ops": 10**6}),
    "a text encoder of a hub": text_encoder(preset="hf://someone/encoder"),
    "a text encoder of Kaggle": text_encoder(preset="kaggle://a/b/keras/c"),
    "a text encoder by URL": text_encoder(preset="https://example.com/encoder"),
    "a text encoder by file URL": text_encoder(preset="file:///etc"),
    "a text encoder by its name": text_encoder(preset="bert_tiny_en_uncased"),
    "a text encoder elsewhere": text_encoder(preset="/etc"),
    "a text encoder above": text_encoder(preset=".."),
    "a text encoder here": text_encoder(preset="."),
    "a text encoder without a name": text_encoder(preset=""),
    "a text encoder with a zero": text_encoder(preset="a\0b"),
    "a text encoder by number": text_encoder(preset=3),
    "a text encoder of none": text_encoder(),
    "a text encoder in a link": text_encoder(preset="link"),
    "a text encoder without sums": node(*ENCODER, {"preset": "real"}, "kgen>TextEncoder"),
    "a text encoder with other sums": text_encoder(preset="real"),
    "a text encoder with an option": text_encoder(preset="real", backbone={}),
}  # fmt: skip
PLACES = {
    "encoder": lambda config, value: config["config"].update(encoder=value),
    "activation": lambda config, value: dense(config).update(activation=value),
    "initializer": lambda config, value: dense(config).update(kernel_initializer=value),
    "option": lambda config, value: config["config"].update(prior=value),
}


def dense(config, index=-1):
    """The settings of a layer of the encoder."""
    layers = config["config"]["encoder"]["config"]["layers"]
    return layers[index]["config"]


def _named(folder, value, place, kind):
    (folder / "link").symlink_to(SAVED / "minilm_l6_v2")
    (folder / "real").mkdir()
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(SAVED / "minilm_l6_v2" / name, folder / "real")
    if kind == "keras":
        config = keras_config()
        PLACES[place](config, value)
        return keras_file(folder, config)
    content = copy.deepcopy(small()[1])
    PLACES[place](content["model"], value)
    return preset(folder, content)


for name, value in NODES.items():
    for number, place in enumerate(PLACES):
        kind = ("preset", "keras")[(number + len(name)) % 2]
        CASES[f"{kind}: {name} as {place}"] = functools.partial(
            _named, value=value, place=place, kind=kind
        )


# -- sizes ------------------------------------------------------------------------------------


def _edited(folder, edit):
    content = copy.deepcopy(small()[1])
    edit(content["model"])
    return preset(folder, content)


def _conv(config):
    config["config"]["encoder"]["config"]["layers"][1] = node(
        "keras.layers", "Conv1D", {"filters": 10**6, "kernel_size": 10**6}
    )


def unet(**options):
    config = {"shape": [8, 8, 1], "channels": [8], "blocks": 1, "attention": [False], **options}
    return node("kgen.networks.unet", "UNet", config, "kgen>UNet")


def dit(**options):
    config = {"shape": [8, 8, 1], "width": 8, "depth": 1, "heads": 2, **options}
    return node("kgen.networks.dit", "DiT", config, "kgen>DiT")


def hub(name, **options):
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
    config = {"vocabulary_size": 9, **sizes, "max_sequence_length": 12, **options}
    return node(
        f"keras_hub.src.models.{name.lower()}",
        f"{name}Backbone",
        config,
        f"keras_hub>{name}Backbone",
    )


SIZES = {
    "units of a billion": lambda c: dense(c).update(units=10**9),
    "units of a million": lambda c: dense(c).update(units=10**6),
    "more units than numbers": lambda c: dense(c).update(units=10**30),
    "units without end": lambda c: dense(c).update(units=float("inf")),
    "units of nothing": lambda c: dense(c).update(units=float("nan")),
    "fewer units": lambda c: dense(c).update(units=1),
    "negative units": lambda c: dense(c).update(units=-3),
    "a convolution": _conv,
    "a large input": lambda c: dense(c, 0).update(batch_shape=[None, 10**9]),
    "many axes": lambda c: dense(c, 0).update(batch_shape=[1] * 10**5),
    "long numbers": lambda c: dense(c, 0).update(batch_shape=[10**4000] * 1000),
    "a large shape": lambda c: dense(c, 0).update(batch_shape=[None, 10**5, 10**5]),
    "a negative shape": lambda c: dense(c, 0).update(batch_shape=[None, -7]),
    "a built shape": lambda c: c["config"]["encoder"]["config"]["layers"][-1].update(
        build_config={"input_shape": [None, 10**9]}
    ),
    "a network of many blocks": lambda c: c["config"].update(encoder=unet(blocks=10**6)),
    "a network of many levels": lambda c: c["config"].update(
        encoder=unet(channels=[1] * 10**5, attention=[False] * 10**5)
    ),
    "a wide network": lambda c: c["config"].update(encoder=unet(channels=[10**6])),
    "a network of a large picture": lambda c: c["config"].update(
        encoder=unet(shape=[8192, 8192, 64])
    ),
    "a transformer of many tokens": lambda c: c["config"].update(
        encoder=dit(shape=[8192, 8192, 1], patch=1)
    ),
    "a deep transformer": lambda c: c["config"].update(encoder=dit(depth=10**6)),
    "a backbone of many layers": lambda c: c["config"].update(
        encoder=hub("Bert", num_layers=10**6)
    ),
    "a backbone of many words": lambda c: c["config"].update(
        encoder=hub("Bert", vocabulary_size=10**9)
    ),
    "a wide backbone": lambda c: c["config"].update(encoder=hub("Bert", hidden_dim=10**6)),
    "a long table": lambda c: dense(c).update(
        kernel_initializer=node("keras.initializers", "Constant", {"value": [0.0] * 10**6})
    ),
    "a schedule of many steps": lambda c: c["config"].update(
        prior=node(
            "kgen.diffusion.learned_schedule",
            "LearnedLogSNR",
            {"width": 10**9},
            "kgen>LearnedLogSNR",
        )
    ),
    "many pseudo-inputs": lambda c: c["config"].update(
        prior=node("kgen.priors", "VampPrior", {"components": 10**9}, "kgen>VampPrior")
    ),
}
for name, edit in SIZES.items():
    CASES[f"preset: {name}"] = functools.partial(_edited, edit=edit)


# -- texts of JSON ----------------------------------------------------------------------------

TEXTS = {
    "nothing": b"",
    "no JSON": b"{",
    "no dictionary": b"[]",
    "a number": b"3",
    "no text": b"\xff\xfe\x00",
    "deep lists": b"[" * 10**6,
    "deep dictionaries": b'{"a":' * 10**5 + b"1" + b"}" * 10**5,
    "deep and whole": b'{"model":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "spaces without end": b" " * (20 * 2**20),
    "many lists": b'{"model": {"a": [' + b"[]," * (5 * 10**6) + b"[]]}}",
    "many dictionaries": b"[" + b'{"a":1},' * (10**6) + b"{}]",
    "many quotes": b'"' + b'\\"' * (7 * 10**6),
    "a long number": b'{"model": {"units": ' + b"9" * 10**6 + b"}}",
    "a number too long to print": b'{"model": {"units": ' + b"9" * 4000 + b"}}",
}
for name, text in TEXTS.items():
    CASES[f"preset: {name}"] = functools.partial(preset, text=text)
    CASES[f"keras: {name}"] = functools.partial(keras_file, text=text, kind=zipfile.ZIP_DEFLATED)


@case("preset: a hole of 4 GB")
def hole(folder):
    load = preset(folder)
    os.truncate(folder / "config.json", 4 * 2**30)
    return load


@case("keras: 3 GB of spaces")
def spaces(folder):
    """A deflated stream of spaces, of which one block is made and repeated."""
    return (
        keras_file(folder, more=[])
        if folder is None
        else _bomb(folder, "config.json", b" ", 3 * 2**30)
    )


def _bomb(folder, name, byte, size):
    load = keras_file(folder)
    path = folder / "model.keras"
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist() if n != name}
    piece = byte * 2**24
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for other, data in parts.items():
            archive.writestr(other, data)
        with archive.open(name, "w", force_zip64=True) as stream:
            for _ in range(size // len(piece)):
                stream.write(piece)
    return load


@case("keras: 1 GB of weights that are zero")
def zeros(folder):
    return _bomb(folder, "model.weights.h5", b"\0", 2**30)


@case("keras: 1 GB of metadata")
def metadata(folder):
    return _bomb(folder, "metadata.json", b" ", 2**30)


# -- arrays -----------------------------------------------------------------------------------


def header(dtype="<f4", shape=(3,), order=False, text=None):
    text = text or f"{{'descr': '{dtype}', 'fortran_order': {order}, 'shape': {shape}, }}"
    data = text.encode() + b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(data)) + data


def zipped(path, parts, kind=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in parts:
            archive.writestr(name, data)


def _parts(edit=lambda name, array: array):
    parts = []
    for name, array in small()[2].items():
        file = io.BytesIO()
        value = edit(name, array)
        if isinstance(value, bytes):
            file.write(value)
        else:
            np.save(file, value, allow_pickle=True)
        parts.append((f"{name}.npy", file.getvalue()))
    return parts


def first(name):
    return name.startswith("0000")


def _value(number, dtype):
    def edit(name, array):
        array = array.astype(dtype)
        if first(name):
            array[0] = number
        return array

    return lambda path: zipped(path, _parts(edit))


def _as(dtype):
    return lambda path: zipped(path, _parts(lambda n, a: a.astype(dtype) if first(n) else a))


def _first(data):
    return lambda path: zipped(path, _parts(lambda n, a: data if first(n) else a))


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/was-run",)


def _huge(path):
    """4 MB that declare, and inflate to, 4 GB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("0000:w.npy", "w", force_zip64=True) as stream,
    ):
        stream.write(header(shape=(2**30,)))
        for _ in range(64):
            stream.write(b"\0" * 2**26)


def _declared(path):
    """An entry whose directory declares 4 GB."""
    zipped(path, _parts())
    data = bytearray(path.read_bytes())
    place = data.rindex(b"PK\1\2")
    data[place + 24 : place + 28] = struct.pack("<L", 2**32 - 2)
    path.write_bytes(data)


def _two_names(path):
    parts = _parts()
    with zipfile.ZipFile(path, "w") as archive, __import__("warnings").catch_warnings():
        __import__("warnings").simplefilter("ignore")
        for name, data in [*parts, parts[0]]:
            archive.writestr(name, data)


def _edited_bytes(edit):
    def write(path):
        zipped(path, _parts())
        path.write_bytes(edit(path.read_bytes()))

    return write


def _many(path):
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(10**5 + 1):
            archive.writestr(f"{i}.npy", b"")


def _overlapping(path):
    """Every name is that of the first entry's bytes."""
    parts = _parts()
    zipped(path, parts)
    data = path.read_bytes()
    start = data.index(b"PK\1\2")
    entry = data[start : start + 46 + struct.unpack("<H", data[start + 28 : start + 30])[0]]
    directory = entry * 3
    end = struct.pack("<LHHHHLLH", 0x06054B50, 0, 0, 3, 3, len(directory), start, 0)
    path.write_bytes(data[:start] + directory + end)


def _both(path):
    """HDF5 first, a zip behind it."""
    with h5py.File(path, "w") as root:
        root["a"] = np.zeros(3)
    hdf = path.read_bytes()
    zipped(path, _parts())
    path.write_bytes(hdf + path.read_bytes())


ARRAYS = {
    "NaN": _value(np.nan, "f2"),
    "an infinity": _value(np.inf, "f4"),
    "1e300 in float64": _value(1e300, "f8"),
    "bool": _as("?"),
    "int8": _as("i1"),
    "int64": _as("i8"),
    "complex": _as("c8"),
    "text": _as("U4"),
    "big-endian": _as(">f4"),
    "long double": _as("g"),
    "objects": lambda path: np.savez(path, w=np.array([Touch()], dtype=object)),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Touch())),
    "a bare array": lambda path: path.write_bytes(header() + b"\0" * 12),
    "nothing": lambda path: path.write_bytes(b""),
    "an empty archive": lambda path: zipped(path, []),
    "4 GB of zeros": _huge,
    "4 GB declared by the directory": _declared,
    "4 GB declared by the header": _first(header(shape=(2**30,))),
    "a negative shape": _first(header(shape=(-3,)) + b"\0" * 12),
    "a shape too long to count": _first(header(shape=(10**15, 10**15))),
    "forty axes": _first(header(shape=(1,) * 40) + b"\0" * 4),
    "code in a header": _first(header(text="{'descr': __import__('os').system('id')}")),
    "an open bracket in a header": _first(header(text="{'descr': '<f4', 'shape': ((((((((((((")),
    "a deep header": _first(header(text="(" * 4000)),
    "a structured type": _first(
        header(text="{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (3,), }")
    ),
    "a header of 4 GB": _first(b"\x93NUMPY\2\0" + struct.pack("<L", 2**32 - 1) + b" " * 99),
    "a later version": _first(b"\x93NUMPY\x09\0" + header()[8:]),
    "too few numbers": _first(header(shape=(3, 4)) + b"\0" * 8),
    "too many numbers": _first(header(shape=(3,)) + b"\0" * 80),
    "two entries of one name": _two_names,
    "a hundred thousand entries": _many,
    "entries inside each other": _overlapping,
    "bytes before": _edited_bytes(lambda data: b"GIF89a" + data),
    "bytes behind": _edited_bytes(lambda data: data + b"\0" * 9),
    "half of it": _edited_bytes(lambda data: data[: len(data) // 2]),
    "another bit": _edited_bytes(lambda data: data[:90] + bytes([data[90] ^ 1]) + data[91:]),
    "an encrypted entry": _edited_bytes(
        lambda data: data.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")
    ),
    "HDF5 and zip at once": _both,
    "another entry": lambda path: zipped(path, [*_parts(), ("readme.txt", b"")]),
    "one array more": lambda path: zipped(path, [*_parts(), ("0009:x.npy", header() + b"\0" * 12)]),
    "one array less": lambda path: zipped(path, _parts()[1:]),
    "tar": lambda path: path.write_bytes(b"ustar" * 300),
}
for name, write in ARRAYS.items():
    CASES[f"npz: {name}"] = functools.partial(preset, weights=write)


# -- HDF5 -------------------------------------------------------------------------------------

KERNEL = "encoder/layers/dense/vars/0"


def _replace(**options):
    def edit(root):
        shape = root[KERNEL].shape
        del root[KERNEL]
        root.create_dataset(KERNEL, **{"shape": shape, "dtype": "f4", **options})

    return edit


def _link(link):
    def edit(root):
        del root[KERNEL]
        root[KERNEL] = link

    return edit


def _virtual(root):
    layout = h5py.VirtualLayout(root[KERNEL].shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "a", root[KERNEL].shape)
    del root[KERNEL]
    root.create_virtual_dataset(KERNEL, layout)


def _set(dtype, number):
    def edit(root):
        array = np.array(root[KERNEL]).astype(dtype)
        array.flat[0] = number
        del root[KERNEL]
        root[KERNEL] = array

    return edit


def _attribute(root):
    root[KERNEL].attrs.create("dtype", np.zeros(7000, "f8"))
    for i in range(40):
        root[KERNEL].attrs[f"a{i}"] = "x"


def _loop(root):
    root["encoder/layers/loop"] = root["encoder"]


def _again(root):
    for i in range(300):
        root[f"copies/{i}"] = root[KERNEL]


HDF5 = {
    "an external link": _link(h5py.ExternalLink("/etc/passwd", "a")),
    "a soft link": _link(h5py.SoftLink("/encoder/layers/dense_1/vars/0")),
    "a link to nothing": _link(h5py.SoftLink("/nowhere")),
    "an external array": _replace(external=[("/etc/passwd", 0, 48)]),
    "a virtual array": _virtual,
    "an empty array of 4 GB": _replace(shape=(2**20, 2**10)),
    "an empty array": _replace(),
    "chunks": _replace(chunks=(2, 2), data=np.zeros((4, 3), "f4")),
    "compressed chunks": _replace(chunks=(2, 2), compression="gzip", data=np.zeros((4, 3), "f4")),
    "chunks of 4 GB": _replace(shape=(2**15, 2**15), chunks=(2**14, 2**14), maxshape=(None, None)),
    "NaN": _set("f4", np.nan),
    "1e300 in float64": _set("f8", 1e300),
    "bool": _set("?", True),
    "int32": _set("i4", 1),
    "texts": lambda root: (root.pop(KERNEL), root.create_dataset(KERNEL, data=["a", "b"]))[0],
    "references": lambda root: root.create_dataset("r", data=root.ref, dtype=h5py.ref_dtype),
    "a structured type": lambda root: root.create_dataset("r", data=np.zeros(3, [("a", "f4")])),
    "a named type": lambda root: root.__setitem__("t", np.dtype("f4")),
    "a large attribute": _attribute,
    "a group inside itself": _loop,
    "an array under many names": _again,
    "no arrays": lambda root: root.clear(),
    "another shape": _replace(data=np.zeros((4, 4), "f4"), shape=(4, 4)),
    "one array less": lambda root: root.pop(KERNEL),
}
for name, edit in HDF5.items():
    CASES[f"hdf5: {name}"] = lambda folder, edit=edit: keras_file(folder, weights=hdf5(edit))


# -- `.keras` ---------------------------------------------------------------------------------


def _renamed(folder, name):
    keras_file(folder)
    path = folder / name
    (folder / "model.keras").rename(path)
    return lambda: kgen.load_model(path)


def _bytes(folder, edit):
    load = keras_file(folder)
    path = folder / "model.keras"
    path.write_bytes(edit(path.read_bytes()))
    return load


def _polyglot(folder):
    """An HDF5 file of Keras' old format that is a `.keras` file too."""
    path = folder / "model.h5"
    with h5py.File(path, "w", userblock_size=65536) as root:
        root.attrs["model_config"] = json.dumps({"class_name": "Lambda", "config": {}})
    keras_file(folder)
    data = (folder / "model.keras").read_bytes()
    path.write_bytes(path.read_bytes() + data)
    return lambda: kgen.load_model(path)


def _hdf5_in_front(folder):
    keras_file(folder)
    path = folder / "model.keras"
    data = path.read_bytes()
    with h5py.File(path, "w") as root:
        root["a"] = np.zeros(3)
    path.write_bytes(path.read_bytes() + data)
    return lambda: kgen.load_model(path)


KERAS = {
    "another suffix": lambda folder: _renamed(folder, "model.h5"),
    "a zip and an old HDF5 file at once": _polyglot,
    "an HDF5 file in front": _hdf5_in_front,
    "bytes before": lambda folder: _bytes(folder, lambda data: b"MZ" + data),
    "bytes behind": lambda folder: _bytes(folder, lambda data: data + b"\0"),
    "half of it": lambda folder: _bytes(folder, lambda data: data[: len(data) // 2]),
    "another bit": lambda folder: _bytes(folder, lambda data: data[:900] + b"\7\7" + data[902:]),
    "an asset": lambda folder: keras_file(folder, more=[("assets/a.txt", b"")]),
    "an asset above": lambda folder: keras_file(folder, more=[("../../a.txt", b"x")]),
    "an asset at the root": lambda folder: keras_file(folder, more=[("/tmp/a.txt", b"x")]),
    "weights in an npz too": lambda folder: keras_file(folder, more=[("model.weights.npz", b"")]),
    "no weights": lambda folder: _without(folder, "model.weights.h5"),
    "no configuration": lambda folder: _without(folder, "config.json"),
    "weights that are text": lambda folder: keras_file(folder, weights=b"hello"),
    "weights that are half": lambda folder: keras_file(folder, weights=hdf5(lambda r: 0)[:9000]),
    "weights behind a block": lambda folder: keras_file(
        folder, weights=b"\0" * 512 + hdf5(lambda r: 0)
    ),
    "an optimizer of code": lambda folder: _compiled(folder, node("os", "system", {})),
    "a loss of code": lambda folder: _compiled(folder, None, loss=node("os", "function", "system")),
    "a class as a text": lambda folder: _compiled(folder, "keras_hub>BertTokenizer"),
}


def _without(folder, name):
    load = keras_file(folder)
    path = folder / "model.keras"
    with zipfile.ZipFile(path) as archive:
        parts = {n: archive.read(n) for n in archive.namelist() if n != name}
    zipped(path, parts.items(), zipfile.ZIP_STORED)
    return load


def _compiled(folder, optimizer, **more):
    import keras_hub  # noqa: F401, registers its classes

    config = keras_config()
    config["compile_config"] = {"optimizer": optimizer, **more}
    return keras_file(folder, config)


for name, write in KERAS.items():
    CASES[f"keras: {name}"] = write


def mutated(content, seed):
    """A configuration with one random change: a value, a key less, a part of another place."""
    rng = random.Random(seed)
    content = copy.deepcopy(content)
    places = []

    def walk(value):
        keys = range(len(value)) if isinstance(value, list) else list(value)
        for key in keys:
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                walk(value[key])

    walk(content["model"])
    value, key = rng.choice(places)
    others = [
        None,
        0,
        -1,
        1,
        2**31,
        10**9,
        1e308,
        float("nan"),
        "",
        "a",
        "relu",
        [],
        {},
        [1, 2],
        True,
    ]
    others += [{"class_name": "Dense"}, ["a"] * 3, rng.choice(places)[0], "kgen>VAE", "{", 0.5]
    action = rng.randrange(4)
    if action == 0 and isinstance(value, dict):
        del value[key]
    elif action == 1:
        other, name = rng.choice(places)
        value[key] = copy.deepcopy(other[name])
    else:
        value[key] = copy.deepcopy(rng.choice(others))
    return content
