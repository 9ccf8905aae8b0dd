"""A folder of pictures with captions: checked, loaded, and split for training and validation.

captions.csv, captions.jsonl    a table of captions, if the folder has one
heart.png, heart.txt            else a text file beside each picture, if there are any
cats/1.png, dogs/2.png          else the names of the subfolders
"""

from __future__ import annotations

import dataclasses
import hashlib
import pathlib
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from kgen.cli.errors import UsageError, arguments_from_user
from kgen.serving.capabilities import ConditionKind

if TYPE_CHECKING:
    import numpy as np

VALIDATION_SPLIT = 0.1
MAX_HELD_OUT = 200
MIN_PICTURES = 2

CaptionSource: TypeAlias = Literal["csv", "jsonl", "txt", "folders", "one for all"] | None
"""The source of captions: a key of `kgen.data.folder.CAPTIONS`, one caption for all, or None."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures in memory, with their captions or labels.

    Attributes:
        images: uint8 `[N, H, W, C]`.
        columns: `{"prompts": [N]}`, `{"labels": [N]}` or empty.
        captions: where the captions or labels come from; None without them.
        names: the names of the classes, or None.
        left_out: one sentence for each picture or caption that was skipped.
    """

    images: np.ndarray
    columns: dict[str, np.ndarray]
    captions: CaptionSource
    names: list[str] | None
    left_out: list[str]

    def rows(self, index: slice | np.ndarray) -> Pictures:
        """Returns the pictures of a slice or an array of indices."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return dataclasses.replace(self, images=self.images[index], columns=columns)

    def digest(self) -> str:
        """Returns the sha256 of all pixels, captions and labels, in hexadecimal."""
        digest = hashlib.sha256(self.images.tobytes())
        for name, values in self.columns.items():
            digest.update(f"{name} {values.tolist()}".encode())
        return digest.hexdigest()


def caption_source(folder: pathlib.Path) -> Literal["csv", "jsonl", "txt", "folders"] | None:
    """Returns where the captions of a folder come from, or None if it has no captions."""
    from kgen.data.folder import classes
    from kgen.data.folder.finding import JSON_TABLES, TABLES

    for source, names in (("csv", TABLES), ("jsonl", JSON_TABLES)):
        if any((folder / name).is_file() for name in names):
            return source
    if any(path for path in folder.rglob("*.txt") if path.name.lower() != "readme.txt"):
        return "txt"
    return "folders" if len(classes(folder)) > 1 else None


def read(
    folder: pathlib.Path,
    shape: Sequence[int],
    kind: ConditionKind | Literal["any"],
    caption: str | None = None,
    known_names: Sequence[str] | None = None,
) -> Pictures:
    """Loads the pictures of a folder for a model.

    Args:
        folder: the folder.
        shape: shape of the pictures of the model, `(H, W, C)`.
        kind: what the model is conditional on: None, `"texts"` or `"classes"`; or `"any"` for
            whatever the folder has.
        caption: caption of all pictures if the folder has no captions, or None.
        known_names: the names of the classes of the model, or None.

    Returns:
        The pictures. Unreadable pictures and those without a caption are left out.

    Raises:
        UsageError: if the folder does not exist, does not have what the model needs, or has fewer
            than two usable pictures.
    """
    import numpy as np

    from kgen.data import folder as folders

    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    if shape[0] != shape[1] or shape[-1] not in (1, 3):
        raise UsageError(
            f"the model's pictures have the shape {tuple(shape)}; only square pictures with 1 or "
            "3 channels are supported"
        )
    with arguments_from_user():
        found = caption_source(folder)
        source: CaptionSource = None if kind is None else found
        options = {"captions": source, "channels": shape[-1], "on_error": "skip"}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            images, columns = folders.load_arrays(folder, shape[0], **options)
        names = folders.classes(folder) if source == "folders" else None
    left_out = [str(warning.message) for warning in caught]
    if kind == "texts" and names:  # the name of the subfolder is the caption
        columns = {"prompts": np.array([names[i] for i in columns["labels"]])}
        names = None
    if kind == "any" and "labels" not in columns and "prompts" not in columns and caption is None:
        kind = None
    if kind in ("texts", "any") and not columns:
        if caption is None:
            raise UsageError(
                f"{folder} has no captions: put heart.txt beside heart.png, or captions.csv with "
                "the columns file_name,caption into the folder, or give --caption TEXT for all"
            )
        columns, source = {"prompts": np.array([caption] * len(images))}, "one for all"
    if kind == "classes":
        columns = {"labels": _labels(columns, names, known_names, folder)}
    if len(images) < MIN_PICTURES:
        raise UsageError(
            f"{folder} must have at least {MIN_PICTURES} usable pictures, not {len(images)}"
        )
    return Pictures(images, columns, source, names, left_out)


def _labels(
    columns: dict[str, np.ndarray],
    names: Sequence[str] | None,
    known_names: Sequence[str] | None,
    folder: pathlib.Path,
) -> np.ndarray:
    """Returns the labels by the order of the classes of the model, integers `[N]`.

    Raises:
        UsageError: if the folder has no subfolders, or one whose name is not a class of the model.
    """
    import numpy as np

    if names is None:
        raise UsageError(
            f"the model is conditional on classes: {folder} must have a subfolder for each class"
        )
    if known_names is None:
        return columns["labels"]
    unknown = sorted(set(names) - set(known_names))
    if unknown:
        raise UsageError(f"the model has no class {unknown[0]!r}; it has {', '.join(known_names)}")
    return np.array([known_names.index(names[i]) for i in columns["labels"]], "int32")


def split(pictures: Pictures, seed: int) -> tuple[Pictures, Pictures]:
    """Splits pictures at random into those for training and those for validation."""
    import numpy as np

    number = len(pictures.images)
    held_out = min(MAX_HELD_OUT, max(1, round(VALIDATION_SPLIT * number)))
    order = np.random.default_rng(seed).permutation(number)
    return pictures.rows(np.sort(order[held_out:])), pictures.rows(np.sort(order[:held_out]))


def summary(folder: pathlib.Path, pictures: Pictures) -> list[str]:
    """Returns lines that describe the pictures of a folder, and what was left out."""
    number = len(pictures.images)
    kinds = {None: "without captions", "one for all": "with one caption for all"}
    kinds |= {"txt": "with captions from text files", "folders": "in folders of classes"}
    captions = kinds.get(pictures.captions, f"with captions from a {pictures.captions} table")
    lines = [f"{folder}: {number} pictures {captions}"]
    if "prompts" in pictures.columns:
        prompts = pictures.columns["prompts"]
        lines.append(
            f"{len(set(prompts.tolist()))} different captions, such as {str(prompts[0])!r}"
        )
    return lines + pictures.left_out
