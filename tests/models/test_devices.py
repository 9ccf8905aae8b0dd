"""Every model on two devices, whose last batch leaves one of them more examples than the other."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.networks import TimeMLP
from kgen.networks.conv import encoder

# The batches have prompts for the models that take them.
pytestmark = pytest.mark.filterwarnings("ignore:The entries .* of a batch are not used")


def make_score(**options):
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.LinearLogSNR(9.0, -8.0), "ve")
    return kgen.ScoreModel(TimeMLP(768, width=16, blocks=1), process, seed=0, **options)


SLOW = [
    pytest.param(kind, marks=pytest.mark.slow)  # half a minute each, to trace convolutions twice
    for kind in ("autoencoder", "adversarial", "diffusion")
]


@pytest.mark.parametrize("kind", ["plain", "vae", "vqvae", "hvae", "score", *SLOW])
def test_an_epoch_with_an_uneven_batch(kind, request, pictures, strategies):
    few = {"images": pictures["images"][:19], "prompts": pictures["prompts"][:19].astype(str)}
    few = few["images"].reshape(19, 768) if kind == "score" else few
    data = tf.data.Dataset.from_tensor_slices(few).batch(8)
    with strategies[1].scope():
        options = {"ema_decay": 0.9}
        if kind == "adversarial":
            options["discriminator"] = encoder((16, 16, 3), 1, channels=(8, 8))
            make = request.getfixturevalue("make_autoencoder")
        elif kind == "score":
            make = make_score
        else:
            make = request.getfixturevalue(f"make_{kind}")
        model = make(**options)
        model.compile(keras.optimizers.Adam(1e-3), skip_above=np.inf, steps_per_execution=2)
    before = [variable.numpy() for variable in model.trainable_variables]
    logs = model.fit(data, verbose=0).history
    logs |= model.evaluate(data, verbose=0, return_dict=True)
    assert all(np.isfinite(value).all() for value in logs.values())
    assert model.skipped_steps.numpy() == 0
    assert max(np.abs(v - w).max() for v, w in zip(before, model.trainable_variables)) > 1e-3
    for variable in [
        *model.trainable_variables,
        *model.averages.values,
        *model.optimizer.variables,
    ]:
        one, other = strategies[1].experimental_local_results(variable.value)
        np.testing.assert_array_equal(one, other)
        assert np.isfinite(one).all()
