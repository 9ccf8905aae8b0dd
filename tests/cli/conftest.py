"""Small models as presets, and folders of pictures, for the command."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

import kgen
from kgen.cli.command import main
from kgen.conditioning import Labels
from kgen.networks import mlp
from kgen.networks.unet import UNet


@pytest.fixture(scope="session")
def text_model(tmp_path_factory, make_diffusion):
    """The folder of a text-to-image model of 16 x 16 pictures, with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    model = make_diffusion()
    rng = np.random.default_rng(0)
    for variable in model.network.trainable_variables:  # some begin at 0, and heed no prompt
        variable.assign_add(0.1 * rng.normal(size=variable.shape))
    model.averages.reset()
    model.save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def class_model(tmp_path_factory):
    """The folder of an untrained model of grey 8 x 8 pictures and two named classes."""
    folder = tmp_path_factory.mktemp("models") / "classes"
    keras.utils.set_random_seed(0)
    network = UNet((8, 8, 1), channels=(8,), blocks=1, attention=(False,), pooled=8)
    process = kgen.diffusion.GaussianDiffusion(kgen.diffusion.CosineLogSNR())
    conditioner = Labels(2, 8, names=["cat", "dog"])
    kgen.DiffusionModel(network, process, conditioner=conditioner).save_to_preset(folder)
    return folder


@pytest.fixture(scope="session")
def vae(tmp_path_factory):
    """The folder of an untrained VAE of grey 8 x 8 pictures."""
    folder = tmp_path_factory.mktemp("models") / "vae"
    keras.utils.set_random_seed(0)
    kgen.VAE(mlp((8, 8, 1), (8,)), mlp((4,), (8, 8, 1))).save_to_preset(folder)
    return folder


@pytest.fixture
def opened_once(monkeypatch, opened):
    """Lets commands that only draw share a model and what it has compiled."""
    original = kgen.from_preset

    def from_preset(folder, dtype="float32"):
        if (folder, dtype) not in opened:
            opened[folder, dtype] = original(folder, dtype)
        return opened[folder, dtype]

    monkeypatch.setattr(kgen, "from_preset", from_preset)


@pytest.fixture(scope="session")
def opened():
    """Models that were opened, by folder and type."""
    return {}


@pytest.fixture
def kgen_json(capsys):
    """A function that runs the command with `--json` and returns what it prints."""

    def run(*argv):
        code = main([*map(str, argv), "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        return json.loads(printed.out)

    return run


@pytest.fixture
def refused(capsys):
    """A function that runs the command, which must fail, and returns its one line on stderr."""

    def run(*argv, code=2):
        assert main([*map(str, argv), "--quiet"]) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        lines = printed.err.splitlines()
        assert len(lines) == 1, printed.err
        return lines[0]

    return run


@pytest.fixture
def folder_of_pictures(tmp_path):
    """A function that writes a folder of discs of one colour each, with captions."""

    def make(number=12, captions="txt"):
        folder = tmp_path / f"pictures_{captions}"
        colours = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 220)}
        rows = []
        for i in range(number):
            name = list(colours)[i % 3]
            pixels = np.full((20, 24, 3), 255, "uint8")
            y, x = np.mgrid[:20, :24]
            pixels[(y - 10) ** 2 + (x - 12) ** 2 < (4 + i % 5) ** 2] = colours[name]
            path = folder / (f"{name}/{i}.png" if captions == "folders" else f"{i}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)
            rows.append((path.name, f"a {name} disc"))
            if captions == "txt":
                path.with_suffix(".txt").write_text(rows[-1][1])
        if captions == "csv":
            lines = ["file_name,caption", *map(",".join, rows)]
            (folder / "captions.csv").write_text("\n".join(lines))
        if captions == "jsonl":
            lines = [json.dumps({"file_name": f, "text": c}) for f, c in rows]
            (folder / "metadata.jsonl").write_text("\n".join(lines))
        return folder

    return make
