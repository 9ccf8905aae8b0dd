"""Retrieval ranks: how similar generated pictures are to their subjects, compared to others.

    similarity(q, g) = <q, g> / (|q| |g|)                                 (cosine of features)
    rank(q)          = #{g : similarity(q, g) >= similarity(q, match of q)}

The gallery has one real picture per caption. A query is a picture that was generated from a
caption, and its match is the real picture of that caption. Rank 1 means that the match is the most
similar picture; ties count against the query. A random query has each rank with probability 1 / N,
and a rank of at most k with probability k / N.

This is R-precision as text-to-image models are measured by it (Xu et al. (2018), AttnGAN,
https://arxiv.org/abs/1711.10485, section 4), with pictures in the place of the sentences.
"""

import numpy as np

from kgen.types import TensorLike


def retrieval_ranks(queries: TensorLike, gallery: TensorLike, matches: TensorLike) -> np.ndarray:
    """Returns the rank of each query's match in the gallery, by cosine similarity.

    Args:
        queries: features `[Q, D]`.
        gallery: features `[N, D]`.
        matches: integers `[Q]`, for each query the row of its match in the gallery.

    Returns:
        An integer array `[Q]` of ranks from 1, the most similar, to N. A zero vector has similarity
        0 to every vector.

    Raises:
        ValueError: if the shapes do not match, a feature is not finite, or a match is out of range.

    Example:
    >>> gallery = [[1.0, 0.0], [0.0, 1.0]]
    >>> retrieval_ranks([[3.0, 1.0], [3.0, 1.0]], gallery, [0, 1]).tolist()
    [1, 2]
    """
    queries, gallery = _unit_rows("queries", queries), _unit_rows("gallery", gallery)
    matches = np.asarray(matches)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            "`queries` and `gallery` must have features of one size. "
            f"Received: shapes {queries.shape} and {gallery.shape}."
        )
    if matches.shape != (len(queries),) or not np.issubdtype(matches.dtype, np.integer):
        raise ValueError(
            f"`matches` must be one integer for each of the {len(queries)} queries. "
            f"Received: shape {matches.shape}, dtype {matches.dtype}."
        )
    if np.any(matches < 0) or np.any(matches >= len(gallery)):
        raise ValueError(
            f"`matches` must be rows of the gallery, in [0, {len(gallery)}). "
            f"Received: {matches.min()} to {matches.max()}."
        )
    similarity = queries @ gallery.T
    right = np.take_along_axis(similarity, matches[:, None], axis=1)
    return np.sum(similarity >= right, axis=1)


def _unit_rows(name: str, features: TensorLike) -> np.ndarray:
    """Validates features and normalises their rows to length one, in float64; zeros stay."""
    features = np.asarray(features, "float64")
    if features.ndim != 2 or not len(features) or not np.all(np.isfinite(features)):
        raise ValueError(
            f"`{name}` must be finite numbers [rows, features]. Received: shape {features.shape}."
        )
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(norm > 0, norm, 1.0)
