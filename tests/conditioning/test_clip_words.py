"""How CLIP cuts a text, beside Python's `regex` with the published expression."""

import unicodedata

import pytest
import regex
import tensorflow as tf

from kgen.conditioning.clip_words import clip_ids, split_words
from kgen.conditioning.packing import Packer

PUBLISHED = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
TEXTS = [
    "",
    "   ",
    "1999",
    "in 2 rooms of 44m2, no. 007",
    "it's we've they'll I'd I'm you're don't",
    "it 's 'twas the '90s; rock 'n' roll!?",
    "A\tPHOTO\n of\r\nTwo   CATS",
    "no-break\u00a0space, ideographic\u3000space, thin\u2009space",
    "next\u0085line, vertical\u000btab",
    "Cr\u00e8me br\u00fbl\u00e9e, e\u0301clair",
    "\u041a\u043e\u0448\u043a\u0430 \u732b \U0001f431\U0001f431 x\u00b2 \u2167 \u0663\u0664",
    "((masterpiece:1.2)), [low-res], <lora:style:0.8>",
    "a<|endoftext|>b <|startoftext|>",
]


def expected(text):
    text = regex.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).lower()
    return PUBLISHED.findall(text)


def test_words_are_those_of_the_published_expression():
    words = tf.function(split_words)(tf.constant(TEXTS)).to_list()
    assert [[word.decode() for word in row] for row in words] == [expected(t) for t in TEXTS]


@pytest.fixture(scope="module")
def tokenizer():
    import keras_hub

    pieces = [
        "<|startoftext|>",
        "<|endoftext|>",
        *"19!'s",
        *(f"{c}</w>" for c in "19!'s"),
        "19</w>",
    ]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "'s</w>"])}
    return keras_hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["1 9</w>", "' s</w>"])


@pytest.mark.parametrize("graph", [True, False])
def test_digits_are_parted(tokenizer, graph):
    """The vocabulary has a piece for "19", which no text of CLIP ever became."""

    def cut(texts):
        return clip_ids(tokenizer, texts)

    cut = tf.function(cut) if graph else cut
    ids = cut(tf.constant(["1919 9", "", "1 's"]))
    one, nine, ending = (tokenizer.token_to_id(t) for t in ("1</w>", "9</w>", "'s</w>"))
    assert ids.to_list() == [[one, nine, one, nine, nine], [], [one, ending]]


def test_digits_are_parted_by_every_text_encoder_with_clips_tokenizer(tokenizer):
    ids, mask, lengths = tf.function(Packer(tokenizer, 6))(tf.constant(["19"]))
    one, nine = (tokenizer.token_to_id(t) for t in ("1</w>", "9</w>"))
    assert ids.numpy().tolist() == [[0, one, nine, 1, 0, 0]]
    assert (mask.numpy().sum(), lengths.numpy().tolist()) == (4, [2])


def test_special_token_has_its_id_wherever_it_stands(tokenizer):
    """As newer transformers treat a padding token."""
    texts = tf.constant(["1!!", "!9!", "1"])
    one, nine, mark = (tokenizer.token_to_id(t) for t in ("1</w>", "9</w>", "!"))
    assert clip_ids(tokenizer, texts, "!").to_list() == [
        [one, mark, mark],
        [mark, nine, mark],
        [one],
    ]
    end = [[word.decode() for word in row] for row in split_words(texts).to_list()]
    assert end == [["1", "!!"], ["!", "9", "!"], ["1"]]


def test_no_prompt_with_a_word(tokenizer):
    assert clip_ids(tokenizer, tf.constant(["", " "])).to_list() == [[], []]
