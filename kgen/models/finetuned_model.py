"""The abstract base of models that can be fine-tuned by a few additional weights.

    enable_lora     low-rank factors beside kernels (`kgen.training.lora`)
    learn_word      the embeddings of a new word of the text encoder (textual inversion)

In both cases all other weights are frozen: only the additional ones are trained, averaged, and
saved by `kgen.callbacks.Resume`. `release` makes the weights trainable again that were trainable
before.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685 (LoRA).
  Gal et al. (2022), https://arxiv.org/abs/2208.01618 (textual inversion).
"""

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal

import keras
import tensorflow as tf

from kgen.checks import check_count, check_number
from kgen.models.generative_model import GenerativeModel
from kgen.sampling.compiled import Compiled
from kgen.sampling.sampler import Sampler
from kgen.serialization import Untracked
from kgen.training import lora
from kgen.types import Network, Path


class FineTunedModel(GenerativeModel):
    """Abstract base of models with a network and an optional conditioner that can be fine-tuned.

    Args:
        lora: None; or, in the configuration of a saved model, `{part: {place: (rank, alpha)}}` of
            the layers that have a LoRA.
        **kwargs: arguments of `GenerativeModel`.

    Attributes:
        lora: None, or the `kgen.training.lora.LoRA`.
    """

    def __init__(self, *, lora: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lora = None
        self._lora_at_start = Untracked(lora)
        self._frozen = Untracked(None)

    @property
    def frozen_weights(self) -> list[keras.Variable]:
        """The weights that are frozen during a fine-tuning."""
        frozen = self._frozen.value
        return [] if frozen is None else frozen.variables

    def start_averaging(self, variables: Sequence[keras.Variable] | None = None) -> None:
        """Creates the averaged weights; of a model with a LoRA, those of its factors only.

        Args:
            variables: the variables to average; None for all trainable ones.
        """
        ranks = self._lora_at_start.value
        super().start_averaging(() if ranks else variables)
        if ranks:
            self._add_lora(ranks)

    def enable_lora(
        self,
        rank: int,
        *,
        alpha: float | None = None,
        targets: Literal["attention", "dense", "all"] | Sequence[str] = "attention",
        text_encoder: bool = False,
    ) -> int:
        """Adds a low-rank update to layers (LoRA) and freezes all other weights.

        The weights are set to their averages; the update starts at zero. Call `compile` afterwards,
        with about ten times the learning rate of a training of all weights. `save_lora` and
        `load_lora` write and read files of the factors; presets and `.keras` files contain them
        beside the weights.

        Args:
            rank: rank of the update, for example 4 or 8.
            alpha: scale of the update alpha / rank A B; None for `rank`.
            targets: `"attention"` for the projections of attention, `"dense"` for all dense layers,
                `"all"` for convolutions too, or a list of names of layers, such as `["to_q"]`.
            text_encoder: whether to adapt the text encoder too. Its embeddings then change in
                training, so that `precompute` writes token ids and each step runs the text encoder.

        Returns:
            The number of trained parameters.

        Raises:
            TypeError: if `rank` or `alpha` is not a number.
            ValueError: if `rank` or `alpha` is out of range, `targets` matches no layer, or the
                model has a LoRA already.
        """
        check_count("rank", rank)
        if alpha is not None:
            check_number("alpha", alpha)
        if self.lora is not None:
            raise ValueError(
                "The model has a LoRA already. Call `merge_lora()` or `unload_lora()` first."
            )
        parts = {k: v for k, v in self.lora_parts().items() if text_encoder or k == "unet"}
        if text_encoder and len(parts) == 1:
            raise ValueError("`text_encoder` must be False for a model without a text encoder.")
        ranks = {}
        for part, place in lora.chosen(parts, targets):
            ranks.setdefault(part, {})[place] = (rank, float(rank if alpha is None else alpha))
        self.attach_lora(ranks)
        return lora.count(self.trainable_variables)

    def attach_lora(self, ranks: dict[str, dict[str, tuple[int, float]]]) -> None:
        """Adds a LoRA to the given layers; see `enable_lora`.

        Args:
            ranks: `{part: {place: (rank, alpha)}}`, as `lora_layers` returns it.

        Raises:
            ValueError: if a part has no layer at a place.
        """
        self.assign_averages()
        self.release()
        self._add_lora(ranks)

    def merge_lora(self) -> None:
        """Adds the update of the averaged factors to the kernels, and removes the factors.

        Raises:
            ValueError: if the model has no LoRA.
        """
        self._remove_lora(merge=True)

    def unload_lora(self) -> None:
        """Removes the factors without a change of the kernels.

        Raises:
            ValueError: if the model has no LoRA.
        """
        self._remove_lora(merge=False)

    def save_lora(
        self,
        path: Path,
        layout: Literal["diffusers", "peft", "kohya"] = "diffusers",
        dtype: str = "float32",
    ) -> None:
        """Writes the averaged factors to a file; see `kgen.published.lora_files`.

        Args:
            path: a `.safetensors` file.
            layout: `"diffusers"`, `"peft"` or `"kohya"`.
            dtype: type of the arrays in the file, such as `"float16"`.

        Raises:
            ValueError: if the model has no LoRA, or `layout` is unknown.
        """
        from kgen.published.lora_files import save_lora

        save_lora(self, path, layout, dtype)

    def load_lora(self, path: Path, scale: float = 1.0) -> None:
        """Reads the factors of a file and adds them to the layers, where they can be trained.

        The update is added to that of a LoRA that the model has already, so that several files can
        be combined.

        Args:
            path: a `.safetensors` file in any of the layouts of `save_lora`.
            scale: factor of the update in the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or the model has no layer for one of its arrays.
        """
        from kgen.published.lora_files import load_lora

        load_lora(self, path, scale)

    def learn_word(
        self, word: str, *, like: str | None = None, vectors: int = 1, seed: int = 0
    ) -> int:
        """Adds a word to the text encoder, and freezes all weights except its embeddings.

        Call `compile` afterwards.

        Args:
            word: the word as it is written in prompts, such as `"<my-cat>"`.
            like: None, or a word of the vocabulary whose embedding is the initial value.
            vectors: number of tokens of the word, each with an embedding.
            seed: integer seed of the initial values without `like`.

        Returns:
            The number of trained parameters.

        Raises:
            TypeError: if the model has no text encoder that can learn words, or an argument has the
                wrong type.
            ValueError: if the text encoder has the word already, the model has a LoRA, or `vectors`
                is not a positive integer.
        """
        check_count("vectors", vectors)
        add_word = getattr(self.conditioner, "add_word", None)
        if add_word is None:
            raise TypeError(
                "The model must have a text encoder that can learn words, a TextEncoder or "
                f"CLIPText. Received: {type(self.conditioner).__name__}."
            )
        if self.lora is not None:
            raise ValueError("The model has a LoRA. Call `merge_lora()` first.")
        self.assign_averages()
        self.release()
        with self.distribute_strategy.scope():
            trained = add_word(word, like=like, vectors=vectors, seed=seed)
        self._train_only(trained)
        return lora.count(trained)

    def save_word(self, word: str, path: Path) -> None:
        """Writes the averaged embeddings of a word to a file.

        Args:
            word: a word that `learn_word` or `load_word` added.
            path: a `.safetensors` file in the published layout (`kgen.published.word_files`).

        Raises:
            ValueError: if no such word was added.
        """
        from kgen.published.word_files import save_word

        save_word(self, word, path)

    def load_word(self, path: Path, word: str | None = None) -> str:
        """Reads the embeddings of a word from a file and adds the word to the text encoder.

        Args:
            path: a `.safetensors` file of `save_word`, or a published one.
            word: the word as it is written in prompts; None for the name in the file.

        Returns:
            The word.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if the file is damaged, or its embeddings have another width.
        """
        from kgen.published.word_files import load_word

        return load_word(self, path, word)

    def release(self) -> None:
        """Makes the weights trainable again that were so before `enable_lora` or `learn_word`.

        Added words stay in the vocabulary. Call `compile` afterwards.

        Raises:
            ValueError: if the model has a LoRA, which `merge_lora` or `unload_lora` removes.
        """
        if self._frozen.value is None:
            return
        if self.lora is not None:
            raise ValueError("The model has a LoRA. Call `merge_lora()` or `unload_lora()`.")
        self.assign_averages()
        self._unfreeze()
        self._restart_averages(self.trainable_variables)

    def assign_averages(self) -> None:
        """Sets the trained weights to their averages."""
        for variable, average in self.averages.pairs():
            variable.assign(tf.cast(average.value, variable.dtype))

    def lora_parts(self) -> dict[str, Network]:
        """Returns the networks that can have a LoRA, by the names that files give them."""
        parts = {"unet": self.network}
        parts |= {} if self.conditioner is None else self.conditioner.networks()
        return parts

    def lora_layers(self) -> dict[str, dict[str, tuple[int, float]]]:
        """Returns `{part: {place: (rank, alpha)}}` of the layers that have a LoRA."""
        if self.lora is None:
            return {}
        own = {id(layer) for layer in self.lora.layers}
        ranks = {}
        for (part, place), layer in lora.candidates(self.lora_parts()).items():
            if id(layer) in own:
                ranks.setdefault(part, {})[place] = (layer.lora_rank, float(layer.lora_alpha))
        return ranks

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Saves the model as Keras does, with the factors of a LoRA beside the kernels."""
        with self._saving():
            return super().save(*args, **kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> None:
        """Saves the weights as Keras does, with the factors of a LoRA beside the kernels."""
        with self._saving():
            return super().save_weights(*args, **kwargs)

    def save_to_preset(self, directory: Path, dtype: str = "float16", **options: Any) -> None:
        """Writes the model as a preset, with the factors of a LoRA beside the kernels.

        Args:
            directory: path of the preset's folder.
            dtype: type of the floating-point weights in the file.
            **options: options of `kgen.presets.save_preset`.
        """
        with self._saving():
            super().save_to_preset(directory, dtype, **options)

    def _saving(self) -> AbstractContextManager:
        """Returns a context in which the kernels are read without the update of a LoRA."""
        return contextlib.nullcontext() if self.lora is None else self.lora.unmerged()

    def _add_lora(self, ranks: dict[str, dict[str, tuple[int, float]]]) -> None:
        """Adds a LoRA to layers; `ranks` is `{part: {place: (rank, alpha)}}`."""
        with self.distribute_strategy.scope():
            self.lora = lora.LoRA(self.lora_parts(), ranks, name="lora")
        self._init_arguments.value["lora"] = {
            part: {place: list(pair) for place, pair in layers.items()}
            for part, layers in ranks.items()
        }
        self._train_only(self.lora.factors, text=any(part != "unet" for part in ranks))

    def _remove_lora(self, merge: bool) -> None:
        """Removes the LoRA; with `merge`, its update stays in the kernels."""
        if self.lora is None:
            raise ValueError("The model has no LoRA.")
        if merge:
            self.assign_averages()
        self._unfreeze()
        self.lora.remove(merge)
        self.lora = None
        self._init_arguments.value["lora"] = self._lora_at_start.value = None
        self._restart_averages(self.trainable_variables)

    def _unfreeze(self) -> None:
        """Makes the weights trainable again that `_train_only` has frozen."""
        self._frozen.value.release()
        self._frozen.value = None
        if self.conditioner is not None:
            self.conditioner.adapt(False)
        self.forget_compiled()

    def _train_only(self, trained: Sequence[keras.Variable], text: bool = True) -> None:
        """Freezes all weights except those given.

        Args:
            trained: the variables to train.
            text: whether the output of the conditioner changes in training.
        """
        parts = [self.denoiser]
        if self.conditioner is not None:
            self.conditioner.adapt(text)
            parts.append(self.conditioner)
        self._frozen.value = lora.FrozenWeights(parts, trained)
        self._restart_averages(trained)
        self.forget_compiled()

    def _restart_averages(self, variables: Sequence[keras.Variable]) -> None:
        """Restarts the averages, of the given variables and at their present values."""
        with self.distribute_strategy.scope():
            self.averages.restart(self, variables)

    def forget_compiled(self) -> None:
        """Discards the traced functions, after weights were added, removed or frozen.

        `compile` must be called again before training.
        """
        for value in vars(self).values():
            if isinstance(value, (Compiled, Sampler)):
                value.forget()
        self.train_function = self.test_function = self.predict_function = None
        self.compiled = False
