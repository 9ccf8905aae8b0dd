"""Look-up of nouns in WordNet: base form, senses and kinds.

Read from the files of Debian's `wordnet-base` (WordNet 3.0, Princeton University). It decides what
is kept and which captions have the same meaning; the data set contains no text of it.

References:
  https://wordnet.princeton.edu/documentation/wndb5wn (the files),
  https://wordnet.princeton.edu/documentation/morphy7wn (base forms).
"""

import pathlib

# Lexicographer files of nouns, by the number that data.noun gives.
KINDS = {
    5: "animal",
    6: "artifact",
    8: "body",
    13: "food",
    17: "object",
    18: "person",
    19: "phenomenon",
    20: "plant",
    25: "shape",
}
_ENDINGS = (
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
    ("s", ""),
)


class WordNet:
    """The nouns of WordNet, and the words of every part of speech.

    Args:
        folder: path of the folder with `index.noun`, `data.noun` and the others.
    """

    def __init__(self, folder):
        folder = pathlib.Path(folder)
        self.meanings = {}
        for line in _lines(folder / "index.noun"):
            fields = line.split()
            count = int(fields[2])
            self.meanings[fields[0].replace("_", " ")] = tuple(fields[-count:])
        self._kinds = {}
        self._instances = set()
        for line in _lines(folder / "data.noun"):
            offset, number = line[:8], int(line[9:11])
            self._kinds[offset] = KINDS.get(number, "")
            if " @i " in line:
                self._instances.add(offset)
        self.words = set(self.meanings)
        for part in ("adj", "verb", "adv"):
            self.words.update(
                line.split()[0].replace("_", " ") for line in _lines(folder / f"index.{part}")
            )
        self._irregular = {}
        for line in (folder / "noun.exc").read_text(encoding="ascii").splitlines():
            plural, *singular = line.split()
            self._irregular[plural] = singular[0]

    def base(self, phrase):
        """Returns a noun, of one word or several, in the singular if WordNet knows that."""
        *before, last = phrase.split()
        candidates = [last]
        if last in self._irregular:
            candidates.insert(0, self._irregular[last])
        elif not last.endswith(("ss", "us")):
            candidates[:0] = [
                last[: -len(ending)] + other
                for ending, other in _ENDINGS
                if last.endswith(ending) and len(last) > len(ending) + 1
            ]
        for candidate in candidates:
            whole = " ".join([*before, candidate])
            if whole in self.meanings or (candidate in self.meanings and candidate != last):
                return whole
        return phrase

    def is_known(self, word):
        """Returns whether a single word, or its base form, is in WordNet."""
        return word in self.words or self.base(word) in self.words or word.endswith("ing")

    def kinds(self, phrase, senses=2):
        """Returns the kinds of the most frequent senses of a noun, such as animal or food.

        Names of single persons and places ("coltrane") are not counted.
        """
        offsets = self.senses(phrase, senses)
        return [self._kinds[o] for o in offsets if self._kinds[o] and o not in self._instances]

    def senses(self, phrase, senses=2):
        """Returns the numbers of the most frequent senses of a noun."""
        return self.meanings.get(self.base(phrase), ())[:senses]


def _lines(path):
    for line in path.read_text(encoding="ascii").splitlines():
        if not line.startswith("  "):
            yield line
