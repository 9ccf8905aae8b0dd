"""Presets by name: in the cache, in the package, and in a hub that only a caller asks."""

import json
import pathlib
import shutil
import sys
import types

import numpy as np
import pytest

import kgen
from kgen import preset_names
from kgen.networks import mlp

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("presets") / "tiny"
    kgen.VAE(mlp((4, 4, 1), (4,)), mlp((2,), (4, 4, 1))).save_to_preset(folder)
    return folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("KGEN_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def assert_same(model, folder):
    for new, old in zip(model.trainable_weights, kgen.from_preset(folder).trainable_weights):
        np.testing.assert_array_equal(new, old)


def test_a_name_is_found_in_the_cache_from_any_folder(home, tiny):
    assert "tiny" not in kgen.list_presets()
    shutil.copytree(tiny, home / "tiny")
    assert {"tiny", "text_to_image", "vae_mnist"} <= set(kgen.list_presets())
    assert "minilm_l6_v2" not in kgen.list_presets()  # a text encoder alone
    assert_same(kgen.from_preset("tiny"), tiny)
    assert preset_names.locate("vae_mnist") == ROOT / "saved_models" / "vae_mnist"


def test_a_folder_comes_before_a_name(home, tiny, tmp_path):
    (tmp_path / "vae_mnist").mkdir()
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        kgen.from_preset("vae_mnist")


@pytest.mark.parametrize("name", ["nothing", "../tiny", "a/b", ".", ""])
def test_another_name_is_refused_with_those_that_are_there(name, home):
    with pytest.raises(FileNotFoundError, match="text_to_image"):
        kgen.from_preset(name)


@pytest.fixture
def hub(monkeypatch, tiny):
    """A hub with the model `someone/tiny`, and what it was asked for."""
    asked = []

    def snapshot_download(name, *, revision, allow_patterns, local_dir):
        asked.append((name, revision))
        assert name == "someone/tiny"
        shutil.copytree(tiny, local_dir, dirs_exist_ok=True)
        return str(local_dir)

    module = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return asked


def test_a_preset_of_the_hub_is_fetched_into_the_cache(home, hub, tiny):
    assert_same(kgen.from_preset("hf://someone/tiny@abc123"), tiny)
    assert hub == [("someone/tiny", "abc123")]
    assert (home / "hub" / "someone" / "tiny@abc123" / "config.json").is_file()
    assert_same(kgen.from_preset("hf://someone/tiny"), tiny)
    assert hub[1] == ("someone/tiny", None)


@pytest.mark.parametrize(
    "name", ["hf://tiny", "hf://a/b/c", "hf://../b", "hf://a/b@", "hf://a/b@x/y"]
)
def test_names_of_another_form_ask_no_hub(name, home, hub):
    with pytest.raises(ValueError, match="owner/name"):
        kgen.from_preset(name)
    assert hub == []


def test_a_preset_of_the_hub_must_name_the_sum_of_its_weights(home, hub, tiny):
    config = json.loads((tiny / "config.json").read_text())
    for change, message in (({"sha256": "0" * 64}, "damaged"), ({"sha256": None}, "must name")):
        (tiny / "config.json").write_text(json.dumps({**config, **change}))
        try:
            with pytest.raises(ValueError, match=message):
                kgen.from_preset("hf://someone/tiny")
        finally:
            (tiny / "config.json").write_text(json.dumps(config))


def test_without_its_package_the_hub_is_refused_by_the_name_of_the_extra(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"kgen-keras\[hub\]"):
        kgen.from_preset("hf://someone/tiny")


def test_the_version_is_that_of_the_distribution():
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["name"] == "kgen-keras"
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "kgen.version.__version__"
    assert [int(part) for part in kgen.__version__.split(".")] >= [0, 1, 0]
