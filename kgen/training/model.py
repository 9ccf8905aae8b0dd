"""A Keras model whose loss is a sum of named terms: one training step, one evaluation step.

A model defines its loss as terms per example, `loss_terms(batch) -> {name: [B]}`, named as in its
paper. The training loss is the mean over the batch of their sum, plus the regularisers and
`add_loss` of its networks. This module implements the rest of a Keras training step: loss scaling
under mixed precision, gradient accumulation through `optimizer.apply`, a running mean of each term,
averaged weights, and skipped steps. For training on several devices see `kgen.training.replicas`.

Evaluation uses the averaged weights and the same noise every time, so that its result on the same
data is reproducible.
"""

import abc
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import tensorflow as tf

from kgen.checks import check_interval
from kgen.distribution import fused, is_chief
from kgen.layer_tree import check_savable, layers_of
from kgen.serialization import Untracked
from kgen.tensors import SeedStream, as_seed, fold_in
from kgen.training import replicas, update
from kgen.training.averaging import WeightAverages
from kgen.training.data import Data, split_weights
from kgen.types import Batch, Path

WRITERS = keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint, keras.callbacks.TensorBoard
REGULARIZATION = "regularization"
EVALUATION_SEED = 0


class TermsModel(keras.Model, abc.ABC):
    """Abstract base of models that are trained on the sum of their `loss_terms`.

    A subclass defines `loss_terms` and, after its networks are built, calls `start_averaging` at
    the end of its constructor.

    Args:
        ema_decay: decay of the averaged weights, in [0, 1), or None for no averaging.
        seed: integer seed of all randomness in training; None for a random one, which
            `keras.utils.set_random_seed` makes reproducible.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        TypeError: if `ema_decay` is not a number.
        ValueError: if `ema_decay` is out of range.
    """

    target_key = None  # key of the entry of a batch that the targets of `fit(x, y)` become
    frozen_weights = ()  # the weights that are frozen during a fine-tuning

    def __init__(
        self, *, ema_decay: float | None = None, seed: int | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.autocast = False
        if ema_decay is not None:
            check_interval("ema_decay", ema_decay, "[0, 1)")
        self.ema_decay = ema_decay
        self.seeds = SeedStream(seed, name="seeds")
        self.averages = None
        self.skip_above = None
        self._means = {}

    @property
    def term_names(self) -> tuple[str, ...]:
        """Names of the loss terms, which training and evaluation report."""
        return ()

    @property
    def evaluation_names(self) -> tuple[str, ...]:
        """Names of the values that evaluation reports beside the loss terms."""
        return ()

    @abc.abstractmethod
    def loss_terms(
        self, batch: Batch, training: bool = False, seed: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the terms of the loss for each example.

        Args:
            batch: a batch of the data set, without example weights.
            training: whether layers such as dropout are active.
            seed: an int32 pair; None for the next one of the model.

        Returns:
            A dictionary of tensors `[B]` whose sum is the training loss of each example.
        """

    def evaluation_terms(self, batch: Batch, seed: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the values that evaluation reports beside the loss terms, `{name: [B]}`."""
        return {}

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation; raises an error if it is not valid."""

    def warn_about(self, batch: Batch) -> None:
        """Warns of a batch that is valid but probably a mistake."""

    def as_batch(self, data: Any) -> tuple[Batch, tf.Tensor | None]:
        """Splits a batch of the data set into the argument of `loss_terms` and example weights.

        Args:
            data: x, `(x, y)` or `(x, y, sample_weight)`.

        Returns:
            The batch, and the weights `[B]` or None.
        """
        return split_weights(data, self.target_key)

    def start_averaging(self, variables: Sequence[keras.Variable] | None = None) -> None:
        """Creates the averaged weights, at the present values of the weights.

        Args:
            variables: the weights to average; None for all trainable ones.
        """
        self.averages = WeightAverages(self, self.ema_decay, variables, name="averages")

    def averaged(self) -> AbstractContextManager:
        """Returns a context in which the averaged weights replace the trained ones."""
        return self.averages.scope()

    @property
    def optimized_variables(self) -> list[keras.Variable]:
        """The variables that the optimizer of `compile` trains: all trainable ones."""
        return self.trainable_variables

    def compile(
        self,
        optimizer: keras.optimizers.Optimizer | str = "adam",
        *,
        jit_compile: bool = False,
        skip_above: float | None = None,
        **kwargs: Any,
    ) -> None:
        """Configures training as `keras.Model.compile`, but without a loss: the model has its own.

        Args:
            optimizer: a Keras optimizer or its name.
            jit_compile: whether XLA compiles the steps, which is faster for dense networks and on
                GPUs.
            skip_above: None, or the norm of the gradient above which a step is skipped. Steps with
                a gradient that is not finite are skipped too; `float("inf")` skips only these.
                `skipped_steps` counts the skipped steps, and `kgen.callbacks.Guard` stops the
                training after many in a row.
            **kwargs: arguments of `keras.Model.compile`.

        Raises:
            TypeError: if `skip_above` is not a number.
            ValueError: if there is a `loss` or a metric, the optimizer has `use_ema`, `skip_above`
                is not positive, or `jit_compile` is True under a strategy of several devices.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name):
                raise ValueError(
                    f"`{name}` must not be given: {type(self).__name__} defines its own loss, and "
                    f"reports its terms. Received: {name}={kwargs[name]!r}."
                )
        if skip_above is not None:
            check_interval("skip_above", skip_above, "(0, inf]")
        optimizer = keras.optimizers.get(optimizer)
        if optimizer.use_ema:
            raise ValueError(
                "`optimizer` must not have `use_ema`, which overwrites the weights at the end of "
                "`fit`: pass `ema_decay` to the model instead."
            )
        if jit_compile and self.distribute_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "`jit_compile` must be False under a strategy of several devices: XLA compiles a "
                f"step for one. Received: jit_compile={jit_compile}."
            )
        super().compile(optimizer=optimizer, jit_compile=jit_compile, **kwargs)
        # If the training step created variables, TensorFlow would trace it twice.
        self.optimizer.build(self.optimized_variables)
        for name in ("loss", *self.term_names, *self.evaluation_names):
            self._mean(name)
        if any(getattr(layer, "kernel_regularizer", None) for layer in layers_of(self)):
            self._mean(REGULARIZATION)
        self.skip_above = skip_above
        if skip_above is not None:
            self.skipped_steps = tf.Variable(0, trainable=False, name="skipped_steps")
            self.skipped_in_a_row = tf.Variable(0, trainable=False, name="skipped_in_a_row")
            self.skipped_terms = tf.Variable(
                tf.zeros([len(self.term_names)], tf.int32), trainable=False, name="skipped_terms"
            )
        self._evaluated = Untracked(
            tf.Variable(
                0,
                trainable=False,
                aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
                name="evaluated_batches",
            )
        )
        if self.distribute_strategy.num_replicas_in_sync > 1:
            replicas.prepare(self)

    def save(self, filepath: Path, *args: Any, **kwargs: Any) -> None:
        """Saves the model as `keras.Model.save` does.

        Args:
            filepath: path of a `.keras` file.
            *args: arguments of `keras.Model.save`.
            **kwargs: arguments of `keras.Model.save`.

        Raises:
            ValueError: if the model has a part that could not be loaded again.
        """
        check_savable(self)
        super().save(filepath, *args, **kwargs)

    def get_compile_config(self) -> dict[str, Any]:
        """Returns the arguments of `compile` for a `.keras` file, or None before `compile`."""
        config = super().get_compile_config()
        return config and {**config, "skip_above": self.skip_above}

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a model that `keras.saving.load_model` has rebuilt, from its configuration."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def train_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Makes one optimizer step on the loss of a batch.

        Args:
            data: a batch of the data set.

        Returns:
            The running means of the loss and its terms.
        """
        batch, weights = self.as_batch(data)
        variables = self.optimized_variables
        with fused(training=True), tf.GradientTape() as tape:
            terms = weighted(self.loss_terms(batch, training=True), weights)
            extra = self.regularization()
            scaled = self.optimizer.scale_loss(replicas.global_loss(terms, extra))
        skipped = self.apply_gradients(self.optimizer, tape.gradient(scaled, variables), variables)
        return self.logs(terms, extra, skipped=skipped)

    def test_step(self, data: Any) -> dict[str, tf.Tensor]:
        """Evaluates the loss terms and `evaluation_terms` of a batch with the averaged weights.

        Args:
            data: a batch of the data set.

        Returns:
            The running means of the loss, its terms and the evaluation terms.
        """
        batch, weights = self.as_batch(data)
        seed = self._evaluation_seed()
        with self.averaged(), fused():
            terms = weighted(self.loss_terms(batch, training=False, seed=seed), weights)
            others = self.evaluation_terms(batch, seed)
            extra = self.regularization()
        return self.logs(terms, extra, **others)

    def regularization(self) -> tf.Tensor | None:
        """Returns the sum of the regularisers and `add_loss` of the networks, a scalar, or None."""
        losses = self.losses
        return tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else None

    def apply_gradients(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[keras.Variable],
    ) -> tf.Tensor:
        """Updates the weights and their averages, unless the step is skipped.

        Args:
            optimizer: a Keras optimizer.
            gradients: a list of tensors, scaled by `optimizer.scale_loss`; None for a variable
                without a gradient.
            variables: the variables of the gradients.

        Returns:
            A boolean tensor, whether the step was skipped.
        """
        skipped = self.apply_gradients_of(optimizer, gradients, variables, self.averages.update)
        if self.skip_above is not None:
            one = tf.cast(skipped, tf.int32)
            self.skipped_steps.assign_add(one)
            self.skipped_in_a_row.assign(one * (self.skipped_in_a_row + 1))
        return skipped

    def apply_gradients_of(
        self,
        optimizer: keras.optimizers.Optimizer,
        gradients: Sequence[tf.Tensor | None],
        variables: Sequence[keras.Variable],
        then: Callable[[], None] = lambda: None,
    ) -> tf.Tensor:
        """Updates weights with an optimizer, such as that of a discriminator.

        Args:
            optimizer: a Keras optimizer.
            gradients: see `apply_gradients`.
            variables: see `apply_gradients`.
            then: a function that is called after the weights have changed.

        Returns:
            A boolean tensor, whether the step was skipped.
        """
        strategy = tf.distribute.has_strategy()  # of one device too
        apply = replicas.apply_gradients if strategy else update.apply_gradients
        return apply(optimizer, gradients, variables, self.skip_above, then)

    def logs(
        self,
        terms: dict[str, tf.Tensor],
        extra: tf.Tensor | None = None,
        *,
        skipped: tf.Tensor | None = None,
        **others: Any,
    ) -> dict[str, tf.Tensor]:
        """Updates the running means of the loss, its terms and other values, and returns them.

        Args:
            terms: the loss terms, `{name: [B]}`.
            extra: a scalar that is added to the loss, such as a regulariser, or None.
            skipped: a boolean tensor, whether the step was skipped; then the means do not change.
            **others: other values to report, `[B]` each.
        """
        loss = tf.add_n(list(terms.values()))
        values = {"loss": loss if extra is None else loss + extra, **terms, **others}
        if extra is not None:
            values[REGULARIZATION] = extra
        weight = None
        if skipped is not None and self.skip_above is not None:
            weight = 1.0 - tf.cast(skipped, tf.float32)
            self._record_broken_terms(terms, skipped)
            values = {
                name: tf.where(skipped, tf.zeros_like(value), value)
                for name, value in values.items()
            }
        for name, value in values.items():
            self._mean(name).update_state(value, sample_weight=weight)
        return self.results(values)

    @property
    def broken_terms(self) -> list[str]:
        """Names of the loss terms that were not finite in the last skipped step."""
        counts = self.skipped_terms.numpy()
        return [name for name, count in zip(self.term_names, counts) if count]

    def _record_broken_terms(self, terms: dict[str, tf.Tensor], skipped: tf.Tensor) -> None:
        """Records which terms of a skipped step are not finite, on any device."""
        broken = [
            tf.reduce_any(~tf.math.is_finite(terms[name])) if name in terms else tf.constant(False)
            for name in self.term_names
        ]
        if not broken:
            return
        counts = replicas.sum_over_replicas(tf.cast(tf.stack(broken), tf.int32))
        self.skipped_terms.assign(tf.where(skipped, counts, self.skipped_terms))

    def results(self, names: Iterable[str]) -> dict[str, tf.Tensor]:
        """Returns the running means with the given names."""
        return {name: self._mean(name).result() for name in names}

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        **kwargs: Any,
    ) -> keras.callbacks.History:
        """Trains the model as `keras.Model.fit` does, after a validation of the data.

        With several workers, callbacks that write files run on the chief only.

        Args:
            x: an array, a dictionary of arrays, a `tf.data.Dataset`, a `PyDataset`, a generator of
                batches or a data frame.
            y: None, the same as x, or the condition of a conditional model.
            batch_size: number of examples per step for arrays; None for 32.
            epochs: number of epochs.
            **kwargs: arguments of `keras.Model.fit`.

        Returns:
            The `History` of Keras.

        Raises:
            TypeError: if the data have the wrong type.
            ValueError: if the data have the wrong shape or range, the model has no trainable
                weights or is not compiled, or options are not compatible.
        """
        kwargs |= {"batch_size": batch_size, "epochs": epochs}
        data = Data(self, x, y, kwargs)
        if not self.optimized_variables:
            raise ValueError(
                f"This {type(self).__name__} has nothing to train: its networks are frozen, as in "
                "an autoencoder that a LatentDiffusion uses. Set `trainable = True` on each."
            )
        callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
        if not is_chief():
            kwargs["callbacks"] = [c for c in callbacks if not isinstance(c, WRITERS)]
        exact = [callback for callback in callbacks if getattr(callback, "exact", False)]
        if not self.compiled:
            raise ValueError("Call `compile` before `fit`.")
        if exact:  # they run last, so that they save the state that the others have changed
            data.make_reproducible(seed=int(self.seeds.root.numpy()[0]))
            callbacks = [c for c in kwargs["callbacks"] if c not in exact]
            self._callbacks = Untracked(callbacks)
            kwargs["callbacks"] = [*callbacks, *exact]
        try:
            for callback in exact:
                callback.begin(self, data.order, data.options)
            return super().fit(data.x, data.y, **data.options)
        finally:
            for callback in exact:  # Keras does not notify callbacks of an error
                callback.close()

    @property
    def fit_callbacks(self) -> list[keras.callbacks.Callback]:
        """The callbacks of the present `fit`, without those that resume a training."""
        return self._callbacks.value

    def evaluate(
        self, x: Any = None, y: Any = None, batch_size: int | None = None, **kwargs: Any
    ) -> Any:
        """Evaluates the model as `keras.Model.evaluate` does, after a validation of the data.

        The noise is the same every time, so that the result on the same data is reproducible.

        Args:
            x: see `fit`.
            y: see `fit`.
            batch_size: number of examples per step for arrays; None for 32.
            **kwargs: arguments of `keras.Model.evaluate`.

        Returns:
            A list of values, or with `return_dict=True` a dictionary.

        Raises:
            TypeError: if the data have the wrong type.
            ValueError: if the data have the wrong shape or range.
        """
        kwargs["batch_size"] = batch_size
        data = Data(self, x, y, kwargs)
        return super().evaluate(data.x, data.y, **data.options)

    def reset_metrics(self) -> None:
        """Resets the running means, and the noise of evaluations."""
        super().reset_metrics()
        if self.compiled:
            self._evaluated.value.assign(0)

    def make_train_function(self, force: bool = False) -> None:
        """Creates `train_function`; for several devices, see `kgen.training.replicas`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = replicas.make_function(self, self.train_step)

    def make_test_function(self, force: bool = False) -> None:
        """Creates `test_function`; for several devices, see `kgen.training.replicas`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = replicas.make_function(self, self.test_step)

    @property
    def metrics(self) -> list[keras.metrics.Metric]:
        """The running means, which Keras resets at the start of every epoch."""
        return list(self._means.values())

    def _mean(self, name: str) -> keras.metrics.Mean:
        """Returns the running mean with a name, created on its first use."""
        if name not in self._means:
            self._means[name] = keras.metrics.Mean(name=name)
        return self._means[name]

    def _evaluation_seed(self) -> tf.Tensor:
        """Returns the seed of the next batch of an evaluation.

        It depends on the index of the batch and on the replica only.
        """
        counter = self._evaluated.value
        seed = fold_in(as_seed(EVALUATION_SEED), counter)
        counter.assign_add(1)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, replica.replica_id_in_sync_group)
        return seed


def weighted(terms: dict[str, tf.Tensor], weights: tf.Tensor | None) -> dict[str, tf.Tensor]:
    """Multiplies the loss terms of each example by its weight.

    Args:
        terms: the loss terms, `{name: [B]}`.
        weights: the weights `[B]`, or None for no change.
    """
    if weights is None:
        return terms
    return {name: term * tf.cast(weights, term.dtype) for name, term in terms.items()}
