"""A level of a hierarchical VAE, composed of networks.

    prior       p(z | state) = N(m, s),              [m, log s] = prior(state)
    posterior   q(z | state, x) = N(m', s'),         [m', log s'] = posterior(state, features)
    merge       the input of the levels below:       state <- merge(state, z)

With a conditioner, `prior` and `posterior` receive the condition too. With `residual` the posterior
is parameterised relative to the prior, m' = m + dm, log s' = log s + ds, so that an output of zero
has zero KL.

Reference:
  Vahdat and Kautz (2020), https://arxiv.org/abs/2007.03898, section 3.2 (residual normal).
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kgen.gaussian import Gaussian
from kgen.serialization import serializable
from kgen.symbolic import call, output_shape, takes_condition
from kgen.types import Condition, Network


@serializable
class GaussianLevel(keras.layers.Layer):
    """A level with a Gaussian prior and a Gaussian posterior.

    Its networks always run in inference mode, without dropout. They may be of any kind
    (`kgen.symbolic`); a condition is the last argument.

    Args:
        prior: None for N(0, I), or a network from the state to `[B, ..., 2 C]`.
        posterior: a network from `[state, features]` to `[B, ..., 2 C]`; or from features alone, if
            it has one input or is that of a top level without `state_shape`.
        merge: None if the latent is the next state, or a network from `[state, z]` to that state.
        state_shape: for the top level, the shape of the initial state.
        residual: whether the posterior is parameterised relative to the prior.
        **kwargs: `name` and `dtype` of a Keras layer.

    Example:
        >>> from kgen.networks import mlp
        >>> level = GaussianLevel(None, mlp((8,), (2 * 4,)))  # the top level of an HVAE
        >>> level.posterior(tf.zeros([3]), tf.zeros([3, 8])).mean.shape
        TensorShape([3, 4])
    """

    def __init__(
        self,
        prior: Network | None,
        posterior: Network,
        merge: Network | None = None,
        *,
        state_shape: Sequence[int] = (),
        residual: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.prior_network = prior
        self.posterior_network = posterior
        self.merge_network = merge
        self.state_shape = tuple(state_shape)
        self.residual = residual
        shape = output_shape(posterior)
        self.latent_shape = shape and (*shape[:-1], shape[-1] // 2)  # None until the first call
        self.built = True

    def prior(self, state: tf.Tensor, cond: Condition = None) -> Gaussian:
        """Returns p(z | state), a `Gaussian`.

        Args:
            state: the state from the levels above, `[B, ...]`.
            cond: the encoded condition, or None.
        """
        if self.prior_network is None:
            zeros = tf.zeros(tf.concat([tf.shape(state)[:1], self.latent_shape], 0))
            return Gaussian(zeros, zeros)
        return Gaussian.from_moments(call(self.prior_network, {"state": state, "cond": cond}))

    def posterior(self, state: tf.Tensor, features: Any, cond: Condition = None) -> Gaussian:
        """Returns q(z | state, x), a `Gaussian`.

        Args:
            state: the state from the levels above, `[B, ...]`.
            features: features of x, `[B, ...]`.
            cond: the encoded condition, or None.
        """
        inputs = {"state": state, "features": features, "cond": cond}
        if state.shape.rank == 1 or not takes_condition(self.posterior_network):
            inputs.pop("state")
        q = Gaussian.from_moments(call(self.posterior_network, inputs))
        self.latent_shape = tuple(q.mean.shape[1:])
        if self.residual and self.prior_network is not None:
            p = self.prior(state, cond)
            q = Gaussian(p.mean + q.mean, p.log_std + q.log_std)
        return q

    def merge(self, state: tf.Tensor, z: tf.Tensor) -> tf.Tensor:
        """Returns the state of the next level, `[B, ...]`.

        Args:
            state: the state from the levels above, `[B, ...]`.
            z: the latent of this level, `[B, *latent_shape]`.
        """
        if self.merge_network is None:
            return z
        return call(self.merge_network, {"state": state, "z": z})
