r"""Export the text-to-image model and serve it in a process without kgen and without Keras.

    python examples/export_and_serve.py --output served

writes two SavedModels for TensorFlow Serving (the number is the version):

    served/text_to_image/1           from prompts to pictures; includes the tokenizer
    served/text_to_image_tokens/1    from token ids; needs only TensorFlow's core operations

Then a new process that imports neither kgen nor Keras loads each of them and generates a picture of
the prompt; the pictures are compared with `model.generate` and written beside the models.

With Docker, TensorFlow Serving offers the model over HTTP:

    docker run -p 8501:8501 -v "$PWD/served/text_to_image:/models/text_to_image" \
        -e MODEL_NAME=text_to_image tensorflow/serving
    curl http://localhost:8501/v1/models/text_to_image:predict -d '{
        "signature_name": "generate_png",
        "inputs": {"prompts": ["a red heart"], "num_steps": 20, "guidance_scale": 3.0,
                   "seed": [0, 0]}}'

The answer holds the PNG file as base64: {"outputs": [{"b64": "..."}]}.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import numpy as np
import tensorflow as tf

import kgen
from kgen.pictures import save_png

# The client: all that a server process needs. It takes its arguments as JSON on standard input.
# The package tensorflow_text defines Keras layers too, so only its operations are loaded.
CLIENT = """
import importlib.util, json, pathlib, sys
sys.modules["kgen"] = sys.modules["keras"] = None  # an import of them is an ImportError
import tensorflow as tf
request = json.load(sys.stdin)
if "prompts" in request["inputs"]:
    package = pathlib.Path(importlib.util.find_spec("tensorflow_text").origin).parent
    for library in sorted(package.glob("python/ops/*.so")):
        tf.load_op_library(str(library))
loaded = tf.saved_model.load(request["directory"])
types = {"num_steps": tf.int32, "guidance_scale": tf.float32, "seed": tf.int32,
         "prompts": tf.string, "token_ids": tf.int32, "padding_mask": tf.bool}
inputs = {name: tf.constant(value, types[name]) for name, value in request["inputs"].items()}
png = loaded.signatures["generate_png"](**inputs)["png_bytes"][0]
tf.io.write_file(request["png"], png)
"""


def serve(directory, inputs, png):
    """Generates one picture with a SavedModel in a new process.

    Args:
        directory: folder of the SavedModel.
        inputs: the arguments of its signature `generate_png`, as lists and numbers.
        png: file to write.

    Returns:
        The picture, uint8 `[H, W, 3]`.

    Raises:
        RuntimeError: if the process fails; the message contains its output.
    """
    request = {"directory": str(directory), "inputs": inputs, "png": str(png)}
    process = subprocess.run(
        [sys.executable, "-c", CLIENT], input=json.dumps(request), capture_output=True, text=True
    )
    if process.returncode:
        raise RuntimeError(f"Serving {directory} failed:\n{process.stderr}")
    return tf.io.decode_png(tf.io.read_file(str(png)), channels=3).numpy()


def main(argv=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    preset = pathlib.Path("saved_models/text_to_image")
    parser.add_argument("prompt", nargs="?", default="a red heart")
    parser.add_argument("--preset", type=pathlib.Path, default=preset)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("served"))
    parser.add_argument("--num-steps", type=int, default=20)
    parser.add_argument("--guidance-scale", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)

    model = kgen.from_preset(args.preset)
    sampling = {"num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
    expected = model.generate([args.prompt], seed=args.seed, **sampling)[0]
    save_png(args.output / "generate.png", expected)

    tokens = model.conditioner.tokenize([args.prompt])
    tokens = {name: value.numpy().tolist() for name, value in tokens.items()}
    forms = {
        "text_to_image": ("prompts", {"prompts": [args.prompt]}),
        "text_to_image_tokens": ("token_ids", tokens),
    }
    for name, (inputs, text) in forms.items():
        directory = args.output / name / "1"
        kgen.export_saved_model(model, directory, inputs=inputs)
        arguments = {**text, **sampling, "seed": [args.seed, 0]}
        picture = serve(directory, arguments, args.output / f"{name}.png")
        difference = int(np.max(np.abs(picture.astype(int) - expected)))
        print(f"{directory}: largest difference to model.generate {difference} of 255")
        if difference > 1:
            raise SystemExit(f"{args.output / name}.png differs from generate.png.")


if __name__ == "__main__":
    main()
