"""DreamBooth: a model learns one subject from a few pictures and keeps what it knew of its class.

    "a photo of sks dog"    the few pictures of the subject; "sks" is a word that means nothing yet
    "a photo of a dog"      pictures of its class, drawn by the model itself beforehand

    loss = loss(subject) + prior_weight loss(class)

Without the second term every dog becomes the one dog. Any of the trainings goes with it: of all
weights, of a LoRA (`model.enable_lora`), of a word (`model.learn_word`).

References:
  Ruiz et al. (2022), https://arxiv.org/abs/2208.12242, section 3.3 (prior preservation).
"""

import json
import os
import pathlib
from typing import Any

import numpy as np
import tensorflow as tf

from kgen.checks import check_count, check_path, check_positive
from kgen.files.text import read_json
from kgen.models.denoiser_model import DenoiserModel
from kgen.pictures import save_png
from kgen.tensors import fingerprint
from kgen.types import TensorLike

META = "class.json"  # what the pictures of a folder are of


def class_pictures(
    model: DenoiserModel,
    condition: str,
    number: int,
    directory: str | os.PathLike,
    *,
    seed: int = 0,
    **options: Any,
) -> np.ndarray:
    """Draws pictures of a class, once: a folder that has them is read.

    Args:
        model: the model as it is before it learns the subject.
        condition: the prompt of the class, such as `"a photo of a dog"`.
        number: how many.
        directory: the folder of the pictures, PNG files.
        seed: of the noise.
        **options: of `model.generate`, such as `num_steps`; numbers and texts.

    Returns:
        uint8 `[number, H, W, C]`.

    Raises:
        TypeError: if a number is no integer.
        ValueError: if a number is not positive, or the folder holds pictures of another model,
            prompt or seed, or drawn with other options.
    """
    check_count("number", number)
    directory = check_path("directory", directory)
    with model.averaged():
        weights = fingerprint([tf.convert_to_tensor(v.value) for v in model.network.weights])
    meta = {"condition": condition, "seed": seed, "options": options, "model": weights}
    paths = [directory / f"{i:05d}.png" for i in range(number)]
    if (directory / META).is_file():
        if read_json(directory / META) != meta:
            raise ValueError(
                f"`directory` must hold pictures of {condition!r} by this model, or none. "
                f"Received: {directory}, which holds others; name another folder, or remove it."
            )
        if all(path.is_file() for path in paths):
            return np.stack([_read(path, model.data_shape) for path in paths])
    images = model.generate([condition], num_samples=number, seed=seed, **options)
    directory.mkdir(parents=True, exist_ok=True)
    for path, image in zip(paths, images):
        save_png(path, image)
    (directory / META).write_text(json.dumps(meta), encoding="utf-8")
    return images


def subject_batches(
    images: np.ndarray,
    prompts: str | list[str],
    class_images: np.ndarray | None = None,
    class_prompt: str | None = None,
    *,
    prior_weight: float = 1.0,
    batch_size: int = 8,
    key: str = "prompts",
) -> tf.data.Dataset:
    """Returns batches of a subject and of its class, for `fit` and `precompute`.

    Every picture of the class comes once, and those of the subject as often as it takes for as
    many of them.

    Args:
        images: of the subject, uint8 or floats in [-1, 1], `[N, H, W, C]`.
        prompts: one for all, or one for each.
        class_images: None, or pictures of the class, `[M, H, W, C]`.
        class_prompt: their prompt.
        prior_weight: weight of the pictures of the class in the loss.
        batch_size: pictures in a batch, half of them of the class.
        key: `batch_key` of the conditioner.

    Returns:
        A `tf.data.Dataset` of dictionaries with `"images"`, the prompts and `"sample_weight"`.

    Raises:
        ValueError: if arguments do not fit together.
    """
    check_positive("prior_weight", prior_weight, zero=True)
    check_count("batch_size", batch_size)
    images = _signed(images)
    prompts = [prompts] * len(images) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(images):
        raise ValueError(
            f"`prompts` must be one or {len(images)}, one for each picture. "
            f"Received: {len(prompts)}."
        )
    if (class_images is None) != (class_prompt is None):
        raise ValueError("`class_images` and `class_prompt` must be given together.")
    arrays = {"images": images, key: np.array(prompts), "sample_weight": np.ones(len(images))}
    if class_images is not None:
        of_class = _signed(class_images)
        number = max(len(images), len(of_class))
        subject, others = np.arange(number) % len(images), np.arange(number) % len(of_class)
        both = (
            (images[subject], of_class[others]),
            (np.array(prompts)[subject], np.array([class_prompt] * number)),
            (np.ones(number), np.full(number, float(prior_weight))),
        )
        # One of each, in turn.
        arrays = {
            name: np.stack(pair, axis=1).reshape(2 * number, *pair[0].shape[1:])
            for name, pair in zip(arrays, both)
        }
    arrays["sample_weight"] = arrays["sample_weight"].astype("float32")
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)


def _signed(images: TensorLike) -> np.ndarray:
    images = np.asarray(images)
    return images / np.float32(127.5) - 1 if images.dtype == np.uint8 else images.astype("float32")


def _read(path: pathlib.Path, shape: tuple) -> np.ndarray:
    from kgen.data.picture_files import open_picture

    with open_picture(path) as image:
        return np.asarray(image.convert({1: "L", 3: "RGB", 4: "RGBA"}[shape[-1]])).reshape(shape)
