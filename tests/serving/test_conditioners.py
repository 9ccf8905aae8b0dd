"""Exports of models with any conditioner, a user's own too, called without kgen and Keras."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Conditioner, Labels, Several, Vector
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP
from kgen.serialization import serializable


@serializable
class Weather(Conditioner):
    """A word and a temperature: two tensors of a server, one dictionary of a person."""

    batch_key = "weather"
    WORDS = ("rain", "snow", "sun")

    def __init__(self, width=6, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.words = self.add_weight(shape=(4, width), initializer="random_normal", name="words")
        self.built = True

    def prepare(self, values):
        if "word_id" in values:
            return values
        words = tf.convert_to_tensor(values["word"])
        equal = words[:, None] == tf.constant(self.WORDS)
        known = tf.reduce_any(equal, -1)
        ids = tf.where(known, tf.argmax(tf.cast(equal, tf.int32), -1), 3)
        return {"word_id": ids, "celsius": tf.cast(values["celsius"], tf.float32)}

    def call(self, rows, training=False):
        warmth = tf.tanh(rows["celsius"] / 20)[:, None]
        return {"pooled": tf.gather(self.words, rows["word_id"]) + tf.pad(warmth, [[0, 0], [0, 5]])}

    def null(self, batch_size):
        return {"pooled": tf.zeros([batch_size, self.width])}

    def signature(self, form=None):
        return {
            "word": tf.TensorSpec([None], tf.string, "word"),
            "celsius": tf.TensorSpec([None], tf.float32, "celsius"),
        }


def several():
    return Several({"kind": Labels(3, 4, name="kind"), "place": Vector(2, 2, name="place")})


CASES = {
    "own": (
        Weather,
        {"word": ["rain", "sun", "fog"], "celsius": [3.0, 25.0, -4.0]},
        {"word": tf.string, "celsius": tf.float32},
    ),
    "several": (
        several,
        {"kind": [0, 2, 1], "place": [[0.1, 0.9], [-1.0, 0.4], [0.0, 2.0]]},
        {"kind": tf.int32, "place": tf.float32},
    ),
    "vector": (lambda: Vector(2, 6), {"vectors": [[0.1, 0.9], [-1.0, 0.4], [0.0, 2.0]]}, {}),
    "names": (lambda: Labels(3, 6, names=["a", "b", "c"]), {"labels": [0, 2, 1]}, {}),
}

CODE = """
import sys
sys.modules["kgen"] = sys.modules["keras"] = sys.modules["tensorflow_text"] = None
import json
import numpy as np
import tensorflow as tf
folder, values = sys.argv[1], json.loads(sys.argv[2])
loaded = tf.saved_model.load(folder)
serve = loaded.signatures["serving_default"]
specs = serve.structured_input_signature[1]
values = {key: tf.constant(value, specs[key].dtype) for key, value in values.items()}
options = {"num_steps": tf.constant(4), "guidance_scale": tf.constant(2.0)}
x = serve(**values, **options, seed=tf.constant([3, 0]))["images"]
seeds = tf.constant([[5, 0], [6, 0], [7, 0]])
serve = loaded.signatures["generate_with_seeds"]
part = {key: value[1:2] for key, value in values.items()}
alone = serve(**part, **options, seeds=seeds[1:2])["images"]
many = serve(**values, **options, seeds=seeds)["images"]
np.savez(folder + "/results.npz", x=x, many=many, alone=alone)
"""


@pytest.mark.parametrize("case", CASES)
def test_a_server_draws_what_generate_draws(case, tmp_path):

    make, values, dtypes = CASES[case]
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0))
    network = TimeMLP(2, width=16, blocks=1, pooled=6)
    model = kgen.DiffusionModel(network, process, conditioner=make(), grey_levels=None, seed=0)
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    model.averages.reset()
    kgen.export_saved_model(model, tmp_path / "1")
    command = [sys.executable, "-c", CODE, str(tmp_path / "1"), json.dumps(values)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = np.load(tmp_path / "1" / "results.npz")
    condition = (
        {
            key: np.array(value, tf.as_dtype(dtypes[key]).as_numpy_dtype)
            for key, value in values.items()
        }
        if dtypes
        else next(iter(values.values()))
    )
    options = {"num_steps": 4, "guidance_scale": 2.0}
    expected = model.generate(condition, seed=3, **options)
    np.testing.assert_allclose(results["x"], expected, atol=1e-4)
    many = model.generate(condition, seed=[5, 6, 7], **options)
    np.testing.assert_allclose(results["many"], many, atol=1e-4)
    np.testing.assert_allclose(results["alone"], many[1:2], atol=1e-4)
    other = model.generate(model.conditioner.null(3), seed=3, **options)
    assert np.abs(expected - other).max() > 0.01


def test_a_form_that_a_conditioner_does_not_have(tmp_path):
    process = GaussianDiffusion(CosineLogSNR())
    options = {"grey_levels": None, "conditioner": Weather()}
    model = kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1, pooled=6), process, **options)
    message = r"`inputs` must be None or one of \['weather'\]. Received: inputs='token_ids'"
    with pytest.raises(ValueError, match=message):
        kgen.export_saved_model(model, tmp_path / "new", inputs="token_ids")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_conditioner_is_rebuilt(tmp_path):
    process = GaussianDiffusion(CosineLogSNR())
    options = {"grey_levels": None, "conditioner": Weather()}
    model = kgen.DiffusionModel(TimeMLP(2, width=8, blocks=1, pooled=6), process, **options)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_array_equal(again.conditioner.words, model.conditioner.words)
