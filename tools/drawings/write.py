"""Writing of the data set: shards of TFRecords, and an index of them in JSON."""

import hashlib
import json
import pathlib
import tempfile

from kgen.data.drawings.files import FEATURES, INDEX, VERSION, encode_row, shard_name

ROWS_PER_SHARD = 4096


def write(splits, folder, attribution):
    """Writes the rows of each split in the order of a hash, and the index.

    Args:
        splits: `{split: list of rows}`, each row a dictionary with the `FEATURES`.
        folder: folder to make; it must not exist.
        attribution: list of dictionaries, one a source, that goes into the index as it is.

    Returns:
        The dictionary that is written to the index.
    """
    import tensorflow as tf

    folder = pathlib.Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    index = {"name": "drawings", "version": VERSION, "features": dict(FEATURES), "splits": {}}
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = pathlib.Path(scratch) / "drawings"
        new.mkdir()
        for split, rows in splits.items():
            rows = sorted(rows, key=_order)
            shards = [rows[n : n + ROWS_PER_SHARD] for n in range(0, len(rows), ROWS_PER_SHARD)]
            files = {}
            for number, shard in enumerate(shards):
                name = shard_name(split, number, len(shards))
                with tf.io.TFRecordWriter(str(new / name)) as writer:
                    for row in shard:
                        writer.write(encode_row(row))
                files[name] = hashlib.sha256((new / name).read_bytes()).hexdigest()
            styles = {}
            for row in rows:
                styles[row["style"]] = styles.get(row["style"], 0) + 1
            index["splits"][split] = {
                "examples": len(rows),
                "captions": len({row["caption"] for row in rows}),
                "concepts": len({row["concept"] for row in rows}),
                "styles": dict(sorted(styles.items())),
                "sha256": files,
            }
        index["attribution"] = attribution
        text = json.dumps(index, indent=1, ensure_ascii=False)
        (new / INDEX).write_text(text + "\n", encoding="utf-8")
        new.rename(folder)
    return index


def _order(row):
    return hashlib.sha256(row["style"].encode() + row["caption"].encode() + row["image"]).digest()
