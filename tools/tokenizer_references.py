"""Writes sentences with their ids by `transformers`, for the tests of kgen's tokenizers.

    python -m tools.tokenizer_references

It needs `transformers` (5.24, with tokenizers 0.23) and writes tests/conditioning/token_ids.json:

    sentences   500 sentences: hand-written ones, then random words of many scripts between many
                kinds of separators, drawn from a fixed seed
    bert        the ids of each by `BertTokenizer` with the vocabulary of MiniLM
    merges      the merges of a small vocabulary, learnt from the sentences; the vocabulary has the
                order of CLIP: bytes, bytes at the end of a word, merges, start and end token
    clip        the ids of each by `CLIPTokenizer` with that vocabulary

`--clip MERGES` compares the words of kgen with the published vocabulary of CLIP, whose merges (a
text file, 49,152 lines of it used) are too large to lie in the repository.
"""

import argparse
import itertools
import json
import pathlib
import random

ROOT = pathlib.Path(__file__).parents[1]
VOCABULARY = ROOT / "saved_models/minilm_l6_v2/assets/tokenizer/vocabulary.txt"
TARGET = ROOT / "tests/conditioning/token_ids.json"
COUNT = 500
NUM_MERGES = 400
MARKS = ("<|startoftext|>", "<|endoftext|>")
SENTENCES = [
    "",
    " ",
    "a red heart",
    "red\u00a0heart",
    "red\u2003heart",
    "red\u3000heart",
    "red\u202fheart on\u205fwhite",
    "red\u1680heart\u2028two\u2029lines",
    "red\u200bheart",
    "red\ufeffheart",
    "red\u00adheart",
    "red\theart\r\nblue\nstar",
    "red\x0bheart\x0cblue\x85star",
    "red\x00heart",
    "red\x07heart\x1bblue\x7fstar",
    "red\ufffdheart",
    "\ufffd",
    "red\ue000heart",
    "\u200ered \u200fheart\u202e",
    "\ud55c\uad6d\uc5b4 \uace0\uc591\uc774",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "e\ufb03cient o\ufb03ce, \ufb01re and \ufb02ower",
    "\uff52\uff45\uff44 \uff28\uff25\uff21\uff32\uff34",
    "\uff11\uff12\uff13\uff01",
    "\u2460 \u2461 \u2162 x\u00b2 H\u2082O 5\u2032 \u00bd",
    "Stra\u00dfe GRO\u1e9eE gr\u00f6\u00dfer",
    "\u0130stanbul I\u0131i ISTANBUL",
    "\u03a3\u038a\u03a3\u03a5\u03a6\u039f\u03a3 \u03c2 \u03c3",
    "cr\u00e8me br\u00fbl\u00e9e na\u00efve fa\u00e7ade",
    "cre\u0300me bru\u0302le\u0301e",
    "\u00c5ngstr\u00f6m \u212bngstr\u00f6m A\u030angstr\u00f6m",
    "Vi\u1ec7t Nam, \u0141\u00f3d\u017a, \u010cesk\u00fd, \u0219i \u021bar\u0103",
    "\u65e5\u672c\u8a9e food and \u6f22\u5b57",
    "\u3072\u3089\u304c\u306a \u30ab\u30bf\u30ab\u30ca \uff76\uff9e",
    "\uf900\uf901 \u2f00 \u3400 \U00020000",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u0645\u064f\u062d\u064e\u0645\u0651\u064e\u062f",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd",
    "\u0939\u093f\u0928\u094d\u0926\u0940 \u0915\u094d\u200d\u0937",
    "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22",
    "\u041a\u043e\u0448\u043a\u0430 "
    "\u0438 \u0439\u043e\u0433\u0443\u0440\u0442 \u0401\u043b\u043a\u0430",
    "\U0001f34e apple",
    "\u2764\ufe0f",
    "a \u2764\ufe0f emoji \U0001f1e9\U0001f1ea \U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\U0001f44d\U0001f3fd thumbs up",
    "\U0001d573\U0001d58a\U0001d591\U0001d591\U0001d594 \u210b\u2113",
    "it's we've they'll I'd I'm you're don't rock 'n' roll",
    "it\u2019s \u201cquoted\u201d \u2018so\u2019 \u00abhere\u00bb \u2014 and\u2013there\u2026",
    "1999 3.14159 1,000,000 44m2 007 2x4 10% $5 \u20ac7 \u00a39",
    "\u0661\u0662\u0663 \u0967\u0968 \u3007",
    "a_b a-b a/b a\\b a@b.c #tag ~tilde `tick` ^caret |bar| <tag> {x} [y] (z)",
    "((masterpiece:1.2)), [low-res], <lora:style:0.8>",
    "https://example.com/a?b=c&d=e",
    "[CLS] a [SEP] b [MASK] c [PAD] d [UNK] e",
    "[cls] [ SEP ] [MASK][MASK]s x[SEP]y",
    "<|startoftext|> a <|endoftext|>b",
    "antidisestablishmentarianism floccinaucinihilipilification",
    "x" * 100,
    "x" * 101,
    "\u0436" * 60,
    "\u0436" * 101,
    "a" + "\u0301" * 20 + "b",
    "\u1e9b\u0323 \u212a \u00b5 \u017f \u0149 \u01c4 \u01f0",
    "\u2167 \u2168 \u24b6 \u33a2",
    "\u00a7\u00b6\u00b7\u00a1\u00bf\u00a9\u00ae\u2122\u00b0\u00b1\u00d7\u00f7",
    "\u2190\u2192 \u2200\u2203 \u222b \u221a \u2248 \u2260",
    "   many   spaces\t\there   ",
    "\u0300 accent alone",
    "A B C D",
    "ALL CAPITALS AND MixedCase camelCase",
]
# fmt: off
WORDS = [
    "a", "the", "red", "green", "blue", "heart", "star", "Apple", "pear", "HOUSE", "cat's",
    "dogs", "running", "painted", "quickly", "photograph", "12", "1999", "3rd", "x2", "0.5",
    "Caf\u00e9", "na\u00efve", "\u00dcber", "stra\u00dfe", "\u0130zmir", "fianc\u00e9e",
    "\ufb01sh", "o\ufb00ice", "\uff21\uff22\uff23", "\uff42\uff4c\uff55\uff45", "\ud55c\uad6d",
    "\uc0ac\uacfc", "\u732b", "\u8d64\u3044\u82b1", "\u30cf\u30fc\u30c8",
    "\u043a\u0440\u0430\u0441\u043d\u044b\u0439", "\u0421\u0415\u0420\u0414\u0426\u0415",
    "\u03ba\u03cc\u03ba\u03ba\u03b9\u03bd\u03bf\u03c2",
    "\u039a\u0391\u03a1\u0394\u0399\u0391\u03a3", "\u05d0\u05d3\u05d5\u05dd",
    "\u0642\u0644\u0628", "\u0932\u093e\u0932", "\u0e41\u0e14\u0e07", "\u2764", "\u2764\ufe0f",
    "\U0001f34e", "\U0001f468\u200d\U0001f680", "\U0001f1eb\U0001f1f7", "\u2460", "x\u00b2",
    "\u00bd", "\u2163", "e\u0301te\u0301", "n\u0303", "\u1112\u1161\u11ab", "\u1e9b", "\u212b",
    "\U0001d400", "\u010d\u00e1st", "\u0142\u00f3d\u017a", "vi\u1ec7t", "\u00e6on",
    "\u0153uvre", "\u00f8l", "\u00fe\u00f3r", "don't", "we'll", "it\u2019s",
]
# fmt: on
SEPARATORS = (
    [" "] * 30
    + ["  ", "\t", "\n", "\r\n", "\u00a0", "\u2009", "\u202f", "\u3000", "\u2028", "\u1680"]
    + ["\u200b", "\u200d", "\ufeff", "\u00ad", "\x00", "\x07", "\x0b", "\x1f", "\x85", "\ufffd"]
    + [", ", ". ", "! ", "? ", "; ", ": ", "-", "/", "_", "'", '"', " (", ") ", "\u2014", "\u2026"]
    + ["\u3001", "\u3002", "\u00b7", "\u2022", "+", "=", "$", "", "\u0301", "\u060c ", "\u0964"]
)


def sentences(seed=0):
    """Returns the 500 sentences of a seed."""
    rng = random.Random(seed)
    found = list(SENTENCES)
    while len(found) < COUNT:
        words = [rng.choice(WORDS) for _ in range(rng.randint(2, 7))]
        text = words[0] + "".join(rng.choice(SEPARATORS) + word for word in words[1:])
        found.append(rng.choice([text, text, text, text.upper(), f" {text}\n"]))
    return found


def bert_ids(texts):
    """Returns the ids of texts by transformers, without start and end tokens."""
    from transformers import BertTokenizer

    names = VOCABULARY.read_text(encoding="utf-8").splitlines()
    tokenizer = BertTokenizer(vocab={name: i for i, name in enumerate(names)}, do_lower_case=True)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def clip_vocabulary(merges):
    """Returns a vocabulary in the order of CLIP, from tokens to ids."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    signs = [chr(byte) for byte in plain] + [chr(256 + i) for i in range(len(others))]
    pieces = [*signs, *(f"{sign}</w>" for sign in signs), *("".join(m) for m in merges), *MARKS]
    return {piece: i for i, piece in enumerate(pieces)}


def clip_ids(texts, merges):
    """Returns the ids of texts by transformers, without start and end tokens."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer(vocab=clip_vocabulary(merges), merges=merges)
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def learnt_merges(texts):
    """Learns the merges of a byte-pair encoding from the words of CLIP's tokenizer."""
    import collections

    from transformers import CLIPTokenizer

    cut = CLIPTokenizer(vocab=clip_vocabulary([]), merges=[]).backend_tokenizer
    words = collections.Counter()
    for text in texts:
        pieces = cut.pre_tokenizer.pre_tokenize_str(cut.normalizer.normalize_str(text))
        words.update((*word[:-1], f"{word[-1]}</w>") for word, _ in pieces)
    merges = []
    for _ in range(NUM_MERGES):
        pairs = collections.Counter()
        for word, count in words.items():
            pairs.update({pair: 0 for pair in itertools.pairwise(word)})
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        words = collections.Counter({merged(word, best): count for word, count in words.items()})
    return merges


def merged(word, pair):
    """Returns a word, a tuple of tokens, with all occurrences of a pair merged."""
    pieces, i = [], 0
    while i < len(word):
        if word[i : i + 2] == pair:
            pieces, i = [*pieces, "".join(pair)], i + 2
        else:
            pieces, i = [*pieces, word[i]], i + 1
    return tuple(pieces)


def main(argv=None):
    """Writes the file for the tests."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default=TARGET)
    parser.add_argument(
        "--clip", type=pathlib.Path, help="file of the published merges of CLIP to use instead"
    )
    args = parser.parse_args(argv)
    texts = sentences()
    if args.clip:
        lines = args.clip.read_text(encoding="utf-8").splitlines()[1:48895]
        merges = [tuple(line.split()) for line in lines]
    else:
        merges = learnt_merges(texts)
    content = {
        "sentences": texts,
        "bert": bert_ids(texts),
        "merges": [" ".join(merge) for merge in merges],
        "clip": clip_ids(texts, merges),
    }
    lines = [f'"{key}": {json.dumps(value)}' for key, value in content.items()]
    args.output.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
