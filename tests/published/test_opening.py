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
from kgen.published.schedulers import read_scheduler
from kgen.sampling.plan import Plan


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


@pytest.mark.slow
def test_given_noise_ends_as_the_published_run_does(tmp_path):
    described, arrays = reference("sd1")
    folder = pathlib.Path(shutil.copytree(FIXTURES / "sd1", tmp_path / "sd1"))
    config = {**described["runs"]["euler"]["config"], "_class_name": "EulerDiscreteScheduler"}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config))
    model = from_diffusers(folder)
    expected = model.autoencoder.decode(tf.constant(arrays["run.euler"][-1]))
    same_pictures(drawn(model, "sd1"), as_uint8(expected))


def test_given_noise_is_scaled_as_the_published_pipeline_does():
    """`init_noise_sigma` of Euler's, over the signal's scale: sigma / sqrt(1 + ratio^2) of both."""
    described, arrays = reference("sd1")
    config = {**described["runs"]["euler"]["config"], "_class_name": "EulerDiscreteScheduler"}
    plan, _ = read_scheduler(config, "scheduler_config.json")
    noise, model = tf.constant(arrays["run.noise"]), opened("sd1")
    z, _ = model.sampler.begin(plan, noise.shape[1:], None, tf.constant(10), {"noise": noise})
    sigma = described["runs"]["euler"]["sigmas"][0]  # of the noise, where the signal is one
    np.testing.assert_allclose(z, noise * sigma / np.sqrt(1 + sigma**2), rtol=1e-5)
    own = Plan(model.default_solver.solver, model.process)
    z, _ = model.sampler.begin(own, noise.shape[1:], None, tf.constant(10), {"noise": noise})
    np.testing.assert_array_equal(z, noise)


def test_xl_is_given_the_size_that_it_draws(monkeypatch):
    """The condition and the null condition are those of a model that was opened for that size."""
    model, sized = opened("sdxl"), from_diffusers(FIXTURES / "sdxl", size=(40, 24))
    steered = []

    def advance(z, memory, times, first, end, seeds, guided, begin):
        steered.append(guided)
        return z, memory

    monkeypatch.setattr(model, "advance_run", lambda *key: advance)
    monkeypatch.setattr(model, "finish_run", lambda *key: lambda z, *rest: z)
    for negative in (None, ["a dog"]):
        options = {"negative": negative, "num_steps": 2, "seed": 0}
        z = model.generate(["a cat"], size=(40, 24), **options)
        assert z.shape == (1, 10, 6, 4)
        cond, null = steered[-1].cond["pooled"], steered[-1].negative["pooled"]
        np.testing.assert_array_equal(cond, sized.conditioner(["a cat"])["pooled"])
        expected = sized.conditioner(negative) if negative else sized.conditioner.null(1)
        np.testing.assert_array_equal(null, expected["pooled"])
        assert np.abs(cond - model.conditioner(["a cat"])["pooled"]).max() > 0.01


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
    model, (_, arrays) = opened("sd1"), reference("sd1")
    x, z = tf.constant(arrays["edit.x"]), tf.constant(arrays["run.ddim"][-1])
    codes, images = model.to_z({"x": x})["x"], model.to_data(z, {})
    turns, map_fn = [], tf.map_fn
    monkeypatch.setattr(latent_diffusion, "LARGE", 32 * 32)
    monkeypatch.setattr(tf, "map_fn", lambda *a, **o: turns.append(a) or map_fn(*a, **o))
    np.testing.assert_allclose(model.to_z({"x": x})["x"], codes, atol=1e-5)
    same_pictures(model.to_data(z, {}).numpy(), images.numpy())
    assert len(turns) == 2


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
    cond, null = model.conditioner(["a cat"]), model.conditioner.null(1)
    x = tf.random.uniform((1, 16, 24, 3), -1, 1, seed=0)
    z = model.autoencoder.encode(x)
    np.testing.assert_allclose(again.autoencoder.encode(x), z, atol=1e-5)
    x_hat = model.denoise(z, 0.5, cond)
    assert np.abs(x_hat - model.denoise(z, 0.5, null)).max() > 0.01
    np.testing.assert_allclose(again.denoise(z, 0.5, cond), x_hat, atol=1e-5)
    image = model.autoencoder.decode(z)
    assert image.numpy().std() > 0.1
    np.testing.assert_allclose(again.autoencoder.decode(z), image, atol=1e-5)


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
    z = tf.random.normal((2, 8, 8, 3), seed=0)
    np.testing.assert_allclose(again.denoise(z, 0.5), model.denoise(z, 0.5), atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"noise_position": None}, "conditional on the log-SNR"),
        ({"groups": None, "channels": (16, 36)}, r"norms of \[.*\] groups, not of one number"),
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
