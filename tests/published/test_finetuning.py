"""LoRA and new words of a published model: trained, written, and read as published files."""

import keras
import numpy as np
import pytest
from published.opened import FIXTURES, difference, reference
from published.test_lora import FILES, FOLDER, encode, opened, pipeline
from safetensors.numpy import load_file, save_file

import kgen
from kgen.published.lora import attach, read_lora

PICTURES = np.random.default_rng(0).uniform(-1, 1, (4, 32, 32, 3)).astype("float32")


@pytest.mark.parametrize("name", ["peft"])
def test_attached_to_the_attention_of_the_text_encoder(name):
    """The reference's output; the factors of Keras for such kernels would be others."""
    _, text, parts = opened()
    _, arrays = reference("sd1")
    lora = read_lora(FOLDER / FILES[name], pipeline()[2])
    attach([({"text_encoder": lora["text_encoder"]}, 0.5)], parts)
    assert difference(encode(text), arrays[f"lora.{name}_0.5_text"]) < 2e-5


@pytest.mark.slow
def test_a_lora_of_both_networks_is_trained_and_loaded(tmp_path):
    model = kgen.from_diffusers(FIXTURES / "sd1")
    plain = model.generate(["a red heart"], num_steps=2, seed=0)
    model.enable_lora(2, text_encoder=True)
    data = {"images": PICTURES, "prompts": np.array(["a red heart"] * 4)}
    model.compile(keras.optimizers.Adam(0.05))
    model.fit(data, batch_size=2, verbose=0)
    expected = model.generate(["a red heart"], num_steps=2, seed=0)
    assert np.abs(expected.astype(int) - plain).max() > 2
    model.save_lora(tmp_path / "lora.safetensors")
    keys = load_file(tmp_path / "lora.safetensors")
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora.down.weight" in keys
    text = "text_encoder.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight"
    assert keys[text].shape == (2, 32)
    other = kgen.from_diffusers(FIXTURES / "sd1")
    other.load_lora(tmp_path / "lora.safetensors")
    again = other.generate(["a red heart"], num_steps=2, seed=0)
    assert np.abs(again.astype(int) - expected).max() <= 1


def test_a_word_is_learned_and_its_file_is_the_published_one(tmp_path):
    model = kgen.from_diffusers(FIXTURES / "sd1")
    assert not [v for v in model.trainable_variables if "backbone" in v.path]  # text is frozen
    assert model.learn_word("<mine>", like="heart", vectors=2) == 2 * 32
    (vectors,) = model.trainable_variables
    vectors.assign_add(np.ones(vectors.shape))
    model.save_word("<mine>", tmp_path / "mine.safetensors")
    stored = load_file(tmp_path / "mine.safetensors")
    assert list(stored) == ["<mine>"]
    np.testing.assert_array_equal(stored["<mine>"], vectors)
    save_file({"emb_params": stored["<mine>"]}, tmp_path / "other.safetensors")
    assert model.load_word(tmp_path / "other.safetensors") == "other"
    tokens = model.conditioner(["a <mine>", "a other"])["tokens"]
    np.testing.assert_allclose(tokens[0], tokens[1], atol=1e-6)
    save_file({"<bad>": np.ones((1, 5), "float32")}, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"vectors of \[32\] finite numbers"):
        model.load_word(tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=r"`word` must be one of \['<mine>', 'other'\]"):
        model.save_word("<none>", tmp_path / "none.safetensors")
