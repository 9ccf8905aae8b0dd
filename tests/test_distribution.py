"""Devices and workers: strategies by what there is, and trainings that agree with one device's."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen import distribution
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.likelihoods import GaussianLikelihood
from kgen.models.levels import GaussianLevel
from kgen.networks import TimeMLP, mlp
from kgen.penalties import TargetRate

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "distributed.py"
X = np.random.default_rng(0).normal(size=(160, 2)).astype("float32")


def make(**options):
    keras.utils.set_random_seed(0)
    network = TimeMLP(2, width=8, blocks=1)
    process = GaussianDiffusion(CosineLogSNR())
    return kgen.DiffusionModel(network, process, grey_levels=None, seed=3, **options)


def test_strategy_takes_the_devices_there_are():
    """tests/conftest.py makes two logical CPUs; without GPUs both are used."""
    if not tf.config.list_logical_devices("GPU"):
        assert distribution.strategy().num_replicas_in_sync == 2


@pytest.mark.parametrize("width", [8, 12])
def test_a_strategy_asked_for_again_trains_another_model(width):
    """TensorFlow takes the collectives of a second `MirroredStrategy` for those of the first."""
    with distribution.strategy().scope():
        networks = mlp((2,), (2,), hidden=(width,)), mlp((1,), (2,), hidden=(width,))
        model = kgen.VAE(*networks)
        model.compile("sgd")
    model.fit(np.full([8, 2], 0.5, np.float32), batch_size=4, verbose=0)


def cluster(kind, index, **members):
    return json.dumps({"cluster": members, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("config", "chief"),
    [
        ("{}", True),
        (cluster("worker", 0, worker=["a:1"]), True),
        (cluster("worker", 0, worker=["a:1", "b:1"]), True),
        (cluster("worker", 1, worker=["a:1", "b:1"]), False),
        (cluster("chief", 0, chief=["a:1"], worker=["b:1"]), True),
        (cluster("worker", 0, chief=["a:1"], worker=["b:1"]), False),
    ],
)
def test_one_process_is_the_chief(config, chief, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    assert distribution.is_chief() is chief


def test_a_broken_configuration_is_named(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{worker: 0}")
    with pytest.raises(ValueError, match="TF_CONFIG must be JSON"):
        distribution.is_chief()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[]", "the form"),
        ("null", "the form"),
        ("3", "the form"),
        (cluster("worker", "0", worker=["a:1", "b:1"]), 'an "index".*without quotation marks'),
        (cluster("worker", None, worker=["a:1", "b:1"]), 'an "index".*an integer'),
        (cluster("worker", True, worker=["a:1", "b:1"]), 'an "index".*an integer'),
        (cluster("worker", 2, worker=["a:1", "b:1"]), 'an "index".*in 0..1'),
        (cluster("worker", -1, worker=["a:1", "b:1"]), 'an "index".*in 0..1'),
        (cluster("boss", 0, worker=["a:1", "b:1"]), 'a "type"'),
        (cluster(None, 0, worker=["a:1", "b:1"]), 'a "type"'),
        (cluster("worker", 0, worker="a:1"), 'a "cluster" of lists'),
        (cluster("worker", 0, worker=["a:1", 2]), 'a "cluster" of lists'),
        ('{"cluster": null}', 'a "cluster" of lists'),
        ('{"cluster": {"worker": ["a:1", "b:1"]}}', 'a "type"'),
        ('{"cluster": {"worker": ["a:1", "b:1"]}, "task": []}', 'a "type"'),
    ],
)
@pytest.mark.parametrize("function", [distribution.is_chief, distribution.strategy])
def test_a_wrong_configuration_is_named(config, message, function, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(ValueError, match=f"TF_CONFIG must have {message}"):
        function()


def test_it_is_said_who_is_waited_for_and_who_did_not_come(monkeypatch, capsys):
    """One of the two others listens, one does not."""
    with socket.socket() as here, socket.socket() as gone:
        here.bind(("127.0.0.1", 0))
        here.listen()
        gone.bind(("127.0.0.1", 0))
        ports = [s.getsockname()[1] for s in (here, gone)]
        workers = ["127.0.0.1:1", *(f"127.0.0.1:{port}" for port in ports)]
        monkeypatch.setenv("TF_CONFIG", cluster("worker", 0, worker=workers))

        def too_late():
            raise RuntimeError("Deadline exceeded")

        monkeypatch.setattr(tf.distribute, "MultiWorkerMirroredStrategy", too_late)
        with pytest.raises(RuntimeError) as caught:
            distribution.strategy()
    assert caught.value.__notes__ == ["kgen: no answer from worker 2 of TF_CONFIG."]
    said = capsys.readouterr().err
    assert f"worker 1 at {workers[1]}, worker 2 at {workers[2]}" in said
    assert said.startswith("This is worker 0.")


@pytest.mark.parametrize("kind", ["free bits", "target rate"])
def test_means_of_a_batch_are_those_of_the_global_one(kind, strategies, monkeypatch):
    """Two devices end where one does, the floor being between the mean KL of a half and of all."""
    monkeypatch.setattr("kgen.gaussian.normal", lambda shape, seed, dtype: tf.zeros(shape, dtype))
    x = np.concatenate([np.full([8, 2], 0.05), np.full([8, 2], 0.9)]).astype("float32")
    weights = []
    for strategy in strategies:
        keras.utils.set_random_seed(1)
        with strategy.scope():
            if kind == "free bits":
                level = GaussianLevel(None, mlp((2,), (4,), hidden=(4,)), state_shape=(1,))
                networks = mlp((2,), (2,), hidden=(4,)), [level], mlp((2,), (2,), hidden=(4,))
                model = kgen.HVAE(*networks, GaussianLikelihood(1.0), seed=1)
            else:
                code = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "sigmoid")])
                networks = code, mlp((3,), (2,), hidden=(4,))
                model = kgen.Autoencoder(*networks, penalties=[TargetRate(0.4, 2.0)], seed=1)
            model.compile(keras.optimizers.SGD(0.05))
        if kind == "free bits":
            kl = model.bound_terms(x)["kl_0"].numpy()
            assert kl[:8].mean() < 0.9 * kl.mean()
            model.free_bits = float((kl[:8].mean() + kl.mean()) / 2)
        start = [w.numpy() for w in model.trainable_variables]
        model.fit(x, batch_size=16, epochs=3, shuffle=False, verbose=0)
        moved = [np.abs(v - w).max() for v, w in zip(start, model.trainable_variables)]
        assert max(moved) > 1e-3
        weights.append(np.concatenate([w.numpy().ravel() for w in model.trainable_variables]))
    np.testing.assert_allclose(*weights, atol=1e-6)


def test_replicas_draw_different_noise(strategies):
    with strategies[1].scope():
        model = make()
    seeds = strategies[1].run(lambda: model.seeds.next())
    one, other = strategies[1].experimental_local_results(seeds)
    assert np.any(one.numpy() != other.numpy())


def by_halves(model, parts):
    """Fixes the noise: that of 16 examples, and the same again for the next 16."""
    plain = model.loss_terms

    def loss_terms(batch, training=False, seed=None):
        terms = [
            plain(batch[16 * i : 16 * (i + 1)], training, tf.constant([5, 6])) for i in range(parts)
        ]
        return {name: tf.concat([term[name] for term in terms], 0) for name in terms[0]}

    model.loss_terms = loss_terms


def spoilt():
    """Five batches, of which the third has a NaN in its second half: for one of two devices."""
    x = X.copy()
    x[2 * 32 + 20] = np.nan
    return tf.data.Dataset.from_tensor_slices(x).batch(32, drop_remainder=True)


@pytest.mark.parametrize(
    ("optimizer", "options", "data"),
    [
        ({}, {}, X),
        ({"gradient_accumulation_steps": 2}, {"steps_per_execution": 4}, X),
        ({"global_clipnorm": 0.1, "momentum": 0.9, "weight_decay": 0.1}, {}, X),
        ({}, {"skip_above": np.inf}, spoilt()),
        (
            {"gradient_accumulation_steps": 2},
            {"skip_above": np.inf, "steps_per_execution": 2},
            spoilt(),
        ),
    ],
    ids=["plain", "accumulated", "clipped", "skipped", "all"],
)
def test_two_devices_equal_one_on_the_same_global_batch(optimizer, options, data, strategies):
    """With the noise of each half fixed, plain gradient descent ends in the same weights."""
    weights = []
    for devices, strategy in enumerate(strategies, 1):
        with strategy.scope():
            model = make(ema_decay=0.9)
            model.compile(keras.optimizers.SGD(0.01, **optimizer), **options)
        by_halves(model, 2 // devices)
        start = [w.numpy() for w in model.trainable_variables]
        logs = model.fit(data, batch_size=32, epochs=2, shuffle=False, verbose=0).history
        assert max(np.abs(v - w).max() for v, w in zip(start, model.trainable_variables)) > 1e-2
        if "skip_above" in options:
            assert model.skipped_steps.numpy() == 2
            logs = {}  # the loss is what it is: NaN
        values = [w.numpy().ravel() for w in [*model.trainable_variables, *model.averages.values]]
        weights.append(np.concatenate([*values, *logs.values()]))
        for variable in model.variables:  # on every device
            parts = strategy.experimental_local_results(variable.value)
            assert all(np.array_equal(part, parts[0]) for part in parts)
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)


def test_every_example_counts_the_same_in_an_uneven_batch(strategies):
    """Batches of 17, 17 and 1: devices get 9 and 8 examples, or 1 and none."""
    results = []
    for strategy in strategies:
        keras.utils.set_random_seed(0)
        with strategy.scope():
            layers = [keras.layers.Input((2,)), keras.layers.Dense(3, "tanh")]
            decoder = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2)])
            model = kgen.Autoencoder(keras.Sequential(layers), decoder)
            model.compile(keras.optimizers.SGD(0.1), steps_per_execution=2)
        logs = model.fit(X[:35], batch_size=17, epochs=2, shuffle=False, verbose=0).history
        measured = model.evaluate(X[:35], batch_size=17, verbose=0)
        weights = [w.numpy().ravel() for w in model.trainable_variables]
        results.append(np.concatenate([*weights, *logs.values(), np.ravel(measured)]))
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    assert np.isfinite(results[1]).all()


def test_a_step_for_one_device_alone_is_refused(strategies):
    with strategies[1].scope():
        model = make()
        with pytest.raises(ValueError, match="`jit_compile` must be False"):
            model.compile("adam", jit_compile=True)


def test_every_method_runs_on_two_devices(strategies):
    with strategies[1].scope():
        model = make(ema_decay=0.9, dtype="mixed_bfloat16")
        model.compile(keras.optimizers.Adam(0.01))
    model.fit(X, batch_size=16, epochs=2, verbose=0)
    logs = model.evaluate(X, batch_size=16, verbose=0, return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert np.isfinite(model.generate(num_samples=3, num_steps=3, seed=0)).all()


def start_workers(output, *options):
    command = [sys.executable, str(EXAMPLE), "--workers", "2", "--deterministic", *options]
    command += ["--output", str(output), "--num-points", "2000", "--batch-size", "200"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes)


def weights_of(running, status=0):
    """What the workers say of their weights at the end."""
    output, _ = running.communicate(timeout=500)
    assert running.returncode == status, output[-3000:]
    return re.findall(r"weights of worker \d: (\S+)", output)


@pytest.mark.slow
def test_two_workers_end_with_the_same_weights_after_kills_and_sigterm(tmp_path):
    """Left alone; with one killed (-9) again and again; and ended by a SIGTERM to one."""
    options = ["--epochs", "6", "--save-steps", "2"]
    with start_workers(tmp_path / "whole", *options) as running:
        whole = weights_of(running)
    assert len(whole) == 2
    assert whole[0] == whole[1]
    log = (tmp_path / "whole" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in log] == ["epoch", *"012345"]  # of the chief alone

    rng, kills = np.random.default_rng(0), 3
    folder = tmp_path / "killed"
    with start_workers(folder, *options, "--restarts", str(kills)) as running:
        for _ in range(kills):
            victim = processes(running)[int(rng.integers(2))]
            wait_for_saves(folder, 4)
            time.sleep(rng.uniform(0, 0.2))
            os.kill(victim, signal.SIGKILL)
        assert weights_of(running) == whole

    folder = tmp_path / "ended"
    with start_workers(folder, *options) as running:
        victim = processes(running)[1]
        wait_for_saves(folder, 2)
        os.kill(victim, signal.SIGTERM)
        assert weights_of(running, status=143) == []
    with start_workers(folder, *options) as running:
        assert weights_of(running) == whole
    assert (folder / "weights.npz").exists()


def processes(running):
    """The process ids of two workers that have just been started."""
    pids = []
    while len(pids) < 2:
        line = running.stdout.readline()
        assert line, "no more output"
        pids += [int(pid) for pid in re.findall(r"worker \d is process (\d+)", line)]
    return pids


def wait_for_saves(folder, num):
    """Waits until there are `num` more saves."""

    def newest():
        names = [path.name for path in folder.glob("resume/ckpt-*.index")]
        return max([int(re.search(r"\d+", name)[0]) for name in names], default=0)

    before, end = newest(), time.monotonic() + 300
    while newest() < before + num:
        assert time.monotonic() < end
        time.sleep(0.01)
