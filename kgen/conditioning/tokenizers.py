"""Safe loading of tokenizers from their class, one of a fixed list, and their vocabulary.

A folder contains `tokenizer.json`, the class with its options, and the vocabulary in
`assets/tokenizer`. KerasHub itself can read the vocabulary only if the safe mode of Keras is off.
Here it is read first and passed to the constructor, so that no code named by the folder is run:

    kind            files                           arguments
    WordPiece       vocabulary.txt                  vocabulary, a list
    BytePair        vocabulary.json, merges.txt     vocabulary, a dictionary; merges, a list
    SentencePiece   vocabulary.spm                  proto, bytes
"""

import hashlib
import json
import pathlib
import tempfile
from typing import Any

import keras

from kgen.files.folders import inside
from kgen.files.text import read_file, read_json, reason

CONFIG = "tokenizer.json"
ASSETS = pathlib.PurePath("assets", "tokenizer")
KINDS = {"word": "WordPiece", "pair": "BytePair", "sentence": "SentencePiece"}
MAX_VOCABULARY_BYTES = 64 * 2**20
LISTED = (
    ("Albert", "Bart", "Bert", "Bloom", "BytePair", "CLIP", "DebertaV3", "DistilBert", "ESM")
    + ("Electra", "FNet", "Falcon", "GPT2", "GPTNeoX", "Gemma", "Gemma3", "Llama", "Llama3")
    + ("Mistral", "OPT", "Phi3", "Qwen", "Roberta", "SentencePiece", "SigLIP", "SmolLM3", "T5")
    + ("WordPiece", "XLMRoberta")
)


def read(folder: pathlib.Path) -> tuple[type, dict[str, Any], dict[str, Any]]:
    """Reads the tokenizer of a folder without building it.

    Returns:
        The class, its options, and the arguments that contain the vocabulary.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, names a class that is not in `LISTED`, or has unsafe
            options.
    """
    path = inside(folder, CONFIG)
    config = read_json(path)
    config = config if isinstance(config, dict) else {}
    name, options = config.get("class_name"), config.get("config")
    cls, kind = _listed(name)
    if cls is None or config.get("registered_name") not in (None, f"keras_hub>{name}"):
        raise ValueError(
            f"{path} is unsafe to load: it must name one of the tokenizers of KerasHub that "
            "`kgen.conditioning.tokenizers.LISTED` contains. "
            f"Received: class_name={name!r:.200}."
        )
    options = options if isinstance(options, dict) else {"config": {}}
    for key, value in options.items():
        if not _is_plain(value):
            raise ValueError(
                f"{path} is unsafe to load: the options of a tokenizer must be numbers and "
                f"strings. Received: {key}={value!r:.200}."
            )
    options = {key: _policy(value) for key, value in options.items()}
    for key in ("vocabulary", "merges", "proto", "config_file"):
        if options.pop(key, None) not in (None, CONFIG):
            raise ValueError(f"{path} is unsafe to load: it must not name {key!r}.")
    return cls, options, _vocabulary(folder, kind)


def build(folder: pathlib.Path) -> keras.layers.Layer:
    """Returns the tokenizer of a folder.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or unsafe; see `read`.
    """
    cls, options, vocabulary = read(folder)
    try:
        return cls(**options, **vocabulary)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{folder / CONFIG} cannot be rebuilt: {reason(error)}.") from error


def write(tokenizer: keras.layers.Layer, folder: pathlib.Path) -> dict[str, Any]:
    """Writes the vocabulary of a tokenizer for programs without kgen.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        folder: directory to write; its parents are created.

    Returns:
        A description that can be written as JSON: `"kind"`, a value of `KINDS`; `"class"`;
        `"files"`, the names of the files; `"start"`, `"end"` and `"pad"`, the ids of the special
        tokens, None for one that does not exist; and for WordPiece the options of the tokenizer.

    Raises:
        FileExistsError: if the folder exists.
        ValueError: if the class of the tokenizer is not in `LISTED`.
    """
    _, kind = _listed(type(tokenizer).__name__)
    if kind is None:
        raise ValueError(
            "`tokenizer` must be one of `kgen.conditioning.tokenizers.LISTED` to be written. "
            f"Received: a {type(tokenizer).__name__}."
        )
    folder.mkdir(parents=True)
    tokenizer.save_assets(str(folder))
    description = {"kind": KINDS[kind], "class": type(tokenizer).__name__}
    description["files"] = sorted(path.name for path in folder.iterdir())
    for token in ("start", "end", "pad"):
        description[token] = getattr(tokenizer, f"{token}_token_id", None)
    if kind == "word":
        for option in ("lowercase", "strip_accents", "suffix_indicator", "oov_token"):
            description[option] = getattr(tokenizer, option)
    return description


def file_sum(folder: pathlib.Path) -> str:
    """Returns the sha256 of a tokenizer in a folder: of its configuration and its vocabulary."""
    digest = hashlib.sha256()
    if (folder / CONFIG).is_file():
        digest.update(read_file(inside(folder, CONFIG)))
    _, _, values = read(folder)
    if "proto" in values:
        texts = {"vocabulary.spm": values["proto"]}
    elif "merges" in values:
        merges = "".join(f"{merge}\n" for merge in values["merges"])
        vocabulary = json.dumps(values["vocabulary"])
        texts = {"merges.txt": merges.encode(), "vocabulary.json": vocabulary.encode()}
    else:
        texts = {"vocabulary.txt": "".join(f"{v}\n" for v in values["vocabulary"]).encode()}
    for name in sorted(texts):
        digest.update(texts[name])
    return digest.hexdigest()


def value_sum(tokenizer: keras.layers.Layer, folder: pathlib.Path | None = None) -> str:
    """Returns the sha256 of a tokenizer that KerasHub has loaded.

    Args:
        tokenizer: a KerasHub tokenizer.
        folder: None, or the folder with its configuration, which the sum then includes.
    """
    digest = hashlib.sha256()
    if folder is not None and (folder / CONFIG).is_file():
        digest.update(read_file(inside(folder, CONFIG), MAX_VOCABULARY_BYTES))
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_assets(scratch)
        for path in sorted(pathlib.Path(scratch).iterdir()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _listed(name: Any) -> tuple[type | None, str | None]:
    """Returns the class with a listed name and the kind of its vocabulary; or None twice."""
    import keras_hub

    hub = keras_hub.tokenizers
    if name not in [f"{prefix}Tokenizer" for prefix in LISTED]:
        return None, None
    cls = getattr(hub, name)
    bases = {"word": hub.WordPieceTokenizer, "pair": hub.BytePairTokenizer}
    return cls, next((kind for kind, base in bases.items() if issubclass(cls, base)), "sentence")


def _is_plain(value: Any) -> bool:
    """Returns whether an option is a number, a string, a list of strings, a dtype or None."""
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, dict):  # the dtype of the ids
        return value.get("class_name") == "DTypePolicy" and value.get("module") == "keras"
    return value is None or isinstance(value, (str, int, float))


def _policy(value: Any) -> Any:
    """Replaces a dtype policy by its name, int32 or int64; returns other values unchanged."""
    inner = value.get("config") if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return value
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if name in ("int32", "int64") else "int32"


def _vocabulary(folder: pathlib.Path, kind: str) -> dict[str, Any]:
    """Reads the arguments with the vocabulary, for the kind "word", "pair" or "sentence"."""

    def asset(name: str) -> pathlib.Path:
        return inside(folder, ASSETS / name)

    if kind == "sentence":
        return {"proto": read_file(asset("vocabulary.spm"), MAX_VOCABULARY_BYTES)}
    if kind == "word":
        return {"vocabulary": _lines(asset("vocabulary.txt"))}
    path = asset("vocabulary.json")
    vocabulary = read_json(path, MAX_VOCABULARY_BYTES)
    if not isinstance(vocabulary, dict) or not all(
        isinstance(v, int) and 0 <= v < 2**31 for v in vocabulary.values()
    ):
        raise ValueError(f"{path} is damaged: it must map tokens to ids.")
    merges = asset("merges.txt")
    lines = _lines(merges)
    if any(len(line.split(" ")) != 2 for line in lines if "#version:" not in line):
        raise ValueError(f"{merges} is damaged: each line must hold two tokens.")
    return {"vocabulary": vocabulary, "merges": lines}


def _lines(path: pathlib.Path) -> list[str]:
    """Returns the lines of a text file in UTF-8."""
    try:
        text = read_file(path, MAX_VOCABULARY_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it must be text in UTF-8 ({error}).") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    return [line.rstrip() for line in (lines[:-1] if lines[-1] == "" else lines)]
