"""Captions, concepts and the split of the drawings, on a small WordNet."""

import pytest

from kgen.data.emoji.captions import split_of
from tools.drawings import concepts, names
from tools.drawings.nouns import noun_of
from tools.drawings.wordnet import WordNet

from .drawings_packages import put_wordnet


@pytest.fixture(scope="module")
def wordnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wordnet")
    put_wordnet(folder)
    return WordNet(folder)


@pytest.mark.parametrize(
    ("phrase", "base"),
    [
        ("apples", "apple"),
        ("mice", "mouse"),
        ("wolves", "wolf"),
        ("old dogs", "old dog"),
        ("fire engines", "fire engine"),
        ("glass", "glass"),
        ("glasses", "glass"),
        ("scissors", "scissors"),
        ("xyzzys", "xyzzys"),
    ],
)
def test_base_forms(wordnet, phrase, base):
    assert wordnet.base(phrase) == base


def test_kinds_are_those_of_things_to_be_seen(wordnet):
    assert wordnet.kinds("dogs") == ["animal"]
    assert wordnet.kinds("fire engine") == ["artifact"]
    assert wordnet.kinds("idea") == []
    assert wordnet.kinds("coltrane") == []  # a single person
    assert wordnet.senses("bike") == wordnet.senses("bicycle") != wordnet.senses("car")


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("car", "car"),
        ("car-1-flat", "car"),
        ("fire-engine", "fire engine"),
        ("bicycle-bike", "bicycle"),
        ("fruit-apple", "apple"),
        ("dog-face", "dog face"),
        ("idea", None),
        ("cursor-hat", None),
        ("xyzzy", None),
        ("2", None),
    ],
)
def test_captions_of_icons(wordnet, name, caption):
    assert names.caption_of_icon(name, wordnet) == caption


@pytest.mark.parametrize(
    ("title", "stem", "folder", "caption"),
    [
        ("Old Dog", "x", "animals", "old dog"),
        ("The Apple_2 (B and W)", "x", "food", "apple"),
        ("horse#1", "cat_rotkevich_konsat_01", "animals", "cat"),
        ("Clipart by Nicu Buculei - pear", "apple", "food/fruit", "apple"),
        ("Various Cliparts", "fireEngine", "transportation", "fire engine"),
        ("Acquila", "folaga_architetto_francesco_01", "animals/birds", "bird"),
        ("Folaga", "folaga", "tools", None),
        ("Acquila", "acquila", "tools", "eagle"),
        ("Idea", "idea", "tools", None),
        ("wolf with apple", "x", "animals", "wolf with apple"),
        ("old", "old", "tools", None),
        ("Smiley blue", "x", "people", "blue smiley"),
        ("smiley", "x", "people", "smiley face"),
        ("balloon blue", "x", "recreation", "blue balloon"),
        ("SVG Road Signs", "car", "transportation", None),
        ("Various Cliparts", "gatto_nero", "unsorted", "cat"),
        ("Various Cliparts", "hat_tree_01", "unsorted", "hat tree"),
        ("Various Cliparts", "cat_big_tree_01", "unsorted", "cat"),
        ("Various Cliparts", "cat_xyzzy", "unsorted", "cat"),
    ],
)
def test_captions_of_clip_art(wordnet, title, stem, folder, caption):
    assert names.caption_of_clipart(title, stem, [], folder, wordnet) == caption


def test_keywords_become_tags(wordnet):
    keywords = ["Dog", "hash(0x85)", "", "animal kingdom", "apple", "tools", "big"]
    assert names.tags_of(keywords, "old dog", wordnet) == ["apple"]


@pytest.mark.parametrize(
    ("folder", "read"),
    [
        ("animals", True),
        ("animals/birds/penguin", True),
        ("recreation/games", True),
        ("recreation/games/cards/white", False),
        ("shapes/stars", False),
        ("signs_and_symbols/flags", False),
        ("special/gradients", False),
        ("computer/icons/flat-theme", False),
    ],
)
def test_folders(folder, read):
    assert names.is_read(folder) == read


@pytest.mark.parametrize(
    ("caption", "group", "noun"),
    [
        ("apple", "food-drink", "apple"),
        ("old dog", "animals-nature", "old dog"),
        ("woman singer", "people-body", "woman singer"),
        ("apples", "food-drink", ""),
        ("scissors", "objects", ""),
        ("glass", "objects", "glass"),
        ("milk", "food-drink", ""),
        ("dog with hat", "animals-nature", ""),
        ("man running", "people-body", ""),
        ("heart", "symbols", ""),
        ("idea", "objects", ""),
    ],
)
def test_nouns_that_can_be_counted(wordnet, caption, group, noun):
    assert noun_of(caption, group, wordnet) == noun


@pytest.mark.parametrize(
    ("spellings", "concept"),
    [
        (["red apple", "green apples", "cartoon apple", "Apple"], "apple"),
        (["woman singer", "man singer", "singer"], "singer"),
        (["dog face", "dog", "dogs"], "dog"),
        (["woman"], "woman"),
    ],
)
def test_spellings_of_one_concept(wordnet, spellings, concept):
    assert {concepts.concept_of(spelling, wordnet) for spelling in spellings} == {concept}


def test_synonyms_are_one_thing(wordnet):
    found = concepts.same_things({"bike", "bicycle", "car", "fire engine", "fireengine"}, wordnet)
    assert found["bike"] == found["bicycle"] != found["car"]
    assert found["fire engine"] == found["fireengine"]


def hashed(split, count, start="thing"):
    """Invented words that fall on one side by their hash alone."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = (f"{start} {a}{b}" for a in letters for b in letters)
    return [word.replace(" ", "") for word in words if split_of(word.replace(" ", "")) == split][
        :count
    ]


def test_the_split_keeps_relatives_together(wordnet):
    held, trained = hashed("test", 4), hashed("train", 4)
    everything = {*held, *trained, f"old {held[0]}", f"{trained[0]} tree"}
    found = concepts.held_out_concepts(everything, [], wordnet)
    by_hash = {c for c in everything if split_of(c) == "test"}
    # A part of a name takes the whole along; nothing else moves.
    assert found == by_hash | {f"old {held[0]}"}


def test_what_trains_as_emoji_is_not_held_out(wordnet):
    held, trained = hashed("test", 2), hashed("train", 2)
    found = concepts.held_out_concepts({*held, *trained}, [held[0], trained[0]], wordnet)
    assert found == set(held)
    # A training emoji that contains a concept keeps it in training.
    emoji = next(
        f"{held[0]} {word}" for word in trained if split_of(f"{held[0]} {word}") == "train"
    )
    found = concepts.held_out_concepts({*held, emoji}, [emoji], wordnet)
    assert found == {held[1]}


def test_general_concepts_are_not_held_out(wordnet):
    (general,) = hashed("test", 1)
    named = [f"{general} {word}" for word in hashed("train", concepts.MAX_PARTS + 1)]
    by_hash = {c for c in named if split_of(c) == "test"}
    assert concepts.held_out_concepts({general, *named}, [], wordnet) == by_hash
    few = named[: concepts.MAX_PARTS]
    assert concepts.held_out_concepts({general, *few}, [], wordnet) == {general, *few}


def test_names_of_held_out_concepts_are_found_in_tags(wordnet):
    held_out = {"dog"}
    tags = {"dogs": True, "old dog": True, "dog face": True, "cat": False, "hotdog": False}
    assert {tag: concepts.names_any(tag, held_out, wordnet) for tag in tags} == tags
