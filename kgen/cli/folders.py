"""A folder of a person's pictures: checked, counted, and parted for training and validation.

captions.csv, captions.jsonl    a table, if there is one
heart.png, heart.txt            a text file beside each picture, if there is one
cats/1.png, dogs/2.png          else the names of the folders
"""

import dataclasses
import hashlib
import warnings

from kgen.cli.errors import UsageError, arguments_from_user

HELD_OUT = 0.1  # share of the pictures that validate
MOST_HELD_OUT = 200
FEWEST = 2


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Pictures in memory with what they are conditional on.

    Attributes:
        images: uint8 `[N, H, W, C]`.
        columns: `{"prompts": [N]}`, `{"labels": [N]}` or empty.
        captions: how they were found: `"csv"`, `"jsonl"`, `"txt"`, `"folders"`, `"one for all"`
            or None.
        names: names of the classes, or None.
        left_out: what was left out, a list of sentences.
    """

    images: object
    columns: dict
    captions: str | None
    names: list | None
    left_out: list

    def rows(self, index):
        """The pictures of some rows."""
        columns = {name: values[index] for name, values in self.columns.items()}
        return dataclasses.replace(self, images=self.images[index], columns=columns)

    def digest(self):
        """A sum of all pixels and captions."""
        digest = hashlib.sha256(self.images.tobytes())
        for name, values in self.columns.items():
            digest.update(f"{name} {values.tolist()}".encode())
        return digest.hexdigest()


def kind_of_captions(folder):
    """How a folder says what its pictures show: a key of `kgen.data.folder.CAPTIONS`, or None."""
    from kgen.data.folder import classes
    from kgen.data.folder.finding import JSON_TABLES, TABLES

    for kind, names in (("csv", TABLES), ("jsonl", JSON_TABLES)):
        if any((folder / name).is_file() for name in names):
            return kind
    if any(path for path in folder.rglob("*.txt") if path.name.lower() != "readme.txt"):
        return "txt"
    return "folders" if len(classes(folder)) > 1 else None


def read(folder, shape, wanted, caption=None, known=None):
    """Reads a folder for a model.

    Args:
        folder: its path.
        shape: of the model's pictures, `(H, W, C)`.
        wanted: what the model is conditional on: None, `"texts"`, `"classes"`, or `"any"` for
            whatever the folder has.
        caption: the text of pictures that have none, or None.
        known: the names of a model's classes, or None.

    Returns:
        The `Pictures`.

    Raises:
        UsageError: if the folder does not have what the model needs.
    """
    import numpy as np

    from kgen.data import folder as folders

    if not folder.is_dir():
        raise UsageError(f"no folder {folder}")
    if shape[0] != shape[1] or shape[-1] not in (1, 3):
        raise UsageError(f"the model's pictures have the shape {tuple(shape)}, not a square")
    with arguments_from_user():
        kind = kind_of_captions(folder)
        asked = None if wanted is None else kind
        options = {"captions": asked, "channels": shape[-1], "on_error": "skip"}
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            images, columns = folders.load_arrays(folder, shape[0], **options)
        names = folders.classes(folder) if asked == "folders" else None
    left_out = [str(warning.message) for warning in found]
    if wanted == "texts" and names:  # the folder's name is the caption
        columns = {"prompts": np.array([names[i] for i in columns["labels"]])}
        names = None
    if wanted == "any" and "labels" not in columns and "prompts" not in columns and caption is None:
        wanted = None
    if wanted in ("texts", "any") and not columns:
        if caption is None:
            raise UsageError(
                f"{folder} has no captions: put heart.txt beside heart.png, or captions.csv with "
                "the columns file_name,caption into the folder, or give --caption TEXT for all"
            )
        columns, asked = {"prompts": np.array([caption] * len(images))}, "one for all"
    if wanted == "classes":
        columns = {"labels": _labels(columns, names, known, folder)}
    made = Pictures(images, columns, asked, names, left_out)
    if len(images) < FEWEST:
        raise UsageError(f"{folder} must have at least {FEWEST} pictures that can be used, not 1")
    return made


def _labels(columns, names, known, folder):
    import numpy as np

    if names is None:
        raise UsageError(
            f"the model is conditional on classes: {folder} must have a folder of each"
        )
    if known is None:
        return columns["labels"]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise UsageError(f"the model has no class {unknown[0]!r}; it has {', '.join(known)}")
    return np.array([known.index(names[i]) for i in columns["labels"]], "int32")


def parted(pictures, seed):
    """Parts pictures into those to train on and those to validate with, by a seed."""
    import numpy as np

    number = len(pictures.images)
    held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT * number)))
    order = np.random.default_rng(seed).permutation(number)
    return pictures.rows(np.sort(order[held_out:])), pictures.rows(np.sort(order[:held_out]))


def said(folder, pictures):
    """What was found, in lines for a person."""
    number = len(pictures.images)
    kinds = {None: "without captions", "one for all": "with one caption for all"}
    kinds |= {"txt": "with captions from text files", "folders": "in folders of classes"}
    with_them = kinds.get(pictures.captions, f"with captions from a {pictures.captions} table")
    lines = [f"{folder}: {number} pictures {with_them}"]
    if "prompts" in pictures.columns:
        prompts = pictures.columns["prompts"]
        lines.append(
            f"{len(set(prompts.tolist()))} different captions, such as {str(prompts[0])!r}"
        )
    return lines + pictures.left_out
