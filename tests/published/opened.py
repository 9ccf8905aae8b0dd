"""Parts of the published pipelines in `fixtures`, opened one by one, and their references."""

import functools
import json
import pathlib

import keras
import numpy as np
import tensorflow as tf

from kgen.published.autoencoder import (
    autoencoder_slots,
    build_autoencoder,
    check_autoencoder_sizes,
    without_quant,
)
from kgen.published.blocks import modern
from kgen.published.configs import read_config
from kgen.published.files import Folder
from kgen.published.modules import check_filled, read_slots, slots_of
from kgen.published.unet import build_unet, check_unet_sizes, unet_modules

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
STEM = "diffusion_pytorch_model"


@functools.cache
def reference(name):
    """What the JSON says, and the arrays, channels last."""
    with np.load(FIXTURES / f"{name}_reference.npz") as arrays:
        arrays = {key: last(value) for key, value in arrays.items()}
    return json.loads((FIXTURES / f"{name}_reference.json").read_text()), arrays


def last(array):
    """Pictures with the channels last."""
    return np.moveaxis(array, -3, -1) if array.ndim in (4, 5) else array


def difference(received, expected):
    """The largest difference in units of the spread of what is expected."""
    return np.abs(np.asarray(received) - expected).max() / expected.std()


def open_unet(folder, noise_index, variant=None):
    """A U-Net, the layer of its classes if it has any, and its slots."""
    config = json.loads((pathlib.Path(folder) / "unet" / "config.json").read_text())
    config = read_config(config, config["_class_name"], "unet/config.json")
    weights = modern(Folder(folder).weights("unet", STEM, variant))
    check_unet_sizes(config, weights, "unet/config.json")
    network = build_unet(config, "unet/config.json", noise_index=noise_index)
    labels, parts = None, [network]
    if config.get("num_class_embeds") is not None:
        labels = keras.layers.Embedding(
            config["num_class_embeds"], 4 * config["block_out_channels"][0]
        )
        labels.build(None)
        parts.append(labels)
    slots = slots_of(unet_modules(network, config, "unet/config.json", labels))
    check_filled(slots, *parts)
    read_slots(slots, weights)
    return network, labels, slots


def open_autoencoder(folder, variant=None):
    """An encoder, a decoder and their slots."""
    config = Folder(folder).read_json("vae/config.json")
    config = read_config(config, "AutoencoderKL", "vae/config.json")
    weights = modern(Folder(folder).weights("vae", STEM, variant))
    check_autoencoder_sizes(config, weights, "vae/config.json")
    networks = build_autoencoder(config, "vae/config.json")
    slots = autoencoder_slots(*networks, config)
    check_filled(slots, *networks)
    read_slots(slots, without_quant(weights, config))
    return *networks, slots


def tokens(values):
    """A condition of text states, all attended to."""
    values = tf.constant(values)
    return {"tokens": values, "mask": tf.ones(values.shape[:2], tf.bool)}
