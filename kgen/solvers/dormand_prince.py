"""The adaptive Runge-Kutta pair of Dormand and Prince.

In y = z / alpha and the log-SNR l the probability flow is free of the scaling,

    dy/dl = -(y - x_hat) / 2

Seven slopes give a result of order 5 and its difference to one of order 4, the error; the last of
them is the first of the next step. A step is accepted when the root mean square of the error, in
units of atol + rtol |y|, is at most 1; the next one is 0.9 error^(-1/5) times as long, and a fifth
where there was no finite result. How many calls that takes depends on the denoiser.

Each example has steps of its own, so that its result does not depend on the others of its batch;
a call of the denoiser serves all, each at its own time. Those that have arrived wait.

`integrate` does the same for any differential equation; `kgen.log_likelihood` uses it.

Reference:
  Dormand and Prince (1980), https://doi.org/10.1016/0771-050X(80)90013-3.
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.tensors import expand_to

_A = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_C = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
_ERROR = (
    71 / 57600,
    0.0,
    -71 / 16695,
    71 / 1920,
    -17253 / 339200,
    22 / 525,
    -1 / 40,
)


@serializable
@dataclasses.dataclass(frozen=True)
class DormandPrince(Solver):
    """Solver that chooses its own steps between the times of the grid.

    One step of the grid is enough, `num_steps=1`: each of them has to be met.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of steps, of each of the grid, after which it gives up.

    Raises:
        ValueError: if an argument is not positive.

    Example:
        >>> DormandPrince().nfe(1) is None
        True
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000

    order = 5

    def __post_init__(self):
        super().__post_init__()
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_count("max_steps", self.max_steps)

    def nfe(self, num_steps):
        """None: the number is not known beforehand."""
        return None

    def initial_memory(self, z):
        """The length of each example's next step, `[B]`; 0 for none yet."""
        return tf.zeros(tf.shape(z)[:1], z.dtype)

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Integrates from `t` to `s`."""

        def slope(log_snr, state):
            y = state[0]
            t = expand_to(process.schedule.time(log_snr), y)
            alpha, _ = process.alpha_sigma_of(expand_to(log_snr, y))
            return [-0.5 * (y - denoise(alpha * y, t))]

        start, end = process.log_snr(t), process.log_snr(s)
        (alpha_t, _), (alpha_s, _) = (process.alpha_sigma_of(v) for v in (start, end))
        (y,), h = integrate(slope, [z / alpha_t], start, end, self, first_step=memory)
        return alpha_s * y, h


def integrate(slope, state, start, end, solver, first_step=0.0):
    """Integrates d state / dl = slope(l, state) for each example of a batch.

    Args:
        slope: a function of l `[B]` and a list of tensors `[B, ...]` that returns a list of their
            shapes.
        state: list of tensors `[B, ...]`, at `start`.
        start: where to begin, scalar.
        end: where to arrive, scalar.
        solver: a `DormandPrince`, for its tolerances.
        first_step: length of the first step, scalar or `[B]`; 0 for a fiftieth of the way.

    Returns:
        The list of tensors at `end`, and the length that the next step would have, `[B]`.

    Raises:
        tf.errors.InvalidArgumentError: if `solver.max_steps` do not suffice for an example, or a
            slope is not finite.
    """
    start, end = tf.convert_to_tensor(start), tf.convert_to_tensor(end)
    num = tf.shape(state[0])[:1]
    first_step = tf.broadcast_to(tf.cast(first_step, start.dtype), num)
    close = 1e-6 * tf.abs(end - start)

    def of_each(condition, new, old):
        return [tf.where(expand_to(condition, y), v, y) for v, y in zip(new, old)]

    def body(count, at, planned, state, first):
        active = going_on(at, planned, first)
        h = tf.where(tf.abs(planned) > tf.abs(end - at), end - at, planned)
        ks = [first]
        for row, c in zip(_A, _C[1:]):
            stage = [y + expand_to(h, y) * _combine(row, ks, i) for i, y in enumerate(state)]
            ks.append(slope(at + c * h, stage))
        new = stage  # the last stage is the result of order 5
        squares = []
        for i, (y, new_y) in enumerate(zip(state, new)):
            scale = solver.atol + solver.rtol * tf.maximum(tf.abs(y), tf.abs(new_y))
            error = expand_to(h, y) * _combine(_ERROR, ks, i) / scale
            squares.append(_mean_event(error**2))
        error = tf.sqrt(tf.reduce_max(tf.stack(squares), axis=0))
        error = tf.where(tf.math.is_finite(error), error, error.dtype.max)
        accept = active & (error <= 1)
        growth = tf.clip_by_value(0.9 * tf.maximum(error, 1e-6) ** -0.2, 0.2, 5.0)
        # A step that only the end made short says nothing against the one that was planned.
        longer = accept & (tf.abs(planned) > tf.abs(h * growth))
        return (
            count + 1,
            tf.where(accept, at + h, at),
            tf.where(longer | ~active, planned, h * growth),
            of_each(accept, new, state),
            of_each(accept, ks[-1], first),
        )

    def possible(h, first):
        finite = [_all_event(tf.math.is_finite(k)) for k in first]
        return tf.reduce_all(tf.stack(finite), axis=0) & (tf.abs(h) > close)

    def under_way(at):
        return tf.abs(end - at) > close

    def going_on(at, h, first):
        return under_way(at) & possible(h, first)

    at = tf.broadcast_to(start, num)
    first = slope(at, list(state))
    _, at, h, state, first = tf.while_loop(
        lambda count, at, h, state, first: (
            tf.reduce_any(going_on(at, h, first)) & (count < solver.max_steps)
        ),
        body,
        (
            tf.constant(0),
            at,
            tf.where(first_step == 0, (end - start) / 50, first_step),
            list(state),
            first,
        ),
    )
    found = tf.debugging.assert_equal(
        tf.reduce_all(possible(h, first) | ~under_way(at)),
        True,
        "The slope is not finite, or needs steps of less than a millionth of the way.",
    )
    with tf.control_dependencies([] if found is None else [found]):
        arrived = tf.debugging.assert_equal(
            tf.reduce_any(under_way(at)),
            False,
            f"`max_steps` must be more than {solver.max_steps} for these tolerances.",
        )
    with tf.control_dependencies([] if arrived is None else [arrived]):
        return [tf.identity(y) for y in state], h


def _combine(weights, ks, i):
    return sum(w * k[i] for w, k in zip(weights, ks) if w)


def _mean_event(x):
    return tf.reduce_mean(x, axis=list(range(1, x.shape.rank)))


def _all_event(x):
    return tf.reduce_all(x, axis=list(range(1, x.shape.rank)))
