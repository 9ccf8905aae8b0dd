"""What tests of the server share: a backend without a model, pictures as files."""

import base64
import io
import threading

import numpy as np
from PIL import Image


class Colours:
    """A backend whose picture of a seed is one grey, and of the step before it a darker one.

    Args:
        steps: how many steps a drawing has.
    """

    name = "colours"
    condition_kind = "texts"
    classes = None
    styles = ("flat", "round")
    shape = (8, 8, 3)
    sizes = [(8, 8), (8, 16)]
    edits = negatives = True
    parallel = 1
    defaults = {"steps": 4, "guidance": 3.0, "solver": "dpm"}

    def __init__(self):
        self.batches = []
        self.go = threading.Event()
        self.go.set()
        self.drawing = threading.Event()
        self.steps = 0

    def check(self, text, field):
        pass

    def describe(self, drawing, seed):
        return {"prompt": drawing.prompt, "seed": str(seed)}

    def available(self):
        return True

    def warm_up(self, cancelled):
        pass

    def draw(self, drawings, on_step):
        self.batches.append([drawing.prompt for drawing in drawings])
        self.drawing.set()
        if any(drawing.prompt == "broken" for drawing in drawings):
            raise ValueError("NaN")
        pictures = [self.picture(d.seeds, d.size or (8, 8), 1.0) for d in drawings]
        for step in range(1, 5):
            assert self.go.wait(20)
            shares = [self.picture(d.seeds, d.size or (8, 8), step / 4) for d in drawings]
            on_step(step, 4, lambda shares=shares: np.concatenate(shares))
            self.steps += 1
        return pictures

    @staticmethod
    def picture(seeds, size, share):
        greys = (np.array(seeds) % 256 * share).astype("uint8")
        return np.broadcast_to(greys[:, None, None, None], (len(seeds), *size, 3)).copy()


def pixels(item):
    """The pixels of an entry of an answer, and the text chunks of its PNG."""
    data = item.get("b64_json") or item["url"].removeprefix("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "PNG"
        return np.asarray(image), dict(image.text)


def png(array):
    """An array as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def events(text):
    """The events of a stream, `[(name, data)]`."""
    import json

    parts = [part for part in text.split("\n\n") if part.startswith("event: ")]
    lines = [part.split("\n") for part in parts]
    return [(name[len("event: ") :], json.loads(data[len("data: ") :])) for name, data in lines]
