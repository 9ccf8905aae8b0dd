"""Entries: the drawings of the packages, as SVG with captions, before they are rendered."""

import collections
import html
import re

from kgen.data.emoji.captions import clean_tags
from tools import emoji as emoji_build
from tools.drawings import names
from tools.drawings.sources import CLIPART, EMOJI, ICONS

# `box` is the box of an icon, or None for a whole document.
Entry = collections.namedtuple("Entry", "svg box caption tags style group")

_PUBLIC_DOMAIN = re.compile(r"cc:license[^>]*(publicdomain|PublicDomain)", re.IGNORECASE)
_CLIPART_ROOT = "usr/share/openclipart/svg"
_NOT_SHOWN = re.compile(r"nude|naked|pantyhose|bullet.?hole|sexy|mermaid_kurt|boob|breast|swastika")


def emoji_entries(folder):
    """Yields the entries of the emoji sets in `folder`, in the order of emojibase."""
    labels = emoji_build.read_labels(folder / emoji_build.folder_of(emoji_build.WORDS))
    joined_names = emoji_build.read_names(folder, labels)
    for source in EMOJI:
        joined, _ = emoji_build.join_icons(folder, source.package.spec, joined_names, labels)
        icons = emoji_build.read_json(folder / source.package.folder / "icons.json")
        for code in sorted(joined, key=lambda code: labels[code].order):
            icon, label = icons["icons"][joined[code]], labels[code]
            box = emoji_build.box_of(icon, icons)
            yield Entry(icon["body"], box, label.caption, label.tags, source.style, label.group)


def icon_entries(folder, wordnet):
    """Yields the entries of the icon sets: a style per look, the first of numbered variants."""
    for source in ICONS:
        icons = emoji_build.read_json(folder / source.package.folder / "icons.json")
        seen = set()
        for name in sorted(icons["icons"]):
            icon = icons["icons"][name]
            caption = names.caption_of_icon(name, wordnet)
            if caption is None or icon.get("hidden"):
                continue
            look = name.rpartition("-")[2]
            style = f"{source.style} {look}" if look in ("flat", "duo") else source.style
            if (style, caption) in seen and source.style != "streamline emojis":
                continue
            seen.add((style, caption))
            head = caption if wordnet.kinds(caption) else caption.split()[-1]
            kinds = wordnet.kinds(head)
            group = names.GROUP_OF_KIND[kinds[0]] if kinds else "objects"
            if caption.endswith(" face"):
                group = "smileys-emotion"
            yield Entry(icon["body"], emoji_build.box_of(icon, icons), caption, [], style, group)


def clipart_entries(folder, wordnet):
    """Yields the entries of openclipart whose files state that they are in the public domain."""
    root = folder / CLIPART.package.folder / _CLIPART_ROOT
    for path in sorted(root.rglob("*.svg")):
        place = path.parent.relative_to(root).as_posix()
        if not names.is_read(place) or _NOT_SHOWN.search(path.stem):
            continue
        svg = path.read_bytes().decode("utf-8", "replace")
        if not _PUBLIC_DOMAIN.search(svg):
            continue
        found = re.search(r"<dc:title>(.*?)</dc:title>", svg, re.DOTALL)
        title = html.unescape(found.group(1)).strip() if found else ""
        keywords = re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", svg, re.DOTALL)
        keywords = [html.unescape(keyword) for keyword in keywords]
        caption = names.caption_of_clipart(title, path.stem, keywords, place, wordnet)
        if caption is None:
            continue
        kind, group = names.place_of(place)
        tags = names.tags_of(keywords, caption, wordnet)
        tags = clean_tags([kind, *tags] if kind else tags, caption)
        yield Entry(svg, None, caption, tags, "clip art", group)
