"""Small packages in the layout of the real ones, for the tests of the builder."""

import json

from tools import emoji as emoji_build
from tools.drawings.sources import CLIPART, ICONS, WORDNET

# word: (kind of thing by WordNet's number, meaning)
NOUNS = {
    "apple": (13, 1),
    "ball": (6, 2),
    "balloon": (6, 3),
    "beagle": (5, 4),
    "bicycle": (6, 5),
    "bike": (6, 5),
    "bird": (5, 6),
    "car": (6, 7),
    "cat": (5, 8),
    "coltrane": (18, 9),
    "cycle": (6, 5),
    "dog": (5, 10),
    "face": (8, 11),
    "food": (13, 31),
    "fruit": (13, 12),
    "glass": (6, 13),
    "hat": (6, 14),
    "heart": (8, 15),
    "idea": (9, 16),
    "knife": (6, 17),
    "milk": (13, 18),
    "mouse": (5, 19),
    "scissors": (6, 20),
    "singer": (18, 21),
    "snow": (19, 22),
    "sun": (17, 23),
    "tree": (20, 24),
    "violin": (6, 25),
    "wolf": (5, 26),
    "fire engine": (6, 27),
    "fire": (19, 29),
    "engine": (6, 30),
    "smiley": (25, 28),
}


def square(red, green, blue):
    return f'<path fill="rgb({red},{green},{blue})" d="M4 4h24v24H4z"/>'


def put_wordnet(folder):
    """Writes the files of WordNet that are read; a `coltrane` is a single person."""
    folder.mkdir(parents=True, exist_ok=True)
    head = "  1 This line is a comment, as the first of each file of WordNet are.\n"
    index, data, seen = [head], [head], set()
    for word, (kind, meaning) in NOUNS.items():
        offset = f"{meaning:08d}"
        index.append(f"{word.replace(' ', '_')} n 1 1 @ 1 1 {offset}  \n")
        if meaning not in seen:
            instance = "@i" if word == "coltrane" else "@"
            data.append(f"{offset} {kind:02d} n 01 {word} 0 001 {instance} 00000001 n 0000 | x\n")
        seen.add(meaning)
    (folder / "index.noun").write_text("".join(index))
    (folder / "data.noun").write_text("".join(data))
    (folder / "noun.exc").write_text("mice mouse\nwolves wolf\n")
    for part, words in {"adj": ["big", "old", "blue"], "verb": ["run"], "adv": ["fast"]}.items():
        lines = (f"{word} {part[0]} 1 0 1 0 00000001\n" for word in words)
        (folder / f"index.{part}").write_text(head + "".join(lines))


def clipart(title, body, keywords=(), size='width="100mm" height="100mm"', licence="PublicDomain"):
    items = "".join(f"<rdf:li>{keyword}</rdf:li>" for keyword in keywords)
    return (
        f'<?xml version="1.0"?><svg {size} xmlns="http://www.w3.org/2000/svg" '
        'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" '
        'xmlns:cc="http://web.resource.org/cc/" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<metadata><rdf:RDF><cc:Work><dc:title>{title}</dc:title><dc:subject><rdf:Bag>{items}"
        '</rdf:Bag></dc:subject><cc:license rdf:resource="http://web.resource.org/cc/'
        f'{licence}"/></cc:Work></rdf:RDF></metadata>{body}</svg>'
    )


ENTRIES = [
    ("1F34E", "red apple", ["fruit", "balloon"], 4),
    ("2764-FE0F", "red heart", ["love"], 0),
    ("1F388", "balloon", ["party"], 6),  # held out by kgen.data.emoji
    ("1F436", "dog face", [], 3),
]
CODES = {"1f34e": "red-apple", "2764": "red-heart", "1f388": "balloon", "1f436": "dog-face"}
CLIPART_FILES = {
    "animals/birds/folaga_someone_name_01": ("Folaga", ["bird"], {}),
    "animals/mammals/dogs/old_dog": ("Old Dog", ["animal"], {}),
    "food/fruit/apple_bw": ("Clipart by Nobody - pear", ["food"], {}),
    "tools/idea": ("Idea", [], {}),  # nothing to be seen
    "tools/balloons": ("Balloons", [], {}),
    "tools/knife": ("Knife", [], {"licence": "ShareAlike"}),
    "recreation/games/cards/white/heart": ("Heart", [], {}),  # a folder that is left out
    "shapes/stars/sun": ("Sun", [], {}),
}
ICON_NAMES = ["bicycle-bike", "car-1", "car-2", "car-3-flat", "cursor-hat", "idea", "glass"]


def put_packages(folder):
    """Writes all the packages into `folder`."""

    def put(package, path, value):
        target = folder / package / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(value if isinstance(value, str) else json.dumps(value))

    words, keys = emoji_build.folder_of(emoji_build.WORDS), ("hexcode", "label", "tags", "group")
    put(words, "en/data.json", [dict(zip(keys, entry)) for entry in ENTRIES])
    names = {0: "smileys-emotion", 3: "animals-nature", 4: "food-drink", 6: "activities"}
    groups = {str(n): names.get(n, f"group-{n}") for n in range(10)}
    put(words, "meta/groups.json", {"groups": groups})
    for codes in ("cldr", "emojibase", "github", "iamcal", "joypixels"):
        put(words, f"en/shortcodes/{codes}.json", {})
    for number, package in enumerate(emoji_build.ICON_SETS.values()):
        icons = {
            name: {"body": square(210, 12 * number, 12 * place)}
            for place, name in enumerate(CODES.values())
        }
        icons["balloon"]["body"] = f'<circle fill="rgb(0,{9 * number},90)" cx="20" cy="9" r="7"/>'
        put(emoji_build.folder_of(package), "chars.json", CODES)
        put(
            emoji_build.folder_of(package),
            "icons.json",
            {"icons": icons, "width": 32, "height": 32},
        )
    for number, source in enumerate(ICONS):
        body = '<circle fill="rgb(20,{},200)" cx="16" cy="16" r="{}"/>'
        icons = {
            name: {"body": body.format(5 * number, 6 + place)}
            for place, name in enumerate(ICON_NAMES if source.style == "icon park" else [])
        }
        put(source.package.folder, "icons.json", {"icons": icons, "width": 32, "height": 32})
    for place, (path, (title, keywords, options)) in enumerate(CLIPART_FILES.items()):
        grey = f"rgb({90 + place},{90 + place},{90 + place})" if "bw" in path else "rgb(0,140,0)"
        body = f'<path fill="{grey}" d="M100 50h{70 + 9 * place}l-20 90z"/>'
        root = "usr/share/openclipart/svg"
        put(
            CLIPART.package.folder,
            f"{root}/{path}.svg",
            clipart(title, body, keywords, **options),
        )
    put_wordnet(folder / WORDNET.folder / "usr/share/wordnet")
