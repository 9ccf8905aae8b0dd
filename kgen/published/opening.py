"""Published models as kgen's: opened, and written back.

    Stable Diffusion   LatentDiffusion(KLAutoencoder, UNet, CLIPText)
    DDPM               DiffusionModel(UNet, Labels)

`generate` draws as the published pipeline does: its default solver is the folder's own
(`kgen.published.schedulers.PublishedSteps`), so that `num_steps=20` are the twenty published steps.

What differs: image to image begins at the mean of the encoder's distribution, of which published
code draws a sample; a safety checker is not part of the model; and the licence of the weights is
that of their folder, `model.published.licence`.
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
        size: `(height, width)` of the pictures in pixels; None for what the model was trained on.
        variant: of the weights, such as `"fp16"`.
        dtype: Keras dtype policy of the networks, such as `"bfloat16"`; None is float32.
        ema_decay: None, or the decay of averaged weights, for training.
        windows: number of windows of 77 tokens that a prompt has room in.
        config: of a single file, a folder (or the name of one on the hub) of the same kind of
            model, whose configurations and vocabulary it takes.

    Returns:
        A `LatentDiffusion`, or of DDPM a `DiffusionModel`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or describes what kgen does not have.

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
):
    """Writes a model as a folder that diffusers opens, with its averaged weights if it has any.

    Args:
        model: a model that was opened by `from_diffusers`; or another `LatentDiffusion` or
            `DiffusionModel` whose parts published models have too (`kgen.published.counterparts`).
        directory: where to; must not exist, or be empty.
        dtype: type of the weights in the files, such as `"float16"`; None for that of the model.

    Raises:
        TypeError: if the model is of another class.
        ValueError: if the directory is not empty, or a part of the model has no published
            counterpart.
    """
    published, arrays = getattr(model, "published", None), {}
    own = not isinstance(published, Published)
    if own:
        published = describe(model)
    parts = _parts_of(model, published)
    with model.averaged():
        if own and parts.decoder is not None:
            with model.autoencoder.averaged():
                arrays["vae"] = autoencoder_arrays(model.autoencoder, parts.configs["vae"], dtype)
        write_parts(parts, directory, dtype, arrays)


def _parts_of(model, published):
    """The parts of a model; its prediction may have become another one since it was opened."""
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
