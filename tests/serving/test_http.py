"""The server's API with a backend that has no model: answers, bounds, batches, streams."""

import base64
import concurrent.futures
import contextlib
import io
import time

import numpy as np
import pytest
from http_parts import Colours, events, pixels, png
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra `serve`")
TestClient = pytest.importorskip("fastapi.testclient", reason="needs httpx").TestClient

from kgen.serving.http.app import application  # noqa: E402
from kgen.serving.http.limits import ServerLimits  # noqa: E402

URL = "/v1/images/generations"
EDITS = "/v1/images/edits"


@pytest.fixture
def colours():
    return Colours()


@contextlib.contextmanager
def serving(backend, *, token=None, hosts=None, **limits):
    app = application(backend, ServerLimits(**limits), token=token, hosts=hosts)
    with TestClient(app) as client:
        client.batcher = app.batcher
        until = time.monotonic() + 10
        while not app.batcher.ready and time.monotonic() < until:
            time.sleep(0.001)
        yield client
        backend.go.set()


@pytest.fixture
def client(colours):
    with serving(colours) as made:
        yield made


@contextlib.contextmanager
def busy(colours, **limits):
    """A server that draws a first picture until `colours.go` is set, and threads to ask it."""
    colours.go.clear()
    with serving(colours, **limits) as client, concurrent.futures.ThreadPoolExecutor(8) as pool:

        def ask(**body):
            return pool.submit(client.post, URL, json=body)

        first = ask(prompt="first", seed=1)
        assert colours.drawing.wait(10)
        yield client, ask
        colours.go.set()
        assert first.result().status_code == 200


def until_waiting(client, number):
    until = time.monotonic() + 10
    while client.batcher.size < number and time.monotonic() < until:
        time.sleep(0.001)
    assert client.batcher.size == number


def test_pictures_come_as_png_with_their_seeds_and_how_they_were_made(client):
    answer = client.post(URL, json={"prompt": "a", "n": 2, "seed": 40, "style": "flat"}).json()
    assert [item["seed"] for item in answer["data"]] == [40, 41]
    for item in answer["data"]:
        picture, said = pixels(item)
        np.testing.assert_array_equal(picture, np.full((8, 8, 3), item["seed"]))
        assert said == {"prompt": "a, flat", "seed": str(item["seed"])}
    assert abs(answer["created"] - time.time()) < 10


def test_without_a_seed_each_request_has_another(client):
    seeds = [client.post(URL, json={"prompt": "a"}).json()["data"][0]["seed"] for _ in range(3)]
    assert len(set(seeds)) == 3


def test_a_picture_as_url_and_as_another_format(client):
    body = {"prompt": "a", "seed": 9, "response_format": "url"}
    picture, _ = pixels(client.post(URL, json=body).json()["data"][0])
    assert picture[0, 0, 0] == 9
    body = {"prompt": "a", "seed": 9, "output_format": "webp"}
    data = client.post(URL, json=body).json()["data"][0]["b64_json"]
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "WEBP"


def test_a_size_is_width_by_height(client):
    answer = client.post(URL, json={"prompt": "a", "seed": 3, "size": "16x8"}).json()
    assert pixels(answer["data"][0])[0].shape == (8, 16, 3)
    assert answer["size"] == "16x8"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("n", 9, "at most 8"),
        ("n", 0, "greater than or equal to 1"),
        ("steps", 101, "at most 100"),
        ("steps", 2.5, "integer"),
        ("prompt", "a" * 1001, "at most 1000 characters"),
        ("negative", "a" * 1001, "at most 1000 characters"),
        ("size", "64x64", "8x8, 16x8"),
        ("seed", -1, "greater than or equal to 0"),
        ("guidance", 1e9, "less than or equal to 100"),
        ("response_format", "gif", "b64_json"),
        ("stepz", 3, "not permitted"),
    ],
)
def test_a_bound_is_refused_by_the_name_of_its_field(field, value, words, client, colours):
    answer = client.post(URL, json={"prompt": "a", field: value})
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["param"] == field
    assert words in error["message"]
    assert colours.batches == []


def test_another_model_is_not_found(client):
    answer = client.post(URL, json={"prompt": "a", "model": "dall-e-2"})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "model_not_found"
    assert client.get("/v1/models/dall-e-2").status_code == 404
    assert client.get("/v1/models/colours").json()["id"] == "colours"
    assert [m["id"] for m in client.get("/v1/models").json()["data"]] == ["colours"]


def test_requests_that_wait_are_drawn_in_one_batch_each_with_its_own_pictures(colours):
    with busy(colours, max_batch=8) as (client, ask):
        others = [ask(prompt=f"{i}", seed=10 * i, n=2) for i in range(1, 6)]
        other = ask(prompt="more steps", steps=5)
        until_waiting(client, 11)
        colours.go.set()
        assert other.result().status_code == 200
        for i, answer in enumerate(others, 1):
            seeds = [item["seed"] for item in answer.result().json()["data"]]
            greys = [pixels(item)[0][0, 0, 0] for item in answer.result().json()["data"]]
            assert seeds == greys == [10 * i, 10 * i + 1]
    sizes = sorted(len(batch) for batch in colours.batches if "more steps" not in batch)
    assert ["first"] in colours.batches
    assert ["more steps"] in colours.batches
    assert sizes == [1, 1, 4]  # 5 requests of 2 pictures, of which 8 fit into a batch


def test_a_full_queue_says_when_to_come_again(colours):
    with busy(colours, max_queue=2, max_batch=2, max_count=2) as (client, ask):
        second = ask(prompt="b", n=2)
        until_waiting(client, 2)
        answer = client.post(URL, json={"prompt": "c"})
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        assert answer.json()["error"]["code"] == "queue_full"
        assert "kgen_queue_pictures 2.0" in client.get("/metrics").text
        colours.go.set()
        assert second.result().status_code == 200


def test_what_takes_too_long_is_given_up_and_not_drawn_to_its_end(colours):
    colours.go.clear()
    with serving(colours, timeout=0.2) as client:
        answer = client.post(URL, json={"prompt": "a"})
        assert answer.status_code == 504
        colours.go.set()
        assert client.post(URL, json={"prompt": "b"}).status_code == 200
    assert colours.batches == [["a"], ["b"]]
    assert colours.steps < 8


def test_a_drawing_that_fails_fails_alone(colours):
    with busy(colours) as (client, ask):
        answers = [ask(prompt=prompt) for prompt in ("broken", "b")]
        until_waiting(client, 2)
        colours.go.set()
        assert [answer.result().status_code for answer in answers] == [500, 200]
    assert "NaN" not in answers[0].result().text


def test_a_stream_shows_the_way_and_ends_with_the_picture(client):
    body = {"prompt": "a", "seed": 100, "n": 2, "stream": True, "partial_images": 3}
    answer = client.post(URL, json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    names, data = zip(*events(answer.text))
    kind = "image_generation"
    assert names == (f"{kind}.partial_image",) * 6 + (f"{kind}.completed",) * 2
    assert [d["step"] for d in data[:6:2]] == [1, 2, 3]
    assert [pixels(d)[0][0, 0, 0] for d in data] == [25, 25, 50, 50, 75, 75, 100, 101]
    assert [d["index"] for d in data[-2:]] == [0, 1]


def test_a_stream_without_looks_has_the_picture_alone(client):
    answer = client.post(URL, json={"prompt": "a", "stream": True})
    assert [name for name, _ in events(answer.text)] == ["image_generation.completed"]


def photograph(mode="RGB", size=(20, 30)):
    y, x = np.mgrid[: size[0], : size[1]]
    picture = np.stack([8 * x, 12 * y, 0 * x + 90], -1).astype("uint8")
    return picture if mode == "RGB" else np.asarray(Image.fromarray(picture).convert(mode))


def test_an_edited_picture_has_its_size_and_keeps_what_the_mask_keeps(client):
    photo = photograph()
    mask = np.zeros((20, 30), "uint8")
    mask[5:12, 3:20] = 255
    clear = np.dstack([photo, 255 - mask])  # transparent where to paint, as in the images API
    for file in (png(mask), png(clear)):
        answer = client.post(
            EDITS,
            data={"prompt": "a", "seed": "200"},
            files={"image": ("a.png", png(photo), "image/png"), "mask": ("m.png", file)},
        )
        picture, _ = pixels(answer.json()["data"][0])
        np.testing.assert_array_equal(picture[mask == 0], photo[mask == 0])
        np.testing.assert_array_equal(picture[mask > 0], 200)
        assert answer.json()["size"] == "30x20"


def test_an_edit_without_a_mask_redraws_all_of_the_picture(client):
    answer = client.post(
        EDITS,
        data={"prompt": "a", "seed": "50", "strength": "0.5", "stream": "true"},
        files={"image[]": ("a.png", png(photograph("L")))},
    )
    ((name, data),) = events(answer.text)
    assert name == "image_edit.completed"
    picture, _ = pixels(data)
    np.testing.assert_array_equal(picture, np.full((20, 30), 50))


@pytest.mark.parametrize(
    ("field", "fields", "files"),
    [
        ("image", {}, {}),
        ("image", {}, {"image": b"no picture, only a text of some length"}),
        ("image", {}, {"image": png(np.zeros((50, 41, 3), "uint8"))}),
        ("mask", {}, {"image": png(photograph()), "mask": png(np.zeros((4, 4), "uint8"))}),
        ("mask", {}, {"image": png(photograph()), "mask": b"no picture, but a text again"}),
        ("strength", {"strength": "2"}, {"image": png(photograph())}),
        ("size", {"size": "8x8"}, {"image": png(photograph())}),
        ("prompt", {}, {"image": png(photograph()), "prompt": b"a file"}),
    ],
)
def test_an_edit_is_refused_by_the_name_of_its_field(field, fields, files, colours):
    with serving(colours, max_pixels=2000) as client:
        files = {name: ("x.png", data) for name, data in files.items()} or {"x": ("x", b"x")}
        if field == "image" and "x" in files:
            files = {"mask": ("m.png", png(photograph()))}
        fields = {"prompt": "a", **fields}
        if "prompt" in files:
            del fields["prompt"]
        answer = client.post(EDITS, data=fields, files=files)
    assert answer.status_code == 422
    assert answer.json()["error"]["param"] == field
    assert colours.batches == []


def test_a_request_that_is_too_large_is_refused_before_it_is_read(colours):
    with serving(colours, max_bytes=2000) as client:
        body = {"prompt": "a" * 3000}
        assert client.post(URL, json=body).status_code == 413

        def pieces():  # without a length
            yield b'{"prompt": "'
            for _ in range(10):
                yield b"a" * 1000
            yield b'"}'

        json_type = {"content-type": "application/json"}
        assert client.post(URL, content=pieces(), headers=json_type).status_code == 413


def test_a_token_is_needed_for_all_but_probes_and_the_page(colours):
    with serving(colours, token="secret") as client:
        for path in ("/v1/models", "/metrics"):
            answer = client.get(path)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            wrong = client.get(path, headers={"Authorization": "Bearer secre"})
            assert wrong.status_code == 401
            right = client.get(path, headers={"Authorization": "Bearer secret"})
            assert right.status_code == 200
        assert client.post(URL, json={"prompt": "a"}).status_code == 401
        for path in ("/health", "/ready", "/"):
            assert client.get(path).status_code == 200


def test_pages_of_strangers_cannot_draw(colours):
    with serving(colours, hosts={"testserver"}) as client:
        body = {"json": {"prompt": "a"}}
        own = client.post(URL, headers={"Origin": "http://testserver"}, **body)
        assert own.status_code == 200
        other = client.post(URL, headers={"Origin": "http://evil.example"}, **body)
        assert other.status_code == 403
        assert client.post(URL, headers={"Origin": "null"}, **body).status_code == 403
        rebound = client.post(URL, headers={"Host": "evil.example"}, **body)
        assert rebound.status_code == 403
        assert "default-src 'self'" in client.get("/").headers["content-security-policy"]
    assert len(colours.batches) == 1


def test_ready_only_after_the_warm_up_and_health_tells_of_its_failure(colours):
    class Slow(Colours):
        def warm_up(self, cancelled):
            self.go.wait(20)
            if self.batches:
                raise ValueError("no memory")

    slow = Slow()
    slow.go.clear()
    with TestClient(application(slow)) as client:
        assert client.get("/ready").status_code == 503
        assert client.get("/health").status_code == 200
        slow.go.set()
        until = time.monotonic() + 10
        while client.get("/ready").status_code != 200 and time.monotonic() < until:
            time.sleep(0.001)
        assert client.get("/ready").json() == {"status": "ready"}
    failing = Slow()
    failing.batches = ["x"]
    with TestClient(application(failing)) as client:
        until = time.monotonic() + 10
        while client.get("/health").status_code != 500 and time.monotonic() < until:
            time.sleep(0.001)
        assert client.get("/health").status_code == 500
        assert client.get("/ready").status_code == 503


def test_figures_count_requests_batches_and_pictures(client):
    client.post(URL, json={"prompt": "a", "n": 3})
    client.post(URL, json={"prompt": "a", "n": 99})
    text = client.get("/metrics").text
    start = f'kgen_requests_total{{method="POST",path="{URL}",status='
    assert start + '"200"} 1.0' in text
    assert start + '"422"} 1.0' in text
    assert "kgen_pictures_total 3.0" in text
    assert "kgen_batch_pictures_count 1.0" in text
    assert "kgen_ready 1.0" in text


def test_bounds_that_contradict_each_other_are_refused():
    with pytest.raises(ValueError, match="max_count=8, max_batch=4"):
        ServerLimits(max_batch=4)
    with pytest.raises(ValueError, match="timeout"):
        ServerLimits(timeout=0)
