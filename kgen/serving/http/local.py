"""A model in this process as the backend of a server.

A batch of a new size costs a model of large pictures a second, in which XLA compiles
(`kgen.distribution.fused`). So there are few sizes, 1, 2, 3, 4, 6, 8, 12, ..., which the warm-up
draws; a batch between two of them is filled up with its last picture, drawn once more for nobody.
"""

import numpy as np

from kgen.serving.capabilities import class_names, condition_kind, has_solver
from kgen.serving.http.job import Drawing, RefusedError


class LocalModel:
    """A model that draws pictures.

    Args:
        model: a kgen model with `generate`, whose condition can be typed.
        name: what clients call it.
        describe: None, or a function of `prompt`, `negative`, `seed` and `settings` that returns
            what a file says of how it was made, a dictionary of strings.
        sizes: further sizes `(height, width)` that clients may ask for, where the model takes any.
        styles: styles that the page suggests.
        max_batch: largest batch that will be asked for.

    Raises:
        ValueError: if the model draws no pictures, or its condition cannot be typed, or it cannot
            draw one of the sizes.
    """

    parallel = 1  # batches at the same time

    def __init__(self, model, name, *, describe=None, sizes=(), styles=(), max_batch=16):
        shape = tuple(model.data_shape)
        if not hasattr(model, "generate") or len(shape) != 3 or shape[-1] not in (1, 3, 4):
            raise ValueError(f"`model` must draw pictures. Received: a {type(model).__name__}.")
        self.takes = condition_kind(model)
        if self.takes == "other":
            raise ValueError("`model` must take texts, classes or nothing: others cannot be typed.")
        self.model = model
        self.name = name
        self.shape = shape
        self.styles = list(styles)
        self.classes = class_names(model)
        self.solves = has_solver(model)
        self.edits = self.solves
        self.negatives = self.solves and self.takes is not None
        for size in sizes:
            model.shapes_of(size)
        self.sizes = list(dict.fromkeys([shape[:2], *map(tuple, sizes)]))
        self.defaults = {}
        if self.solves:
            self.defaults = {
                "steps": model.default_num_steps,
                "guidance": model.default_guidance_scale,
                "solver": str(model.default_solver),
            }
        self._describe = describe
        self._batches = batch_sizes(max_batch)

    def check(self, text, field):
        """Raises a `RefusedError` for a prompt that the model does not take."""
        if self.takes is None:
            if text:
                raise RefusedError("The model takes no text.", field=field)
        else:
            try:
                self.model.conditioner.prepare([self._value(text)])
            except (TypeError, ValueError) as error:
                raise RefusedError(str(error), field=field) from error

    def describe(self, drawing, seed):
        """Returns what the file of a picture says of how it was made, or None."""
        if self._describe is None:
            return None
        settings = {"command": "generate" if drawing.image is None else "edit"}
        if self.solves:
            settings |= {**self.defaults, "steps": drawing.steps, "guidance": drawing.guidance}
        settings |= {"size": drawing.size, "strength": drawing.strength}
        return self._describe(
            prompt=drawing.prompt or None, negative=drawing.negative, seed=seed, settings=settings
        )

    def available(self):
        """Whether it can draw now."""
        return True

    def warm_up(self, ended=lambda: False):
        """Draws one picture of each kind, so that the first request does not wait for compiling."""
        prompt = {"texts": "a", "classes": "0"}.get(self.takes, "")
        few = {"steps": 2, "guidance": self.defaults.get("guidance")} if self.solves else {}
        kinds = [{"seeds": tuple(range(number))} for number in self._batches]
        kinds += [{"size": size} for size in self.sizes[1:]]
        if self.negatives:
            kinds.append({"negative": prompt})
        if self.edits:
            image = np.zeros(self.shape, "uint8")
            mask = np.ones((*self.shape[:2], 1), "float32")
            kinds.append({"image": image, "strength": 0.5})
            kinds.append({"image": image, "mask": mask, "strength": 1.0})
        for kind in kinds:
            if not ended():
                drawing = Drawing(prompt, **{"seeds": (0,), **few, **kind})
                self.draw([drawing], lambda *step: step[2]())

    def draw(self, drawings, on_step=None):
        """Draws in one batch.

        Args:
            drawings: `Drawing`s of one key.
            on_step: as of `generate`.

        Returns:
            For each drawing uint8 `[its pictures, H, W, C]`.
        """
        first, counts = drawings[0], [len(drawing.seeds) for drawing in drawings]
        number = sum(counts)
        if self.solves:
            counts[-1] += next((n for n in self._batches if n >= number), number) - number
        seeds = [seed for drawing in drawings for seed in drawing.seeds]
        seeds += seeds[-1:] * (sum(counts) - number)
        condition = None
        if self.takes is not None:
            condition = _each([self._value(d.prompt) for d in drawings], counts)
        if not self.solves:
            pictures = [
                self.model.generate(
                    1, condition=None if condition is None else condition[i : i + 1], seed=seed
                )
                for i, seed in enumerate(seeds)
            ]
            return _parts(np.concatenate(pictures), counts)
        options = {"size": first.size, "strength": first.strength}
        if self.takes is None:
            options["num_samples"] = len(seeds)
        if first.negative is not None:
            options["negative"] = _each([self._value(d.negative) for d in drawings], counts)
        for name, values in (
            ("images", [drawing.image for drawing in drawings]),
            ("mask", [drawing.mask for drawing in drawings]),
        ):
            if values[0] is not None:
                options[name] = np.stack(_each(values, counts))
        pictures = self.model.generate(
            condition,
            seed=seeds,
            num_steps=first.steps,
            guidance_scale=first.guidance,
            on_step=on_step,
            **options,
        )
        return _parts(pictures[:number], counts)

    def _value(self, text):
        """What the conditioner takes for a text: itself, or the number of a class."""
        if self.takes != "classes":
            return text
        if text.isdecimal() and len(text) < 10:
            return int(text)
        return self.classes.index(text) if text in (self.classes or ()) else text


def batch_sizes(most):
    """The numbers of pictures that are drawn at once, up to one that holds `most`.

    Example:
        >>> batch_sizes(16), batch_sizes(5)
        ([1, 2, 3, 4, 6, 8, 12, 16], [1, 2, 3, 4, 6])
    """
    sizes = sorted({*(2**k for k in range(12)), *(3 * 2**k for k in range(11))})
    return [n for i, n in enumerate(sizes) if i == 0 or sizes[i - 1] < most]


def _each(values, counts):
    return [value for value, count in zip(values, counts) for _ in range(count)]


def _parts(pictures, counts):
    return np.split(pictures, np.cumsum(counts)[:-1])
