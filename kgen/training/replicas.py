"""Training over several devices: what is a sum over replicas, and what is decided once for all.

A training step runs on every device at once, as a replica, with its part of the global batch. Its
gradient is that of

    sum of the loss over the replica's examples / number of examples in the global batch

so the sum over replicas is the gradient of the mean over the global batch, however unevenly its
examples are spread (the last batch of an epoch may leave a replica without any). The sum is formed
first; clipping, the test whether a step is to be skipped, accumulation and the update itself then
see the same numbers on every device as one device would.

TensorFlow cannot synchronise replicas inside of a condition or a loop of one of them, where Keras
would like to (gradient accumulation, `steps_per_execution`). Conditions and loops are therefore
placed outside, in the cross-replica context: the decision is taken once, then all replicas run.

References:
  https://www.tensorflow.org/guide/distributed_training#use_tfdistributestrategy_with_custom_training_loops
"""

import contextlib

import tensorflow as tf

from kgen.tensors import sum_over_replicas


def global_mean(values):
    """A replica's part of the mean over the global batch of `values`, `[B]`; the parts add up.

    Example:
        >>> float(global_mean(tf.constant([1.0, 3.0])))
        2.0
    """
    num = sum_over_replicas(tf.cast(tf.shape(values)[0], tf.float32))
    return tf.reduce_sum(values) / tf.maximum(num, 1.0)


def global_loss(terms, extra=None):
    """Returns a replica's part of the training loss, a scalar; the parts add up.

    Args:
        terms: the terms of the loss, `{name: [B]}`; the loss is the mean of their sum.
        extra: a scalar that is the same on all replicas, such as a regulariser, or None.
    """
    loss = global_mean(tf.add_n(list(terms.values())))
    if extra is None:
        return loss
    return loss + extra / sum_over_replicas(tf.constant(1.0))


def prepare(model):
    """Readies a model that is compiled under a strategy of several devices.

    Keras would build it on the mean of a batch over the devices, which strings do not have; the
    networks of a kgen model are built already.
    """
    model._maybe_symbolic_build = lambda iterator=None, data_batch=None: None


def apply_gradients(optimizer, gradients, variables, skip_above=None, then=lambda: None):
    """Applies the sum of the replicas' gradients; called on a replica.

    Args:
        optimizer: a Keras optimizer, built. With `gradient_accumulation_steps` its weights move
            once in so many calls.
        gradients: a list of tensors, scaled by `optimizer.scale_loss`; None where there is none.
        variables: the Keras variables they belong to.
        skip_above: None, or the norm above which, or if it is not finite, nothing is done.
        then: a function that is called on every replica after the weights have moved.

    Returns:
        A boolean tensor, whether the gradient was skipped.
    """
    pairs = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
    gradients, variables = sum_over_replicas([g for g, _ in pairs]), [v for _, v in pairs]
    inner = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    steps = inner.gradient_accumulation_steps
    good = go_on = tf.constant(True)
    if skip_above is not None:
        norm = tf.linalg.global_norm(gradients) / optimizer.scale_loss(tf.constant(1.0))
        good = go_on = norm < skip_above  # NaN is not less than anything
        if inner is not optimizer:  # sees itself to what is not finite, and lowers the scale
            go_on |= ~optimizer.check_finite(gradients)

    def update(gradients, variables):
        """What Keras does at the end of an accumulation."""
        gradients = inner._clip_gradients(gradients)
        inner._apply_weight_decay(variables)
        inner._backend_update_step(gradients, variables, inner.learning_rate)

    here = {"_all_reduce_sum_gradients": lambda pairs: pairs}
    if steps:
        here["_backend_apply_gradients"] = update

    def move(strategy, gradients):
        def on_replica(gradients):
            optimizer.apply(gradients, variables)
            then()

        with _replaced(inner, here):  # summed and accumulated already
            strategy.extended.call_for_each_replica(on_replica, args=(gradients,))

    def accumulate(strategy, gradients):
        sums = [inner._accumulated_gradients[inner._get_variable_index(v)] for v in variables]
        for total, gradient in zip(sums, gradients, strict=True):
            strategy.extended.update(total.value, _add, args=(gradient,), group=False)

        def move_by_mean():
            def mean():
                return [total.value / steps for total in sums]

            move(strategy, strategy.extended.call_for_each_replica(mean))
            for total in sums:
                total.assign(tf.zeros_like(total))

        def wait():
            inner._iterations.assign_add(1)

        _cond((inner._iterations + 1) % steps == 0, move_by_mean, wait)

    def across_replicas(strategy, go_on, gradients):
        go = accumulate if steps else move
        if skip_above is None:
            go(strategy, gradients)
        else:
            go_on = strategy.experimental_local_results(go_on)[0]  # the same on all
            _cond(go_on, lambda: go(strategy, gradients), lambda: None)

    tf.distribute.get_replica_context().merge_call(across_replicas, args=(go_on, gradients))
    return ~good


def make_function(model, step):
    """What Keras calls a train or test function, for a strategy of several devices.

    Args:
        model: a `GenerativeModel`.
        step: `model.train_step` or `model.test_step`.

    Returns:
        A function from an iterator to the logs, which are those of the global batches.
    """
    strategy, names = model.distribute_strategy, []
    steps = model.steps_per_execution

    def run(batch):
        logs = strategy.run(step, args=(batch,))
        names[:] = logs

    def some_steps(iterator):
        def go_on(i, more):
            return more & (i < steps)

        def one(i, more):
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

    def function(iterator):
        done, logs = some_steps(iterator)
        if not done:
            raise StopIteration
        return logs

    return function


def _add(variable, value):
    variable.assign_add(tf.convert_to_tensor(value))


def _cond(condition, then, otherwise):
    """A condition for the effects alone."""

    def quiet(fn):
        def call():
            fn()

        return call

    tf.cond(condition, quiet(then), quiet(otherwise))


@contextlib.contextmanager
def _replaced(instance, attributes):
    """A context in which an object has other attributes, for example while a graph is traced."""
    own = vars(instance)
    before = {name: own[name] for name in attributes if name in own}
    own.update(attributes)
    try:
        yield
    finally:
        for name in attributes:
            del own[name]
        own.update(before)
