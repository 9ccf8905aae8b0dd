"""Weights of parts of prompts, and arithmetic of prompts: functions of their embeddings.

In `"a (red:1.4) heart"` the word "red" counts 1.4 times. With weights w_i of the parts i of a
prompt and e its embedding,

    tokens   t_j  ->  s w_j t_j         w_j is that of the part that token j belongs to, else 1;
                                        s keeps the root mean square of all tokens
    pooled   e    ->  e + sum_i (w_i - 1) (e - e without part i)

so that with all weights 1 nothing changes, and `pooled` is linear in each. Where the tokens of a
part lie follows from the conditioner alone: the leading ids that a text keeps when a word is put
behind it are its own.

The result is a condition, which `generate`, `negative` and guidance take in the place of prompts.

References:
  Scaled token embeddings with their size kept are those of Stable Diffusion's web interfaces,
  https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis.
  Sums of embeddings: Mikolov et al. (2013), https://arxiv.org/abs/1301.3781, section 4.
"""

import re

import numpy as np
import tensorflow as tf

from kgen.checks import check_number

_PART = re.compile(r"\(([^():]+):\s*([-+]?\d*\.?\d+)\s*\)")


def weighted(conditioner, prompts):
    """Returns the condition of prompts with weights.

    Args:
        conditioner: a `Conditioner` of texts, such as a `TextEncoder` or `CLIPText`.
        prompts: a string or a list of N strings; `(words:weight)` weighs whole words, other
            parentheses are as they are.

    Returns:
        A dictionary of tensors with N rows, as of `conditioner(prompts)`.

    Raises:
        TypeError: if a prompt is no string, or the conditioner takes no texts.

    Example:
        >>> import kgen
        >>> encoder = kgen.TextEncoder.from_preset("saved_models/minilm_l6_v2")
        >>> weighted(encoder, "a (red:1.4) heart")["tokens"].shape
        TensorShape([1, 32, 384])
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"`prompts` must be strings, at least one. Received: {prompts!r}.")
    rows = [_one(conditioner, *parsed(prompt)) for prompt in prompts]
    return {key: tf.concat([row[key] for row in rows], axis=0) for key in rows[0]}


def mixed(conditions, weights):
    """Returns a sum of conditions, such as king - man + woman with the weights 1, -1, 1.

    Args:
        conditions: a list of K dictionaries as a conditioner returns them, of equal shapes.
        weights: K numbers.

    Returns:
        A dictionary as one of them; a token is in its mask where it is in one of weight other
        than 0.

    Raises:
        TypeError: if a weight is no number.
        ValueError: if there are not as many weights as conditions, or their keys or shapes differ.

    Example:
        >>> one, two = {"pooled": tf.constant([[1.0, 0.0]])}, {"pooled": tf.constant([[0.0, 1.0]])}
        >>> mixed([one, two], [1.0, -2.0])["pooled"].numpy().tolist()
        [[1.0, -2.0]]
    """
    conditions, weights = list(conditions), list(weights)
    if not conditions or len(conditions) != len(weights):
        raise ValueError(
            "`weights` must be one number for each of `conditions`. "
            f"Received: {len(weights)} for {len(conditions)}."
        )
    for weight in weights:
        check_number("weights", weight)
    shapes = [{key: tuple(value.shape) for key, value in cond.items()} for cond in conditions]
    if any(shape != shapes[0] for shape in shapes):
        raise ValueError(f"`conditions` must have equal keys and shapes. Received: {shapes}.")
    return {key: _sum([cond[key] for cond in conditions], weights) for key in conditions[0]}


def parsed(prompt):
    """Returns a prompt without its weights, and the parts that have one.

    Returns:
        A string, and a list of `(start, stop, weight)` in characters of it.

    Example:
        >>> parsed("a (red:1.4) heart (small)")
        ('a red heart (small)', [(2, 5, 1.4)])
    """
    text, parts, place = "", [], 0
    for match in _PART.finditer(prompt):
        text += prompt[place : match.start()]
        parts.append((len(text), len(text) + len(match[1]), float(match[2])))
        text += match[1]
        place = match.end()
    return text + prompt[place:], parts


def _one(conditioner, text, parts):
    cond = dict(conditioner(conditioner.prepare([text])))
    if not parts:
        return cond
    if "pooled" in cond:
        whole = cond["pooled"]
        for start, stop, weight in parts:
            rest = " ".join((text[:start] + text[stop:]).split())
            if rest:
                without = conditioner(conditioner.prepare([rest]))["pooled"]
            else:
                without = conditioner.null(1)["pooled"]
            cond["pooled"] += (weight - 1) * (whole - without)
    if "tokens" in cond:
        weights = np.ones(cond["tokens"].shape[:2], "float32")
        for start, stop, weight in parts:
            first, last = (_own(conditioner, text[:end]) for end in (start, stop))
            weights[:, first:last] = weight
        scaled = cond["tokens"] * weights[..., None]
        size = tf.reduce_mean(cond["tokens"] ** 2) / tf.reduce_mean(scaled**2)
        cond["tokens"] = scaled * tf.sqrt(size)
    return cond


def _own(conditioner, text):
    """The number of leading tokens that are a text's own, and a mark that begins all texts."""
    text = text.strip()
    # The marks at the beginning are what two words have in common.
    pair = [text, f"{text} a"] if text else ["a", "b"]
    rows = conditioner.prepare(pair)
    for ids in rows.values() if isinstance(rows, dict) else [rows]:
        if ids.dtype.is_integer and ids.shape.rank == 2:
            differ = np.flatnonzero(ids[0].numpy() != ids[1].numpy())
            return int(differ[0]) if len(differ) else int(ids.shape[1])
    raise TypeError(f"`conditioner` must make ids of texts. Received: {conditioner!r}.")


def _sum(values, weights):
    if values[0].dtype == tf.bool or values[0].dtype == bool:
        used = [tf.cast(v, tf.bool) for v, weight in zip(values, weights) if weight]
        if not used:
            return tf.zeros_like(values[0])
        return tf.reduce_any(tf.stack(used), axis=0)
    return tf.add_n([weight * tf.cast(v, tf.float32) for v, weight in zip(values, weights)])
