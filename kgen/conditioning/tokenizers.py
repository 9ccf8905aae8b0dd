"""Tokenizers rebuilt from their class, which is one of a list, and their vocabulary.

A folder has `tokenizer.json`, the class with its options, and the vocabulary in `assets/tokenizer`.
KerasHub would read the vocabulary by itself, but only with Keras' safe mode off. Here it is read
first and given to the constructor, so nothing else that the folder says is run:

    kind            files                           arguments
    WordPiece       vocabulary.txt                  vocabulary, a list
    BytePair        vocabulary.json, merges.txt     vocabulary, a dictionary; merges, a list
    SentencePiece   vocabulary.spm                  proto, bytes
"""

import hashlib
import json
import pathlib
import tempfile

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


def read(folder):
    """Reads the tokenizer of a folder, without building it.

    Returns:
        The class, its options, and the arguments that hold its vocabulary.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged, or names a class that is not listed.
    """
    path = inside(folder, CONFIG)
    config = read_json(path)
    config = config if isinstance(config, dict) else {}
    name, options = config.get("class_name"), config.get("config")
    cls, kind = _listed(name)
    if cls is None or config.get("registered_name") not in (None, f"keras_hub>{name}"):
        raise ValueError(
            f"{path} is unsafe to load: it must name a tokenizer of KerasHub that kgen lists. "
            f"Received: class_name={name!r:.200}."
        )
    options = options if isinstance(options, dict) else {"config": {}}
    for key, value in options.items():
        if not _is_plain(value):
            raise ValueError(
                f"{path} is unsafe to load: the options of a tokenizer must be numbers and texts. "
                f"Received: {key}={value!r:.200}."
            )
    options = {key: _policy(value) for key, value in options.items()}
    for key in ("vocabulary", "merges", "proto", "config_file"):
        if options.pop(key, None) not in (None, CONFIG):
            raise ValueError(f"{path} is unsafe to load: it must not name {key!r}.")
    return cls, options, _vocabulary(folder, kind)


def build(folder):
    """The tokenizer of a folder; raises as `read`."""
    cls, options, vocabulary = read(folder)
    try:
        return cls(**options, **vocabulary)
    except OSError:
        raise
    except Exception as error:
        raise ValueError(f"{folder / CONFIG} cannot be rebuilt: {reason(error)}.") from error


def write(tokenizer, folder):
    """Writes the vocabulary of a tokenizer for other programs.

    Args:
        tokenizer: a `keras_hub.tokenizers.Tokenizer`.
        folder: directory to write, made with its parents.

    Returns:
        A dictionary for JSON: the kind, the files, the ids of the marks and the options.
    """
    folder.mkdir(parents=True)
    tokenizer.save_assets(str(folder))
    _, kind = _listed(type(tokenizer).__name__)
    said = {"kind": KINDS[kind], "class": type(tokenizer).__name__}
    said["files"] = sorted(path.name for path in folder.iterdir())
    for mark in ("start", "end", "pad"):
        said[mark] = getattr(tokenizer, f"{mark}_token_id", None)
    if kind == "word":
        for option in ("lowercase", "strip_accents", "suffix_indicator", "oov_token"):
            said[option] = getattr(tokenizer, option)
    return said


def file_sum(folder):
    """The sha256 of a folder's tokenizer: its configuration, and its vocabulary as it is saved."""
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


def value_sum(tokenizer, folder=None):
    """The sha256 of a tokenizer that KerasHub has loaded, and of its configuration in a folder."""
    digest = hashlib.sha256()
    if folder is not None and (folder / CONFIG).is_file():
        digest.update(read_file(inside(folder, CONFIG), MAX_VOCABULARY_BYTES))
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_assets(scratch)
        for path in sorted(pathlib.Path(scratch).iterdir()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _listed(name):
    """The class of a listed name, and how its vocabulary is stored; or None."""
    import keras_hub

    hub = keras_hub.tokenizers
    if name not in [f"{prefix}Tokenizer" for prefix in LISTED]:
        return None, None
    cls = getattr(hub, name)
    bases = {"word": hub.WordPieceTokenizer, "pair": hub.BytePairTokenizer}
    return cls, next((kind for kind, base in bases.items() if issubclass(cls, base)), "sentence")


def _is_plain(value):
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    if isinstance(value, dict):  # the type of the ids
        return value.get("class_name") == "DTypePolicy" and value.get("module") == "keras"
    return value is None or isinstance(value, (str, int, float))


def _policy(value):
    inner = value.get("config") if isinstance(value, dict) else None
    if not isinstance(value, dict):
        return value
    name = inner.get("name") if isinstance(inner, dict) else None
    return name if name in ("int32", "int64") else "int32"


def _vocabulary(folder, kind):
    def asset(name):
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
        raise ValueError(f"{path} is damaged: it must give each piece of text a number.")
    merges = asset("merges.txt")
    lines = _lines(merges)
    if any(len(line.split(" ")) != 2 for line in lines if "#version:" not in line):
        raise ValueError(f"{merges} is damaged: each line must hold two pieces of text.")
    return {"vocabulary": vocabulary, "merges": lines}


def _lines(path):
    try:
        text = read_file(path, MAX_VOCABULARY_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: it must be text in UTF-8 ({error}).") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = text.split("\n")
    return [line.rstrip() for line in (lines[:-1] if lines[-1] == "" else lines)]
