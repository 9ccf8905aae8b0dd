"""`kgen train`: a latent diffusion model trained from scratch on a folder of pictures.

The autoencoder and the text encoder of a trained model are used, frozen; the U-Net starts from
random weights. The new model is conditional on texts if the folder has captions, on classes if it
has subfolders, and else on nothing.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kgen.cli import training
from kgen.cli.errors import UsageError
from kgen.cli.models import open_model
from kgen.serving.capabilities import condition_kind

if TYPE_CHECKING:
    from kgen.cli.folders import Pictures
    from kgen.cli.session import Result, Session
    from kgen.conditioning.conditioner import Conditioner
    from kgen.models.generative_model import GenerativeModel
    from kgen.models.kl_autoencoder import KLAutoencoder
    from kgen.models.latent_diffusion import LatentDiffusion


def run(args: argparse.Namespace, session: Session) -> Result:
    """Trains the model and writes it.

    Raises:
        CommandError: if the model of `--from` cannot be opened, or a file cannot be written.
        KeyboardInterrupt: after Ctrl-C, once the training is saved.
        UsageError: if the folder or the model does not exist, or they do not fit each other.
    """
    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    base, _ = open_model(args.model, session)
    autoencoder = getattr(base, "autoencoder", None)
    if autoencoder is None:
        raise UsageError(f"{args.model} has no autoencoder: --from needs a LatentDiffusion")

    def build(pictures: Pictures) -> LatentDiffusion:
        return _build_model(autoencoder, _build_conditioner(base, pictures), args)

    return training.run(args, session, "train", build, "any", base.data_shape)


def _build_conditioner(base: GenerativeModel, pictures: Pictures) -> Conditioner | None:
    """Returns a conditioner for what the pictures have: the text encoder of a model, or labels.

    Raises:
        UsageError: if the pictures have captions and the model has no text encoder.
    """
    from kgen.conditioning import Labels

    if "prompts" in pictures.columns:
        if condition_kind(base) != "texts":
            raise UsageError("the model of --from has no text encoder, and the folder has captions")
        return base.conditioner
    if pictures.names:
        return Labels(len(pictures.names), 64, names=pictures.names)
    return None


def _build_model(
    autoencoder: KLAutoencoder, conditioner: Conditioner | None, args: argparse.Namespace
) -> LatentDiffusion:
    """Returns a latent diffusion model with a new U-Net."""
    import keras

    import kgen
    from kgen.networks.unet import UNet

    keras.utils.set_random_seed(args.seed % 2**32)
    options = {}
    if conditioner is not None:
        for key, value in conditioner.null(1).items():
            if key in ("tokens", "pooled"):
                shape = tuple(value.shape[1:])
                options[key] = shape if key == "tokens" else shape[-1]
    network = UNet(
        autoencoder.latent_shape,
        channels=tuple(args.channels),
        blocks=1,
        attention=(False,) * (len(args.channels) - 1) + (True,),
        heads=4,
        dtype=kgen.distribution.default_precision(),
        **options,
    )
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR(9.0, -9.0))
    return kgen.LatentDiffusion(
        autoencoder, network, process, conditioner, ema_decay=0.9995, seed=args.seed
    )
