"""What a conditional model is given beside the noisy value: a dictionary of tensors, batch first.

A conditioner turns one entry of a batch (prompts, labels) into that dictionary. Networks look at
the keys they understand: `"pooled"` `[B, D]` joins the time embedding, `"tokens"` `[B, L, D]` with
`"mask"` `[B, L]` is attended to. Every conditioner also has a null condition, the one that says
nothing, which classifier-free guidance needs twice: in training, in place of a share of the
conditions (`drop_condition`), and in sampling, for the unconditional prediction.

References:
  Classifier-free guidance: Ho and Salimans (2022), section 3.1, https://arxiv.org/abs/2207.12598.
"""

import keras

from kgen.tensors import fingerprint


class Conditioner(keras.layers.Layer):
    """Abstract: the map from prompts or labels to a condition.

    Attributes:
        batch_key: the entry of a batch that `call` reads, `"prompts"` or `"labels"`.
    """

    batch_key = None

    def call(self, inputs):
        """Encodes one entry of a batch.

        Args:
            inputs: the batch's `batch_key` entry, B items.

        Returns:
            A dictionary of tensors, each with B rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `call(inputs)`.")

    def check(self, inputs):
        """Checks an entry of a batch at the door, before training; not at all by default."""

    def fingerprint(self):
        """The sha256 of all that a condition depends on: the weights, unless there is more."""
        return fingerprint(self.weights)

    def null(self, batch_size):
        """The condition that says nothing.

        Args:
            batch_size: B, an integer or a scalar int32 tensor.

        Returns:
            A dictionary of the keys and types of `call`, with B rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `null(batch_size)`.")
