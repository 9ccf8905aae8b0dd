"""The bodies of requests, and their conversion to a `Drawing`.

The fields are those of OpenAI's images API, and `seed`, `steps`, `guidance`, `negative`, `style`
and `strength`. Fields of that API that have no meaning here are accepted and ignored. Any other
field is refused, so that a misspelt field does not go unnoticed.

References:
  https://platform.openai.com/docs/api-reference/images
"""

import re
import secrets
import tempfile
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from kgen.data.picture_files import open_picture
from kgen.fitting import Picture, brightness, upright
from kgen.serving.http.backend import Backend
from kgen.serving.http.job import Drawing, RefusedError
from kgen.serving.http.limits import ServerLimits

Number = Annotated[float, Field(allow_inf_nan=False)]


def _field_with_aliases(name: str, aliases: tuple[str, ...], **options: Any) -> Any:
    """Returns an optional field that other programs know by other names."""
    return Field(default=None, validation_alias=AliasChoices(name, *aliases), **options)


class Request(BaseModel):
    """The common fields of requests for pictures."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = ""
    model: str | None = None
    n: int = Field(default=1, ge=1)
    size: str | None = None
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    steps: int | None = _field_with_aliases("steps", ("num_steps", "num_inference_steps"), ge=1)
    guidance: Number | None = _field_with_aliases("guidance", ("guidance_scale",), ge=-100, le=100)
    negative: str | None = _field_with_aliases("negative", ("negative_prompt",))
    style: str | None = None
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: Literal["png", "jpeg", "webp"] = "png"
    stream: bool = False
    partial_images: int | None = Field(default=None, ge=0, le=20)

    # Ignored fields of the images API.
    user: str | None = None
    quality: str | None = None
    background: str | None = None
    moderation: str | None = None
    output_compression: int | None = None
    input_fidelity: str | None = None


class Generation(Request):
    """The body of `POST /v1/images/generations`."""


class Edit(Request):
    """The fields of the form of `POST /v1/images/edits`, without its files."""

    strength: Number | None = Field(default=None, gt=0, le=1)


def drawing_of(
    request: Request,
    backend: Backend,
    limits: ServerLimits,
    *,
    image: np.ndarray | None = None,
    mask: np.ndarray | None = None,
) -> Drawing:
    """Converts a request to a `Drawing`.

    Args:
        request: the request.
        backend: the backend that will generate the pictures.
        limits: the bounds of the server.
        image: uint8 `[h, w, C]`, the picture to edit in the size of the model, or None.
        mask: float32 `[h, w, 1]`, 1 where to paint, or None.

    Raises:
        RefusedError: if a field is out of range, or the model does not accept it. The error names
            the field.
    """
    _check_at_most("n", request.n, limits.max_count)
    for name in ("prompt", "negative", "style"):
        if getattr(request, name) is not None:
            _check_at_most(name, len(getattr(request, name)), limits.max_prompt, " characters")
    if backend.defaults:
        steps = backend.defaults["steps"] if request.steps is None else request.steps
        guidance = backend.defaults["guidance"] if request.guidance is None else request.guidance
        _check_at_most("steps", steps, limits.max_steps)
    else:
        steps = guidance = None
        for name in ("steps", "guidance"):
            if getattr(request, name) is not None:
                raise RefusedError(
                    f"The model generates in one step: it has no {name}.", field=name
                )
    if request.negative and not backend.negatives:
        raise RefusedError("The model takes no negative prompt.", field="negative")
    prompt = request.prompt
    if request.style:
        if backend.condition_kind != "texts":
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


def size_of(text: str | None, backend: Backend) -> tuple[int, int] | None:
    """Converts the size of a request to height and width; None for the size of the model.

    Args:
        text: None, `"auto"` or `"WIDTHxHEIGHT"`, as in the images API.
        backend: the backend, whose `sizes` are allowed.

    Raises:
        RefusedError: for another size.
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


def check_model(name: str | None, backend: Backend) -> None:
    """Checks that a request names the model of the server, or no model.

    Raises:
        RefusedError: for the name of another model (404).
    """
    if name is not None and name != backend.name:
        message = f"There is no model {name!r:.100} here, only {backend.name!r}."
        raise RefusedError(message, 404, field="model", code="model_not_found")


def read_picture(data: bytes, limits: ServerLimits, field: str) -> Picture:
    """Decodes an uploaded picture and rotates it as its EXIF data say.

    Args:
        data: the bytes of the file.
        limits: the bounds of the server.
        field: the field of the request, for the error.

    Raises:
        RefusedError: if the file cannot be read as a picture, or the picture is too large.
    """
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            with open_picture(file.name, max_pixels=limits.max_pixels) as image:
                return upright(image)
        except Exception as error:  # a broken file can make Pillow raise nearly anything
            reason = " ".join(str(error).replace(file.name, "it").split())[:200]
            raise RefusedError(
                f"`{field}` cannot be read as a picture: {reason}", field=field
            ) from error


def mask_of(picture: Picture, size: tuple[int, int]) -> np.ndarray:
    """Converts a picture to a mask.

    If the picture has transparent parts, these are the parts to paint, as in the images API.
    Otherwise they are the white parts, as for `kgen edit`.

    Args:
        picture: the mask as a picture.
        size: height and width of the picture that is edited.

    Returns:
        float32 `[H, W]` in [0, 1], 1 where to paint.

    Raises:
        RefusedError: if the mask is 0 everywhere.
    """
    if picture.alpha is not None and picture.alpha.min() < 255:
        transparency = np.repeat(255 - picture.alpha[..., None], 3, axis=-1)
        picture = Picture(transparency, None, "RGB")
    mask = brightness(picture, size)
    if not mask.any():
        raise RefusedError(
            "`mask` must have a transparent or white part, where to paint.", field="mask"
        )
    return mask


def _check_at_most(name: str, value: int, most: int, unit: str = "") -> None:
    if value > most:
        raise RefusedError(f"`{name}` must be at most {most}{unit}, not {value}.", field=name)
