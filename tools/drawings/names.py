"""Captions out of titles, file names, keywords, folders and names of icons.

A caption is kept only if every word of it is English to WordNet and what it names is a thing that
can be seen: an animal, artifact, body part, food, natural object, person, phenomenon or plant.

    openclipart   title, else file name, else the kind of its folder ("animals/birds" -> "bird")
    icon          its name without numbers and suffixes ("bicycle-bike-flat" -> "bicycle")
"""

import re

from kgen.data.emoji.captions import ascii_words, clean_tags

GROUP_OF_KIND = {
    "animal": "animals-nature",
    "plant": "animals-nature",
    "phenomenon": "animals-nature",
    "food": "food-drink",
    "person": "people-body",
    "body": "people-body",
    "object": "travel-places",
    "artifact": "objects",
    "shape": "symbols",
}
# Folders of openclipart that are read, the kind that their drawings surely are, and their group.
FOLDERS = {
    "animals/birds": ("bird", "animals-nature"),
    "animals/bugs": ("insect", "animals-nature"),
    "animals/dinosaurs": ("dinosaur", "animals-nature"),
    "animals/fish": ("fish", "animals-nature"),
    "animals/mammals/bears": ("bear", "animals-nature"),
    "animals/mammals/dogs": ("dog", "animals-nature"),
    "animals/mammals/horses": ("horse", "animals-nature"),
    "animals/mammals/housecats": ("cat", "animals-nature"),
    "animals": ("", "animals-nature"),
    "buildings/homes": ("house", "travel-places"),
    "buildings": ("", "travel-places"),
    "computer/hardware": ("", "objects"),
    "containers": ("", "objects"),
    "decorations": ("", "objects"),
    "education/books": ("", "objects"),
    "education": ("", "objects"),
    "electronics/bulb": ("light bulb", "objects"),
    "electronics": ("", "objects"),
    "food/desserts": ("", "food-drink"),
    "food/fruit": ("fruit", "food-drink"),
    "food": ("", "food-drink"),
    "office": ("", "objects"),
    "people/smilies": ("smiley", "smileys-emotion"),
    "people/stickmen": ("stick figure", "people-body"),
    "people/clothing/hats": ("hat", "objects"),
    "people/clothing": ("", "objects"),
    "people": ("", "people-body"),
    "plants/flowers": ("flower", "animals-nature"),
    "plants/trees": ("tree", "animals-nature"),
    "plants": ("plant", "animals-nature"),
    "recreation": ("", "activities"),
    "science": ("", "objects"),
    "signs_and_symbols/clocks": ("clock", "objects"),
    "signs_and_symbols/weather": ("", "animals-nature"),
    "tools": ("", "objects"),
    "transportation": ("", "travel-places"),
    "unsorted": ("", "objects"),
}
LEFT_OUT_FOLDERS = (
    "recreation/games/cards",
    "recreation/religion",
    "transportation/aiga-symbols",
    "transportation/roadsigns",
    "people/clothing/pantyhose",
    "unsorted/duplicates",
)
# Titles that were given to a whole collection.
_COLLECTIVE = re.compile(
    r"clip ?-?art|collection|submission|sibmission|svg |symbol|architetto|example|homes|untitled"
    r"|nicu|part of|logo|number|creation|various|portrait|^people$|^ppl|^new|r\d+ |capsize|heeling"
    r"|border|frame|page|theme|set of|icons?\b|pattern|silhouette|map\b|hash|gratuit|wallpaper"
)
_NOISE = re.compile(
    r"\((?:b and w|bw|black and white)\)|\(.*?\)|\b(?:b and w|bw|svg|png|jpg|v?\d+[a-z]?|[ivx]+|icon"
    r"|simple|simplified|cartoon|colou?r|outline|stylized|styl|dan|ganson|contour|version|alt|art"
    r"|image|picture|drawing|illustration|vector|small|large|big|tiny|nice|lumen|design|tux)\b"
)
_JOINERS = {"of", "with", "and", "in", "on", "the", "a", "an", "at", "to", "for", "'s", "from"}
_ADJECTIVES_ONLY = {"black", "white", "open", "closed", "old", "new"}
# Words of user interfaces and of signs: icons named by them show no thing that a person would draw.
_INTERFACE = set(
    """
    add ai align analytics api app application arrow arrows artboard asterisk at attention audit
    avatar axis backward bar bars bitcoin blank block board bookmark border bottom box-model
    brand bring browser bubble bug button calendar-add caps caption cast category cell cellular center
    chart chat check checklist circle click clockwise close code coding collapse column columns
    command component composition config connect connection contact content control conversion copy
    corner creative crop cryptocurrency cursor dash dashboard data database delete design desktop
    developer device diagram dial direction disable disabled display distribute dollar double
    down download drag drop edit email empty enter equal error exchange exit expand export
    face-id favorite feed female figma file files fill filter flip focus folder font form forward
    four frame full function gesture graph grid group half hand-cursor handle hash heading hide home
    horizontal html id image inbox incoming increase indent info information input insert intersect
    item javascript justify kanban key-command label landscape language layer layers layout left like
    line link list loading local location lock-screen log login logout loop mail male management
    map marker maximize media menu merge message minimize mobile mode module more mouse-cursor move
    multiple mute nav network next node none note notification number off office-file on one open
    option order outgoing outline page paragraph paste path pause payment pen-tool percent phone-call
    pin pixel play plus point pointer poll position post presentation preview previous profile
    programming protocol query question quote rating read receive rectangle redo refresh reject
    reload remove repeat replay report reset resize restore return ribbon right rotate row rows rule
    save scan screen scroll search section select selection send server setting settings shape share
    shift shortcut show sign signal site skip slider sort source space spacing split square stack
    standard star-badge status step stop subtract success survey swap switch sync system tab table-file
    tablet-mode tag target task team template text three time timer toggle tool tools top touch track
    transaction transfer transform translate trending two type underline undo ungroup unlink up
    upload url user users validation vector verified vertical video view virus voice volume
    warning web website widget wifi window word work world wrap wrong www yen zero zip zoom
    five six seven eight nine ten first second third add-on copyright trademark currency crypto stock
    seo sdk sql ui ux usb vpn hdr iso gps rss nfc qr gif psd pdf csv xml php css sim sms faq
    business finance deal strategy marketing service support monitoring monitor target-user growth
    performance statistics strategic planning interface navigation cloud-computing server-error
    allergens decent smiley people peoples model trace capsule avatar rate rank ranking
    acoustic adapter afferent agents assistant automatic back bachelor battery batman bin bot booth
    come commodity consignment customer deposit devices dot editor effects efferent electricity
    endocrine energy equalizer favourite flirt foursquare gemini globe gravity guest import induction
    intellectual intercom ipod joker landing launch leo libra lens lcd led light-member liqueur lock
    mac margin master maya medicine-chest member muscle muslim nmr oscillator parabola patient person
    planner player plug predator pro product products reel refraction resistor round router scorpio
    aquarius aries scene shrink sinusoid slave slide solar sperm storage structure symmetry taste
    terminal terrace tv vectors vicia vip waistline warp worker transport transporter capacitor
    circuit cpu radiation uterus panties hair skin release dam lab mall servers suit-case chip chips
    ram pc disk shortcuts recording spade finder toilet restroom bathroom drugs endpoint crack
    cassette reverse chassis potentiometer stereo cross head-scarf taxi-car ram death heart mosaic
    spider fabric perfumer cutter drum-stick card cards barrier shipment crystal clippers hook
    airport railroad photo portrait hexagon nests abdominal benz figma alipay android adobe google chrome safari facebook twitter apple-brand
    windows amazon logo brand-logo sagittarius hat-man reverse parallel shield-check
    """.split()
)
_NOT_SEEN = set(
    """
    part way thing being place building-block matter unit piece end side area line form state
    set kind lot mass body top bottom member inhabitant creation example work design background
    abstract air sport sports god lord ball-bearing head-count
    """.split()
)


def caption_of_icon(name, wordnet):
    """Returns the caption of an icon, or `None` if its name names no thing to be seen.

    Args:
        name: A name such as `"chef-toque-hat-flat"`.
        wordnet: A `WordNet`.
    """
    words = [word for word in re.split(r"[-_ ]+", ascii_words(name)) if word]
    while words and (words[-1].isdigit() or words[-1] in _ICON_ENDINGS):
        words.pop()
    words = [word for word in words if not word.isdigit()]
    if not 1 <= len(words) <= 3 or _INTERFACE & set(words):
        return None
    return _seen_thing(words, wordnet)


_CATEGORIES = set(
    "fruit seafood instrument instruments weather vegetables vegetable clothes kitchenware".split()
)
# Second words of names of things that WordNet does not list, such as "chef hat".
_HEADS = set(
    """
    bag ball basket bean bed boot booth bottle bowl box brush building cage cap car cart case chair
    chick clock coat cup desk door drill face fish flower fruit glass glove hat horse house knife
    ladder lamp leaf machine mask meat mirror mug net pan pen plate pole pot rack seat ship shoe
    skate stand station stick stroller suit tank tent tower tray tree truck umbrella wheel
    """.split()
)
_ICON_ENDINGS = set("flat duo one two three four five fill filled color".split())


def _seen_thing(words, wordnet):
    whole = " ".join(words)
    if wordnet.kinds(whole, 1) and wordnet.base(whole) not in _NOT_SEEN:
        return whole
    if len(words) == 1:
        return None
    if words[0] in _CATEGORIES:
        return _seen_thing(words[1:], wordnet)
    # "bicycle bike" says the same twice.
    if set(wordnet.senses(words[-1], 3)) & set(wordnet.senses(words[-2], 3)):
        return _seen_thing(words[:-1], wordnet)
    first, last = wordnet.kinds(words[0], 2), wordnet.kinds(words[-1], 1)
    persons = "person" in first and last == ["person"]
    if len(words) == 2 and first and (persons or wordnet.base(words[1]) in _HEADS):
        return whole
    return None


def caption_of_clipart(title, stem, keywords, folder, wordnet):
    """Returns the caption of a drawing of openclipart, or `None` if nothing names what it shows.

    Args:
        title: Its title.
        stem: Its file name without the ending.
        keywords: Sequence of its keywords.
        folder: Its folder, e.g. `"animals/birds"`.
        wordnet: A `WordNet`.
    """
    title = ascii_words(title.replace("_", " ").replace("#", " "))
    candidates = [] if _COLLECTIVE.search(title) or "|" in title else [title]
    candidates += _without_author(stem)
    for candidate in candidates:
        caption = _named_thing(candidate, wordnet)
        if caption:
            return caption
    kind, _ = place_of(folder)
    if kind:
        return kind
    named = [keyword for keyword in map(ascii_words, keywords) if keyword in ascii_words(stem)]
    named = [word for word in named if len(word) > 2 and _named_thing(word, wordnet) == word]
    return named[0] if named else None


def _without_author(stem):
    """Returns what may be the title in "horse_1_rotkevich_konsat_01": without author and number."""
    stem = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", stem)
    words = [word for word in re.split(r"[-_ .]+", ascii_words(stem)) if not word.isdigit()]
    if words and words[-1] == "r":
        words.pop()
    lengths = (len(words) - 2, len(words), len(words) - 1, *range(len(words) - 3, 0, -1))
    return [" ".join(words[:length]) for length in lengths if length > 0]


def _named_thing(text, wordnet):
    """Returns the text without noise if it is English and names a thing, else `None`."""
    text = re.sub(r"([a-z])\d+\b", r"\1", text)
    text = re.sub(r"[^a-z' ]+", " ", _NOISE.sub(" ", text))
    words = text.replace("'s", " 's").split()
    while words and words[0] in ("the", "a", "an"):
        words = words[1:]
    while words and words[-1] in _JOINERS:
        words = words[:-1]
    if not 1 <= len(words) <= 5 or not all(
        (len(word) > 2 and wordnet.is_known(word)) or word in _JOINERS for word in words
    ):
        return None
    caption = " ".join(words).replace(" 's", "'s")
    head = head_of(words)
    whole = " ".join(words)
    for phrase in (whole, " ".join(head), " ".join(head[-2:]), head[-1]):
        if phrase and wordnet.kinds(phrase, 2):
            return None if wordnet.base(phrase) in _NOT_SEEN else caption
    return None


def head_of(words):
    """Returns the words before the first joining word: "cup" of "cup with straw"."""
    for place, word in enumerate(words):
        if place and word in _JOINERS - {"'s"}:
            return words[:place]
    return words


def place_of(folder):
    """Returns the surest `(kind, group)` that a folder of openclipart gives."""
    while folder not in FOLDERS and "/" in folder:
        folder = folder.rpartition("/")[0]
    return FOLDERS.get(folder, ("", "objects"))


def is_read(folder):
    """Says whether the drawings of a folder of openclipart are in the data set."""
    if folder.startswith(LEFT_OUT_FOLDERS):
        return False
    return any(folder == known or folder.startswith(known + "/") for known in FOLDERS)


def tags_of(keywords, caption, wordnet):
    """Returns the keywords that are English nouns and that the caption does not say."""
    vague = {"icon", "tools", "work", "hash", "unsorted", "symbol", "shape", "menu", "image", "clip"}
    kept = [word for word in map(ascii_words, keywords) if word not in vague]
    return clean_tags([word for word in kept if word in wordnet.meanings], caption)[:6]
