"""Words that an encoder learns, against a table of embeddings that has them from the start."""

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import TextEncoder
from kgen.conditioning.new_words import NewWords, with_new_words

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s"]


def make(pieces=PIECES, **options):
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(pieces),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=12,
    )
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=pieces, lowercase=True)
    return TextEncoder(backbone, tokenizer, **{"sequence_length": 6, **options})


@pytest.fixture(scope="module")
def learned():
    encoder = make()
    (vectors,) = encoder.add_word("<x>", like="red apple", vectors=2)
    return encoder, vectors


def test_a_word_begins_at_the_mean_of_another(learned):
    encoder, vectors = learned
    table = encoder.parts.backbone.token_embedding.embeddings.numpy()
    np.testing.assert_allclose(vectors, np.tile(table[[6, 7]].mean(axis=0), (2, 1)), rtol=1e-6)


def test_ids_come_after_the_vocabulary(learned):
    encoder, _ = learned
    found = encoder.tokenize(["a <x>s", "red <X>", "<x>"])["token_ids"].numpy()
    # The word is cut out as it is spelled; "<X>" is not it, and "<" is in no vocabulary.
    assert found[0].tolist() == [2, 5, 9, 10, 1, 3]
    assert found[1].tolist() == [2, 6, 1, 1, 1, 3]
    assert found[2].tolist() == [2, 9, 10, 3, 0, 0]


def test_encoding_is_that_of_an_encoder_whose_vocabulary_has_the_word(learned):
    encoder, vectors = learned
    vectors.assign(np.random.default_rng(0).normal(size=vectors.shape))
    larger = make([*PIECES, "one", "two"])
    weights = {v.path: v for v in encoder.parts.backbone.weights}
    for variable in larger.parts.backbone.weights:
        value = weights[variable.path].numpy()
        if variable.shape[0] == len(PIECES) + 2 and "token_embedding" in variable.path:
            value = np.concatenate([value, vectors.numpy()])
        variable.assign(value)
    expected, received = larger(["a one two"]), encoder(["a <x>"])
    for key in expected:
        np.testing.assert_allclose(received[key], expected[key], atol=1e-6)


def test_gradients_reach_the_vectors_and_nothing_else(learned):
    encoder, vectors = learned
    rows = encoder.prepare(["a <x>"])
    for on in (False, True):
        encoder.adapt(on)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(rows)["tokens"] ** 3)
        gradient = tape.gradient(loss, vectors)
        assert (gradient is not None) == on
    assert encoder.changes
    encoder.adapt(False)
    assert [v.name for v in encoder.weights] == ["word_0"]


def test_what_is_embedded_follows_the_vectors(learned):
    encoder, vectors = learned
    before, fingerprint = encoder.embed(["a <x>"])["pooled"], encoder.fingerprint()
    vectors.assign_add(np.random.default_rng(2).normal(size=vectors.shape))
    encoder.clear_cache()
    assert np.abs(encoder.embed(["a <x>"])["pooled"] - before).max() > 1e-3
    assert encoder.fingerprint() != fingerprint


def test_longer_words_come_first():
    lengths = with_new_words(
        lambda texts: tf.RaggedTensor.from_tensor(tf.strings.length(texts)[:, None]),
        {"<a": [100], "<ab>": [200, 201]},
    )
    assert lengths(tf.constant(["<ab><a."])).to_list() == [[200, 201, 100, 1]]


def test_wrong_words_are_refused(learned):
    encoder, _ = learned
    for word in ("", "two words"):
        with pytest.raises(ValueError, match="word without spaces"):
            encoder.add_word(word)
    with pytest.raises(TypeError, match="must be a string"):
        encoder.add_word(3)
    with pytest.raises(ValueError, match="must be a new one"):
        encoder.add_word("<x>")
    with pytest.raises(ValueError, match="`like` must be a word of the vocabulary"):
        encoder.add_word("<y>", like="zebra")


def test_words_of_a_configuration():
    table = keras.layers.Embedding(4, 3)
    table.build()
    words = NewWords(table, {"<a>": 1, "<b>": 2})
    assert words.ids() == {"<a>": [4], "<b>": [5, 6]}
    words.vectors["<b>"].assign(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(table(np.array([6, 3]))[0], [3, 4, 5])
    np.testing.assert_array_equal(table(np.array([6, 3]))[1], table.embeddings[3])
