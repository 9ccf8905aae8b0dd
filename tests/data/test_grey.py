"""The small grey pictures: ranges, binarisation, order."""

import numpy as np
import pytest

from kgen.data import emoji, grey


def batches(**options):
    return list(grey.load("emoji", **{"batch_size": 64, **options}).as_numpy_iterator())


@pytest.mark.parametrize(
    ("values", "low", "high"), [("binary", 0, 1), ("unit", 0, 1), ("signed", -1, 1)]
)
def test_ranges(values, low, high):
    x = np.concatenate(batches(split="test", values=values))
    assert x.shape == (len(emoji.load_arrays("test")["images"]), 28, 28, 1)
    assert x.dtype == np.float32
    assert (x.min(), x.max()) == (low, high)
    if values == "binary":
        assert set(np.unique(x)) == {0.0, 1.0}


def test_emoji_are_the_ink_of_the_pictures():
    ink = 1 - emoji.load_arrays("test")["images"].mean((1, 2)) @ [0.299, 0.587, 0.114] / 255
    x = np.concatenate(batches(split="test", values="unit"))
    np.testing.assert_allclose(x.mean((1, 2, 3)), ink, atol=0.01)


def test_evaluation_is_binarised_once_and_training_anew():
    test = grey.load("emoji", "test", batch_size=64)
    one, two = (np.concatenate(list(test.as_numpy_iterator())) for _ in range(2))
    np.testing.assert_array_equal(one, two)
    train = grey.load("emoji", "train", batch_size=64, seed=1)
    first, second = (next(iter(train)).numpy() for _ in range(2))
    assert (first != second).any()
    again = next(iter(grey.load("emoji", "train", batch_size=64, seed=1))).numpy()
    np.testing.assert_array_equal(first, again)


def test_binarisation_has_the_grey_level_as_its_mean():
    x = np.stack([np.concatenate(batches(split="test", seed=seed)) for seed in range(30)])
    level = np.concatenate(batches(split="test", values="unit"))
    inner = (level > 0.05) & (level < 0.95)
    p = level[inner]
    # The squared error of a mean of 30 draws, in units of its variance, is 1 on average.
    assert np.mean((x.mean(0)[inner] - p) ** 2 / (p * (1 - p) / 30)) == pytest.approx(1, abs=0.02)
    assert x.mean() == pytest.approx(level.mean(), abs=1e-3)


def test_labels_go_with_their_pictures():
    arrays = grey.load_arrays("emoji", "train")
    batch = next(iter(grey.load("emoji", values="unit", labels=True, batch_size=16)))
    rows = {picture.tobytes(): label for picture, label in zip(arrays["images"], arrays["labels"])}
    for x, label in zip(np.round(batch["images"].numpy() * 255).astype("uint8"), batch["labels"]):
        assert rows[x.tobytes()] == label


def test_an_epoch_is_every_picture_once():
    data = grey.load("emoji", values="unit", batch_size=100)
    x = np.concatenate(list(data.as_numpy_iterator()))
    stored = grey.load_arrays("emoji", "train")["images"]
    assert len(x) == len(stored)
    assert x.mean() == pytest.approx(stored.mean() / 255, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "cifar"}, "`name` must be one of"),
        ({"split": "all"}, "`split` must be one of"),
        ({"values": "grey"}, "`values` must be one of"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"batch_size": 2.0}, "`batch_size` must be at least 1"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        grey.load(**{"name": "emoji", **options})


def test_a_missing_data_set_says_what_to_do(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds, "load", unreachable)
    with pytest.raises(RuntimeError, match="python -m tools.grey_offline mnist"):
        grey.load("mnist", data_dir=str(tmp_path))
