"""LoRA files of three layouts against the outputs of the references."""

import functools
import json

import numpy as np
import pytest
import tensorflow as tf
from published.opened import FIXTURES, difference, open_unet, reference, tokens
from safetensors.numpy import load_file, save_file

from kgen.diffusion import DiscreteBeta
from kgen.diffusion.discrete_beta import LevelIndex
from kgen.published.configs import read_config
from kgen.published.files import Folder
from kgen.published.lora import Factors, Merged, attach, attached, read_lora, write_lora
from kgen.published.text import open_text, tower_modules
from kgen.published.unet import unet_modules

FILES = {
    "pytorch": "pytorch_lora_weights.safetensors",
    "peft": "peft_lora.safetensors",
    "kohya": "kohya_lora.safetensors",
}
FOLDER = FIXTURES / "sd1" / "lora"


def opened():
    network, _, _ = open_unet(FIXTURES / "sd1", LevelIndex(DiscreteBeta()))
    config = Folder(FIXTURES / "sd1").read_json("unet/config.json")
    config = read_config(config, "UNet2DConditionModel", "unet/config.json")
    text = open_text(Folder(FIXTURES / "sd1"), xl=False)
    parts = {
        "unet": unet_modules(network, config, "unet/config.json"),
        "text_encoder": tower_modules(text.towers[0]),
    }
    return network, text, parts


@functools.cache
def pipeline():
    """Shared by tests that leave the weights as they were."""
    return opened()


def predict(network):
    _, arrays = reference("sd1")
    log_snr = tf.fill([2], DiscreteBeta().log_snr(np.float32(501 / 999)))
    return network(arrays["unet.z"], log_snr, tokens(arrays["unet.tokens"]))


def encode(text):
    return text(reference("sd1")[0]["texts"][1])["tokens"]


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("name", FILES)
def test_merged(name, scale):
    network, text, parts = pipeline()
    _, arrays = reference("sd1")
    before = predict(network).numpy(), encode(text).numpy()
    lora = read_lora(FOLDER / FILES[name], parts)
    merged = Merged(lora, parts, scale)
    assert difference(predict(network), arrays[f"lora.{name}_{scale}_unet"]) < 2e-5
    assert difference(encode(text), arrays[f"lora.{name}_{scale}_text"]) < 2e-5
    merged.unload()
    np.testing.assert_array_equal(predict(network), before[0])
    np.testing.assert_array_equal(encode(text), before[1])


@pytest.mark.parametrize("name", FILES)
def test_attached(name, tmp_path):
    """The same as merged, of the U-Net; and written as it was read."""
    network, _, parts = opened()
    _, arrays = reference("sd1")
    lora = {"unet": read_lora(FOLDER / FILES[name], parts)["unet"]}
    attach([(lora, 0.5)], parts)
    assert difference(predict(network), arrays[f"lora.{name}_0.5_unet"]) < 2e-5
    layout = {"pytorch": "diffusers"}.get(name, name)
    write_lora(tmp_path / "lora.safetensors", attached(parts), layout)
    again = read_lora(tmp_path / "lora.safetensors", pipeline()[2])
    assert set(again["unet"]) == set(lora["unet"])
    for module, factors in lora["unet"].items():
        np.testing.assert_allclose(
            again["unet"][module].change(), 0.5 * factors.change(), atol=1e-6
        )


def test_several_are_attached_at_once_and_merged_one_after_the_other():
    network, _, parts = pipeline()
    loras = [
        {"unet": read_lora(FOLDER / FILES[name], parts)["unet"]} for name in ("pytorch", "kohya")
    ]
    merged = [Merged(lora, parts, scale) for lora, scale in zip(loras, (0.7, -0.4))]
    expected = predict(network).numpy()
    for one in reversed(merged):
        one.unload()
    other, _, own = opened()
    attach([(loras[0], 0.7), (loras[1], -0.4)], own)
    assert difference(predict(other), expected) < 2e-5


@pytest.mark.parametrize("layout", ["diffusers", "peft", "kohya"])
@pytest.mark.parametrize("name", ["pytorch", "kohya"])
def test_written_files_are_the_published_ones(name, layout, tmp_path):
    """Names and values of the same layout are those of the fixture; others read as the same."""
    _, _, parts = pipeline()
    lora = read_lora(FOLDER / FILES[name], parts)
    path = tmp_path / "lora.safetensors"
    write_lora(path, lora, layout)
    if (name, layout) in (("pytorch", "diffusers"), ("kohya", "kohya")):
        expected, received = load_file(FOLDER / FILES[name]), load_file(path)
        assert set(received) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(received[key], value)
    again = read_lora(path, parts)
    for part, modules in lora.items():
        for module, factors in modules.items():
            assert again[part][module].alpha == factors.alpha
            np.testing.assert_array_equal(again[part][module].change(), factors.change())


def test_change_of_a_convolution():
    """Two convolutions, one after the other, are the change of one."""
    rng = np.random.default_rng(0)
    down, up = rng.normal(size=(2, 3, 3, 3)), rng.normal(size=(5, 2, 1, 1))
    change = Factors(down.astype("float32"), up.astype("float32"), 4.0).change()
    x = rng.normal(size=(1, 6, 6, 3)).astype("float32")

    def convolve(x, weight):
        return tf.nn.conv2d(x, np.transpose(weight, (2, 3, 1, 0)).astype("float32"), 1, "SAME")

    expected = 4.0 / 2 * convolve(convolve(x, down), up)
    np.testing.assert_allclose(convolve(x, change), expected, rtol=1e-4, atol=1e-4)


def test_names_of_the_first_files(tmp_path):
    """As the processors of attention held them."""
    _, _, parts = pipeline()
    path, module = tmp_path / "old.safetensors", "down_blocks.0.attentions.0.transformer_blocks.0"
    arrays = {
        f"{module}.attn1.processor.to_out_lora.down.weight": np.ones((2, 16), "float32"),
        f"{module}.attn1.processor.to_out_lora.up.weight": np.ones((16, 2), "float32"),
    }
    save_file(arrays, path)
    lora = read_lora(path, parts)
    assert list(lora["unet"]) == [f"{module}.attn1.to_out.0"]
    assert lora["unet"][f"{module}.attn1.to_out.0"].alpha == 2


def test_kohyas_files_with_original_names(tmp_path):
    """As files for SD XL have them."""
    _, _, parts = pipeline()
    start = "lora_unet_output_blocks_2_1_transformer_blocks_0_attn2_to_v"
    arrays = {
        f"{start}.lora_down.weight": np.ones((2, 32), "float32"),
        f"{start}.lora_up.weight": np.ones((16, 2), "float32"),
        f"{start}.alpha": np.ones((), "float32"),
    }
    save_file(arrays, tmp_path / "xl.safetensors")
    lora = read_lora(tmp_path / "xl.safetensors", parts)
    assert list(lora["unet"]) == ["up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"]


DOWN = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight"
UP = DOWN.replace("lora_A", "lora_B")
BAD = [
    ({"unet.ghost.lora_A.weight": np.ones((2, 24))}, "fit no layer .*'unet.ghost.lora_A.weight'"),
    ({DOWN.replace("lora_A", "dora_scale"): np.ones(24)}, "fit no layer .*dora_scale"),
    ({"text_encoder_2.a.lora_A.weight": np.ones((2, 2))}, "fit no layer .*'text_encoder_2"),
    ({"lora_unet_ghost.alpha": np.ones(())}, "fit no layer .*'lora_unet_ghost.alpha'"),
    ({UP: None}, "both factors of 'unet.mid_block"),
    ({DOWN: np.ones((2, 23))}, r"weight of shape \[24, 24\]"),
    ({DOWN: np.ones((3, 24))}, r"weight of shape \[24, 24\]"),
    ({UP: np.ones((23, 2))}, r"weight of shape \[24, 24\]"),
    ({UP: np.ones(48)}, r"weight of shape \[24, 24\]"),
    ({DOWN: np.full((2, 24), np.nan)}, "finite factors of 'unet.mid_block"),
    ({DOWN.replace("lora_A.weight", "alpha"): np.array(np.inf)}, "finite number as alpha"),
    ({DOWN.replace("lora_A.weight", "alpha"): np.ones(2)}, "finite number as alpha"),
    ({DOWN: None, UP: None}, "no LoRA in it|both factors"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_files(changes, message, tmp_path):
    arrays = {DOWN: np.ones((2, 24)), UP: np.ones((24, 2)), **changes}
    arrays = {k: np.asarray(v, "float32") for k, v in arrays.items() if v is not None}
    save_file(arrays, tmp_path / "bad.safetensors")
    with pytest.raises(ValueError, match=message) as error:
        read_lora(tmp_path / "bad.safetensors", pipeline()[2])
    assert "bad.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "must be JSON"),
        ("[]", "must be a dictionary"),
        (json.dumps({"unet.lora_alpha": "4"}), "finite number as alpha"),
        (json.dumps({"unet.lora_alpha": None}), "finite number as alpha"),
    ],
)
def test_bad_metadata(text, message, tmp_path):
    arrays = {DOWN: np.ones((2, 24), "float32"), UP: np.ones((24, 2), "float32")}
    save_file(arrays, tmp_path / "bad.safetensors", metadata={"lora_adapter_metadata": text})
    with pytest.raises(ValueError, match=message):
        read_lora(tmp_path / "bad.safetensors", pipeline()[2])


def test_what_cannot_be_attached_says_so():
    _, _, parts = opened()
    lora = read_lora(FOLDER / FILES["peft"], parts)
    name = "up_blocks.0.upsamplers.0.conv"
    factors = Factors(np.ones((1, 32, 3, 3)), np.ones((32, 1, 1, 1)), 1.0)
    with pytest.raises(ValueError, match=f"cannot be attached to unet.{name}, a UpsampleConv"):
        attach([({"unet": {name: factors}}, 1.0)], parts)
    unet = {"unet": lora["unet"]}
    attach([(unet, 1.0)], parts)
    with pytest.raises(ValueError, match="has a LoRA already"):
        attach([(unet, 1.0)], parts)


def test_several_alphas_need_kohyas_layout(tmp_path):
    a, b = np.ones((2, 3), "float32"), np.ones((4, 2), "float32")
    lora = {"unet": {"x": Factors(a, b, 1.0), "y": Factors(a, b, 2.0)}}
    with pytest.raises(ValueError, match="`layout` must be 'kohya'"):
        write_lora(tmp_path / "lora.safetensors", lora, "peft")
