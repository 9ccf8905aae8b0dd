"""Whole published models: opened from folders and single files, and written back."""

import fnmatch
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest
import tensorflow as tf
from published.opened import FIXTURES, reference
from published.test_original import single_file
from safetensors.numpy import load_file

from kgen.published import hub
from kgen.published.parts import open_parts, write_parts


def run_unet(parts, level=501):
    """The U-Net of a pipeline on the reference's input and text."""
    _, arrays = reference("sd2")
    z = arrays["unet.z"]
    cond = parts.text(["a red heart", "a cat"])
    log_snr = tf.fill([2], tf.cast(parts.steps.schedule.log_snr(level / 999), tf.float32))
    return parts.unet(z, log_snr, cond).numpy()


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl", "ddpm"])
def opened(request):
    return request.param, open_parts(FIXTURES / request.param)


def test_parts(opened):
    name, parts = opened
    assert parts.prediction == ("v" if name == "sd2" else "eps")
    if name == "ddpm":
        assert parts.text is parts.decoder is None
        assert parts.labels.table.shape == (6, 32)
        np.testing.assert_array_equal(parts.labels.table[-1], np.zeros(32))
        return
    assert parts.decoder.output_shape[1:] == parts.encoder.input_shape[1:] == (32, 32, 3)
    assert len(parts.text.towers) == (2 if name == "sdxl" else 1)
    factor = 0.13025 if name == "sdxl" else 0.18215
    np.testing.assert_allclose(parts.latent_mean_std, (0.0, 1 / factor))


def test_written_folder_is_the_published_one(opened, tmp_path):
    """Each file: configurations, vocabulary and weights, bit for bit."""
    name, parts = opened
    write_parts(parts, tmp_path / "written")
    source, written = FIXTURES / name, tmp_path / "written"
    for path in source.rglob("*config.json"):
        if "tokenizer" not in path.name:
            expected = json.loads(path.read_text())
            assert json.loads((written / path.relative_to(source)).read_text()) == expected
    for folder in source.glob("tokenizer*"):
        assert (written / folder.name / "merges.txt").read_text() == (
            folder / "merges.txt"
        ).read_text()
        for file, keys in (
            ("vocab.json", None),
            ("tokenizer_config.json", ["pad_token", "model_max_length", "tokenizer_class"]),
        ):
            values = [json.loads((f / file).read_text()) for f in (folder, written / folder.name)]
            if keys is not None:
                values = [{key: value[key] for key in keys} for value in values]
            assert values[0] == values[1]
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        expected = {}
        for path in (source / part).glob("*.safetensors"):
            if ".fp16." not in path.name:
                expected |= load_file(path)
        if not expected:
            continue
        if part == "vae":
            expected = {
                ".".join(old.get(w, w) for w in n.split(".")): a for n, a in expected.items()
            }
        (file,) = (written / part).glob("*.safetensors")
        received = load_file(file)
        if part.startswith("text"):
            received = {n.removeprefix("text_model."): a for n, a in received.items()}
            expected = {n.removeprefix("text_model."): a for n, a in expected.items()}
            expected.pop("embeddings.position_ids", None)
        assert set(received) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(received[key], value)
    again = open_parts(written)
    assert again.steps == parts.steps
    with pytest.raises(ValueError, match="`directory` must not exist, or be empty"):
        write_parts(parts, written)


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_single_file_is_the_same_model(name, tmp_path):
    path = single_file(name, tmp_path / "model.safetensors")
    parts = open_parts(path, config=FIXTURES / name)
    np.testing.assert_array_equal(run_unet(parts), run_unet(open_parts(FIXTURES / name)))
    with pytest.raises(ValueError, match="`config` must be given for a single file"):
        open_parts(path)


def test_oblong_pictures():
    """Of another size than the model was trained on, with the same weights."""
    parts = open_parts(FIXTURES / "sdxl", size=(64, 48))
    assert parts.decoder.output_shape[1:] == (64, 48, 3)
    assert parts.encoder.output_shape[1:] == (16, 12, 8)
    sizes = parts.text.prepare(["a cat"])["sizes"]
    np.testing.assert_array_equal(sizes, [[64, 48, 0, 0, 64, 48]])
    for network, other in zip((parts.unet, parts.decoder), (lambda p: p.unet, lambda p: p.decoder)):
        for a, b in zip(network.weights, other(open_parts(FIXTURES / "sdxl")).weights):
            np.testing.assert_array_equal(a, b)
    with pytest.raises(ValueError, match="`size` must be divisible by 4"):
        open_parts(FIXTURES / "sdxl", size=(64, 50))


def test_half_precision():
    """Kept in bfloat16, close to float32."""
    parts = open_parts(FIXTURES / "sd1", dtype="bfloat16", variant="fp16")
    assert {v.dtype for v in parts.unet.trainable_variables if "kernel" in v.path} >= {"bfloat16"}
    expected = run_unet(open_parts(FIXTURES / "sd1"))
    received = run_unet(parts).astype("float32")
    assert np.sqrt(np.mean((received - expected) ** 2)) < 0.05 * expected.std()


def test_windows_reach_the_unet():
    parts = open_parts(FIXTURES / "sd1", windows=2)
    assert parts.text(["cat " * 100, "cat"])["tokens"].shape == (2, 154, 32)
    assert run_unet(parts).shape == (2, 8, 8, 4)


def _edit(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


DAMAGES = {
    "no index": (lambda f: (f / "model_index.json").unlink(), "model_index.json is missing"),
    "another pipeline": (
        lambda f: _edit(f / "model_index.json", _class_name="FluxPipeline"),
        "'FluxPipeline'",
    ),
    "no scheduler": (
        lambda f: (f / "scheduler/scheduler_config.json").unlink(),
        "scheduler_config.json is missing",
    ),
    "no unet": (lambda f: shutil.rmtree(f / "unet"), "unet/config.json is missing"),
    "no vae": (lambda f: shutil.rmtree(f / "vae"), "vae/config.json is missing"),
    "text of another width": (
        lambda f: _edit(f / "unet/config.json", cross_attention_dim=64),
        "must have 32 as 'cross_attention_dim'",
    ),
    "latents of another width": (
        lambda f: _edit(f / "vae/config.json", latent_channels=8),
        "must have 8 as 'in_channels'",
    ),
    "unet of another class": (
        lambda f: _edit(f / "unet/config.json", _class_name="UNet2DModel"),
        "must be of a UNet2DConditionModel",
    ),
    "added conditions without a second encoder": (
        lambda f: _edit(
            f / "unet/config.json",
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=68,
        ),
        "'addition_embed_type'",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_folder(case, tmp_path):
    damage, message = DAMAGES[case]
    folder = pathlib.Path(shutil.copytree(FIXTURES / "sd1", tmp_path / "sd1"))
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_parts(folder)
    assert message in str(error.value)


def test_licence_is_read_from_the_folder(tmp_path):
    folder = pathlib.Path(shutil.copytree(FIXTURES / "ddpm", tmp_path / "ddpm"))
    (folder / "README.md").write_text("---\nlicense: openrail++\ntags:\n- x\n---\n# A model\n")
    assert open_parts(folder).licence == "openrail++"
    assert open_parts(FIXTURES / "ddpm").licence is None


FILES = {
    None: ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"],
    "fp16": [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ],
}
NEVER = ["unet/diffusion_pytorch_model.bin", "v1-5-pruned.ckpt", "safety_checker/model.safetensors"]


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_hub_is_asked_for_the_files_that_are_needed(variant, monkeypatch):
    asked = []

    def snapshot_download(name, allow_patterns):
        asked.append((name, allow_patterns))
        return str(FIXTURES / "sd1")

    fake = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    parts = open_parts("owner/name", variant=variant)
    assert parts.pipeline == "StableDiffusionPipeline"
    ((name, patterns),) = asked
    assert name == "owner/name"

    def fetched(file):
        return any(fnmatch.fnmatch(file, pattern) for pattern in patterns)

    assert all(map(fetched, FILES[variant]))
    assert all(map(fetched, ["model_index.json", "unet/config.json", "tokenizer_2/merges.txt"]))
    other = FILES["fp16" if variant is None else None]
    assert not any(map(fetched, [*other, *NEVER]))


def test_hub_without_its_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="needs the package huggingface_hub"):
        hub.fetch("owner/name")
    with pytest.raises(ValueError, match='must be of the form "owner/name"'):
        hub.fetch("../owner/name")
