"""Files from strangers: each crafted one is refused, in short time and little memory.

The generators are in `crafted.py` and `crafted_files.py`. A refusal is a `ValueError`, or an
`OSError` for what the file system says, of one sentence that names the file.
"""

import os
import pathlib

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


def test_there_are_300_of_them():
    assert len(names()) >= 300


def outcome(content, folder):
    """What becomes of a configuration: a model, or a refusal that is as it should be."""
    import crafted
    from watched import watched

    load = crafted.preset(folder, content)
    with watched(folder) as watch:
        try:
            load()
            message = None
        except (ValueError, OSError) as error:
            message = str(error)
    assert message is None or str(folder) in message
    assert not watch.events
    assert watch.seconds < SECONDS
    assert watch.megabytes < MEGABYTES
    return "loaded" if message is None else "refused"


def mutations(content, folder, seeds):
    import crafted

    results = []
    for seed in seeds:
        place = folder / str(seed)
        place.mkdir()
        try:
            results.append(outcome(crafted.mutated(content, seed), place))
        except BaseException as error:
            error.add_note(f"mutation {seed}")
            raise
    return results


def test_mutated_configurations_load_or_are_refused(tmp_path):
    import crafted

    results = mutations(crafted.small()[1], tmp_path, range(100))
    assert results.count("refused") > 50
    assert results.count("loaded") > 5
