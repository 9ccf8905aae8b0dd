"""TensorFlow Serving as the backend of a server: the same API and page before an exported model.

It serves SavedModels over REST. Asked for here:

    GET  URL/v1/models/NAME             {"model_version_status": [{"state": "AVAILABLE", ...}]}
    GET  URL/v1/models/NAME/metadata    the signatures, their inputs and outputs
    POST URL/v1/models/NAME:predict     {"signature_name": ..., "inputs": {...}} -> {"outputs": ...}

`generate_png_with_seeds` or else `generate_with_seeds` draws a batch, each picture by its seed.
`generate_with_negatives` and `edit` of an export take one seed, so their pictures are drawn one by
one. There are no looks at the way: a call of a SavedModel ends with the picture.

References:
  https://www.tensorflow.org/tfx/serving/api_rest
"""

import base64
import io
import re
import time

import httpx
import numpy as np

from kgen.serving.http.job import RefusedError

STEPS, GUIDANCE = 20, 3.0  # an export does not say what its model was made for
CONDITIONS = {"prompts": "texts", "labels": "classes"}
FIELDS = {"num_steps": "steps", "guidance_scale": "guidance", "images": "image"}


class TensorFlowServing:
    """A model that another server draws with.

    Args:
        url: of its REST interface, such as `"http://localhost:8501"`.
        name: of the model there.
        describe: as of `LocalModel`.
        styles: as of `LocalModel`.
        timeout: seconds for one call.
        parallel: how many calls there may be at the same time.

    Raises:
        OSError: if the server cannot be reached, or has no such model.
        ValueError: if it is no model of pictures that kgen exported with prompts or labels.
    """

    def __init__(self, url, name, *, describe=None, styles=(), timeout=300.0, parallel=4):
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
            raise ValueError(f"the model must draw pictures; they are of shape {self.shape}")
        conditions = set(inputs) - {"num_steps", "guidance_scale", "seeds"}
        if conditions - set(CONDITIONS):
            raise ValueError(f"what the model takes cannot be typed: {sorted(conditions)}")
        self._condition = next(iter(conditions), None)
        self._guided = "guidance_scale" in inputs
        self.takes = CONDITIONS.get(self._condition)
        self.sizes = [self.shape[:2]]
        self.edits = "edit" in self.signatures
        self.negatives = "generate_with_negatives" in self.signatures
        self.defaults = {"steps": STEPS, "guidance": GUIDANCE if self._guided else 1.0}

    def check(self, text, field):
        """Raises a `RefusedError` for a prompt that the model does not take."""
        if self.takes is None and text:
            raise RefusedError("The model takes no text.", field=field)
        if self.takes == "classes" and not re.fullmatch("[0-9]{1,9}", text):
            raise RefusedError("The model takes the number of a class.", field=field)

    def describe(self, drawing, seed):
        """As of `LocalModel`."""
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

    def available(self):
        """Whether a version of the model is loaded there now."""
        try:
            states = self._get("")["model_version_status"]
            return any(state.get("state") == "AVAILABLE" for state in states)
        except (OSError, KeyError, TypeError, AttributeError):
            return False

    def warm_up(self, ended=lambda: False):
        """Waits until the model is available; an export may have warm-up requests of its own."""
        while not ended() and not self.available():
            time.sleep(0.2)

    def draw(self, drawings, on_step=None):
        """Draws; see `LocalModel.draw`. Does not call `on_step`."""
        first, counts = drawings[0], [len(drawing.seeds) for drawing in drawings]
        if first.negative is not None or first.image is not None:
            return [np.concatenate([self._one(d, seed) for seed in d.seeds]) for d in drawings]
        inputs = self._common(first)
        if self._condition is not None:
            values = [self._value(drawing.prompt) for drawing in drawings]
            inputs[self._condition] = [v for v, n in zip(values, counts) for _ in range(n)]
        inputs["seeds"] = [seed_pair(seed) for drawing in drawings for seed in drawing.seeds]
        name = "generate_png_with_seeds"
        if name not in self.signatures:
            name = "generate_with_seeds"
        pictures = self._predict(name, inputs, sum(counts))
        return np.split(pictures, np.cumsum(counts)[:-1])

    def _one(self, drawing, seed):
        """One picture, by a function that takes one seed."""
        inputs = {**self._common(drawing), "seed": seed_pair(seed)}
        if self._condition is not None:
            inputs[self._condition] = [self._value(drawing.prompt)]
        if drawing.image is None:
            inputs[f"negative_{self._condition}"] = [self._value(drawing.negative)]
            return self._predict("generate_with_negatives", inputs, 1)
        if drawing.negative is not None:
            message = "The exported model takes no negative prompt with a picture."
            raise RefusedError(message, field="negative")
        mask = np.ones((*self.shape[:2], 1)) if drawing.mask is None else drawing.mask
        inputs["images"] = [(drawing.image / 127.5 - 1).round(6).tolist()]
        inputs["mask"] = [np.asarray(mask).tolist()]
        inputs["strength"] = drawing.strength
        return self._predict("edit", inputs, 1)

    def _common(self, drawing):
        scale = {"guidance_scale": drawing.guidance} if self._guided else {}
        return {"num_steps": drawing.steps, **scale}

    def _value(self, text):
        return int(text) if self.takes == "classes" else text

    def _get(self, path):
        return self._json(lambda: self._client.get(self._path + path))

    def _json(self, ask):
        try:
            answer = ask()
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise OSError(f"the backend cannot be reached: {error}") from error
        if answer.status_code != 200 or not isinstance(body, dict):
            said = body.get("error") if isinstance(body, dict) else body
            raise OSError(f"the backend answers {answer.status_code}: {said!s:.300}")
        return body

    def _predict(self, name, inputs, number):
        """Calls a function of the model; returns uint8 `[number, H, W, C]`."""
        body = {"signature_name": name, "inputs": inputs}
        try:
            answer = self._client.post(f"{self._path}:predict", json=body)
            said = answer.json()
        except httpx.TimeoutException as error:
            raise RefusedError("The backend takes too long.", 504, code="timeout") from error
        except (httpx.HTTPError, ValueError) as error:
            raise RefusedError("The backend cannot be reached.", 502, code="backend") from error
        if answer.status_code == 400:  # a bound of the graph, which names its argument
            text = str(said.get("error", "") if isinstance(said, dict) else said)
            bound = re.search(r"`(\w+)` must be [^\n]*?\.(?=[\s\]\"']|$)", text)
            if bound:
                raise RefusedError(bound[0], field=FIELDS.get(bound[1], bound[1]))
        if answer.status_code != 200:
            message = f"The backend answers {answer.status_code}."
            raise RefusedError(message, 502, code="backend")
        try:
            return self._pictures(said["outputs"], number)
        except (KeyError, TypeError, ValueError, OSError) as error:
            raise RefusedError("The backend sends no pictures.", 502, code="backend") from error

    def _pictures(self, outputs, number):
        if isinstance(outputs, list) and outputs and isinstance(outputs[0], dict):
            outputs = [_decoded(base64.b64decode(item["b64"])) for item in outputs]
        pictures = np.asarray(outputs, "uint8")
        return pictures.reshape(number, *self.shape)


def seed_pair(seed):
    """The two int32 of a seed, as `kgen.tensors.as_seed` makes them.

    Example:
        >>> seed_pair(7), seed_pair(2**31)
        ([7, 0], [-2147483648, 0])
    """
    words = np.array([seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF], np.uint32)
    return words.view(np.int32).tolist()


def _decoded(data):
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        return np.asarray(image)


def _signatures(body):
    """The shapes of inputs and outputs of each function, by name."""
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


def _shape(tensor):
    """The shape of a tensor in metadata; -1 is any size."""
    return tuple(int(axis["size"]) for axis in tensor["tensor_shape"].get("dim", ()))
