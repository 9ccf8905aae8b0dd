"""Bodies of requests: their fields and types, and the `Drawing` that is made of them.

The fields are those of OpenAI's images API, with `seed`, `steps`, `guidance`, `negative`, `style`
and `strength` beside them. Fields of that API that mean nothing here are taken and ignored; any
other is refused, so that a misspelt one is noticed.

References:
  https://platform.openai.com/docs/api-reference/images
"""

import re
import secrets
from typing import Annotated, Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from kgen.serving.http.job import Drawing, RefusedError

Number = Annotated[float, Field(allow_inf_nan=False)]


def _also(name, **options):
    """A field that other programs call something else."""
    return Field(
        default=None, validation_alias=AliasChoices(name, *options.pop("names")), **options
    )


class Request(BaseModel):
    """What all requests of pictures have."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = ""
    model: str | None = None
    n: int = Field(default=1, ge=1)
    size: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    steps: int | None = _also("steps", names=("num_steps", "num_inference_steps"), ge=1)
    guidance: Number | None = _also("guidance", names=("guidance_scale",), ge=-100, le=100)
    negative: str | None = _also("negative", names=("negative_prompt",))
    style: str | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: bool = False
    partial_images: int | None = Field(default=None, ge=0, le=20)

    # Of the images API, without a meaning here.
    user: str | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_compression: int | None = None
    input_fidelity: str | None = None


class Generation(Request):
    """`POST /v1/images/generations`."""


class Edit(Request):
    """`POST /v1/images/edits`, besides its files."""

    strength: Number | None = Field(default=None, gt=0, le=1)


def drawing_of(request, backend, limits, *, image=None, mask=None):
    """Returns the `Drawing` of a request.

    Args:
        request: a `Request`.
        backend: what will draw it.
        limits: a `ServerLimits`.
        image: None, or uint8 `[h, w, C]`, a picture fitted to the model.
        mask: None, or float32 `[h, w, 1]`.

    Raises:
        RefusedError: if a field is out of bounds; it names the field.
    """
    _at_most("n", request.n, limits.max_count)
    for name in ("prompt", "negative", "style"):
        if getattr(request, name) is not None:
            _at_most(name, len(getattr(request, name)), limits.max_prompt, " characters")
    if backend.defaults:
        steps = backend.defaults["steps"] if request.steps is None else request.steps
        guidance = backend.defaults["guidance"] if request.guidance is None else request.guidance
        _at_most("steps", steps, limits.max_steps)
    else:
        steps = guidance = None
        for name in ("steps", "guidance"):
            if getattr(request, name) is not None:
                raise RefusedError(f"The model draws in one step: it has no {name}.", field=name)
    if request.negative and not backend.negatives:
        raise RefusedError("The model cannot move away from a prompt.", field="negative")
    prompt = request.prompt
    if request.style:
        if backend.takes != "texts":
            raise RefusedError("The model takes no text.", field="style")
        prompt = f"{prompt}, {request.style}"
    backend.check(prompt, "prompt")
    if request.negative:
        backend.check(request.negative, "negative")
    size = None if image is not None else size_of(request.size, backend)
    strength = None
    if image is not None:
        strength = getattr(request, "strength", None) or (0.6 if mask is None else 1.0)
    first = secrets.randbelow(2**31) if request.seed is None else request.seed
    return Drawing(
        prompt,
        tuple(first + i for i in range(request.n)),
        steps=steps,
        guidance=guidance,
        negative=request.negative or None,
        size=size,
        image=image,
        mask=mask,
        strength=strength,
        previews=(request.partial_images or 0) if request.stream else 0,
    )


def size_of(text, backend):
    """Returns the size that a request asks for as height and width, None for the model's own.

    Args:
        text: None, `"auto"` or `"WIDTHxHEIGHT"`, as the images API writes it.
        backend: has `sizes`, `(height, width)` each.
    """
    if text in (None, "", "auto"):
        return None
    match = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    size = (int(match[2]), int(match[1])) if match else None
    if size not in backend.sizes:
        known = ", ".join(f"{width}x{height}" for height, width in backend.sizes)
        raise RefusedError(
            f"`size` must be auto or one of {known}, not {text!r:.40}.", field="size"
        )
    return None if size == backend.sizes[0] else size


def check_model(name, backend):
    """Raises a `RefusedError` (404) for the name of another model."""
    if name is not None and name != backend.name:
        message = f"There is no model {name!r:.100} here, only {backend.name!r}."
        raise RefusedError(message, 404, field="model", code="model_not_found")


def opened(data, limits, field):
    """Returns the picture in a file of a client as a `kgen.fitting.Picture`.

    Raises:
        RefusedError: if it is no picture, or too large.
    """
    import tempfile

    from kgen.data.picture_files import open_picture
    from kgen.fitting import upright

    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            with open_picture(file.name, max_pixels=limits.max_pixels) as image:
                return upright(image)
        except Exception as error:  # a broken file can make Pillow raise nearly anything
            reason = " ".join(str(error).replace(file.name, "it").split())[:200]
            raise RefusedError(
                f"`{field}` is no picture that can be read: {reason}", field=field
            ) from error


def mask_of(picture, size):
    """Returns a mask as float32 `[H, W]` in [0, 1], 1 where to paint.

    A file with transparent parts is to be painted there, as in the images API; in another one, as
    of `kgen edit`, where it is bright.

    Args:
        picture: the mask as a `Picture`.
        size: height and width of the picture that it belongs to.

    Raises:
        RefusedError: if nothing of it is to be painted.
    """
    from kgen.fitting import Picture, brightness

    if picture.alpha is not None and picture.alpha.min() < 255:
        clear = np.repeat(255 - picture.alpha[..., None], 3, axis=-1)
        picture = Picture(clear, None, "RGB")
    mask = brightness(picture, size)
    if not mask.any():
        raise RefusedError("`mask` has nothing transparent or white to paint.", field="mask")
    return mask


def _at_most(name, value, most, unit=""):
    if value > most:
        raise RefusedError(f"`{name}` must be at most {most}{unit}, not {value}.", field=name)
