"""Ids of 500 sentences beside those of `transformers`, and what is said of unknown words.

`token_ids.json` is from `tools/tokenizer_references.py`, which uses neither Keras nor TensorFlow.
"""

import json
import os
import pathlib
import subprocess
import sys
import warnings

import keras_hub
import pytest
import tensorflow as tf

from kgen.conditioning import TextEncoder, bert_words
from kgen.conditioning.letters import lower
from kgen.conditioning.packing import Packer
from tools.tokenizer_references import VOCABULARY, clip_vocabulary, sentences

ROOT = pathlib.Path(__file__).parents[2]
REFERENCE = json.loads(pathlib.Path(__file__).with_name("token_ids.json").read_text("utf-8"))


def bert_packer(length=300):
    names = VOCABULARY.read_text("utf-8").splitlines()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=names, lowercase=True, strip_accents=True)
    return Packer(tokenizer, length)


def clip_packer(length=600):
    merges = REFERENCE["merges"]
    vocabulary = clip_vocabulary([tuple(merge.split(" ")) for merge in merges])
    tokenizer = keras_hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=merges)
    return Packer(tokenizer, length)


@pytest.fixture(scope="module")
def bert():
    packer = bert_packer()
    return tf.function(packer.__call__, input_signature=[tf.TensorSpec([None], tf.string)])


@pytest.fixture(scope="module")
def clip():
    packer = clip_packer()
    return tf.function(packer.__call__, input_signature=[tf.TensorSpec([None], tf.string)])


def rows(pack, texts):
    """Ids of texts in a graph, without the marks around and the padding behind."""
    texts = [text if isinstance(text, bytes) else text.encode() for text in texts]
    ids, mask, _ = pack(tf.constant(texts))
    return [row[real][1:-1].tolist() for row, real in zip(ids.numpy(), mask.numpy())]


def differing(texts, found, expected):
    return [ascii(text) for text, a, b in zip(texts, found, expected) if a != b]


def test_the_sentences_are_those_of_the_tool_and_of_many_kinds():
    texts = REFERENCE["sentences"]
    assert texts == sentences()
    assert len(texts) == len(set(texts)) == 500
    for kind in "\u00a0\u3000\u200b\u00ad\ufffd\x00\x85\ufb01\uff28\ud55c\u732b\u0301\u2764\u0130":
        assert any(kind in text for text in texts)
    lengths = [len(ids) for ids in REFERENCE["bert"]]
    assert max(lengths) < 200
    assert sum(map(len, REFERENCE["clip"])) > 4000


def test_bert_has_the_ids_of_the_reference(bert):
    texts = REFERENCE["sentences"]
    assert not differing(texts, rows(bert, texts), REFERENCE["bert"])


def test_clip_has_the_ids_of_the_reference(clip):
    """U+0000 has a piece there that it cannot have here; it ends no text and joins no words."""
    zero = clip_vocabulary([])["\u0100</w>"]
    texts, expected = REFERENCE["sentences"], REFERENCE["clip"]
    found = rows(clip, texts)
    without = [i for i, text in enumerate(texts) if "\0" not in text]
    assert len(without) > 450
    assert not differing(*([column[i] for i in without] for column in (texts, found, expected)))
    i = texts.index("red\0heart")
    assert zero in expected[i]
    assert found[i] == [piece for piece in expected[i] if piece != zero]


@pytest.mark.parametrize("text", [b"red\xff heart", b"red \xc3\x28heart", b"\xe2\x82"])
def test_bytes_that_are_no_text_are_dropped_or_named_and_end_nothing(bert, clip, text):
    readable = text.decode("utf-8", "replace")
    assert rows(bert, [text]) == rows(bert, [readable])
    assert rows(clip, [text]) == rows(clip, [readable])
    assert rows(bert, [text]) == rows(bert, [text.decode("utf-8", "ignore")])


def test_letters_are_small_whatever_the_language_of_the_process():
    code = (
        "import tensorflow as tf; from kgen.conditioning.letters import lower;"
        "text = tf.constant('TITI \\u0130\\u012e\\u00cc\\u00c9\\u03a3');"
        "print(ascii(lower(text).numpy().decode()))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == ascii("titi i\u0307\u012f\u00ec\u00e9\u03c3")


def test_each_letter_is_made_small_by_itself():
    letters = [chr(c) for c in (*range(0x20, 0x250), *range(0x370, 0x530), *range(0x1E00, 0x2000))]
    found = [text.decode() for text in lower(tf.constant(letters)).numpy()]
    assert found == [letter.lower() for letter in letters]


def test_a_cased_vocabulary_keeps_letters_and_accents():
    words = bert_words.split_words(
        tf.constant(["\u00c9t\u00e9\u00a0ROUGE"]), lowercase=False, strip_accents=False
    )
    assert [word.decode() for word in words.to_list()[0]] == ["\u00c9t\u00e9", "ROUGE"]


# -- prompts of which nothing is known ----------------------------------------------------------


@pytest.fixture(scope="module")
def encoder():
    return TextEncoder.from_preset(ROOT / "saved_models/minilm_l6_v2")


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("\u2764\ufe0f", r"'\u2764' \(heavy black heart\)"),
        ("\U0001f34e \U0001f34f", r"red apple.*green apple"),
        ("\u200b", r"\\u200b.*zero width space"),
        (" \U0001f431 ", "cat face"),
    ],
)
def test_a_prompt_of_which_nothing_is_known_is_named(encoder, prompt, words):
    with pytest.warns(UserWarning, match=f"1 of 2 `prompts` have no word .*Unknown: .*{words}"):
        encoder.tokenize(["a red heart", prompt])


def test_many_unknown_words_are_counted(encoder):
    with pytest.warns(UserWarning, match="7 of 7 .* and 2 more"):
        encoder.tokenize([chr(0x1F34A + i) for i in range(7)])


def test_there_is_no_warning_where_something_is_known_or_nothing_was_said(encoder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.tokenize(["", "  ", "a \u2764\ufe0f", "\U0001f34e!", "\ud55c"])
