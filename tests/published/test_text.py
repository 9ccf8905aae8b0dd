"""Text encoders of published folders against the outputs of transformers."""

import contextlib
import json
import pathlib
import shutil
import subprocess
import sys
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from kgen.conditioning import CLIPText
from kgen.published.files import Folder
from kgen.published.text import open_text
from kgen.serving.parts import litert
from kgen.serving.parts.functions import conditioner_part
from kgen.serving.signature import condition_inputs

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
XL = {"null": "zeros", "sizes": 8, "size": (32, 32)}


def reference(name):
    with np.load(FIXTURES / f"{name}_reference.npz") as arrays:
        arrays = dict(arrays)
    return json.loads((FIXTURES / f"{name}_reference.json").read_text()), arrays


def opened(name, **options):
    options = {**(XL if name == "sdxl" else {}), **options}
    return open_text(Folder(FIXTURES / name), name == "sdxl", **options)


def encode(text, values):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one of the reference's texts is too long on purpose
        return text(values)


def difference(received, expected):
    """The largest difference in units of the spread."""
    return np.abs(np.asarray(received) - expected).max() / expected.std()


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def text(name):
    return opened(name)


def test_ids(name, text):
    described, arrays = reference(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = text.prepare(described["texts"])
    np.testing.assert_array_equal(rows["token_ids"], arrays["text.ids"])
    if name == "sdxl":
        np.testing.assert_array_equal(rows["token_ids_2"], arrays["text_2.ids"])


def test_states(name, text):
    described, arrays = reference(name)
    cond = encode(text, described["texts"])
    expected = arrays["text.tokens"]
    if name == "sdxl":
        both = [arrays["text.penultimate"], arrays["text_2.penultimate"]]
        expected = np.concatenate(both, axis=-1)
        assert difference(cond["pooled"][:, :20], arrays["text_2.pooled"]) < 2e-5
    assert difference(cond["tokens"], expected) < 2e-5
    assert cond["mask"].numpy().all()


def test_half_precision_files():
    described, arrays = reference("sd1")
    cond = opened("sd1", variant="fp16")(described["texts"][1])
    assert difference(cond["tokens"], arrays["fp16.text_tokens"]) < 2e-5


def test_condition_of_xl():
    described, arrays = reference("sdxl")
    text = opened("sdxl")
    cond = text({"prompts": described["prompts"], "sizes": arrays["cond.time_ids"]})
    assert difference(cond["tokens"], arrays["cond.tokens"]) < 2e-5
    assert difference(cond["pooled"][:, :20], arrays["cond.pooled"]) < 2e-5
    same = text(described["prompts"])  # 32 pixels is what the conditioner was made for
    np.testing.assert_array_equal(same["pooled"], cond["pooled"])
    null = text.null(2)
    np.testing.assert_array_equal(null["tokens"], arrays["cond.null_tokens"])
    np.testing.assert_array_equal(null["pooled"][:, :20], arrays["cond.null_pooled"])
    np.testing.assert_array_equal(null["pooled"][:, 20:], cond["pooled"][:, 20:])


def test_size_is_told_to_the_condition_and_its_null():
    text = opened("sdxl")
    rows = text.prepare(["a heart"], size=(64, 48))
    np.testing.assert_array_equal(rows["sizes"], [[64, 48, 0, 0, 64, 48]])
    features = text(rows)["pooled"][:, 20:]
    # The first number, 64, at the frequencies 1, 1/10, 1/100, 1/1000.
    angles = 64 / 10.0 ** np.arange(4)
    np.testing.assert_allclose(
        features[0, :8], np.concatenate([np.cos(angles), np.sin(angles)]), atol=1e-5
    )
    np.testing.assert_array_equal(text.null(1, size=(64, 48))["pooled"][:, 20:], features)


@pytest.mark.parametrize("pipeline", ["sd1", "sd2"])
def test_null_is_the_empty_prompt(pipeline):
    text, (described, arrays) = opened(pipeline), reference(pipeline)
    empty = described["texts"].index("")
    null = text.null(3)
    assert null["tokens"].shape == (3, 77, 32)
    for row in null["tokens"]:
        assert difference(row, arrays["text.tokens"][empty]) < 2e-5


def test_windows_are_encoded_one_by_one():
    """Of a prompt of 100 pieces the first window is that of its first 75."""
    prompt = "a red heart " * 33 + "cat"
    text, one = opened("sd1", windows=2), opened("sd1")
    cond = text(prompt)
    assert cond["tokens"].shape == (1, 154, 32)
    first = one("a red heart " * 25)
    second = one("a red heart " * 8 + "cat")
    np.testing.assert_allclose(cond["tokens"][:, :77], first["tokens"], atol=1e-5)
    np.testing.assert_allclose(cond["tokens"][:, 77:], second["tokens"], atol=1e-5)
    assert text.null(2)["tokens"].shape == (2, 154, 32)


def test_long_prompt_is_truncated_with_a_warning():
    with pytest.warns(
        UserWarning, match="1 of 2 `prompts` are longer than the encoder's 75 tokens"
    ):
        cond = opened("sd1")(["cat " * 76, "cat"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shorter = opened("sd1")("cat " * 75)
    np.testing.assert_allclose(cond["tokens"][:1], shorter["tokens"], atol=1e-5)


def test_rows_and_conditions_are_taken_as_they_are(text):
    cond = text(["a cat"])
    rows = text.prepare(["a cat"])
    for same in (text(rows), text(cond), text(text.prepare(rows))):
        for key in cond:
            np.testing.assert_array_equal(same[key], cond[key])
    specs = text.signature("token_ids")
    assert {key: (spec.shape[1:], spec.dtype) for key, spec in specs.items()} == {
        key: (row.shape[1:], row.dtype) for key, row in rows.items()
    }


def test_tensors_of_a_server(text):
    """An export gives what `signature` says: one tensor by itself, several as a dictionary."""
    rows = text.prepare(["a cat", ""])
    specs, pack, _, _ = condition_inputs(text, "token_ids")
    cond, expected = text(pack([rows[spec.name] for spec in specs])), text(rows)
    for key in expected:
        np.testing.assert_array_equal(cond[key], expected[key])


def test_part_for_litert(tmp_path):
    text = opened("sdxl")  # has both a tower's last states and another's, and numbers beside ids
    interpreter = pytest.importorskip("ai_edge_litert.interpreter", reason="of the extra runtimes")
    model = types.SimpleNamespace(conditioner=text, averaged=contextlib.nullcontext)
    file = tmp_path / "conditioner.tflite"
    file.write_bytes(litert.convert(conditioner_part(model)))
    rows = text.prepare(["a cat", ""])
    run = interpreter.Interpreter(str(file)).get_signature_runner()
    cond = run(**{key: value.numpy() for key, value in rows.items()})
    expected = text(rows)
    assert set(cond) == set(expected)
    for key in expected:
        np.testing.assert_allclose(cond[key], expected[key], atol=1e-4)


def test_vocabulary_for_other_programs(name, text, tmp_path):
    said = text.write_vocabulary(tmp_path)["tokenizers"]
    rows = text.prepare(["a cat"])
    assert set(said) == {key for key in rows if key != "sizes"}
    for key, about in said.items():
        vocabulary = json.loads((tmp_path / key / "vocabulary.json").read_text())
        ids = rows[key].numpy()[0]
        assert ids[0] == about["start"] == vocabulary["<|startoftext|>"]
        assert about["end"] in ids
        assert ids[-1] == about["pad"]
        assert about["windows"] * about["length"] == len(ids)
        assert (tmp_path / key / "merges.txt").read_text().count("\n") > 10


def test_bad_values(text):
    with pytest.raises(ValueError, match="`values` must be prompts, or a dictionary"):
        text({"ids": [1]})
    with pytest.raises(TypeError, match="`prompts` must be a string"):
        text([3])


@keras.saving.register_keras_serializable("kgen_tests")
class Holder(keras.Model):
    """The smallest model with a conditioner inside."""

    def __init__(self, conditioner, **kwargs):
        super().__init__(**kwargs)
        self.conditioner = conditioner
        self.built = True

    def get_config(self):
        return {"conditioner": keras.saving.serialize_keras_object(self.conditioner)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config["conditioner"]))

    def call(self, prompts):
        return self.conditioner(prompts)


def test_saved_with_its_vocabulary(name, text, tmp_path):
    Holder(text).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras").conditioner
    assert isinstance(loaded, CLIPText)
    assert loaded.fingerprint() == text.fingerprint()
    expected = text(["a red heart, 1999!"])
    for key, value in loaded(["a red heart, 1999!"]).items():
        np.testing.assert_array_equal(value, expected[key])


def test_fingerprint_tells_weights_vocabulary_and_options():
    prints = {
        opened("sd1").fingerprint(),
        opened("sd2").fingerprint(),
        opened("sd1", windows=2).fingerprint(),
        opened("sd1", variant="fp16").fingerprint(),
        opened("sdxl").fingerprint(),
        opened("sdxl", null="empty").fingerprint(),
        opened("sdxl", size=(64, 32)).fingerprint(),
    }
    assert len(prints) == 7


def test_exported_with_its_tokenizer(tmp_path):
    """A SavedModel takes strings, in a process that has TensorFlow Text alone."""
    described, arrays = reference("sd2")
    text = opened("sd2")
    module = tf.Module()
    module.resources, module.variables_ = text.resources(), text.weights

    @tf.function(input_signature=list(text.signature().values()))
    def encode(prompts):
        rows = text.prepare(prompts)
        return text(rows) | rows

    module.encode = encode
    tf.saved_model.save(module, tmp_path / "saved")
    (tmp_path / "texts.json").write_text(json.dumps(described["texts"]))
    code = (
        "import json, sys, numpy as np, tensorflow as tf, tensorflow_text\n"
        "module = tf.saved_model.load('saved')\n"
        "cond = module.encode(tf.constant(json.load(open('texts.json'))))\n"
        "np.savez('out.npz', **{k: v.numpy() for k, v in cond.items()})\n"
        "assert 'kgen' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    with np.load(tmp_path / "out.npz") as received:
        np.testing.assert_array_equal(received["token_ids"], arrays["text.ids"])
        assert difference(received["tokens"], arrays["text.tokens"]) < 2e-5


def _edit(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def _vocabulary(change):
    return lambda folder: _edit(folder / "tokenizer" / "vocab.json", change)


def _config(key, value):
    return lambda folder: _edit(
        folder / "text_encoder" / "config.json", lambda config: config.update({key: value})
    )


def _merges(text):
    return lambda folder: (folder / "tokenizer" / "merges.txt").write_text(text)


DAMAGES = {
    "no configuration": (
        lambda f: (f / "text_encoder/config.json").unlink(),
        "config.json is missing",
    ),
    "no vocabulary": (lambda f: (f / "tokenizer/vocab.json").unlink(), "vocab.json is missing"),
    "no merges": (lambda f: (f / "tokenizer/merges.txt").unlink(), "merges.txt is missing"),
    "id twice": (_vocabulary(lambda v: v.update(a=3)), "ids 0 to 573"),
    "id is text": (_vocabulary(lambda v: v.update(a="64")), "ids 0 to 573"),
    "vocabulary too small": (_vocabulary(lambda v: v.popitem()), "must have 574 tokens"),
    "no end mark": (
        _vocabulary(lambda v: v.update(end=v.pop("<|endoftext|>"))),
        "must have the token '<|endoftext|>'",
    ),
    "merge of what is no token": (_merges("#version: 0.2\nq q\n"), "line 2"),
    "merge of three": (_merges("#version: 0.2\na n d\n"), "line 2"),
    "padding token unknown": (
        lambda f: _edit(
            f / "tokenizer/tokenizer_config.json", lambda c: c.update(pad_token="<pad>")
        ),
        "`pad_token` of the vocabulary",
    ),
    "more layers than in the file": (
        _config("num_hidden_layers", 10_000),
        "must have 'encoder.layers.9999.mlp.fc1.weight'",
    ),
    "fewer layers than in the file": (
        _config("num_hidden_layers", 1),
        "unknown are 'encoder.layers.1",
    ),
    "wider than the file": (_config("hidden_size", 100_000), "token_embedding.weight' of shape"),
    "larger inside": (_config("intermediate_size", 2**20), "mlp.fc1.weight' of shape"),
    "more positions": (_config("max_position_embeddings", 2**20), "position_embedding.weight' of"),
    "another activation": (_config("hidden_act", "gelu_new"), "'hidden_act'"),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_damaged_text_encoder(case, tmp_path):
    damage, message = DAMAGES[case]
    folder = pathlib.Path(shutil.copytree(FIXTURES / "sd1", tmp_path / "sd1"))
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        open_text(Folder(folder), xl=False)
    assert message in str(error.value)
    assert "sd1/t" in str(error.value)
