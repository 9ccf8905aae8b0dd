"""Scenes of drawings: turning hues, arranging, words, counts and pairs."""

import colorsys
import re

import numpy as np
import pytest
import tensorflow as tf

from kgen.data import emoji
from kgen.data.drawings import pictures, scenes, words

from .drawings_pictures import COLOURS, SAID, islands, mask, middle, square

pytest.importorskip("PIL")


@pytest.mark.parametrize(("hue", "target"), [(0.0, 1 / 3), (0.9, 0.15), (0.31, 0.77)])
def test_turned_hues_are_those_of_tensorflow_and_colorsys(hue, target):
    picture = np.random.default_rng(0).integers(0, 256, (8, 9, 3), "uint8")
    turned = pictures.turn_hue(picture, hue, target)
    assert turned.dtype == np.uint8
    expected = emoji.recoloured(tf.constant(picture / 255, tf.float32), hue, target) * 255
    np.testing.assert_allclose(turned, expected, atol=0.51)
    for old, new in zip(picture.reshape(-1, 3)[:20], turned.reshape(-1, 3)):
        h, s, v = colorsys.rgb_to_hsv(*(old / 255).tolist())
        by_hand = colorsys.hsv_to_rgb((h + target - hue) % 1, s, v)
        np.testing.assert_allclose(new, 255 * np.array(by_hand), atol=0.51)


def test_trim_crops_to_what_is_drawn():
    picture = np.full((20, 30, 3), 255, "uint8")
    picture[4:9, 11:25, 1] = 100
    assert pictures.trim(picture).shape == (5, 14, 3)
    np.testing.assert_array_equal(pictures.trim(picture), picture[4:9, 11:25])
    with pytest.raises(ValueError, match="must not be all white"):
        pictures.trim(np.full((4, 4, 3), 255, "uint8"))


@pytest.mark.parametrize(
    ("shape", "room", "fitted"),
    [((10, 20), (40, 40), (20, 40)), ((60, 20), (30, 40), (30, 10)), ((7, 7), (9, 30), (9, 9))],
)
def test_fit_keeps_the_proportions(shape, room, fitted):
    picture = np.zeros((*shape, 3), "uint8")
    assert pictures.fit(picture, *room).shape == (*fitted, 3)


def test_things_are_drawn_in_the_middle_of_their_places():
    red, blue = square(COLOURS["red"]), square(COLOURS["blue"], 30, 90)
    green = square(COLOURS["green"], 90, 30)
    places = [(0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1), (0.5, 0, 1, 0.5)]
    canvas = pictures.arrange([red, blue, green], places, 100)
    np.testing.assert_allclose(middle(canvas, "green"), (74.5, 24.5), atol=0.6)
    np.testing.assert_allclose(middle(canvas, "red"), 24.5, atol=0.6)
    np.testing.assert_allclose(middle(canvas, "blue"), 74.5, atol=0.6)
    assert mask(canvas, "red").sum() == 50 * 50
    assert abs(mask(canvas, "blue").sum() - 50 * 50 / 3) < 60
    assert (canvas[:50, 50:] == 255).all()
    with pytest.raises(ValueError, match="2 pictures, 1 places"):
        pictures.arrange([red, blue], [(0, 0, 1, 1)], 100)


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_counts_show_as_many(number):
    thing = scenes.Thing(square(COLOURS["red"], 70, 40), "door", "red")
    picture, prompt = scenes.count_scene(thing, number)
    assert islands(picture.min(axis=-1) < 128) == number
    assert (
        prompt == ["one red door", "two red doors", "three red doors", "four red doors"][number - 1]
    )


@pytest.mark.parametrize("where", ["left", "right", "above", "below"])
@pytest.mark.parametrize("numbers", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_pairs_are_where_their_prompt_says(where, numbers):
    red = scenes.Thing(square(COLOURS["red"], 90, 30), "door", "red")
    blue = scenes.Thing(square(COLOURS["blue"], 30, 90), "box")
    for template in range(3):
        picture, prompt = scenes.pair_scene(red, blue, where, numbers, template)
        step = middle(picture, "red") - middle(picture, "blue")
        axis, sign = {"left": (1, -1), "right": (1, 1), "above": (0, -1), "below": (0, 1)}[where]
        assert sign * step[axis] > 50
        assert abs(step[1 - axis]) < 3
        assert islands(mask(picture, "red")) == numbers[0]
        assert islands(mask(picture, "blue")) == numbers[1]
        first = ("a red door", "two red doors")[numbers[0] - 1]
        second = ("a box", "two boxes")[numbers[1] - 1]
        assert re.match(rf"{first} ({SAID[where]}) {second}", prompt)
    assert scenes.pair_scene(red, blue, where, numbers, 3)[1] == f"{first} and {second}"


def test_two_of_one_noun_differ_in_colour():
    ball = scenes.Thing(square(COLOURS["red"]), "ball", "red", 0.0, ("green", "blue"))
    for seed in range(20):
        picture, prompt = scenes.draw_pair(ball, ball, np.random.default_rng(seed))
        first, second = re.findall("red|green|blue", prompt)
        assert first != second
        for colour, (red, green, blue) in COLOURS.items():
            hue = colorsys.rgb_to_hsv(red, green, blue)[0]
            hues = [colorsys.rgb_to_hsv(*rgb.tolist())[0] for rgb in picture[picture.min(-1) < 100]]
            shown = np.abs((np.array(hues) - hue + 0.5) % 1 - 0.5).min() < 0.06
            assert shown == (colour in (first, second))
    plain = scenes.Thing(square(COLOURS["red"]), "ball")
    assert scenes.draw_pair(plain, plain, np.random.default_rng(0))[1] == "two balls"


def test_a_thing_is_turned_only_to_what_it_can_be():
    ball = scenes.Thing(square(COLOURS["red"]), "ball", "red", 0.0, ("green",))
    green = ball.turned("green")
    assert green.colour == "green"
    assert green.turns == ()
    np.testing.assert_array_equal(green.picture[64, 64], (0, 210, 0))
    with pytest.raises(ValueError, match=r"`colour` must be one of \['green'\]. Received: 'blue'"):
        ball.turned("blue")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: scenes.pair_scene(a, a, "behind"), r"`where` must be .*'left'.*'behind'"),
        (lambda a: scenes.pair_scene(a, a, "left", (3, 1)), r"`numbers` must be 1 or 2 .*\(3, 1\)"),
        (lambda a: words.phrase("ball", "", 5), r"`count` must be None or 1 to 4.*count=5"),
    ],
)
def test_scenes_refuse_what_they_cannot_draw(call, message):
    with pytest.raises(ValueError, match=message):
        call(scenes.Thing(square(COLOURS["red"]), "ball"))


def test_plurals_and_articles_are_english():
    irregular = {
        "child": "children",
        "fireman": "firemen",
        "police woman": "police women",
        "maple leaf": "maple leaves",
        "cherry": "cherries",
        "monkey": "monkeys",
        "peach": "peaches",
        "brush": "brushes",
        "fox": "foxes",
        "glass": "glasses",
        "goldfish": "goldfishes",
        "tooth": "teeth",
        "tomato": "tomatoes",
        "piano": "pianos",
        "giraffe": "giraffes",
        "human": "humans",
    }
    assert {noun: words.plural(noun) for noun in irregular} == irregular
    vowels = ["apple", "egg", "igloo", "onion", "umbrella", "hourglass", "orange ball"]
    consonants = ["ball", "unicorn", "unicycle", "ufo", "yo-yo", "horse", "one-way street"]
    assert [words.article(noun) for noun in vowels] == [f"an {noun}" for noun in vowels]
    assert [words.article(noun) for noun in consonants] == [f"a {noun}" for noun in consonants]
