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
from kgen.diffusion import DiscreteBeta, GaussianDiffusion, LinearLogSNR
from kgen.diffusion.discrete_beta import LevelIndex
from kgen.models import latent_diffusion
from kgen.networks import conv


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


def test_large_pictures_are_coded_one_by_one_and_the_same(monkeypatch):
    model = opened("sd1")
    prompts, options = ["a cat", "a red heart"], {"num_steps": 1, "seed": 0, "solver": "ddim"}
    images = model.generate(prompts, **options)
    edited = model.generate(prompts, images=images, strength=0.5, **options)
    turns, map_fn = [], tf.map_fn
    with monkeypatch.context() as patch:
        patch.setattr(latent_diffusion, "LARGE", 32 * 32)
        patch.setattr(tf, "map_fn", lambda *a, **o: turns.append(o) or map_fn(*a, **o))
        again = model.with_settings(name="again")
        same_pictures(again.generate(prompts, **options), images)
        assert tf.uint8 in [o["fn_output_signature"].dtype for o in turns]
        same_pictures(again.generate(prompts, images=images, strength=0.5, **options), edited)


def randomise(weights, seed=0):
    rng = np.random.default_rng(seed)
    for v in weights:
        if "gamma" not in v.path:
            v.assign(rng.normal(0, 0.7 / np.sqrt(max(1, np.prod(v.shape[:-1]))), v.shape))


def own_latent(**changes):
    """A model of kgen's own, all of whose parts published models have too."""
    process = GaussianDiffusion(DiscreteBeta())
    autoencoder = kgen.KLAutoencoder(
        conv.encoder((16, 24, 3), 4, channels=(8, 16), groups=4),
        conv.decoder((8, 12, 4), channels=(8, 16), groups=4),
    )
    options = {
        "channels": (16, 32),
        "blocks": 1,
        "attention": (False, True),
        "heads": (2, 4),
        "groups": 8,
        "tokens": (77, 32),
        "noise_position": LevelIndex(process.schedule),
        **changes,
    }
    network = kgen.networks.UNet((8, 12, 4), **options)
    randomise([*autoencoder.trainable_variables, *network.trainable_variables])
    autoencoder.latent_mean.assign([0.1, -0.2, 0.3, 0.0])
    autoencoder.latent_std.assign([0.5, 2.0, 1.0, 1.5])
    text = opened("sd1").conditioner
    return kgen.LatentDiffusion(autoencoder, network, process, text, ema_decay=None)


def test_own_latent_model_is_written_with_its_latents_standardised(tmp_path):
    model = own_latent()
    to_diffusers(model, tmp_path / "written")
    again = from_diffusers(tmp_path / "written")
    options = {"solver": again.default_solver, "num_steps": 2, "guidance_scale": 3.0, "seed": 0}
    pictures = model.generate(["a cat"], **options)
    assert pictures.shape == (1, 16, 24, 3)
    assert pictures.std() > 5
    same_pictures(again.generate(["a cat"], **options), pictures)
    x = tf.random.uniform((2, 16, 24, 3), -1, 1, seed=0)
    np.testing.assert_allclose(again.autoencoder.encode(x), model.autoencoder.encode(x), atol=1e-5)


def test_own_pixel_model_is_written(tmp_path):
    process = GaussianDiffusion(DiscreteBeta("linear", 1e-4, 0.02))
    network = kgen.networks.UNet(
        (8, 8, 3),
        channels=(8, 16),
        blocks=1,
        attention=(False, True),
        heads=2,
        groups=4,
        transformers=False,
        attention_bias=True,
        noise_position=LevelIndex(process.schedule),
    )
    randomise(network.trainable_variables)
    model = kgen.DiffusionModel(network, process, prediction="eps")
    to_diffusers(model, tmp_path / "written")
    again = from_diffusers(tmp_path / "written")
    options = {"num_samples": 2, "num_steps": 2, "seed": 0, "solver": "ddim"}
    same_pictures(again.generate(**options), model.generate(**options))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise_position": None}, "given the log-SNR"),
        ({"groups": None, "channels": (16, 36)}, r"norms of \[4, 9\] groups"),
        ({"blocks": (1, 2)}, r"blocks=\(1, 2\)"),
        ({"patch": 2}, "patch=2"),
        ({"middle_attention": False}, "middle_attention=False"),
        ({"attention_bias": True}, "attention_bias=True"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(changes, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        to_diffusers(own_latent(**changes), tmp_path / "written")
    assert not (tmp_path / "written").exists()


def test_a_model_without_a_counterpart_is_not_written(tmp_path):
    process = GaussianDiffusion(LinearLogSNR())
    model = kgen.DiffusionModel(kgen.networks.TimeMLP(2, width=8), process, grey_levels=None)
    with pytest.raises(ValueError, match="LinearLogSNR.*; a TimeMLP as its network"):
        to_diffusers(model, tmp_path / "written")
    with pytest.raises(TypeError, match="`model` must be a LatentDiffusion or a DiffusionModel"):
        to_diffusers(opened("sd1").autoencoder, tmp_path / "written")


def test_another_prediction_is_written_and_another_schedule_refused(tmp_path):
    model = opened("sd1")
    to_diffusers(model.with_settings(prediction="v"), tmp_path / "v")
    assert from_diffusers(tmp_path / "v").prediction == "v"
    other = model.with_settings(process=GaussianDiffusion(DiscreteBeta("linear")))
    with pytest.raises(ValueError, match="`model` must have the noise schedule"):
        to_diffusers(other, tmp_path / "other")
