"""The files of a published model: a folder in the diffusers layout, or a single file.

    folder/
      model_index.json                       the pipeline and the classes of its parts
      scheduler/scheduler_config.json        the noise schedule and the published solver
      unet/config.json, vae/config.json      the configurations of the networks
      unet/diffusion_pytorch_model.safetensors, text_encoder/model.safetensors     their weights
      tokenizer/vocab.json, merges.txt       the vocabulary

Weights may be split into shards, which a file `*.safetensors.index.json` lists, and may exist in
several variants, such as `variant="fp16"`. No file outside of the folder is opened, even if a file
in it refers to one. An exception are snapshots of the Hugging Face hub, whose files are links into
the cache beside them.

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
    "it is pickled: reading it can run any code of its author. Use the `.safetensors` file of the "
    "same weights, which most models offer beside it, or, if you trust the file, convert it with "
    "`safetensors.torch.save_file`"
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

    def __init__(self, root: str | os.PathLike) -> None:
        self.root = pathlib.Path(root)
        if not self.root.is_dir():
            raise FileNotFoundError(f"`path` must be a folder. Received: {root}.")

    def path(self, name: str) -> pathlib.Path:
        """Returns the path of a file in the folder.

        Raises:
            FileNotFoundError: if the file is missing.
            ValueError: if the path leads out of the folder.
        """
        path = self.root / name
        home, real = self.root.resolve(), path.resolve()
        homes = [home]
        if home.parent.name == "snapshots":  # in the cache of the hub, files are links to blobs
            homes.append(home.parent.parent / "blobs")
        if pathlib.PurePath(name).is_absolute() or not any(map(real.is_relative_to, homes)):
            raise ValueError(
                f"Files must lie in {self.root}. Received: {name!r}, which is outside."
            )
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing.")
        return path

    def has(self, name: str) -> bool:
        """Returns whether the folder has a file with this name."""
        return (self.root / name).is_file()

    def read_json(self, name: str) -> dict:
        """Reads a JSON file that contains a dictionary.

        Raises:
            FileNotFoundError: if the file is missing.
            ValueError: if the file is damaged or too large.
        """
        return read_json(self.path(name))

    def weights(self, part: str, stem: str, variant: str | None = None) -> Weights:
        """Opens the weights of a part.

        Args:
            part: the folder of the part, such as `"unet"`.
            stem: prefix of the file names, `"diffusion_pytorch_model"` or `"model"`.
            variant: None, or a variant of the weights, such as `"fp16"`.

        Raises:
            FileNotFoundError: if there are no weights, or none of this variant.
            ValueError: if the weights are pickled, or a file is damaged.
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
        raise self._missing_weights(part, single, variant)

    def _shards(self, part: str, index: str) -> Weights:
        """Opens the shards that an index lists."""
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

    def _missing_weights(
        self, part: str, expected: str, variant: str | None
    ) -> FileNotFoundError | ValueError:
        """Returns the error for missing weights, which names alternatives in the folder."""
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
        FileNotFoundError: if the file is missing.
        ValueError: if the file is pickled, of another kind, or damaged.
    """
    path = pathlib.Path(path)
    if path.suffix.lower() in PICKLED:
        raise ValueError(f"{path} is not read: {WHY_NOT_PICKLED}.")
    if path.suffix.lower() != ".safetensors":
        raise ValueError(f"`path` must be a folder or a `.safetensors` file. Received: {path}.")
    return Weights([path])


def read_json(path: str | os.PathLike) -> dict:
    """Reads a JSON file that contains a dictionary.

    Raises:
        ValueError: if the file is damaged, contains another value, or is too large.
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
