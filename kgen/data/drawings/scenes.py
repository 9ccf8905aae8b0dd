"""Scenes: pictures composed of single objects, with prompts that describe their positions.

    counts      one object, 2 to 4 times            "three red apples"
    pairs       two objects and their positions     "a red apple left of a green pear"

A `Thing` is a picture of one object with its noun and, if known, the word for its colour. All
randomness of the `draw_*` functions is from a `numpy.random.Generator`.
"""

import dataclasses
from typing import Self

import numpy as np

from kgen.data.drawings.pictures import GRIDS, arrange, inside, turn_hue
from kgen.data.drawings.words import BESIDE, NUMBERS, RELATIONS, phrase
from kgen.data.emoji import COLOURS

# Frames of A and of B by the position of A, (top, left, bottom, right) as fractions of the side.
FRAMES = {
    "left": ((0.0, 0.0, 1.0, 0.5), (0.0, 0.5, 1.0, 1.0)),
    "right": ((0.0, 0.5, 1.0, 1.0), (0.0, 0.0, 1.0, 0.5)),
    "above": ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)),
    "below": ((0.5, 0.0, 1.0, 1.0), (0.0, 0.0, 0.5, 1.0)),
}
_ALONE = (0.06, 0.06, 0.94, 0.94)
# Two objects in half the canvas: one above the other if it is tall, side by side if it is wide.
_TALL = ((0.05, 0.08, 0.48, 0.92), (0.52, 0.08, 0.95, 0.92))
_WIDE = tuple((left, top, right, bottom) for top, left, bottom, right in _TALL)


@dataclasses.dataclass(frozen=True, eq=False)
class Thing:
    """A picture of one object.

    Args:
        picture: uint8 array `[H, W, 3]` on white.
        noun: the noun of the object, in the singular.
        colour: the word for its colour, or `""`.
        hue: its dominant hue in [0, 1).
        turns: names of the `kgen.data.emoji.COLOURS` to which its hue may be shifted.
    """

    picture: np.ndarray
    noun: str
    colour: str = ""
    hue: float = 0.0
    turns: tuple = ()

    def turned(self, colour: str) -> Self:
        """Returns the object in another colour, one of `turns`."""
        if colour not in self.turns:
            raise ValueError(f"`colour` must be one of {list(self.turns)}. Received: {colour!r}.")
        picture = turn_hue(self.picture, self.hue, COLOURS[colour])
        return dataclasses.replace(self, picture=picture, colour=colour, turns=())

    def uncoloured(self) -> Self:
        """Returns the object without the word for its colour."""
        return dataclasses.replace(self, colour="")


def count_scene(thing: Thing, number: int, size: int = 128) -> tuple[np.ndarray, str]:
    """Returns the picture and the prompt of an object repeated 1 to 4 times.

    Example:
    >>> red = np.full((9, 9, 3), (200, 0, 0), "uint8")
    >>> picture, prompt = count_scene(Thing(red, "square", "red"), 2, size=64)
    >>> picture.shape, prompt
    ((64, 64, 3), 'two red squares')
    """
    prompt = phrase(thing.noun, thing.colour, number)
    return arrange([thing.picture] * number, GRIDS[number], size), prompt


def pair_scene(
    first: Thing,
    second: Thing,
    where: str,
    numbers: tuple[int, int] = (1, 1),
    template: int = 0,
    size: int = 128,
) -> tuple[np.ndarray, str]:
    """Returns the picture and the prompt of two objects.

    Args:
        first: a `Thing`, A in the prompt.
        second: a `Thing`, B in the prompt.
        where: position of A relative to B: `"left"`, `"right"`, `"above"` or `"below"`.
        numbers: number of copies of each, 1 or 2.
        template: index of the phrase in `RELATIONS[where]` followed by `BESIDE`, whose phrases do
            not name the position.
        size: side of the picture in pixels.

    Raises:
        ValueError: if `where` or `numbers` has another value.

    Example:
    >>> red, blue = (np.full((9, 9, 3), c, "uint8") for c in ((200, 0, 0), (0, 0, 200)))
    >>> pair_scene(Thing(red, "ball", "red"), Thing(blue, "ball", "blue"), "left")[1]
    'a red ball left of a blue ball'
    """
    if where not in FRAMES:
        raise ValueError(f"`where` must be one of {list(FRAMES)}. Received: where={where!r}.")
    if not set(numbers) <= {1, 2}:
        raise ValueError(f"`numbers` must be 1 or 2 each. Received: numbers={numbers}.")
    pictures, places = [], []
    for thing, frame, number in zip((first, second), FRAMES[where], numbers):
        half = _WIDE if where in ("above", "below") else _TALL
        pictures += [thing.picture] * number
        places += inside([_ALONE] if number == 1 else half, frame)
    said = [
        phrase(thing.noun, thing.colour, None if number == 1 else number)
        for thing, number in zip((first, second), numbers)
    ]
    templates = (*RELATIONS[where], *BESIDE)
    prompt = templates[template].format(a=said[0], b=said[1])
    return arrange(pictures, places, size), prompt


def draw_thing(
    thing: Thing, rng: np.random.Generator, turn: float = 0.5, name: float = 0.5
) -> Thing:
    """Draws the colour of an object: changed, named, or not named.

    Args:
        thing: a `Thing`.
        rng: a `numpy.random.Generator`.
        turn: probability that its hue is shifted, if it has `turns`.
        name: probability that its own colour is named, if it is known.
    """
    turned, named = rng.random(2)
    choice = int(rng.integers(max(1, len(thing.turns))))
    if thing.turns and turned < turn:
        return thing.turned(thing.turns[choice])
    return thing if named < name else thing.uncoloured()


def draw_count(thing: Thing, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draws a scene of one object repeated 2 to 4 times; half of the scenes have two."""
    number = int(rng.choice([2, 2, 3, 4]))
    return count_scene(draw_thing(thing, rng), number, len(thing.picture))


def draw_pair(first: Thing, second: Thing, rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """Draws a scene of two objects; with the same noun, they have different, named colours.

    Returns:
        The picture and the prompt; of `draw_count` if words cannot distinguish the two.
    """
    where = str(rng.choice(list(FRAMES)))
    numbers = tuple(int(n) for n in rng.choice([1, 1, 1, 1, 2], 2))
    template = int(rng.integers(len(RELATIONS[where]) + len(BESIDE)))
    size = len(first.picture)
    if first.noun == second.noun:
        colours = [c for c in dict.fromkeys((first.colour, *first.turns)) if c]
        if len(colours) < 2:
            return count_scene(draw_thing(first, rng), max(NUMBERS) // 2, size)
        chosen = [colours[i] for i in rng.permutation(len(colours))[:2]]
        things = [first if c == first.colour else first.turned(c) for c in chosen]
    else:
        things = [draw_thing(thing, rng) for thing in (first, second)]
    return pair_scene(*things, where, numbers, template, size)
