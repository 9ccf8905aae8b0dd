"""The server's pictures are those of the model, drawn in this process or by TensorFlow Serving."""

import concurrent.futures
import contextlib
import functools
import time
import types

import numpy as np
import pytest
import tensorflow as tf
from http_parts import events, pixels, png
from serving_stand_in import tensorflow_serving

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP
from kgen.serving.denoising import sampling

pytest.importorskip("fastapi", reason="needs the extra `serve`")
TestClient = pytest.importorskip("fastapi.testclient", reason="needs httpx").TestClient

from kgen.serving.http.app import application  # noqa: E402
from kgen.serving.http.limits import ServerLimits  # noqa: E402
from kgen.serving.http.local import LocalModel, batch_sizes  # noqa: E402
from kgen.serving.http.tensorflow_serving import TensorFlowServing, seed_pair  # noqa: E402

SHAPE = (4, 4, 3)
URL, EDITS = "/v1/images/generations", "/v1/images/edits"
FEW = {"steps": 3, "guidance": 2.0}
PROMPTS = [("a red heart", 3), ("sun", 4), ("moon", 5), ("a blue tree", 6), ("sea", 7)]


class Pixels(TimeMLP):
    """A dense network of pictures, which is traced sooner than a U-Net."""

    data_shape = SHAPE

    def call(self, z, log_snr, cond=None, training=False):
        flat = tf.reshape(z, [-1, 48])
        return tf.reshape(super().call(flat, log_snr, cond, training), tf.shape(z))


def model_of(conditioner):
    network = Pixels(48, width=16, blocks=1, pooled=None if conditioner is None else 8)
    process = GaussianDiffusion(CosineLogSNR())
    model = kgen.DiffusionModel(network, process, conditioner=conditioner, seed=0, data_shape=SHAPE)
    for i, variable in enumerate(model.trainable_variables):  # some of a new network are zero
        variable.assign(np.random.default_rng(i).normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def model(words):
    return model_of(words)


@pytest.fixture(scope="module")
def words():
    from small_models import HashedWords

    return HashedWords()


@contextlib.contextmanager
def serving(backend, **limits):
    with TestClient(application(backend, ServerLimits(**limits))) as client:
        until = time.monotonic() + 60
        while client.get("/ready").status_code != 200 and time.monotonic() < until:
            time.sleep(0.01)
        yield client


@pytest.fixture(scope="module")
def local(model):
    with serving(LocalModel(model, "tiny", max_batch=8), max_wait=0.3) as client:
        yield client


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    drawing = types.SimpleNamespace(export_functions=functools.partial(sampling, model))
    kgen.export_saved_model(drawing, folder, max_steps=10, editing=True, negatives=True)
    with tensorflow_serving(tf.saved_model.load(str(folder))) as (url, calls):
        yield url, calls


@pytest.fixture(scope="module")
def remote(exported):
    with serving(TensorFlowServing(exported[0], "model"), max_wait=0.3) as client:
        yield client


@pytest.fixture(params=["local", "remote"])
def client(request):
    return request.getfixturevalue(request.param)


def assert_nearly(picture, expected):
    difference = np.abs(np.asarray(picture).astype(int) - expected)
    assert difference.max() <= 1


def test_pictures_of_requests_that_come_together_are_those_of_their_seeds_alone(client, model):
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        answers = list(
            pool.map(
                lambda pair: client.post(URL, json={"prompt": pair[0], "seed": pair[1], **FEW}),
                PROMPTS,
            )
        )
    alone = [
        model.generate([prompt], seed=[seed], num_steps=3, guidance_scale=2.0)[0]
        for prompt, seed in PROMPTS
    ]
    for answer, expected in zip(answers, alone):
        assert_nearly(pixels(answer.json()["data"][0])[0], expected)
    assert np.abs(alone[0].astype(int) - alone[1]).max() > 20
    assert "kgen_batch_pictures_sum 5.0" in client.get("/metrics").text
    assert "kgen_batch_pictures_count 1.0" in client.get("/metrics").text


def test_negative_prompts_reach_the_model(client, model):
    body = {"prompt": "sun", "negative": "moon", "n": 2, "seed": 2**33 + 5, **FEW}
    answer = client.post(URL, json=body).json()
    expected = model.generate(
        ["sun"] * 2,
        negative=["moon"],
        seed=[2**33 + 5, 2**33 + 6],
        num_steps=3,
        guidance_scale=2.0,
    )
    for item, picture in zip(answer["data"], expected):
        assert_nearly(pixels(item)[0], picture)
    plain = pixels(client.post(URL, json={**body, "negative": ""}).json()["data"][0])[0]
    assert np.abs(plain.astype(int) - expected[0]).max() > 5


@pytest.mark.parametrize("masked", [False, True])
def test_edits_are_those_of_the_model(masked, client, model):
    photo = np.random.default_rng(0).integers(0, 256, SHAPE, "uint8")
    mask = np.zeros((4, 4), "uint8")
    mask[1:3, :2] = 255
    files = {"image": ("a.png", png(photo))}
    options = {"strength": 0.5}
    if masked:
        files["mask"] = ("m.png", png(mask))
        options = {"mask": (mask > 0).astype("float32")[None, ..., None], "strength": 1.0}
    fields = {"prompt": "sea", "seed": "9", "strength": str(options["strength"])}
    answer = client.post(EDITS, data={**fields, **{k: str(v) for k, v in FEW.items()}}, files=files)
    expected = model.generate(
        ["sea"], images=photo[None], seed=[9], num_steps=3, guidance_scale=2.0, **options
    )[0]
    assert_nearly(pixels(answer.json()["data"][0])[0], expected)


def test_looks_at_the_way_are_those_of_a_trajectory(local, model):
    body = {"prompt": "sun", "seed": 11, "stream": True, "partial_images": 2, **FEW}
    found = [pixels(data)[0] for _, data in events(local.post(URL, json=body).text)]
    way = model.generate(["sun"], seed=[11], num_steps=3, guidance_scale=2.0, trajectory=True)[0]
    assert len(found) == len(way) == 3
    for picture, expected in zip(found, way):
        assert_nearly(picture, expected)


def test_a_bound_of_the_exported_graph_is_told_by_the_name_of_the_field(remote):
    answer = remote.post(URL, json={"prompt": "sun", "steps": 11})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == "steps"
    assert "at most 10" in answer.json()["error"]["message"]


def test_a_batch_goes_to_tensorflow_serving_in_one_call(remote, exported):
    del exported[1][:]
    assert remote.post(URL, json={"prompt": "sun", "n": 3, "seed": 1, **FEW}).status_code == 200
    (call,) = exported[1]
    assert call["inputs"]["prompts"] == ["sun"] * 3
    assert call["inputs"]["seeds"] == [[1, 0], [2, 0], [3, 0]]


def test_seed_pairs_are_those_of_the_library():
    from kgen.tensors import as_seed

    for seed in (0, 7, 2**31, 2**32 + 5, 2**63 - 1):
        assert seed_pair(seed) == as_seed(seed).numpy().tolist()


def test_a_server_that_is_no_tensorflow_serving_is_refused(exported):
    with pytest.raises(OSError, match="cannot be reached"):
        TensorFlowServing("http://127.0.0.1:9", "model")
    with pytest.raises(OSError, match="404"):
        TensorFlowServing(exported[0], "another")
    with pytest.raises(ValueError, match="http://"):
        TensorFlowServing("localhost:8501", "model")


def test_models_of_classes_and_without_a_condition_are_served_too():
    from kgen.conditioning import Labels
    from kgen.networks import mlp

    classes = LocalModel(model_of(Labels(2, 8, names=["cat", "dog"])), "classes", max_batch=1)
    with serving(classes, max_batch=1, max_count=1) as client:
        by_name, by_number = (
            client.post(URL, json={"prompt": text, "seed": 1, "steps": 2}).json()["data"][0]
            for text in ("dog", "1")
        )
        assert by_name == by_number
        answer = client.post(URL, json={"prompt": "bird"})
        assert answer.status_code == 422
        assert answer.json()["error"]["param"] == "prompt"
        assert client.get("/v1/models").json()["data"][0]["classes"] == ["cat", "dog"]
    vae = kgen.VAE(mlp((4, 4, 1), (4,)), mlp((2,), (4, 4, 1)))
    with serving(LocalModel(vae, "vae")) as client:
        answer = client.post(URL, json={"prompt": "", "n": 2, "seed": 3})
        for item, seed in zip(answer.json()["data"], (3, 4)):
            np.testing.assert_array_equal(pixels(item)[0], vae.generate(1, seed=seed)[0, ..., 0])
        for field, value in (("steps", 3), ("prompt", "x"), ("negative", "x")):
            refused = client.post(URL, json={field: value})
            assert refused.status_code == 422
            assert refused.json()["error"]["param"] == field


def test_a_filled_up_batch_gives_the_pictures_that_were_asked_for(model):
    from kgen.serving.http.job import Drawing

    backend = LocalModel(model, "tiny", max_batch=8)
    five = Drawing("sun", (1, 2, 3, 4, 5), steps=2, guidance=2.0)
    (pictures,) = backend.draw([five])
    assert pictures.shape == (5, *SHAPE)
    (alone,) = backend.draw([Drawing("sun", (5,), steps=2, guidance=2.0)])
    assert_nearly(pictures[4], alone[0])
    assert batch_sizes(8)[-1] == 8
