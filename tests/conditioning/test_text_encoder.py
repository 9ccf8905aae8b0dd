"""The shipped encoder against an independent derivation, and the conditioner around any backbone.

POOLED, SECOND_TOKEN and COSINES come from a forward pass of BERT written in numpy, in float64 and
with the error function of the standard library, over the original float32 `model.safetensors`
(sha256 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db); TOKEN_IDS from the
package `tokenizers` on the original `tokenizer.json`. Neither uses Keras or KerasHub.
"""

import json
import pathlib
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import TextEncoder
from kgen.files.folders import opened
from kgen.serialization import serializable

# Keras 3.15 turns TensorFlow variables into arrays in a way that numpy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ROOT = pathlib.Path(__file__).parents[2]
MINILM = "saved_models/minilm_l6_v2"

TEXTS = ["a red apple", "a ripe fruit", "Café crème, naïve façade!", ""]
TOKEN_IDS = [
    [101, 1037, 2417, 6207, 102],
    [101, 1037, 22503, 5909, 102],
    [101, 7668, 13675, 21382, 1010, 15743, 8508, 999, 102],
    [101, 102],
]
MORE_TOKEN_IDS = {
    "woman's hand, medium-dark skin tone": [
        101, 2450, 1005, 1055, 2192, 1010, 5396, 1011, 2601, 3096, 4309, 102,
    ],
    "日本 food": [101, 1864, 1876, 2833, 102],
    "ANTIDISESTABLISHMENTARIANISM 3.14": [
        101, 3424, 10521, 4355, 7875, 13602, 3672, 12199, 2964, 1017, 1012, 2403, 102,
    ],
    "\N{RED APPLE} apple": [101, 100, 6207, 102],
    "\t new\nline  ": [101, 2047, 2240, 102],
    "ΣΊΣΥΦΟΣ": [101, 1173, 18199, 29733, 29735, 29736, 29730, 29733, 102],
    "don't e\u0301t\u00e9": [101, 2123, 1005, 1056, 3802, 2063, 102],
}  # fmt: skip
POOLED = [
    [0.00404, 0.013597, -0.042827, 0.063014, -0.044489, 0.006735, 0.113192, -0.025655],
    [-0.019073, 0.019902, -0.039583, 0.045001, 0.005711, 0.028657, 0.08292, -0.021631],
    [0.024648, 0.042247, 0.044721, -0.01578, -0.011993, -0.00414, 0.048539, -0.045236],
    [-0.118838, 0.048299, -0.002548, -0.011011, 0.051951, 0.010292, 0.115433, 0.000701],
]
SECOND_TOKEN = [
    [-0.33548, 0.29536, -0.4447, 0.60258],
    [-0.41355, 0.41212, -0.63574, 0.42917],
    [0.32612, -0.01752, -0.11967, -0.09687],
    [-1.51903, 0.58722, -0.06398, -0.12076],
]
COSINES = [
    [1.0, 0.593897, 0.231976, 0.188047],
    [0.593897, 1.0, 0.31044, 0.12506],
    [0.231976, 0.31044, 1.0, 0.200164],
    [0.188047, 0.12506, 0.200164, 1.0],
]


@pytest.fixture(scope="module")
def minilm():
    return TextEncoder.from_preset(ROOT / MINILM)


def tiny_bert(**kwargs):
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=9,
        num_layers=2,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=12,
    )
    # The default initialisation (standard deviation 0.02) is too close to linear to test with.
    for weight in backbone.trainable_weights:
        if weight.path.endswith("kernel"):
            weight.assign(weight * 40.0)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s"]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    return TextEncoder(backbone, tokenizer, **{"sequence_length": 6, **kwargs})


def tiny_clip(**kwargs):
    keras.utils.set_random_seed(1)
    backbone = keras_hub.models.CLIPTextEncoder(
        vocabulary_size=10,
        embedding_dim=8,
        hidden_dim=8,
        num_layers=2,
        num_heads=2,
        intermediate_dim=16,
        max_sequence_length=12,
    )
    pieces = ["<|startoftext|>", "<|endoftext|>", "a", "r", "e", "d", "a</w>", "d</w>", "re"]
    vocabulary = {piece: i for i, piece in enumerate([*pieces, "red</w>"])}
    tokenizer = keras_hub.models.CLIPTokenizer(vocabulary=vocabulary, merges=["r e", "re d</w>"])
    return TextEncoder(backbone, tokenizer, **{"sequence_length": 6, "pooling": "last", **kwargs})


@pytest.fixture(scope="module", params=[tiny_bert, tiny_clip], ids=["bert", "clip"])
def tiny(request):
    return request.param()


# The same ids for both encoders, where the tokenizer is not what is tested (tracing it is slow).
THREE = np.array([[2, 5, 7, 3, 0, 0], [2, 6, 3, 0, 0, 0], [2, 3, 0, 0, 0, 0]])
IDS = {"token_ids": THREE, "padding_mask": THREE > 0}


def assert_close(cond, expected, atol=2e-5):
    assert set(cond) == set(expected)
    for key in cond:
        np.testing.assert_allclose(
            np.asarray(cond[key], "float64"), np.asarray(expected[key], "float64"), atol=atol
        )


def from_config(config, folder):
    """What the loading of a file beside `folder` makes of a config."""
    with opened("a file", [folder.parent]):
        return TextEncoder.from_config(config)


@serializable
class Told(keras.Model):
    """The smallest model with an encoder inside."""

    def __init__(self, encoder, **kwargs):
        super().__init__(**kwargs)
        self.encoder = encoder
        self.head = keras.layers.Dense(1)
        self.head.build((None, 8))
        self.built = True

    def call(self, prompts):
        return self.head(self.encoder(prompts)["pooled"])


class TestMiniLM:
    def test_token_ids_equal_the_reference(self, minilm):
        for text, ids in [*zip(TEXTS, TOKEN_IDS), *MORE_TOKEN_IDS.items()]:
            tokens = minilm.tokenize(text)
            row, mask = tokens["token_ids"].numpy()[0], tokens["padding_mask"].numpy()[0]
            assert row[mask].tolist() == ids
            assert mask.sum() == len(ids)
            assert mask[: len(ids)].all()

    def test_embeddings_equal_the_reference(self, minilm):
        cond = minilm(TEXTS)
        np.testing.assert_allclose(cond["pooled"][:, :8], POOLED, atol=3e-4)
        np.testing.assert_allclose(cond["tokens"][:, 1, :4], SECOND_TOKEN, atol=4e-3)

    def test_cosines_equal_the_reference(self, minilm):
        pooled = minilm(TEXTS)["pooled"].numpy()
        np.testing.assert_allclose(pooled @ pooled.T, COSINES, atol=4e-4)

    def test_is_float32_although_the_file_is_float16(self, minilm):
        assert {w.dtype for w in minilm.parts.backbone.trainable_weights} == set()
        assert {w.dtype for w in minilm.parts.backbone.weights} == {"float32"}
        assert minilm(TEXTS)["tokens"].dtype == tf.float32

    def test_float32_under_a_mixed_precision_policy(self, minilm):
        expected = minilm(TEXTS)
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            cond = TextEncoder.from_preset(ROOT / MINILM)(TEXTS)
        finally:
            keras.config.set_dtype_policy("float32")
        assert_close(cond, expected)

    def test_gelu_is_the_exact_one(self, minilm):
        # Phi(1) = 0.8413447; the tanh approximation gives 0.8411920.
        for i in range(6):
            block = minilm.parts.backbone.get_layer(f"transformer_layer_{i}")
            gelu = block._feedforward_intermediate_dense.activation
            assert float(gelu(tf.constant(1.0))) == pytest.approx(0.8413447, abs=1e-6)

    def test_config_names_the_preset_from_the_root(self, minilm):
        config = minilm.get_config()
        assert config["preset"] == MINILM
        assert len(config["sha256"]) == 64

    def test_found_from_another_working_directory(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert TextEncoder.from_preset(MINILM).hidden_dim == 384


class TestCondition:
    def test_shapes_and_types(self, tiny):
        cond = tiny(["a red a", "red"])
        assert {key: (tuple(t.shape), t.dtype) for key, t in cond.items()} == {
            "tokens": ((2, 6, 8), tf.float32),
            "mask": ((2, 6), tf.bool),
            "pooled": ((2, 8), tf.float32),
        }
        assert tiny.hidden_dim == 8

    def test_mask_marks_the_tokens_between_and_with_the_marks(self, tiny):
        mask = tiny(["a red a", "red", ""])["mask"].numpy()
        assert mask.sum(axis=1).tolist() == [5, 3, 2]
        assert (np.diff(mask.astype(int), axis=1) <= 0).all()

    @pytest.mark.parametrize("build", [tiny_bert, tiny_clip])
    def test_padding_does_not_change_the_encoding(self, build):
        encoder = build()
        a = encoder.encode(THREE[:1, :4], THREE[:1, :4] > 0)
        b = encoder.encode(THREE[:1], THREE[:1] > 0)
        np.testing.assert_allclose(a["tokens"], b["tokens"][:, :4], atol=1e-5)
        assert np.all(b["tokens"][:, 4:] == 0.0)
        np.testing.assert_allclose(a["pooled"], b["pooled"], atol=1e-5)

    @pytest.mark.parametrize("build", [tiny_bert, tiny_clip])
    @pytest.mark.parametrize(("pooling", "rows"), [("mean", [0, 1, 2]), ("last", [2])])
    def test_pooling_reads_its_rows(self, build, pooling, rows):
        cond = build(pooling=pooling, normalize=False)(IDS)
        expected = cond["tokens"].numpy()[1, rows].mean(axis=0)
        np.testing.assert_allclose(cond["pooled"][1], expected, atol=1e-6)

    def test_the_fingerprint_is_of_all_that_matters(self):
        """Weights that Keras does not list, and settings; the same again for the same encoder."""
        first = tiny_bert()
        prints = {first.fingerprint(), tiny_bert(pooling="last").fingerprint()}
        assert len(prints) == 2
        other = tiny_bert()
        for new, old in zip(other.parts.backbone.weights, first.parts.backbone.weights):
            new.assign(old)
        assert other.fingerprint() == first.fingerprint()
        other.parts.backbone.weights[0].assign(-other.parts.backbone.weights[0])
        assert other.fingerprint() not in prints

    def test_pooled_has_length_one(self, tiny):
        pooled = tiny(["a red a", ""])["pooled"]
        np.testing.assert_allclose(np.linalg.norm(pooled, axis=1), 1.0, atol=1e-6)

    def test_case_does_not_matter(self, tiny):
        assert_close(tiny(["A Red A"]), tiny(["a red a"]))

    def test_the_three_kinds_of_input_agree(self, tiny):
        expected = tiny(["a red a", "red"])
        ids = tiny.tokenize(["a red a", "red"])
        assert_close(tiny(ids), expected)
        assert_close(tiny.encode(**ids), expected)
        assert_close(tiny({key: value.numpy() for key, value in expected.items()}), expected)
        assert_close(tiny(tf.constant(["a red a", "red"])), expected)
        assert_close(tiny(np.array(["a red a", "red"])), expected)

    def test_one_string_is_a_batch_of_one(self, tiny):
        for prompt in ("red", tf.constant("red")):
            assert_close(tiny(prompt), tiny(["red"]))

    def test_null_is_the_empty_prompt(self, tiny):
        assert_close(tiny.null(3), tiny(["", "", ""]))

    def test_null_of_a_size_known_late(self, tiny):
        null = tf.function(tiny.null, input_signature=[tf.TensorSpec([], tf.int32)])
        assert_close(null(tf.constant(3)), tiny.null(3))

    def test_ids_between_the_marks(self, tiny):
        ids = tiny.tokenize(["a RED"])
        clip = type(tiny.parts.tokenizer).__name__ == "CLIPTokenizer"
        expected = [0, 6, 9, 1, 0, 0] if clip else [2, 5, 6, 3, 0, 0]
        assert ids["token_ids"].numpy().tolist() == [expected]
        assert ids["padding_mask"].numpy().tolist() == [[True] * 4 + [False] * 2]


class TestGraph:
    def test_equals_eager_for_every_batch_size_in_one_trace(self, tiny):
        fn = tf.function(lambda p: tiny(p), input_signature=[tf.TensorSpec([None], tf.string)])
        for prompts in (["red"], ["a red a", "red", ""]):
            assert_close(fn(tf.constant(prompts)), tiny(prompts))
        cond = fn(tf.constant(["a red a red a a a"]))
        assert_close(cond, tiny(["a red a red"]))
        assert fn.experimental_get_tracing_count() == 1

    def test_ids_path_uses_core_operations_only(self, tiny):
        signature = [tf.TensorSpec([None, 6], tf.int32), tf.TensorSpec([None, 6], tf.bool)]
        graph = tf.function(tiny.encode, input_signature=signature).get_concrete_function().graph
        inner = [op for fn in graph._functions.values() for op in fn.graph.get_operations()]
        kinds = {op.type for op in [*graph.get_operations(), *inner]}
        assert not any("Wordpiece" in kind or "String" in kind or "Table" in kind for kind in kinds)
        assert "MatMul" in kinds or "Einsum" in kinds

    def test_maps_over_a_dataset(self, tiny):
        data = tf.data.Dataset.from_tensor_slices(["a red a", "red", ""]).batch(2)
        ids = next(iter(data.map(tiny.tokenize)))
        np.testing.assert_array_equal(
            ids["token_ids"], tiny.tokenize(["a red a", "red"])["token_ids"]
        )

    @pytest.mark.parametrize(("build", "trainable"), [(tiny_clip, False), (tiny_bert, True)])
    def test_saved_model_reads_strings(self, tmp_path, build, trainable):
        encoder = build(trainable=trainable)
        module = tf.Module()
        module.encoder = encoder
        signature = [tf.TensorSpec([None], tf.string)]
        module.serve = tf.function(lambda prompts: encoder(prompts), input_signature=signature)
        tf.saved_model.save(module, str(tmp_path))
        loaded = tf.saved_model.load(str(tmp_path))
        assert_close(loaded.serve(tf.constant(["a red", ""])), encoder(["a red", ""]))


class TestErrors:
    @pytest.mark.parametrize(
        ("prompts", "error", "match"),
        [
            (None, TypeError, "must be a string, a list of strings.*Received: prompts=None"),
            (3, TypeError, "Received: prompts=3 of type int"),
            (["red", None], TypeError, "Received: None of type NoneType in it"),
            (["red", 1.5], TypeError, "Received: 1.5 of type float in it"),
            ([["red"]], TypeError, "of type list in it"),
            (tf.constant([1, 2]), TypeError, "Received: a tensor of dtype int32"),
            ([], ValueError, "at least one prompt. Received: an empty list"),
            (np.array([], "U3"), ValueError, "at least one prompt"),
            (tf.constant([], tf.string), ValueError, r"tensor of shape \(0,\)"),
            (tf.constant([["red"]]), ValueError, r"tensor of shape \(1, 1\)"),
            ({"ids": 1}, ValueError, r"dictionary of token_ids and padding_mask.*'ids'"),
        ],
    )
    def test_prompts(self, tiny, prompts, error, match):
        with pytest.raises(error, match=match):
            tiny(prompts)

    @pytest.mark.parametrize(
        ("kwargs", "match"),
        [
            ({"sequence_length": 13}, "from 3 to 12.*sequence_length=13"),
            ({"sequence_length": 2}, "from 3 to 12.*sequence_length=2"),
            ({"sequence_length": 6.0}, "sequence_length=6.0"),
            ({"pooling": "max"}, "`pooling` must be one of.*'max'"),
            ({"activation": "relu"}, "`activation` must be one of.*'relu'"),
        ],
    )
    def test_options(self, kwargs, match):
        with pytest.raises(ValueError, match=match):
            tiny_bert(**kwargs)

    def test_exact_gelu_needs_bert_blocks(self):
        with pytest.raises(ValueError, match="Received: a CLIPTextEncoder"):
            tiny_clip(activation="gelu_erf")

    def test_backbone_of_pictures(self, tiny):
        images = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
        with pytest.raises(ValueError, match=r"text backbone with inputs token_ids.*Sequential"):
            TextEncoder(images, tiny.parts.tokenizer)

    def test_truncation_warns_and_names_the_first(self, tiny):
        with pytest.warns(UserWarning, match=r"2 of 3 `prompts`.*4 tokens.*'a red a red a'"):
            cond = tiny(["red", "a red a red a", "red red red red red red"])
        assert cond["mask"].numpy().sum(axis=1).tolist() == [3, 6, 6]
        with pytest.warns(UserWarning, match="1 of 1 `prompts`"):
            longer = tiny.tokenize("a red a red red")["token_ids"].numpy()[0]
        exact = tiny.tokenize("a red a red")["token_ids"].numpy()[0]
        assert longer.tolist() == exact.tolist()


class TestTraining:
    @pytest.mark.parametrize("build", [tiny_bert, tiny_clip])
    def test_frozen_has_no_weights_and_no_gradient(self, build):
        encoder = build()
        assert encoder.variables == []
        with tf.GradientTape() as tape:
            for weight in encoder.parts.backbone.weights:
                tape.watch(weight.value)
            loss = tf.reduce_sum(encoder(IDS)["tokens"] ** 2)
        gradients = tape.gradient(loss, [w.value for w in encoder.parts.backbone.weights])
        assert all(gradient is None for gradient in gradients)

    @pytest.mark.parametrize("build", [tiny_bert, tiny_clip])
    def test_trainable_learns(self, build):
        encoder = build(trainable=True)
        assert encoder.trainable_variables
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(encoder(IDS)["tokens"][:, :, 0] ** 2)
        embedding = encoder.trainable_variables[0]
        gradient = tape.gradient(loss, embedding.value)
        assert float(tf.reduce_sum(tf.abs(tf.convert_to_tensor(gradient)))) > 0

    def test_frozen_is_not_part_of_the_model_around_it(self, tmp_path):
        model = Told(tiny_bert())
        assert len(model.weights) == 2
        path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
        names = [name for name, _ in tf.train.list_variables(path)]
        assert len(names) == 3
        assert not any("embedding" in name for name in names)

    def test_trainable_is_part_of_the_model_around_it(self, tmp_path):
        model = Told(tiny_bert(trainable=True))
        assert len(model.trainable_weights) == 2 + len(model.encoder.parts.backbone.weights) - len(
            model.encoder.parts.backbone.non_trainable_weights
        )
        path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
        assert len(tf.train.list_variables(path)) > 20

    def test_fit_takes_strings(self):
        model = Told(tiny_bert())
        model.compile("sgd", "mse", jit_compile=False)
        before = [w.copy() for w in model.encoder.parts.backbone.get_weights()]
        data = tf.data.Dataset.from_tensors((tf.constant(["a red", "red"]), tf.ones([2, 1])))
        model.fit(data, epochs=2, shuffle=False, verbose=0)
        for old, new in zip(before, model.encoder.parts.backbone.get_weights()):
            np.testing.assert_array_equal(old, new)


class TestEmbed:
    @pytest.fixture
    def counted(self):
        encoder = tiny_bert()
        sizes, encode = [], encoder._compiled.encode
        encoder._compiled.encode = lambda ids, mask: sizes.append(len(ids)) or encode(ids, mask)
        return encoder, sizes

    def test_runs_each_distinct_prompt_once_in_small_batches(self, counted):
        encoder, sizes = counted
        prompts = ["a red", "a", "red", "apple", "", "red", "apples"]
        cond = encoder.embed(prompts, batch_size=2, progress=False)
        assert sizes == [2, 2, 2]
        assert_close(cond, encoder(prompts))
        assert all(isinstance(value, np.ndarray) for value in cond.values())

    def test_second_call_runs_only_what_is_new(self, counted):
        encoder, sizes = counted
        encoder.embed(["red", "a"], progress=False)
        again = encoder.embed(["a", "red"], progress=False)
        assert sizes == [2]
        assert_close(again, encoder(["a", "red"]))
        encoder.embed(["a", "apple"], progress=False)
        assert sizes == [2, 1]
        encoder.clear_cache()
        encoder.embed("a", progress=False)
        assert sizes == [2, 1, 1]

    def test_trainable_does_not_keep_rows(self):
        encoder = tiny_bert(trainable=True)
        before = encoder.embed("red", progress=False)["pooled"]
        for weight in encoder.trainable_variables:
            weight.assign(weight * 0.9)
        after = encoder.embed("red", progress=False)["pooled"]
        assert_close({"pooled": after}, {"pooled": encoder("red")["pooled"]})
        assert np.abs(after - before).max() > 1e-4

    def test_progress_is_printed(self, counted, capsys):
        counted[0].embed(["red", "a", "apple"], batch_size=1)
        assert "3/3" in capsys.readouterr().out

    def test_strings_of_a_dataset(self, counted):
        encoder, _ = counted
        cond = encoder.embed(tf.constant(["a r\u00e9d", "red"]), progress=False)
        assert cond["pooled"].shape == (2, 8)


class TestPreset:
    @pytest.mark.parametrize("trainable", [False, True])
    @pytest.mark.parametrize("build", [tiny_bert, tiny_clip])
    def test_round_trip(self, tmp_path, build, trainable):
        encoder = build(trainable=trainable, normalize=False)
        encoder.save_to_preset(tmp_path)
        loaded = TextEncoder.from_preset(tmp_path, trainable=trainable)
        assert_close(loaded(IDS), encoder(IDS))
        assert loaded.parts.tokenizer.vocabulary == encoder.parts.tokenizer.vocabulary
        again = from_config(encoder.get_config(), tmp_path)
        assert_close(again(IDS), encoder(IDS))
        assert again.get_config() == encoder.get_config()
        assert bool(again.trainable_variables) == trainable

    def test_carries_the_exact_gelu(self, tmp_path):
        encoder = tiny_bert(activation="gelu_erf")
        encoder.save_to_preset(tmp_path)
        tanh = tiny_bert()
        tanh.parts.backbone.set_weights(encoder.parts.backbone.get_weights())
        expected = encoder(IDS)["tokens"]
        assert np.abs(tanh(IDS)["tokens"] - expected).max() > 1e-4
        loaded = TextEncoder.from_preset(tmp_path)(IDS)["tokens"]
        np.testing.assert_allclose(loaded, expected, atol=1e-5)

    def test_sequence_length_can_be_chosen(self, tmp_path):
        tiny_bert().save_to_preset(tmp_path)
        assert TextEncoder.from_preset(tmp_path).sequence_length == 6
        assert TextEncoder.from_preset(tmp_path, sequence_length=9).sequence_length == 9

    def test_half_precision_file(self, tmp_path):
        encoder = tiny_bert()
        encoder.save_to_preset(tmp_path / "full")
        encoder.save_to_preset(tmp_path / "half", dtype="float16")
        half = TextEncoder.from_preset(tmp_path / "half")
        np.testing.assert_allclose(half(IDS)["tokens"], encoder(IDS)["tokens"], atol=2e-2)
        sizes = [(tmp_path / x / "model.weights.h5").stat().st_size for x in ("half", "full")]
        assert sizes[0] < sizes[1]
        config = json.loads((tmp_path / "half" / "config.json").read_text())
        assert config["config"]["dtype"]["config"]["name"] == "float16"

    def test_plain_keras_hub_preset_is_enough(self, tmp_path):
        encoder = tiny_bert()
        encoder.parts.backbone.save_to_preset(str(tmp_path))
        encoder.parts.tokenizer.save_to_preset(str(tmp_path))
        loaded = TextEncoder.from_preset(tmp_path, sequence_length=6)
        assert_close(loaded(IDS), encoder(IDS))

    def test_other_weights_are_refused(self, tmp_path):
        encoder = tiny_bert()
        encoder.save_to_preset(tmp_path)
        config = encoder.get_config()
        encoder.parts.backbone.set_weights(
            [w + 1 if w.dtype == "float32" else w for w in encoder.parts.backbone.get_weights()]
        )
        encoder.save_to_preset(tmp_path)
        other = encoder.get_config()["sha256"]
        with pytest.raises(ValueError, match="weights are not those") as caught:
            from_config(config, tmp_path)
        for part in (config["sha256"], other, str(tmp_path)):
            assert part in str(caught.value)

    @pytest.mark.parametrize(
        ("file", "old", "new"),
        [
            ("assets/tokenizer/vocabulary.txt", "apple", "melon"),
            ("tokenizer.json", '"lowercase": true', '"lowercase": false'),
        ],
    )
    def test_another_tokenizer_is_refused(self, tmp_path, file, old, new):
        encoder = tiny_bert()
        encoder.save_to_preset(tmp_path)
        config = encoder.get_config()
        text = (tmp_path / file).read_text()
        assert old in text
        (tmp_path / file).write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=r"tokenizer is not the one.*tokenizer_sha256="):
            from_config(config, tmp_path)
        del config["tokenizer_sha256"]  # as in a preset of an earlier version
        assert from_config(config, tmp_path).get_config()["sha256"] == config["sha256"]

    def test_in_memory_encoder_has_no_config(self):
        with pytest.raises(ValueError, match="save_to_preset"):
            tiny_bert().get_config()

    @pytest.mark.parametrize(("build", "trainable"), [(tiny_clip, False), (tiny_bert, True)])
    def test_model_around_it_saves_and_loads_in_safe_mode(self, tmp_path, build, trainable):
        encoder = build(trainable=trainable)
        encoder.save_to_preset(tmp_path / "encoder")
        model = Told(encoder)
        if trainable:
            for weight in encoder.trainable_variables:
                weight.assign(weight * 0.9)
        prompts = tf.constant(["a red", ""])
        expected = model(prompts)
        model.save(tmp_path / "model.keras")
        loaded = kgen.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(loaded(prompts), expected, atol=1e-6)
        with pytest.raises(ValueError, match=r"load the file with `kgen\.load_model"):
            keras.saving.load_model(tmp_path / "model.keras")

    def test_sha256_is_that_of_the_file(self, minilm):
        import hashlib

        data = (ROOT / MINILM / "model.weights.h5").read_bytes()
        assert minilm.get_config()["sha256"] == hashlib.sha256(data).hexdigest()


def test_import_loads_neither_keras_hub_nor_tensorflow_text():
    code = (
        "import sys, kgen.conditioning;"
        "sys.exit(any(name in sys.modules for name in ('keras_hub', 'tensorflow_text')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
