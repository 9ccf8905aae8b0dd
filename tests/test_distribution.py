"""Devices and workers: strategies by what there is, and trainings that agree with one device's."""

import json
import pathlib
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen import distribution
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP

EXAMPLE = pathlib.Path(__file__).parents[1] / "examples" / "distributed.py"
X = np.random.default_rng(0).normal(size=(64, 2)).astype("float32")


def make(**options):
    keras.utils.set_random_seed(0)
    network = TimeMLP(2, width=8, blocks=1)
    process = GaussianDiffusion(CosineLogSNR())
    return kgen.DiffusionModel(network, process, grey_levels=None, seed=3, **options)


def test_strategy_takes_the_devices_there_are():
    """tests/conftest.py makes two logical CPUs; without GPUs both are used."""
    if not tf.config.list_logical_devices("GPU"):
        assert distribution.strategy().num_replicas_in_sync == 2


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


def test_replicas_draw_different_noise(strategies):
    with strategies[1].scope():
        model = make()
    seeds = strategies[1].run(lambda: model.seeds.next())
    one, other = strategies[1].experimental_local_results(seeds)
    assert np.any(one.numpy() != other.numpy())


@pytest.mark.parametrize("options", [{}, {"ema_decay": 0.9}], ids=["plain", "averaged"])
def test_two_devices_equal_one_on_the_same_global_batch(options, strategies):
    """With the noise of each half fixed, plain gradient descent ends in the same weights."""
    weights = []
    for devices, strategy in enumerate(strategies, 1):
        with strategy.scope():
            model = make(**options)
            model.compile(keras.optimizers.SGD(0.1))
        plain, parts = model.loss_terms, 2 // devices

        def by_halves(batch, training=False, seed=None, plain=plain, parts=parts):
            terms = [
                plain(batch[16 * i : 16 * (i + 1)], training, tf.constant([5, 6]))
                for i in range(parts)
            ]
            return {name: tf.concat([term[name] for term in terms], 0) for name in terms[0]}

        model.loss_terms = by_halves
        logs = model.fit(X, batch_size=32, epochs=2, shuffle=False, verbose=0).history
        values = [w.numpy().ravel() for w in [*model.trainable_variables, *model.ema_weights]]
        weights.append(np.concatenate([*values, logs["loss"]]))
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-5)


@pytest.mark.parametrize(
    ("optimizer", "options", "message"),
    [
        ({}, {"steps_per_execution": 2}, "`steps_per_execution` must be 1"),
        ({}, {"skip_above": 10.0}, "`skip_above` must be None"),
        ({"gradient_accumulation_steps": 2}, {}, "`gradient_accumulation_steps` must be None"),
    ],
)
def test_what_keras_cannot_do_on_several_devices_is_refused(
    optimizer, options, message, strategies
):
    with strategies[1].scope():
        model = make()
        with pytest.raises(ValueError, match=message):
            model.compile(keras.optimizers.Adam(**optimizer), **options)


def test_every_method_runs_on_two_devices(strategies):
    with strategies[1].scope():
        model = make(ema_decay=0.9, dtype="mixed_bfloat16")
        model.compile(keras.optimizers.Adam(0.01))
    model.fit(X, batch_size=16, epochs=2, verbose=0)
    logs = model.evaluate(X, batch_size=16, verbose=0, return_dict=True)
    assert np.isfinite(list(logs.values())).all()
    assert np.isfinite(model.generate(3, num_steps=3, seed=0)).all()


def worker_weights(output, *options):
    command = [sys.executable, str(EXAMPLE), "--workers", "2", "--output", str(output), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return re.findall(r"weights of worker \d: (\S+)", done.stdout)


@pytest.mark.slow
def test_two_workers_end_with_the_same_weights_and_resume(tmp_path):
    """One run of two epochs, and one of an epoch that is started again for the second."""
    few = ["--num-points", "2000", "--batch-size", "200"]
    whole = worker_weights(tmp_path / "whole", "--epochs", "2", *few)
    assert len(whole) == 2
    assert whole[0] == whole[1]
    worker_weights(tmp_path / "again", "--epochs", "1", *few)
    again = worker_weights(tmp_path / "again", "--epochs", "2", *few)
    assert again[0] == again[1]
    assert abs(float(again[0]) / float(whole[0]) - 1) < 1e-6
    assert (tmp_path / "again" / "weights.npz").exists()
