"""Training on several devices: the sum of the gradients, and conditions common to all replicas.

A training step runs on every device, as a replica, with its part of the global batch. Its gradient
is that of

    sum of the loss over the replica's examples / number of examples in the global batch

so that the sum over replicas is the gradient of the mean over the global batch, even if replicas
have different numbers of examples (in the last batch of an epoch a replica may have none). The
gradients are summed first. Clipping, skipping, accumulation and the update then use the same
values on every device, those of a training on one device.

TensorFlow cannot synchronise replicas inside of a condition or a loop of one replica, as gradient
accumulation and `steps_per_execution` of Keras require. The conditions and loops are therefore in
the cross-replica context: they are evaluated once, and then all replicas run.

References:
  https://www.tensorflow.org/guide/distributed_training#use_tfdistributestrategy_with_custom_training_loops
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.tensors import sum_over_replicas
from kgen.types import TensorLike


def global_mean(values: tf.Tensor) -> tf.Tensor:
    """Returns a replica's part of the mean over the global batch, a scalar; the parts add up to it.

    Args:
        values: one value per example of the replica, `[B]`.

    Example:
        >>> float(global_mean(tf.constant([1.0, 3.0])))
        2.0
    """
    num = sum_over_replicas(tf.cast(tf.shape(values)[0], tf.float32))
    return tf.reduce_sum(values) / tf.maximum(num, 1.0)


def global_loss(terms: dict[str, tf.Tensor], extra: tf.Tensor | None = None) -> tf.Tensor:
    """Returns a replica's part of the training loss, a scalar; the parts add up to it.

    Args:
        terms: the terms of the loss, `{name: [B]}`; the loss is the mean of their sum.
        extra: a scalar that is the same on all replicas, such as a regulariser, or None.
    """
    loss = global_mean(tf.add_n(list(terms.values())))
    if extra is None:
        return loss
    return loss + extra / sum_over_replicas(tf.constant(1.0))


def prepare(model: keras.Model) -> None:
    """Prepares a model that is compiled under a strategy of several devices.

    It disables the symbolic build of Keras, which averages the first batches of the devices and
    fails for strings. The networks of a kgen model are built already.
    """
    model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[tf.Tensor | None],
    variables: Sequence[keras.Variable],
    skip_above: float | None = None,
    then: Callable[[], None] = lambda: None,
) -> tf.Tensor:
    """Applies the sum of the replicas' gradients; called on a replica.

    Args:
        optimizer: a built Keras optimizer. With `gradient_accumulation_steps` it changes the
            weights once in that many calls.
        gradients: a list of tensors, scaled by `optimizer.scale_loss`; None for a variable without
            a gradient.
        variables: the Keras variables of the gradients.
        skip_above: None, or the norm above which the update is skipped. It is then also skipped if
            the norm is not finite.
        then: a function that is called on every replica after the weights have changed.

    Returns:
        A boolean tensor, whether the update was skipped.
    """
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    gradients, variables = sum_over_replicas([g for g, _ in pairs]), [v for _, v in pairs]
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    steps = inner.gradient_accumulation_steps
    good = go_on = tf.constant(True)
    if skip_above is not None:
        norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.constant(1.0))
        good = go_on = norm < skip_above  # NaN is not less than anything
        if inner is not optimizer:  # a LossScaleOptimizer skips non-finite gradients itself
            go_on |= ~optimizer.check_finite(gradients)

    def update(gradients: Sequence[tf.Tensor | None], variables: Sequence[keras.Variable]) -> None:
        """Updates the weights, as Keras does at the end of an accumulation."""
        gradients = inner._clip_gradients(gradients)
        inner._apply_weight_decay(variables)
        inner._backend_update_step(gradients, variables, inner.learning_rate)

    methods = {"_all_reduce_sum_gradients": lambda pairs: pairs}
    if steps:
        methods["_backend_apply_gradients"] = update

    def move(strategy: tf.distribute.Strategy, gradients: Sequence[tf.Tensor | None]) -> None:
        def on_replica(gradients: Sequence[tf.Tensor | None]) -> None:
            optimizer.apply(gradients, variables)
            then()

        with _replaced(inner, methods):  # the gradients are summed and accumulated already
            strategy.extended.call_for_each_replica(on_replica, args=(gradients,))

    def accumulate(strategy: tf.distribute.Strategy, gradients: Sequence[tf.Tensor | None]) -> None:
        sums = [inner._accumulated_gradients[inner._get_variable_index(v)] for v in variables]
        for total, gradient in zip(sums, gradients, strict=True):
            strategy.extended.update(total.value, _add, args=(gradient,), group=False)

        def move_by_mean() -> None:
            def mean() -> list[tf.Tensor]:
                return [total.value / steps for total in sums]

            move(strategy, strategy.extended.call_for_each_replica(mean))
            for total in sums:
                total.assign(tf.zeros_like(total))

        def wait() -> None:
            inner._iterations.assign_add(1)

        _cond((inner._iterations + 1) % steps == 0, move_by_mean, wait)

    def across_replicas(
        strategy: tf.distribute.Strategy, go_on: tf.Tensor, gradients: Sequence[tf.Tensor | None]
    ) -> None:
        go = accumulate if steps else move
        if skip_above is None:
            go(strategy, gradients)
        else:
            go_on = strategy.experimental_local_results(go_on)[0]  # the same on all
            _cond(go_on, lambda: go(strategy, gradients), lambda: None)

    tf.distribute.get_replica_context().merge_call(across_replicas, args=(go_on, gradients))
    return ~good


def make_function(
    model: keras.Model, step: Callable[[Any], dict[str, tf.Tensor]]
) -> Callable[[Any], dict[str, tf.Tensor]]:
    """Returns a train or test function of Keras for a strategy of several devices.

    Args:
        model: a `kgen.training.model.TermsModel`.
        step: `model.train_step` or `model.test_step`.

    Returns:
        A function that takes an iterator of batches, makes the next steps, and returns the logs of
        the global batches.
    """
    strategy, names = model.distribute_strategy, []
    steps = model.steps_per_execution

    def run(batch: Any) -> None:
        logs = strategy.run(step, args=(batch,))
        names[:] = logs

    def some_steps(iterator: Any) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        def go_on(i: tf.Tensor, more: tf.Tensor) -> tf.Tensor:
            return more & (i < steps)

        def one(i: tf.Tensor, more: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = iterator.get_next_as_optional()
            _cond(batch.has_value(), lambda: run(batch.get_value()), lambda: None)
            return i + tf.cast(batch.has_value(), tf.int32), batch.has_value()

        if steps == 1:
            done, _ = one(tf.constant(0), True)
        else:
            done, _ = tf.while_loop(go_on, one, [tf.constant(0), tf.constant(True)])
        return done, model.results(names)

    if not model.run_eagerly:
        some_steps = tf.function(some_steps, reduce_retracing=True, autograph=False)

    def function(iterator: Any) -> dict[str, tf.Tensor]:
        done, logs = some_steps(iterator)
        if not done:
            raise StopIteration
        return logs

    return function


def _add(variable: tf.Variable, value: TensorLike) -> None:
    variable.assign_add(tf.convert_to_tensor(value))


def _cond(condition: tf.Tensor, then: Callable[[], Any], otherwise: Callable[[], Any]) -> None:
    """Runs one of two functions for its side effects."""

    def without_result(fn: Callable[[], Any]) -> Callable[[], None]:
        def call() -> None:
            fn()

        return call

    tf.cond(condition, without_result(then), without_result(otherwise))


@contextlib.contextmanager
def _replaced(instance: Any, attributes: dict[str, Any]) -> Iterator[None]:
    """A context in which attributes of an object are replaced."""
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
