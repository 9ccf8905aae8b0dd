"""A run from noise to examples, some steps at a time, so that a person can watch it and end it.

Each call of the compiled function makes as many steps as take about a tenth of a second, and one
where somebody wants to see each. Between two calls Python notices Ctrl-C.
"""

import time

import tensorflow as tf

AT_ONCE = 0.1  # seconds of steps that are made between two looks at what the user wants


class Run:
    """The steps of one batch of examples.

    Args:
        begin: compiled; makes the first state, see `kgen.sampling.sampler`.
        advance: compiled; makes some steps.
        finish: compiled; makes examples of the last state.
        preview: compiled; makes examples of a state before.
        num_steps: number of steps.
        trajectory: whether to keep the estimate after each step.
        on_step: None, or a function `on_step(step, num_steps, preview)`.
        bar: a Keras progress bar of all steps of all batches.
    """

    def __init__(self, begin, advance, finish, preview, num_steps, trajectory, on_step, bar):
        self.begin = begin
        self.advance = advance
        self.finish = finish
        self.preview = preview
        self.num_steps = num_steps
        self.trajectory = trajectory
        self.on_step = on_step
        self.bar = bar

    def __call__(self, seeds, indices, guided, given):
        """Draws examples.

        Args:
            seeds: int32 `[B, 2]`.
            indices: int32 `[B]`, which tell apart the examples of one seed.
            guided: a `Guided`.
            given: what to begin from, as of `kgen.sampling.request.start_of`.

        Returns:
            An array `[B, ...]`, of a trajectory `[B, num_steps, ...]`.
        """
        steps = tf.constant(self.num_steps)
        z, memory, times, seeds, begin = self.begin(seeds, indices, steps, given)
        last = int(times.shape[0]) - 1

        def examples(index):
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
