"""The responses of the server: pictures in base64, all at once or as a stream of events."""

import base64
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from kgen.fitting import Picture, in_mode, put_back
from kgen.pictures import encoded
from kgen.serving.http.job import Drawing
from kgen.serving.http.requests import Request

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}


class ResponseBuilder:
    """Builds the response to a request for pictures.

    Args:
        request: the request.
        drawing: the drawing of the request.
        describe: a function of a drawing and a seed that returns the metadata of a file, or None.
        picture: the picture that is edited, or None.
        mask: the mask of the edit, float32 `[H, W]`, or None.
    """

    def __init__(
        self,
        request: Request,
        drawing: Drawing,
        describe: Callable[[Drawing, int], dict[str, str] | None],
        picture: Picture | None = None,
        mask: np.ndarray | None = None,
    ) -> None:
        self.request = request
        self.drawing = drawing
        self.describe = describe
        self.picture = picture
        self.mask = mask

    @property
    def event_name(self) -> Literal["image_generation", "image_edit"]:
        """The prefix of the names of the events in the images API."""
        return "image_generation" if self.drawing.image is None else "image_edit"

    def items(self, pictures: np.ndarray) -> list[dict[str, Any]]:
        """Returns the entry of each picture: base64 or URL, and the seed.

        Args:
            pictures: uint8 `[N, H, W, C]`.
        """
        return [self._item(pixels, seed) for pixels, seed in zip(pictures, self.drawing.seeds)]

    def body(self, pictures: np.ndarray) -> dict[str, Any]:
        """Returns the body of a response with all pictures.

        Args:
            pictures: uint8 `[N, H, W, C]`.
        """
        height, width = pictures.shape[1:3] if self.picture is None else self.picture.size
        return {
            "created": int(time.time()),
            "data": self.items(pictures),
            "size": f"{width}x{height}",
            "output_format": self.request.output_format,
            "steps": self.drawing.steps,
            "guidance": self.drawing.guidance,
        }

    def partial(self, step: int, num_steps: int, pictures: np.ndarray, index: int) -> bytes:
        """Returns the events of a preview, one for each picture.

        Args:
            step: number of finished solver steps.
            num_steps: number of solver steps.
            pictures: the estimates after the step, uint8 `[N, H, W, C]`.
            index: number of the preview, from 0.
        """
        more = {"partial_image_index": index, "step": step, "num_steps": num_steps}
        return self._events("partial_image", pictures, more)

    def completed(self, pictures: np.ndarray) -> bytes:
        """Returns the last events of a stream, one for each picture.

        Args:
            pictures: uint8 `[N, H, W, C]`.
        """
        usage: dict[str, Any] = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
        usage["input_tokens_details"] = {"image_tokens": 0, "text_tokens": 0}
        return self._events("completed", pictures, {"usage": usage})

    def _events(self, kind: str, pictures: np.ndarray, more: Mapping[str, Any]) -> bytes:
        body = self.body(pictures)
        common = {"created_at": body["created"], "size": body["size"], "quality": "auto"}
        common |= {"background": "auto", "output_format": body["output_format"], **more}
        name = f"{self.event_name}.{kind}"
        return b"".join(
            event(name, {"type": name, **item, "index": i, **common})
            for i, item in enumerate(body["data"])
        )

    def _item(self, pixels: np.ndarray, seed: int) -> dict[str, Any]:
        """Returns the entry of one picture, uint8 `[H, W, C]`."""
        kind = FORMATS[self.request.output_format]
        if self.picture is not None:
            pixels = put_back(pixels, self.picture, self.mask)
            pixels = in_mode(pixels, self.picture.mode, kind)
        data = base64.b64encode(encoded(pixels, kind, self.describe(self.drawing, seed))).decode()
        if self.request.response_format == "url":
            return {"url": f"data:image/{self.request.output_format};base64,{data}", "seed": seed}
        return {"b64_json": data, "seed": seed}


def event(name: str, value: Mapping[str, Any]) -> bytes:
    r"""Returns a server-sent event with a JSON value.

    Reference:
      https://html.spec.whatwg.org/multipage/server-sent-events.html

    Example:
        >>> event("done", {"n": 1})
        b'event: done\ndata: {"n": 1}\n\n'
    """
    return f"event: {name}\ndata: {json.dumps(value)}\n\n".encode()
