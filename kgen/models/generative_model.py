"""What every model of kgen shares: one training step, one evaluation step, averaged weights, seeds.

A model states its loss as named terms per example, `loss_terms(batch) -> {name: [B]}`, in the
words of its paper; the training loss is the mean over the batch of their sum. All else that a
Keras training step owes its user is here: loss scaling under mixed precision and over devices,
gradient accumulation through `optimizer.apply`, one running mean for every term.

A model whose loss is a bound on -log p(x) also states the bound itself, `bound_terms`, whatever the
weights of its loss; `evaluate` reports both, the sum as `bound` and as `bits_per_dim`.

References:
  Luo (2022), https://arxiv.org/abs/2208.11970: every loss here is a sum of terms of its ELBO.
"""

import abc

import keras
import tensorflow as tf

from kgen.checks import check_interval, check_one_of, has_range
from kgen.distribution import fused, is_chief
from kgen.metrics.bits_per_dim import bits_per_dim
from kgen.presets import save_preset
from kgen.serialization import constructor_arguments
from kgen.tensors import SeedStream
from kgen.training.averaging import WeightAveraging
from kgen.training.data import as_arrays, first_batch, ordered, unpack
from kgen.training.replicas import apply_gradients, global_mean, make_function

WRITERS = keras.callbacks.CSVLogger, keras.callbacks.ModelCheckpoint, keras.callbacks.TensorBoard
BOUND = ("reconstruction", "prior", "denoising")  # of Luo (2022), eq. 58


class GenerativeModel(WeightAveraging, keras.Model, abc.ABC):
    """Base class: a subclass defines `loss_terms`, and calls `start_averaging` once it has weights.

    Args:
        ema_decay: decay of the averaged weights, in [0, 1), or None for no averaging.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.
    """

    latent_dtype = tf.float32

    def __init__(self, *, ema_decay=None, seed=None, **kwargs):
        super().__init__(**kwargs)
        self.autocast = False
        if ema_decay is not None:
            check_interval("ema_decay", ema_decay, "[0, 1)")
        self.ema_decay = ema_decay
        self.ema_weights = []
        self.seeds = SeedStream(seed, name="seeds")
        self._means = {}

    @property
    def term_names(self):
        """Names of what training reports beside the loss, where they are known beforehand."""
        return ()

    @property
    def bound_names(self):
        """Names of the terms of the bound."""
        return ("reconstruction", "prior")

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

    def bound_terms(self, batch, training=False, seed=None):
        """Returns the terms of the bound on -log p(x), `{name: [B]}` in nats, if there is one."""
        return {}

    def check_batch(self, batch):
        """Raises an error if a batch is not what the model learns from."""

    def save_to_preset(self, directory, dtype="float16", **options):
        """Writes the model as a preset; see `kgen.presets.save_preset`."""
        save_preset(self, directory, dtype, **options)

    def with_settings(self, **settings):
        """Returns a model of the same networks, with their weights, and some other settings.

        So a trained model is trained on for something else: a VAE as an IWAE, or
        `kgen.from_preset(directory).with_settings(weighting="sigmoid", ema_decay=0.999)`. The
        networks are shared, not copied, and averages begin anew, at the present weights. Another
        part, such as `prior`, brings its own weights.

        Args:
            **settings: arguments of the constructor; the others stay as they are.

        Raises:
            ValueError: for a setting that the model does not have, or one that changes the shape
                of its weights.
        """
        arguments = {"name": self.name, "dtype": self.dtype_policy, **constructor_arguments(self)}
        for name in settings:
            check_one_of("settings", name, arguments)
        model = type(self)(**{**arguments, **settings})
        weights, new = self._own_weights(), model._own_weights()
        if [v.shape for v in weights] != [v.shape for v in new]:
            raise ValueError(
                "`settings` must leave the shapes of the weights as they are. "
                f"Received: {', '.join(settings)}."
            )
        for variable, value in zip(new, weights):
            variable.assign(value)
        return model

    def _own_weights(self):
        """The weights that are in no part of the model, such as a codebook, but the averages."""
        parts = self._flatten_layers(include_self=False)
        others = {id(v) for part in parts for v in part.weights}
        others.update(id(v) for v in self.average_state)
        return [v for v in self.weights if id(v) not in others]

    def compile(self, optimizer="adam", *, jit_compile=False, skip_above=None, **kwargs):
        """As `keras.Model.compile`, without a loss: a generative model brings its own.

        Args:
            optimizer: a Keras optimizer or its name.
            jit_compile: whether XLA compiles the steps: good for dense networks and on GPUs.
            skip_above: None, or the norm of the gradient above which a step is left out, as is
                one that is not finite; `skipped_steps` counts them, and
                `kgen.callbacks.Guard` stops after many in a row.
            **kwargs: as of `keras.Model.compile`.

        Raises:
            ValueError: for a `loss`, an optimizer with `use_ema`, or `jit_compile` under a strategy
                of several devices.
        """
        if kwargs.get("loss") is not None:
            raise ValueError(
                f"{type(self).__name__} brings its own loss. Received: loss={kwargs['loss']!r}."
            )
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
        names = ("loss", *self.term_names)
        if type(self).bound_terms is not GenerativeModel.bound_terms:
            names += (*self.bound_names, "bound", "bits_per_dim")
        for name in names:
            self._mean(name)
        self.skip_above = skip_above
        if skip_above is not None:
            self.skipped_steps = tf.Variable(0, trainable=False, name="skipped_steps")
            self.skipped_in_a_row = tf.Variable(0, trainable=False, name="skipped_in_a_row")

    def get_compile_config(self):
        """What `compile` was given, for a `.keras` file; nothing before it."""
        config = super().get_compile_config()
        return config and {**config, "skip_above": self.skip_above}

    def compile_from_config(self, config):
        """Compiles a model that `keras.saving.load_model` has rebuilt."""
        self.compile(**keras.saving.deserialize_keras_object(config))

    @property
    def optimized_variables(self):
        """What the optimizer of `compile` trains: all trainable variables."""
        return self.trainable_variables

    def train_step(self, data):
        """One step of gradient descent on the mean of the summed loss terms."""
        batch = unpack(data)
        variables = self.optimized_variables
        with fused(), tf.GradientTape() as tape:
            terms = self.loss_terms(batch, training=True)
            scaled = self.optimizer.scale_loss(global_mean_of_sum(terms))
        self.apply_gradients(self.optimizer, tape.gradient(scaled, variables), variables)
        return self.logs(terms)

    def test_step(self, data):
        """The same terms, without training and with the averaged weights."""
        batch, seed = unpack(data), self.seeds.next()
        with self.averaged(), fused():
            terms = self.loss_terms(batch, training=False, seed=seed)
            bound = self.bound_terms(batch, training=False, seed=seed)
        return self.logs(terms, **self._bound_logs(bound, batch))

    def _bound_logs(self, bound, batch):
        if not bound:
            return {}
        nats = tf.add_n([bound[name] for name in BOUND if name in bound])
        shape = images_of(batch).shape[1:]
        dimensions = shape.num_elements()
        width = self.likelihood.bin_width if has_range(self.likelihood, shape) else None
        return {
            **bound,
            "bound": nats,
            "bits_per_dim": bits_per_dim(nats, dimensions, bin_width=width),
        }

    def fit(self, x=None, *args, **kwargs):
        """As `keras.Model.fit`, on data that are looked at first; of several workers one writes."""
        x = self._look_at(x)
        if not self.optimized_variables:
            raise ValueError(
                f"This {type(self).__name__} has nothing to train: its networks are frozen, as an "
                "autoencoder is inside of a LatentDiffusion. `trainable = True` on each undoes it."
            )
        for name in ("sample_weight", "class_weight"):
            if kwargs.get(name) is not None:
                raise ValueError(f"`{name}` must be None: kgen's models have no sample weights.")
        callbacks = keras.tree.flatten(kwargs.get("callbacks") or [])
        if not is_chief():
            kwargs["callbacks"] = [c for c in callbacks if not isinstance(c, WRITERS)]
        exact = [callback for callback in callbacks if getattr(callback, "exact", False)]
        if exact and not args:
            x, self.fit_data = ordered(x, kwargs, seed=int(self.seeds.root.numpy()[0]))
        if isinstance(x, tf.data.Dataset):
            kwargs.setdefault("shuffle", False)  # Keras would warn that it cannot
        try:
            return super().fit(x, *args, **kwargs)
        finally:
            for callback in exact:  # Keras tells a callback nothing of an error
                callback.close()

    def evaluate(self, x=None, *args, **kwargs):
        """As `keras.Model.evaluate`, on data that are looked at first."""
        x = self._look_at(x)
        return super().evaluate(x, *args, **kwargs)

    def _look_at(self, x):
        """Checks arrays, or the first batch of a data set; returns the data for Keras."""
        x = as_arrays(x)
        if type(self).check_batch is not GenerativeModel.check_batch:
            batch = first_batch(x)
            if batch is not None:
                self.check_batch(batch)
        return x

    def apply_gradients(self, optimizer, gradients, variables):
        """Applies one update, unless it is to be skipped, and lets the averaged weights follow.

        Returns:
            A boolean tensor, whether it was skipped.
        """
        skipped = apply_gradients(
            optimizer, gradients, variables, self.skip_above, self.update_averages
        )
        if self.skip_above is not None:
            one = tf.cast(skipped, tf.int32)
            self.skipped_steps.assign_add(one)
            self.skipped_in_a_row.assign(one * (self.skipped_in_a_row + 1))
        return skipped

    def logs(self, terms, **others):
        """Updates the running means of the loss, of its terms and of `others`; returns them."""
        values = {"loss": tf.add_n(list(terms.values())), **terms, **others}
        for name, value in values.items():
            self._mean(name).update_state(value)
        return self.results(values)

    def results(self, names):
        """The running means of those names."""
        return {name: self._mean(name).result() for name in names}

    def make_train_function(self, force=False):
        """As of Keras, and over several devices `kgen.training.replicas.make_function`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_train_function(force)
        elif self.train_function is None or force:
            self.train_function = make_function(self, self.train_step)

    def make_test_function(self, force=False):
        """As of Keras, and over several devices `kgen.training.replicas.make_function`."""
        if self.distribute_strategy.num_replicas_in_sync == 1:
            super().make_test_function(force)
        elif self.test_function is None or force:
            self.test_function = make_function(self, self.test_step)

    def _mean(self, name):
        if name not in self._means:
            self._means[name] = keras.metrics.Mean(name=name)
        return self._means[name]

    def _maybe_symbolic_build(self, iterator=None, data_batch=None):
        """Nothing: the model is built. Keras would average a batch over devices, even strings."""

    @property
    def metrics(self):
        """The running means, which Keras resets at the start of every epoch."""
        return list(self._means.values())


def freeze(layer):
    """Makes a layer and all inside it not trainable.

    One by one: TensorFlow skips the assignment of a value that an attribute already has, so that
    setting it on a frozen model that Keras has rebuilt does not reach the layers inside.
    """
    for part in layer._flatten_layers():
        part.trainable = False


def global_mean_of_sum(terms):
    """The training loss, a scalar: a replica's part of the mean of the sum of the terms."""
    return global_mean(tf.add_n(list(terms.values())))


def images_of(batch):
    """The pictures of a batch, float32: the batch itself, or its entry `"images"`."""
    return tf.cast(entry(batch, "images") if isinstance(batch, dict) else batch, tf.float32)


def entry(batch, key):
    """An entry of a batch that is a dictionary.

    Raises:
        ValueError: if the batch has none of that name.
    """
    if key not in batch:
        raise ValueError(f'A batch must have the key "{key}". Received keys: {sorted(batch)}.')
    return batch[key]
