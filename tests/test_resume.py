"""A training that is interrupted ends where one that is not would have ended."""

import functools
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP

X = np.random.default_rng(0).normal(size=(96, 2)).astype("float32")


class Interrupt(keras.callbacks.Callback):
    """Ends a training like a crash: in the middle of a step."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.seen = 0

    def on_train_batch_begin(self, batch, logs=None):
        self.seen += 1
        if self.seen > self.at:
            raise KeyboardInterrupt


def make(accumulate=None, **options):
    keras.utils.set_random_seed(0)
    network = TimeMLP(2, width=8, blocks=1)
    model = kgen.DiffusionModel(
        network, GaussianDiffusion(CosineLogSNR()), grey_levels=None, ema_decay=0.9, seed=3
    )
    model.compile(keras.optimizers.Adam(0.01, gradient_accumulation_steps=accumulate), **options)
    return model


def data(kind):
    if kind == "arrays":
        return X, {"batch_size": 16}
    dataset = tf.data.Dataset.from_tensor_slices(X).shuffle(96, seed=5).batch(16)
    if kind == "repeated":
        return dataset.repeat(), {"steps_per_epoch": 4}
    return dataset, {}


def train(directory, kind, interrupt=None, compile_options=None, **options):
    model = make(**(compile_options or {}))
    x, fit_options = data(kind)
    callbacks = [Resume(directory, **options)]
    if interrupt is not None:
        callbacks.append(Interrupt(interrupt))
    try:
        history = model.fit(x, epochs=4, callbacks=callbacks, verbose=0, **fit_options).history
    except KeyboardInterrupt:
        history = None
    return model, history


EAGERLY = {"run_eagerly": True}  # for a few steps, of which a trace takes longer


@pytest.fixture(scope="module")
def whole_training(tmp_path_factory):
    """The training that nothing interrupts, once for each kind of data."""
    return functools.cache(lambda kind: train(tmp_path_factory.mktemp("whole"), kind))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """The saves of a training that ended in its third epoch."""
    directory = tmp_path_factory.mktemp("broken")
    train(directory, "dataset", interrupt=15)
    return directory


@pytest.fixture
def broken(two_epochs, tmp_path):
    """A copy of those saves."""
    return pathlib.Path(shutil.copytree(two_epochs, tmp_path / "broken"))


def assert_equal(model, other):
    for v, w in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(v, w)
    for v, w in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        np.testing.assert_array_equal(v, w)


@pytest.mark.parametrize(
    ("kind", "stop"), [("arrays", 7), ("dataset", 3), ("dataset", 12), ("repeated", 7)]
)
def test_interrupted_training_ends_with_the_same_weights(kind, stop, whole_training, tmp_path):
    whole, history = whole_training(kind)
    broken, _ = train(tmp_path / "broken", kind, interrupt=stop, save_steps=1)
    assert any(np.any(v != w) for v, w in zip(whole.weights, broken.weights))
    resumed, again = train(tmp_path / "broken", kind, save_steps=1)
    assert_equal(whole, resumed)
    # The means of the unfinished epoch too.
    expected = history["loss"][-len(again["loss"]) :]
    np.testing.assert_allclose(again["loss"], expected, rtol=1e-4)


def test_another_order_would_be_seen(whole_training):
    """What the comparison above can see: the same steps with the data of other places."""
    whole, _ = whole_training("dataset")
    model = make()
    model.fit(X, epochs=4, batch_size=16, verbose=0, shuffle=False)
    assert max(np.abs(v - w.numpy()).max() for v, w in zip(whole.weights, model.weights)) > 1e-3


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # Keras, of any such data set
def test_data_of_unknown_length_are_warned_of(tmp_path):
    model, dataset = make(**EAGERLY), data("dataset")[0].filter(lambda x: True)
    with pytest.warns(UserWarning, match="`x` has no known length"):
        model.fit(dataset, verbose=0, callbacks=[Resume(tmp_path)])


def test_an_error_before_the_first_step_is_that_of_keras(tmp_path):
    model = kgen.DiffusionModel(
        TimeMLP(2, width=8, blocks=1), GaussianDiffusion(CosineLogSNR()), grey_levels=None
    )
    with pytest.raises(ValueError, match="compile"):
        model.fit(X, verbose=0, callbacks=[Resume(tmp_path)])


def test_epochs_may_be_counted_from_another_one(tmp_path):
    def run(folder, epochs):
        model, callbacks = make(), [Resume(tmp_path / folder)]
        options = {"epochs": epochs, "initial_epoch": 2, "callbacks": callbacks, "verbose": 0}
        model.fit(data("shuffled")[0], **options)
        return np.concatenate([v.numpy().ravel() for v in model.trainable_variables])

    whole = run("whole", 5)
    run("two", 3)
    np.testing.assert_array_equal(run("two", 5), whole)


def test_parts_of_the_same_shuffled_data_are_warned_of():
    numbers = tf.data.Dataset.from_tensor_slices(X)
    shuffled = numbers.shuffle(96, seed=1)
    fixed = numbers.shuffle(96, seed=1, reshuffle_each_iteration=False)
    model = make(**EAGERLY)
    with pytest.warns(UserWarning, match="a part of the same shuffled data set"):
        model.fit(
            shuffled.skip(32).batch(16), validation_data=shuffled.take(32).batch(16), verbose=0
        )
    model.fit(fixed.skip(32).batch(16), validation_data=fixed.take(32).batch(16), verbose=0)
    parts = numbers.skip(32).shuffle(64).batch(16), numbers.take(32).batch(16)
    model.fit(parts[0], validation_data=parts[1], verbose=0)


def test_a_part_of_the_arrays_is_kept_for_validation(tmp_path):
    """The last quarter, as Keras does without `Resume`."""
    model, seen = make(**EAGERLY), []
    test_step = model.test_step

    def watch(x):
        tf.py_function(lambda x: seen.append(x.numpy()), [x], [])
        return test_step(x)

    model.test_step = watch
    options = {"validation_split": 0.25, "batch_size": 16, "verbose": 0}
    history = model.fit(X, callbacks=[Resume(tmp_path)], **options).history
    assert "val_loss" in history
    np.testing.assert_array_equal(np.concatenate(seen), X[-len(X) // 4 :])
    assert int(model.optimizer.iterations) == -(-(len(X) * 3 // 4) // 16)


def test_an_error_in_fit_gives_back_what_was_taken(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    train(tmp_path, "dataset", interrupt=9, compile_options=EAGERLY, save_steps=1)
    assert signal.getsignal(signal.SIGTERM) is before
    # The error comes while the third step of the second epoch is still being looked for.
    model, callbacks = make(**EAGERLY), [Resume(tmp_path, save_steps=1), Interrupt(1)]
    with pytest.raises(KeyboardInterrupt):
        model.fit(data("dataset")[0], epochs=4, callbacks=callbacks, verbose=0)
    assert signal.getsignal(signal.SIGTERM) is before
    before = int(model.optimizer.iterations)
    model.fit(data("dataset")[0], verbose=0)
    assert int(model.optimizer.iterations) == before + 6


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"steps_per_execution": 2}, marks=pytest.mark.slow),
        {"accumulate": 4, "steps_per_execution": 2},
    ],
)
def test_several_steps_in_one_execution_or_one_update(options, tmp_path):
    options = {"compile_options": options}
    whole, _ = train(tmp_path / "whole", "arrays", **options)
    train(tmp_path / "broken", "arrays", interrupt=5, save_steps=2, **options)
    resumed, _ = train(tmp_path / "broken", "arrays", save_steps=2, **options)
    assert_equal(whole, resumed)


def test_without_saves_within_an_epoch_the_epoch_is_repeated(whole_training, broken):
    whole, _ = whole_training("dataset")
    resumed, history = train(broken, "dataset")
    assert len(history["loss"]) == 2
    assert_equal(whole, resumed)


@pytest.mark.parametrize("damage", ["truncate", "overwrite", "index", "callbacks"])
def test_a_damaged_newest_save_is_passed_over(damage, whole_training, broken):
    whole, _ = whole_training("dataset")
    newest = sorted(broken.glob("ckpt-*.data*"))[-1]
    file = {
        "index": newest.with_suffix(".index"),
        "callbacks": newest.with_suffix(".callbacks.json"),
    }.get(damage, newest)
    content = file.read_bytes()
    if damage == "overwrite":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + b"\xa5" * 99 + content[middle + 99 :])
    else:
        file.write_bytes(content[: len(content) // 3])
    with pytest.warns(UserWarning, match="cannot be read .* The previous save is tried"):
        resumed, _ = train(broken, "dataset")
    assert_equal(whole, resumed)


def test_only_damaged_saves_are_an_error(broken):
    for file in broken.glob("ckpt-*"):
        file.write_bytes(b"no")
    with (
        pytest.warns(UserWarning, match="cannot be read"),
        pytest.raises(ValueError, match="must hold a save that can be read"),
    ):
        train(broken, "dataset")


def test_a_full_disk_does_not_stop_the_training(broken, monkeypatch):
    before = {file.name: file.read_bytes() for file in broken.glob("ckpt-*")}

    def full(*arguments, **options):
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(tf.train.Checkpoint, "write", full)
    with pytest.warns(UserWarning, match="could not be saved .* No space left on device"):
        _, history = train(broken, "dataset")
    assert len(history["loss"]) == 2
    assert {file.name: file.read_bytes() for file in broken.glob("ckpt-*")} == before


SCRIPT = """
import sys
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
sys.path.insert(0, {tests!r})
from test_resume import data, make
from kgen.callbacks import Resume
import keras

class Slow(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print("step", flush=True)
        import time
        time.sleep({pause})

model = make()
x, options = data("dataset")
model.fit(x, epochs=4, verbose=0, callbacks=[Resume({folder!r}, save_steps=1), Slow()], **options)
model.save_weights({folder!r} + "/last.weights.h5")
"""


def process(folder, pause):
    tests = str(pathlib.Path(__file__).parent)
    script = SCRIPT.format(tests=tests, folder=str(folder), pause=pause)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_sigterm_saves_and_ends_the_process(tmp_path):
    with process(tmp_path, 0.3) as running:
        for _ in range(8):
            running.stdout.readline()
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 143
    assert not (tmp_path / "last.weights.h5").exists()
    assert list(tmp_path.glob("ckpt-*.index"))


@pytest.mark.slow
def test_kill_at_random_moments(tmp_path):
    """kill -9 again and again; the weights are those of the training that was left alone."""
    (tmp_path / "whole").mkdir()
    with process(tmp_path / "whole", 0.0) as whole:
        assert whole.wait(120) == 0
    folder, rng = tmp_path / "killed", np.random.default_rng(0)
    folder.mkdir()
    for _ in range(3):
        with process(folder, 0.1) as running:
            for _ in range(rng.integers(1, 6)):
                running.stdout.readline()
            running.kill()
    with process(folder, 0.0) as last:
        assert last.wait(120) == 0
    one, other = make(), make()
    one.load_weights(tmp_path / "whole" / "last.weights.h5")
    other.load_weights(folder / "last.weights.h5")
    for v, w in zip(one.weights, other.weights):
        np.testing.assert_array_equal(v, w)


@pytest.mark.parametrize(
    "options", [{"save_every": 0}, {"keep": 0}, {"save_steps": 0}], ids=lambda v: next(iter(v))
)
def test_numbers_must_be_positive(options, tmp_path):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be at least 1"):
        Resume(tmp_path, **options)
