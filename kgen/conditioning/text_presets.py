"""Text encoders on disk: KerasHub's preset files, and what those files cannot say.

A preset is a folder with KerasHub's `config.json`, `model.weights.h5`, `tokenizer.json` and assets.
Beside them `kgen_text_encoder.json` states how kgen reads the encoder:

    {"activation": "gelu_erf", "pooling": "mean", "normalize": true, "sequence_length": 32}

KerasHub's BERT computes the GELU, x P(Z < x) for a standard normal Z, by a tanh approximation,
while some checkpoints were trained with the exact error function; `"gelu_erf"` says so, because
KerasHub's configuration cannot. A model that uses a frozen encoder names its folder, and the sha256
of its weights and of its tokenizer, so that a changed encoder is an error and not a worse picture.

References:
  GELU: Hendrycks and Gimpel (2016), section 2, https://arxiv.org/abs/1606.08415.
"""

import hashlib
import json
import pathlib
import tempfile

import keras
from keras.src.saving.serialization_lib import SafeModeScope

from kgen import tensors
from kgen.serialization import check_config

DEFAULT_SETTINGS = {
    "activation": None,
    "pooling": "mean",
    "normalize": True,
    "sequence_length": 32,
}
SETTINGS_FILE = "kgen_text_encoder.json"
WEIGHTS_PATTERNS = ("model.weights*.h5", "*.safetensors")
SUMS = {"sha256": "weights are not those", "tokenizer_sha256": "tokenizer is not the one"}
ROOT = pathlib.Path(__file__).parents[2]


def locate(preset):
    """Finds a preset's folder, from the working directory or the root of the checkout, or None."""
    for folder in (pathlib.Path(preset), ROOT / preset):
        if folder.is_dir():
            return folder
    return None


def portable(preset, folder):
    """The path that a config holds: relative to the root of the checkout where it lies inside."""
    if folder is None:
        return preset
    if folder.resolve().is_relative_to(ROOT):
        return folder.resolve().relative_to(ROOT).as_posix()
    return pathlib.Path(preset).as_posix()


def read_settings(folder):
    """Settings of the preset in `folder` (None: a published one), completed by the defaults."""
    if folder is None or not (folder / SETTINGS_FILE).is_file():
        return DEFAULT_SETTINGS
    path = folder / SETTINGS_FILE
    settings = _read(path)
    if not isinstance(settings, dict) or not set(settings) <= set(DEFAULT_SETTINGS):
        raise ValueError(
            f"{path} is damaged: it must have no other keys than {sorted(DEFAULT_SETTINGS)}. "
            f"Received: {settings!r}."
        )
    return DEFAULT_SETTINGS | settings


def check_files(folder):
    """Raises an error, before anything is built, unless a folder's configurations can be trusted.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ValueError: if a file is no JSON, or names anything but classes of known packages.
    """
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            "`preset` must be a folder with a KerasHub preset. "
            f"Received: {folder}, which has no config.json."
        )
    for path in sorted(folder.glob("*.json")):
        check_config(_read(path), path)


def _read(path):
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: it must be JSON.") from error


def origin(preset, folder, backbone, tokenizer):
    """Returns what a config says of where an encoder is from: its path and its sums."""
    return {
        "preset": portable(preset, folder),
        "sha256": fingerprint(folder, backbone),
        "tokenizer_sha256": tokenizer_fingerprint(folder, tokenizer),
    }


def fingerprint(folder, backbone):
    """Returns the sha256 of a folder's weights file, or of a published preset's values."""
    if folder is None:
        return tensors.fingerprint(backbone.get_weights())
    digest = hashlib.sha256()
    files = next((found for p in WEIGHTS_PATTERNS if (found := sorted(folder.glob(p)))), [])
    if not files:
        raise ValueError(
            f"`preset` must hold weights: {' or '.join(WEIGHTS_PATTERNS)}. "
            f"Received: preset={str(folder)!r}."
        )
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def tokenizer_fingerprint(folder, tokenizer):
    """Returns the sha256 of a tokenizer: its configuration, if `folder` has it, and vocabulary."""
    digest = hashlib.sha256()
    if folder is not None and (folder / "tokenizer.json").is_file():
        digest.update((folder / "tokenizer.json").read_bytes())
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer.save_assets(scratch)
        for path in sorted(pathlib.Path(scratch).iterdir()):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def load_tokenizer(source):
    """Loads the tokenizer of a preset, whatever class the backbone has."""
    import keras_hub

    path = pathlib.Path(source) / "tokenizer.json"
    config = _read(path) if path.is_file() else {}
    # KerasHub finds a tokenizer by the backbone's class, and CLIPTextEncoder has none. Safe mode
    # refuses a vocabulary outside of the model's archive, which here is the point; code in the
    # configuration is refused by `check_files`.
    with SafeModeScope(False):
        if "registered_name" not in config:
            return keras_hub.tokenizers.Tokenizer.from_preset(source)
    tokenizer = keras.saving.deserialize_keras_object(config, safe_mode=True)
    with SafeModeScope(False):
        tokenizer.load_preset_assets(source)
    return tokenizer


def check_inputs(backbone):
    """Raises ValueError unless the backbone reads one sequence of tokens."""
    known = {"token_ids", "segment_ids", "padding_mask"}
    names = set(backbone.input) if isinstance(getattr(backbone, "input", None), dict) else set()
    if "token_ids" not in names or not names <= known:
        raise ValueError(
            "`backbone` must be a KerasHub text backbone with inputs token_ids and, at most, "
            f"segment_ids and padding_mask. Received: a {type(backbone).__name__} with inputs "
            f"{sorted(names)}."
        )


def use_exact_gelu(backbone):
    """Puts the exact GELU into the feed-forward blocks of a BERT-like backbone."""
    import keras_hub

    blocks = [x for x in backbone.layers if isinstance(x, keras_hub.layers.TransformerEncoder)]
    if not blocks:
        raise ValueError(
            "`activation='gelu_erf'` needs a backbone of TransformerEncoder blocks. "
            f"Received: a {type(backbone).__name__}."
        )
    for block in blocks:
        block._feedforward_intermediate_dense.activation = keras.activations.gelu
