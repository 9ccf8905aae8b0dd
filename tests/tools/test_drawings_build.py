"""The builder of the drawings, on packages made here and without the network."""

import collections
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest

from kgen.data import drawings, emoji
from kgen.data.emoji.captions import split_of
from tools.drawings import __main__ as command
from tools.drawings import build, concepts, download, entries
from tools.drawings.sources import SOURCES, WORDNET, Package
from tools.drawings.wordnet import WordNet

from .drawings_packages import put_packages

pytest.importorskip("tqdm")


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    put_packages(folder)
    return folder


@pytest.fixture(scope="module")
def wordnet(packages):
    return WordNet(packages / WORDNET.folder / "usr/share/wordnet")


def test_clip_art_is_read_with_its_words(packages, wordnet):
    found = {e.caption: e for e in entries.clipart_entries(packages, wordnet)}
    assert set(found) == {"bird", "old dog", "apple", "balloons"}
    assert found["apple"].tags == ["fruit", "food"]  # the kind of its folder, then its keywords
    assert {e.group for e in found.values()} == {"animals-nature", "food-drink", "objects"}
    assert all(e.box is None and "<svg" in e.svg for e in found.values())


def test_icons_are_read_by_name_and_look(packages, wordnet):
    found = [(e.caption, e.style) for e in entries.icon_entries(packages, wordnet)]
    assert sorted(found) == [
        ("bicycle", "icon park"),
        ("car", "icon park"),
        ("car", "icon park flat"),
        ("glass", "icon park"),
    ]


def test_emoji_are_read_in_all_styles(packages):
    found = [(e.caption, e.style, e.group) for e in entries.emoji_entries(packages)]
    styles = [source.style for source in SOURCES[:7]]
    for style in styles:
        assert ("red apple", style, "food-drink") in found
        assert ("balloon", style, "activities") in found
    assert len(found) == 4 * len(styles)


@pytest.fixture(scope="module")
def built(packages, tmp_path_factory):
    """What the command makes of the packages, and what it says."""
    pytest.importorskip("resvg_py")
    output = tmp_path_factory.mktemp("built") / "drawings"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download, "fetch", lambda folder: None)
        patch.setattr(build.os, "cpu_count", lambda: 1)
        command.main(["--packages", str(packages), "--output", str(output)])
    return output


def test_the_command_builds_what_load_reads(built, wordnet):
    assert split_of("balloon") == "test"  # and so in the emoji data
    train, test = (drawings.load_arrays(split, data_dir=built) for split in ("train", "test"))
    assert set(test["captions"]) >= {"balloon", "balloons"}
    assert not {"balloon", "balloons"} & set(train["captions"])
    assert {"red apple", "apple", "red heart", "dog face"} <= set(train["captions"])
    both = [{concepts.concept_of(c, wordnet) for c in a["captions"]} for a in (train, test)]
    assert not both[0] & both[1]
    # Apples were tagged with the held-out balloon.
    apples = train["tags"][train["captions"] == "red apple"]
    assert set(apples) == {"fruit"}
    batch = next(iter(drawings.load("train", batch_size=4, data_dir=built)))
    assert batch["images"].shape == (4, 128, 128, 3)


def test_colours_and_nouns_are_measured(built):
    train = drawings.load_arrays("train", data_dir=built)
    by_key = {
        (caption, style): (colour, noun, turns.split("|"))
        for caption, style, colour, noun, turns in zip(
            *(train[name] for name in ("captions", "styles", "colours", "nouns", "turns"))
        )
    }
    colour, noun, turns = by_key["dog face", "twemoji"]
    assert (colour, noun) == ("red", "dog face")
    assert {"yellow", "green", "blue", "purple"} <= set(turns) <= set(emoji.COLOURS) - {"red"}
    assert by_key["red apple", "twemoji"] == ("", "red apple", [""])  # its colour is in its caption
    assert by_key["apple", "line art"][:2] == ("", "apple")  # the gray one
    images, captions = train["images"], train["captions"]
    bird = images[captions == "bird"][0]
    np.testing.assert_array_equal(bird[30, 60], (0, 140, 0))
    np.testing.assert_array_equal(bird[0, 0], (255, 255, 255))


def test_the_index_has_sums_and_terms(built):
    index = json.loads((built / "drawings.json").read_text())
    assert [entry["style"] for entry in index["attribution"]] == [s.style for s in SOURCES]
    allowed = {"public domain", "CC0-1.0", "CC-BY-4.0", "MIT", "Apache-2.0"}
    assert {entry["licence"] for entry in index["attribution"]} <= allowed
    for split in ("train", "test"):
        for name, sha256 in index["splits"][split]["sha256"].items():
            assert hashlib.sha256((built / name).read_bytes()).hexdigest() == sha256
    assert sum(index["splits"]["train"]["styles"].values()) == index["splits"]["train"]["examples"]


def test_a_second_build_is_the_same(built, packages, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "fetch", lambda folder: None)
    monkeypatch.setattr(build.os, "cpu_count", lambda: 1)
    command.main(["--packages", str(packages), "--output", str(tmp_path / "again")])
    first, second = ((f / "drawings.json").read_text() for f in (built, tmp_path / "again"))
    assert first == second


def test_an_output_that_exists_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command.main(["--output", str(tmp_path)])
    assert "exists already" in capsys.readouterr().err


def test_held_out_pictures_that_train_under_another_name_are_dropped(wordnet):
    def row(caption, signs):
        signs = np.where(np.random.default_rng(signs).random(256) < 0.5, -1, 1).astype("int8")
        concept = concepts.concept_of(caption, wordnet)
        hashed = (signs, np.zeros(48, "uint8"))
        return {"caption": caption, "concept": concept, "style": "x", "tags": "", "hash": hashed}

    rows = [row("apple", 0), row("balloon", 0), row("balloon", 1)]
    dropped = collections.Counter()
    splits = build.split_rows(rows, wordnet, dropped)
    assert [r["caption"] for r in splits["train"]] == ["apple"]
    assert [r["caption"] for r in splits["test"]] == ["balloon"]
    assert dropped == {"near_training": 1}


def test_what_cannot_be_drawn_is_counted():
    pytest.importorskip("resvg_py")
    empty = entries.Entry("", [0, 0, 9, 9], "ball", [], "noto", "objects")
    assert build.draw_entry(empty) == "empty"
    assert build.draw_entry(empty._replace(svg="<svg>", box=None)) == "not_drawn"
    assert build.draw_entry(empty._replace(svg="<not svg")) == "not_drawn"


def packed(tmp_path, name, text):
    """An archive as npm makes it, and the `Package` it is."""
    archive = tmp_path / f"{name}-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo("package/icons.json")
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text.encode()))
    return archive, Package(f"{name}@1.0.0", hashlib.sha256(archive.read_bytes()).hexdigest())


def test_packages_are_fetched_once_and_checked(tmp_path, monkeypatch):
    store, folder = tmp_path / "store", tmp_path / "packages"
    store.mkdir()
    archive, package = packed(store, "icons", "{}")
    commands = []

    def run(line, scratch):
        commands.append(line)
        (type(folder)(scratch) / "whatever-npm-calls-it.tgz").write_bytes(archive.read_bytes())

    monkeypatch.setattr(download, "_run", run)
    for _ in range(2):
        download.fetch(folder, [package])
    assert commands == [["npm", "pack", "icons@1.0.0", "--silent"]]
    assert (folder / "icons-1.0.0" / "icons.json").read_text() == "{}"
    assert sorted(path.name for path in folder.iterdir()) == ["icons-1.0.0", "icons-1.0.0.tgz"]
    (folder / package.archive).write_bytes(b"changed")
    with pytest.raises(ValueError, match="must have the sha256 .*Delete it to fetch it again"):
        download.fetch(folder, [package])


def test_names_of_archives_are_those_of_their_clients():
    debian = Package("openclipart-svg=1:0.18+dfsg-19", "")
    assert debian.archive == "openclipart-svg_1%3a0.18+dfsg-19_all.deb"
    assert debian.folder == "openclipart-svg"
    npm = Package("@iconify-json/noto@1.2.9", "")
    assert (npm.archive, npm.folder) == (
        "iconify-json-noto-1.2.9.tgz",
        "iconify-json-noto-1.2.9",
    )


def test_a_missing_client_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="`npm` is not installed"):
        download.fetch(tmp_path / "packages", [Package("icons@1.0.0", "")])
