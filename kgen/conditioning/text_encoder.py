"""Text encoder: the encoding of a prompt by a tokenizer and a transformer.

    prompt --tokenizer--> ids [L] --embedding, transformer--> tokens [L, D] --mean--> pooled [D]

1. The tokenizer splits a text into tokens of a fixed vocabulary ("apples" -> "apple", "##s"), adds
   a start and an end token and pads the row to L ids; `mask` is false for padding.
2. The transformer computes a vector for each token that depends on the context: that of "bank"
   differs between "river bank" and "savings bank". These vectors, `tokens`, are the keys and values
   of cross-attention. Those of padding are zero.
3. `pooled` is the mean of the vectors without padding, scaled to length 1, so that the cosine
   similarity of two texts is the dot product of their `pooled` vectors. With `pooling="last"` it is
   the vector of the end token, which in the causal transformer of CLIP depends on the whole text.

The null condition is the encoding of the empty text, a start and an end token.

Any KerasHub text backbone works whose inputs are among token_ids, segment_ids and padding_mask, in
particular the BERT family and CLIP. The files of a model with a frozen encoder do not contain the
weights of the encoder, but the path of its preset and the sha256 of its weights and its tokenizer.
`embed` encodes each distinct prompt once.

References:
  BERT: Devlin et al. (2018), https://arxiv.org/abs/1810.04805.
  CLIP: Radford et al. (2021), section 2.4, https://arxiv.org/abs/2103.00020.
  Mean pooling: Reimers and Gurevych, Sentence-BERT (2019), https://arxiv.org/abs/1908.10084.
  Text in diffusion: Rombach et al. (2022), section 3.3, https://arxiv.org/abs/2112.10752.
"""

import contextlib
import hashlib
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self

import keras
import numpy as np
import tensorflow as tf

from kgen.conditioning import text_loading, text_presets, text_saving, tokenizers
from kgen.conditioning.conditioner import Conditioner
from kgen.conditioning.new_words import NewWords, initialize, token_embedding
from kgen.conditioning.packing import Packer
from kgen.conditioning.prompt_warnings import warn_of_truncated, warn_of_unknown
from kgen.conditioning.prompts import as_strings
from kgen.conditioning.text_parts import Compiled, Parts
from kgen.conditioning.text_rows import RowCache, encode_rows, padded
from kgen.serialization import serializable
from kgen.tensors import fingerprint
from kgen.types import Path

ACTIVATIONS = (None, "gelu_erf")
POOLINGS = ("mean", "last")


@serializable
class TextEncoder(Conditioner):
    """A conditioner of a KerasHub text backbone and its tokenizer.

    Args:
        backbone: a text backbone of KerasHub, such as `BertBackbone` or `CLIPTextEncoder`.
        tokenizer: the matching `keras_hub.tokenizers.Tokenizer`.
        sequence_length: number L of ids in a row, start and end included.
        trainable: whether the backbone is trained, and saved with the model.
        activation: `"gelu_erf"` for the exact GELU in the feed-forward blocks; None for the
            activation of the backbone.
        pooling: `"mean"` over the tokens without padding, or `"last"`, the end token.
        normalize: whether `pooled` is scaled to length 1.
        words: None, or `{word: number of vectors}` of words that were added by `add_word`.
        **kwargs: options of a Keras layer, such as `name`.

    Call arguments:
        values: a string, a list of strings or a string tensor `[B]`; the output of `tokenize`; or
            an encoded condition, which is returned unchanged.
        training: whether a trainable backbone uses dropout.

    Returns:
        A dictionary: `"tokens"` float32 `[B, L, D]`, `"mask"` bool `[B, L]` and `"pooled"` float32
        `[B, D]`.

    Raises:
        TypeError: if a prompt is not a string.
        ValueError: if there is no prompt, or an option is unknown or out of range.

    Example:
        >>> encoder = TextEncoder.from_preset("saved_models/minilm_l6_v2")
        >>> encoder(["a red apple", "a ripe fruit"])["tokens"].shape
        TensorShape([2, 32, 384])
    """

    batch_key = "prompts"
    forms = {"token_ids": "_from_tokens"}

    def __init__(
        self,
        backbone: keras.Model,
        tokenizer: keras.layers.Layer,
        *,
        sequence_length: int = 32,
        trainable: bool = False,
        activation: Literal["gelu_erf"] | None = None,
        pooling: Literal["mean", "last"] = "mean",
        normalize: bool = True,
        words: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(trainable=trainable, **kwargs)
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {ACTIVATIONS}. Received: activation={activation!r}."
            )
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {POOLINGS}. Received: pooling={pooling!r}.")
        longest = getattr(backbone, "max_sequence_length", None) or sequence_length
        if not isinstance(sequence_length, int) or not 3 <= sequence_length <= longest:
            raise ValueError(
                f"`sequence_length` must be an integer from 3 to {longest}, the backbone's limit. "
                f"Received: sequence_length={sequence_length!r}."
            )
        text_presets.check_inputs(backbone)
        if activation == "gelu_erf":
            text_presets.use_exact_gelu(backbone)
        self.sequence_length = sequence_length
        self.activation = activation
        self.pooling = pooling
        self.normalize = normalize
        self.frozen = not trainable
        self.hidden_dim = int(_sequence_output(backbone.output).shape[-1])

        backbone.trainable = trainable
        self.parts = Parts(backbone, tokenizer)
        if trainable:
            self.trained_backbone = backbone
        self.new_words = None
        if words:
            self.new_words = NewWords(self._token_embedding(), words, name="new_words")
        self._cache = RowCache()
        self._compile()
        self.origin = None
        with tf.init_scope():
            self._null_ids, self._null_mask = self._compiled.packer.empty()
        self.built = True

    @classmethod
    def from_preset(
        cls,
        preset: Path,
        *,
        sequence_length: int | None = None,
        trainable: bool = False,
        **kwargs: Any,
    ) -> Self:
        """Loads an encoder from a directory, or by the name of a published KerasHub preset.

        Args:
            preset: path of a directory, relative to the working directory or to the root of the
                checkout; or a name as of `keras_hub.models.Backbone.from_preset`.
            sequence_length: number L of ids in a row; None for the setting of the preset, or 32.
            trainable: whether the backbone is trained.
            **kwargs: options of a Keras layer, such as `name`.

        Returns:
            A `TextEncoder` in float32, also if the weights in the file have another dtype.

        Raises:
            FileNotFoundError: if a file is missing.
            ValueError: if a file is damaged or unsafe, or the preset is not a text encoder.
        """
        folder = text_presets.locate(preset)
        return text_loading.load(
            cls, preset, folder, sequence_length, trainable=trainable, **kwargs
        )

    def save_to_preset(self, folder: Path, dtype: str | None = None) -> None:
        """Writes a KerasHub preset and the settings of the encoder to a folder.

        The configuration of the encoder then refers to this folder.

        Args:
            folder: path of the folder, created if missing.
            dtype: dtype of the weights in the file, such as `"float16"`; None for that of the
                backbone.
        """
        self.origin = text_saving.save(self, pathlib.Path(folder), dtype)

    @contextlib.contextmanager
    def save_beside(self, directory: pathlib.Path, shared: str | None = None) -> Iterator[None]:
        """Writes the files of the encoder for the preset of a model.

        Inside of the context, the configuration of the encoder refers to these files.

        Args:
            directory: the folder of the model's preset.
            shared: None to write into a folder in `directory`, or the name of a folder beside it.

        Raises:
            ValueError: if the folder exists and holds another encoder.
        """
        before = self.origin
        folder, sums = text_saving.store(self, directory, shared, before)
        self.origin = {"preset": folder.name, **sums}
        try:
            yield
        finally:
            self.origin = before or {"preset": str(folder), **sums}

    def fingerprint(self) -> str:
        """Returns a sha256 of the weights, the tokenizer and the settings."""
        settings = [self.sequence_length, self.activation, self.pooling, self.normalize]
        digest = hashlib.sha256(json.dumps(settings).encode())
        sums = text_presets.published_sums(self.parts.backbone, self.parts.tokenizer)
        for value in sums.values():
            digest.update(value.encode())
        if self.new_words is not None:
            digest.update(json.dumps(self.new_words.ids()).encode())
            digest.update(fingerprint(self.new_words.weights).encode())
        return digest.hexdigest()

    def networks(self) -> dict[str, keras.layers.Layer]:
        """Returns the backbone, which can have a LoRA."""
        return {"text_encoder": self.parts.backbone}

    def adapt(self, on: bool) -> None:
        """Starts or ends the training of a few weights of a frozen encoder.

        Args:
            on: whether gradients are computed through the frozen backbone.
        """
        super().adapt(on)
        self._compile()

    def word_tables(self) -> list[NewWords | None]:
        """Returns a list of the `NewWords`, or of None if no words were added."""
        return [self.new_words]

    def word_widths(self) -> list[int]:
        """Returns a list of the width of the token embeddings."""
        return [self._token_embedding().output_dim]

    def add_word(
        self, word: str, *, like: str | None = None, vectors: int = 1, seed: int = 0
    ) -> list[keras.Variable]:
        """Adds a word with new embeddings, which can be trained.

        Args:
            word: the word as it is written in prompts.
            like: None, or a text; the mean embedding of its tokens is the initial value.
            vectors: number of vectors of the word.
            seed: integer seed of the initial values without `like`.

        Returns:
            A list of the variable of the embeddings, `[vectors, D]`.

        Raises:
            TypeError: if the word is not a string, or `vectors` is not a number.
            ValueError: if the word is empty, contains a space or was added before, `like` has no
                token in the vocabulary, or `vectors` is not a positive integer.
        """
        embedding = self._token_embedding()
        ids = None if like is None else self._known_ids(like)
        if self.new_words is None:
            self.new_words = NewWords(embedding, name="new_words")
        variable = self.new_words.add(word, vectors)
        initialize(variable, embedding.embeddings, ids, seed)
        self.clear_cache()
        self._compile()
        return [variable]

    def tokenize(self, prompts: Any) -> dict[str, tf.Tensor]:
        """Converts prompts to ids. A graph of this method needs operations of TensorFlow Text.

        Outside of a graph there is a warning about prompts that are truncated, or that have no word
        in the vocabulary.

        Args:
            prompts: a string, a list of strings or a string tensor `[B]`.

        Returns:
            A dictionary: `"token_ids"` int32 `[B, L]`, and `"padding_mask"` bool `[B, L]`, false
            for padding.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt.
        """
        prompts = as_strings(prompts)
        ids, mask, lengths = self._compiled.tokenize(prompts)
        if tf.executing_eagerly():
            warn_of_unknown(self._compiled.packer, prompts, ids, mask)
            warn_of_truncated(prompts, lengths, self._compiled.packer.capacity)
        return {"token_ids": ids, "padding_mask": mask}

    def encode(
        self, token_ids: tf.Tensor, padding_mask: tf.Tensor, training: bool = False
    ) -> dict[str, tf.Tensor]:
        """Encodes ids, without operations of TensorFlow Text.

        Args:
            token_ids: int32 `[B, L]`.
            padding_mask: bool `[B, L]`, false for padding.
            training: whether a trainable backbone uses dropout.

        Returns:
            The condition: `"tokens"` `[B, L, D]`, `"mask"` `[B, L]`, `"pooled"` `[B, D]`.
        """
        backbone = self.parts.backbone
        ids, mask = tf.cast(token_ids, tf.int32), tf.cast(padding_mask, tf.bool)
        inputs = {
            "token_ids": ids,
            "segment_ids": tf.zeros_like(ids),
            "padding_mask": tf.cast(mask, tf.int32),
        }
        outputs = backbone(
            {name: inputs[name] for name in backbone.input},
            training=bool(training) and not self.frozen,
        )
        tokens = tf.cast(_sequence_output(outputs), tf.float32)
        tokens *= tf.cast(mask, tf.float32)[:, :, tf.newaxis]
        if self.frozen and not self.adapted:
            tokens = tf.stop_gradient(tokens)
        return {"tokens": tokens, "mask": mask, "pooled": self._pool(tokens, mask)}

    def prepare(self, values: Any) -> dict[str, tf.Tensor]:
        """Tokenizes prompts; returns an output of `tokenize` unchanged.

        Args:
            values: prompts, or the output of `tokenize`.

        Returns:
            A dictionary, see `tokenize`.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt, or a dictionary has other keys than the output of
                `tokenize`.
        """
        if not isinstance(values, dict):
            return self.tokenize(values)
        if set(values) != {"token_ids", "padding_mask"}:
            raise ValueError(
                "`values` must be prompts, or a dictionary of token_ids and padding_mask, or a "
                f"condition (tokens, mask, pooled). Received: a dictionary of {sorted(values)}."
            )
        return {key: tf.convert_to_tensor(value) for key, value in values.items()}

    def call(self, rows: dict[str, tf.Tensor], training: bool = False) -> dict[str, tf.Tensor]:
        """Encodes the output of `tokenize`; see the class."""
        return self.encode(**rows, training=training)

    def signature(self, form: str | None = None) -> dict[str, tf.TensorSpec]:
        """Returns the inputs of an export: prompts, or with the form `"token_ids"` their ids."""
        if form is None:
            return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}
        row = [None, self.sequence_length]
        return {
            "token_ids": tf.TensorSpec(row, tf.int32, "token_ids"),
            "padding_mask": tf.TensorSpec(row, tf.bool, "padding_mask"),
        }

    def graph_checks(self, values: Any) -> list[tuple[tf.Tensor, str]]:
        """Returns the checks of ids and masks that a client passes instead of prompts."""
        if not isinstance(values, dict):
            return []
        ids, mask = values["token_ids"], values["padding_mask"]
        largest = self.parts.tokenizer.vocabulary_size() - 1
        if self.new_words is not None:
            largest = max(largest, *(i for ids in self.new_words.ids().values() for i in ids))
        in_range = tf.reduce_all((ids >= 0) & (ids <= largest))
        return [
            (in_range, f"`token_ids` must be in [0, {largest}]."),
            (
                tf.reduce_all(tf.reduce_any(mask, axis=1)),
                "`padding_mask` must mark a token of each text.",
            ),
        ]

    def resources(self) -> list[Any]:
        """Returns the tokenizer, whose lookup tables a SavedModel needs."""
        return [self.parts.tokenizer]

    def write_vocabulary(self, folder: pathlib.Path) -> dict[str, Any]:
        """Writes the vocabulary of the tokenizer.

        Args:
            folder: directory to write; its parents are created.

        Returns:
            The description of the tokenizer, `{"tokenizers": {"token_ids": ...}}`, which can be
            written as JSON.
        """
        words = {} if self.new_words is None else self.new_words.ids()
        description = tokenizers.write(self.parts.tokenizer, folder)
        description |= {"length": self.sequence_length, "new_words": words}
        return {"tokenizers": {"token_ids": description}}

    def null(self, batch_size: int | tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the encoding of the empty prompt, without operations of TensorFlow Text."""
        cond = self.encode(tf.constant([self._null_ids]), tf.constant([self._null_mask]))
        return {
            key: tf.tile(row, [batch_size] + [1] * (row.shape.rank - 1))
            for key, row in cond.items()
        }

    def embed(
        self, prompts: Any, batch_size: int = 256, progress: bool = True
    ) -> dict[str, np.ndarray]:
        """Encodes many prompts, each distinct one once, in batches of similar length.

        A frozen encoder caches the encoding of every distinct prompt until `clear_cache` is called,
        so that a second call does not run the network.

        Args:
            prompts: a string, a list of strings or a string tensor `[N]`.
            batch_size: number of prompts that are encoded at once.
            progress: whether to print a progress bar, if there is more than one batch.

        Returns:
            The condition as numpy arrays with N rows.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt.
        """
        prompts = [prompt.decode("utf-8") for prompt in as_strings(prompts).numpy()]
        rows = self._cache.rows if self.frozen and not self.adapted else {}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        if missing:
            rows |= encode_rows(missing, self.tokenize, self._compiled.encode, batch_size, progress)
        return padded(prompts, rows, self.sequence_length, self.hidden_dim)

    def clear_cache(self) -> None:
        """Discards the encodings that `embed` has cached."""
        self._cache.rows.clear()

    def get_config(self) -> dict[str, Any]:
        """Returns the configuration: the path of the preset, its checksums and the options.

        Raises:
            ValueError: if the encoder was neither loaded from nor saved to a preset.
        """
        if self.origin is None:
            raise ValueError(
                "A TextEncoder built from a backbone in memory has no preset that its config could "
                "name. Call `encoder.save_to_preset(folder)` first."
            )
        return {
            "name": self.name,
            **self.origin,
            "sequence_length": self.sequence_length,
            "trainable": not self.frozen,
            **({} if self.new_words is None else {"words": self.new_words.numbers()}),
        }

    @classmethod
    def check_config(cls, config: dict[str, Any]) -> None:
        """Compares the checksums in a configuration with those of the files, without loading them.

        Raises:
            ValueError: if they differ, or the configuration names no folder that may be opened.
        """
        text_loading.check_config(config)

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Builds the encoder of a model that `kgen.from_preset` or `kgen.load_model` loads.

        Raises:
            ValueError: if another function loads the model, the configuration names no folder that
                may be opened, or the encoder in the folder is not that of the model.
        """
        return text_loading.load_config(cls, config)

    def _compile(self) -> None:
        """Creates the compiled functions, again after words were added or gradients enabled."""
        words = None if self.new_words is None else self.new_words.ids()
        packer = Packer(self.parts.tokenizer, self.sequence_length, words)
        self._compiled = Compiled(packer, self.encode)

    def _token_embedding(self) -> keras.layers.Embedding:
        return token_embedding(self.parts.backbone, self.parts.tokenizer.vocabulary_size())

    def _known_ids(self, text: str) -> list[int]:
        """Returns the ids of a text, without start, end and unknown tokens."""
        packer = self._compiled.packer
        ids, _, lengths = (part.numpy()[0] for part in packer(as_strings(text)))
        start = 0 if packer.start is None else 1
        stop = start + min(int(lengths), packer.capacity)
        ids = [i for i in ids[start:stop] if i != packer.unknown]
        if not ids:
            raise ValueError(f"`like` must be a word of the vocabulary. Received: {text!r}.")
        return ids

    def _pool(self, tokens: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        """Returns the pooled vectors `[B, D]`, of tokens `[B, L, D]` and their mask `[B, L]`."""
        weights = tf.cast(mask, tf.float32)[:, :, tf.newaxis]
        if self.pooling == "last":
            weights -= tf.concat([weights[:, 1:], tf.zeros_like(weights[:, :1])], axis=1)
        pooled = tf.reduce_sum(tokens * weights, axis=1) / tf.reduce_sum(weights, axis=1)
        return tf.math.l2_normalize(pooled, axis=-1) if self.normalize else pooled


def _sequence_output(outputs: Any) -> Any:
    """Returns the vectors of all tokens among the outputs of a backbone."""
    return outputs["sequence_output"] if isinstance(outputs, dict) else outputs
