"""A Keras model whose loss is a sum of named terms: one training step, one evaluation step.

A model states its loss as terms per example, `loss_terms(batch) -> {name: [B]}`, in the words of
its paper; the training loss is the mean over the batch of their sum, plus the regularisers and
`add_loss` of its networks. All else that a Keras training step owes its user is here: loss scaling
under mixed precision, gradient accumulation through `optimizer.apply`, one running mean for every
term, averaged weights, steps that are skipped. What several devices need is in
`kgen.training.replicas`.

Evaluation uses the averaged weights and the same noise every time, so that a figure on the same
data is the same figure.
"""

import abc

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

WRITERS = keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint, keras.callbacks.TensorBoard
REGULARIZATION = "regularization"
EVALUATION_SEED = 0


class TermsModel(keras.Model, abc.ABC):
    """Abstract: a model that trains on the sum of its `loss_terms`.

    A subclass defines `loss_terms` and calls `start_averaging` at the end of its constructor, when
    its networks are there.

    Args:
        ema_decay: decay of the averaged weights, in [0, 1), or None for no averaging.
        seed: integer seed of all randomness in training; None draws one, which
            `keras.utils.set_random_seed` decides.
        **kwargs: `name` and `dtype` of a Keras model.
    """

    target_key = None  # the entry of a batch that targets, `fit(x, y)`, stand for
    frozen_weights = ()  # what a fine-tuning of a few weights leaves as it is

    def __init__(self, *, ema_decay=None, seed=None, **kwargs):
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
    def term_names(self):
        """Names of what training reports beside the loss, where they are known beforehand."""
        return ()

    @property
    def evaluation_names(self):
        """Names of what evaluation reports beside the terms of the loss."""
        return ()

    @abc.abstractmethod
    def loss_terms(self, batch, training=False, seed=None):
        """Returns the terms of the loss for each example.

        Args:
            batch: what the data set yields.
            training: whether layers such as dropout are active.
            seed: an int32 pair; None takes the next one of the model.

        Returns:
            A dictionary of tensors `[B]` whose sum is the training loss of each example.
        """

    def evaluation_terms(self, batch, seed):
        """Returns what evaluation reports beside the terms of the loss, `{name: [B]}`."""
        return {}

    def check_batch(self, batch):
        """Raises an error if a batch is not what the model learns from."""

    def warn_about(self, batch):
        """Warns of a batch that the model can learn from, but hardly is meant to."""

    def as_batch(self, data):
        """Returns what `loss_terms` takes and the weights of the examples, or None, of a batch."""
        return split_weights(data, self.target_key)

    def start_averaging(self, variables=None):
        """Creates the averaged weights, at the present values of `variables` (all trainable)."""
        self.averages = WeightAverages(self, self.ema_decay, variables, name="averages")

    def averaged(self):
        """Returns a context in which the averaged weights stand in for the trained ones."""
        return self.averages.scope()

    @property
    def optimized_variables(self):
        """What the optimizer of `compile` trains: all trainable variables."""
        return self.trainable_variables

    def compile(self, optimizer="adam", *, jit_compile=False, skip_above=None, **kwargs):
        """As `keras.Model.compile`, without a loss: a generative model brings its own.

        Args:
            optimizer: a Keras optimizer or its name.
            jit_compile: whether XLA compiles the steps: good for dense networks and on GPUs.
            skip_above: None, or the norm of the gradient above which a step is left out, as is
                one that is not finite; `skipped_steps` counts them, and
                `kgen.callbacks.Guard` stops after many in a row. `float("inf")` leaves out only
                what is not finite.
            **kwargs: as of `keras.Model.compile`.

        Raises:
            TypeError: if `skip_above` is not a number.
            ValueError: for a `loss` or metrics, an optimizer with `use_ema`, a `skip_above` that is
                not positive, or `jit_compile` under a strategy of several devices.
        """
        for name in ("loss", "metrics", "weighted_metrics", "loss_weights"):
            if kwargs.get(name):
                raise ValueError(
                    f"`{name}` must not be given: {type(self).__name__} brings its own loss, whose "
                    f"terms it reports. Received: {name}={kwargs[name]!r}."
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
        # A variable that first appears in the training step would make TensorFlow trace it twice.
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

    def save(self, filepath, *args, **kwargs):
        """As `keras.Model.save`; raises a ValueError for what could not be read again."""
        check_savable(self)
        super().save(filepath, *args, **kwargs)

    def get_compile_config(self):
        """Returns what `compile` was given, for a `.keras` file; nothing before it."""
        config = super().get_compile_config()
        return config and {**config, "skip_above": self.skip_above}

    def compile_from_config(self, config):
        """Compiles a model that `keras.saving.load_model` has rebuilt."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    def train_step(self, data):
        """One step of gradient descent on the mean of the summed loss terms."""
        batch, weights = self.as_batch(data)
        variables = self.optimized_variables
        with fused(), tf.GradientTape() as tape:
            terms = weighted(self.loss_terms(batch, training=True), weights)
            extra = self.regularization()
            scaled = self.optimizer.scale_loss(replicas.global_loss(terms, extra))
        skipped = self.apply_gradients(self.optimizer, tape.gradient(scaled, variables), variables)
        return self.logs(terms, extra, skipped=skipped)

    def test_step(self, data):
        """The same terms, without training and with the averaged weights."""
        batch, weights = self.as_batch(data)
        seed = self._evaluation_seed()
        with self.averaged(), fused():
            terms = weighted(self.loss_terms(batch, training=False, seed=seed), weights)
            others = self.evaluation_terms(batch, seed)
            extra = self.regularization()
        return self.logs(terms, extra, **others)

    def regularization(self):
        """Returns the sum of the regularisers and `add_loss` of the networks, a scalar, or None."""
        losses = self.losses
        return tf.add_n([tf.cast(loss, tf.float32) for loss in losses]) if losses else None

    def apply_gradients(self, optimizer, gradients, variables):
        """Applies one update, unless it is to be skipped, and lets the averaged weights follow.

        Returns:
            A boolean tensor, whether it was skipped.
        """
        skipped = self.apply_gradients_of(optimizer, gradients, variables, self.averages.update)
        if self.skip_above is not None:
            one = tf.cast(skipped, tf.int32)
            self.skipped_steps.assign_add(one)
            self.skipped_in_a_row.assign(one * (self.skipped_in_a_row + 1))
        return skipped

    def apply_gradients_of(self, optimizer, gradients, variables, then=lambda: None):
        """Applies one update of any optimizer, such as that of a discriminator.

        Returns:
            A boolean tensor, whether it was skipped.
        """
        strategy = tf.distribute.has_strategy()  # of one device too
        apply = replicas.apply_gradients if strategy else update.apply_gradients
        return apply(optimizer, gradients, variables, self.skip_above, then)

    def logs(self, terms, extra=None, *, skipped=None, **others):
        """Updates the running means of the loss and its terms; returns them.

        Args:
            terms: the terms of the loss, `{name: [B]}`.
            extra: a scalar that is added to the loss, or None.
            skipped: whether the step was left out of the training; it then counts for nothing.
            **others: what else is reported, `[B]`.
        """
        loss = tf.add_n(list(terms.values()))
        values = {"loss": loss if extra is None else loss + extra, **terms, **others}
        if extra is not None:
            values[REGULARIZATION] = extra
        weight = None
        if skipped is not None and self.skip_above is not None:
            weight = 1.0 - tf.cast(skipped, tf.float32)
            self._note_broken_terms(terms, skipped)
            values = {
                name: tf.where(skipped, tf.zeros_like(value), value)
                for name, value in values.items()
            }
        for name, value in values.items():
            self._mean(name).update_state(value, sample_weight=weight)
        return self.results(values)

    @property
    def broken_terms(self):
        """Names of the terms that were not finite in the step that was skipped last."""
        counts = self.skipped_terms.numpy()
        return [name for name, count in zip(self.term_names, counts) if count]

    def _note_broken_terms(self, terms, skipped):
        """Keeps which terms of a skipped step are not finite, on any device."""
        broken = [
            tf.reduce_any(~tf.math.is_finite(terms[name])) if name in terms else tf.constant(False)
            for name in self.term_names
        ]
        if not broken:
            return
        counts = replicas.sum_over_replicas(tf.cast(tf.stack(broken), tf.int32))
        self.skipped_terms.assign(tf.where(skipped, counts, self.skipped_terms))

    def results(self, names):
        """Returns the running means of those names."""
        return {name: self._mean(name).result() for name in names}

    def fit(self, x=None, y=None, batch_size=None, epochs=1, **kwargs):
        """As `keras.Model.fit`, on data that are checked first; of several workers one writes."""
        kwargs |= {"batch_size": batch_size, "epochs": epochs}
        data = Data(self, x, y, kwargs)
        if not self.optimized_variables:
            raise ValueError(
                f"This {type(self).__name__} has nothing to train: its networks are frozen, as an "
                "autoencoder is inside of a LatentDiffusion. `trainable = True` on each undoes it."
            )
        callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
        if not is_chief():
            kwargs["callbacks"] = [c for c in callbacks if not isinstance(c, WRITERS)]
        exact = [callback for callback in callbacks if getattr(callback, "exact", False)]
        if not self.compiled:
            raise ValueError("Call `compile` before `fit`.")
        if exact:  # they act last, on what the others have done
            data.put_in_order(seed=int(self.seeds.root.numpy()[0]))
            callbacks = [c for c in kwargs["callbacks"] if c not in exact]
            self._callbacks = Untracked(callbacks)
            kwargs["callbacks"] = [*callbacks, *exact]
        try:
            for callback in exact:
                callback.begin(self, data.order, data.options)
            return super().fit(data.x, data.y, **data.options)
        finally:
            for callback in exact:  # Keras tells a callback nothing of an error
                callback.close()

    @property
    def fit_callbacks(self):
        """The callbacks of the present `fit`, without those that act last."""
        return self._callbacks.value

    def evaluate(self, x=None, y=None, batch_size=None, **kwargs):
        """As `keras.Model.evaluate`, on data that are checked first."""
        kwargs["batch_size"] = batch_size
        data = Data(self, x, y, kwargs)
        return super().evaluate(data.x, data.y, **data.options)

    def reset_metrics(self):
        """Begins the running means anew, and the noise of an evaluation."""
        super().reset_metrics()
        if self.compiled:
            self._evaluated.value.assign(0)

    def make_train_function(self, force=False):
        """As of Keras, and over several devices `kgen.training.replicas.make_function`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = replicas.make_function(self, self.train_step)

    def make_test_function(self, force=False):
        """As of Keras, and over several devices `kgen.training.replicas.make_function`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = replicas.make_function(self, self.test_step)

    @property
    def metrics(self):
        """The running means, which Keras resets at the start of every epoch."""
        return list(self._means.values())

    def _mean(self, name):
        if name not in self._means:
            self._means[name] = keras.metrics.Mean(name=name)
        return self._means[name]

    def _evaluation_seed(self):
        """The seed of a batch of an evaluation: the same each time, another on every replica."""
        counter = self._evaluated.value
        seed = fold_in(as_seed(EVALUATION_SEED), counter)
        counter.assign_add(1)
        replica = tf.distribute.get_replica_context()
        if replica is not None and replica.num_replicas_in_sync > 1:
            seed = fold_in(seed, replica.replica_id_in_sync_group)
        return seed


def weighted(terms, weights):
    """Returns the terms of a loss, each example multiplied by its weight, if there are weights."""
    if weights is None:
        return terms
    return {name: term * tf.cast(weights, term.dtype) for name, term in terms.items()}
