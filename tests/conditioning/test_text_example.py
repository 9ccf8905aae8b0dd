"""The example `examples/text_encoder.py` on a handful of captions."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location(
        "text_encoder_example", ROOT / "examples" / "text_encoder.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_ranks_captions_by_meaning(example, monkeypatch, tmp_path, capsys):
    texts = ["pear", "racing car", "flag of Bulgaria", "dog face"]
    monkeypatch.setattr(example, "captions", lambda: texts)
    for prompt, first in (("a ripe fruit", "pear"), ("a fast vehicle", "racing car")):
        found = example.main([prompt, "--count", "2", "--output", str(tmp_path / "cosines.png")])
        assert found[0][0] == first
        assert len(found) == 2
        assert found[0][1] > found[1][1]
    assert (tmp_path / "cosines.png").read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out
    assert "[CLS] a ripe fruit [SEP]" in printed
    assert "the empty prompt is read as [CLS] [SEP]" in printed


def test_help(example, capsys):
    with pytest.raises(SystemExit) as caught:
        example.main(["--help"])
    assert caught.value.code == 0
    assert "--output" in capsys.readouterr().out


def test_captions_are_those_of_both_splits(example):
    texts = example.captions()
    assert texts == sorted(set(texts))
    assert len(texts) > 1000
