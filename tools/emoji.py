"""Builds the emoji data set from npm packages: icon sets, and emojibase for the words.

    icon (name, SVG)  --join-->  code points  --emojibase-->  label, tags, group
    SVG  --resvg-->  RGBA 64 x 64  --over white-->  RGB  -->  PNG

The join. Some sets state the code points of an icon (`chars.json`), others have names only. A name,
without hyphens, is looked up among the names of the sets that have code points, the labels and
short codes of emojibase, and the names of the Unicode characters. Icons without a label are
dropped, and so are hidden icons, skin tones and exact duplicates.

The dominant hue. With hue angle h and chroma c = max(R, G, B) - min(R, G, B) at each pixel,

    r = sum(c exp(i h)),     hue = arg(r) / 2 pi,
    hue_concentration = |r| / max(sum(c), 0.35 * pixels that are not white)

so the concentration is near 1 only for a picture that has one hue and is neither pale nor dark.

Needs `resvg-py`, Pillow, tqdm and `tensorflow-datasets`.
"""

import argparse
import collections
import io
import json
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import unicodedata

import numpy as np

from kgen.data.emoji import FOLDER, SPLITS
from kgen.data.emoji.captions import ascii_words, caption_of_label, clean_tags, split_of

DESCRIPTION = "Captioned emoji: 64 x 64 pictures on white in several styles, with labels."
SIZE = 64
WORDS = "emojibase-data@17.0.0"
ICON_SETS = {
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "noto": "@iconify-json/noto@1.2.9",
    "noto v1": "@iconify-json/noto-v1@1.2.5",
    "fluent": "@iconify-json/fluent-emoji@1.2.7",
    "fluent flat": "@iconify-json/fluent-emoji-flat@1.2.6",
    "emojione": "@iconify-json/emojione@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}
_SKIN_TONES = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}
_SKIN_TONE_NAME = re.compile(r"skin-tone|-(medium-)?(light|dark)$|-medium$")
_COMPONENTS = 2
_DIGITS = np.array([65536, 256, 1], "uint32")

Label = collections.namedtuple("Label", "order caption tags group")


def folder_of(package):
    """Returns the folder name of an unpacked package, e.g. `iconify-json-noto-1.2.9`."""
    return package.lstrip("@").replace("/", "-").replace("@", "-")


def download(folder):
    """Fetches and unpacks every package into `folder` with `npm pack`."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in [WORDS, *ICON_SETS.values()]:
        target = folder / folder_of(package)
        if target.exists():
            continue
        packed = subprocess.run(
            ["npm", "pack", package, "--silent", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
        )
        with tarfile.open(folder / packed.stdout.split()[-1]) as archive:
            archive.extractall(target.with_suffix(".tmp"), filter="data")
        (target.with_suffix(".tmp") / "package").rename(target)
        target.with_suffix(".tmp").rmdir()


def read_json(path):
    """Returns the value in a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def code_key(code):
    """Returns normalised code points: upper case, without the variation selector FE0F."""
    parts = re.split(r"[-_ ]", code.upper())
    return "-".join(part for part in parts if part != "FE0F")


def name_key(name):
    """Returns a normalised name: letters and digits only, with "flag" for "flag for"."""
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_words(name.replace("_", "-"))).strip("-")
    slug = re.sub(r"^(flag-for-flag|flag-for|flag-of)-", "flag-", slug)
    return slug.replace("-and-", "-").replace("-", "")


def read_labels(folder):
    """Returns {code points: Label} of every emoji of emojibase that is no component or letter."""
    groups = read_json(folder / "meta" / "groups.json")["groups"]
    labels = {}
    for order, entry in enumerate(read_json(folder / "en" / "data.json")):
        if entry.get("group", _COMPONENTS) == _COMPONENTS:
            continue
        caption = caption_of_label(entry["label"])
        labels[code_key(entry["hexcode"])] = Label(
            entry.get("order", order),
            caption,
            clean_tags(entry.get("tags", []), caption),
            groups[str(entry["group"])],
        )
    return labels


def plain_aliases(icons):
    """Yields (alias, icon) for the aliases that are the same picture, not rotated or mirrored."""
    for alias, entry in icons.get("aliases", {}).items():
        if set(entry) == {"parent"} and entry["parent"] in icons["icons"]:
            yield alias, entry["parent"]


def read_names(folder, labels):
    """Returns {name key: code points} of all names of emoji; the most reliable source wins."""
    names = {}
    for package in ICON_SETS.values():
        icon_folder = folder / folder_of(package)
        for code, name in read_json(icon_folder / "chars.json").items():
            names.setdefault(name_key(name), code_key(code))
        for alias, name in plain_aliases(read_json(icon_folder / "icons.json")):
            if name_key(name) in names:
                names.setdefault(name_key(alias), names[name_key(name)])
    words = folder / folder_of(WORDS) / "en"
    for entry in read_json(words / "data.json"):
        names.setdefault(name_key(entry["label"]), code_key(entry["hexcode"]))
    for codes in ("cldr", "emojibase", "github", "iamcal", "joypixels"):
        for code, short in read_json(words / "shortcodes" / f"{codes}.json").items():
            for name in [short] if isinstance(short, str) else short:
                names.setdefault(name_key(name), code_key(code))
    for code in labels:
        if "-" not in code:
            names.setdefault(name_key(unicodedata.name(chr(int(code, 16)), code)), code)
    return names


def render(body, left, top, width, height):
    """Draws the SVG body, centred in a square of `SIZE`, on white.

    Returns:
        A Pillow image in mode RGB.
    """
    return on_white(draw_body(body, left, top, width, height, SIZE))


def draw_body(body, left, top, width, height, size):
    """Draws the SVG body, centred in a square of `size` pixels, in mode RGBA."""
    side = max(width, height)
    left, top = left - (side - width) / 2, top - (side - height) / 2
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {side} {side}" width="{size}" height="{size}">{body}</svg>'
    )
    return draw(svg, size, size)


def draw(svg, width, height):
    """Draws a whole SVG, a string, as a Pillow image in mode RGBA of the given size."""
    import resvg_py
    from PIL import Image

    drawn = resvg_py.svg_to_bytes(
        svg_string=svg, width=width, height=height, skip_system_fonts=True
    )
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


def on_white(picture):
    """Returns a picture in mode RGBA over white, in mode RGB."""
    from PIL import Image

    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def box_of(icon, icons):
    """Returns `(left, top, width, height)` of an icon, with the defaults of its set."""
    return [
        icon.get(side, icons.get(side, default))
        for side, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    ]


def dominant_hue(pixels):
    """Measures the hue of a picture (see the equations at the top of the file).

    Args:
        pixels: uint8 array `[H, W, 3]`.

    Returns:
        The pair `(hue, hue_concentration)`, both in [0, 1].
    """
    rgb = pixels.reshape(-1, 3) / 255.0
    highest, chroma = rgb.max(axis=1), np.ptp(rgb, axis=1)
    red, green, blue = rgb.T
    safe = np.where(chroma > 0, chroma, 1.0)
    sector = np.select(
        [highest == red, highest == green],
        [(green - blue) / safe % 6, (blue - red) / safe + 2],
        (red - green) / safe + 4,
    )
    resultant = np.sum(chroma * np.exp(1j * np.pi / 3 * sector))
    drawn = np.count_nonzero(rgb.min(axis=1) < 0.98)
    total = max(chroma.sum(), 0.35 * drawn, 1e-6)
    return float(np.angle(resultant) / (2 * np.pi) % 1.0), float(abs(resultant) / total)


def encode_png(picture):
    """Returns the smaller of two lossless PNGs: true colour, or a palette of up to 256 colours."""
    indexed = with_palette(picture)
    encoded = []
    for candidate in [picture] if indexed is None else [picture, indexed]:
        buffer = io.BytesIO()
        candidate.save(buffer, "PNG", optimize=True)
        encoded.append(buffer.getvalue())
    return min(encoded, key=len)


def with_palette(picture):
    """Returns an RGB picture in mode P, most frequent colours first; None if it has over 256."""
    from PIL import Image

    colours = picture.getcolors(maxcolors=256)
    if not colours:
        return None
    palette = np.array([colour for _, colour in sorted(colours, reverse=True)], "uint8")
    codes = palette.astype("uint32") @ _DIGITS
    order = np.argsort(codes)
    pixels = np.asarray(picture).astype("uint32") @ _DIGITS
    indexed = Image.fromarray(order[np.searchsorted(codes, pixels, sorter=order)].astype("uint8"))
    indexed.putpalette(palette.tobytes())
    return indexed


def join_icons(folder, package, names, labels):
    """Joins the icons of one set to labels.

    Returns:
        {code points: icon name}, and the list of the names without a label.
    """
    icons = read_json(folder / folder_of(package) / "icons.json")
    own = {}
    for code, name in read_json(folder / folder_of(package) / "chars.json").items():
        own.setdefault(name, code_key(code))
    aliases = collections.defaultdict(list)
    for alias, name in plain_aliases(icons):
        aliases[name].append(alias)
    joined, unmatched = {}, []
    for name, icon in icons["icons"].items():
        if icon.get("hidden") or (_SKIN_TONE_NAME.search(name) and name not in own):
            continue
        candidates = [names.get(name_key(known)) for known in [name, *aliases[name]]]
        codes = [own[name]] if name in own else [code for code in candidates if code]
        code = next((code for code in codes if code in labels), None)
        if code is not None:
            joined.setdefault(code, name)
        elif not any(_SKIN_TONES & set(code.split("-")) for code in codes):
            unmatched.append(name)
    return joined, unmatched


def collect(folder, styles):
    """Draws every picture, with a progress bar.

    Args:
        folder: the `pathlib.Path` with the unpacked packages.
        styles: names of styles, keys of `ICON_SETS`.

    Returns:
        {"train": [...], "test": [...]} of examples as stored.
    """
    from tqdm import tqdm

    labels = read_labels(folder / folder_of(WORDS))
    names = read_names(folder, labels)
    splits, seen = {split: [] for split in SPLITS}, set()
    for style in styles:
        package = ICON_SETS[style]
        joined, unmatched = join_icons(folder, package, names, labels)
        icons = read_json(folder / folder_of(package) / "icons.json")
        equal = size = 0
        order = sorted(joined, key=lambda code: labels[code].order)
        for code in tqdm(order, desc=style, mininterval=2.0):
            icon, label = icons["icons"][joined[code]], labels[code]
            picture = render(icon["body"], *box_of(icon, icons))
            pixels = np.asarray(picture)
            if pixels.tobytes() in seen or pixels.min() == 255:
                equal += 1
                continue
            seen.add(pixels.tobytes())
            hue, concentration = dominant_hue(pixels)
            encoded = encode_png(picture)
            size += len(encoded)
            splits[split_of(label.caption)].append(
                {
                    "image": encoded,
                    "caption": label.caption,
                    "tags": "|".join(label.tags),
                    "style": style,
                    "group": label.group,
                    "hue": hue,
                    "hue_concentration": concentration,
                }
            )
        print(
            f"{style}: {len(joined) - equal} pictures, {size / 1e6:.1f} MB; dropped: {equal} equal "
            f"to another or empty, {len(unmatched)} without a label, such as {unmatched[:5]}"
        )
    return splits


def write(splits, folder):
    """Writes the examples as a TFDS data set to `folder`."""
    import tensorflow_datasets as tfds

    text = tfds.features.Text()
    with tempfile.TemporaryDirectory() as scratch:
        builder = tfds.dataset_builders.store_as_tfds_dataset(
            name="emoji",
            version=FOLDER.name,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(SIZE, SIZE, 3), encoding_format="png"),
                    "caption": text,
                    "tags": text,
                    "style": text,
                    "group": text,
                    "hue": np.float32,
                    "hue_concentration": np.float32,
                }
            ),
            split_datasets={name: list(enumerate(rows)) for name, rows in splits.items()},
            data_dir=scratch,
            description=DESCRIPTION,
        )
        shutil.copytree(builder.data_dir, folder)


def main(arguments=None):
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=pathlib.Path, required=True, help="folder of packages")
    parser.add_argument("--download", action="store_true", help="run `npm pack` for each package")
    parser.add_argument("--styles", nargs="+", choices=list(ICON_SETS), default=list(ICON_SETS))
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        default=FOLDER,
        help="folder to write, which must not exist yet; pass it to `load` as `data_dir`",
    )
    options = parser.parse_args(arguments)
    if options.output.exists():
        parser.error(f"{options.output} exists already; remove it or choose another --output")
    if options.download:
        download(options.packages)
    for package in [WORDS, *ICON_SETS.values()]:
        if not (options.packages / folder_of(package)).is_dir():
            parser.error(f"{options.packages} has no folder {folder_of(package)}; try --download")
    splits = collect(options.packages, options.styles)
    write(splits, options.output)
    print({name: len(rows) for name, rows in splits.items()})


if __name__ == "__main__":
    main()
