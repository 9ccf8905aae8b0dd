"""What the server sends: pictures as base64, at once or as a stream of events."""

import base64
import json
import time

from kgen.fitting import in_mode, put_back
from kgen.pictures import encoded

KINDS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


class Painter:
    """Makes the answer of one request of pictures.

    Args:
        request: the `Request`.
        drawing: its `Drawing`.
        describe: a function of a drawing and a seed, what the file says of how it was made.
        picture: None, or the `Picture` that is edited.
        mask: None, or its mask, float32 `[H, W]`.
    """

    def __init__(self, request, drawing, describe, picture=None, mask=None):
        self.request = request
        self.drawing = drawing
        self.describe = describe
        self.picture = picture
        self.mask = mask

    @property
    def event(self):
        """How the images API names the events of such a request."""
        return "image_generation" if self.drawing.image is None else "image_edit"

    def items(self, pictures):
        """Returns the entries of pictures uint8 `[N, H, W, C]`: base64 or URL, and the seed."""
        return [self._item(pixels, seed) for pixels, seed in zip(pictures, self.drawing.seeds)]

    def whole(self, pictures):
        """The answer of all pictures, a dictionary."""
        height, width = pictures.shape[1:3] if self.picture is None else self.picture.size
        return {
            "created": int(time.time()),
            "data": self.items(pictures),
            "size": f"{width}x{height}",
            "output_format": self.request.output_format,
            "steps": self.drawing.steps,
            "guidance": self.drawing.guidance,
        }

    def partial(self, step, num_steps, pictures, index):
        """The events of a look at the pictures, as bytes."""
        more = {"partial_image_index": index, "step": step, "num_steps": num_steps}
        return self._events("partial_image", pictures, more)

    def completed(self, pictures):
        """The last events, one for each picture, as bytes."""
        usage = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        usage["input_tokens_details"] = {"image_tokens": 0, "text_tokens": 0}
        return self._events("completed", pictures, {"usage": usage})

    def _events(self, kind, pictures, more):
        whole = self.whole(pictures)
        common = {"created_at": whole["created"], "size": whole["size"], "quality": "auto"}
        common |= {"background": "auto", "output_format": whole["output_format"], **more}
        name = f"{self.event}.{kind}"
        return b"".join(
            event(name, {"type": name, **item, "index": i, **common})
            for i, item in enumerate(whole["data"])
        )

    def _item(self, pixels, seed):
        kind = KINDS[self.request.output_format]
        if self.picture is not None:
            pixels = put_back(pixels, self.picture, self.mask)
            pixels = in_mode(pixels, self.picture.mode, kind)
        data = base64.b64encode(encoded(pixels, kind, self.describe(self.drawing, seed))).decode()
        if self.request.response_format == "url":
            return {"url": f"data:image/{self.request.output_format};base64,{data}", "seed": seed}
        return {"b64_json": data, "seed": seed}


def event(name, value):
    r"""A server-sent event, as bytes.

    Example:
        >>> event("done", {"n": 1})
        b'event: done\ndata: {"n": 1}\n\n'
    """
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
