"""The abstract base of autoencoders: an encoder from data to a code, and a decoder back.

    z = encoder(x[, cond]),    x_hat = decoder(z[, cond])

`encode`, `decode`, `reconstruct` and `predict` use the averaged weights, as evaluation, sampling,
presets and exports do; training uses the trained weights.

The networks may be of any kind (`kgen.symbolic`). The constructor calls each once on symbolic
inputs, which builds it and determines the shapes of the code and of the decoder's output.

A model with a conditioner is a model of p(x | c). Its networks also receive the condition, a
dictionary of tensors such as `{"pooled": [B, D]}`: as `encoder([x, pooled])`, with inputs of these
names, or as `encoder(x, cond)`; see `kgen.symbolic`. The decoder must accept the condition; the
encoder may.

References:
  Sohn et al. (2015), https://papers.nips.cc/paper/5775 (the conditional VAE).
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.checks import check_count, check_pictures, check_prior
from kgen.conditioning import Conditioner
from kgen.gaussian import Gaussian
from kgen.models.generative_model import GenerativeModel, images_of
from kgen.sampling.request import condition_rows
from kgen.symbolic import call, describe, input_shape, output_spec, symbolic, takes_condition
from kgen.types import Batch, Condition, Network, Shape, TensorLike


class EncoderDecoder(GenerativeModel):
    """Abstract base of models with an encoder and a decoder.

    A subclass calls `start_averaging` at the end of its constructor.

    Args:
        encoder: network from data to a code; if the class attribute `gaussian_code` is true, to the
            mean and the log standard deviation of a code on the last axis.
        decoder: network from a code to data, or to the parameters of the likelihood.
        levels: the levels of a hierarchical model.
        likelihood: None, or an object of `kgen.likelihoods` whose parameters the decoder returns.
        data_shape: shape of an example; None for that of the encoder's input.
        conditioner: None, or a `Conditioner`.
        ema_decay: decay of the averaged weights, or None.
        seed: integer seed of all randomness in training, or None.
        **kwargs: `name` and `dtype` of a Keras model.

    Raises:
        TypeError: if a network is neither a Keras model or layer nor a function.
        ValueError: if the networks are not compatible, or the shape of an example is not known.
    """

    gaussian_code = False
    latent_dtype = tf.float32
    latent_names = ("latents",)  # argument names in a SavedModel, one for each tensor of a code

    def __init__(
        self,
        encoder: Network,
        decoder: Network,
        *,
        levels: Sequence[keras.layers.Layer] = (),
        likelihood: Any = None,
        data_shape: Sequence[int] | None = None,
        conditioner: Conditioner | None = None,
        ema_decay: float | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ema_decay=ema_decay, seed=seed, **kwargs)
        self.likelihood = likelihood
        self.encoder = encoder
        if levels:
            self.levels = list(levels)
        self.decoder = decoder
        self.conditioner = conditioner
        self.data_shape = example_shape(encoder, data_shape)
        cond = None
        if conditioner is not None:
            null = conditioner.null(1)
            cond = {key: symbolic(value.shape[1:], value.dtype) for key, value in null.items()}
            self.condition_keys = tuple(cond)
        code = output_spec(encoder, {"x": symbolic(self.data_shape), "cond": cond}, "encoder")
        z = self.code_spec(code, cond)
        self._check_decoder(output_spec(decoder, {"z": z, "cond": cond}, "decoder"))
        self.built = True

    def code_spec(self, code: Any, cond: Any) -> Any:
        """Checks the output of the encoder, sets `latent_shape`, and returns the decoder's input.

        Args:
            code: the symbolic output of the encoder.
            cond: the symbolic condition, or None.

        Returns:
            The symbolic input of the decoder.

        Raises:
            ValueError: if the decoder does not accept the condition, or the encoder returns
                something other than one tensor or a shape that the decoder does not accept.
        """
        if self.conditioner is not None and not takes_condition(self.decoder):
            raise ValueError(
                "`decoder` must accept the condition of the conditioner: "
                f"`decoder([z, {self.condition_keys[0]}])` or `decoder(z, cond)`."
            )
        if not isinstance(code, keras.KerasTensor):
            raise ValueError(_one_output(code, self.gaussian_code))
        shape, what = tuple(code.shape[1:]), "the shape that `decoder` accepts"
        expected = input_shape(self.decoder, "z")
        if self.gaussian_code:
            what = "twice the channels that `decoder` accepts, at the same size"
            divisible = shape and shape[-1] and shape[-1] % 2 == 0
            shape = (*shape[:-1], shape[-1] // 2) if divisible else ()
        if not shape or None in shape or (expected is not None and not _fits(shape, expected)):
            raise ValueError(
                f"`encoder` must return {what}. Received: {describe({'an encoder of': code})}, "
                f"a decoder of {'z' if expected is None else describe({'z': symbolic(expected)})}."
            )
        self.latent_shape = shape
        return symbolic(shape)

    def _check_decoder(self, output: Any) -> None:
        """Checks the symbolic output of the decoder: its shape, and that it returns logits."""
        expected, likelihood = self.data_shape, self.likelihood
        what = "the shape that `encoder` accepts"
        if likelihood is not None:
            expected = (*expected[:-1], likelihood.parameter_channels(expected[-1]))
            if expected != self.data_shape:
                name = type(likelihood).__name__
                what = f"{expected} for {name} and data of shape {self.data_shape}"
        if getattr(output, "shape", ())[1:] != expected:
            raise ValueError(
                f"`decoder` must return {what}. "
                f"Received: {describe({'x': symbolic(self.data_shape), 'a decoder of': output})}."
            )
        shaping = (keras.layers.Reshape, keras.layers.Flatten, keras.layers.Permute)
        parts = [v for v in getattr(self.decoder, "layers", []) if not isinstance(v, shaping)]
        last = getattr(parts[-1] if parts else self.decoder, "activation", None)
        if likelihood is not None and getattr(last, "__name__", "") == "sigmoid":
            raise ValueError(
                "`decoder` must return logits, not probabilities: leave out the sigmoid of its "
                "last layer. Received: a decoder that ends in a sigmoid."
            )

    def validate_prior(self, prior: Any) -> None:
        """Checks that a prior has the shapes and the range of this model.

        Raises:
            TypeError: if `prior` is not an object of `kgen.priors`.
            ValueError: if it was made for other shapes or another range, or has pseudo-inputs while
                the model has a conditioner.
        """
        check_prior(prior, self.latent_shape, self.data_shape, self.likelihood)
        if self.conditioner is not None and hasattr(prior, "data_shape"):
            raise ValueError(
                "`prior` must not have pseudo-inputs in a model with a conditioner. "
                f"Received: a {type(prior).__name__}."
            )

    def encode(
        self, x: TensorLike, seed: tf.Tensor | None = None, *, condition: Any = None
    ) -> tf.Tensor:
        """Encodes data to codes.

        Args:
            x: data `[B, ...]`.
            seed: for a random code, an int32 pair for a sample, or None for the mean.
            condition: for a model with a conditioner, one value for all examples or one per
                example, or an encoded condition.

        Returns:
            float32 `[B, *latent_shape]`.

        Raises:
            ValueError: if there is a `seed` but the code is not random, the condition is missing,
                or there is a condition but no conditioner.
        """
        if seed is not None and not self.gaussian_code:
            raise ValueError(f"`seed` must be None: the code of a {type(self).__name__} is fixed.")
        x = tf.cast(x, tf.float32)
        with self.averaged():
            return self._encode(x, self.condition(condition, tf.shape(x)[0]), seed)

    def decode(self, z: tf.Tensor, *, condition: Any = None) -> tf.Tensor:
        """Decodes codes to data.

        Args:
            z: codes `[B, *latent_shape]`.
            condition: see `encode`.

        Returns:
            float32 `[B, *data_shape]`; with a likelihood, the expectation of the data.
        """
        with self.averaged():
            num = tf.shape(keras.tree.flatten(z)[0])[0]
            return self._decode(z, self.condition(condition, num))

    def reconstruct(self, x: TensorLike, *, condition: Any = None) -> tf.Tensor:
        """Encodes data and decodes the codes; of a random code, the mean.

        Args:
            x: data `[B, ...]`.
            condition: see `encode`.

        Returns:
            float32 `[B, *data_shape]`; with a likelihood, the expectation of the data.
        """
        x = tf.cast(x, tf.float32)
        with self.averaged():
            cond = self.condition(condition, tf.shape(x)[0])
            return self._decode(self._encode(x, cond), cond)

    def call(self, batch: Batch, training: bool = False) -> tf.Tensor:
        """Returns the reconstruction of a batch."""
        return self.reconstruct(images_of(batch), condition=self.condition_of(batch))

    def posterior(self, x: TensorLike, *, condition: Any = None) -> Gaussian:
        """Returns q(z | x), a `Gaussian`; for a hierarchical model, that of the top level.

        Args:
            x: data `[B, ...]`.
            condition: see `encode`.
        """
        x = tf.cast(x, tf.float32)
        with self.averaged():
            return self._posterior(x, self.condition(condition, tf.shape(x)[0]))

    def _posterior(self, x: tf.Tensor, cond: Condition = None, training: bool = False) -> Gaussian:
        """Returns q(z | x) with the trained weights; `cond` is the encoded condition."""
        return Gaussian.from_moments(self.run_encoder(x, cond, training))

    def _encode(self, x: tf.Tensor, cond: Condition, seed: tf.Tensor | None = None) -> tf.Tensor:
        if not self.gaussian_code:
            return tf.cast(self.run_encoder(x, cond), tf.float32)
        q = self._posterior(x, cond)
        return q.mean if seed is None else q.sample(seed)

    def _decode(self, z: tf.Tensor, cond: Condition) -> tf.Tensor:
        output = self.run_decoder(z, cond)
        return output if self.likelihood is None else self.likelihood.mean(output)

    def run_encoder(self, x: TensorLike, cond: Condition = None, training: bool = False) -> Any:
        """Returns the output of the encoder with the trained weights.

        Args:
            x: data `[B, ...]`.
            cond: the encoded condition, or None.
            training: whether layers such as dropout are active.
        """
        return call(self.encoder, {"x": x, "cond": cond}, training)

    def run_decoder(
        self, z: tf.Tensor, cond: Condition = None, training: bool = False
    ) -> tf.Tensor:
        """Returns the output of the decoder with the trained weights, float32.

        Args:
            z: codes `[B, *latent_shape]`; for a hierarchical model, the last state.
            cond: the encoded condition, or None.
            training: whether layers such as dropout are active.
        """
        return tf.cast(call(self.decoder, {"z": z, "cond": cond}, training), tf.float32)

    def log_prob(
        self, output: tf.Tensor, x: TensorLike, mask: TensorLike | None = None
    ) -> tf.Tensor:
        """Returns log p(x | output), `[B]`, in nats.

        Args:
            output: parameters of the likelihood, the output of the decoder.
            x: data `[B, ...]`.
            mask: None, or 1 where a value is known; other values are left out.
        """
        options = {} if mask is None else {"mask": mask}  # a user's likelihood may not accept it
        return self.likelihood.log_prob(output, x, **options)

    def condition_of(self, batch: Batch, training: bool = False) -> Condition:
        """Encodes the condition of a batch with the trained weights.

        Args:
            batch: a dictionary with an entry for the conditioner.
            training: whether layers such as dropout are active.

        Returns:
            The encoded condition, or None for a model without a conditioner.
        """
        if self.conditioner is None:
            return None
        values = self.conditioner.values_of(batch if isinstance(batch, dict) else {})
        return self.conditioner(values, training=training)

    def condition(self, values: Any, num: int | tf.Tensor | None = None) -> Condition:
        """Encodes the condition that a user passes, with the trained weights.

        Args:
            values: one value per example or one for all, or an encoded condition.
            num: None, or the number of examples, for which a single condition is repeated.

        Returns:
            The encoded condition, or None for a model without a conditioner.

        Raises:
            ValueError: if there is a condition but no conditioner, or a conditioner but no
                condition.
        """
        if self.conditioner is None:
            if values is not None:
                raise ValueError("`condition` needs a model with a conditioner.")
            return None
        if values is None:
            raise ValueError("`condition` must be given: the model has a conditioner.")
        cond = self.conditioner(values)
        if num is None:
            return cond
        return {
            key: tf.repeat(value, num, axis=0) if value.shape[0] == 1 else value
            for key, value in cond.items()
        }

    def condition_rows(self, values: Any) -> Any:
        """Converts the condition that a user passes to rows, which `condition` also accepts.

        Raises:
            ValueError: see `condition`.
        """
        if values is None or self.conditioner is None:
            return self.condition(values)
        return condition_rows(self.conditioner, values)

    def check_batch(self, batch: Batch) -> None:
        """Validates a batch before training and evaluation.

        Raises:
            TypeError: if the examples or the condition have the wrong type.
            ValueError: if they have the wrong shape or range, or an entry is missing.
        """
        batch = self.fill_missing(batch)
        check_pictures(batch, self.data_shape, self.likelihood)
        if self.conditioner is not None:
            values = self.conditioner.values_of(batch if isinstance(batch, dict) else {})
            self.conditioner.prepare(values)

    def warm_up_done(self, training: bool) -> float | tf.Tensor:
        """Returns the completed fraction of the warm-up of `warm_up` steps, in [0, 1].

        It is 1 outside of training.
        """
        if not training or not self.warm_up:
            return 1.0
        return tf.minimum(tf.cast(self.optimizer.iterations, tf.float32) / self.warm_up, 1.0)

    def export_functions(self) -> tuple[dict[str, Any], list[Any]]:
        """Returns the functions of a SavedModel: `encode`, `decode`, `reconstruct`, `generate`."""
        from kgen.serving import autoencoders as serving

        return serving.autoencoder(self)

    def part_functions(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Returns the decoder, and the conditioner if there is one, for other runtimes.

        Returns:
            `tf.function`s by name, see `kgen.serving.parts.functions`, and the description of
            `kgen.serving.parts.description.decoding`.

        Raises:
            ValueError: if a code has several tensors, or the conditioner takes texts only.
        """
        from kgen.serving.parts import description, functions

        parts = {}
        if self.conditioner is not None:
            parts["conditioner"] = functions.conditioner_part(self)
        return {**parts, "decoder": functions.decoder_part(self)}, description.decoding(self)


def example_shape(encoder: Network, data_shape: Sequence[int] | None) -> Shape:
    """Returns the shape of an example: `data_shape`, or else the encoder's input shape.

    Args:
        encoder: network from data to codes.
        data_shape: shape of an example, or None.

    Raises:
        TypeError: if a size is not a number.
        ValueError: if a size is not known, or the encoder declares another one.

    Example:
        >>> example_shape(keras.layers.Dense(3), (4,))
        (4,)
    """
    declared = input_shape(encoder)
    if data_shape is not None:
        shape = tuple(data_shape)
        for size in shape:
            check_count("data_shape", size)
        if declared is not None and not _fits(shape, declared):
            raise ValueError(
                f"`data_shape` must be the input shape of `encoder`, {declared}. "
                f"Received: data_shape={data_shape}."
            )
        return shape
    if declared is None or None in declared:
        raise ValueError(
            "`data_shape` must be given, such as data_shape=(28, 28, 1), for an encoder that does "
            f"not declare it. Received: data_shape=None, an encoder with input shape {declared}."
        )
    return declared


def _fits(shape: Shape, declared: Shape) -> bool:
    """Returns whether a shape is compatible with a declared one, in which None is any size."""
    return len(shape) == len(declared) and all(
        size in (other, None) or other is None for size, other in zip(shape, declared)
    )


def _one_output(code: Any, gaussian: bool) -> str:
    """Returns the message for an encoder that does not return one tensor."""
    what = "one tensor"
    advice = ""
    if gaussian:
        what = "one tensor [B, ..., 2 C], the mean and the log standard deviation on the last axis"
        advice = (
            " Concatenate two outputs, mean and log variance, by "
            "`keras.layers.Concatenate()([mean, 0.5 * log_variance])`."
        )
    return f"`encoder` must return {what}.{advice} Received: {describe({'outputs': code})}."
