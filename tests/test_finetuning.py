"""DreamBooth: pictures of the class are drawn once, and weigh what they are told to."""

import numpy as np
import pytest

from kgen.finetuning import class_pictures, subject_batches


def test_pictures_of_a_class_are_drawn_once(make_diffusion, tmp_path, monkeypatch):
    model = make_diffusion()
    drawn = class_pictures(model, "a cat", 2, tmp_path, num_steps=1)
    np.testing.assert_array_equal(
        drawn, model.generate(["a cat"], num_samples=2, seed=0, num_steps=1)
    )

    def refuse(*args, **kwargs):
        raise AssertionError("drawn again")

    monkeypatch.setattr(model, "generate", refuse)
    np.testing.assert_array_equal(class_pictures(model, "a cat", 2, tmp_path, num_steps=1), drawn)
    for change in ({"num_steps": 2}, {"num_steps": 1, "seed": 1}):
        with pytest.raises(ValueError, match="holds others; pass another folder"):
            class_pictures(model, "a cat", 2, tmp_path, **change)
    model.network.weights[0].assign_add(np.ones(model.network.weights[0].shape))
    model.averages.reset()
    with pytest.raises(ValueError, match="must hold pictures of 'a cat' by this model"):
        class_pictures(model, "a cat", 2, tmp_path, num_steps=1)


def test_each_picture_of_the_class_comes_once_beside_one_of_the_subject():
    subject = np.stack([np.full((4, 4, 3), value, "uint8") for value in (0, 255)])
    others = np.stack([np.full((4, 4, 3), value, "float32") for value in (0.1, 0.2, 0.3)])
    data = subject_batches(subject, "sks cat", others, "cat", prior_weight=0.5, batch_size=4)
    (first, last) = list(data.as_numpy_iterator())
    assert [len(b["images"]) for b in (first, last)] == [4, 2]
    values = np.concatenate([first["images"], last["images"]])[:, 0, 0, 0]
    np.testing.assert_allclose(values, [-1, 0.1, 1, 0.2, -1, 0.3], rtol=1e-6)
    assert first["prompts"].tolist() == [b"sks cat", b"cat", b"sks cat", b"cat"]
    np.testing.assert_array_equal(first["sample_weight"], [1, 0.5, 1, 0.5])


def test_precomputed_batches_keep_the_weights(make_diffusion, pictures, tmp_path):
    """Each picture its own, found by what the encoder makes of it."""
    model, images = make_diffusion(cond_drop_rate=0.0), pictures["images"]
    weights = np.array([1, 0, 2, 0, 3, 0], "float32")
    batch = {"images": images[:6], "prompts": np.array(["a"] * 6), "sample_weight": weights}
    data = subject_batches(images[:6], "a", batch_size=6).map(lambda b: {**b, **batch})
    stored = model.precompute(data, tmp_path, 6)
    moments = model.autoencoder.encoder(images[:6]).numpy()
    found = next(stored.as_numpy_iterator())
    for row, weight in zip(found["moments"], found["sample_weight"]):
        which = np.abs(moments - row).reshape(6, -1).max(axis=1).argmin()
        assert weight == weights[which]


def test_wrong_arguments():
    images = np.zeros((2, 4, 4, 3), "uint8")
    with pytest.raises(ValueError, match="`prompts` must be one string, or 2"):
        subject_batches(images, ["a"])
    with pytest.raises(ValueError, match="must be given together"):
        subject_batches(images, "a", images)
    with pytest.raises(ValueError, match="`prior_weight`"):
        subject_batches(images, "a", images, "b", prior_weight=-1)
    with pytest.raises(ValueError, match="`number`"):
        class_pictures(None, "a", 0, "folder")
