"""Opened models in presets, `.keras` files and SavedModels: the same pictures, and written back."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text
from published.opened import FIXTURES
from safetensors.numpy import load_file

import kgen

# Keras 3.15 turns TensorFlow variables into arrays in a way that numpy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def in_preset(model, folder):
    model.save_to_preset(folder / "preset", dtype="float32")
    return kgen.from_preset(folder / "preset")


def in_keras_file(model, folder):
    model.save(folder / "model.keras")
    return kgen.load_model(folder / "model.keras")


@pytest.mark.parametrize(
    ("name", "saved"),
    [
        ("ddpm", in_preset),
        pytest.param("sd1", in_preset, marks=pytest.mark.slow),
        pytest.param("sd1", in_keras_file, marks=pytest.mark.slow),
        pytest.param("sdxl", in_preset, marks=pytest.mark.slow),
    ],
)
def test_saved_model_draws_the_same_and_is_written_back(name, saved, tmp_path):
    model = kgen.from_diffusers(FIXTURES / name)
    again = saved(model, tmp_path)
    if name == "ddpm":  # without a sampler, which takes long to trace
        z, cond = tf.random.normal((1, 16, 16, 3), seed=0), model.conditioner([1])
        np.testing.assert_array_equal(again.denoise(z, 0.5, cond), model.denoise(z, 0.5, cond))
    else:
        options = {"num_steps": 2, "seed": 3}  # the solver and the guidance are the defaults
        pictures = model.generate(["a red heart"], **options)
        np.testing.assert_array_equal(again.generate(["a red heart"], **options), pictures)
    assert again.default_solver == model.default_solver
    assert again.default_guidance_scale == {"sd1": 7.5, "sdxl": 5.0, "ddpm": 1.0}[name]
    assert again.published == model.published
    kgen.to_diffusers(again, tmp_path / "written")
    part = "unet/diffusion_pytorch_model.safetensors"
    written, source = load_file(tmp_path / "written" / part), load_file(FIXTURES / name / part)
    for key, value in written.items():
        np.testing.assert_array_equal(value, source[key])


def test_defaults_are_arguments_of_every_model():
    """They change what is drawn as the arguments of `generate` do, and are saved."""
    network = kgen.networks.TimeMLP(2, width=8)
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    model = kgen.DiffusionModel(network, process, grey_levels=None, default_solver="ddim")
    options = {"num_samples": 2, "num_steps": 2, "seed": 0}
    expected = model.generate(solver="ddim", **options)
    assert np.abs(model.generate(solver="heun", **options) - expected).max() > 1e-6
    np.testing.assert_array_equal(model.generate(**options), expected)
    again = kgen.DiffusionModel.from_config(model.get_config())
    assert again.default_solver == "ddim"
    assert again.with_settings(default_solver="heun").default_solver == "heun"
    with pytest.raises(ValueError, match="one of"):
        kgen.DiffusionModel(network, process, grey_levels=None, default_solver="nothing")
    with pytest.raises(TypeError, match="`default_guidance_scale`"):
        kgen.DiffusionModel(network, process, grey_levels=None, default_guidance_scale="much")


def test_exported_halves_are_those_of_the_averaged_weights(tmp_path):
    network = kgen.networks.TimeMLP(2, width=8)
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    model = kgen.DiffusionModel(network, process, grey_levels=None, ema_decay=0.9)
    rng = np.random.default_rng(0)
    for v, average in model.averages.pairs():
        v.assign(rng.normal(size=v.shape))
        average.assign(rng.normal(size=v.shape))
    kgen.export_saved_model(model, tmp_path / "exported", dtype="float16")
    loaded = tf.saved_model.load(tmp_path / "exported")
    arguments = {"num_samples": 3, "num_steps": 2, "seed": [0, 0]}
    received = loaded.generate(**{k: tf.constant(v) for k, v in arguments.items()})["images"]
    whole = model.generate(num_samples=3, num_steps=2, seed=0)
    for v, average in model.averages.pairs():
        v.assign(np.float32(np.float16(average)))
    model.averages.reset()
    expected = model.generate(num_samples=3, num_steps=2, seed=0)
    np.testing.assert_allclose(received, expected, atol=1e-5)
    assert np.abs(whole - expected).max() > 1e-4
    stored = tf.train.load_checkpoint(tmp_path / "exported" / "variables" / "variables")
    types = set(stored.get_variable_to_dtype_map().values())
    assert tf.float16 in types
    assert tf.float32 not in types
    network.weights[0].assign(np.full(network.weights[0].shape, 1e6))
    model.averages.reset()
    with pytest.raises(ValueError, match="Weights must be finite as `dtype`"):
        kgen.export_saved_model(model, tmp_path / "other", dtype="float16")
    with pytest.raises(ValueError, match="`dtype` must be"):
        kgen.export_saved_model(model, tmp_path / "other", dtype="int8")


RUN = """
import pathlib, sys
sys.modules["kgen"] = sys.modules["keras"] = sys.modules["tensorflow_text"] = None
import tensorflow as tf
for library in sorted(pathlib.Path(sys.argv[3]).glob("python/ops/*.so")):
    tf.load_op_library(str(library))
loaded = tf.saved_model.load(sys.argv[1])
png = loaded.signatures["generate_png"](
    prompts=tf.constant(["a red heart"]),
    num_steps=tf.constant(2),
    guidance_scale=tf.constant(7.5),
    seed=tf.constant([3, 0]),
)["png_bytes"]
pathlib.Path(sys.argv[2]).write_bytes(png[0].numpy())
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [None, "float16"])
def test_string_to_png_without_kgen(dtype, tmp_path):
    """At a chosen size; weights in half precision are those of the folder's fp16 files."""
    model = kgen.from_diffusers(FIXTURES / "sd1")
    exported = tmp_path / "exported"
    kgen.export_saved_model(model, exported, size=(40, 24), dtype=dtype)
    output, operations = tmp_path / "heart.png", pathlib.Path(tensorflow_text.__file__).parent
    command = [sys.executable, "-c", RUN, exported, output, operations]
    subprocess.run(list(map(str, command)), check=True)
    picture = tf.io.decode_png(output.read_bytes()).numpy()
    expected = kgen.from_diffusers(FIXTURES / "sd1", variant="fp16") if dtype else model
    expected = expected.generate(["a red heart"], size=(40, 24), num_steps=2, seed=3)[0]
    assert picture.shape == (40, 24, 3)
    assert np.abs(picture.astype("int32") - expected).max() <= 1
    parts = (model.network, model.conditioner, model.autoencoder.decoder)  # without the encoder
    values = sum(np.prod(v.shape) for part in parts for v in part.weights)
    size = sum(p.stat().st_size for p in (exported / "variables").iterdir())
    assert 0 < size - (2 if dtype else 4) * values < 100_000  # names and places
