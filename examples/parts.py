r"""Generate with the parts of a model, by NumPy and LiteRT or ONNX Runtime only.

    kgen export text_to_image --parts --output parts
    pip install ai-edge-litert  # or onnxruntime
    python examples/parts.py parts "a red heart" --runtime litert --output heart.png

Neither kgen nor TensorFlow is needed. `parts/parts.json` describes the files, their inputs and
outputs, and the settings of sampling. DPM-Solver++ (2M) makes steps between increasing log-SNRs l,
followed by a final evaluation:

    h   = (l_s - l_t) / 2,    D = (x_t - x_before) / h_before
    z_s = (sigma_s / sigma_t) z_t - alpha_s expm1(-h) (x_t + h / 2 D)        from t to s

with the guided estimate x_t = u + scale (c - u) of a call with the condition, c, and one with the
null condition, u. From the same noise this is the picture of `model.generate(..., noise=noise)`.

References:
  Lu et al. (2022), https://arxiv.org/abs/2211.01095, algorithm 2.
  Devlin et al. (2018), https://arxiv.org/abs/1810.04805 (how a text becomes ids).
"""

import argparse
import json
import pathlib
import re
import unicodedata

import numpy as np

LOG_ALPHA = {  # of a log-SNR; log sigma = log alpha - log_snr / 2
    "vp": lambda log_snr: -np.logaddexp(0, -log_snr) / 2,
    "ve": lambda log_snr: 0 * log_snr,
    "flow": lambda log_snr: -np.logaddexp(0, -log_snr / 2),
    "sub_vp": lambda log_snr: -np.arcsinh(np.exp(-log_snr / 2) / 2),
}
RHO = 7.0  # of the Karras grid


def open_litert(path):
    """Returns a LiteRT file as a function of arrays by name that returns arrays by name."""
    from ai_edge_litert.interpreter import Interpreter

    return Interpreter(str(path)).get_signature_runner()


def open_onnx(path):
    """Returns an ONNX file as a function of arrays by name that returns arrays by name."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    taken = [value.name for value in session.get_inputs()]
    returned = [value.name for value in session.get_outputs()]

    def run(**arrays):
        return dict(zip(returned, session.run(returned, {name: arrays[name] for name in taken})))

    return run


class Parts:
    """The parts of a model.

    Args:
        folder: the folder that `kgen.export_parts` wrote.
        runtime: `"litert"` or `"onnx"`.
    """

    def __init__(self, folder, runtime="litert"):
        folder = pathlib.Path(folder)
        self.said = json.loads((folder / "parts.json").read_text("utf-8"))
        opener = {"litert": open_litert, "onnx": open_onnx}[runtime]
        parts = self.said["parts"]
        self.run = {name: opener(folder / part["files"][runtime]) for name, part in parts.items()}
        self.null, self.tokenize = None, None
        if "conditioner" in parts:
            null = json.loads((folder / "null_condition.json").read_text("utf-8"))
            outputs = parts["conditioner"]["outputs"]
            self.null = {key: np.array(row, outputs[key]["dtype"]) for key, row in null.items()}
        if "tokenizers" in self.said:
            self.tokenize = WordPieces(folder / "vocabulary", self.said["tokenizers"]["token_ids"])

    def condition(self, values):
        """Returns the condition of prompts, or of labels or other numbers, by its keys."""
        if self.tokenize is not None:
            return self.run["conditioner"](**self.tokenize(values))
        ((name, tensor),) = self.said["parts"]["conditioner"]["inputs"].items()
        return self.run["conditioner"](**{name: np.array(values, tensor["dtype"])})

    def noise(self, num, seed=0):
        """Returns z at t = 1, float32 `[num, *shape of z]`."""
        noise = np.random.default_rng(seed).normal(size=[num, *self.said["shapes"]["z"]])
        return (self.said["process"]["prior_std"] * noise).astype("float32")

    def log_snrs(self, num_steps):
        """Returns the log-SNRs of a run, increasing, `[num_steps + 1]`."""
        sampling, process = self.said["sampling"], self.said["process"]
        low, high = process["log_snr_min"], process["log_snr_max"]
        if num_steps == sampling["num_steps"]:
            return np.array(sampling["log_snr"])
        if sampling["grid"] == "log_snr":
            return np.linspace(low, high, num_steps + 1)
        if sampling["grid"] == "karras":
            ends = np.exp([-low / (2 * RHO), -high / (2 * RHO)])
            return -2 * RHO * np.log(np.linspace(*ends, num_steps + 1))
        raise ValueError(f"`num_steps` must be {sampling['num_steps']} on the grid of this model.")

    def generate(self, noise, cond=None, *, num_steps=None, guidance_scale=None):
        """Draws from noise.

        Args:
            noise: z at t = 1, float32 `[B, ...]`.
            cond: what `condition` returned, B rows; None without a condition.
            num_steps: solver steps; None for the default of the model.
            guidance_scale: None for the default of the model.

        Returns:
            The data, float32 `[B, ...]`; pictures in the range that `to_uint8` knows.
        """
        sampling = self.said["sampling"]
        num_steps = sampling["num_steps"] if num_steps is None else num_steps
        scale = sampling["guidance_scale"] if guidance_scale is None else guidance_scale
        num = len(noise)

        def x_hat(z, log_snr, cond):
            levels = np.full([num], log_snr, "float32")
            return self.run["denoiser"](z=z, log_snr=levels, **cond)["x_hat"]

        def denoise(z, log_snr):
            if cond is None:
                return x_hat(z, log_snr, {})
            shown = x_hat(z, log_snr, cond)
            if scale == 1:
                return shown
            null = {key: np.repeat(row, num, axis=0) for key, row in self.null.items()}
            return (1 - scale) * x_hat(z, log_snr, null) + scale * shown

        log_snr = self.log_snrs(num_steps)
        log_alpha = LOG_ALPHA[self.said["process"]["scaling"]](log_snr)
        alpha, sigma = np.exp(log_alpha), np.exp(log_alpha - log_snr / 2)
        z, before, h_before = noise.astype("float32"), None, None
        for t, s in zip(range(num_steps), range(1, num_steps + 1)):
            h = (log_snr[s] - log_snr[t]) / 2
            x = denoise(z, log_snr[t])
            ahead = x
            if sampling["order"] == 2 and before is not None:
                ahead = x + h / 2 * (x - before) / h_before
            z = sigma[s] / sigma[t] * z - alpha[s] * np.expm1(-h) * ahead
            z, before, h_before = z.astype("float32"), x, h
        return self.decode(denoise(z, log_snr[-1]).astype("float32"))

    def decode(self, latents):
        """Returns the data of latents, float32 `[B, ...]`; latents themselves without a decoder."""
        if "decoder" not in self.run:
            return latents
        return self.run["decoder"](latents=latents)["images"]

    def to_uint8(self, images):
        """Returns pictures as uint8 `[B, H, W, C]`."""
        low, high = self.said["pictures"]["low"], self.said["pictures"]["high"]
        return np.round(255 * np.clip((images - low) / (high - low), 0, 1)).astype("uint8")


class WordPieces:
    """The WordPiece tokenizer of BERT, which splits words into the longest tokens of a vocabulary.

    Special tokens such as "[SEP]" in a text are split as other texts.

    Args:
        folder: the folder of the vocabulary.
        said: the entry of the tokenizer in `parts.json`.

    Raises:
        ValueError: for another kind of tokenizer.
    """

    def __init__(self, folder, said):
        if said["kind"] != "WordPiece" or said["new_words"]:
            raise ValueError(
                "This example tokenizes by WordPiece, without learned words; use kgen for another "
                f"tokenizer. Received: {said}."
            )
        lines = (folder / "vocabulary.txt").read_text("utf-8").split("\n")
        self.ids, self.said = {piece: i for i, piece in enumerate(lines)}, said

    def __call__(self, prompts):
        """Returns `token_ids` int32 and `padding_mask` bool of texts, `[B, length]`."""
        length, pad = self.said["length"], self.said["pad"]
        ids, mask = np.full([len(prompts), length], pad, "int32"), np.zeros([len(prompts), length])
        for i, prompt in enumerate(prompts):
            pieces = [piece for word in self.words(prompt) for piece in self.pieces(word)]
            row = [self.said["start"], *pieces[: length - 2], self.said["end"]]
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return {"token_ids": ids, "padding_mask": mask.astype(bool)}

    def words(self, text):
        """Splits a text at spaces and around punctuation and Chinese characters."""
        text = re.sub(r"[\t\n\r]", " ", text.replace("\ufffd", ""))
        kinds = {c: unicodedata.category(c)[0] for c in text}
        text = "".join(" " if kinds[c] == "Z" else c for c in text if kinds[c] != "C")
        if self.said["strip_accents"]:
            text = unicodedata.normalize("NFD", text)
            text = "".join(c for c in text if unicodedata.category(c) != "Mn")
        if self.said["lowercase"]:  # letter by letter: a final sigma is treated as any sigma
            text = "".join(c.lower() for c in text)
        return "".join(f" {c} " if stands_alone(c) else c for c in text).split()

    def pieces(self, word):
        """Returns the ids of the tokens of a word, or that of the unknown token."""
        unknown = [self.ids[self.said["oov_token"]]]
        found, start = [], 0
        while start < len(word) <= 100:
            mark = self.said["suffix_indicator"] if start else ""
            ends = range(len(word), start, -1)
            end = next((end for end in ends if mark + word[start:end] in self.ids), None)
            if end is None:
                return unknown
            found.append(self.ids[mark + word[start:end]])
            start = end
        return found or unknown


def stands_alone(c):
    """Returns whether a character is a word by itself: punctuation, an ASCII symbol, or Chinese."""
    sign = c.isascii() and not c.isalnum() and not c.isspace()
    return sign or unicodedata.category(c)[0] == "P" or "CJK" in unicodedata.name(c, "")


def main(argv=None):
    """Runs the command line."""
    from PIL import Image

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", type=pathlib.Path, help="folder with parts.json")
    parser.add_argument("prompt", nargs="?", help="text, or number of a class")
    parser.add_argument("--runtime", choices=("litert", "onnx"), default="litert")
    parser.add_argument("--num-steps", type=int)
    parser.add_argument("--guidance-scale", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=pathlib.Path, default=pathlib.Path("picture.png"))
    args = parser.parse_args(argv)

    parts, cond = Parts(args.parts, args.runtime), None
    if args.prompt is not None:
        cond = parts.condition([args.prompt if parts.tokenize else int(args.prompt)])
    options = {"num_steps": args.num_steps, "guidance_scale": args.guidance_scale}
    images = parts.generate(parts.noise(1, args.seed), cond, **options)
    Image.fromarray(parts.to_uint8(images)[0].squeeze()).save(args.output)
    print(f"Wrote {args.output}")


if __name__ == "__main__":
    main()
