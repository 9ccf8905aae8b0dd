"""Find the emoji captions that are most similar to a sentence, with a text encoder.

    python examples/text_encoder.py "a ripe fruit" --output similarity.png

The sentence and every caption of the emoji data are encoded as vectors of length 1, and captions
are ranked by their cosine similarity to the sentence. They need not share a word, since the encoder
has learned which texts have similar meanings. The script also prints the captions nearest to the
empty prompt, the null condition of text-to-image models.
With `--output` the script draws the cosines of the sentence, its nearest captions and the empty
prompt.

It takes about 15 seconds on two cores, most of it for loading TensorFlow, and prints

    'a ripe fruit' is read as [CLS] a ripe fruit [SEP]
    nearest of 1907 captions:
      0.674  pear
      0.617  kiwi fruit
      0.576  green apple
      ...
    the empty prompt is read as [CLS] [SEP]
    mean cosine of two captions 0.150, with '' 0.187
    nearest to the empty prompt:
      0.533  om
      0.514  man
      0.479  mate
"""

import argparse

import numpy as np

from kgen.conditioning import TextEncoder
from kgen.data import emoji


def captions():
    """Returns all distinct captions of the emoji data, sorted."""
    rows = [emoji.load_arrays(split)["captions"] for split in ("train", "test")]
    return sorted(set(np.concatenate(rows).tolist()))


def nearest(encoder, prompt, texts, count):
    """Returns the `count` texts most similar to `prompt`: pairs of text and cosine, best first."""
    cosines = encoder.embed(texts)["pooled"] @ encoder.embed([prompt])["pooled"][0]
    return [(texts[i], float(cosines[i])) for i in np.argsort(-cosines)[:count]]


def pieces(encoder, prompt):
    """Returns the tokens of `prompt`, special tokens included."""
    rows = encoder.tokenize([prompt])
    ids = rows["token_ids"].numpy()[rows["padding_mask"].numpy()]
    return [encoder.parts.tokenizer.id_to_token(int(i)) for i in ids]


def draw(path, labels, cosines):
    """Plots the matrix of cosines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(cosines, vmin=0.0, vmax=1.0, cmap="viridis")
    ticks = range(len(labels))
    axes.set_xticks(ticks, labels, rotation=45, ha="right")
    axes.set_yticks(ticks, labels)
    for i in ticks:
        for j in ticks:
            colour = "black" if cosines[i, j] > 0.6 else "white"
            axes.text(j, i, f"{cosines[i, j]:.2f}", ha="center", va="center", color=colour)
    figure.colorbar(image, label="cosine")
    figure.savefig(path, dpi=120)


def main(argv=None):
    """Prints the nearest captions; returns them as pairs of caption and cosine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="a ripe fruit", help="any text")
    parser.add_argument("--preset", default="saved_models/minilm_l6_v2", help="text encoder")
    parser.add_argument("--count", type=int, default=8, help="number of captions to print")
    parser.add_argument("--output", help="PNG file for the matrix of cosines (needs matplotlib)")
    args = parser.parse_args(argv)

    encoder = TextEncoder.from_preset(args.preset)
    texts = captions()
    embeddings = encoder.embed(texts)["pooled"]
    found = nearest(encoder, args.prompt, texts, args.count)
    print(f"{args.prompt!r} is read as {' '.join(pieces(encoder, args.prompt))}")
    print(f"nearest of {len(texts)} captions:")
    for text, cosine in found:
        print(f"  {cosine:.3f}  {text}")

    empty = encoder.null(1)["pooled"].numpy()[0]
    between = embeddings @ embeddings.T
    typical = (between.sum() - len(texts)) / (len(texts) * (len(texts) - 1))
    print(f"the empty prompt is read as {' '.join(pieces(encoder, ''))}")
    print(f"mean cosine of two captions {typical:.3f}, with '' {(embeddings @ empty).mean():.3f}")
    print("nearest to the empty prompt:")
    for text, cosine in nearest(encoder, "", texts, 3):
        print(f"  {cosine:.3f}  {text}")

    if args.output:
        chosen = [args.prompt, *[text for text, _ in found], ""]
        pooled = encoder.embed(chosen, progress=False)["pooled"]
        draw(args.output, [text or "(empty)" for text in chosen], pooled @ pooled.T)
        print(f"wrote {args.output}")
    return found


if __name__ == "__main__":
    main()
