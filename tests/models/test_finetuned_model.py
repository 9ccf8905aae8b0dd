"""Fine-tuning by a few weights: what is trained, averaged, saved, and found again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.callbacks import Resume
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP

X = np.random.default_rng(0).normal(size=(32, 2)).astype("float32")


def make(rank=2, dtype="float32", **options):
    keras.utils.set_random_seed(0)
    network = TimeMLP(2, width=8, blocks=1, dtype=dtype)
    for weight in network.trainable_variables:  # the last layer is zero
        weight.assign(np.random.default_rng(1).normal(size=weight.shape) / 3)
    options = {"grey_levels": None, "ema_decay": 0.5, "seed": 3, **options}
    model = kgen.DiffusionModel(network, GaussianDiffusion(CosineLogSNR()), **options)
    if rank:
        model.enable_lora(rank, alpha=4, targets="dense")
    return model


def train(model, steps=4, callbacks=(), **options):
    model.compile(keras.optimizers.SGD(0.05, global_clipnorm=1.0, **options))
    model.fit(X, batch_size=8, epochs=steps // 4, verbose=0, callbacks=list(callbacks))
    return model


def draw(model):
    return model.generate(num_samples=3, num_steps=3, seed=0)


def factors(model):
    return [np.array(v) for v in model.lora.factors]


def held(model):
    return [np.array(v) for v in model.frozen_weights]


def test_only_the_factors_are_trained_and_averaged():
    plain, model = make(rank=None), make()
    np.testing.assert_array_equal(draw(model), draw(plain))  # no change at first
    before, first = held(model), factors(model)
    assert len(before) == len(plain.trainable_variables)
    train(model)
    for old, new in zip(before, held(model)):
        np.testing.assert_array_equal(old, new)
    assert all(np.abs(old - new).max() > 0 for old, new in zip(first[1::2], factors(model)[1::2]))
    assert [id(v) for v in model.trainable_variables] == [id(v) for v in model.lora.factors]
    assert len(model.averages.values) == len(model.lora.factors)
    assert len(model.optimizer.variables) < len(model.lora.factors) + 4  # SGD has no state
    assert np.abs(draw(model) - draw(plain)).max() > 1e-4


def test_the_gradient_is_that_of_the_kernel_times_the_other_factor():
    """One step of SGD at B = 0: dB = alpha / rank A^T dW, dA = 0, by the chain rule."""
    plain, model = make(rank=None, ema_decay=None), make(ema_decay=None)
    batch, seed = tf.constant(X[:8]), tf.constant([1, 2])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(plain.loss_terms(batch, True, seed)["weighted_denoising"])
    kernels = [v for v in plain.trainable_variables if v.name == "kernel"]
    by_kernel = {v.path: g.numpy() for v, g in zip(kernels, tape.gradient(loss, kernels))}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model.loss_terms(batch, True, seed)["weighted_denoising"])
    gradients = tape.gradient(loss, model.lora.factors)
    for layer, of_a, of_b in zip(model.lora.layers, gradients[::2], gradients[1::2]):
        expected = 4 / 2 * np.array(layer.lora_kernel_a).T @ by_kernel[layer._kernel.path]
        np.testing.assert_allclose(of_b, expected, rtol=1e-3, atol=1e-6)
        np.testing.assert_array_equal(of_a, np.zeros(of_a.shape))


def test_presets_files_and_merging_keep_what_is_drawn(tmp_path):
    model = train(make())
    expected = draw(model)
    model.save_to_preset(tmp_path / "preset", dtype="float32")
    again = kgen.from_preset(tmp_path / "preset")
    np.testing.assert_allclose(draw(again), expected, atol=1e-5)
    assert len(again.trainable_variables) == len(model.lora.factors)
    assert again.lora_layers() == model.lora_layers()
    model.save(tmp_path / "model.keras")
    for load in (kgen.load_model, keras.saving.load_model):
        loaded = load(tmp_path / "model.keras")
        np.testing.assert_allclose(draw(loaded), expected, atol=1e-5)
    for one, other in zip(held(loaded), held(model)):
        np.testing.assert_array_equal(one, other)
    for layout in ("diffusers", "kohya"):
        model.save_lora(tmp_path / f"{layout}.safetensors", layout)
        other = make(rank=None)
        other.load_lora(tmp_path / f"{layout}.safetensors")
        np.testing.assert_allclose(draw(other), expected, atol=1e-5)
    other.unload_lora()
    np.testing.assert_array_equal(draw(other), draw(make(rank=None)))
    again.merge_lora()
    np.testing.assert_allclose(draw(again), expected, atol=1e-5)
    assert again.lora is None
    assert len(again.trainable_variables) == len(other.trainable_variables)
    train(again)  # all weights, from here on
    assert np.abs(draw(again) - expected).max() > 1e-4


def test_several_files_add_up(tmp_path):
    """Two halves of a change are the whole of it, and minus the same is none."""
    model = train(make())
    model.save_lora(tmp_path / "lora.safetensors")
    expected, other = draw(model), make(rank=None)
    plain = draw(other)
    for _ in range(2):
        other.load_lora(tmp_path / "lora.safetensors", scale=0.5)
    np.testing.assert_allclose(draw(other), expected, atol=1e-5)
    other.load_lora(tmp_path / "lora.safetensors", scale=-1.0)
    np.testing.assert_allclose(draw(other), plain, atol=1e-5)
    train(other)


def test_resume_saves_the_factors_alone_and_goes_on(tmp_path):
    expected = train(make(rank=3), 8, [Resume(tmp_path / "whole")])
    tmp_path = tmp_path / "parts"
    first = train(make(rank=3), 4, [Resume(tmp_path)])
    saved = tf.train.list_variables(str(tmp_path / "ckpt-1"))
    shapes = [tuple(shape) for name, shape in saved if name.startswith("variables/")]
    kernels = {(2, 8), (8, 8), (8, 2)}
    assert kernels == {tuple(v.shape) for v in first.frozen_weights if len(v.shape) == 2}
    assert not kernels & set(shapes)
    second = train(make(rank=3), 8, [Resume(tmp_path)])
    for one, other in zip(factors(expected), factors(second)):
        np.testing.assert_allclose(one, other, atol=1e-6)
    changed = make(rank=3)
    changed.frozen_weights[0].assign_add(np.ones(changed.frozen_weights[0].shape))
    with pytest.raises(ValueError, match="frozen weights"):
        train(changed, 8, [Resume(tmp_path)])


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_with_scaled_loss_and_accumulation(dtype):
    model = make(dtype=dtype)
    optimizer = keras.optimizers.Adam(0.01, gradient_accumulation_steps=2)
    if dtype == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    first, before = factors(model), held(model)
    model.compile(optimizer)
    model.fit(X, batch_size=8, epochs=2, verbose=0)
    assert {v.dtype for v in model.lora.factors} == {"float32"}
    assert all(np.isfinite(f).all() for f in factors(model))
    assert max(np.abs(a - b).max() for a, b in zip(first, factors(model))) > 1e-3
    for old, new in zip(before, held(model)):
        np.testing.assert_array_equal(old, new)


def test_two_devices_train_as_one(strategies):
    results = []
    for strategy in strategies:
        with strategy.scope():
            model = make(cond_drop_rate=0.0)
            model.compile(keras.optimizers.SGD(0.05, global_clipnorm=1.0))
        before = factors(model)
        model.fit(X, batch_size=8, epochs=1, verbose=0)
        for factor in model.lora.factors:
            values = strategy.experimental_local_results(factor.value)
            for value in values[1:]:
                np.testing.assert_array_equal(values[0], value)
        results.append(max(np.abs(a - b).max() for a, b in zip(before, factors(model))))
    assert min(results) > 1e-4


def test_wrong_arguments():
    model = make()
    with pytest.raises(ValueError, match="has a LoRA already"):
        model.enable_lora(2)
    with pytest.raises(ValueError, match="Call `compile`"):
        model.fit(X, verbose=0)
    plain = make(rank=None)
    for call in (plain.merge_lora, plain.unload_lora, lambda: plain.save_lora("x.safetensors")):
        with pytest.raises(ValueError, match="has no LoRA"):
            call()
    with pytest.raises(ValueError, match="`rank`"):
        plain.enable_lora(0)
    with pytest.raises(ValueError, match="`targets` must name layers"):
        plain.enable_lora(2, targets=["to_q"])
    with pytest.raises(ValueError, match="without a text encoder"):
        plain.enable_lora(2, targets="dense", text_encoder=True)
    with pytest.raises(TypeError, match="can learn words"):
        plain.learn_word("<mine>")
