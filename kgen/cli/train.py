"""`kgen train`: a latent diffusion model from scratch, on a folder of pictures.

The autoencoder and the text encoder are those of a trained model; the U-Net begins with nothing.
Captions make it conditional on texts, folders on classes, and neither on nothing.
"""

from kgen.cli import training
from kgen.cli.errors import UsageError
from kgen.cli.models import open_model
from kgen.serving.typed import takes


def run(args, session):
    """Trains and writes; returns the result as a dictionary, and lines for a person."""
    if not args.folder.is_dir():
        raise UsageError(f"no folder {args.folder}")
    base, _ = open_model(args.model, session)
    autoencoder = getattr(base, "autoencoder", None)
    if autoencoder is None:
        raise UsageError(f"{args.model} has no autoencoder: --from needs a LatentDiffusion")

    def build(pictures):
        return _model(autoencoder, _conditioner(base, pictures), args)

    return training.run(args, session, "train", build, "any", base.data_shape)


def _conditioner(base, pictures):
    from kgen.conditioning import Labels

    if "prompts" in pictures.columns:
        if takes(base) != "texts":
            raise UsageError("the model of --from has no text encoder, and the folder has captions")
        return base.conditioner
    if pictures.names:
        return Labels(len(pictures.names), 64, names=pictures.names)
    return None


def _model(autoencoder, conditioner, args):
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
