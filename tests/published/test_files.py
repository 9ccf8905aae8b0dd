"""Folders of published weights: as they are, and damaged in some seventy ways."""

import json
import pathlib
import resource
import shutil
import struct
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from kgen.files.safetensors import read_header
from kgen.published.configs import read_config
from kgen.published.files import Folder, open_file, read_json
from kgen.published.weights import Weights

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
STEM = "diffusion_pytorch_model"


def write(path, header, values=b"", length=None):
    """A `.safetensors` file from its parts."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    start = struct.pack("<Q", len(text) if length is None else length)
    path.write_bytes(start + text + values)
    return path


def entry(shape=(2,), start=0, end=8, dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize("part", ["sd1/unet", "sd1/vae", "ddpm/unet"])
def test_arrays_are_those_that_the_library_loads_at_once(part):
    pipeline, part = part.split("/")
    weights = Folder(FIXTURES / pipeline).weights(part, STEM)
    expected = load_file(FIXTURES / pipeline / part / f"{STEM}.safetensors")
    assert set(weights) == set(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(weights[name], value)
        assert weights.shape(name) == value.shape
    assert weights.nbytes == sum(v.nbytes for v in expected.values())


def test_shards_are_read_as_one():
    weights = Folder(FIXTURES / "sd2").weights("unet", STEM)
    assert len(weights.paths) == 3
    assert len(weights) == 70 + 80 + 58
    for path in weights.paths:
        for name, value in load_file(path).items():
            np.testing.assert_array_equal(weights[name], value)


@pytest.mark.parametrize(
    ("part", "stem"), [("unet", STEM), ("vae", STEM), ("text_encoder", "model")]
)
def test_variant_holds_the_same_names_in_half_precision(part, stem):
    folder = Folder(FIXTURES / "sd1")
    full, half = folder.weights(part, stem), folder.weights(part, stem, "fp16")
    assert set(full) == set(half)
    # The buffer `position_ids` stays an integer.
    floats = [name for name in full if full.tensors[name].dtype == "F32"]
    assert all(half.tensors[name].dtype == "F16" for name in floats)
    name = floats[0]
    np.testing.assert_allclose(half[name], full[name], rtol=1e-3, atol=1e-6)


def test_sharded_variant(tmp_path):
    """Both names that published indices of a variant have had."""
    for index in (f"{STEM}.safetensors.index.fp16.json", f"{STEM}.fp16.safetensors.index.json"):
        folder = tmp_path / index / "unet"
        folder.mkdir(parents=True)
        save_file({"a": np.ones(2, "float16")}, folder / f"{STEM}.fp16-00001-of-00001.safetensors")
        places = {"weight_map": {"a": f"{STEM}.fp16-00001-of-00001.safetensors"}}
        (folder / index).write_text(json.dumps(places))
        weights = Folder(folder.parent).weights("unet", STEM, "fp16")
        assert weights["a"].dtype == np.float16


def test_brain_floats_and_scalars(tmp_path):
    import ml_dtypes

    values = {
        "a": np.arange(4).astype(ml_dtypes.bfloat16),
        "b": np.array(3, "int64"),
        "none": np.zeros((0, 3), "float32"),
    }
    save_file(values, tmp_path / "a.safetensors", metadata={"alpha": "4"})
    weights = open_file(tmp_path / "a.safetensors")
    assert weights.metadata == {"alpha": "4"}
    for name, value in values.items():
        assert weights[name].dtype == value.dtype
        np.testing.assert_array_equal(weights[name], value)


def test_snapshot_of_the_hub_is_followed_to_its_blobs(tmp_path):
    snapshot = tmp_path / "models--owner--name" / "snapshots" / "abc"
    blobs = snapshot.parent.parent / "blobs"
    (snapshot / "vae").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("{}")
    (snapshot / "vae" / "config.json").symlink_to("../../../blobs/123")
    assert Folder(snapshot).read_json("vae/config.json") == {}


def _copy(tmp_path, pipeline="sd2"):
    return pathlib.Path(shutil.copytree(FIXTURES / pipeline, tmp_path / pipeline))


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


HEADERS = {
    "empty file": (b"", None, "at least 8 bytes"),
    "claims 10 GB": (b"{}", 10 * 2**30, "header of 10,737,418,240 bytes"),
    "claims more than any file": (b"{}", 2**63, "must fit into the file"),
    "no JSON": (b"{what", None, "must be JSON"),
    "not in UTF-8": (b"\xff\xfe{}", None, "must be JSON"),
    "nested without end": (b"[" * 100_000, None, "must not be nested more than 100 deep"),
    "a list": (b"[]", None, "must be a dictionary"),
    "entry is a list": ({"a": [1]}, None, "'a' must have the keys"),
    "entry without a type": ({"a": {"shape": [], "data_offsets": [0, 0]}}, None, "'a' must have"),
    "type unknown": ({"a": entry(dtype="F99")}, None, "type of 'a'"),
    "type is a number": ({"a": entry(dtype=32)}, None, "type of 'a'"),
    "shape of 10 GB": ({"a": entry((2**31, 2))}, None, "'a' of type F32 .* 17,179,869,184 bytes"),
    "shape overflows": ({"a": entry((2**62, 2**62))}, None, "'a' of type F32"),
    "shape is huge": ({"a": entry((2**64,))}, None, "shape of 'a' must be a list"),
    "shape of many axes": ({"a": entry([1] * 1000)}, None, "shape of 'a' must be a list"),
    "shape is negative": ({"a": entry((-2,))}, None, "shape of 'a' must be a list"),
    "shape is a fraction": ({"a": entry((2.0,))}, None, "shape of 'a' must be a list"),
    "shape is a truth value": ({"a": entry((True,), 0, 4)}, None, "shape of 'a' must be a list"),
    "offsets turned around": ({"a": entry(start=8, end=0)}, None, "'a' of type F32"),
    "offsets beyond the file": ({"a": entry(start=800, end=808)}, None, "'a' must begin at the"),
    "three offsets": (
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8, 8]}},
        None,
        "shape of 'a' must be a list",
    ),
    "values overlap": (
        {"a": entry(), "b": entry(start=4, end=12)},
        None,
        "'b' must begin where 'a' ends",
    ),
    "a gap": ({"a": entry(), "b": entry(start=16, end=24)}, None, "'b' must begin where 'a' ends"),
    "values are missing": ({"a": entry(), "b": entry(start=8, end=16)}, None, "is truncated.*'b'"),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        None,
        "'a' comes twice",
    ),
    "metadata is a number": ({"__metadata__": 3, "a": entry()}, None, "'__metadata__' must be"),
    "metadata holds a list": ({"__metadata__": {"x": []}}, None, "'__metadata__' must be"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_damaged_header(case, tmp_path):
    header, length, message = HEADERS[case]
    path = write(tmp_path / "bad.safetensors", header, bytes(8), length)
    if case == "empty file":
        path.write_bytes(b"")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.process_time()
    with pytest.raises(ValueError, match=message) as error:
        read_header(path)
    assert time.process_time() - begin < 1
    assert "bad.safetensors" in str(error.value)
    # Kilobytes: nothing of the size that a header claims was taken.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_type_that_is_not_computed_with(tmp_path):
    path = write(tmp_path / "bad.safetensors", {"a": entry((8,), dtype="F8_E4M3")}, bytes(8))
    assert read_header(path)[0]["a"].shape == (8,)
    with pytest.raises(ValueError, match="'a' of one of the types .* Received: F8_E4M3"):
        Weights([path])


def test_superfluous_values(tmp_path):
    path = write(tmp_path / "bad.safetensors", {"a": entry()}, bytes(9))
    with pytest.raises(ValueError, match="belong to no tensor"):
        read_header(path)


def _index(folder):
    return folder / "unet" / f"{STEM}.safetensors.index.json"


def _place(folder, name, shard):
    index = json.loads(_index(folder).read_text())
    index["weight_map"][name] = shard
    _index(folder).write_text(json.dumps(index))


def _lose_weights(folder):
    for path in folder.glob("unet/*safetensors*"):
        path.unlink()


def _pickled(folder):
    _lose_weights(folder)
    (folder / "unet" / f"{STEM}.bin").write_bytes(b"\x80\x04")


def _only_variant(folder):
    _lose_weights(folder)
    save_file({"a": np.ones(2, "float16")}, folder / "unet" / f"{STEM}.fp16.safetensors")


def _link(folder):
    (folder.parent / "elsewhere").mkdir()
    target = folder.parent / "elsewhere" / "secret.safetensors"
    save_file({"a": np.ones(2, "float32")}, target)
    _lose_weights(folder)
    (folder / "unet" / f"{STEM}.safetensors").symlink_to(target)


def _double(folder):
    shards = sorted(folder.glob("unet/*-of-00003.safetensors"))
    shards[1].write_bytes(shards[0].read_bytes())


FOLDERS = {
    "no weights": (_lose_weights, FileNotFoundError, "unet/.* is missing"),
    "pickled": (_pickled, ValueError, r"\.bin is not read: it is pickled"),
    "only a variant": (_only_variant, FileNotFoundError, "pass `variant='fp16'`"),
    "shard is missing": (
        lambda f: next(f.glob("unet/*-00002-*")).unlink(),
        FileNotFoundError,
        "00002-of-00003.safetensors is missing",
    ),
    "shard is truncated": (
        lambda f: _truncate(next(f.glob("unet/*-00002-*"))),
        ValueError,
        "00002-of-00003.safetensors is truncated",
    ),
    "shard twice": (_double, ValueError, "both have|which its index places in"),
    "index leaves the folder": (
        lambda f: _place(f, "conv_in.bias", "../vae/diffusion_pytorch_model.safetensors"),
        ValueError,
        "must place 'conv_in.bias' in a `.safetensors` file beside it",
    ),
    "index names an absolute path": (
        lambda f: _place(f, "conv_in.bias", "/etc/passwd"),
        ValueError,
        "must place 'conv_in.bias'",
    ),
    "index names a pickled file": (
        lambda f: _place(f, "conv_in.bias", "weights.bin"),
        ValueError,
        "must place 'conv_in.bias'",
    ),
    "index names a number": (
        lambda f: _place(f, "conv_in.bias", 3),
        ValueError,
        "must place 'conv_in.bias'",
    ),
    "index names what no shard has": (
        lambda f: _place(f, "ghost", f"{STEM}-00001-of-00003.safetensors"),
        ValueError,
        "must have 'ghost'",
    ),
    "index places an array elsewhere": (
        lambda f: _place(f, "conv_in.bias", f"{STEM}-00003-of-00003.safetensors"),
        ValueError,
        "has 'conv_in.bias', which its index places in",
    ),
    "index is no JSON": (lambda f: _index(f).write_text("{"), ValueError, "must be JSON"),
    "index is a list": (lambda f: _index(f).write_text("[]"), ValueError, "hold a dictionary"),
    "index has no map": (lambda f: _index(f).write_text("{}"), ValueError, "`weight_map`"),
    "link out of the folder": (_link, ValueError, "which is outside"),
}


@pytest.mark.parametrize("case", FOLDERS)
def test_damaged_folder(case, tmp_path):
    damage, kind, message = FOLDERS[case]
    folder = _copy(tmp_path)
    damage(folder)
    begin = time.process_time()
    with pytest.raises(kind, match=message) as error:
        Folder(folder).weights("unet", STEM)
    assert time.process_time() - begin < 1
    assert "unet" in str(error.value)


def test_no_folder_and_no_such_variant(tmp_path):
    with pytest.raises(FileNotFoundError, match="`path` must be a folder"):
        Folder(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no variant 'fp32'"):
        Folder(FIXTURES / "sd1").weights("unet", STEM, "fp32")


@pytest.mark.parametrize("name", ["../secret.json", "/etc/hostname"])
def test_path_that_leaves_the_folder(name, tmp_path):
    (tmp_path / "secret.json").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(ValueError, match="is outside"):
        Folder(tmp_path / "model").path(name)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.pt"])
def test_single_pickled_file(name, tmp_path):
    (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(ValueError, match=f"{name} is not read: it is pickled"):
        open_file(tmp_path / name)


def test_single_file_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="a folder or a `.safetensors` file"):
        open_file(tmp_path / "model.gguf")
    with pytest.raises(FileNotFoundError, match="is missing"):
        open_file(tmp_path / "model.safetensors")


def test_json_that_is_too_large(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(10 * 2**30)  # a hole: no disk is taken
    with pytest.raises(ValueError, match=r"config\.json must have at most"):
        read_json(path)


def test_one_name_in_two_files(tmp_path):
    for name in "ab":
        save_file({"x": np.ones(1, "float32")}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match="both have 'x'"):
        Weights([tmp_path / "a.safetensors", tmp_path / "b.safetensors"])


UNET = json.loads((FIXTURES / "sd1" / "unet" / "config.json").read_text())
VAE = json.loads((FIXTURES / "sd1" / "vae" / "config.json").read_text())
TEXT = json.loads((FIXTURES / "sd1" / "text_encoder" / "config.json").read_text())
DDPM = json.loads((FIXTURES / "ddpm" / "unet" / "config.json").read_text())
CLASSES = {id(UNET): "UNet2DConditionModel", id(VAE): "AutoencoderKL", id(TEXT): "CLIPTextModel"}
CLASSES[id(DDPM)] = "UNet2DModel"


@pytest.mark.parametrize("config", [UNET, VAE, TEXT, DDPM], ids=list(CLASSES.values()))
def test_published_configurations_are_accepted(config):
    read = read_config(config, CLASSES[id(config)], "config.json")
    assert all(read[key] == value for key, value in config.items() if key in read)


CONFIGS = [
    (UNET, "_class_name", "UNet3DConditionModel", "must be of a UNet2DConditionModel"),
    (UNET, "class_embed_type", "timestep", "'class_embed_type'"),
    (UNET, "dual_cross_attention", True, "'dual_cross_attention'"),
    (UNET, "resnet_time_scale_shift", "scale_shift", "'resnet_time_scale_shift'"),
    (UNET, "encoder_hid_dim_type", "text_proj", "'encoder_hid_dim_type'"),
    (UNET, "addition_embed_type", "image", "'addition_embed_type'"),
    (UNET, "addition_embed_type", "text_time", "'addition_time_embed_dim'"),
    (UNET, "in_channels", 9, "as many `out_channels`"),
    (UNET, "down_block_types", ["KDownBlock2D"] * 3, "'down_block_types'"),
    (UNET, "down_block_types", ["DownBlock2D"] * 2, "3 entries in 'down_block_types'"),
    (UNET, "up_block_types", ["UpBlock2D"] * 3, "mirror"),
    (UNET, "attention_head_dim", [8, 8], "3 entries in 'attention_head_dim'"),
    (UNET, "block_out_channels", [16, 16, 10**9], "'block_out_channels'"),
    (UNET, "block_out_channels", [12, 16, 24], "divisible by `norm_num_groups`"),
    (UNET, "block_out_channels", "16", "'block_out_channels'"),
    (UNET, "layers_per_block", 0, "'layers_per_block'"),
    (UNET, "norm_num_groups", True, "'norm_num_groups'"),
    (UNET, "an_option_of_next_year", "on", "'an_option_of_next_year'"),
    (VAE, "scaling_factor", 0.0, "positive `scaling_factor`"),
    (VAE, "scaling_factor", float("nan"), "'scaling_factor'"),
    (VAE, "latents_mean", [0.0], "'latents_mean'"),
    (VAE, "mid_block_add_attention", False, "'mid_block_add_attention'"),
    (TEXT, "architectures", ["T5EncoderModel"], "must be of a CLIPTextModel"),
    (TEXT, "hidden_act", "relu", "'hidden_act'"),
    (TEXT, "num_attention_heads", 5, "divisible by `num_attention_heads`"),
    (TEXT, "vocab_size", 2**40, "'vocab_size'"),
    (DDPM, "time_embedding_type", "fourier", "'time_embedding_type'"),
    (DDPM, "down_block_types", ["SkipDownBlock2D"] * 2, "'down_block_types'"),
]


@pytest.mark.parametrize(("config", "key", "value", "message"), CONFIGS)
def test_configurations_that_make_another_network(config, key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        read_config({**config, key: value}, CLASSES[id(config)], "unet/config.json")
    assert "unet/config.json" in str(error.value)


def test_what_the_class_name_of_the_text_encoder_is_read_from():
    with pytest.raises(ValueError, match="must be of a CLIPTextModelWithProjection"):
        read_config(TEXT, "CLIPTextModelWithProjection", "text_encoder_2/config.json")
