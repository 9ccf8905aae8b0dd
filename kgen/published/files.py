"""Where published weights lie: a folder in the diffusers layout, or a single file.

    folder/
      model_index.json                       which pipeline it is, and the classes of its parts
      scheduler/scheduler_config.json        the noise schedule and the published solver
      unet/config.json, vae/config.json      what the networks are
      unet/diffusion_pytorch_model.safetensors, text_encoder/model.safetensors     their weights
      tokenizer/vocab.json, merges.txt       the vocabulary

Weights may be split into shards, which a file `*.safetensors.index.json` lists, and may lie there
in a second form, `variant="fp16"`. No file outside of the folder is opened, whatever a file in it
says; the snapshots of the Hugging Face hub, whose files are links into the cache beside them, are
followed there.

Reference:
  The layout: https://huggingface.co/docs/diffusers/using-diffusers/other-formats.
"""

import json
import os
import pathlib

from kgen.published.weights import Weights

PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
MAX_JSON = 25_000_000  # bytes
WHY_NOT_PICKLED = (
    "it is pickled: reading it could run any code that its author put in. Take the "
    "`.safetensors` file of the same weights, which most pages of models offer beside it, or "
    "convert it once, where you trust it, with `safetensors.torch.save_file`"
)


class Folder:
    """A folder with a published model.

    Args:
        root: the folder.

    Raises:
        FileNotFoundError: if there is no such folder.

    Example:
        >>> folder = Folder("tests/published/fixtures/sd1")
        >>> folder.read_json("vae/config.json")["scaling_factor"]
        0.18215
    """

    def __init__(self, root: str | os.PathLike):
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"`path` must be a folder. Received: {root}, which is none.")

    def path(self, name: str) -> pathlib.Path:
        """Returns the path of a file in the folder.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if it leads out of the folder.
        """
        path = self.root / name
        home, real = self.root.resolve(), path.resolve()
        homes = [home]
        if home.parent.name == "snapshots":  # of the hub's cache: its files are links to blobs
            homes.append(home.parent.parent / "blobs")
        if pathlib.PurePath(name).is_absolute() or not any(map(real.is_relative_to, homes)):
            raise ValueError(f"Files must lie in {self.root}. Received: {name!r}, which leaves it.")
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing.")
        return path

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        return (self.root / name).is_file()

    def read_json(self, name: str) -> dict:
        """Reads a file that holds a dictionary in JSON.

        Raises:
            FileNotFoundError: if it is missing.
            ValueError: if it is no such file.
        """
        return read_json(self.path(name))

    def weights(self, part: str, stem: str, variant: str | None = None) -> Weights:
        """Opens the weights of a part.

        Args:
            part: a folder in this one, such as `"unet"`.
            stem: how its files begin, `"diffusion_pytorch_model"` or `"model"`.
            variant: None, or the name of a second form of the weights, such as `"fp16"`.

        Raises:
            FileNotFoundError: if there are none, or none of that variant.
            ValueError: if they are pickled, or a file is damaged.
        """
        middle = "" if variant is None else f".{variant}"
        single = f"{part}/{stem}{middle}.safetensors"
        if self.has(single):
            return Weights([self.path(single)])
        indices = {
            f"{part}/{stem}{middle}.safetensors.index.json",
            f"{part}/{stem}.safetensors.index{middle}.json",
            f"{part}/{stem}.safetensors{middle}.index.json",
        }
        for index in sorted(indices):
            if self.has(index):
                return self._shards(part, index)
        raise self._no_weights(part, single, variant)

    def _shards(self, part, index):
        places = self.read_json(index).get("weight_map")
        if not isinstance(places, dict) or not places:
            raise ValueError(
                f"{self.root / index} is damaged: it must have a dictionary `weight_map`."
            )
        for name, shard in places.items():
            plain = isinstance(shard, str) and shard == pathlib.PurePath(shard).name
            if not plain or "\\" in shard or not shard.endswith(".safetensors"):
                raise ValueError(
                    f"{self.root / index} must place {name!r} in a `.safetensors` file beside it. "
                    f"Received: {shard!r}."
                )
        shards = sorted(set(places.values()))
        return Weights([self.path(f"{part}/{shard}") for shard in shards], places)

    def _no_weights(self, part, expected, variant):
        folder = self.root / part
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        variants = sorted({n.split(".")[1] for n in names if n.endswith(".safetensors")} - {""})
        variants = [v for v in variants if v != "safetensors"]
        message = f"{self.root / expected} is missing."
        pickled = [name for name in names if name.endswith(PICKLED)]
        if any(name.endswith(".safetensors") for name in names):
            if variant is None and variants:
                message += f" There are variants: pass `variant={variants[0]!r}`."
            elif variant is not None:
                message += f" There is no variant {variant!r} of these weights."
        elif pickled:
            return ValueError(f"{folder / pickled[0]} is not read: {WHY_NOT_PICKLED}.")
        return FileNotFoundError(message)


def open_file(path: str | os.PathLike) -> Weights:
    """Opens a single file of weights.

    Args:
        path: a `.safetensors` file.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is pickled, of another kind, or damaged.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in PICKLED:
        raise ValueError(f"{path} is not read: {WHY_NOT_PICKLED}.")
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"`path` must be a folder or a `.safetensors` file. Received: {path}.")
    return Weights([path])


def read_json(path: str | os.PathLike) -> dict:
    """Reads a file that holds a dictionary in JSON.

    Raises:
        ValueError: if it is no such file, or too large for one.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size
    if size > MAX_JSON:
        raise ValueError(f"{path} must have at most {MAX_JSON:,} bytes. Received: {size:,}.")
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: it must be JSON ({error}).") from error
    if not isinstance(value, dict):
        raise ValueError(
            f"{path} is damaged: it must hold a dictionary. Received: a {type(value).__name__}."
        )
    return value
