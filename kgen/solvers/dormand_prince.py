"""The adaptive Runge-Kutta method of Dormand and Prince, of order 5.

In y = z / alpha and the log-SNR l the probability flow does not depend on the scaling,

    dy/dl = -(y - x_hat) / 2

Seven evaluations of the slope give a result of order 5 and its difference to one of order 4, the
error estimate; the last evaluation is the first of the next step. A step is accepted if the root
mean square of the error, in units of atol + rtol |y|, is at most 1; the next step is 0.9
error^(-1/5) times as long, and a fifth as long after a result that is not finite. The number of
evaluations depends on the denoiser.

`integrate` applies the method to any differential equation; `kgen.log_likelihood` uses it.

Reference:
  Dormand and Prince (1980), https://doi.org/10.1016/0771-050X(80)90013-3.
"""

import dataclasses
from collections.abc import Callable, Sequence

import tensorflow as tf

from kgen.checks import check_count, check_positive
from kgen.diffusion.process import GaussianDiffusion
from kgen.serialization import serializable
from kgen.solvers.solver import Solver
from kgen.types import Denoise, Memory, TensorLike

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
    """Adaptive solver, which chooses its own steps between the times of the grid.

    Use it with `num_steps=1`, since it must stop at every time of the grid.

    Args:
        rtol: relative tolerance.
        atol: absolute tolerance.
        max_steps: largest number of steps between two times of the grid; more are an error.
        grid: see `Solver`.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("rtol", self.rtol)
        check_positive("atol", self.atol)
        check_count("max_steps", self.max_steps)

    def nfe(self, num_steps: int) -> None:
        """Returns None, since the number of calls is not known in advance."""
        return None

    def initial_memory(self, z: tf.Tensor) -> Memory:
        """Returns the length of the next step, 0 if it is not known yet."""
        return tf.zeros([], z.dtype)

    def step(
        self,
        denoise: Denoise,
        process: GaussianDiffusion,
        z: tf.Tensor,
        t: tf.Tensor,
        s: tf.Tensor,
        index: tf.Tensor,
        memory: Memory,
        seed: tf.Tensor | None,
    ) -> tuple[tf.Tensor, Memory]:
        """Integrates from `t` to `s` in as many steps as the tolerances require."""

        def slope(log_snr: tf.Tensor, state: list[tf.Tensor]) -> list[tf.Tensor]:
            alpha, _ = process.alpha_sigma_of(log_snr)
            return [-0.5 * (state[0] - denoise(alpha * state[0], process.schedule.time(log_snr)))]

        start, end = process.log_snr(t), process.log_snr(s)
        (alpha_t, _), (alpha_s, _) = (process.alpha_sigma_of(v) for v in (start, end))
        (y,), h = integrate(slope, [z / alpha_t], start, end, self, first_step=memory)
        return alpha_s * y, h


def integrate(
    slope: Callable[[tf.Tensor, list[tf.Tensor]], list[tf.Tensor]],
    state: list[tf.Tensor],
    start: TensorLike,
    end: TensorLike,
    solver: DormandPrince,
    first_step: TensorLike = 0.0,
) -> tuple[list[tf.Tensor], tf.Tensor]:
    """Integrates d state / dl = slope(l, state).

    Args:
        slope: a function of a scalar l and a list of tensors that returns the list of their
            derivatives.
        state: list of tensors, the state at `start`.
        start: first value of l, scalar.
        end: last value of l, scalar.
        solver: a `DormandPrince`, for its tolerances.
        first_step: length of the first step, scalar; 0 for a fiftieth of the interval.

    Returns:
        The list of tensors at `end`, and the length that the next step would have.

    Raises:
        tf.errors.InvalidArgumentError: if `solver.max_steps` steps are not enough, or a slope is
            not finite.
    """
    start, end = tf.convert_to_tensor(start), tf.convert_to_tensor(end)
    first_step = tf.cast(first_step, start.dtype)
    close = 1e-6 * tf.abs(end - start)

    def body(
        count: tf.Tensor,
        at: tf.Tensor,
        planned: tf.Tensor,
        state: list[tf.Tensor],
        first: list[tf.Tensor],
    ) -> tuple:
        h = tf.where(tf.abs(planned) > tf.abs(end - at), end - at, planned)
        ks = [first]
        for row, c in zip(_A, _C[1:]):
            stage = [y + h * _combine(row, ks, i) for i, y in enumerate(state)]
            ks.append(slope(at + c * h, stage))
        new = stage  # the last stage is the result of order 5
        squares = []
        for i, (y, new_y) in enumerate(zip(state, new)):
            scale = solver.atol + solver.rtol * tf.maximum(tf.abs(y), tf.abs(new_y))
            squares.append(tf.reduce_mean((h * _combine(_ERROR, ks, i) / scale) ** 2))
        error = tf.sqrt(tf.reduce_max(tf.stack(squares)))
        error = tf.where(tf.math.is_finite(error), error, error.dtype.max)
        accept = error <= 1
        growth = tf.clip_by_value(0.9 * tf.maximum(error, 1e-6) ** -0.2, 0.2, 5.0)
        # A step that was shortened to meet the end does not shorten the planned one.
        longer = accept & (tf.abs(planned) > tf.abs(h * growth))
        return (
            count + 1,
            tf.where(accept, at + h, at),
            tf.where(longer, planned, h * growth),
            [tf.where(accept, new_y, y) for y, new_y in zip(state, new)],
            [tf.where(accept, last_k, k) for k, last_k in zip(first, ks[-1])],
        )

    def possible(h: tf.Tensor, first: list[tf.Tensor]) -> tf.Tensor:
        finite = [tf.reduce_all(tf.math.is_finite(k)) for k in first]
        return tf.reduce_all(finite) & (tf.abs(h) > close)

    def under_way(at: tf.Tensor) -> tf.Tensor:
        return tf.abs(end - at) > close

    first = slope(start, list(state))
    _, at, h, state, first = tf.while_loop(
        lambda count, at, h, state, first: (
            under_way(at) & possible(h, first) & (count < solver.max_steps)
        ),
        body,
        (
            tf.constant(0),
            start,
            tf.where(first_step == 0, (end - start) / 50, first_step),
            list(state),
            first,
        ),
    )
    found = tf.debugging.assert_equal(
        possible(h, first) | ~under_way(at),
        True,
        "The slope is not finite, or needs steps of less than a millionth of the interval.",
    )
    with tf.control_dependencies([] if found is None else [found]):
        arrived = tf.debugging.assert_equal(
            under_way(at),
            False,
            f"`max_steps` must be more than {solver.max_steps} for these tolerances.",
        )
    with tf.control_dependencies([] if arrived is None else [arrived]):
        return [tf.identity(y) for y in state], h


def _combine(weights: Sequence[float], ks: list[list[tf.Tensor]], i: int) -> tf.Tensor:
    return sum(w * k[i] for w, k in zip(weights, ks) if w)
