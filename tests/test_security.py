"""Files from strangers: each crafted one is refused, in short time and little memory.

The generators are in `crafted.py` and `crafted_files.py`. A refusal is a `ValueError`, or an
`OSError` for what the file system says, of one sentence that names the file.
"""

import json
import os
import pathlib
import shutil

import pytest

import kgen

SECONDS, MEGABYTES = 2.0, 300.0


@pytest.fixture(scope="module", autouse=True)
def crafted_folder(tmp_path_factory):
    """Where the well-formed files are that the generators begin from; everything is loaded once."""
    folder = tmp_path_factory.mktemp("crafted")
    os.environ["CRAFTED"] = str(folder)
    import crafted
    import keras_hub  # noqa: F401, takes a second
    import PIL.Image

    crafted.small.cache_clear()
    PIL.Image.init()
    source, _, _ = crafted.small()
    assert isinstance(kgen.from_preset(source), kgen.VAE)
    assert isinstance(kgen.load_model(source / "small.keras"), kgen.VAE)
    yield
    del os.environ["CRAFTED"]


def names():
    import crafted
    import crafted_files

    return [*crafted.CASES, *crafted_files.CASES]


def generator(name):
    import crafted
    import crafted_files

    return (crafted.CASES | crafted_files.CASES)[name]


@pytest.mark.parametrize("name", names())
def test_a_crafted_file_is_refused(name, tmp_path):
    from watched import watched

    load = generator(name)(tmp_path)
    with watched(tmp_path) as watch, pytest.raises((ValueError, OSError)) as caught:
        load()
    message = str(caught.value)
    assert not watch.events
    assert str(tmp_path) in message or "hf:" in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1500
    assert watch.seconds < SECONDS
    assert watch.megabytes < MEGABYTES
    assert not pathlib.Path("/tmp/was-run").exists()


def test_what_is_well_formed_loads(tmp_path):
    """The generators change what would be loaded as it is."""
    import crafted
    import crafted_files as files

    def unchanged(place):
        """Nothing is edited."""

    made = {
        "preset": crafted.preset,
        "preset with other arrays": lambda p: crafted.preset(p, arrays=crafted.small()[2]),
        "keras": crafted.keras_file,
        "hdf5": lambda p: crafted.keras_file(p, weights=crafted.hdf5(lambda root: None)),
        "picture": lambda p: files.picture(p, files.saved("PNG")),
        "chunks": lambda p: files.picture(p, files.png()),
        "bmp": lambda p: files.picture(p, files.saved("BMP")),
        "gif": lambda p: files.picture(p, files.saved("GIF")),
        "jpeg": lambda p: files.picture(p, files.saved("JPEG", (64, 64))),
        "tiff": lambda p: files.picture(p, files.saved("TIFF")),
        "webp": lambda p: files.picture(p, files.saved("WEBP")),
        "table": lambda p: files.table(p, "file_name,caption\ncat.png,a\n"),
        "text": lambda p: files.table(p, "a", name="cat.txt", captions="txt"),
        "text encoder": lambda p: files.encoder(p, unchanged),
        "checkpoint": lambda p: files.checkpoint(p, unchanged),
        "records": lambda p: files.records(p, unchanged),
        "safetensors": lambda p: files.tensors(p, files.entry(), b"\0" * 12),
    }
    for name, make in made.items():
        place = tmp_path / name
        place.mkdir()
        make(place)()


def test_there_are_300_of_them():
    assert len(names()) >= 300


def outcome(load, folder, seconds=SECONDS):
    """What becomes of a configuration: a model, or a refusal that is as it should be."""
    from watched import watched

    with watched(folder) as watch:
        try:
            load()
            message = None
        except (ValueError, OSError) as error:
            message = str(error)
    assert message is None or str(folder) in message
    assert not watch.events
    assert watch.seconds < seconds
    assert watch.megabytes < MEGABYTES
    return "loaded" if message is None else "refused"


def mutations(content, folder, seeds, seconds=SECONDS):
    """How many of the mutations of a preset's configuration load, and how many are refused."""
    import crafted

    results, path = [], folder / "config.json"
    for seed in seeds:
        path.write_text(json.dumps(crafted.mutated(content, seed)))
        try:
            results.append(outcome(lambda: kgen.from_preset(folder), folder, seconds))
        except BaseException as error:
            error.add_note(f"mutation {seed}")
            raise
    return results


def test_mutated_configurations_load_or_are_refused(tmp_path):
    import crafted

    crafted.preset(tmp_path)
    results = mutations(crafted.small()[1], tmp_path, range(150))
    assert results.count("refused") > 75
    assert results.count("loaded") > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("vae_mnist", 400),
        ("diffusion_fashion_mnist", 150),
        ("hvae_mnist", 100),
        ("text_to_image", 100),
    ],
)
def test_mutated_configurations_of_what_is_shipped(name, count, tmp_path):
    import crafted
    from watched import watched

    folder = tmp_path / name
    shutil.copytree(crafted.SAVED / name, folder)
    if name == "text_to_image":
        shutil.copytree(crafted.SAVED / "minilm_l6_v2", tmp_path / "minilm_l6_v2")
    kgen.from_preset(folder)
    with watched(tmp_path) as watch:
        kgen.from_preset(folder)
    content = json.loads((folder / "config.json").read_text())
    results = mutations(content, folder, range(count), SECONDS + 2 * watch.seconds)
    print(name, results.count("loaded"), "of", count, "load; one takes", watch.seconds)
    assert results.count("refused") > count // 3
