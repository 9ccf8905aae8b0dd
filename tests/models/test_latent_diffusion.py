"""Latent diffusion: one compiled sampler, the cache of latents, guidance, prompts, seeds."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels
from kgen.networks.unet import UNet
from kgen.training.latent_cache import LatentCache


@pytest.fixture(scope="module")
def model(make_diffusion, dataset):
    """Trained for a moment; some of the tests train it further."""
    model = make_diffusion()
    model.compile(keras.optimizers.Adam(3e-3))
    model.fit(dataset(), epochs=2, verbose=0)
    return model


PROMPTS = ["red heart", "blue bird", "dog face"]
SCHEDULE = kgen.diffusion.CosineLogSNR()


def test_pictures_are_uint8_and_follow_the_seed(model):
    one = model.generate(PROMPTS, num_steps=4, seed=1)
    assert one.shape == (3, 16, 16, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, model.generate(PROMPTS, num_steps=4, seed=1))
    assert np.any(one != model.generate(PROMPTS, num_steps=4, seed=2))


def test_other_steps_scale_or_seed_do_not_retrace_and_are_right(model, monkeypatch):
    settings = [(4, 3.0, 1), (2, 3.0, 1), (7, 1.0, 2), (1, 0.0, 3)]
    solver, traces, call = kgen.solvers.DPMSolver(3), [], model.network.call
    model.sampler.graphs.clear()  # what other tests have traced

    def counted(z, log_snr, cond=None, training=False):
        traces.append(1)
        return call(z, log_snr, cond, training)

    def generate(num_steps, scale, seed, num=3):
        return model.generate(
            PROMPTS[:num], num_steps=num_steps, guidance_scale=scale, seed=seed, solver=solver
        )

    monkeypatch.setattr(model.network, "call", counted)
    first = [generate(*settings[0])]
    once = len(traces)
    assert once > 0
    first += [generate(*setting) for setting in settings[1:]]
    assert len(generate(*settings[0], num=1)) == 1
    assert len(traces) == once
    tf.config.run_functions_eagerly(True)
    try:
        for setting, images in zip(settings, first, strict=True):
            assert np.abs(generate(*setting).astype(int) - images).max() <= 1
    finally:
        tf.config.run_functions_eagerly(False)


def test_a_picture_depends_on_its_prompt_and_place_alone(model):
    whole = model.generate(PROMPTS, num_steps=3, seed=5).astype(int)
    pieces = model.generate(PROMPTS, num_steps=3, seed=5, batch_size=2).astype(int)
    single = model.generate(PROMPTS[0], num_steps=3, seed=5).astype(int)
    assert np.abs(whole - pieces).max() <= 1
    assert np.abs(whole[:1] - single).max() <= 1


def test_negatives_take_the_place_of_the_empty_one(model):
    plain = model.generate(PROMPTS, num_steps=3, seed=5)
    empty = model.generate(PROMPTS, num_steps=3, seed=5, negative="")
    other = model.generate(PROMPTS, num_steps=3, seed=5, negative="green cat")
    np.testing.assert_array_equal(plain, empty)
    assert np.any(plain != other)
    listed = model.generate(PROMPTS, num_steps=3, seed=5, negative=["green cat"] * 3)
    np.testing.assert_array_equal(other, listed)


def test_strength_needs_noise_of_its_own(model):
    x, noise = np.zeros((1, 16, 16, 3), "float32"), np.zeros((1, 8, 8, 4), "float32")
    with pytest.raises(ValueError, match="`strength` must be None with `noise`"):
        model.generate("a", images=x, mask=x[..., :1], noise=noise, strength=0.3)


def test_a_weak_model_of_nothing_is_classifier_free_guidance(model):
    """Autoguidance by the model itself without a text: the same two estimates."""

    def weak(z, t, cond):
        return model.denoise(z, t, model.conditioner.null(tf.shape(z)[0]))

    options = {"num_steps": 3, "guidance_scale": 4.0, "seed": 5}
    guided = model.generate(PROMPTS, guidance=kgen.diffusion.autoguidance(weak), **options)
    plain = model.generate(PROMPTS, **options)
    assert np.abs(guided.astype(int) - plain).max() <= 1
    assert np.any(plain != model.generate(PROMPTS, **options | {"guidance_scale": 1.0}))


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm", kgen.solvers.DDIM(eta=1.0)])
def test_every_solver_makes_pictures(model, solver):
    images = model.generate(PROMPTS, num_steps=3, solver=solver, seed=0)
    assert images.shape == (3, 16, 16, 3)
    np.testing.assert_array_equal(
        images, model.generate(PROMPTS, num_steps=3, solver=solver, seed=0)
    )


def test_a_reloaded_preset_makes_the_same_pictures(model, tmp_path):
    model.save_to_preset(tmp_path, dtype="float32")
    again = kgen.from_preset(tmp_path)
    expected = model.generate(PROMPTS, num_steps=3, seed=4).astype(int)
    assert np.abs(again.generate(PROMPTS, num_steps=3, seed=4) - expected).max() <= 1


def test_editing(model):
    """Strength, masks, inversion, from uint8 pictures, in an autoencoder's latents."""
    images = model.generate(PROMPTS, num_steps=4, seed=1)
    decoded = model.autoencoder.reconstruct((images / 127.5 - 1).astype("float32"))
    decoded = np.clip((np.asarray(decoded) + 1) * 127.5, 0, 255)
    near, far = (
        np.abs(
            model.generate(PROMPTS, images=images, strength=s, num_steps=4, seed=2) - decoded
        ).mean()
        for s in (0.02, 1.0)
    )
    assert near < far
    mask = np.zeros([1, *images.shape[1:3], 1])
    mask[:, :, : images.shape[2] // 2] = 1
    painted = model.generate(PROMPTS, images=images, mask=mask, num_steps=4, seed=2)
    half = images.shape[2] // 2
    np.testing.assert_array_equal(painted[:, :, half:], images[:, :, half:])
    assert (painted[:, :, :half] != images[:, :, :half]).any()
    errors = []
    for steps in (5, 80):
        noise = model.invert(images, PROMPTS, num_steps=steps)
        assert noise.shape == (len(PROMPTS), *model.autoencoder.latent_shape)
        again = model.generate(
            PROMPTS, num_steps=steps, solver="ddim", guidance_scale=1.0, noise=noise
        )
        errors.append(np.abs(again - decoded).mean())
    assert errors[1] < 0.5 * errors[0]


def test_generation_uses_the_averaged_weights(model):
    before = model.generate(PROMPTS, num_steps=2, seed=4)
    trained = [variable.numpy() for variable in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(tf.zeros_like(variable))
    after = model.generate(PROMPTS, num_steps=2, seed=4)
    for variable, value in zip(model.trainable_variables, trained, strict=True):
        variable.assign(value)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("weighting", ["simple", "snr_plus_one"])
def test_loss_of_a_silent_network_is_known(make_diffusion, dataset, weighting):
    """A new network says 0, so v_hat = 0 and the error of v is E[alpha^2 eps^2 + sigma^2 z^2].

    By the substitution t -> 1 - t, alpha and sigma change places: E sigma^2 = E alpha^2 = 1/2.
    """
    model = make_diffusion(weighting=weighting)
    batch = next(iter(dataset(128)))
    q = model.autoencoder.posterior(batch["images"])
    z = np.mean(q.mean**2 + q.std**2)
    losses = [model.loss_terms(batch, seed=tf.constant([s, 1]))["denoising"] for s in range(8)]
    # For "simple", |eps - eps_hat|^2 = alpha^2 |v - v_hat|^2: E alpha^4 + z E alpha^2 sigma^2.
    expected = {"snr_plus_one": 0.5 * (1 + z) / 2, "simple": 0.5 * (3 + z) / 8}[weighting]
    np.testing.assert_allclose(np.mean(losses), expected, rtol=0.02)


def test_frozen_parts_do_not_train(model, dataset):
    names = {v.path.split("/")[0] for v in model.trainable_variables}
    assert not any("encoder" in name or "decoder" in name for name in names)
    before = [w.numpy() for w in model.autoencoder.encoder.weights]
    model.fit(dataset(), verbose=0)
    for a, b in zip(before, model.autoencoder.encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module", params=["classes", "nothing"])
def other(request, make_autoencoder, pictures):
    """A briefly trained model without a text encoder, and arguments that draw three pictures."""
    labelled, process = request.param == "classes", kgen.diffusion.GaussianDiffusion(SCHEDULE)
    keras.utils.set_random_seed(2)
    options = {"channels": (8,), "blocks": 1, "attention": (False,), "heads": 2}
    network = UNet((8, 8, 4), pooled=4 if labelled else None, **options)
    conditioner = Labels(3, 4) if labelled else None
    model = kgen.LatentDiffusion(make_autoencoder(), network, process, conditioner, seed=0)
    x = pictures["images"]
    data = {"images": x, "labels": np.arange(len(x)) % 3} if labelled else x
    model.compile(keras.optimizers.Adam(3e-2))
    model.fit(data, batch_size=32, epochs=3, verbose=0)
    return model, {"condition": [0, 2, 1]} if labelled else {"num_samples": 3}


class TestWithoutTexts:
    def test_draws(self, other):
        model, three = other
        one = model.generate(**three, num_steps=3, seed=1)
        assert one.shape == (3, 16, 16, 3)
        assert one.dtype == np.uint8
        np.testing.assert_array_equal(one, model.generate(**three, num_steps=3, seed=1))
        assert np.any(one != model.generate(**three, num_steps=3, seed=2))
        if "num_samples" in three:
            return
        assert np.any(one != model.generate([1, 1, 1], num_steps=3, seed=1))
        assert np.any(one != model.generate(**three, num_steps=3, seed=1, negative=1))

    def test_inverts(self, other):
        model, three = other
        images = model.generate(**three, num_steps=3, seed=1)
        noise = model.invert(images, three.get("condition"), num_steps=80)
        options = {"num_steps": 80, "solver": "ddim", "guidance_scale": 1.0, "noise": noise}
        decoded = model.autoencoder.reconstruct((images / 127.5 - 1).astype("float32"))
        decoded = np.clip((np.asarray(decoded) + 1) * 127.5, 0, 255)
        again = model.generate(**three, **options)
        assert np.abs(again - decoded).mean() < 0.1 * np.abs(images - decoded).mean() + 1

    def test_exports(self, other, pictures, tmp_path):
        model, three = other
        kgen.export_saved_model(model, tmp_path / "1", editing=True)
        loaded = tf.saved_model.load(str(tmp_path / "1")).signatures
        expected = model.generate(**three, num_steps=3, seed=7)
        arguments = {"num_steps": tf.constant(3), "seed": tf.constant([7, 0])}
        who = {"num_samples": tf.constant(3)}
        if "condition" in three:
            arguments["guidance_scale"] = tf.constant(3.0)
            who = {"labels": tf.constant(three["condition"])}
        for name in ("generate", "serving_default"):
            images = loaded[name](**who, **arguments)["images"].numpy()
            assert np.abs(images.astype(int) - expected).max() <= 1
        png = loaded["generate_png"](**who, **arguments)["png_bytes"]
        np.testing.assert_array_equal([tf.io.decode_png(file) for file in png], images)
        begin = {"images": pictures["images"][:3], "strength": np.float32(0.8)}
        begin["mask"] = (np.indices((3, 16, 16))[2] > 9)[..., None].astype("float32")
        expected = model.generate(**three, num_steps=3, seed=7, **begin)
        if "num_samples" in three:
            who = {}
        begin = {key: tf.constant(value) for key, value in begin.items()}
        images = loaded["edit"](**who, **begin, **arguments)["images"].numpy()
        assert np.abs(images.astype(int) - expected).max() <= 1

    def test_a_reloaded_preset_makes_the_same_pictures(self, other, tmp_path):
        model, three = other
        model.save_to_preset(tmp_path, dtype="float32")
        again = kgen.from_preset(tmp_path).generate(**three, num_steps=3, seed=4).astype(int)
        assert np.abs(again - model.generate(**three, num_steps=3, seed=4)).max() <= 1

    def test_computes_latents_beforehand(self, other, pictures, tmp_path):
        """With labels, which are trained: the cache holds the labels themselves."""
        model, three = other
        x, labels = pictures["images"], np.arange(len(pictures["images"])) % 3
        data = {"images": x, "labels": labels} if "condition" in three else x
        data = tf.data.Dataset.from_tensor_slices(data).batch(32)
        cached = model.precompute(data, tmp_path, batch_size=32)
        stored = LatentCache(tmp_path)
        moments = model.autoencoder.encoder(x).numpy()
        np.testing.assert_allclose(stored.moments, moments, atol=2e-3)
        batches = list(cached.as_numpy_iterator())
        drawn = np.concatenate([batch["moments"] for batch in batches])
        np.testing.assert_array_equal(*(np.sort(v, axis=0) for v in (drawn, stored.moments)))
        if "condition" in three:
            drawn = drawn.reshape(len(x), -1)
            nearest = [np.abs(moments.reshape(len(x), -1) - row).sum(1).argmin() for row in drawn]
            beside = np.concatenate([batch["labels"] for batch in batches])
            np.testing.assert_array_equal(beside, labels[nearest])
        losses = [model.loss_terms(b, seed=tf.constant([1, 2]))["denoising"] for b in cached]
        assert np.isfinite(losses).all()
        model.fit(cached, verbose=0)


class TestLatentCache:
    def test_training_on_it_equals_training_on_pictures(self, model, dataset, tmp_path):
        cached = model.precompute(dataset(), tmp_path, batch_size=32)
        rows = list(cached)
        assert sum(len(b["moments"]) for b in rows) == 128
        batch = next(iter(dataset(128)))
        moments = model.autoencoder.encoder(batch["images"]).numpy()
        stored = LatentCache(tmp_path)
        np.testing.assert_allclose(stored.moments, moments, atol=2e-3)
        tokens = model.conditioner(batch["prompts"])["tokens"].numpy()
        kept = stored.conditions["condition.tokens"][stored.rows]
        np.testing.assert_allclose(kept, tokens, atol=2e-3)
        model.fit(cached, verbose=0)
        of_latents = model.evaluate(cached, verbose=0)
        assert of_latents == pytest.approx(model.evaluate(dataset(), verbose=0), rel=0.1)

    def test_each_epoch_has_every_row_once_in_another_order(self, model, dataset, tmp_path):
        cached = model.precompute(dataset(), tmp_path, batch_size=32)
        epochs = [np.concatenate([b["moments"] for b in cached]) for _ in range(2)]
        assert np.any(epochs[0] != epochs[1])
        keys = [np.sort(e.reshape(128, -1)[:, 0]) for e in epochs]
        np.testing.assert_array_equal(*keys)

    def test_a_complete_cache_is_used_again(self, model, dataset, tmp_path):
        model.precompute(dataset(), tmp_path)
        stamp = (tmp_path / "moments.npy").stat().st_mtime_ns
        model.precompute(dataset(), tmp_path)
        assert (tmp_path / "moments.npy").stat().st_mtime_ns == stamp

    def test_an_incomplete_cache_is_written_anew(self, model, dataset, tmp_path):
        model.precompute(dataset(), tmp_path)
        (tmp_path / "meta.json").unlink()
        with pytest.raises(FileNotFoundError, match="complete cache"):
            LatentCache(tmp_path)
        model.precompute(dataset(), tmp_path)
        assert len(LatentCache(tmp_path).moments) == 128

    def test_a_cache_of_other_encoders_is_refused(self, make_diffusion, dataset, tmp_path):
        make_diffusion().precompute(dataset(), tmp_path)
        other = make_diffusion()
        other.precompute(dataset(), tmp_path)  # the same weights
        message = "`directory` must hold latents of this autoencoder.* written with another "
        other.conditioner.trainable = True
        with pytest.raises(ValueError, match=rf"{message}conditioner \([^()]*\); pass"):
            other.precompute(dataset(), tmp_path)
        weight = other.autoencoder.encoder.weights[0]
        weight.assign(weight + 1e-3)
        with pytest.raises(ValueError, match=rf"{message}autoencoder .* another conditioner"):
            other.precompute(dataset(), tmp_path)
        other.conditioner.trainable = False
        with pytest.raises(ValueError, match=rf"{message}autoencoder \([^()]*\); pass"):
            other.precompute(dataset(), tmp_path)

    def test_fewer_pictures_than_a_batch_are_one_batch(self, model, dataset, tmp_path):
        cached = model.precompute(dataset().take(1), tmp_path, batch_size=64)
        assert [len(batch["moments"]) for batch in cached] == [32]
        assert np.isfinite(model.fit(cached, verbose=0).history["loss"]).all()

    def test_a_cache_of_other_data_is_refused(self, model, dataset, tmp_path):
        model.precompute(dataset(), tmp_path)
        fewer = dataset().take(3)
        darker = dataset().map(lambda batch: {**batch, "images": 0.5 * batch["images"]})
        renamed = dataset().map(lambda batch: {**batch, "prompts": batch["prompts"] + "s"})
        content = "content: the first batches differ"
        refused = [(fewer, r"number of batches \(4, not 3\)"), (darker, content)]
        refused += [(renamed, content), (dataset(16), r"number of batches \(4, not 8\)")]
        refused += [(dataset().map(lambda batch: batch["images"]), r"element specification \(\{")]
        for data, differs in refused:
            with pytest.raises(ValueError, match=f"latents of these data.*another {differs}"):
                model.precompute(data, tmp_path)
        meta = json.loads((tmp_path / "meta.json").read_text())
        del meta["elements"], meta["batches"]  # as in caches of earlier versions
        (tmp_path / "meta.json").write_text(json.dumps(meta))
        with pytest.raises(ValueError, match=f"another {content}"):
            model.precompute(darker, tmp_path)
        model.precompute(dataset(), tmp_path)

    def test_what_a_trained_conditioner_reads_is_kept(self, make_diffusion, dataset, tmp_path):
        """Its output changes, so the condition is computed from what the cache has of each text."""
        model = make_diffusion()
        model.conditioner.trainable = True
        (batch,) = model.precompute(dataset(128), tmp_path, batch_size=128)
        rows = model.conditioner.prepare(next(iter(dataset(128)))["prompts"])
        assert sorted(batch["prompts"]) == sorted(rows)
        order = np.lexsort(LatentCache(tmp_path).moments.reshape(128, -1).T)
        drawn = np.lexsort(batch["moments"].numpy().reshape(128, -1).T)
        for key, values in rows.items():
            expected = values.numpy()[order]
            np.testing.assert_array_equal(batch["prompts"][key].numpy()[drawn], expected)
        terms = model.loss_terms(batch, seed=tf.constant([1, 2]))
        assert np.isfinite(terms["denoising"]).all()

    def test_it_looks_at_the_data_first(self, model, dataset, tmp_path):
        pictures_alone = dataset().map(lambda batch: batch["images"])
        with pytest.raises(ValueError, match='must have the key "prompts"'):
            model.precompute(pictures_alone, tmp_path)

    def test_it_needs_data(self, model, dataset, tmp_path):
        with pytest.raises(ValueError, match="must hold at least one example"):
            model.precompute(dataset().take(0), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"condition": []}, ValueError, "`condition` does not .* must hold at least one"),
        ({"condition": None}, ValueError, "`condition` must be given"),
        ({"condition": None, "num_samples": 2}, ValueError, "`condition` must be given"),
        ({"condition": 3}, TypeError, "`condition` does not fit .* must be a string"),
        ({"condition": ["a", 3]}, TypeError, "`condition` does not fit .* must be a string"),
        ({"condition": "a", "num_samples": 0}, ValueError, "`num_samples` must be"),
        ({"condition": "a", "num_steps": 0}, ValueError, "`num_steps` must be"),
        ({"condition": "a", "num_steps": 2.5}, ValueError, "`num_steps` must be"),
        ({"condition": "a", "guidance_scale": float("nan")}, ValueError, "`guidance_scale` must"),
        ({"condition": "a", "solver": "euler"}, ValueError, "`solver` must be"),
        ({"condition": ["a"] * 3, "negative": ["b"] * 2}, ValueError, "`negative` must be one"),
        ({"condition": "a", "negative": 7}, TypeError, "`negative` does not fit"),
        ({"condition": "a", "seed": 1.5}, ValueError, "`seed` must be"),
        ({"condition": "a", "seed": [1, 2]}, ValueError, "`seed` must be .* 1 integers"),
    ],
)
def test_wrong_arguments_of_generate(model, arguments, error, message):
    with pytest.raises(error, match=message):
        model.generate(**arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cond_drop_rate": 1.5}, "`cond_drop_rate` must be"),
        ({"prediction": "noise"}, "`prediction` must be one of"),
        ({"weighting": "none"}, "`weighting` must be one of"),
        ({"times": "never"}, "`times` must be one of"),
    ],
)
def test_wrong_options(model, options, message):
    with pytest.raises(ValueError, match=message):
        model.with_settings(**options)


def test_a_learned_schedule_is_refused(model):
    """It would be neither trained nor saved."""
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.LearnedLogSNR())
    with pytest.raises(ValueError, match="A learned schedule needs a DiffusionModel"):
        kgen.LatentDiffusion(model.autoencoder, model.network, process, model.conditioner)
