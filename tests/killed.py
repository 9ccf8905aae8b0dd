"""A small training that can be killed at any moment, for tests/test_kills.py.

It tells of each step, saves after each, and at its end writes all weights to `weights.npz`.
"""

import keras
import numpy as np
import tensorflow as tf
from small_models import HashedWords

import kgen
from kgen.callbacks import Resume
from kgen.data import emoji
from kgen.networks import mlp
from kgen.networks.conv import decoder, encoder
from kgen.networks.unet import UNet

EPOCHS, EXAMPLES, BATCH = 8, 64, 8


def text_to_image():
    """Latent diffusion of captioned emoji, with its autoencoder inside."""
    autoencoder = kgen.KLAutoencoder(
        encoder((16, 16, 3), 4, channels=(8, 16)), decoder((8, 8, 4), channels=(8, 16)), seed=0
    )
    network = UNet(
        (8, 8, 4),
        channels=(8,),
        blocks=1,
        attention=(True,),
        heads=2,
        tokens=(4, 8),
        pooled=8,
    )
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    return kgen.LatentDiffusion(autoencoder, network, process, HashedWords(), ema_decay=0.9, seed=0)


def lora():
    """The same, of which factors of low rank are trained alone."""
    model = text_to_image()
    model.enable_lora(2)
    return model


def vae():
    """A VAE of the same pictures."""
    networks = mlp((16, 16, 3), (16,), hidden=(32,)), mlp((8,), (16, 16, 6), hidden=(32,))
    return kgen.VAE(*networks, "gaussian", ema_decay=0.9, seed=0)


def diffusion():
    """A diffusion model of the same pictures."""
    network = UNet((16, 16, 3), channels=(8, 8), blocks=1, attention=(False, False))
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    return kgen.DiffusionModel(network, process, ema_decay=0.9, seed=0)


def remembering():
    """Callbacks whose memory decides how the training goes on."""
    options = {"monitor": "loss", "min_delta": 0.02, "mode": "min"}
    return [
        keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=1, **options),
        keras.callbacks.EarlyStopping(patience=6, restore_best_weights=True, **options),
    ]


def data(kind):
    """Real pictures at 16 x 16, with captions where they are asked for, in a random order."""
    arrays = emoji.load_arrays("test", styles=("twemoji",))
    x = tf.cast(arrays["images"][:EXAMPLES], tf.float32) / 127.5 - 1
    x = tf.image.resize(x, [16, 16], method="area").numpy()
    if kind in ("text_to_image", "lora"):
        prompts = [str(caption) for caption in arrays["captions"][:EXAMPLES]]
        x = {"images": x, "prompts": np.array(prompts)}
    return tf.data.Dataset.from_tensor_slices(x).shuffle(EXAMPLES, seed=1).batch(BATCH)


class Report(keras.callbacks.Callback):
    """Says how far it is: the number of steps of all lives together."""

    def __init__(self, pipe):
        super().__init__()
        self.pipe = pipe

    def on_train_batch_end(self, batch, logs=None):
        self.pipe.send(int(self.model.optimizer.iterations))


def main(kind, folder, pipe):
    """Trains, from the newest save on."""
    tf.config.experimental.enable_op_determinism()
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.utils.set_random_seed(0)
    kinds = {"text_to_image": text_to_image, "lora": lora, "vae": vae, "diffusion": diffusion}
    model = kinds[kind]()
    model.compile(keras.optimizers.Adam(1e-3, global_clipnorm=1.0))
    callbacks = [Resume(folder / "resume", save_steps=1), *remembering(), Report(pipe)]
    model.fit(data(kind), epochs=EPOCHS, callbacks=callbacks, verbose=0)
    variables = [*model.variables, *model.optimizer.variables]
    np.savez(folder / "weights.npz", *[variable.numpy() for variable in variables])
