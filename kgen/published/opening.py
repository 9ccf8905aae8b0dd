"""Opening of published models as models of kgen, and export in the published layout.

    Stable Diffusion   LatentDiffusion(KLAutoencoder, UNet, CLIPText)
    DDPM               DiffusionModel(UNet, Labels)

`generate` reproduces the published pipeline: its default solver is that of the folder's scheduler
(`kgen.published.schedulers.PublishedSteps`), so that `num_steps=20` makes the 20 published steps.

Differences: image-to-image starts at the mean of the encoder's distribution, where published code
draws a sample; a safety checker is not part of the model. The licence of the weights is that of
their folder, `model.published.licence`.
"""

import os
import warnings

import numpy as np

from kgen.diffusion import GaussianDiffusion
from kgen.models.diffusion_model import DiffusionModel
from kgen.models.kl_autoencoder import KLAutoencoder
from kgen.models.latent_diffusion import LatentDiffusion
from kgen.published.counterparts import PREDICTIONS as PREDICTION_TYPES
from kgen.published.counterparts import autoencoder_arrays, describe
from kgen.published.origin import Published
from kgen.published.parts import Parts, open_parts, write_parts
from kgen.published.schedulers import read_scheduler


def from_diffusers(
    path: str | os.PathLike,
    *,
    size: tuple[int, int] | None = None,
    variant: str | None = None,
    dtype: str | None = None,
    ema_decay: float | None = None,
    windows: int = 1,
    config: str | os.PathLike | None = None,
) -> LatentDiffusion | DiffusionModel:
    """Opens a published model: Stable Diffusion 1, 2 or XL, or DDPM.

    Args:
        path: a folder in the diffusers layout, a `.safetensors` file with the original names, or
            the name of a model on the Hugging Face hub, `"owner/name"`.
        size: `(height, width)` of the pictures in pixels; None for the size of the training data.
        variant: None, or the variant of the weights, such as `"fp16"`.
        dtype: Keras dtype policy of the networks, such as `"bfloat16"`; None is float32.
        ema_decay: None, or the decay of averaged weights, for training.
        windows: number of windows of 77 tokens per prompt; longer prompts are truncated.
        config: for a single file, a folder (or the name of one on the hub) with a model of the same
            kind, from which configurations and vocabulary are read.

    Returns:
        A `LatentDiffusion`; for DDPM, a `DiffusionModel`.

    Raises:
        FileNotFoundError: if a file is missing.
        ImportError: if `path` is a name on the hub and `huggingface_hub` is not installed.
        ValueError: if a file is damaged, or kgen does not support the model.

    Example:
        >>> model = from_diffusers("tests/published/fixtures/sd1")
        >>> model.generate(["a red heart"], num_steps=2, seed=0).shape
        (1, 32, 32, 3)
    """
    parts = open_parts(
        path, size=size, variant=variant, dtype=dtype, windows=windows, config=config
    )
    options = {
        "prediction": parts.prediction,
        "ema_decay": ema_decay,
        "default_solver": parts.steps,
        "published": Published(parts.pipeline, parts.configs, parts.licence),
    }
    process = GaussianDiffusion(parts.steps.schedule)
    if parts.decoder is None:
        return DiffusionModel(parts.unet, process, conditioner=parts.labels, **options)
    autoencoder = KLAutoencoder(parts.encoder, parts.decoder)
    mean, std = parts.latent_mean_std
    autoencoder.latent_mean.assign(np.full(autoencoder.latent_mean.shape, mean))
    autoencoder.latent_std.assign(np.full(autoencoder.latent_std.shape, std))
    options["default_guidance_scale"] = 5.0 if "XL" in parts.pipeline else 7.5
    return LatentDiffusion(autoencoder, parts.unet, process, parts.text, **options)


def to_diffusers(
    model: LatentDiffusion | DiffusionModel, directory: str | os.PathLike, dtype: str | None = None
) -> None:
    """Writes a model as a folder in the diffusers layout, with its averaged weights if any.

    Args:
        model: a model that was opened by `from_diffusers`; or another `LatentDiffusion` or
            `DiffusionModel` whose parts have published counterparts
            (`kgen.published.counterparts`).
        directory: path of the folder, which must not exist or be empty.
        dtype: dtype of the weights in the files, such as `"float16"`; None for that of the model.

    Raises:
        TypeError: if the model is of another class.
        ValueError: if the directory is not empty, a part of the model has no published
            counterpart, or the noise schedule is not that of the opened model.
    """
    published, arrays = getattr(model, "published", None), {}
    is_opened = isinstance(published, Published)
    if not is_opened:
        published = describe(model)
    parts = _parts_of(model, published)
    with model.averaged():
        if not is_opened and parts.decoder is not None:
            with model.autoencoder.averaged():
                arrays["vae"] = autoencoder_arrays(model.autoencoder, parts.configs["vae"], dtype)
        write_parts(parts, directory, dtype, arrays)


def _parts_of(model: LatentDiffusion | DiffusionModel, published: Published) -> Parts:
    """Returns the parts of a model, with its present prediction type in the scheduler."""
    scheduler = published.configs["scheduler"]
    place = "scheduler/scheduler_config.json"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        steps, prediction = read_scheduler(scheduler, place)
    if steps.schedule != model.process.schedule:
        raise ValueError(
            f"`model` must have the noise schedule that it was opened with, {steps.schedule!r}. "
            f"Received: {model.process.schedule!r}."
        )
    if prediction != model.prediction:
        scheduler = {**scheduler, "prediction_type": PREDICTION_TYPES.get(model.prediction)}
        read_scheduler(scheduler, place)
    latent = isinstance(model, LatentDiffusion)
    return Parts(
        published.pipeline,
        {**published.configs, "scheduler": scheduler},
        model.network,
        steps,
        model.prediction,
        encoder=model.autoencoder.encoder if latent else None,
        decoder=model.autoencoder.decoder if latent else None,
        text=model.conditioner if latent else None,
        labels=None if latent else model.conditioner,
        licence=published.licence,
    )
