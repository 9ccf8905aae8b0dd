"""The abstract base of models that are fine-tuned by a few weights beside their own.

    enable_lora     factors of low rank beside kernels (`kgen.training.lora`)
    learn_word      the vectors of a new word of the text encoder (textual inversion)

Either way all other weights are held as they are: only the few are trained, averaged, and saved by
`kgen.callbacks.Resume`. `release` makes trainable again what was.

References:
  Hu et al. (2021), https://arxiv.org/abs/2106.09685 (LoRA).
  Gal et al. (2022), https://arxiv.org/abs/2208.01618 (textual inversion).
"""

import contextlib

import tensorflow as tf

from kgen.checks import check_count, check_number
from kgen.models.generative_model import GenerativeModel
from kgen.sampling.compiled import Compiled
from kgen.sampling.sampler import Sampler
from kgen.serialization import Untracked
from kgen.training import lora


class FineTunedModel(GenerativeModel):
    """Abstract: a generative model with a network and perhaps a conditioner.

    Args:
        lora: None; or, in a configuration, the layers that have a LoRA.
        **kwargs: as of `GenerativeModel`.

    Attributes:
        lora: None, or the `kgen.training.lora.LoRA`.
    """

    def __init__(self, *, lora=None, **kwargs):
        super().__init__(**kwargs)
        self.lora = None
        self._lora_at_start = Untracked(lora)
        self._held = Untracked(None)

    @property
    def frozen_weights(self):
        """The weights that are held while a few others are trained."""
        held = self._held.value
        return [] if held is None else held.frozen

    def start_averaging(self, variables=None):
        """As of `TermsModel`; of a model with a LoRA its factors are averaged."""
        ranks = self._lora_at_start.value
        super().start_averaging(() if ranks else variables)
        if ranks:
            self._add_lora(ranks)

    def enable_lora(self, rank, *, alpha=None, targets="attention", text_encoder=False):
        """Puts a change of low rank beside layers, which from here on is all that is trained.

        It begins with the averaged weights of the model, at no change. Call `compile` afterwards,
        with about ten times the learning rate of a training of all weights. Files of the factors:
        `save_lora` and `load_lora`; presets and `.keras` files hold them beside the weights.

        Args:
            rank: of the change, for example 4 or 8.
            alpha: the change is alpha / rank A B; None for `rank`.
            targets: `"attention"` for the projections of attention, `"dense"` for all dense layers,
                `"all"` for convolutions too, or a list of names of layers, such as `["to_q"]`.
            text_encoder: whether the text encoder gets one too. Its embeddings then change, so that
                `precompute` keeps token ids and each step runs it.

        Returns:
            How many numbers are trained.

        Raises:
            TypeError: if `rank` or `alpha` is no number.
            ValueError: if they are out of range, if no layer fits, or if there is a LoRA already.
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

    def attach_lora(self, ranks):
        """Puts a LoRA beside layers that are named one by one; `ranks` as of `lora_layers`."""
        self._take_averages()
        self.release()
        self._add_lora(ranks)

    def merge_lora(self):
        """Adds the change to the weights, in its averaged form, and takes the factors away.

        Raises:
            ValueError: if there is no LoRA.
        """
        self._remove_lora(merge=True)

    def unload_lora(self):
        """Takes the factors away: the model is as it was before.

        Raises:
            ValueError: if there is no LoRA.
        """
        self._remove_lora(merge=False)

    def save_lora(self, path, layout="diffusers", dtype="float32"):
        """Writes the factors, in their averaged form; see `kgen.published.lora_files`.

        Args:
            path: a `.safetensors` file.
            layout: `"diffusers"`, `"peft"` or `"kohya"`.
            dtype: type of the arrays in the file, such as `"float16"`.

        Raises:
            ValueError: if there is no LoRA, or for another layout.
        """
        from kgen.published.lora_files import save_lora

        save_lora(self, path, layout, dtype)

    def load_lora(self, path, scale=1.0):
        """Reads factors and puts them beside the layers, where they can be trained further.

        With those that are there already, of which several files may have come, the changes add up.

        Args:
            path: a `.safetensors` file of any of the layouts of `save_lora`.
            scale: factor on the change of the file.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or has something that fits no layer.
        """
        from kgen.published.lora_files import load_lora

        load_lora(self, path, scale)

    def learn_word(self, word, *, like=None, vectors=1, seed=0):
        """Adds a word to the text encoder, whose vectors from here on are all that is trained.

        Args:
            word: how it is written in prompts, such as `"<my-cat>"`.
            like: None, or a word that the model knows, at which the vectors begin.
            vectors: how many pieces the word has, each with a vector.
            seed: of the vectors without `like`.

        Returns:
            How many numbers are trained.

        Raises:
            TypeError: if the model has no text encoder that can learn words.
            ValueError: if the word is known already, or there is a LoRA.
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
        self._take_averages()
        self.release()
        with self.distribute_strategy.scope():
            trained = add_word(word, like=like, vectors=vectors, seed=seed)
        self._hold(trained)
        return lora.count(trained)

    def save_word(self, word, path):
        """Writes the vectors of a word, in their averaged form.

        Args:
            word: that `learn_word` or `load_word` added.
            path: a `.safetensors` file, as published ones are (`kgen.published.word_files`).

        Raises:
            ValueError: if there is no such word.
        """
        from kgen.published.word_files import save_word

        save_word(self, word, path)

    def load_word(self, path, word=None):
        """Reads the vectors of a word, which prompts may then have.

        Args:
            path: a `.safetensors` file of `save_word`, or a published one.
            word: how it is written; None as the file says.

        Returns:
            The word.

        Raises:
            FileNotFoundError: if there is no such file.
            ValueError: if it is damaged, or its vectors have another width.
        """
        from kgen.published.word_files import load_word

        return load_word(self, path, word)

    def release(self):
        """Makes trainable again what was before `enable_lora` or `learn_word`.

        Words stay known. Call `compile` afterwards.
        """
        if self._held.value is None:
            return
        if self.lora is not None:
            raise ValueError("The model has a LoRA: `merge_lora()` or `unload_lora()` ends it.")
        self._take_averages()
        self._let_go()
        self._average(self.trainable_variables)

    def lora_parts(self):
        """Returns the networks that can have a LoRA, by their names in files."""
        parts = {"unet": self.network}
        parts |= {} if self.conditioner is None else self.conditioner.networks()
        return parts

    def lora_layers(self):
        """Returns `{part: {place: (rank, alpha)}}` of the layers that have a LoRA."""
        if self.lora is None:
            return {}
        own = {id(layer) for layer in self.lora.layers}
        ranks = {}
        for (part, place), layer in lora.candidates(self.lora_parts()).items():
            if id(layer) in own:
                ranks.setdefault(part, {})[place] = (layer.lora_rank, float(layer.lora_alpha))
        return ranks

    def save(self, *args, **kwargs):
        """As of Keras; the factors of a LoRA are saved beside the kernels, not added to them."""
        with self._saving():
            return super().save(*args, **kwargs)

    def save_weights(self, *args, **kwargs):
        """As of Keras, the factors of a LoRA by themselves."""
        with self._saving():
            return super().save_weights(*args, **kwargs)

    def save_to_preset(self, directory, dtype="float16", **options):
        """As of `GenerativeModel`, the factors of a LoRA beside the weights."""
        with self._saving():
            super().save_to_preset(directory, dtype, **options)

    def _saving(self):
        return contextlib.nullcontext() if self.lora is None else self.lora.left_out()

    def _take_averages(self):
        """Lets the trained weights be their averages, with which the model draws."""
        for variable, average in self.averages.pairs():
            variable.assign(tf.cast(average.value, variable.dtype))

    def _add_lora(self, ranks):
        """Gives layers a LoRA; `ranks` as of `lora_layers`."""
        with self.distribute_strategy.scope():
            self.lora = lora.LoRA(self.lora_parts(), ranks, name="lora")
        self._init_arguments.value["lora"] = {
            part: {place: list(pair) for place, pair in layers.items()}
            for part, layers in ranks.items()
        }
        self._hold(self.lora.factors, text=any(part != "unet" for part in ranks))

    def _remove_lora(self, merge):
        if self.lora is None:
            raise ValueError("The model has no LoRA.")
        if merge:
            self._take_averages()
        self._let_go()
        self.lora.remove(merge)
        self.lora = None
        self._init_arguments.value["lora"] = self._lora_at_start.value = None
        self._average(self.trainable_variables)

    def _let_go(self):
        """Makes trainable what was."""
        self._held.value.release()
        self._held.value = None
        if self.conditioner is not None:
            self.conditioner.adapt(False)
        self.forget_compiled()

    def _hold(self, trained, text=True):
        """Trains some variables only."""
        parts = [self.denoiser]
        if self.conditioner is not None:
            self.conditioner.adapt(text)
            parts.append(self.conditioner)
        self._held.value = lora.Held(parts, trained)
        self._average(trained)
        self.forget_compiled()

    def _average(self, variables):
        """Begins the averages anew, as those of some variables."""
        with self.distribute_strategy.scope():
            self.averages.follow(self, variables)

    def forget_compiled(self):
        """Forgets what was compiled with other weights; `compile` is to be called again."""
        for value in vars(self).values():
            if isinstance(value, (Compiled, Sampler)):
                value.forget()
        self.train_function = self.test_function = self.predict_function = None
        self.compiled = False
