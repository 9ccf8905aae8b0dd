"""Weights of parts of prompts, and linear combinations of conditions.

In `"a (red:1.4) heart"` the word "red" has the weight 1.4. With weights w_i of the parts i of a
prompt and its embedding e,

    tokens   t_j  ->  s w_j t_j         w_j is the weight of the part with token j, or 1; the factor
                                        s restores the root mean square of all tokens
    pooled   e    ->  e + sum_i (w_i - 1) (e - e without part i)

With all weights 1 nothing changes, and `pooled` is linear in each weight. The tokens of a part are
found with the conditioner alone: the tokens of a text are the leading ids that do not change when
another word is appended.

The result is an encoded condition, which `generate` accepts as `condition` and `negative`.

References:
  Scaled token embeddings of constant size, as in web interfaces of Stable Diffusion:
  https://github.com/AUTOMATIC1111/stable-diffusion-webui/wiki/Features#attentionemphasis.
  Sums of embeddings: Mikolov et al. (2013), https://arxiv.org/abs/1301.3781, section 4.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from kgen.checks import check_number
from kgen.conditioning.conditioner import Conditioner

_PART = re.compile(r"\(([^():]+):\s*([-+]?\d*\.?\d+)\s*\)")


def weighted(conditioner: Conditioner, prompts: str | Sequence[str]) -> dict[str, tf.Tensor]:
    """Returns the condition of prompts with weights.

    Args:
        conditioner: a `Conditioner` of texts, such as a `TextEncoder` or `CLIPText`.
        prompts: a string or a list of N strings, in which `(words:weight)` gives words a weight.
            Other parentheses have no effect.

    Returns:
        A dictionary of tensors with N rows, like `conditioner(prompts)`.

    Raises:
        TypeError: if a prompt is not a string, or the conditioner does not encode texts.

    Example:
        >>> import kgen
        >>> encoder = kgen.TextEncoder.from_preset("saved_models/minilm_l6_v2")
        >>> weighted(encoder, "a (red:1.4) heart")["tokens"].shape
        TensorShape([1, 32, 384])
    """
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    if not prompts or not all(isinstance(prompt, str) for prompt in prompts):
        raise TypeError(f"`prompts` must be strings, at least one. Received: {prompts!r}.")
    rows = [_encoded(conditioner, *parsed(prompt)) for prompt in prompts]
    return {key: tf.concat([row[key] for row in rows], axis=0) for key in rows[0]}


def mixed(
    conditions: Sequence[Mapping[str, tf.Tensor]], weights: Sequence[float]
) -> dict[str, tf.Tensor]:
    """Returns a weighted sum of conditions, such as king - man + woman with weights 1, -1, 1.

    Args:
        conditions: a list of K encoded conditions of equal keys and shapes.
        weights: K numbers.

    Returns:
        An encoded condition. Its mask is true where that of a condition with a weight other than 0
        is.

    Raises:
        TypeError: if a weight is not a number.
        ValueError: if the numbers of weights and conditions differ, or the keys or shapes of the
            conditions do.

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


def parsed(prompt: str) -> tuple[str, list[tuple[int, int, float]]]:
    """Splits a prompt into its text and the weights of its parts.

    Returns:
        The prompt without weights, and a list of `(start, stop, weight)`, with the positions of the
        parts in characters.

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


def _encoded(
    conditioner: Conditioner, text: str, parts: Sequence[tuple[int, int, float]]
) -> dict[str, tf.Tensor]:
    """Returns the condition of one text with weights of its parts."""
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
            first, last = (_num_tokens(conditioner, text[:end]) for end in (start, stop))
            weights[:, first:last] = weight
        scaled = cond["tokens"] * weights[..., None]
        size = tf.reduce_mean(cond["tokens"] ** 2) / tf.reduce_mean(scaled**2)
        cond["tokens"] = scaled * tf.sqrt(size)
    return cond


def _num_tokens(conditioner: Conditioner, text: str) -> int:
    """Returns the number of tokens of a text, with the start token, without the end token."""
    text = text.strip()
    # The ids that a text and its extension share; for the empty text, those of two other words.
    pair = [text, f"{text} a"] if text else ["a", "b"]
    rows = conditioner.prepare(pair)
    for ids in rows.values() if isinstance(rows, dict) else [rows]:
        if ids.dtype.is_integer and ids.shape.rank == 2:
            differ = np.flatnonzero(ids[0].numpy() != ids[1].numpy())
            return int(differ[0]) if len(differ) else int(ids.shape[1])
    raise TypeError(f"`conditioner` must convert texts to ids. Received: {conditioner!r}.")


def _sum(values: Sequence[tf.Tensor], weights: Sequence[float]) -> tf.Tensor:
    if values[0].dtype == tf.bool or values[0].dtype == bool:
        used = [tf.cast(v, tf.bool) for v, weight in zip(values, weights) if weight]
        if not used:
            return tf.zeros_like(values[0])
        return tf.reduce_any(tf.stack(used), axis=0)
    return tf.add_n([weight * tf.cast(v, tf.float32) for v, weight in zip(values, weights)])
