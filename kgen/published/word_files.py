"""Files of the embeddings of a new word (textual inversion), in the published layout.

    {"<my-cat>": [vectors, D]}                          one text encoder
    {"clip_l": [vectors, D], "clip_g": [vectors, D]}    the two encoders of Stable Diffusion XL

The array of a single encoder has the word as its name; in files of some programs, `emb_params`.

References:
  Gal et al. (2022), https://arxiv.org/abs/2208.01618.
"""

import os
import pathlib

import numpy as np
from safetensors.numpy import save_file

from kgen.conditioning.new_words import NewWords
from kgen.models.finetuned_model import FineTunedModel
from kgen.published.files import open_file

TWO = ("clip_l", "clip_g")  # the names of the arrays for two text encoders
NAMELESS = "emb_params"  # the name of the array in files without the word


def save_word(model: FineTunedModel, word: str, path: str | os.PathLike) -> None:
    """Writes the averaged embeddings of a word to a file.

    Args:
        model: a model with a text encoder.
        word: a word that was added to the text encoder.
        path: a `.safetensors` file.

    Raises:
        ValueError: if no such word was added.
    """
    with model.averaged():
        found = [np.array(table.vectors[word].value) for table in _tables(model, word)]
    keys = (word,) if len(found) == 1 else TWO
    save_file(dict(zip(keys, found)), path, metadata={"format": "pt", "word": word})


def load_word(model: FineTunedModel, path: str | os.PathLike, word: str | None) -> str:
    """Reads the embeddings of a word and adds the word to the text encoder of a model.

    Args:
        model: a model with a text encoder.
        path: a `.safetensors` file.
        word: the word as it is written in prompts; None for the name in the file.

    Returns:
        The word.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is damaged, its embeddings have another width, or the model has no
            text encoder that can learn words.
    """
    weights = open_file(path)
    keys = list(weights)
    if word is None:
        word = weights.metadata.get("word", keys[0])
        if word in (*TWO, NAMELESS):
            word = pathlib.Path(path).stem
    arrays = [weights[key] for key in (TWO if set(keys) == set(TWO) else keys)]
    weights.close()
    arrays = [np.atleast_2d(np.asarray(array, "float32")) for array in arrays]
    add_word = getattr(model.conditioner, "add_word", None)
    if add_word is None:
        raise ValueError("The model must have a text encoder that can learn words.")
    widths = model.conditioner.word_widths()
    received = [array.shape[-1] for array in arrays]
    if received != widths or any(a.ndim != 2 or not np.isfinite(a).all() for a in arrays):
        raise ValueError(
            f"{path} must have vectors of {widths} finite numbers, as the text encoder of the "
            f"model has. Received: {[list(a.shape) for a in arrays]}."
        )
    if len({len(array) for array in arrays}) > 1:
        raise ValueError(
            f"{path} must have the same number of vectors for each text encoder. "
            f"Received: {[len(array) for array in arrays]}."
        )
    variables = add_word(word, vectors=len(arrays[0]))
    for variable, array in zip(variables, arrays):
        variable.assign(array)
    model.forget_compiled()
    return word


def _tables(model: FineTunedModel, word: str) -> list[NewWords | None]:
    """Returns the `NewWords` of each text encoder of a model, after a check of a word."""
    tables = model.conditioner.word_tables() if hasattr(model.conditioner, "add_word") else []
    added = sorted({w for table in tables if table is not None for w in table.vectors})
    if word not in added:
        raise ValueError(f"`word` must be one of {added}. Received: word={word!r}.")
    return tables
