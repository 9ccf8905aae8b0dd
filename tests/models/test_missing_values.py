"""Models that learn from data of which values are missing."""

import keras
import numpy as np
import pytest

import kgen
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.likelihoods import GaussianLikelihood
from kgen.models.levels import GaussianLevel
from kgen.networks import TimeMLP, mlp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(16, 4)).astype("float32")
MASK = (RNG.uniform(size=(16, 4)) < 0.6).astype("float32")


def vae(**options):
    networks = mlp((4,), (4,), hidden=(8,)), mlp((2,), (4,), hidden=(8,))
    return kgen.VAE(*networks, GaussianLikelihood(1.0), seed=0, **options)


def hvae():
    level = GaussianLevel(None, mlp((8,), (4,), hidden=(8,)), state_shape=(1,))
    networks = mlp((4,), (8,), hidden=(8,)), [level], mlp((2,), (4,), hidden=(8,))
    return kgen.HVAE(*networks, GaussianLikelihood(1.0), seed=0)


@pytest.mark.parametrize("make", [vae, lambda: vae(objective="iwae", num_samples=3), hvae])
@pytest.mark.parametrize("missing", [9.0, np.nan])
def test_missing_values_have_no_influence(make, missing):
    """Neither on the loss nor on what is learned, whatever stands in their place."""
    ends = []
    for filler in (0.0, missing):
        keras.utils.set_random_seed(0)
        model = make()
        model.compile(keras.optimizers.SGD(0.01))
        batch = {"images": np.where(MASK, X, filler).astype("float32"), "mask": MASK}
        history = model.fit(batch, batch_size=8, shuffle=False, verbose=0).history
        values = [v for name in sorted(history) for v in history[name]]
        values += [v for _, v in sorted(model.evaluate(batch, return_dict=True, verbose=0).items())]
        ends.append([*values, *np.concatenate([w.numpy().ravel() for w in model.weights])])
    assert np.isfinite(ends[0]).all()
    np.testing.assert_array_equal(*ends)


def test_bits_are_those_of_a_known_value():
    """The log density of known values alone, in bits of each."""
    model = vae()
    model.compile()
    figures = model.evaluate({"images": X, "mask": MASK}, return_dict=True, verbose=0)
    plain = model.evaluate({"images": X}, return_dict=True, verbose=0)
    assert figures["reconstruction"] < plain["reconstruction"]
    one = model.evaluate({"images": X[:1], "mask": MASK[:1]}, return_dict=True, verbose=0)
    bits = one["bound"] / MASK[0].sum() / np.log(2)
    assert one["bits_per_dim"] == pytest.approx(bits, rel=1e-5)


def test_a_mask_for_all_channels(capsys):
    shape = (4, 4, 2)
    model = kgen.VAE(mlp(shape, (4,), hidden=(8,)), mlp((2,), shape, hidden=(8,)))
    model.compile()
    x = RNG.uniform(size=(8, *shape)).astype("float32")
    model.fit({"images": x, "mask": RNG.uniform(size=(8, 4, 4, 1)) < 0.5}, verbose=0)


@pytest.mark.parametrize(
    ("mask", "message"), [(np.ones([16, 3]), "must have the shape"), (0 * MASK, "must be 1 where")]
)
def test_masks_that_do_not_fit(mask, message):
    model = vae()
    model.compile()
    with pytest.raises(ValueError, match=message):
        model.fit({"images": X, "mask": mask}, verbose=0)


def test_models_without_such_a_likelihood_refuse():
    process = GaussianDiffusion(CosineLogSNR())
    model = kgen.DiffusionModel(TimeMLP(4, width=8), process, grey_levels=None)
    model.compile()
    with pytest.raises(ValueError, match='"mask" of a batch, for missing values, needs a VAE'):
        model.fit({"images": X, "mask": MASK}, verbose=0)
