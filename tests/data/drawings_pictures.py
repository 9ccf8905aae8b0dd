"""Pictures of squares, and measures of them, for the tests of the drawings."""

import numpy as np

# What a prompt says of where A is.
SAID = {
    "left": r"(to the )?left of|on the left and",
    "right": r"(to the )?right of|on the right,",
    "above": r"above|over|at the top and",
    "below": r"below|under|at the bottom and",
}
COLOURS = {"red": (210, 0, 0), "green": (0, 170, 0), "blue": (0, 70, 230)}


def square(colour, height=60, width=60, size=128):
    picture = np.full((size, size, 3), 255, "uint8")
    top, left = (size - height) // 2, (size - width) // 2
    picture[top : top + height, left : left + width] = colour
    return picture


def mask(picture, colour):
    return np.abs(picture.astype(int) - COLOURS[colour]).max(axis=-1) < 60


def middle(picture, colour):
    return np.argwhere(mask(picture, colour)).mean(axis=0)


def islands(drawn):
    """The number of connected parts of a mask, by flooding."""
    todo, count = {tuple(place) for place in np.argwhere(drawn)}, 0
    while todo:
        count += 1
        waiting = [todo.pop()]
        while waiting:
            row, column = waiting.pop()
            for place in ((row + a, column + b) for a in (-1, 0, 1) for b in (-1, 0, 1)):
                if place in todo:
                    todo.remove(place)
                    waiting.append(place)
    return count
