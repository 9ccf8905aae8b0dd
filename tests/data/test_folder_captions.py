"""Captions of a person's own pictures as people write them: commas, lines, accents, tables."""

import json
import unicodedata

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from kgen.data import folder

SIZE = 8


def draw(path, red=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (red, 0, 0)).save(path)
    return path


def pairs(directory, **options):
    """Captions of one epoch by the level of red, `{0: "..."}`."""
    return next(epochs(folder.load(directory, SIZE, batch_size=3, shuffle=False, **options)))


def epochs(data):
    while True:
        found = {}
        for batch in data:
            reds = np.round(127.5 * (batch["images"].numpy()[:, 0, 0, 0] + 1)).astype(int)
            found |= dict(zip(reds.tolist(), (p.decode() for p in batch["prompts"].numpy())))
        yield found


@pytest.fixture
def pictures(tmp_path):
    for i in range(3):
        draw(tmp_path / f"{i}.png", 50 * i)
    return tmp_path


# -- commas and cells -------------------------------------------------------------------------


@pytest.mark.parametrize("row", ["1.png,a red, round heart", "1.png,red,,round"])
def test_a_comma_without_quotes_is_named_with_its_row_and_the_remedy(pictures, row):
    (pictures / "captions.csv").write_text(f"file_name,caption\n0.png,a\n{row}\n2.png,c\n")
    message = r"captions\.csv, row 3 \('1\.png'\), has . cells for 2 columns: .*double quotes"
    with pytest.raises(ValueError, match=message):
        folder.load(pictures, SIZE, captions="csv")
    with pytest.warns(UserWarning, match=message):
        assert pairs(pictures, captions="csv", on_error="skip") == {0: "a", 100: "c"}


def test_empty_cells_behind_a_row_do_no_harm(pictures):
    text = 'file_name,caption\n0.png,a,,\n1.png,"b, c",\n2.png,d\n'
    (pictures / "captions.csv").write_text(text)
    assert pairs(pictures, captions="csv") == {0: "a", 50: "b, c", 100: "d"}


def test_cells_that_are_parted_by_semicolons(pictures):
    (pictures / "captions.csv").write_text("file_name;caption\n0.png;a\n")
    with pytest.raises(ValueError, match="separated by commas"):
        folder.load(pictures, SIZE, captions="csv")


# -- several captions of a picture ------------------------------------------------------------


def several(directory, captions):
    lines = {name: [f"{name} {word}" for word in ("one", "two", "three")] for name in "012"}
    if captions == "txt":
        for name, texts in lines.items():
            (directory / f"{name}.txt").write_text("\n\n".join(texts) + "\n")
    elif captions == "csv":
        rows = [f"{name}.png,{text}" for name, texts in lines.items() for text in texts]
        (directory / "metadata.csv").write_text("\n".join(["image,caption", *rows]))
    else:
        rows = [{"file_name": f"{name}.png", "text": texts} for name, texts in lines.items()]
        (directory / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return lines


@pytest.mark.parametrize("captions", ["txt", "csv", "jsonl"])
def test_one_of_several_captions_is_drawn_each_epoch(pictures, captions):
    lines = several(pictures, captions)
    options = {"captions": captions, "batch_size": 2}
    seen = [e for e, _ in zip(epochs(folder.load(pictures, SIZE, seed=1, **options)), range(60))]
    for i in range(3):
        drawn = [epoch[50 * i] for epoch in seen]
        # 60 draws of 3: each of them 20 times, with a standard deviation of 3.7
        assert {text for text in drawn} == set(lines[str(i)])
        assert all(8 <= drawn.count(text) <= 32 for text in lines[str(i)])
    again = epochs(folder.load(pictures, SIZE, seed=1, **options))
    assert [next(again) for _ in range(5)] == seen[:5]
    other = epochs(folder.load(pictures, SIZE, seed=2, **options))
    assert [next(other) for _ in range(5)] != seen[:5]


def test_captions_of_an_evaluation_are_the_same_each_time(pictures):
    several(pictures, "txt")
    data = epochs(folder.load(pictures, SIZE, captions="txt", shuffle=False))
    assert next(data) == next(data) == next(data)


def test_several_captions_in_memory(pictures):
    lines = several(pictures, "txt")
    (pictures / "1.txt").write_text("alone")
    prompts = folder.load_arrays(pictures, SIZE, captions="txt")[1]["prompts"]
    found = [[text.decode() for text in row] for row in prompts.to_list()]
    assert found == [lines["0"], ["alone"], lines["2"]]


# -- names ------------------------------------------------------------------------------------

NAME = "Cafe\u0301 cre\u0300me \ud55c"


@pytest.mark.parametrize("disk", ["NFC", "NFD"])
@pytest.mark.parametrize("captions", ["txt", "csv", "jsonl"])
def test_accents_of_a_mac_are_those_of_others(tmp_path, disk, captions):
    other = {"NFC": "NFD", "NFD": "NFC"}[disk]
    name, spelled = (unicodedata.normalize(form, NAME) for form in (disk, other))
    assert name != spelled
    draw(tmp_path / f"{name}.png", 50)
    if captions == "txt":
        (tmp_path / f"{spelled}.txt").write_text("a")
    elif captions == "csv":
        (tmp_path / "captions.csv").write_text(f"file,text\n{spelled}.png,a\n", encoding="utf-8")
    else:
        row = json.dumps({"file_name": f"{spelled}.png", "text": "a"})
        (tmp_path / "metadata.jsonl").write_text(row)
    assert pairs(tmp_path, captions=captions) == {50: "a"}


@pytest.mark.parametrize("cell", [r"sub\a.png", "sub/a.png", "./sub/a.png", r".\sub\a.png"])
def test_paths_in_tables(tmp_path, cell):
    draw(tmp_path / "sub" / "a.png", 50)
    (tmp_path / "captions.csv").write_text(f"file,text\n{cell},b\n")
    assert pairs(tmp_path, captions="csv") == {50: "b"}


def test_a_path_from_the_root_of_the_disk(tmp_path):
    path = draw(tmp_path / "a.png", 50)
    (tmp_path / "captions.csv").write_text(f"file,text\n{path},b\n")
    assert pairs(tmp_path, captions="csv") == {50: "b"}


# -- tables of Hugging Face -------------------------------------------------------------------


@pytest.mark.parametrize("captions", ["csv", "jsonl"])
def test_a_table_in_each_folder(tmp_path, captions):
    for i, name in enumerate(("train", "test")):
        draw(tmp_path / name / "images" / "a.png", 50 * i)
        if captions == "csv":
            text = f"file_name,text\nimages/a.png,{name}\n"
            (tmp_path / name / "metadata.csv").write_text(text)
        else:
            row = {"file_name": "images/a.png", "text": name, "width": 8}
            (tmp_path / name / "metadata.jsonl").write_text(json.dumps(row) + "\n\n")
    assert pairs(tmp_path, captions=captions) == {0: "train", 50: "test"}


def test_the_wrong_kind_of_table_is_named(pictures):
    (pictures / "metadata.jsonl").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"captions\.csv or .* holds metadata\.jsonl"):
        folder.load(pictures, SIZE, captions="csv")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", r"metadata\.jsonl, row 2, is damaged: it must be JSON"),
        (b"[1]", r"row 2, must have a text of"),
        (b'{"file_name": "1.png", "text": 3}', r"row 2, must have a text of"),
        (b'{"file_name": "1.png", "text": ["a", 3]}', r"row 2, must have a text of"),
        (b'{"file_name": "1.png", "text": "\xff"}', r"row 2, is damaged"),
        (b'{"a": ' * 200, r"row 2, must not be nested"),
    ],
)
def test_a_broken_line_of_json(pictures, line, message):
    rows = [json.dumps({"file_name": f"{i}.png", "text": f"t{i}"}).encode() for i in (0, 2)]
    (pictures / "metadata.jsonl").write_bytes(b"\n".join([rows[0], line, rows[1]]))
    with pytest.raises(ValueError, match=message):
        folder.load(pictures, SIZE, captions="jsonl")
    with pytest.warns(UserWarning, match=message):
        found = pairs(pictures, captions="jsonl", on_error="skip")
    assert found == {0: "t0", 100: "t2"}


# -- text that is no text ---------------------------------------------------------------------


def test_a_text_of_another_encoding_is_left_out_where_that_is_asked_for(pictures):
    for i in range(3):
        (pictures / f"{i}.txt").write_bytes([b"a", b"caf\xe9", b"c"][i])
    with pytest.raises(ValueError, match=r"1\.txt must be text in UTF-8"):
        folder.load(pictures, SIZE, captions="txt")
    with pytest.warns(UserWarning, match=r"1\.txt must be text in UTF-8"):
        found = pairs(pictures, captions="txt", on_error="skip")
    assert found == {0: "a", 100: "c"}


def test_a_row_of_another_encoding_is_left_out_where_that_is_asked_for(pictures):
    (pictures / "captions.csv").write_bytes(b"file,text\n0.png,a\n1.png,caf\xe9\n2.png,c\n")
    message = r"captions\.csv must be text in UTF-8, which row 3 is not"
    with pytest.raises(ValueError, match=message):
        folder.load(pictures, SIZE, captions="csv")
    with pytest.warns(UserWarning, match=message):
        assert pairs(pictures, captions="csv", on_error="skip") == {0: "a", 100: "c"}


def test_a_row_of_ragged_captions_is_drawn_from_its_own(tmp_path):
    """Rows of unlike lengths, beside the numbers of the rows."""
    from kgen.data.arrays import batches

    rows = [[f"{i}/{j}" for j in range(1 + i % 4)] for i in range(40)]
    captions = tf.ragged.constant(rows)
    images = np.arange(40, dtype="uint8").reshape(40, 1, 1, 1)
    data = batches(images, {"prompts": captions}, values="unit", batch_size=7, seed=3)
    seen = [set() for _ in rows]
    for _ in range(30):
        for batch in data:
            numbers = np.round(255 * batch["images"].numpy().ravel()).astype(int)
            for i, text in zip(numbers, batch["prompts"].numpy()):
                seen[i].add(text.decode())
    assert all(found <= set(row) for found, row in zip(seen, rows))
    assert sum(map(len, seen)) > 0.95 * sum(map(len, rows))
