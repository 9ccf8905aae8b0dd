"""The public API as `README.md` uses it, for a type checker: `mypy`, which `.ci/run` calls.

A line with `type: ignore` must be an error: `warn_unused_ignores` is on. Nothing here is run.
"""

from typing import assert_type

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kgen
from kgen import diffusion, metrics, networks, solvers
from kgen.data import grey
from kgen.pictures import save_picture


def the_first_model() -> np.ndarray:
    """The VAE of the Keras tutorials."""
    encoder = keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), layers.Dense(784)])
    vae = kgen.VAE(encoder, decoder)
    vae.compile("adam")
    vae.fit(grey.load("mnist", batch_size=128), epochs=10)
    return vae.generate(3)


def text_to_image(folder: str) -> None:
    """Pictures from sentences, and an export."""
    model = kgen.from_preset("saved_models/text_to_image")
    images = model.generate(["a red heart"], num_steps=20, guidance_scale=3.0, seed=0)
    kgen.export_saved_model(model, folder)
    save_picture(f"{folder}/heart.png", images[0], {"prompt": "a red heart"})


def parts(x: tf.Tensor) -> None:
    """The values and functions below the models."""
    q = kgen.Gaussian.from_moments(x)
    assert_type(q, kgen.Gaussian)
    q.kl(kgen.standard_normal(q.mean))
    process = diffusion.GaussianDiffusion(diffusion.CosineLogSNR(), scaling="flow")
    network = networks.UNet((64, 64, 3), channels=(64, 128), heads=4)
    denoiser = diffusion.Denoiser(network, process, prediction="v")
    denoiser.loss(x, None, [x, x], weighting="min_snr", times=diffusion.NoiseLevels(10))
    times = diffusion.time_grid(process, 20, kind="karras")
    solvers.solve(solvers.DPMSolver(order=2, grid="t"), denoiser, process, x, times, seed=0)
    assert_type(solvers.get("unipc"), solvers.Solver)
    kgen.log_likelihood(denoiser, process, x, num_probes=1)


def a_conditional_model(x: np.ndarray, labels: np.ndarray) -> None:
    """Training, sampling and fine-tuning of a model of classes."""
    conditioner = kgen.conditioning.Labels(10, names=[str(i) for i in range(10)])
    process = diffusion.GaussianDiffusion(diffusion.CosineLogSNR())
    network = networks.UNet((32, 32, 3), channels=(64, 128), heads=4, pooled=64)
    model = kgen.DiffusionModel(network, process, conditioner=conditioner, times="uniform")
    model.compile("adam", skip_above=10.0)
    model.fit({"images": x, "labels": labels}, epochs=10)
    assert_type(model.generate(["3"], solver="heun", seed=[0]), np.ndarray)
    assert_type(model.log_likelihood(x, condition=labels, dequantization="uniform"), np.ndarray)
    assert_type(model.enable_lora(4, targets="dense"), int)


def measures(real: np.ndarray, samples: np.ndarray) -> None:
    """Figures of generated pictures."""
    assert_type(metrics.frechet_distance(real, samples), float)
    assert_type(metrics.precision_recall(real, samples, k=5), tuple[float, float])
    assert_type(metrics.kernel_distance(real, samples), tuple[float, float])


def mistakes(x: tf.Tensor) -> None:
    """What a type checker must find."""
    process = diffusion.GaussianDiffusion(diffusion.CosineLogSNR(), "vq")  # type: ignore[arg-type]
    diffusion.Denoiser(x, process, prediction="velocity")  # type: ignore[arg-type]
    solvers.get("euler")  # type: ignore[arg-type]
    solvers.DDIM(grid="linear")  # type: ignore[arg-type]
    networks.encoder((64, 64, 3))  # type: ignore[call-arg]
    kgen.VEA(x, x)  # type: ignore[attr-defined]
    network = networks.UNet((64, 64, 3), channels=(64, 128), heads=4)
    kgen.DiffusionModel(network, process, weighting="elbow")  # type: ignore[arg-type]
    kgen.ScoreModel(network, process, objective="denoising")  # type: ignore[arg-type]
    kgen.VAE(network, network, gradient="exact")  # type: ignore[arg-type]
    model = kgen.DiffusionModel(network, process, conditioner=kgen.conditioning.Labels(10))
    model.generate([3], solver="dpm3")  # type: ignore[arg-type]
    model.generate([3], steps=20)  # type: ignore[call-arg]
    model.enable_lora("4")  # type: ignore[arg-type]
