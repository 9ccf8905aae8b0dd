"""Files from strangers: code in a preset, a `.keras` file or a text encoder never runs."""

import hashlib
import json
import pathlib
import pickle
import shutil
import zipfile

import keras
import numpy as np
import pytest

import kgen
from kgen.files.configs import check_config
from kgen.networks import mlp
from kgen.presets import FORMAT

ROOT = pathlib.Path(__file__).parents[1]


def vae(encoder=None):
    encoder = mlp((4,), (4,), hidden=(3,)) if encoder is None else encoder
    return kgen.VAE(encoder, mlp((2,), (4,), hidden=(3,)))


def with_lambda(sentinel):
    """A VAE whose encoder has Python code in it, which leaves a file behind when it runs."""
    path = str(sentinel)
    inputs = keras.Input((4,))
    h = keras.layers.Lambda(lambda x: __import__("pathlib").Path(path).touch() or x)(inputs)
    model = vae(keras.Model(inputs, keras.layers.Dense(4)(h)))
    sentinel.unlink(missing_ok=True)
    return model


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A preset and a `.keras` file as they should be, which load."""
    folder = tmp_path_factory.mktemp("good")
    vae().save_to_preset(folder)
    vae().save(folder / "good.keras")
    assert isinstance(kgen.from_preset(folder), kgen.VAE)
    assert isinstance(keras.saving.load_model(folder / "good.keras"), kgen.VAE)
    return folder


@pytest.fixture
def sentinel(tmp_path):
    return tmp_path / "code was run"


def stranger(module, class_name, config, registered_name=None):
    return {
        "module": module,
        "class_name": class_name,
        "config": config,
        "registered_name": registered_name,
    }


def attacks(sentinel):
    touch = ["touch", str(sentinel)]
    return {
        "os": stranger("os", "system", {"command": " ".join(touch)}),
        "posix": stranger("posix", "system", {"command": " ".join(touch)}, "posix>system"),
        "subprocess": stranger("subprocess", "Popen", {"args": touch}),
        "pickle": stranger("pickle", "loads", {"data": "..."}),
        "a function": stranger("builtins", "function", "exec", "exec"),
        "a download": stranger("keras.utils", "get_file", {"fname": "a", "origin": "file:///a"}),
        "unsafe mode": stranger("keras.config", "enable_unsafe_deserialization", {}),
        "a module of Keras": stranger("keras.src.saving.saving_lib", "os", {}),
        "torch": stranger("keras.layers", "TorchModuleWrapper", {"module": "gASV"}),
        "a graph": stranger("keras.layers", "TFSMLayer", {"filepath": str(sentinel)}),
        "marshalled code": {"class_name": "__lambda__", "config": {"value": "4wAAAA=="}},
        "no string": stranger("keras.layers", ["Dense"], {}),
    }


ATTACKS = list(attacks("nowhere"))


def replace_encoder(config, name, sentinel):
    config["config"]["encoder"] = attacks(sentinel)[name]
    return config


@pytest.mark.parametrize("name", ATTACKS)
def test_a_preset_with_code_is_refused(good, tmp_path, sentinel, name):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text())
    replace_encoder(content["model"], name, sentinel)
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config\.json (is unsafe to load|cannot be rebuilt)"):
        kgen.from_preset(tmp_path)
    assert not sentinel.exists()


@pytest.mark.parametrize("name", ATTACKS)
def test_a_keras_file_with_code_is_refused(good, tmp_path, sentinel, name):
    bad = tmp_path / "bad.keras"
    with zipfile.ZipFile(good / "good.keras") as source, zipfile.ZipFile(bad, "w") as target:
        for part in source.namelist():
            data = source.read(part)
            if part == "config.json":
                data = json.dumps(replace_encoder(json.loads(data), name, sentinel))
            target.writestr(part, data)
    for load in (keras.saving.load_model, kgen.load_model):
        with pytest.raises((ImportError, TypeError, ValueError)):
            load(bad)
    assert not sentinel.exists()


def test_real_code_runs_only_where_safe_mode_is_given_up(tmp_path, sentinel):
    model = with_lambda(sentinel)
    model.save(tmp_path / "bad.keras")
    model.save_to_preset(tmp_path)
    sentinel.unlink(missing_ok=True)
    with pytest.raises(ValueError, match="lambda"):
        keras.saving.load_model(tmp_path / "bad.keras")
    with pytest.raises(ValueError, match=r"config\.json is unsafe.*class_name='Lambda'"):
        kgen.from_preset(tmp_path)
    assert not sentinel.exists()
    keras.saving.load_model(tmp_path / "bad.keras", safe_mode=False)
    assert sentinel.exists()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "task.json"])
def test_a_text_encoder_with_code_is_refused(tmp_path, sentinel, name):
    shipped = ROOT / "saved_models" / "minilm_l6_v2"
    for part in ("config.json", "tokenizer.json"):
        shutil.copy(shipped / part, tmp_path)
    path = tmp_path / name
    content = json.loads((shipped / "tokenizer.json").read_text())
    layer = keras.layers.Lambda(lambda x: x)
    if name == "config.json":
        content = json.loads((shipped / name).read_text())
    content["config"]["special_tokens"] = [keras.saving.serialize_keras_object(layer)]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"{name} is unsafe to load.*Lambda"):
        kgen.TextEncoder.from_preset(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00"])
def test_a_damaged_text_encoder(tmp_path, text):
    shutil.copy(ROOT / "saved_models" / "minilm_l6_v2" / "config.json", tmp_path)
    (tmp_path / "kgen_text_encoder.json").write_text(text)
    with pytest.raises(ValueError, match=r"kgen_text_encoder\.json is damaged"):
        kgen.TextEncoder.from_preset(tmp_path)


def test_an_empty_folder_is_no_text_encoder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"`preset` must be.* has no config\.json"):
        kgen.TextEncoder.from_preset(tmp_path)


class Touch:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


def pickled_array(path, sentinel):
    np.savez(path, weights=np.array([Touch(sentinel)], dtype=object))


def bare_array(path, sentinel):
    with path.open("wb") as file:
        np.save(file, np.array([Touch(sentinel)], dtype=object))


def bare_pickle(path, sentinel):
    path.write_bytes(pickle.dumps(Touch(sentinel)))


def an_array(path, sentinel):
    with path.open("wb") as file:
        np.save(file, np.zeros(3))


@pytest.mark.parametrize("write", [pickled_array, bare_array, bare_pickle, an_array])
@pytest.mark.parametrize("stamped", [True, False])
def test_pickled_weights_are_refused(good, tmp_path, sentinel, write, stamped):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    write(tmp_path / "weights.npz", sentinel)
    restamp(tmp_path, sha256=stamped)
    with pytest.raises(ValueError, match=r"weights\.npz is damaged or not a weights file"):
        kgen.from_preset(tmp_path)
    assert not sentinel.exists()


def restamp(folder, sha256=True, **entries):
    """Makes a config fit weights that were exchanged, as a stranger would."""
    content = json.loads((folder / "config.json").read_text()) | entries
    content["sha256"] = hashlib.sha256((folder / "weights.npz").read_bytes()).hexdigest()
    if not sha256:
        del content["sha256"]
    (folder / "config.json").write_text(json.dumps(content))


def test_weights_that_are_not_finite_are_refused(tmp_path):
    vae().save_to_preset(tmp_path)
    with np.load(tmp_path / "weights.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    arrays[min(arrays)][0] = np.nan
    np.savez(tmp_path / "weights.npz", **arrays)
    restamp(tmp_path)
    with pytest.raises(ValueError, match=r"weights\.npz is damaged: its arrays must be finite"):
        kgen.from_preset(tmp_path)


def test_weights_too_large_for_half_precision_are_not_saved_as_infinite(tmp_path):
    model = vae()
    model.decoder.trainable_weights[0].assign(np.full((2, 3), 1e5))
    with pytest.raises(ValueError, match="Weights must be finite as `dtype`.*'float16'"):
        model.save_to_preset(tmp_path)
    model.save_to_preset(tmp_path, dtype="float32")
    again = kgen.from_preset(tmp_path)
    np.testing.assert_array_equal(again.decoder.trainable_weights[0], np.full((2, 3), 1e5))


# -- versions ---------------------------------------------------------------------------------


def test_a_preset_says_its_format(tmp_path):
    vae().save_to_preset(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    assert content["format"] == FORMAT
    assert set(content["versions"]) == {"kgen", "keras"}


@pytest.mark.parametrize("number", [FORMAT + 1, 99, 0, -1, "2", None, 1.5, [1]])
def test_another_format_is_refused(good, tmp_path, number):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    restamp(tmp_path, format=number, versions={"kgen": "7.0"})
    with pytest.raises(ValueError, match=r"config\.json must have a format.*by kgen 7\.0"):
        kgen.from_preset(tmp_path)


def test_a_newer_format_is_said_to_be_one_whatever_else_it_holds(good, tmp_path):
    shutil.copytree(good, tmp_path, dirs_exist_ok=True)
    (tmp_path / "config.json").write_text(json.dumps({"format": FORMAT + 1, "network": {}}))
    with pytest.raises(ValueError, match="a newer kgen may read it"):
        kgen.from_preset(tmp_path)


def test_a_preset_without_a_format_has_the_first(tmp_path):
    model = vae()
    model.save_to_preset(tmp_path, dtype="float32")
    content = json.loads((tmp_path / "config.json").read_text())
    del content["format"], content["versions"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    x = np.full((2, 4), 0.3, "float32")
    np.testing.assert_array_equal(kgen.from_preset(tmp_path).encode(x), model.encode(x))


def test_what_is_shipped_is_let_through():
    paths = sorted((ROOT / "saved_models").rglob("config.json"))
    assert len(paths) >= 5
    for path in paths:
        check_config(json.loads(path.read_text()), path)
    assert isinstance(kgen.from_preset(ROOT / "saved_models" / "vae_mnist"), kgen.VAE)


@keras.saving.register_keras_serializable("someone")
class Doubled(keras.layers.Dense):
    """A layer of a user's own."""


def test_registered_classes_of_a_user_are_let_through(tmp_path):
    encoder = keras.Sequential([keras.Input((4,)), Doubled(4)])
    vae(encoder).save_to_preset(tmp_path)
    assert isinstance(kgen.from_preset(tmp_path).encoder.layers[-1], Doubled)
