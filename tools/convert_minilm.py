"""Converts the sentence encoder all-MiniLM-L6-v2 to the KerasHub preset that this repository ships.

The encoder (22.7 M parameters, Apache-2.0) is published as a folder in the Hugging Face layout:
config.json, vocab.txt, model.safetensors. KerasHub reads that folder except for two settings:
accents are stripped from the text, and the feed-forward blocks use the exact GELU. The first is
written to the tokenizer, the second to `kgen_text_encoder.json`. The weights are written as
float16, which halves the file to 45 MB, and the script prints the change of the embeddings.

    python tools/convert_minilm.py --model-folder FOLDER --output saved_models/minilm_l6_v2

Needs the package `safetensors`. It takes about 20 seconds and prints

    largest difference of a sentence embedding, float16 against float32 weights: 1.6e-04
"""

import argparse
import pathlib

import keras_hub
import numpy as np

from kgen.conditioning import TextEncoder

SENTENCES = (
    "a red apple",
    "a ripe fruit",
    "Café crème, naïve façade!",
    "",
    "flag: Bulgaria",
    "a person running fast with a medium dark skin tone",
)


def main(argv=None):
    """Converts the folder, and returns the largest difference of an embedding."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model-folder", required=True, help="folder in the Hugging Face layout")
    parser.add_argument("--output", default="saved_models/minilm_l6_v2", help="preset to write")
    args = parser.parse_args(argv)
    if not (pathlib.Path(args.model_folder) / "model.safetensors").is_file():
        parser.error(f"no model.safetensors in {args.model_folder}")

    original = TextEncoder(
        keras_hub.models.BertBackbone.from_preset(args.model_folder, dtype="float32"),
        keras_hub.models.BertTokenizer.from_preset(args.model_folder, strip_accents=True),
        activation="gelu_erf",
    )
    expected = original(list(SENTENCES))["pooled"].numpy()
    original.save_to_preset(args.output, dtype="float16")
    received = TextEncoder.from_preset(args.output)(list(SENTENCES))["pooled"].numpy()
    difference = float(np.abs(received - expected).max())
    print(
        "largest difference of a sentence embedding, float16 against float32 weights: "
        f"{difference:.1e}"
    )
    return difference


if __name__ == "__main__":
    main()
