"""The adaptive Runge-Kutta pair of Dormand and Prince.

In y = z / alpha and the log-SNR l the probability flow is free of the scaling,

    dy/dl = -(y - x_hat) / 2

Seven slopes give a result of order 5 and its difference to one of order 4, the error. A step is
accepted when the root mean square of the error, in units of atol + rtol |y|, is at most 1; the next
one is 0.9 error^(-1/5) times as long. How many calls that takes depends on the denoiser.

`integrate` does the same for any differential equation; `kgen.log_likelihood` uses it.

Reference:
  Dormand and Prince (1980), https://doi.org/10.1016/0771-050X(80)90013-3.
"""

import dataclasses

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.serialization import serializable
from kgen.solvers.solver import Solver

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

    One step of the grid is enough: `num_steps=1`.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: number of steps after which it gives up.

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

    def step(self, denoise, process, z, t, s, index, memory, seed):
        """Integrates from `t` to `s`."""

        def slope(log_snr, state):
            alpha, _ = process.alpha_sigma_of(log_snr)
            return [-0.5 * (state[0] - denoise(alpha * state[0], process.schedule.time(log_snr)))]

        start, end = process.log_snr(t), process.log_snr(s)
        (alpha_t, _), (alpha_s, _) = (process.alpha_sigma_of(v) for v in (start, end))
        return alpha_s * integrate(slope, [z / alpha_t], start, end, self)[0], memory


def integrate(slope, state, start, end, solver):
    """Integrates d state / dl = slope(l, state).

    Args:
        slope: a function of a scalar and a list of tensors that returns a list of their shapes.
        state: list of tensors, at `start`.
        start: where to begin, scalar.
        end: where to arrive, scalar.
        solver: a `DormandPrince`, for its tolerances.

    Returns:
        The list of tensors at `end`.

    Raises:
        tf.errors.InvalidArgumentError: if `solver.max_steps` do not suffice.
    """

    def body(count, at, h, state):
        h = tf.where(tf.abs(h) > tf.abs(end - at), end - at, h)
        ks = [slope(at, state)]
        for row, c in zip(_A, _C[1:]):
            stage = [y + h * _combine(row, ks, i) for i, y in enumerate(state)]
            ks.append(slope(at + c * h, stage))
        new = stage  # the last stage is the result of order 5
        squares = []
        for i, (y, new_y) in enumerate(zip(state, new)):
            scale = solver.atol + solver.rtol * tf.maximum(tf.abs(y), tf.abs(new_y))
            squares.append(tf.reduce_mean((h * _combine(_ERROR, ks, i) / scale) ** 2))
        error = tf.sqrt(tf.reduce_max(tf.stack(squares)))
        accept = error <= 1
        growth = 0.9 * tf.maximum(error, 1e-6) ** -0.2
        return (
            count + 1,
            tf.where(accept, at + h, at),
            h * tf.clip_by_value(growth, 0.2, 5.0),
            [tf.where(accept, new_y, y) for y, new_y in zip(state, new)],
        )

    close = 1e-6 * tf.abs(end - start)
    _, at, _, state = tf.while_loop(
        lambda count, at, h, state: (tf.abs(end - at) > close) & (count < solver.max_steps),
        body,
        (tf.constant(0), start, (end - start) / 50, list(state)),
    )
    arrived = tf.debugging.assert_less_equal(
        tf.abs(end - at),
        close,
        f"`max_steps` must be more than {solver.max_steps} for these tolerances.",
    )
    with tf.control_dependencies([] if arrived is None else [arrived]):
        return [tf.identity(y) for y in state]


def _combine(weights, ks, i):
    return sum(w * k[i] for w, k in zip(weights, ks) if w)
