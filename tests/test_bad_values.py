"""Bad values: one for each argument of a public function, in turn from those of its kind.

All values of a kind are tried at the check that refuses them (`test_checks.py`); here it is that
the argument is checked at all: a ValueError or TypeError that names it and says what came, no crash
within TensorFlow, no hang, and no picture made of NaN.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen import callbacks, corruption, diffusion, likelihoods, penalties, priors, solvers
from kgen.conditioning import Labels
from kgen.conditioning.prompts import as_strings
from kgen.data import emoji, folder, grey
from kgen.diffusion import GaussianDiffusion, prediction, time_grid, times, weighting
from kgen.metrics import active_units, bits_per_dim, frechet_distance
from kgen.networks import DiT, KSparse, TimeMLP, UNet, mlp
from kgen.pictures import contact_sheet
from kgen.sampling import editing
from kgen.tensors import as_seed

NAN, INF = float("nan"), float("inf")
SHAPE = (4, 4, 1)
PROCESS = GaussianDiffusion(diffusion.CosineLogSNR())
GOOD = np.full((3, *SHAPE), 0.5, "float32")


# -- the models, tiny, each made once ---------------------------------------------------------


def vae(likelihood="bernoulli", **options):
    return kgen.VAE(mlp(SHAPE, (4,)), mlp((2,), SHAPE), likelihood, **options)


def hvae(**options):
    level = kgen.GaussianLevel(None, mlp((4,), (4,)))
    return kgen.HVAE(mlp(SHAPE, (4,)), [level], mlp((2,), SHAPE), **options)


def plain(**options):
    return kgen.Autoencoder(mlp(SHAPE, (2,)), mlp((2,), SHAPE), **options)


def vqvae(num_codes=8, **options):
    return kgen.VQVAE(mlp(SHAPE, (3, 2)), mlp((3, 2), SHAPE), num_codes, **options)


def kl(**options):
    return kgen.KLAutoencoder(mlp(SHAPE, (2, 2, 4)), mlp((2, 2, 2), SHAPE), **options)


class Flat(TimeMLP):
    """A dense network of small pictures."""

    def __init__(self, shape=SHAPE, **options):
        super().__init__(int(np.prod(shape)), width=8, blocks=1, **options)
        self.shape = self.data_shape = shape

    def call(self, z, log_snr, cond=None, training=False):
        flat = tf.reshape(z, [-1, int(np.prod(self.shape))])
        return tf.reshape(super().call(flat, log_snr, cond, training), tf.shape(z))


def pixels(**options):
    return kgen.DiffusionModel(Flat(), PROCESS, **options)


def classes(**options):
    return kgen.DiffusionModel(Flat(pooled=4), PROCESS, conditioner=Labels(3, 4), **options)


def score(**options):
    return kgen.ScoreModel(Flat(), PROCESS, **options)


class Lengths(Labels):
    """Prompts as a condition: their length, modulo 3."""

    batch_key = "prompts"

    def prepare(self, values):
        if tf.is_tensor(values) and values.dtype.is_integer:
            return values
        return tf.strings.length(as_strings(values)) % 3


def latent(**options):
    network = Flat((2, 2, 2), pooled=4)
    return kgen.LatentDiffusion(kl(), network, PROCESS, Lengths(3, 4), **options)


def unet(**options):
    return UNet((8, 8, 1), **{"channels": (8,), "attention": (False,), "heads": 2, **options})


def dit(**options):
    return DiT((8, 8, 1), **{"width": 8, "depth": 1, "heads": 2, **options})


@functools.cache
def the(make):
    model = make()
    model.compile("adam")
    return model


# -- the bad values, by kind ------------------------------------------------------------------

NO_NUMBER = ["3", None, [1, 2], {}, 1j, b"1"]
BAD = {
    "count": [0, -1, 2.5, NAN, INF, True, *NO_NUMBER],
    "positive": [0, -1.0, NAN, INF, *NO_NUMBER],
    "at least 0": [-1.0, NAN, INF, -INF, *NO_NUMBER],
    "share": [-0.1, 1.1, NAN, INF, *NO_NUMBER],
    "finite": [NAN, INF, -INF, *NO_NUMBER],
    "name": ["", "unknown", 3, NAN, ["v"], {}, b"v", None],
    "seed": ["a", 1.5, NAN, [1], [1, 2, 3], [0.5, 1.0], {}, [None, 1], [["a"]]],
    "prompts": [None, 3, [], [3], ["a", None], [["a"]], {"a": 1}, np.array([1.0]), {"a"}, True],
    "labels": [[], [3], [-1], [0.5], ["a"], [NAN], None, [[0, 1]], {}],
    "picture": {
        "nan": np.where(np.arange(16).reshape(SHAPE) == 7, NAN, GOOD).astype("float32"),
        "infinite": np.where(np.arange(16).reshape(SHAPE) == 7, INF, GOOD).astype("float32"),
        "rank": GOOD[..., 0],
        "size": GOOD[:, :3],
        "channels": np.repeat(GOOD, 3, -1),
        "strings": np.full((3, *SHAPE), "a"),
        "objects": np.full((3, *SHAPE), None),
        "complex": GOOD.astype("complex64"),
        "empty": GOOD[:0],
        "scalar": np.array(0.5, "float32"),
    },
    "channels": [0, 2, 5, -1, "3", None, True, [3], NAN],
    "path": [None, 3, NAN, [], {}, ["a"], True],
    "values": [np.array([[v, 0.0]], "float32") for v in (NAN, INF, -INF)],
    "times": [[0.5, 0.6, 0.1], [[1.0, 0.0]], [NAN, 0.0], [1.0, NAN], 1.0],
    "decay": [-0.1, 1.0, 1.5, NAN, INF, *NO_NUMBER],
    "sheet": [None, 0, 1.5, True, [], [0.5], ["a", 1], ["a", None], [["a"]], {"a": 1}],
    "features": [[[NAN, 1.0]] * 3, [[1.0, 2.0]], [1.0, 2.0], [["a", "b"]] * 3, [], None],
}


# -- the arguments --------------------------------------------------------------------------------


def sheets(**options):
    return callbacks.SampleGrid("a", ["b"], **options)


P = PROCESS
ARGUMENTS = {
    "count": {
        "SampleGrid every": lambda v: sheets(every=v),
        "SampleGrid num_steps": lambda v: sheets(num_steps=v),
        "PosteriorCollapse every": lambda v: callbacks.PosteriorCollapse([], every=v),
        "Resume save_every": lambda v: callbacks.Resume("a", v),
        "Resume keep": lambda v: callbacks.Resume("a", keep=v),
        "pixels.generate num_samples": lambda v: the(pixels).generate(num_samples=v),
        "score.generate num_samples": lambda v: the(score).generate(num_samples=v),
        "vae.generate num_samples": lambda v: the(vae).generate(v),
        "hvae.generate num_samples": lambda v: the(hvae).generate(v),
        "pixels.generate num_steps": lambda v: the(pixels).generate(num_samples=1, num_steps=v),
        "latent.generate num_steps": lambda v: the(latent).generate("a", num_steps=v),
        "pixels.generate batch_size": lambda v: the(pixels).generate(num_samples=1, batch_size=v),
        "latent.generate batch_size": lambda v: the(latent).generate("a", batch_size=v),
        "pixels.invert num_steps": lambda v: the(pixels).invert(GOOD, num_steps=v),
        "pixels.invert batch_size": lambda v: the(pixels).invert(GOOD, batch_size=v),
        "latent.invert num_steps": lambda v: the(latent).invert(GOOD, "a", num_steps=v),
        "latent.invert batch_size": lambda v: the(latent).invert(GOOD, "a", batch_size=v),
        "pixels.log_likelihood batch_size": lambda v: the(pixels).log_likelihood(
            GOOD, batch_size=v
        ),
        "vae.log_likelihood num_samples": lambda v: the(vae).log_likelihood(GOOD, v),
        "vae.log_likelihood chunk": lambda v: the(vae).log_likelihood(GOOD, 2, chunk=v),
        "vae.log_likelihood batch_size": lambda v: the(vae).log_likelihood(GOOD, 2, batch_size=v),
        "VAE num_samples": lambda v: vae(num_samples=v),
        "VQVAE num_codes": lambda v: vqvae(v),
        "Labels num_classes": lambda v: Labels(v, 4),
        "Labels width": lambda v: Labels(3, v),
        "GaussianMixture num_components": lambda v: priors.GaussianMixture(v, (2,)),
        "VampPrior num_components": lambda v: priors.VampPrior(v, SHAPE),
        "LearnedLogSNR width": lambda v: diffusion.LearnedLogSNR(width=v),
        "LogisticMixture components": lambda v: likelihoods.LogisticMixture(v),
        "AnnealedLangevin langevin_steps": lambda v: solvers.AnnealedLangevin(langevin_steps=v),
        "PredictorCorrector corrector_steps": lambda v: solvers.PredictorCorrector(
            corrector_steps=v
        ),
        "DormandPrince max_steps": lambda v: solvers.DormandPrince(max_steps=v),
        "DPMSolver order": lambda v: solvers.DPMSolver(v),
        "UniPC order": lambda v: solvers.UniPC(v),
        "time_grid num_steps": lambda v: time_grid(P, v),
        "editing.invert num_steps": lambda v: editing.invert(
            solvers.DDIM(), lambda z, t: z, P, tf.ones([1, 2]), v
        ),
        "KSparse k": lambda v: KSparse(v),
        "grey.load batch_size": lambda v: grey.load("emoji", batch_size=v),
        "emoji.load batch_size": lambda v: emoji.load(batch_size=v),
        "emoji.gallery size": lambda v: emoji.gallery(size=v),
        "contact_sheet scale": lambda v: contact_sheet(np.zeros((1, 4, 4, 3), "uint8"), scale=v),
        "Guard stop_after": callbacks.Guard,
        "bits_per_dim dimensions": lambda v: bits_per_dim(1.0, v),
        "folder.load size": lambda v: folder.load(".", v),
        "folder.load batch_size": lambda v: folder.load(".", batch_size=v),
        **{
            f"{make.__name__} {name}": lambda v, make=make, name=name: make(**{name: v})
            for make, names in ((unet, "blocks heads patch"), (dit, "patch width depth heads"))
            for name in names.split()
        },
    },
    "count or None": {
        "Resume save_steps": lambda v: callbacks.Resume("a", save_steps=v),
        "pixels.log_likelihood num_probes": lambda v: the(pixels).log_likelihood(
            GOOD, num_probes=v
        ),
        "log_likelihood num_probes": lambda v: kgen.log_likelihood(
            lambda z, t: z, P, tf.ones([1, 2]), num_probes=v
        ),
        "DiffusionModel levels": lambda v: pixels(levels=v),
        "ScoreModel levels": lambda v: score(levels=v),
        "Contractive num_probes": lambda v: penalties.Contractive(1.0, v),
    },
    "positive": {
        "vae.generate temperature": lambda v: the(vae).generate(1, temperature=v),
        "GaussianNoise std": lambda v: corruption.GaussianNoise(v),
        "PolynomialLogSNR power": lambda v: diffusion.PolynomialLogSNR(v),
        "FlowLogSNR shift": lambda v: diffusion.FlowLogSNR(shift=v),
        "EDMLogSNR sigma_min": lambda v: diffusion.EDMLogSNR(sigma_min=v),
        "EDMLogSNR sigma_max": lambda v: diffusion.EDMLogSNR(sigma_max=v),
        "EDMLogSNR rho": lambda v: diffusion.EDMLogSNR(rho=v),
        "LinearBeta beta_max": lambda v: diffusion.LinearBeta(beta_max=v),
        "DormandPrince rtol": lambda v: solvers.DormandPrince(rtol=v),
        "DormandPrince atol": lambda v: solvers.DormandPrince(atol=v),
        "pixels.log_likelihood rtol": lambda v: the(pixels).log_likelihood(GOOD, rtol=v),
        "AnnealedLangevin step_size": lambda v: solvers.AnnealedLangevin(step_size=v),
        "PredictorCorrector snr": lambda v: solvers.PredictorCorrector(snr=v),
        "Heun noise": lambda v: solvers.Heun(noise=v),
    },
    "positive or None": {
        "VAE capacity": lambda v: vae(capacity=v),
        "GaussianLikelihood std": lambda v: likelihoods.GaussianLikelihood(v),
        "bits_per_dim bin_width": lambda v: bits_per_dim(1.0, 2, v),
    },
    "at least 0": {
        "PosteriorCollapse threshold": lambda v: callbacks.PosteriorCollapse([], threshold=v),
        "VAE beta": lambda v: vae(beta=v),
        "VAE warm_up": lambda v: vae(warm_up=v),
        "HVAE beta": lambda v: hvae(beta=v),
        "HVAE warm_up": lambda v: hvae(warm_up=v),
        "HVAE free_bits": lambda v: hvae(free_bits=v),
        "VQVAE commitment": lambda v: vqvae(commitment=v),
        "VQVAE revive_below": lambda v: vqvae(revive_below=v),
        **{
            f"KLAutoencoder {name}": lambda v, name=name: kl(**{name: v})
            for name in ("l1", "l2", "kl_weight", "latent_noise", "adversarial")
        },
        "KLAutoencoder adversarial_start": lambda v: kl(adversarial_start=v),
        "L1 weight": lambda v: penalties.L1(v),
        "TargetRate weight": lambda v: penalties.TargetRate(0.1, v),
        "Contractive weight": lambda v: penalties.Contractive(v),
        "LinearBeta beta_min": lambda v: diffusion.LinearBeta(beta_min=v),
    },
    "share": {
        "PosteriorCollapse alarm": lambda v: callbacks.PosteriorCollapse([], alarm=v),
        "DiffusionModel cond_drop_rate": lambda v: pixels(cond_drop_rate=v),
        "LatentDiffusion cond_drop_rate": lambda v: latent(cond_drop_rate=v),
        "VQVAE decay": lambda v: vqvae(decay=v),
        "DDIM eta": lambda v: solvers.DDIM(v),
        "Heun churn": lambda v: solvers.Heun(churn=v),
        "TargetRate rate": lambda v: penalties.TargetRate(v, 1.0),
        "Masking rate": lambda v: corruption.Masking(v),
        "SaltAndPepper rate": lambda v: corruption.SaltAndPepper(v),
        "dynamic_threshold quantile": lambda v: diffusion.dynamic_threshold(lambda z, t: z, v),
        "classifier_free rescale": lambda v: diffusion.classifier_free(
            lambda z, t, c: z, 1.0, 0.0, 2.0, rescale=v
        ),
        "emoji.load recolour": lambda v: emoji.load(recolour=v),
    },
    "share or None": {
        "pixels.generate strength": lambda v: the(pixels).generate(
            num_samples=3, images=GOOD, strength=v
        ),
        "latent.generate strength": lambda v: the(latent).generate(
            ["a"] * 3, images=GOOD, strength=v
        ),
    },
    "finite": {
        "SampleGrid guidance_scale": lambda v: sheets(guidance_scale=v),
        "pixels.generate guidance_scale": lambda v: the(pixels).generate(
            num_samples=1, guidance_scale=v
        ),
        "classes.generate guidance_scale": lambda v: the(classes).generate([1], guidance_scale=v),
        "latent.generate guidance_scale": lambda v: the(latent).generate("a", guidance_scale=v),
        "pixels.invert guidance_scale": lambda v: the(pixels).invert(GOOD, guidance_scale=v),
        "latent.invert guidance_scale": lambda v: the(latent).invert(GOOD, "a", guidance_scale=v),
        "LinearLogSNR log_snr_max": lambda v: diffusion.LinearLogSNR(log_snr_max=v),
        "CosineLogSNR log_snr_min": lambda v: diffusion.CosineLogSNR(log_snr_min=v),
        "CosineLogSNR shift": lambda v: diffusion.CosineLogSNR(shift=v),
        "LearnedLogSNR log_snr_max": lambda v: diffusion.LearnedLogSNR(log_snr_max=v),
        "SaltAndPepper low": lambda v: corruption.SaltAndPepper(0.1, low=v),
    },
    "name": {
        **{
            f"{make.__name__} {name}": lambda v, make=make, name=name: make(**{name: v})
            for make in (pixels, score, latent)
            for name in ("prediction", "weighting", "times")
        },
        "ScoreModel objective": lambda v: score(objective=v),
        "VAE objective": lambda v: vae(objective=v),
        "VAE gradient": lambda v: vae(gradient=v),
        "VAE likelihood": lambda v: vae(v),
        "HVAE likelihood": lambda v: hvae(likelihood=v),
        "Autoencoder error": lambda v: plain(error=v),
        "LinearBeta scaling": lambda v: diffusion.LinearBeta(scaling=v),
        "solvers.get solver": lambda v: solvers.get(v),
        "solve solver": lambda v: solvers.solve(v, lambda z, t: z, P, tf.ones([1, 2]), [1.0, 0.0]),
        "pixels.generate solver": lambda v: the(pixels).generate(num_samples=1, solver=v),
        "latent.generate solver": lambda v: the(latent).generate("a", solver=v),
        "pixels.invert solver": lambda v: the(pixels).invert(GOOD, solver=v),
        "pixels.export solver": lambda v: the(pixels).export_functions(solver=v),
        "time_grid kind": lambda v: time_grid(P, 3, v),
        "sample_times kind": lambda v: times.sample_times(v, P, 3, [0, 1]),
        "error_factor weighting": lambda v: weighting.error_factor(v, tf.ones([1]), tf.ones([1])),
        "coefficients prediction": lambda v: prediction.coefficients(v, 1.0, 1.0),
        "grey.load values": lambda v: grey.load("emoji", values=v),
        "grey.load name": lambda v: grey.load(v),
        "grey.load split": lambda v: grey.load("emoji", v),
        "emoji.load split": lambda v: emoji.load(v),
        "emoji.load captions": lambda v: emoji.load(captions=v),
        "emoji.gallery style": lambda v: emoji.gallery(style=v),
        "folder.load values": lambda v: folder.load(".", values=v),
        "folder.load resize": lambda v: folder.load(".", resize=v),
        "folder.load on_error": lambda v: folder.load(".", on_error=v),
        "GaussianDiffusion schedule": lambda v: GaussianDiffusion(v),
        "save_to_preset dtype": lambda v: the(vae).save_to_preset("nowhere", dtype=v),
        "from_preset dtype": lambda v: kgen.from_preset("saved_models/vae_mnist", dtype=v),
    },
    "name or None": {
        "GaussianDiffusion scaling": lambda v: GaussianDiffusion(P.schedule, v),
        "folder.load captions": lambda v: folder.load(".", captions=v),
        "pixels.log_likelihood dequantization": lambda v: the(pixels).log_likelihood(
            GOOD, dequantization=v
        ),
    },
    "seed": {
        "SampleGrid seed": lambda v: sheets(seed=v),
        "as_seed seed": as_seed,
        "pixels.generate seed": lambda v: the(pixels).generate(num_samples=1, seed=v),
        "vae.generate seed": lambda v: the(vae).generate(1, seed=v),
        "hvae.generate seed": lambda v: the(hvae).generate(1, seed=v),
        "latent.generate seed": lambda v: the(latent).generate("a", seed=v),
        "vae.log_likelihood seed": lambda v: the(vae).log_likelihood(GOOD, 2, seed=v, verbose=0),
        "pixels.log_likelihood seed": lambda v: the(pixels).log_likelihood(GOOD, seed=v),
    },
    "prompts": {
        "as_strings prompts": as_strings,
        "latent.generate condition": lambda v: the(latent).generate(v),
        "latent.invert condition": lambda v: the(latent).invert(GOOD, v),
    },
    "prompts or None": {
        "latent.generate negative": lambda v: the(latent).generate(["a"], negative=v),
    },
    "labels": {
        "classes.generate condition": lambda v: the(classes).generate(v),
        "classes.invert condition": lambda v: the(classes).invert(GOOD[:1], v),
        "classes.log_likelihood condition": lambda v: the(classes).log_likelihood(
            GOOD[:1], condition=v
        ),
    },
    "labels or None": {
        "classes.generate negative": lambda v: the(classes).generate([0], negative=v),
    },
    "picture": {
        **{
            f"{make.__name__}.{method} x": lambda v, make=make, method=method: getattr(
                the(make), method
            )(v, verbose=0)
            for make in (plain, vae, hvae, vqvae, pixels, score)
            for method in ("fit", "evaluate")
        },
        "kl.fit x": lambda v: the(kl).fit(v, verbose=0),
        "classes.fit x": lambda v: the(classes).fit(
            {"images": v, "labels": np.zeros(np.shape(v)[:1], "int32")}, verbose=0
        ),
        "vae.log_likelihood x": lambda v: the(vae).log_likelihood(v, 2, verbose=0),
        "hvae.log_likelihood x": lambda v: the(hvae).log_likelihood(v, 2, verbose=0),
        "pixels.log_likelihood x": lambda v: the(pixels).log_likelihood(v),
        "pixels.invert images": lambda v: the(pixels).invert(v),
        "pixels.generate images": lambda v: the(pixels).generate(num_samples=3, images=v),
        "pixels.generate noise": lambda v: the(pixels).generate(num_samples=3, noise=v),
        "pixels.generate mask": lambda v: the(pixels).generate(num_samples=3, images=GOOD, mask=v),
        "latent.generate images": lambda v: the(latent).generate(["a"] * 3, images=v),
        "latent.invert images": lambda v: the(latent).invert(v, "a"),
    },
    "channels": {"folder.load channels": lambda v: folder.load(".", channels=v)},
    "path": {
        "load_model path": kgen.load_model,
        "Resume directory": callbacks.Resume,
        "SampleGrid directory": lambda v: callbacks.SampleGrid(v, ["b"]),
        "from_preset directory": kgen.from_preset,
        "save_to_preset directory": lambda v: the(vae).save_to_preset(v),
        "export_saved_model directory": lambda v: kgen.export_saved_model(the(vae), v),
        "export_parts directory": lambda v: kgen.export_parts(the(vae), v),
        "folder.load directory": folder.load,
        "folder.classes directory": folder.classes,
    },
    "path or None": {
        "PosteriorCollapse directory": lambda v: callbacks.PosteriorCollapse([], v),
        "SampleGrid tensorboard": lambda v: sheets(tensorboard=v),
    },
    "values": {
        "solve z": lambda v: solvers.solve(solvers.DDIM(), lambda z, t: z, P, v, [1.0, 0.0]),
        "log_likelihood x": lambda v: kgen.log_likelihood(lambda z, t: z, P, v),
    },
    "times": {
        "solve times": lambda v: solvers.solve(
            solvers.DDIM(), lambda z, t: z, P, tf.ones([1, 2]), v
        ),
    },
    "decay or None": {
        f"{make.__name__} ema_decay": lambda v, make=make: make(ema_decay=v)
        for make in (plain, vae, hvae, vqvae, kl, pixels, score, latent)
    },
    "sheet": {"SampleGrid prompts": lambda v: callbacks.SampleGrid("a", v)},
    "features": {
        "active_units means": active_units,
        "frechet_distance a": lambda v: frechet_distance(v, v),
    },
}


def cases():
    for kind, arguments in ARGUMENTS.items():
        values = BAD[kind.removesuffix(" or None")]
        if isinstance(values, dict):
            named = list(values.items())
        else:
            named = [(repr(v), v) for v in values if v is not None or "None" not in kind]
        for number, (argument, function) in enumerate(arguments.items()):
            shown, value = named[number % len(named)]
            yield pytest.param(argument, function, value, id=f"{argument}={shown}")


@pytest.mark.parametrize(("argument", "function", "value"), list(cases()))
def test_a_bad_value_is_named(argument, function, value):
    with pytest.raises((ValueError, TypeError)) as caught:
        function(value)
    message = str(caught.value)
    assert f"`{argument.split()[-1]}`" in message
    assert "Received" in message
