"""A sampling run in groups of steps, so that it can report progress and be interrupted.

Each call of the compiled function makes as many steps as take about a tenth of a second; one step
if every step is reported. Between two calls Python handles Ctrl-C.
"""

import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kgen.sampling.sampler import Guided

AT_ONCE = 0.1  # seconds of steps per call of the compiled function


class Run:
    """The sampling run of one batch of examples.

    Args:
        begin: compiled function that makes the first state; see `kgen.sampling.sampler`.
        advance: compiled function that makes some steps.
        finish: compiled function that converts the last state to examples.
        preview: compiled function that converts an earlier state to examples.
        num_steps: number of steps.
        trajectory: whether to return the estimate after each step.
        on_step: None, or a function `on_step(step, num_steps, preview)`, where `preview()` returns
            the current estimate.
        bar: a Keras progress bar over all steps of all batches.
    """

    def __init__(
        self,
        begin: Callable,
        advance: Callable,
        finish: Callable,
        preview: Callable,
        num_steps: int,
        trajectory: bool,
        on_step: Callable[[int, int, Callable], Any] | None,
        bar: keras.utils.Progbar,
    ) -> None:
        self.begin = begin
        self.advance = advance
        self.finish = finish
        self.preview = preview
        self.num_steps = num_steps
        self.trajectory = trajectory
        self.on_step = on_step
        self.bar = bar

    def __call__(
        self, seeds: tf.Tensor, indices: tf.Tensor, guided: Guided, given: dict[str, tf.Tensor]
    ) -> np.ndarray:
        """Draws examples.

        Args:
            seeds: int32 `[B, 2]`.
            indices: int32 `[B]`, which distinguish examples with the same seed.
            guided: a `Guided`.
            given: the start of sampling; see `kgen.sampling.request.start_of`.

        Returns:
            An array `[B, ...]`, or `[B, num_steps, ...]` with `trajectory`.
        """
        steps = tf.constant(self.num_steps)
        z, memory, times, seeds, begin = self.begin(seeds, indices, steps, given)
        last = int(times.shape[0]) - 1

        def examples(index: int) -> np.ndarray:
            show = self.finish if index == last else self.preview
            return show(z, times[: index + 1], guided, begin, given).numpy()

        watched = self.trajectory or self.on_step is not None
        done, size, path = 0, 1, []
        while done < last:
            size = min(1 if watched else size, last - done)
            started = time.monotonic()
            first, end = tf.constant(done), tf.constant(done + size)
            z, memory = self.advance(z, memory, times, first, end, seeds, guided, begin)
            done += size
            if self.trajectory:
                path.append(examples(done))
            if self.on_step is not None:
                self.on_step(done, last, lambda done=done: examples(done))
            self.bar.add(size)
            if time.monotonic() - started < AT_ONCE:
                size *= 2
        if not self.trajectory:
            return examples(last)
        return tf.stack(path or [examples(last)], axis=1).numpy()
