"""Weights and sums of prompts, with a conditioner whose embeddings are known word by word."""

import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import mixed, weighted
from kgen.conditioning.prompt_weights import parsed


def vectors(conditioner, *words):
    ids = tf.strings.to_hash_bucket_fast(tf.constant(words), 64)
    return tf.gather(conditioner.table, ids).numpy()


def test_a_weight_of_a_word_is_that_of_its_vector(hashed_words):
    red, heart = vectors(hashed_words, "red", "heart")
    cond = weighted(hashed_words, "(red:2.5) heart")
    expected = np.stack([2.5 * red, heart])
    expected *= np.sqrt((red**2 + heart**2).sum() / (expected**2).sum())
    np.testing.assert_allclose(cond["tokens"][0, :2], expected, rtol=1e-5)
    np.testing.assert_array_equal(cond["tokens"][0, 2:], np.zeros((2, 8)))
    # `pooled` is the mean over four places, so that each word adds a quarter of its vector.
    np.testing.assert_allclose(cond["pooled"][0], (2.5 * red + heart) / 4, atol=1e-5)


def test_several_parts_and_the_last_word(hashed_words):
    big, red, heart = vectors(hashed_words, "big", "red", "heart")
    cond = weighted(hashed_words, ["(big:0.5) red (heart:-1)", "red"])
    tokens = np.stack([0.5 * big, red, -heart])
    tokens *= np.sqrt((big**2 + red**2 + heart**2).sum() / (tokens**2).sum())
    np.testing.assert_allclose(cond["tokens"][0, :3], tokens, rtol=1e-5)
    np.testing.assert_allclose(cond["pooled"][0], (0.5 * big + red - heart) / 4, atol=1e-5)
    np.testing.assert_allclose(cond["tokens"][1, 0], red, rtol=1e-6)


def test_a_weight_of_1_and_none_are_the_plain_prompt(hashed_words):
    plain = hashed_words(["a red heart"])
    for prompt in ("a red heart", "a (red:1) heart", "(a red heart:1.0)"):
        for key, value in weighted(hashed_words, prompt).items():
            np.testing.assert_allclose(value, plain[key], rtol=1e-6)


def test_other_parentheses_are_words():
    assert parsed("a (small) heart: (red)") == ("a (small) heart: (red)", [])
    assert parsed("(red heart: .5)!") == ("red heart!", [(0, 9, 0.5)])


@pytest.mark.parametrize("prompts", [[], [3], None])
def test_what_is_no_prompt_is_refused(prompts, hashed_words):
    with pytest.raises(TypeError):
        weighted(hashed_words, prompts)


def test_a_sum_of_prompts_is_that_of_their_vectors(hashed_words):
    king, man, woman = vectors(hashed_words, "king", "man", "woman")
    conds = [hashed_words([word]) for word in ("king", "man", "woman")]
    cond = mixed(conds, [1, -1, 1])
    np.testing.assert_allclose(cond["tokens"][0, 0], king - man + woman, rtol=1e-5, atol=1e-6)
    assert cond["mask"].numpy().tolist() == [[True, False, False, False]]
    longer = hashed_words(["a red heart"])
    assert mixed([conds[0], longer], [1, 0.5])["mask"].numpy().sum() == 3
    assert mixed([conds[0], longer], [1, 0])["mask"].numpy().sum() == 1


def test_sums_that_do_not_fit_are_refused(hashed_words):
    cond = hashed_words(["a"])
    with pytest.raises(ValueError, match="2 for 1"):
        mixed([cond], [1, 2])
    with pytest.raises(ValueError, match="equal keys and shapes"):
        mixed([cond, hashed_words(["a", "b"])], [1, 1])
    with pytest.raises(TypeError):
        mixed([cond], ["1"])


def test_the_tokens_of_a_real_tokenizer_are_found():
    """A text has a mark at its beginning and one at its end, which is not its own."""
    pytest.importorskip("tensorflow_text", reason="needs TensorFlow Text")
    import pathlib

    import kgen
    from kgen.conditioning.prompt_weights import _num_tokens

    root = pathlib.Path(__file__).parents[2] / "saved_models" / "minilm_l6_v2"
    encoder = kgen.TextEncoder.from_preset(root)
    ids = encoder.tokenize(["a redness"])["token_ids"][0].numpy()
    assert _num_tokens(encoder, "") == 1
    assert _num_tokens(encoder, "a ") == 2
    assert _num_tokens(encoder, "a redness") == int((ids != 0).sum()) - 1


def test_generate_takes_them(make_diffusion):
    model = make_diffusion()
    rng = np.random.default_rng(0)
    for variable in model.network.trainable_variables:  # some begin at 0, and heed no prompt
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    model.averages.reset()
    conds = [weighted(model.conditioner, f"a (red:{w}) heart") for w in (1, 3)]
    plain, more = (model.generate(cond, num_steps=2, seed=0)[0].astype(int) for cond in conds)
    asked = model.generate(["a red heart"], num_steps=2, seed=0)[0].astype(int)
    assert np.abs(plain - asked).max() <= 1
    assert np.abs(more - asked).max() > 1
