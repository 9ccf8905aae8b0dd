"""`kgen serve` as a process: the official client, curl's request, Ctrl-C and SIGTERM."""

import base64
import concurrent.futures
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="needs the extra `serve`")


def pixels(data):
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert image.format == "PNG"
        return np.asarray(image), dict(image.text)


@contextlib.contextmanager
def process(folder, *options, **environment):
    """The server of a model; yields its process and URL once it is ready."""
    command = [sys.executable, "-m", "kgen", "serve", str(folder), "--port", "0", *options]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            url = None
            for line in server.stderr:
                if " at http://" in line:
                    url = line.split(" at ")[1].strip()
                if line.strip() == "Ready":
                    break
            assert url, "the server has ended"
            reading = threading.Thread(target=server.stderr.read, daemon=True)
            reading.start()
            yield server, url
        finally:
            if server.poll() is None:
                server.kill()
            reading.join()


def post(url, body, timeout=300):
    request = urllib.request.Request(
        f"{url}/v1/images/generations",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return json.load(answer)


def test_the_official_client_unchanged_gets_the_picture_of_generate(class_model):
    openai = pytest.importorskip("openai", reason="needs the package openai")
    import kgen

    with process(class_model, "--max-batch", "2", KGEN_TOKEN="secret") as (_, url):
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="secret")
        name = client.models.list().data[0].id
        extra = {"seed": 7, "steps": 3}
        answer = client.images.generate(model=name, prompt="dog", n=2, extra_body=extra)
        expected = kgen.from_preset(class_model).generate(
            ["dog"] * 2, seed=[7, 8], num_steps=3, guidance_scale=None
        )
        for item, picture in zip(answer.data, expected, strict=True):
            found, said = pixels(item.b64_json)
            assert np.abs(found.astype(int) - picture[..., 0]).max() <= 1
        assert (said["prompt"], said["seed"]) == ("dog", "8")
        stream = client.images.generate(
            model=name, prompt="dog", stream=True, partial_images=1, extra_body=extra
        )
        kinds = [event.type for event in stream]
        assert kinds == ["image_generation.partial_image", "image_generation.completed"]
        photo = io.BytesIO()
        Image.new("RGB", (10, 12), "white").save(photo, "PNG")
        edited = client.images.edit(
            model=name, prompt="cat", image=("a.png", photo.getvalue()), extra_body={"steps": "3"}
        )
        assert pixels(edited.data[0].b64_json)[0].shape == (12, 10, 3)
        with pytest.raises(openai.UnprocessableEntityError, match="steps"):
            client.images.generate(model=name, prompt="dog", extra_body={"steps": 1000})
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="x").models.list()


@pytest.mark.slow
def test_a_signal_lets_requests_end_and_takes_no_others(class_model):
    with process(class_model, "--max-steps", "3000", "--timeout", "300") as (server, url):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(post, url, {"prompt": "cat", "steps": 1500})
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            assert len(answer.result()["data"]) == 1
        assert server.wait(60) == 0
        with pytest.raises(OSError):
            post(url, {"prompt": "cat"})


def test_a_token_file_or_an_address_that_cannot_be_used_is_told_in_one_line(refused, tmp_path):
    empty = tmp_path / "empty"
    empty.write_text("\n")
    assert "--token-file" in refused("serve", "--token-file", empty)
    assert "--token-file" in refused("serve", "--token-file", tmp_path / "none")
    assert "cannot listen" in refused("serve", "--host", "203.0.113.1", code=1)
    assert "no model 'nowhere'" in refused("serve", "nowhere", "--port", "0")
    assert "cannot be reached" in refused(
        *("serve", "x", "--port", "0", "--backend", "http://127.0.0.1:9"), code=1
    )
    assert "in [0, 65535]" in refused("serve", "--port", "70000")


def test_without_its_packages_the_extra_is_named(refused, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )
    assert "kgen-keras[serve]" in refused("serve", code=1)
