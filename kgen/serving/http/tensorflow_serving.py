"""TensorFlow Serving as the backend of the server: the same API and page for an exported model.

TensorFlow Serving runs SavedModels and has a REST interface, of which these requests are used:

    GET  URL/v1/models/NAME             {"model_version_status": [{"state": "AVAILABLE", ...}]}
    GET  URL/v1/models/NAME/metadata    the signatures, with their inputs and outputs
    POST URL/v1/models/NAME:predict     {"signature_name": ..., "inputs": {...}} -> {"outputs": ...}

`generate_png_with_seeds`, or else `generate_with_seeds`, generates a batch, with a seed for each
picture. `generate_with_negatives` and `edit` take one seed, so they are called once per picture.
There are no previews, since a call of a SavedModel returns only the finished pictures.

References:
  https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import io
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from kgen.serving.capabilities import ConditionKind
from kgen.serving.http.backend import Describe, OnStep
from kgen.serving.http.job import Drawing, RefusedError

STEPS, GUIDANCE = 20, 3.0  # an export does not hold the defaults of its model
CONDITIONS: dict[str, ConditionKind] = {"prompts": "texts", "labels": "classes"}
FIELDS = {"num_steps": "steps", "guidance_scale": "guidance", "images": "image"}


class TensorFlowServing:
    """A `Backend` that generates with an exported model on another server.

    Args:
        url: address of its REST interface, such as `"http://localhost:8501"`.
        name: name of the model there.
        describe: see `LocalModel`.
        styles: see `LocalModel`.
        timeout: seconds after which a call fails.
        parallel: number of calls that may be made at the same time.

    Raises:
        OSError: if the server cannot be reached, or does not have the model.
        ValueError: if `url` is not an HTTP address, or the model was not exported by kgen, does not
            generate pictures, or is conditional on other values than prompts or labels.
    """

    def __init__(
        self,
        url: str,
        name: str,
        *,
        describe: Describe | None = None,
        styles: Iterable[str] = (),
        timeout: float = 300.0,
        parallel: int = 4,
    ) -> None:
        if not re.match("https?://", url):
            raise ValueError(f"`url` must begin with http:// or https://. Received: {url!r}.")
        self.name = name
        self.parallel = parallel
        self.styles = list(styles)
        self.classes = None
        self._describe = describe
        self._path = f"{url.rstrip('/')}/v1/models/{name}"
        self._client = httpx.Client(timeout=httpx.Timeout(timeout, connect=10), trust_env=False)
        self.signatures = _signatures(self._get("/metadata"))
        found = self.signatures.get("generate_with_seeds")
        if found is None:
            known = sorted(self.signatures)
            raise ValueError(f"the model has no function generate_with_seeds, only {known}")
        inputs, outputs = found
        self.shape = tuple(outputs.get("images", ())[1:])
        if len(self.shape) != 3 or self.shape[-1] not in (1, 3, 4) or min(self.shape) < 1:
            raise ValueError(
                f"the model must generate pictures; its outputs have the shape {self.shape}"
            )
        conditions = set(inputs) - {"num_steps", "guidance_scale", "seeds"}
        if conditions - set(CONDITIONS):
            raise ValueError(
                f"the model must be conditional on prompts or labels, not on {sorted(conditions)}"
            )
        self._condition = next(iter(conditions), None)
        self._has_guidance = "guidance_scale" in inputs
        self.condition_kind = CONDITIONS.get(self._condition)
        self.sizes = [self.shape[:2]]
        self.edits = "edit" in self.signatures
        self.negatives = "generate_with_negatives" in self.signatures
        self.defaults = {"steps": STEPS, "guidance": GUIDANCE if self._has_guidance else 1.0}

    def check(self, text: str, field: str) -> None:
        """Checks a prompt; see `Backend.check`.

        Raises:
            RefusedError: if the model does not accept the prompt.
        """
        if self.condition_kind is None and text:
            raise RefusedError("The model takes no text.", field=field)
        if self.condition_kind == "classes" and not re.fullmatch("[0-9]{1,9}", text):
            raise RefusedError("The model takes the number of a class.", field=field)

    def describe(self, drawing: Drawing, seed: int) -> dict[str, str] | None:
        """Returns the metadata of the picture of a seed, or None."""
        if self._describe is None:
            return None
        settings = {"command": "generate" if drawing.image is None else "edit"}
        settings |= {"steps": drawing.steps, "guidance": drawing.guidance}
        return self._describe(
            prompt=drawing.prompt or None,
            negative=drawing.negative,
            seed=seed,
            settings={**settings, "strength": drawing.strength},
        )

    def available(self) -> bool:
        """Returns whether a version of the model is loaded now."""
        try:
            states = self._get("")["model_version_status"]
            return any(state.get("state") == "AVAILABLE" for state in states)
        except (OSError, KeyError, TypeError, AttributeError):
            return False

    def warm_up(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Waits until the model is available; an export may have its own warm-up requests.

        Args:
            cancelled: a function that returns whether to stop early.
        """
        while not cancelled() and not self.available():
            time.sleep(0.2)

    def draw(self, drawings: Sequence[Drawing], on_step: OnStep | None = None) -> list[np.ndarray]:
        """Generates the pictures of drawings, as `LocalModel.draw`; never calls `on_step`.

        Raises:
            RefusedError: if the model does not accept an argument (422), or the backend fails (502)
                or does not answer in time (504).
        """
        first, counts = drawings[0], [len(drawing.seeds) for drawing in drawings]
        if first.negative is not None or first.image is not None:
            return [np.concatenate([self._draw_one(d, seed) for seed in d.seeds]) for d in drawings]
        inputs = self._settings(first)
        if self._condition is not None:
            values = [self._value(drawing.prompt) for drawing in drawings]
            inputs[self._condition] = [v for v, n in zip(values, counts) for _ in range(n)]
        inputs["seeds"] = [seed_pair(seed) for drawing in drawings for seed in drawing.seeds]
        name = "generate_png_with_seeds"
        if name not in self.signatures:
            name = "generate_with_seeds"
        pictures = self._predict(name, inputs, sum(counts))
        return np.split(pictures, np.cumsum(counts)[:-1])

    def _draw_one(self, drawing: Drawing, seed: int) -> np.ndarray:
        """Generates one picture with a function that takes one seed; uint8 `[1, H, W, C]`."""
        inputs = {**self._settings(drawing), "seed": seed_pair(seed)}
        if self._condition is not None:
            inputs[self._condition] = [self._value(drawing.prompt)]
        if drawing.image is None:
            inputs[f"negative_{self._condition}"] = [self._value(drawing.negative)]
            return self._predict("generate_with_negatives", inputs, 1)
        if drawing.negative is not None:
            message = "The exported model cannot edit with a negative prompt."
            raise RefusedError(message, field="negative")
        mask = np.ones((*self.shape[:2], 1)) if drawing.mask is None else drawing.mask
        inputs["images"] = [(drawing.image / 127.5 - 1).round(6).tolist()]
        inputs["mask"] = [np.asarray(mask).tolist()]
        inputs["strength"] = drawing.strength
        return self._predict("edit", inputs, 1)

    def _settings(self, drawing: Drawing) -> dict[str, Any]:
        scale = {"guidance_scale": drawing.guidance} if self._has_guidance else {}
        return {"num_steps": drawing.steps, **scale}

    def _value(self, text: str) -> str | int:
        """Returns the text, or the number of a class."""
        return int(text) if self.condition_kind == "classes" else text

    def _get(self, path: str) -> dict[str, Any]:
        """Returns the JSON answer of a GET request.

        Raises:
            OSError: if the server cannot be reached, or answers with an error.
        """
        try:
            response = self._client.get(self._path + path)
            body = response.json()
        except (httpx.HTTPError, ValueError) as error:
            raise OSError(f"the backend cannot be reached: {error}") from error
        if response.status_code != 200 or not isinstance(body, dict):
            message = body.get("error") if isinstance(body, dict) else body
            raise OSError(f"the backend answers {response.status_code}: {message!s:.300}")
        return body

    def _predict(self, name: str, inputs: Mapping[str, Any], number: int) -> np.ndarray:
        """Calls a function of the model.

        Args:
            name: name of the function.
            inputs: its arguments by name.
            number: number of pictures that it returns.

        Returns:
            uint8 `[number, H, W, C]`.

        Raises:
            RefusedError: if the model does not accept an argument (422), or the backend fails (502)
                or does not answer in time (504).
        """
        body = {"signature_name": name, "inputs": inputs}
        try:
            response = self._client.post(f"{self._path}:predict", json=body)
            answer = response.json()
        except httpx.TimeoutException as error:
            raise RefusedError("The backend takes too long.", 504, code="timeout") from error
        except (httpx.HTTPError, ValueError) as error:
            raise RefusedError("The backend cannot be reached.", 502, code="backend") from error
        if response.status_code == 400:  # may be a bound of the graph, which names its argument
            text = str(answer.get("error", "") if isinstance(answer, dict) else answer)
            bound = re.search(r"`(\w+)` must be [^\n]*?\.(?=[\s\]\"']|$)", text)
            if bound:
                raise RefusedError(bound[0], field=FIELDS.get(bound[1], bound[1]))
        if response.status_code != 200:
            message = f"The backend answers {response.status_code}."
            raise RefusedError(message, 502, code="backend")
        try:
            return self._pictures(answer["outputs"], number)
        except (KeyError, TypeError, ValueError, OSError) as error:
            message = "The backend returned no pictures."
            raise RefusedError(message, 502, code="backend") from error

    def _pictures(self, outputs: Any, number: int) -> np.ndarray:
        """Decodes the outputs of a function, PNG files in base64 or nested lists of pixels."""
        if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
            outputs = [_decode_png(base64.b64decode(item["b64"])) for item in outputs]
        pictures = np.asarray(outputs, "uint8")
        return pictures.reshape(number, *self.shape)


def seed_pair(seed: int) -> list[int]:
    """Returns the two int32 of a seed, as `kgen.tensors.as_seed` does.

    Example:
        >>> seed_pair(7), seed_pair(2**31)
        ([7, 0], [-2147483648, 0])
    """
    words = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    return words.view(np.int32).tolist()


def _decode_png(data: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)


def _signatures(body: Mapping[str, Any]) -> dict[str, tuple[dict[str, tuple[int, ...]], ...]]:
    """Returns the shapes of the inputs and of the outputs of each function, by name.

    Args:
        body: the metadata of a model.

    Raises:
        ValueError: if the metadata have another form than documented.
    """
    try:
        functions = body["metadata"]["signature_def"]["signature_def"]
        return {
            name: tuple(
                {k: _shape(v) for k, v in (function.get(side) or {}).items()}
                for side in ("inputs", "outputs")
            )
            for name, function in functions.items()
        }
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("the backend does not describe its model as documented") from error


def _shape(tensor: Mapping[str, Any]) -> tuple[int, ...]:
    """Returns the shape of a tensor in the metadata, in which -1 is any size."""
    return tuple(int(axis["size"]) for axis in tensor["tensor_shape"].get("dim", ()))
