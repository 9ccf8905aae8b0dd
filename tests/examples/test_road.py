"""Every station's example runs on real pictures for a few steps, resumes, and leaves its files."""

import pathlib
import sys

import numpy as np
import pytest

import kgen
from kgen.data import grey

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield


def run(name, output, *options):
    module = __import__(name)
    few = ["--data", "emoji", "--output", str(output), "--steps-per-epoch", "2"]
    return module.main([*few, *options])


@pytest.fixture(scope="module")
def trained(on_the_path, tmp_path_factory):
    """The folder of a VAE that others begin with."""
    folder = tmp_path_factory.mktemp("road") / "vae"
    run("vae", folder, "--model", "vae", "--epochs", "1")
    return folder


@pytest.mark.parametrize("kind", ["denoising", "sparse", "contractive", "k-sparse"])
def test_autoencoder(tmp_path, kind, capsys):
    run("autoencoder", tmp_path, "--kind", kind, "--epochs", "1")
    assert "reconstruction" in capsys.readouterr().out
    for file in ("reconstructions.png", "curves.png", "weights.npz"):
        assert (tmp_path / file).stat().st_size > 1000


@pytest.mark.parametrize(("model", "picture"), [("gated", "traversals"), ("iwae-5", "samples")])
def test_vae(tmp_path, model, picture):
    run("vae", tmp_path, "--model", model, "--epochs", "1", "--save-every", "1")
    for file in (
        f"{picture}.png",
        "reconstructions.png",
        "curves.png",
        "collapse/collapse_0001.png",
    ):
        assert (tmp_path / file).stat().st_size > 1000


def test_vae_resumes_and_evaluates(tmp_path, capsys):
    run("vae", tmp_path, "--model", "tutorial", "--epochs", "1", "--save-every", "1")
    with pytest.warns(UserWarning, match="other settings of the optimizer"):  # its schedule
        run("vae", tmp_path, "--model", "tutorial", "--epochs", "2", "--save-every", "1")
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert (tmp_path / "manifold.png").stat().st_size > 1000
    capsys.readouterr()
    evaluate = ["--evaluate", str(tmp_path), "--data", "emoji", "--num-samples", "3"]
    sys.modules["vae"].main([*evaluate, "--num-test", "10"])
    printed = capsys.readouterr().out
    assert "bits_per_dim" in printed
    assert "3 importance samples, 10 pictures" in printed


def test_training_begins_with_the_weights_of_a_preset(tmp_path, trained):
    """An IWAE at the start of a training that hardly moves it is the VAE it began with."""
    options = ["--start", str(trained), "--learning-rate", "1e-12", "--epochs", "1"]
    model = run("vae", tmp_path / "iwae", "--model", "iwae-5", *options)
    vae = kgen.from_preset(trained)
    for one, other in zip(model.trainable_variables, vae.trainable_variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_grey_levels(tmp_path, capsys):
    run("vae", tmp_path, "--model", "tutorial", "--likelihood", "logistic_mixture", "--epochs", "1")
    few = ["--data", "emoji", "--num-samples", "3", "--num-test", "10"]
    sys.modules["vae"].main(["--evaluate", str(tmp_path), *few])
    bits = float(capsys.readouterr().out.split("bits_per_dim: ")[1].split()[0])
    model = kgen.from_preset(tmp_path)
    assert isinstance(model.likelihood, kgen.likelihoods.LogisticMixture)
    x = grey.load_arrays("emoji", "test")["images"] / 127.5 - 1
    model.compile()
    logs = model.evaluate(x.astype("float32"), batch_size=100, verbose=0, return_dict=True)
    assert bits == pytest.approx(logs["bits_per_dim"], rel=0.01)


def test_a_learned_prior_begins_at_pictures_and_goes_on(tmp_path, trained):
    still = ["--learning-rate", "1e-12", "--epochs", "1", "--prior", "vamp", "--components", "20"]
    start = ["--start", str(trained)]
    model = run("vae", tmp_path / "vamp", "--model", "vae", *still, *start)
    pseudo_inputs = model.prior.pseudo_inputs.numpy()
    assert ((pseudo_inputs < 1e-6) | (pseudo_inputs > 1 - 1e-6)).all()  # binarised pictures
    start = ["--start", str(tmp_path / "vamp")]
    model = run("vae", tmp_path / "more", "--model", "vae", *still, *start)
    np.testing.assert_allclose(model.prior.pseudo_inputs, pseudo_inputs, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        pytest.param("dense", [], marks=pytest.mark.slow),  # what `.ci/run` runs
        pytest.param("dense", ["--prior", "mixture"], marks=pytest.mark.slow),
        ("dense", ["--prior", "vamp", "--components", "20", "--likelihood", "logistic_mixture"]),
        pytest.param("conv", [], marks=pytest.mark.slow),
    ],
)
def test_hvae(tmp_path, model, options):
    trained = run("hvae", tmp_path, "--model", model, "--epochs", "1", *options)
    assert trained.warm_up == (0 if "logistic_mixture" in options else 10_000)
    for file in ("temperatures.png", "reconstructions.png", "samples.png", "curves.png"):
        assert (tmp_path / file).stat().st_size > 1000


def test_vqvae(tmp_path):
    run("vqvae", tmp_path, "--epochs", "1", "--prior-epochs", "1")
    for file in ("samples.png", "reconstructions.png", "codes.png", "prior.keras"):
        assert (tmp_path / file).stat().st_size > 1000


def test_diffusion_begins_with_the_weights_of_a_preset(tmp_path, monkeypatch):
    """On the plane; what is drawn and measured after a training, `.ci/run` runs."""
    diffusion = __import__("diffusion")
    for name in ("draw_plane", "evaluate"):
        monkeypatch.setattr(diffusion, name, lambda *args: None)
    few = ["--data", "spirals", "--epochs", "1", "--width", "16", "--blocks", "1"]
    run("diffusion", tmp_path / "one", *few)
    start = ["--start", str(tmp_path / "one"), "--weighting", "sigmoid", "--steps-per-epoch", "1"]
    model = run("diffusion", tmp_path / "other", *few, *start)  # its one step has the rate 0
    assert model.weighting == "sigmoid"
    trained = kgen.from_preset(tmp_path / "one")
    for one, other in zip(model.trainable_variables, trained.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "other" / "curves.png").stat().st_size > 1000
