"""The composed prompts against the words of the data: what "never seen" says is so."""

import re

import pytest

from kgen.data import emoji


def words(text):
    return set(re.findall(r"[a-z0-9]+", text))


@pytest.fixture(scope="module")
def example(load_example):
    return load_example("evaluate_text_to_image")


@pytest.fixture(scope="module")
def composed(example):
    return example.COMPOSED


@pytest.fixture(scope="module")
def texts():
    splits = [emoji.load_arrays(split) for split in emoji.SPLITS]
    captions = {(c, t) for split in splits for c, t in zip(split["captions"], split["tags"])}
    return [(words(caption), words(tags)) for caption, tags in captions]


def test_there_are_24_of_48(composed, example):
    of_sheet = {prompt for prompts in example.SHEET.values() for prompt in prompts}
    of_composed = {prompt for prompts in composed.values() for prompt in prompts}
    assert (len(of_composed), len(of_sheet)) == (24, 48)
    assert of_composed < of_sheet


def test_colours_and_objects_never_stand_together(composed, texts):
    for prompt in composed["never together"] + composed["only by recolouring"]:
        pair = words(prompt)
        assert len(pair) == 2
        assert not any(pair <= caption | tags for caption, tags in texts), prompt
        assert any(prompt.split()[1] in caption for caption, _ in texts), prompt


def test_words_that_no_caption_holds(composed, texts):
    for word in composed["in no caption, but a tag"]:
        assert not any(word in caption for caption, _ in texts), word
        assert any(word in tags for _, tags in texts), word
    for word in composed["in no caption and no tag"]:
        assert not any(word in caption | tags for caption, tags in texts), word


@pytest.mark.slow
def test_recolouring_reaches_what_it_is_said_to(composed):
    plain = {caption for s in emoji.SPLITS for caption in emoji.load_arrays(s)["captions"]}
    batches = emoji.load("train", captions="label", recolour=1.0, shuffle=False)
    prompts = {prompt.decode() for batch in batches for prompt in batch["prompts"].numpy()}
    coloured = [words(p) for p in prompts - plain if p.split()[0] in emoji.COLOURS]
    reached = {
        prompt: prompt.split()[0] in emoji.COLOURS
        and any(prompt.split()[1] in caption for caption in coloured)
        for prompt in composed["never together"] + composed["only by recolouring"]
    }
    assert [p for p in composed["never together"] if reached[p]] == []
    assert [p for p in composed["only by recolouring"] if not reached[p]] == []
