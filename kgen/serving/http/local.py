"""A model in this process as the backend of the server.

XLA compiles a model of large pictures for each batch size (`kgen.distribution.fused`), which takes
about a second. So there are only a few batch sizes, 1, 2, 3, 4, 6, 8, 12, ..., which the warm-up
compiles. A batch of another size is filled up with copies of its last picture, which are discarded.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from kgen.models.generative_model import GenerativeModel
from kgen.serving.capabilities import class_names, condition_kind, has_solver
from kgen.serving.http.backend import Describe, OnStep
from kgen.serving.http.job import Drawing, RefusedError

Value = TypeVar("Value")


class LocalModel:
    """A `Backend` that generates with a model in this process.

    Args:
        model: a model of pictures with `generate`, conditional on texts, on classes or on nothing.
        name: the name of the model for clients.
        describe: a function of `prompt`, `negative`, `seed` and `settings` that returns the
            metadata of a file, text by name; None for files without metadata.
        sizes: further sizes that clients may request, `(height, width)`, if the model takes any.
        styles: styles that the page suggests.
        max_batch: largest number of pictures in a batch.

    Raises:
        ValueError: if the model does not generate pictures, if its condition cannot be typed, or if
            the model cannot generate one of the sizes.
    """

    parallel = 1

    def __init__(
        self,
        model: GenerativeModel,
        name: str,
        *,
        describe: Describe | None = None,
        sizes: Iterable[tuple[int, int]] = (),
        styles: Iterable[str] = (),
        max_batch: int = 16,
    ) -> None:
        shape = tuple(model.data_shape)
        if not hasattr(model, "generate") or len(shape) != 3 or shape[-1] not in (1, 3, 4):
            raise ValueError(f"`model` must generate pictures. Received: a {type(model).__name__}.")
        self.condition_kind = condition_kind(model)
        if self.condition_kind == "other":
            raise ValueError(
                "`model` must be conditional on texts, on classes or on nothing. Received: a model "
                f"conditional on {model.conditioner.batch_key}."
            )
        self.model = model
        self.name = name
        self.shape = shape
        self.styles = list(styles)
        self.classes = class_names(model)
        self.has_solver = has_solver(model)
        self.edits = self.has_solver
        self.negatives = self.has_solver and self.condition_kind is not None
        for size in sizes:
            model.shapes_of(size)
        self.sizes = list(dict.fromkeys([shape[:2], *map(tuple, sizes)]))
        self.defaults: dict[str, Any] = {}
        if self.has_solver:
            self.defaults = {
                "steps": model.default_num_steps,
                "guidance": model.default_guidance_scale,
                "solver": str(model.default_solver),
            }
        self._describe = describe
        self._batch_sizes = batch_sizes(max_batch)

    def check(self, text: str, field: str) -> None:
        """Checks a prompt; see `Backend.check`.

        Raises:
            RefusedError: if the model does not accept the prompt.
        """
        if self.condition_kind is None:
            if text:
                raise RefusedError("The model takes no text.", field=field)
        else:
            try:
                self.model.conditioner.prepare([self._value(text)])
            except (TypeError, ValueError) as error:
                raise RefusedError(str(error), field=field) from error

    def describe(self, drawing: Drawing, seed: int) -> dict[str, str] | None:
        """Returns the metadata of the picture of a seed, or None."""
        if self._describe is None:
            return None
        settings = {"command": "generate" if drawing.image is None else "edit"}
        if self.has_solver:
            settings |= {**self.defaults, "steps": drawing.steps, "guidance": drawing.guidance}
        settings |= {"size": drawing.size, "strength": drawing.strength}
        return self._describe(
            prompt=drawing.prompt or None, negative=drawing.negative, seed=seed, settings=settings
        )

    def available(self) -> bool:
        """Returns True: the model can always generate."""
        return True

    def warm_up(self, cancelled: Callable[[], bool] = lambda: False) -> None:
        """Generates pictures of each batch size and kind, which compiles the graphs.

        Args:
            cancelled: a function that returns whether to stop early.
        """
        prompt = {"texts": "a", "classes": "0"}.get(self.condition_kind, "")
        settings = {}
        if self.has_solver:
            settings = {"steps": 2, "guidance": self.defaults.get("guidance")}
        kinds: list[dict[str, Any]] = [{"seeds": tuple(range(n))} for n in self._batch_sizes]
        kinds += [{"size": size} for size in self.sizes[1:]]
        if self.negatives:
            kinds.append({"negative": prompt})
        if self.edits:
            image = np.zeros(self.shape, "uint8")
            mask = np.ones((*self.shape[:2], 1), "float32")
            kinds.append({"image": image, "strength": 0.5})
            kinds.append({"image": image, "mask": mask, "strength": 1.0})
        for kind in kinds:
            if not cancelled():
                drawing = Drawing(prompt, **{"seeds": (0,), **settings, **kind})
                self.draw([drawing], lambda step, num_steps, preview: preview())

    def draw(self, drawings: Sequence[Drawing], on_step: OnStep | None = None) -> list[np.ndarray]:
        """Generates the pictures of drawings in one batch.

        Args:
            drawings: drawings with equal `key`.
            on_step: see `DenoiserModel.generate`.

        Returns:
            For each drawing its pictures, uint8 `[N, H, W, C]`.
        """
        first, counts = drawings[0], [len(drawing.seeds) for drawing in drawings]
        number = sum(counts)
        if self.has_solver:
            counts[-1] += next((n for n in self._batch_sizes if n >= number), number) - number
        seeds = [seed for drawing in drawings for seed in drawing.seeds]
        seeds += seeds[-1:] * (sum(counts) - number)
        condition = None
        if self.condition_kind is not None:
            condition = _repeated([self._value(d.prompt) for d in drawings], counts)
        if not self.has_solver:
            pictures = [
                self.model.generate(
                    1, condition=None if condition is None else condition[i : i + 1], seed=seed
                )
                for i, seed in enumerate(seeds)
            ]
            return _split(np.concatenate(pictures), counts)
        options: dict[str, Any] = {"size": first.size, "strength": first.strength}
        if self.condition_kind is None:
            options["num_samples"] = len(seeds)
        if first.negative is not None:
            options["negative"] = _repeated([self._value(d.negative) for d in drawings], counts)
        for name, values in (
            ("images", [drawing.image for drawing in drawings]),
            ("mask", [drawing.mask for drawing in drawings]),
        ):
            if values[0] is not None:
                options[name] = np.stack(_repeated(values, counts))
        pictures = self.model.generate(
            condition,
            seed=seeds,
            num_steps=first.steps,
            guidance_scale=first.guidance,
            on_step=on_step,
            **options,
        )
        return _split(pictures[:number], counts)

    def _value(self, text: str) -> str | int:
        """Returns what the conditioner takes for a text: the text, or the number of a class."""
        if self.condition_kind != "classes":
            return text
        if text.isdecimal() and len(text) < 10:
            return int(text)
        return self.classes.index(text) if text in (self.classes or ()) else text


def batch_sizes(most: int) -> list[int]:
    """Returns the batch sizes that are compiled, up to the first that is at least `most`.

    Example:
        >>> batch_sizes(16), batch_sizes(5)
        ([1, 2, 3, 4, 6, 8, 12, 16], [1, 2, 3, 4, 6])
    """
    sizes = sorted({*(2**k for k in range(12)), *(3 * 2**k for k in range(11))})
    return [n for i, n in enumerate(sizes) if i == 0 or sizes[i - 1] < most]


def _repeated(values: Sequence[Value], counts: Sequence[int]) -> list[Value]:
    """Repeats each value as often as its count says."""
    return [value for value, count in zip(values, counts) for _ in range(count)]


def _split(pictures: np.ndarray, counts: Sequence[int]) -> list[np.ndarray]:
    """Splits pictures into consecutive parts, each of as many pictures as its count says."""
    return np.split(pictures, np.cumsum(counts)[:-1])
