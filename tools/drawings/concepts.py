"""The concept of a caption, and the split by concept.

The concept of a caption is its key (`kgen.data.emoji.normalise`) in the singular, without words for
colours, for persons ("woman singer" is a singer) and for drawings ("cartoon").

    same thing    concepts that share one of their two most frequent WordNet senses are one concept
    part of       a caption that contains a held-out concept is held out too
    general       a concept that is a word of more than `MAX_PARTS` other concepts is never held out

So no training caption names a held-out concept, in any set or style. A tenth of the concepts is
held out, by `kgen.data.emoji.captions.split_of`. A concept of captions of `kgen.data.emoji` is held
out only if all of these captions are held out there, so that its training captions are training
captions here.
"""

import collections
import re

from kgen.data.emoji.captions import normalise, split_of
from tools.drawings.lists import word_set

MAX_PARTS = 6
_COLOURS = word_set(
    "red orange yellow green blue purple pink brown black white gray golden silver gold"
)
_PERSONS = word_set("man woman person men women people boy girl")
_DRAWING = word_set("cartoon drawing silhouette color colored figure icon facing right left")


def concept_of(caption, wordnet):
    """Returns the concept that a caption names.

    Args:
        caption: a caption such as `"red apples"`.
        wordnet: a `WordNet`.
    """
    words = normalise(caption).split()
    for dropped in (_COLOURS, _DRAWING, _PERSONS):
        words = [word for word in words if word not in dropped] or words
    if len(words) == 2 and words[1] == "face" and "animal" in wordnet.kinds(words[0]):
        words = words[:1]
    whole = wordnet.base(" ".join(words))
    return whole if whole in wordnet.meanings else " ".join(map(wordnet.base, words))


def same_things(concepts, wordnet):
    """Returns `{concept: representative}`, equal for concepts that share a meaning.

    Args:
        concepts: set of concepts.
        wordnet: a `WordNet`.
    """
    parent = {concept: concept for concept in concepts}

    def root(concept):
        while parent[concept] != concept:
            concept = parent[concept]
        return concept

    by_meaning = {}
    squeezed = {}
    for concept in sorted(concepts):
        keys = [*wordnet.senses(concept)]
        for table, key in [
            *((by_meaning, key) for key in keys),
            (squeezed, re.sub(r"\W", "", concept)),  # "ice cream" and "icecream"
        ]:
            other = root(table.setdefault(key, concept))
            first, second = sorted([root(concept), other])
            parent[second] = first
    return {concept: root(concept) for concept in concepts}


def held_out_concepts(concepts, emoji_captions, wordnet):
    """Returns the concepts of the test split.

    Args:
        concepts: set of the concepts of all captions.
        emoji_captions: iterable of the captions of the emoji sets.
        wordnet: a `WordNet`.

    Returns:
        The set of concepts, of those given, that are held out.
    """
    representative = same_things(concepts, wordnet)
    members = collections.defaultdict(set)
    for concept, first in representative.items():
        members[first].add(concept)
    known = collections.defaultdict(set)
    for caption in emoji_captions:
        known[representative[concept_of(caption, wordnet)]].add(split_of(caption))
    trained = {c for c in concepts if "train" in known[representative[c]]}
    containing = collections.defaultdict(set)
    for concept in concepts:
        for part in _parts(concept) & concepts:
            containing[part].add(concept)
    held_out = set()
    for first in sorted(members):
        splits = known[first] or {split_of(first)}
        if splits == {"test"}:
            drawn = _closure(members[first], members, representative, containing)
            if drawn is not None and not drawn & trained:
                held_out |= drawn
    return held_out


def _closure(concepts, members, representative, containing):
    """Returns all that must be held out with some concepts, or `None` if one is general."""
    drawn, waiting = set(concepts), list(concepts)
    while waiting:
        concept = waiting.pop()
        if len(containing[concept]) > MAX_PARTS:
            return None
        more = (members[representative[concept]] | containing[concept]) - drawn
        drawn |= more
        waiting.extend(more)
    return drawn


def _parts(concept):
    """Returns the shorter phrases within a concept."""
    words = concept.split()
    spans = (
        " ".join(words[start:end])
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    )
    return {span for span in spans if span != concept}


def names_any(text, held_out, wordnet):
    """Returns whether a caption or tag is or contains a held-out concept."""
    concept = concept_of(text, wordnet)
    return bool(({concept} | _parts(concept)) & held_out)
