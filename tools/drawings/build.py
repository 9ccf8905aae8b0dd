"""Building of the data set from packages: read, render, measure, split, write.

    entries  --resvg-->  128 x 128  --measure-->  colour, hue, hash  --concepts-->  train | test

Dropped are empty pictures, exact duplicates, pictures beyond the first `MAX_OF_A_KIND` of one
caption in one style, and held-out pictures that are near duplicates of a training picture.
"""

import collections
import contextlib
import io
import multiprocessing
import os
import re

import numpy as np
from tqdm import tqdm

from kgen.data.drawings.files import SPLITS
from tools import emoji as emoji_build
from tools.drawings import concepts, measure, render
from tools.drawings.entries import clipart_entries, emoji_entries, icon_entries
from tools.drawings.nouns import noun_of
from tools.drawings.sources import EMOJI, SOURCES, WORDNET
from tools.drawings.wordnet import WordNet

MAX_OF_A_KIND = 12
_MIN_CONCENTRATION = 0.9
_MIN_DRAWN = 0.015
_COLOUR_WORDS = re.compile(
    r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|white|gr[ae]y|gold|golden|silver"
    r"|rainbow|dark|light|blond|bald|colou?red|skin|hair|flag|evergreen|bronze|watermelon)\b"
)
_UNCOLOURED_GROUPS = {"people-body", "flags"}
_GREYS = ("black", "gray", "white")


def collect(packages, processes=None):
    """Reads and renders all entries.

    Args:
        packages: path of the folder of unpacked packages.
        processes: number of processes; 1 for this process only, None for one per core.

    Returns:
        `{split: list of rows}`, and a dictionary of counts of what was dropped.
    """
    wordnet = WordNet(packages / WORDNET.folder / "usr/share/wordnet")
    entries = [
        *emoji_entries(packages),
        *clipart_entries(packages, wordnet),
        *icon_entries(packages, wordnet),
    ]
    dropped = collections.Counter(not_drawn=0, empty=0, equal=0, many_of_a_kind=0, near_training=0)
    rows, seen, kinds = [], set(), collections.Counter()
    processes = processes or os.cpu_count() or 1
    with contextlib.ExitStack() as stack:
        drawn = map(draw_entry, entries)
        if processes > 1:
            context = multiprocessing.get_context("forkserver")
            pool = stack.enter_context(context.Pool(processes))
            drawn = pool.imap(draw_entry, entries, chunksize=32)
        for entry, row in zip(entries, tqdm(drawn, "drawings", len(entries), mininterval=2.0)):
            if isinstance(row, str):
                dropped[row] += 1
            elif row["image"] in seen:
                dropped["equal"] += 1
            elif kinds[row["style"], entry.caption] >= MAX_OF_A_KIND:
                dropped["many_of_a_kind"] += 1
            else:
                seen.add(row["image"])
                kinds[row["style"], entry.caption] += 1
                row["noun"] = noun_of(entry.caption, entry.group, wordnet)
                row["concept"] = concepts.concept_of(entry.caption, wordnet)
                rows.append(row)
    splits = split_rows(rows, wordnet, dropped)
    return splits, dict(dropped)


def draw_entry(entry):
    """Renders and measures one entry.

    Returns:
        A row without `noun` and `concept` but with `hash`; or a string, the reason to drop it.
    """
    try:
        if entry.box is None:
            picture = render.draw_clipart(entry.svg)
        else:
            picture = emoji_build.draw_body(entry.svg, *entry.box, render.SIZE)
    except Exception:  # resvg raises ValueError, and its panics, for documents it cannot read
        return "not_drawn"
    if picture is None:
        return "not_drawn"
    rgba = np.asarray(picture)
    flat = emoji_build.on_white(picture)
    pixels = np.asarray(flat)
    if np.mean(pixels.min(axis=-1) < 250) < _MIN_DRAWN or np.ptp(pixels) < 40:
        return "empty"
    solid = rgba[rgba[..., 3] > 128][:, :3]
    hue, concentration = emoji_build.dominant_hue(pixels)
    free = entry.group not in _UNCOLOURED_GROUPS and not _COLOUR_WORDS.search(entry.caption)
    turns = measure.turns_of(pixels, hue) if free and concentration >= _MIN_CONCENTRATION else []
    style = entry.style
    if entry.style == "clip art":
        shares = measure.colour_shares(measure.drawn_pixels(pixels))
        if sum(shares[name] for name in _GREYS) > 0.97:
            style = "line art"
    return {
        "image": encode(flat),
        "caption": entry.caption,
        "tags": "|".join(entry.tags),
        "style": style,
        "group": entry.group,
        "colour": measure.colour_of(solid) if free and style != "line art" else "",
        "turns": "|".join(turns),
        "hue": hue,
        "hash": measure.perceptual_hash(flat),
    }


def encode(picture):
    """Returns an RGB picture as a PNG, without loss; with a palette of up to 256 colours."""
    buffer = io.BytesIO()
    indexed = emoji_build.with_palette(picture)
    (picture if indexed is None else indexed).save(buffer, "PNG")
    return buffer.getvalue()


def split_rows(rows, wordnet, dropped):
    """Splits rows by concept, and removes held-out concepts from the training rows.

    Args:
        rows: list of rows with `concept` and `hash`; the hash is removed.
        wordnet: a `WordNet`.
        dropped: a `Counter` to which the number of near duplicates is added.

    Returns:
        `{split: list of rows}`.
    """
    styles = {source.style for source in EMOJI}
    captions = {row["caption"] for row in rows if row["style"] in styles}
    held_out = concepts.held_out_concepts({row["concept"] for row in rows}, captions, wordnet)
    splits = {split: [] for split in SPLITS}
    for row in rows:
        splits["test" if row["concept"] in held_out else "train"].append(row)
    near = measure.near_duplicates(*([r["hash"] for r in splits[s]] for s in ("test", "train")))
    dropped["near_training"] += int(near.sum())
    splits["test"] = [row for row, twin in zip(splits["test"], near) if not twin]
    for row in rows:
        del row["hash"]
    for row in splits["train"]:
        kept = [
            tag
            for tag in row["tags"].split("|")
            if tag and not concepts.names_any(tag, held_out, wordnet)
        ]
        row["tags"] = "|".join(kept)
    return splits


def attribution():
    """Returns one dictionary per source: package, sha256, licence, author, address."""
    return [
        {
            "style": source.style,
            "package": source.package.spec,
            "sha256": source.package.sha256,
            "licence": source.licence,
            "author": source.author,
            "url": source.url,
            "changes": "drawn from SVG at 128 x 128 pixels on white; hues may be turned",
        }
        for source in SOURCES
    ]
