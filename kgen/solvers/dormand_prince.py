"""The adaptive Runge-Kutta method of Dormand and Prince, of order 5.

In y = z / alpha and the log-SNR l the probability flow does not depend on the scaling,

    dy/dl = -(y - x_hat) / 2

Seven evaluations of the slope give a result of order 5 and its difference to one of order 4, the
error estimate; the last evaluation is the first of the next step. A step is accepted if the root
mean square of the error, in units of atol + rtol |y|, is at most 1; the next step is 0.9
error^(-1/5) times as long, and a fifth as long after a result that is not finite. The number of
evaluations depends on the denoiser.

Each example has separate steps, so that its result does not depend on the other examples of its
batch; one call of the denoiser serves all examples, each at its own time, until the last of them
has reached the end.

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
from kgen.tensors import expand_to
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
        """Returns the length of the next step of each example, `[B]`, 0 if not known yet."""
        return tf.zeros(tf.shape(z)[:1], z.dtype)

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
            y = state[0]
            t = expand_to(process.schedule.time(log_snr), y)
            alpha, _ = process.alpha_sigma_of(expand_to(log_snr, y))
            return [-0.5 * (y - denoise(alpha * y, t))]

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
    """Integrates d state / dl = slope(l, state) for each example of a batch.

    Args:
        slope: a function of l `[B]` and a list of tensors `[B, ...]` that returns the list of their
            derivatives.
        state: list of tensors `[B, ...]`, the state at `start`.
        start: first value of l, scalar.
        end: last value of l, scalar.
        solver: a `DormandPrince`, for its tolerances.
        first_step: length of the first step, scalar or `[B]`; 0 for a fiftieth of the interval.

    Returns:
        The list of tensors at `end`, and the length that the next step would have, `[B]`.

    Raises:
        tf.errors.InvalidArgumentError: if `solver.max_steps` steps are not enough for an example,
            or a slope is not finite.
    """
    start, end = tf.convert_to_tensor(start), tf.convert_to_tensor(end)
    num = tf.shape(state[0])[:1]
    first_step = tf.broadcast_to(tf.cast(first_step, start.dtype), num)
    close = 1e-6 * tf.abs(end - start)

    def of_each(
        condition: tf.Tensor, new: list[tf.Tensor], old: list[tf.Tensor]
    ) -> list[tf.Tensor]:
        return [tf.where(expand_to(condition, y), v, y) for v, y in zip(new, old)]

    def body(
        count: tf.Tensor,
        at: tf.Tensor,
        planned: tf.Tensor,
        state: list[tf.Tensor],
        first: list[tf.Tensor],
    ) -> tuple:
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
        # A step that was shortened to meet the end does not shorten the planned one.
        longer = accept & (tf.abs(planned) > tf.abs(h * growth))
        return (
            count + 1,
            tf.where(accept, at + h, at),
            tf.where(longer | ~active, planned, h * growth),
            of_each(accept, new, state),
            of_each(accept, ks[-1], first),
        )

    def possible(h: tf.Tensor, first: list[tf.Tensor]) -> tf.Tensor:
        finite = [_all_event(tf.math.is_finite(k)) for k in first]
        return tf.reduce_all(tf.stack(finite), axis=0) & (tf.abs(h) > close)

    def under_way(at: tf.Tensor) -> tf.Tensor:
        return tf.abs(end - at) > close

    def going_on(at: tf.Tensor, h: tf.Tensor, first: list[tf.Tensor]) -> tf.Tensor:
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
        "The slope is not finite, or needs steps of less than a millionth of the interval.",
    )
    with tf.control_dependencies([] if found is None else [found]):
        arrived = tf.debugging.assert_equal(
            tf.reduce_any(under_way(at)),
            False,
            f"`max_steps` must be more than {solver.max_steps} for these tolerances.",
        )
    with tf.control_dependencies([] if arrived is None else [arrived]):
        return [tf.identity(y) for y in state], h


def _combine(weights: Sequence[float], ks: list[list[tf.Tensor]], i: int) -> tf.Tensor:
    return sum(w * k[i] for w, k in zip(weights, ks) if w)


def _mean_event(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_mean(x, axis=list(range(1, x.shape.rank)))


def _all_event(x: tf.Tensor) -> tf.Tensor:
    return tf.reduce_all(x, axis=list(range(1, x.shape.rank)))
