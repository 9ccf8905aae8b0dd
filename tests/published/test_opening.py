"""`from_diffusers` and `to_diffusers`: whole pictures against the references."""

import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf
from published.opened import FIXTURES, reference

import kgen
from kgen import from_diffusers, to_diffusers


@functools.cache
def opened(name):
    return from_diffusers(FIXTURES / name)


def drawn(model, name, **options):
    described, arrays = reference(name)
    return model.generate(
        described["prompts"],
        negative=described["negative_prompts"],
        num_steps=10,
        guidance_scale=7.5,
        noise=arrays["run.noise"],
        **options,
    )


def as_uint8(pictures):
    return np.clip(np.round((np.asarray(pictures) + 1) * 127.5), 0, 255)


def same_pictures(received, expected):
    """At most one level apart, which a rounding may be."""
    assert received.dtype == np.uint8
    assert np.abs(received.astype("float64") - expected).max() <= 1


@pytest.mark.parametrize(("name", "run"), [("sd1", "pndm"), ("sd2", "ddim")])
def test_ten_steps_are_the_published_ones(name, run):
    """With the folder's own scheduler, which is the default."""
    model, (_, arrays) = opened(name), reference(name)
    assert isinstance(model, kgen.LatentDiffusion)
    expected = model.autoencoder.decode(tf.constant(arrays[f"run.{run}"][-1]))
    same_pictures(drawn(model, name), as_uint8(expected))
    if run == "ddim":
        same_pictures(drawn(model, name), as_uint8(arrays["run.ddim_picture"]))


def test_another_scheduler_in_the_folder(tmp_path):
    folder = pathlib.Path(shutil.copytree(FIXTURES / "sd2", tmp_path / "sd2"))
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "UniPCMultistepScheduler"}
    path.write_text(json.dumps(config))
    model, (_, arrays) = from_diffusers(folder), reference("sd2")
    expected = model.autoencoder.decode(tf.constant(arrays["run.unipc"][-1]))
    same_pictures(drawn(model, "sd2"), as_uint8(expected))


@pytest.mark.parametrize("run", ["euler", "euler_trailing"])
def test_given_noise_begins_as_the_published_run_does(run, tmp_path):
    """Of unit variance, which Euler with these spacings scales."""
    described, arrays = reference("sd1")
    folder = pathlib.Path(shutil.copytree(FIXTURES / "sd1", tmp_path / "sd1"))
    config = {**described["runs"][run]["config"], "_class_name": "EulerDiscreteScheduler"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    model = from_diffusers(folder)
    assert model.default_solver.scaled
    expected = model.autoencoder.decode(tf.constant(arrays[f"run.{run}"][-1]))
    same_pictures(drawn(model, "sd1"), as_uint8(expected))


def test_xl_is_given_the_size_that_it_draws():
    """As a model that was opened for that size is, and unlike one of another size."""
    size, options = (40, 24), {"num_steps": 2, "seed": 0}
    model, sized = opened("sdxl"), from_diffusers(FIXTURES / "sdxl", size=(40, 24))
    expected = sized.generate(["a cat"], **options)
    assert expected.shape == (1, 40, 24, 3)
    same_pictures(model.generate(["a cat"], size=size, **options), expected)
    with_negative = {"negative": "a dog", **options}
    same_pictures(
        model.generate(["a cat"], size=size, **with_negative),
        sized.generate(["a cat"], **with_negative),
    )
    others = model.conditioner.prepare(["a cat"])
    wrong = model.generate(others, size=size, **options).astype("float64")
    assert np.abs(wrong - expected).max() > 1


def test_xl_draws_with_zeros_as_its_null_condition():
    model, (described, arrays) = opened("sdxl"), reference("sdxl")
    pictures = model.generate(
        described["prompts"], num_steps=10, guidance_scale=7.5, noise=arrays["run.noise"]
    )
    expected = model.autoencoder.decode(tf.constant(arrays["run.euler"][-1]))
    same_pictures(pictures, as_uint8(expected))


def test_ddpm_draws_classes(tmp_path):
    folder = pathlib.Path(shutil.copytree(FIXTURES / "ddpm", tmp_path / "ddpm"))
    path = folder / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text()) | {"_class_name": "DDIMScheduler"}
    path.write_text(json.dumps(config))
    model, (_, arrays) = from_diffusers(folder), reference("ddpm")
    assert isinstance(model, kgen.DiffusionModel)
    pictures = model.generate(
        arrays["unet.labels"].astype("int32"), num_steps=10, noise=arrays["run.noise"]
    )
    same_pictures(pictures, as_uint8(arrays["run.ddim"][-1]))


def test_latents_are_scaled_by_the_published_factor():
    model, (_, arrays) = opened("sd1"), reference("sd1")
    latents = model.autoencoder.encode(tf.constant(arrays["edit.x"]))
    np.testing.assert_allclose(latents, arrays["edit.z"], atol=2e-5)


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_written_and_opened_again(name, tmp_path):
    to_diffusers(opened(name), tmp_path / "written")
    again = from_diffusers(tmp_path / "written")
    for a, b in zip(opened(name).weights, again.weights):
        if a.dtype.startswith("float"):
            np.testing.assert_array_equal(a, b)


def test_a_model_of_another_origin_is_not_written(tmp_path):
    from kgen.diffusion import GaussianDiffusion, LinearLogSNR
    from kgen.networks import TimeMLP

    process = GaussianDiffusion(LinearLogSNR())
    model = kgen.DiffusionModel(TimeMLP(2, width=8), process, grey_levels=None)
    with pytest.raises(TypeError, match="`model` must have been opened by `from_diffusers`"):
        to_diffusers(model, tmp_path / "written")
