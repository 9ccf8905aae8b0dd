"""Published networks against the outputs of the references, and their weights both ways."""

import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from published.opened import (
    FIXTURES,
    STEM,
    difference,
    open_autoencoder,
    open_unet,
    reference,
    tokens,
)
from safetensors.numpy import load_file, save_file

from kgen.conditioning.clip_text import size_features
from kgen.diffusion import DiscreteBeta
from kgen.diffusion.discrete_beta import LevelIndex
from kgen.published.blocks import modern
from kgen.published.files import Folder
from kgen.published.modules import read_slots, write_slots

SCHEDULE = DiscreteBeta()
LINEAR = DiscreteBeta("linear", 1e-4, 0.02)


def schedule_of(pipeline):
    return LINEAR if pipeline == "ddpm" else SCHEDULE


def condition(pipeline, arrays, labels):
    if pipeline == "ddpm":
        return {"pooled": labels(arrays["unet.labels"])}
    if pipeline == "sdxl":
        features = size_features(tf.constant(arrays["cond.time_ids"], tf.float32), 8)
        pooled = tf.concat([arrays["cond.pooled"], features], axis=-1)
        return {**tokens(arrays["cond.tokens"]), "pooled": pooled}
    return tokens(arrays["unet.tokens"])


def predict(pipeline, network, labels, level):
    _, arrays = reference(pipeline)
    log_snr = tf.fill([2], schedule_of(pipeline).log_snr(np.float32(level / 999)))
    return network(arrays["unet.z"], log_snr, condition(pipeline, arrays, labels))


@pytest.mark.parametrize("pipeline", ["sd1", "sd2", "sdxl", "ddpm"])
def test_unet(pipeline):
    network, labels, _ = open_unet(FIXTURES / pipeline, LevelIndex(schedule_of(pipeline)))
    for level in (1, 501, 981):
        expected = reference(pipeline)[1][f"unet.t{level}"]
        assert difference(predict(pipeline, network, labels, level), expected) < 2e-5


@pytest.mark.parametrize("size", ["10x6", "7x5", "9x12"])
@pytest.mark.parametrize("pipeline", ["sd1", "sd2"])
def test_unet_of_sizes_that_cannot_be_halved(pipeline, size):
    network, _, _ = open_unet(FIXTURES / pipeline, LevelIndex(SCHEDULE))
    arrays = np.load(FIXTURES / "sizes_reference.npz")
    z, expected = (np.moveaxis(arrays[f"{pipeline}.{k}_{size}"], 1, -1) for k in ("z", "t501"))
    log_snr = tf.fill([2], SCHEDULE.log_snr(np.float32(501 / 999)))
    cond = tokens(reference(pipeline)[1]["unet.tokens"])
    assert difference(network(z, log_snr, cond), expected) < 2e-5
    sized = tf.function(network, reduce_retracing=True)
    unknown = tf.TensorSpec([2, None, None, 4])
    graph = sized.get_concrete_function(unknown, tf.TensorSpec([2]), cond)
    assert difference(graph(z, log_snr, cond), expected) < 2e-5


@pytest.mark.parametrize("pipeline", ["sd1", "sd2"])
def test_autoencoder(pipeline):
    _, arrays = reference(pipeline)
    encoder, decoder, _ = open_autoencoder(FIXTURES / pipeline)
    mean, log_std = np.split(encoder(arrays["vae.x"]), 2, axis=-1)
    assert difference(mean, arrays["vae.mean"]) < 2e-5
    assert difference(2 * log_std, arrays["vae.logvar"]) < 2e-5
    assert difference(decoder(arrays["vae.z"]), arrays["vae.decoded"]) < 2e-5
    pictures = decoder(arrays["run.ddim"][-1] / 0.18215)
    np.testing.assert_allclose(pictures, arrays["run.ddim_picture"], atol=1e-4)


def test_half_precision_files():
    _, arrays = reference("sd1")
    network, _, _ = open_unet(FIXTURES / "sd1", LevelIndex(SCHEDULE), "fp16")
    assert difference(predict("sd1", network, None, 501), arrays["fp16.unet_t501"]) < 2e-5
    _, decoder, _ = open_autoencoder(FIXTURES / "sd1", "fp16")
    assert difference(decoder(arrays["vae.z"]), arrays["fp16.vae_decoded"]) < 2e-5


def without_quant_convolutions(folder, tmp_path):
    """An autoencoder as some are published: without the two 1 x 1 convolutions."""
    folder = pathlib.Path(shutil.copytree(folder, tmp_path / "plain"))
    config = json.loads((folder / "vae/config.json").read_text())
    config |= {"use_quant_conv": False, "use_post_quant_conv": False}
    (folder / "vae/config.json").write_text(json.dumps(config))
    path = folder / "vae" / f"{STEM}.safetensors"
    arrays = load_file(path)
    removed = {k: arrays.pop(k) for k in list(arrays) if "quant_conv" in k}
    save_file(arrays, path)
    return folder, removed


def test_autoencoder_without_the_1_x_1_convolutions(tmp_path):
    """What the other autoencoder returns is its 1 x 1 convolution of what this one does."""
    _, arrays = reference("sd1")
    folder, removed = without_quant_convolutions(FIXTURES / "sd1", tmp_path)
    encoder, decoder, _ = open_autoencoder(folder)
    mean, log_std = np.split(encoder(arrays["vae.x"]), 2, axis=-1)
    moments = np.concatenate([mean, 2 * log_std], axis=-1)
    moments = moments @ removed["quant_conv.weight"][:, :, 0, 0].T + removed["quant_conv.bias"]
    assert difference(moments[..., :4], arrays["vae.mean"]) < 2e-5
    z = arrays["vae.z"] @ removed["post_quant_conv.weight"][:, :, 0, 0].T
    z = z + removed["post_quant_conv.bias"]
    assert difference(decoder(z.astype("float32")), arrays["vae.decoded"]) < 2e-5


def published_arrays(pipeline, part):
    arrays = {}
    for path in (FIXTURES / pipeline / part).glob(f"{STEM}*.safetensors"):
        if ".fp16" not in path.name:
            arrays |= load_file(path)
    return arrays


@pytest.mark.parametrize("pipeline", ["sd1", "sd2", "sdxl", "ddpm"])
def test_weights_are_written_as_they_were_read(pipeline):
    """Bit for bit and under the present names."""
    _, _, slots = open_unet(FIXTURES / pipeline, LevelIndex(SCHEDULE))
    expected = published_arrays(pipeline, "unet")
    written = write_slots(slots)
    assert set(written) == set(expected)
    for name, array in written.items():
        np.testing.assert_array_equal(array, expected[name])
        assert array.dtype == np.float32
    if pipeline == "ddpm":
        return
    _, _, slots = open_autoencoder(FIXTURES / pipeline)
    written = write_slots(slots, "float16")
    expected = published_arrays(pipeline, "vae")
    for name, array in modern_names(expected).items():
        np.testing.assert_array_equal(written.pop(name), array.astype("float16"))
    assert not written


def modern_names(arrays):
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return {
        ".".join(old.get(part, part) for part in name.split(".")): array
        for name, array in arrays.items()
    }


def test_no_array_is_left_over_or_missing(tmp_path):
    """One array too much, one too few, one of another shape, one that is not finite."""
    network, _, slots = open_unet(FIXTURES / "ddpm", LevelIndex(LINEAR))
    before = [v.numpy() for v in network.weights]
    folder = pathlib.Path(shutil.copytree(FIXTURES / "ddpm", tmp_path / "ddpm"))
    path = folder / "unet" / f"{STEM}.safetensors"
    arrays = load_file(path)

    def read(**changes):
        save_file({k: v for k, v in {**arrays, **changes}.items() if v is not None}, path)
        read_slots(slots, modern(Folder(folder).weights("unet", STEM)))

    with pytest.raises(ValueError, match=r"Missing are 'conv_in.bias'; unknown are 'ghost'"):
        read(ghost=np.ones(3, "float32"), **{"conv_in.bias": None})
    with pytest.raises(ValueError, match=r"'conv_out.weight' of shape \[3, 8, 3, 3\]"):
        read(**{"conv_out.weight": np.ones((3, 8, 3, 2), "float32")})
    for value, weight in zip(before, network.weights):
        np.testing.assert_array_equal(value, weight)
    with pytest.raises(ValueError, match=r"finite numbers in 'conv_in.bias'"):
        read(**{"conv_in.bias": np.full(8, np.nan, "float32")})


SIZES = [
    ("sd1", "unet", "block_out_channels", [64_000, 64_000, 64_000], "'conv_in.weight'"),
    (
        "sd1",
        "unet",
        "block_out_channels",
        [16, 16, 64_000],
        "'down_blocks.2.resnets.0.conv2.weight'",
    ),
    ("sd1", "unet", "layers_per_block", 5_000, "'down_blocks.0.resnets.4999.conv2.weight'"),
    ("sd1", "unet", "cross_attention_dim", 1_000_000, "attn2.to_k.weight'"),
    ("sd1", "unet", "transformer_layers_per_block", 9_000, "transformer_blocks.8999"),
    ("sdxl", "unet", "projection_class_embeddings_input_dim", 10**6, "'add_embedding.linear_1"),
    ("ddpm", "unet", "num_class_embeds", 10**6, "'class_embedding.weight'"),
    ("sd1", "vae", "block_out_channels", [8, 8, 100_000], "'encoder.conv_out.weight'"),
    ("sd1", "vae", "layers_per_block", 5_000, "resnets.4999"),
    ("sd1", "vae", "latent_channels", 100_000, "'encoder.conv_out.weight'"),
]


@pytest.mark.parametrize(("pipeline", "part", "key", "value", "message"), SIZES)
def test_configuration_of_a_larger_network_takes_no_memory(
    pipeline, part, key, value, message, tmp_path
):
    folder = pathlib.Path(shutil.copytree(FIXTURES / pipeline, tmp_path / pipeline))
    path = folder / part / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    read = open_autoencoder if part == "vae" else lambda f: open_unet(f, LevelIndex(SCHEDULE))
    with pytest.raises(ValueError, match=message):
        read(folder)
