"""Sample sheets in a real `fit`: when they are drawn, with what, and what is on them."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.callbacks import PosteriorCollapse, SampleGrid, callback_state
from kgen.networks import mlp
from kgen.pictures import contact_sheet

PROMPTS = ["a red heart", "a blue apple"]


class Painter(keras.Model):
    """Has one weight to train; its pictures are of one grey, 10 times the number of calls."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.calls = []

    def call(self, x):
        return self.dense(x)

    def generate(self, condition, num_steps, **options):
        options["num_steps"] = num_steps
        self.calls.append((list(condition), options))
        return np.full((len(condition), 16, 16, 3), 10 * len(self.calls), "uint8")


def fit(callback, **options):
    model = Painter()
    model.compile("sgd", "mse", run_eagerly=True)
    x = np.ones((2, 1), "float32")
    model.fit(x, x, verbose=0, callbacks=[callback], **options)
    return model


def sheet_of(path):
    return tf.io.decode_png(path.read_bytes()).numpy()


def test_draws_every_epoch_from_the_same_prompts_and_seed(tmp_path):
    callback = SampleGrid(tmp_path / "new", PROMPTS, num_steps=7, guidance_scale=2.0, seed=5)
    model = fit(callback, epochs=2)
    options = {"num_steps": 7, "guidance_scale": 2.0, "seed": 5}
    assert model.calls == [(PROMPTS, options)] * 2
    files = sorted((tmp_path / "new").iterdir())
    assert [file.name for file in files] == ["epoch_0001.png", "epoch_0002.png"]
    for i, file in enumerate(files):
        images = np.full((2, 16, 16, 3), 10 * (i + 1), "uint8")
        np.testing.assert_array_equal(sheet_of(file), contact_sheet(images, PROMPTS))


@pytest.mark.parametrize(
    ("every", "start", "epochs", "names"),
    [
        (2, 0, 5, ["0002", "0004", "0005"]),
        (2, 0, 4, ["0002", "0004"]),
        (3, 4, 7, ["0006", "0007"]),
        (9, 0, 2, ["0002"]),
        (1, 3, 3, []),
    ],
)
def test_draws_when_asked_and_at_the_end(tmp_path, every, start, epochs, names):
    fit(SampleGrid(tmp_path, PROMPTS, every=every), initial_epoch=start, epochs=epochs)
    assert sorted(file.stem for file in tmp_path.iterdir()) == [f"epoch_{name}" for name in names]


def test_a_second_training_draws_its_end_too(tmp_path):
    callback = SampleGrid(tmp_path, PROMPTS, every=9)
    assert len(fit(callback, epochs=3).calls) == 1
    assert len(fit(callback, epochs=2).calls) == 1


def test_tensorboard_gets_the_sheets(tmp_path):
    pytest.importorskip("tensorboard")
    logs = tmp_path / "logs"
    fit(SampleGrid(tmp_path / "png", PROMPTS, tensorboard=logs), epochs=2)
    images = {}
    for file in logs.iterdir():
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                assert value.tag == "samples"
                images[event.step] = tf.io.decode_png(value.tensor.string_val[2]).numpy()
    assert sorted(images) == [1, 2]
    np.testing.assert_array_equal(images[2], sheet_of(tmp_path / "png" / "epoch_0002.png"))


def test_a_number_of_pictures_of_a_model_that_is_told_nothing(tmp_path):
    """A VAE, whose `generate` knows neither steps nor guidance."""
    model = kgen.VAE(mlp((8, 8, 1), (4,)), mlp((2,), (8, 8, 1)))
    model.compile("adam")
    model.fit(np.zeros((4, 8, 8, 1), "float32"), callbacks=[SampleGrid(tmp_path, 6)], verbose=0)
    assert sheet_of(tmp_path / "epoch_0001.png").size
    with pytest.raises(ValueError, match="`prompts` must be at least 1"):
        SampleGrid(tmp_path, 0)


def test_posterior_collapse_of_an_array():
    """The posterior N(x, 1) of a code of two, of which one number never changes."""
    encoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(4, use_bias=False)])
    encoder.set_weights([np.array([[1.0, 0, 0, 0], [0, 1, 0, 0]])])
    model = kgen.VAE(encoder, mlp((2,), (4,)), "gaussian")
    x = np.random.default_rng(0).uniform(-1, 1, (64, 2)).astype("float32") * [1, 0]
    callback, logs = PosteriorCollapse(x.astype("float32")), {}
    callback.set_model(model)
    callback.on_epoch_end(0, logs)
    assert logs == {"active_units": 1.0}


def test_a_full_disk_ends_no_training(tmp_path, monkeypatch):
    def full(path, sheet):
        raise OSError("No space left on device")

    monkeypatch.setattr("kgen.callbacks.sample_grid.save_png", full)
    with pytest.warns(UserWarning, match="No sheet was saved: No space left"):
        model = fit(SampleGrid(tmp_path, ["a"]), epochs=2)
    assert len(model.calls) == 2


def test_labels_are_captions_too(tmp_path):
    model = fit(SampleGrid(tmp_path, [2, 0], every=9), epochs=1)
    assert model.calls[0][0] == [2, 0]
    assert sheet_of(tmp_path / "epoch_0001.png").size


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`prompts` must be a sequence of strings"):
        SampleGrid(tmp_path, [])
    with pytest.raises(ValueError, match="`prompts` must be a sequence of strings"):
        SampleGrid(tmp_path, ["a", 3])
    with pytest.raises(ValueError, match="`every` must be at least 1"):
        SampleGrid(tmp_path, PROMPTS, every=0)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_a_plateau_is_the_same_with_a_restart_after_every_epoch(mode, tmp_path):
    values = [1.0, 0.99, 0.985, 0.5, 0.49, 0.4]  # of which two are better by more than 0.05
    values = values if mode == "min" else [-value for value in values]

    def rates(restart):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(1.0))
        made, found, stops = None, [], []
        for epoch, value in enumerate(values):
            if made is None or restart:
                options = {"monitor": "loss", "min_delta": 0.05, "mode": mode}
                made = [
                    keras.callbacks.ReduceLROnPlateau(factor=0.5, patience=1, **options),
                    keras.callbacks.EarlyStopping(patience=2, **options),
                ]
                for callback in made:
                    callback.set_model(model)
                    callback.on_train_begin()
                if epoch:
                    callback_state.restore(callback_state.read(tmp_path, epoch - 1), made)
            for callback in made:
                callback.on_epoch_end(epoch, {"loss": value})
            callback_state.write(tmp_path, epoch, made)
            found.append(float(model.optimizer.learning_rate))
            stops.append(made[1].wait)
        return found, stops

    assert rates(restart=True) == rates(restart=False)
    assert rates(restart=True)[0] == [1.0, 0.5, 0.25, 0.25, 0.125, 0.125]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_best_weights_are_the_same_with_a_restart_after_every_epoch(dtype, tmp_path):
    """Also if some of them have no axes, such as the number of steps."""

    def best(restart):
        model = kgen.VAE(mlp((2,), (4,)), mlp((2,), (4,)), "gaussian", ema_decay=0.9, dtype=dtype)
        callback = None
        for epoch, value in enumerate([2.0, 1.0, 3.0, 4.0]):
            for weight in model.weights:
                weight.assign(np.full(weight.shape, epoch))
            if callback is None or restart:
                options = {"monitor": "loss", "mode": "min", "restore_best_weights": True}
                callback = keras.callbacks.EarlyStopping(patience=2, **options)
                callback.set_model(model)
                callback.on_train_begin()
                if epoch:
                    callback_state.restore(callback_state.read(tmp_path, epoch - 1), [callback])
            callback.on_epoch_end(epoch, {"loss": value})
            callback_state.write(tmp_path, epoch, [callback])
        callback.on_train_end()
        assert callback.best_epoch == 1
        assert any(weight.shape == () for weight in model.weights)
        return [float(np.mean(weight)) for weight in model.weights]

    assert set(best(restart=False)) == {1.0}
    assert set(best(restart=True)) == {1.0}


def test_a_log_that_goes_on_gets_no_second_header(tmp_path):
    logs = [keras.callbacks.CSVLogger(tmp_path / "log.csv", append=True) for _ in range(2)]
    logs[1].append_header = False  # as it is where the file has one
    callback_state.write(tmp_path, 1, logs[:1])
    callback_state.restore(callback_state.read(tmp_path, 1), logs[1:])
    assert logs[0].append_header
    assert not logs[1].append_header
