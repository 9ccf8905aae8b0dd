"""`kgen finetune` and `kgen train`: a folder becomes a model, also after an interruption."""

import json
import signal

import keras
import numpy as np
import pytest

import kgen
from kgen.cli import folders
from kgen.cli.plan import Plan, default_steps

FEW = ["--sheet-steps", "2", "--batch-size", "4"]


def weights_of(folder):
    return [np.asarray(w) for w in kgen.from_preset(folder).network.weights]


def test_a_fine_tuned_model_is_written_with_its_card_and_sheets(
    kgen_json, refused, text_model, folder_of_pictures, tmp_path
):
    folder, output = folder_of_pictures(), tmp_path / "tuned"
    arguments = ["--from", text_model, "--output", output, "--steps", "2", *FEW]
    said = kgen_json("finetune", folder, *arguments)
    assert (said["captions"], said["pictures"], said["held_out"]) == ("txt", 11, 1)
    assert said["steps"] == 2
    changed = [np.abs(a - b).max() for a, b in zip(weights_of(text_model), weights_of(output))]
    assert max(changed) > 0
    assert {
        *("config.json", "weights.npz", "README.md", "training.json", "log.csv", "samples")
    } == {p.name for p in output.iterdir()}
    names = {p.name for p in (output / "samples").iterdir()}
    assert {"before.png", "after.png", "beside_real.png", "epoch_0001.png"} <= names
    card = (output / "README.md").read_text()
    assert "11 pictures" in card
    assert "Licence" in card
    logged = (output / "log.csv").read_text().splitlines()
    assert len(logged) == 3
    assert "val_loss" in logged[0]
    other = folder_of_pictures(9, captions="csv")
    assert "different pictures or captions" in refused("finetune", other, *arguments)


def test_a_lora_is_written_and_merged(kgen_json, text_model, folder_of_pictures, tmp_path):
    folder, output = folder_of_pictures(), tmp_path / "lora"
    arguments = ["--from", text_model, "--output", output, "--steps", "2", "--lora", "2", *FEW]
    assert kgen_json("finetune", folder, *arguments)["lora"] == 2
    before, merged = kgen.from_preset(text_model), kgen.from_preset(output)
    assert merged.lora is None
    before.load_lora(output / "lora.safetensors")
    before.merge_lora()
    pairs = list(zip(before.network.weights, merged.network.weights))
    assert all(np.abs(a.numpy() - b.numpy()).max() < 2e-3 for a, b in pairs)  # stored as float16
    plain = weights_of(text_model)
    changed = sum(np.abs(a - b.numpy()).max() > 0 for a, (b, _) in zip(plain, pairs))
    assert 0 < changed < len(pairs)
    assert "LoRA of rank 2" in (output / "README.md").read_text()


@pytest.mark.parametrize("captions", ["txt", "csv", "jsonl", "folders"])
def test_captions_of_every_kind_are_found(captions, folder_of_pictures):
    pictures = folders.read(folder_of_pictures(captions=captions), (16, 16, 3), "texts")
    assert pictures.captions == captions
    assert pictures.images.shape == (12, 16, 16, 3)
    centres = pictures.images[:, 8, 8].astype(int)
    for centre, prompt in zip(centres, pictures.columns["prompts"].tolist()):
        colour = ("red", "green", "blue")[centre.argmax()]
        assert colour in prompt
    training, held_out = folders.split(pictures, 0)
    assert (len(training.images), len(held_out.images)) == (11, 1)


def test_broken_pictures_are_left_out_and_named(folder_of_pictures):
    folder = folder_of_pictures()
    (folder / "3.png").write_bytes(b"broken, and no picture")
    (folder / "4.txt").unlink()
    pictures = folders.read(folder, (16, 16, 3), "texts")
    assert len(pictures.images) == 10
    assert "3.png" in " ".join(pictures.left_out)
    assert "4.png" in " ".join(pictures.left_out)


@pytest.mark.slow
def test_an_interrupted_training_goes_on_to_the_same_weights(
    kgen_json, capsys, text_model, folder_of_pictures, tmp_path, monkeypatch
):
    from kgen.cli.command import main

    folder = folder_of_pictures()
    arguments = ["finetune", folder, "--from", text_model, "--steps", "4", *FEW]
    kgen_json(*arguments, "--output", tmp_path / "whole")
    original = keras.callbacks.CSVLogger.on_epoch_end

    def interrupt(self, epoch, logs=None):
        original(self, epoch, logs)
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(keras.callbacks.CSVLogger, "on_epoch_end", interrupt)
    parts = [*map(str, arguments), "--output", str(tmp_path / "parts"), "--quiet"]
    assert main(parts) == 130
    assert "to continue it" in capsys.readouterr().err
    assert not (tmp_path / "parts" / "config.json").exists()
    assert json.loads((tmp_path / "parts" / "training.json").read_text())["after"] is None
    monkeypatch.undo()
    said = kgen_json(*arguments, "--output", tmp_path / "parts")
    assert said["after"] is not None
    assert not (tmp_path / "parts" / "resume").exists()
    for a, b in zip(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts")):
        np.testing.assert_allclose(a, b, atol=2e-3)  # float16 in a preset; steps of 2e-4
    again = kgen_json(*arguments, "--output", tmp_path / "parts")
    assert again["seconds"] == said["seconds"]


def test_what_cannot_be_trained_is_refused(refused, text_model, folder_of_pictures, tmp_path):
    folder, output = folder_of_pictures(captions=None), tmp_path / "out"
    model = ["--from", text_model, "--output", output]
    assert "has no captions" in refused("finetune", folder, *model)
    assert "no folder" in refused("finetune", tmp_path / "none", *model)
    assert "holds a model already" in refused(
        "finetune", folder, "--caption", "x", "--from", text_model, "--output", text_model
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("captions", "taken"),
    [
        ("folders", "classes"),
        pytest.param("txt", "texts", marks=pytest.mark.slow),
        pytest.param(None, None, marks=pytest.mark.slow),
    ],
)
def test_training_from_scratch_takes_what_the_folder_has(
    captions, taken, kgen_json, text_model, folder_of_pictures, tmp_path
):
    output = tmp_path / "new"
    kgen_json(
        *("train", folder_of_pictures(captions=captions), "--from", text_model),
        *("--output", output, "--steps", "1", "--channels", "8", "16", *FEW),
    )
    info = kgen_json("info", output)
    assert info["takes"] == taken
    assert info["classes"] == (["blue", "green", "red"] if taken == "classes" else None)
    assert info["training"]["command"] == "train"


@pytest.mark.slow
def test_a_model_of_classes_is_fine_tuned_on_its_own_classes(
    kgen_json, refused, class_model, folder_of_pictures, tmp_path
):
    folder = folder_of_pictures(captions="folders")
    arguments = ["--from", class_model, "--output", tmp_path / "out", "--steps", "1", *FEW]
    assert "no class 'blue'" in refused("finetune", folder, *arguments)
    (folder / "red").rename(folder / "cat")
    (folder / "blue").rename(folder / "dog")
    for path in (folder / "green").iterdir():
        path.unlink()
    assert kgen_json("finetune", folder, *arguments)["captions"] == "folders"


def test_steps_are_rounded_up_to_equal_epochs():
    for steps in range(1, 200):
        plan = Plan("finetune", "m", "f", "d", None, 1, 1, 1, 1.0, 0)
        plan.set_steps(steps)
        assert plan.steps == plan.epochs * plan.steps_per_epoch
        assert steps <= plan.steps < steps + plan.steps_per_epoch
        assert plan.epochs <= 8


def test_more_pictures_get_more_steps_but_fewer_passes():
    steps = [default_steps("finetune", number, 32) for number in (30, 100, 300, 1000, 3000)]
    assert steps == sorted(steps)
    passes = [step / number for step, number in zip(steps, (30, 100, 300, 1000, 3000))]
    assert passes == sorted(passes, reverse=True)
