"""Reading and writing of the text encoders of CLIP in the published layout.

    tokenizer/vocab.json, merges.txt, tokenizer_config.json     the vocabulary and the padding token
    text_encoder/config.json, model.safetensors                 the transformer

The names of arrays have the prefix `text_model.` in some versions of transformers only.
`position_ids` is a buffer, not a weight. The ids of special tokens are read from the vocabulary,
since those in the configuration of Stable Diffusion 1 are wrong.
"""

import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from kgen.conditioning.clip_text import CLIPText
from kgen.conditioning.clip_tower import CLIPTower
from kgen.conditioning.clip_words import MARKS
from kgen.published.configs import read_config
from kgen.published.files import MAX_JSON, Folder
from kgen.published.modules import (
    Module,
    Renamed,
    check_filled,
    check_shape,
    read_slots,
    slots_of,
)
from kgen.published.weights import Arrays
from kgen.serialization import constructor_arguments

PREFIX = "text_model."


def open_text(
    folder: Folder,
    xl: bool,
    variant: str | None = None,
    weights: Sequence[Arrays] | None = None,
    **options: Any,
) -> CLIPText:
    """Opens the text encoders of a folder.

    Args:
        folder: the folder of the pipeline.
        xl: whether the model is Stable Diffusion XL, with two encoders.
        variant: None, or the variant of the weights, such as `"fp16"`.
        weights: the weights of each encoder; None for those in the folder.
        **options: arguments of `CLIPText`, `windows` of `CLIPTower`, and `dtype` of both.

    Returns:
        A `CLIPText`.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or kgen does not support the network.
    """
    shared = {key: options.pop(key) for key in ("windows", "dtype") if key in options}
    parts = text_parts(xl)
    if xl:
        shared["states"] = "penultimate"
    if weights is None:
        weights = [folder.weights(part, "model", variant) for part, _, _ in parts]
    towers = [_open_tower(folder, *part, own, shared) for part, own in zip(parts, weights)]
    return CLIPText(towers, name="text", trainable=False, **options)


def text_parts(xl: bool) -> list[tuple[str, str, str]]:
    """Returns the folder of each text encoder, the folder of its tokenizer, and its class.

    Args:
        xl: whether the model is Stable Diffusion XL, with two encoders.
    """
    parts = [("text_encoder", "tokenizer", "CLIPTextModel")]
    if xl:
        parts.append(("text_encoder_2", "tokenizer_2", "CLIPTextModelWithProjection"))
    return parts


def read_vocabulary(folder: Folder, part: str, size: int) -> tuple[list[str], list[str], str]:
    """Reads the vocabulary of a tokenizer.

    Args:
        folder: the folder of the pipeline.
        part: the folder of the tokenizer in it.
        size: number of tokens of the text encoder.

    Returns:
        The tokens in the order of their ids, the merges, and the padding token.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or the files are not compatible.
    """
    path = folder.root / part / "vocab.json"
    ids = folder.read_json(f"{part}/vocab.json")
    numbers = [value for value in ids.values() if type(value) is int]
    if sorted(numbers) != list(range(len(ids))):
        raise ValueError(f"{path} must give the ids 0 to {len(ids) - 1}, each once.")
    if len(ids) != size:
        raise ValueError(
            f"{path} must have {size} tokens, as the text encoder has. Received: {len(ids)}."
        )
    vocabulary = sorted(ids, key=ids.get)
    for token in MARKS:
        if token not in ids:
            raise ValueError(f"{path} must have the token {token!r}. It is missing.")
    return vocabulary, _read_merges(folder, part, ids), _read_pad(folder, part, ids)


def tower_modules(tower: CLIPTower) -> dict[str, Module]:
    """Returns the modules of a text encoder by their published names, without `text_model.`."""
    backbone = tower.backbone
    modules = {
        "embeddings.token_embedding": Module(backbone.embedding.token_embedding, "embedding"),
        "embeddings.position_embedding": Module(_Positions(backbone.embedding), "embedding"),
    }
    for i, block in enumerate(backbone.encoder_layers):
        name = f"encoder.layers.{i}"
        modules |= {
            f"{name}.self_attn.q_proj": Module(block.attention.query_dense),
            f"{name}.self_attn.k_proj": Module(block.attention.key_dense),
            f"{name}.self_attn.v_proj": Module(block.attention.value_dense),
            f"{name}.self_attn.out_proj": Module(block.attention.output_dense, inputs=2),
            f"{name}.layer_norm1": Module(block.layer_norm_1, "norm"),
            f"{name}.layer_norm2": Module(block.layer_norm_2, "norm"),
            f"{name}.mlp.fc1": Module(block.dense_1),
            f"{name}.mlp.fc2": Module(block.dense_2),
        }
    modules["final_layer_norm"] = Module(backbone.layer_norm, "norm")
    if tower.projection is not None:
        modules["text_projection"] = Module(tower.project)
    return modules


def read_tower(tower: CLIPTower, weights: Arrays) -> None:
    """Assigns published weights to a text encoder.

    Raises:
        ValueError: if the weights are not those of the encoder.
    """
    slots = slots_of(tower_modules(tower))
    check_filled(slots, tower)
    read_slots(slots, Renamed(weights, _without_prefix))


def _open_tower(
    folder: Folder, part: str, tokenizer: str, kind: str, weights: Arrays, options: dict[str, Any]
) -> CLIPTower:
    """Builds a text encoder and reads its weights."""
    source = folder.root / part / "config.json"
    config = read_config(folder.read_json(f"{part}/config.json"), kind, source)
    _check_sizes(config, Renamed(weights, _without_prefix))
    vocabulary, merges, pad = read_vocabulary(folder, tokenizer, config["vocab_size"])
    tower = CLIPTower(
        vocabulary,
        merges,
        width=config["hidden_size"],
        depth=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        activation=config["hidden_act"],
        projection=config["projection_dim"] if kind.endswith("Projection") else None,
        length=config["max_position_embeddings"],
        pad=pad,
        name=part,
        trainable=False,
        **options,
    )
    read_tower(tower, weights)
    return tower


def _check_sizes(config: dict[str, Any], weights: Arrays) -> None:
    """Compares the sizes in a configuration with the weights, before memory is allocated."""
    width, last = config["hidden_size"], config["num_hidden_layers"] - 1
    for name, shape in (
        ("embeddings.token_embedding.weight", (config["vocab_size"], width)),
        ("embeddings.position_embedding.weight", (config["max_position_embeddings"], width)),
        (f"encoder.layers.{last}.mlp.fc1.weight", (config["intermediate_size"], width)),
    ):
        check_shape(weights, name, shape)


def write_tokenizer(tower: CLIPTower, directory: str | os.PathLike) -> None:
    """Writes the vocabulary of a text encoder in the format of transformers."""
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    options = constructor_arguments(tower)
    ids = {token: i for i, token in enumerate(options["vocabulary"])}
    merges = "\n".join(["#version: 0.2", *options["merges"]]) + "\n"
    marks = {"bos_token": MARKS[0], "eos_token": MARKS[1], "unk_token": MARKS[1]}
    marks["pad_token"] = options["pad"]
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": tower.length,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **marks,
    }
    (directory / "merges.txt").write_text(merges, encoding="utf-8")
    for name, value in (
        ("vocab", ids),
        ("tokenizer_config", config),
        ("special_tokens_map", marks),
    ):
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
        (directory / f"{name}.json").write_text(text, encoding="utf-8")


def _without_prefix(name: str) -> str | None:
    """Returns the name of an array without `text_model.`, or None for a buffer."""
    name = name.removeprefix(PREFIX)
    return None if name == "embeddings.position_ids" else name


class _Positions:
    """The embedding of positions, with the attribute `embeddings` of other embeddings."""

    def __init__(self, embedding: keras.layers.Layer) -> None:
        self.embeddings = embedding.position_embedding.position_embeddings


def _read_merges(folder: Folder, part: str, ids: dict[str, int]) -> list[str]:
    """Reads and validates the rules of the byte-pair encoding."""
    path = folder.path(f"{part}/merges.txt")
    size = path.stat().st_size
    if size > MAX_JSON:
        raise ValueError(f"{path} must have at most {MAX_JSON:,} bytes. Received: {size:,}.")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it must be UTF-8.") from error
    merges = []
    for i, line in enumerate(lines):
        if not line.strip() or (i == 0 and line.startswith("#version")):
            continue
        tokens = line.rstrip("\r").split(" ")
        if len(tokens) != 2 or any(t not in ids for t in (*tokens, "".join(tokens))):
            raise ValueError(
                f"{path} must have two tokens of the vocabulary in each line, whose concatenation "
                f"is a token too. Received: {line!r} in line {i + 1}."
            )
        merges.append(" ".join(tokens))
    return merges


def _read_pad(folder: Folder, part: str, ids: dict[str, int]) -> str:
    """Returns the padding token; by default the end token, as in CLIP."""
    name = f"{part}/tokenizer_config.json"
    pad = folder.read_json(name).get("pad_token") if folder.has(name) else None
    if isinstance(pad, dict):
        pad = pad.get("content")
    pad = MARKS[1] if pad is None else pad
    if pad not in ids:
        raise ValueError(
            f"{folder.root / name} must have a `pad_token` of the vocabulary. Received: {pad!r}."
        )
    return pad
