"""Text encoder: how a sentence becomes numbers that a network can attend to.

    prompt --tokenizer--> ids [L] --embedding, transformer--> tokens [L, D] --mean--> pooled [D]

1. The tokenizer cuts a text into pieces of a fixed vocabulary ("apples" -> "apple", "##s"), puts a
   start and an end mark around them and pads the row to L ids; `mask` is true for the real ones.
2. The transformer mixes the pieces: the vector of "bank" in "river bank" is another than in
   "savings bank". The rows, `tokens`, are what cross-attention reads, one vector for each piece.
   Rows of padding are zero.
3. `pooled` is the mean of the real rows, scaled to length 1, so that the cosine of two sentences is
   the dot product of their `pooled` vectors. (`pooling="last"` takes the row of the end mark
   instead, which is where CLIP's causal transformer has seen the whole text.)

The empty text is a text like any other, two marks around nothing. Its encoding is the null
condition.

Any KerasHub text backbone whose inputs are among token_ids, segment_ids and padding_mask will do,
in particular the BERT family and CLIP. A frozen encoder belongs to a model without being part of
it: the model's files name the encoder's preset by path and sha256 (of its weights and of its
tokenizer) and hold no copy of it, and `embed` computes each distinct prompt once.

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
import warnings

import keras
import numpy as np
import tensorflow as tf

from kgen.conditioning import text_presets, text_saving, tokenizers
from kgen.conditioning.conditioner import Conditioner
from kgen.conditioning.new_words import NewWords, begin_at, token_embedding
from kgen.conditioning.packing import Packer
from kgen.conditioning.prompts import as_strings
from kgen.conditioning.unknown_words import warn_of_unknown
from kgen.files.folders import named_folder, now_opened
from kgen.files.text import reason
from kgen.serialization import serializable
from kgen.tensors import fingerprint

ACTIVATIONS = (None, "gelu_erf")
POOLINGS = ("mean", "last")


@serializable
class TextEncoder(Conditioner):
    """A KerasHub text backbone and its tokenizer as a conditioner.

    Args:
        backbone: a text backbone of KerasHub, such as `BertBackbone` or `CLIPTextEncoder`.
        tokenizer: the matching `keras_hub.tokenizers.Tokenizer`.
        sequence_length: L, ids in a row, the start and end marks included.
        trainable: whether the backbone is trained and saved with the model it is part of.
        activation: `"gelu_erf"` for the exact GELU in the feed-forward blocks, None to leave them.
        pooling: `"mean"` of the real tokens, or `"last"`, the end mark's.
        normalize: whether `pooled` is scaled to length 1.
        words: None, or `{word: number of vectors}` of words that were learned (`add_word`).
        **kwargs: options of a Keras layer, such as `name`.

    Call arguments:
        inputs: a string, a list of strings or a string tensor `[B]`; or the output of `tokenize`;
            or a condition, which is returned as it is (prompts that were encoded beforehand).
        training: whether a trainable backbone uses dropout.

    Returns:
        A dictionary: `"tokens"` float32 `[B, L, D]`, `"mask"` bool `[B, L]` and `"pooled"` float32
        `[B, D]`.

    Raises:
        TypeError: if a prompt is not a string.
        ValueError: if there is no prompt, or an option is not one of those above.

    Example:
        >>> encoder = TextEncoder.from_preset("saved_models/minilm_l6_v2")
        >>> encoder(["a red apple", "a ripe fruit"])["tokens"].shape
        TensorShape([2, 32, 384])
    """

    batch_key = "prompts"
    forms = {"token_ids": "_from_tokens"}

    def __init__(
        self,
        backbone,
        tokenizer,
        *,
        sequence_length=32,
        trainable=False,
        activation=None,
        pooling="mean",
        normalize=True,
        words=None,
        **kwargs,
    ):
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
        self.parts = _Parts(backbone, tokenizer)
        if trainable:
            self.trained_backbone = backbone
        self.new_words = None
        if words:
            self.new_words = NewWords(self._token_embedding(), words, name="new_words")
        self._cache = _Cache()
        self._compile()
        self._origin = None
        with tf.init_scope():
            self._null_ids, self._null_mask = self._compiled.packer.empty()
        self.built = True

    @classmethod
    def from_preset(cls, preset, *, sequence_length=None, trainable=False, **kwargs):
        """Loads an encoder from a directory, or by the name of a published KerasHub preset.

        Args:
            preset: a directory, looked for from the working directory and from the root of the
                checkout; or a name that `keras_hub.models.Backbone.from_preset` knows.
            sequence_length: L; None for what the preset recommends, else 32.
            trainable: whether the backbone is trained.
            **kwargs: options of a Keras layer, such as `name`.

        Returns:
            A `TextEncoder` in float32, whatever the type of the weights in the file.
        """
        folder = text_presets.locate(preset)
        return cls._load(preset, folder, sequence_length, trainable=trainable, **kwargs)

    @classmethod
    def _load(cls, preset, folder, sequence_length=None, **kwargs):
        """Builds the encoder of a folder, or without one that of a published preset."""
        published = folder is None or not text_presets.is_keras_preset(folder)
        if published:
            backbone, tokenizer = text_presets.load_published(folder or preset)
        else:
            text_presets.check_files(folder)
            backbone = text_presets.load_backbone(folder)
            tokenizer = tokenizers.build(folder)
        settings = text_presets.read_settings(folder) | kwargs
        if sequence_length is not None:
            settings["sequence_length"] = sequence_length
        backbone = getattr(backbone, "text_encoder", backbone)
        try:
            encoder = cls(backbone, tokenizer, **settings)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{folder or preset} makes no encoder: {reason(error)}.") from error
        encoder._origin = text_presets.origin(preset, folder, backbone, tokenizer)
        return encoder

    def save_to_preset(self, folder, dtype=None):
        """Writes a KerasHub preset with kgen's settings beside it; the encoder's config names it.

        Args:
            folder: directory to write, made if it does not exist.
            dtype: type of the weights in the file, for example `"float16"`; None leaves it.
        """
        backbone = self.parts.backbone
        if dtype is not None:
            config = backbone.get_config() | {"dtype": dtype}
            backbone = type(backbone).from_config(config)
            backbone.set_weights(self.parts.backbone.get_weights())
        backbone.save_to_preset(str(folder))
        self.parts.tokenizer.save_to_preset(str(folder))
        folder = pathlib.Path(folder)
        text_saving.write_settings(self, folder)
        self._origin = text_presets.origin(folder, folder, backbone, self.parts.tokenizer)

    @contextlib.contextmanager
    def save_beside(self, directory, shared=None):
        """Writes the encoder's files for a model's preset, which names them while it is open.

        Args:
            directory: the folder of the model's preset, in which they will lie.
            shared: None, or the name of a folder beside it in which they lie instead.

        Raises:
            ValueError: if the shared folder holds another encoder.
        """
        before = self._origin
        folder, sums = text_saving.store(self, directory, shared, before)
        self._origin = {"preset": folder.name, **sums}
        try:
            yield
        finally:
            self._origin = before or {"preset": str(folder), **sums}

    def fingerprint(self):
        """The sha256 of all that an embedding depends on: weights, tokenizer and settings."""
        settings = [self.sequence_length, self.activation, self.pooling, self.normalize]
        digest = hashlib.sha256(json.dumps(settings).encode())
        sums = text_presets.published_sums(self.parts.backbone, self.parts.tokenizer)
        for value in sums.values():
            digest.update(value.encode())
        if self.new_words is not None:
            digest.update(json.dumps(self.new_words.ids()).encode())
            digest.update(fingerprint(self.new_words.weights).encode())
        return digest.hexdigest()

    def networks(self):
        """Returns the backbone, which can have a LoRA."""
        return {"text_encoder": self.parts.backbone}

    def adapt(self, on):
        """Lets gradients reach a few weights of a frozen encoder, or no longer."""
        super().adapt(on)
        self._compile()

    def word_tables(self):
        """Returns a list of the `NewWords`, or of None before there are any."""
        return [self.new_words]

    def word_widths(self):
        """Returns a list of how many numbers a vector of a word has."""
        return [self._token_embedding().output_dim]

    def add_word(self, word, *, like=None, vectors=1, seed=0):
        """Adds a word, whose vectors are to be trained.

        Args:
            word: how it is written in prompts.
            like: None, or a text whose pieces its vectors begin at the mean of.
            vectors: how many it has.
            seed: of its vectors without `like`.

        Returns:
            A list of the variable of its vectors, `[vectors, D]`.

        Raises:
            TypeError: if the word is no string.
            ValueError: if it is empty, has a space, or is there already, or if `like` has no piece
                that the vocabulary knows.
        """
        embedding = self._token_embedding()
        ids = None if like is None else self._known_pieces(like)
        if self.new_words is None:
            self.new_words = NewWords(embedding, name="new_words")
        variable = self.new_words.add(word, vectors)
        begin_at(variable, embedding.embeddings, ids, seed)
        self.clear_cache()
        self._compile()
        return [variable]

    def tokenize(self, prompts):
        """Cuts prompts into ids. Needs TensorFlow Text's operations in the process that runs it.

        Args:
            prompts: a string, a list of strings or a string tensor `[B]`.

        Returns:
            A dictionary: `"token_ids"` int32 `[B, L]`, `"padding_mask"` bool `[B, L]`. Longer
            prompts are truncated; of them, and of prompts without a known word, there is a warning
            outside of `tf.function`.
        """
        prompts = as_strings(prompts)
        ids, mask, lengths = self._compiled.tokenize(prompts)
        if tf.executing_eagerly():
            warn_of_unknown(self._compiled.packer, prompts, ids, mask)
            room = self._compiled.packer.room
            too_long = np.flatnonzero(lengths.numpy() > room)
            if len(too_long):
                first = prompts[too_long[0]].numpy().decode("utf-8", "replace")
                warnings.warn(
                    f"{len(too_long)} of {len(lengths)} `prompts` are longer than the encoder's "
                    f"{room} tokens and are truncated, the first of them {first!r}.",
                    stacklevel=2,
                )
        return {"token_ids": ids, "padding_mask": mask}

    def encode(self, token_ids, padding_mask, training=False):
        """Encodes ids with TensorFlow's core operations only.

        Args:
            token_ids: int32 `[B, L]`.
            padding_mask: bool `[B, L]`, true for real tokens.
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

    def prepare(self, values):
        """Returns ids and mask of prompts; see `tokenize`, whose output is returned as it is.

        Raises:
            TypeError: if a prompt is not a string.
            ValueError: if there is no prompt, or a dictionary is not what `tokenize` returns.
        """
        if not isinstance(values, dict):
            return self.tokenize(values)
        if set(values) != {"token_ids", "padding_mask"}:
            raise ValueError(
                "`inputs` must be prompts, or a dictionary of token_ids and padding_mask, or a "
                f"condition (tokens, mask, pooled). Received: a dictionary of {sorted(values)}."
            )
        return {key: tf.convert_to_tensor(value) for key, value in values.items()}

    def call(self, rows, training=False):
        """Encodes the ids of prompts; see the class."""
        return self.encode(**rows, training=training)

    def signature(self, form=None):
        """Returns what a server takes: strings, or with the form `"token_ids"` ids and mask."""
        if form is None:
            return {"prompts": tf.TensorSpec([None], tf.string, "prompts")}
        row = [None, self.sequence_length]
        return {
            "token_ids": tf.TensorSpec(row, tf.int32, "token_ids"),
            "padding_mask": tf.TensorSpec(row, tf.bool, "padding_mask"),
        }

    def graph_checks(self, values):
        """Returns the checks of ids that a client made: known ones, and a real one in each text."""
        if not isinstance(values, dict):
            return []
        ids, mask = values["token_ids"], values["padding_mask"]
        most = self.parts.tokenizer.vocabulary_size() - 1
        if self.new_words is not None:
            most = max(most, *(i for ids in self.new_words.ids().values() for i in ids))
        return [
            (tf.reduce_all((ids >= 0) & (ids <= most)), f"`token_ids` must be in [0, {most}]."),
            (
                tf.reduce_all(tf.reduce_any(mask, axis=1)),
                "`padding_mask` must mark a token of each text.",
            ),
        ]

    def resources(self):
        """Returns the tokenizer, whose tables a SavedModel needs."""
        return [self.parts.tokenizer]

    def write_vocabulary(self, folder):
        """Writes the vocabulary; returns how texts become ids with it."""
        words = {} if self.new_words is None else self.new_words.ids()
        said = tokenizers.write(self.parts.tokenizer, folder)
        length = {"length": self.sequence_length, "new_words": words}
        return {"tokenizers": {"token_ids": {**said, **length}}}

    def null(self, batch_size):
        """The encoding of the empty prompt, `batch_size` times; core operations only."""
        cond = self.encode(tf.constant([self._null_ids]), tf.constant([self._null_mask]))
        return {
            key: tf.tile(row, [batch_size] + [1] * (row.shape.rank - 1))
            for key, row in cond.items()
        }

    def embed(self, prompts, batch_size=256, progress=True):
        """Encodes many prompts, each distinct one once, in small batches of like length.

        A frozen encoder keeps the real tokens of every distinct prompt until `clear_cache`, so a
        second call does not run the network.

        Args:
            prompts: a string, a list of strings or a string tensor `[N]`.
            batch_size: rows in one run of the network.
            progress: whether to print a progress bar, if there is more than one batch.

        Returns:
            The condition as numpy arrays with N rows.
        """
        prompts = [prompt.decode("utf-8") for prompt in as_strings(prompts).numpy()]
        rows = self._cache.rows if self.frozen and not self.adapted else {}
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in rows]
        if missing:
            rows |= self._run(missing, batch_size, progress)
        tokens = np.zeros([len(prompts), self.sequence_length, self.hidden_dim], "float32")
        for i, prompt in enumerate(prompts):
            tokens[i, : len(rows[prompt][0])] = rows[prompt][0]
        lengths = np.array([len(rows[prompt][0]) for prompt in prompts])
        return {
            "tokens": tokens,
            "mask": np.arange(self.sequence_length) < lengths[:, np.newaxis],
            "pooled": np.stack([rows[prompt][1] for prompt in prompts]),
        }

    def clear_cache(self):
        """Forgets the embeddings that `embed` has kept."""
        self._cache.rows.clear()

    def get_config(self):
        """Names the preset by path and sha256; the weights stay where they are."""
        if self._origin is None:
            raise ValueError(
                "A TextEncoder built from a backbone in memory has no preset that its config could "
                "name. Call `encoder.save_to_preset(folder)` first."
            )
        return {
            "name": self.name,
            **self._origin,
            "sequence_length": self.sequence_length,
            "trainable": not self.frozen,
            **({} if self.new_words is None else {"words": self.new_words.numbers()}),
        }

    @classmethod
    def check_config(cls, config):
        """Compares the sums of a config with those of the files it names, which it does not load.

        Raises:
            ValueError: if they are others, or the config names no folder that may be opened.
        """
        place = now_opened()
        if place is not None:
            preset, folder, _ = _named(config, place)
            if folder is not None and text_presets.is_keras_preset(folder):
                sums = text_presets.file_sums(folder)
                text_presets.check_sums(_sums(config), sums, preset)

    @classmethod
    def from_config(cls, config):
        """Builds the encoder of a model that `kgen.from_preset` or `kgen.load_model` is loading.

        Raises:
            ValueError: if something else loads it, if the config names no folder that may be
                opened, or if the encoder is another one than that of the model.
        """
        place = now_opened()
        if place is None:
            raise ValueError(
                "A TextEncoder lies in a folder of its own, which a file alone cannot open: load "
                "the file with `kgen.load_model(path)` or `kgen.from_preset(directory)`, which "
                "find it beside the file, or name its folder there by `text_encoder`. "
                f"Received: preset={config.get('preset')!r:.200}."
            )
        cls.check_config(config)
        preset, folder, options = _named(config, place)
        encoder = cls._load(preset, folder, **options)
        text_presets.check_sums(_sums(config), encoder._origin, preset)
        return encoder

    def _compile(self):
        """Compiles what is called often, anew after words or weights have come."""
        words = None if self.new_words is None else self.new_words.ids()
        packer = Packer(self.parts.tokenizer, self.sequence_length, words)
        row = [None, None]
        self._compiled = _Compiled(
            packer=packer,
            tokenize=tf.function(
                packer.__call__, input_signature=[tf.TensorSpec([None], tf.string)]
            ),
            encode=tf.function(
                self.encode,
                input_signature=[tf.TensorSpec(row, tf.int32), tf.TensorSpec(row, tf.bool)],
            ),
        )

    def _token_embedding(self):
        return token_embedding(self.parts.backbone, self.parts.tokenizer.vocabulary_size())

    def _known_pieces(self, text):
        """The ids of a text that the vocabulary knows, without marks."""
        packer = self._compiled.packer
        ids, _, lengths = (part.numpy()[0] for part in packer(as_strings(text)))
        start = 0 if packer.start is None else 1
        ids = [
            i for i in ids[start : start + min(int(lengths), packer.room)] if i != packer.unknown
        ]
        if not ids:
            raise ValueError(f"`like` must be a word that the encoder knows. Received: {text!r}.")
        return ids

    def _run(self, prompts, batch_size, progress):
        """Runs the network, shortest prompts first: `{prompt: (real tokens, pooled)}`."""
        ids = {key: value.numpy() for key, value in self.tokenize(prompts).items()}
        lengths = ids["padding_mask"].sum(axis=1)
        order = np.argsort(lengths, kind="stable")
        starts = range(0, len(order), batch_size)
        bar = keras.utils.Progbar(len(starts)) if progress and len(starts) > 1 else None
        rows = {}
        for start in starts:
            part = order[start : start + batch_size]
            width = lengths[part[-1]]
            cond = self._compiled.encode(*(ids[key][part, :width] for key in ids))
            tokens, pooled = cond["tokens"].numpy(), cond["pooled"].numpy()
            for row, i in enumerate(part):
                rows[prompts[i]] = (tokens[row, : lengths[i]].copy(), pooled[row].copy())
            if bar is not None:
                bar.add(1)
        return rows

    def _pool(self, tokens, mask):
        weights = tf.cast(mask, tf.float32)[:, :, tf.newaxis]
        if self.pooling == "last":
            weights -= tf.concat([weights[:, 1:], tf.zeros_like(weights[:, :1])], axis=1)
        pooled = tf.reduce_sum(tokens * weights, axis=1) / tf.reduce_sum(weights, axis=1)
        return tf.math.l2_normalize(pooled, axis=-1) if self.normalize else pooled


class _Parts(tf.Module):
    """Backbone and tokenizer, seen by a SavedModel but not by Keras or checkpoints.

    Keras finds layers by their type, so what a `tf.Module` holds is in no model's weights or files.
    """

    def __init__(self, backbone, tokenizer):
        super().__init__(name="parts")
        self.backbone = backbone
        self.tokenizer = tokenizer

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        return {} if save_type == "checkpoint" else super()._trackable_children(save_type, **kwargs)


class _Compiled:
    """Compiled functions in a plain object, which a SavedModel does not write out unasked."""

    def __init__(self, packer, tokenize, encode):
        self.packer = packer
        self.tokenize = tokenize
        self.encode = encode


class _Cache:
    """Rows of `embed`, in a plain object that no tracker walks."""

    def __init__(self):
        self.rows = {}


def _named(config, place):
    """What a config names: a preset, its folder if it has one, and the options of the encoder."""
    options = {key: value for key, value in config.items() if key not in text_presets.SUMS}
    preset, given = options.pop("preset", None), place.given
    if set(options) - {"name", "sequence_length", "trainable", "words"} or not _sums(config):
        raise ValueError(
            f"{place.source} must give a TextEncoder a preset, its sums, and no other options than "
            f"name, sequence_length, trainable and words. Received: {sorted(config)}."
        )
    if given is not None:
        return given, text_presets.locate(given), options
    folder = named_folder(preset, place)
    if not text_presets.is_keras_preset(folder):
        raise ValueError(f"{folder} must be a text encoder in the format of KerasHub.")
    return folder, folder, options


def _sums(config):
    """The sums in a config. The first presets have that of the weights only."""
    sums = {key: config[key] for key in text_presets.SUMS if key in config}
    return sums if "sha256" in sums else {}


def _sequence_output(outputs):
    return outputs["sequence_output"] if isinstance(outputs, dict) else outputs
