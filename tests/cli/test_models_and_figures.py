"""`kgen info`, `export` and `evaluate` of small models."""

import numpy as np
import pytest
import tensorflow as tf

import kgen

pytestmark = pytest.mark.usefixtures("opened_once")


def test_info_counts_what_the_networks_have(kgen_json, text_model):
    said = kgen_json("info", text_model)
    model = kgen.from_preset(text_model)
    assert said["kind"] == "LatentDiffusion"
    assert said["draws"] == [16, 16, 3]
    assert said["latents"] == [8, 8, 4]
    assert said["takes"] == "texts"
    assert said["parts"]["network"] == model.network.count_params()
    assert said["licence"] is None


def test_a_card_beside_a_model_says_licence_and_training(kgen_json, vae, tmp_path):
    import shutil

    shutil.copytree(vae, tmp_path / "one")
    card = (
        "# m\n\n## one\n\nTrained on dots\nfor a day.\n\nLicence: CC0.\n\n## two\n\nLicence: no\n"
    )
    (tmp_path / "README.md").write_text(card)
    said = kgen_json("info", tmp_path / "one")
    assert said["licence"] == "Licence: CC0."
    from kgen.cli.info import licence_of, summary_of

    assert licence_of("# Licence\n\nCC0, a licence\nwithout terms.\n\nNo.") == (
        "CC0, a licence without terms."
    )
    assert licence_of("- licence: MIT\n- size: 3\n") == "licence: MIT"
    assert summary_of(None, said["card"]) == "Trained on dots for a day."


def test_an_export_draws_without_kgen_what_the_model_draws(
    kgen_json, refused, text_model, vae, tmp_path
):
    output = tmp_path / "exported"
    said = kgen_json("export", vae, "--output", output, "--max-batch", "8")
    assert "generate" in said["functions"]
    loaded = tf.saved_model.load(str(output))
    made = loaded.signatures["generate"](
        num_samples=tf.constant(3), temperature=tf.constant(1.0), seed=tf.constant([5, 0])
    )
    expected = kgen.from_preset(vae).generate(3, seed=5)
    np.testing.assert_allclose(made["images"].numpy().astype(int), expected.astype(int), atol=1)
    assert "no option --editing" in refused("export", vae, "--output", output, "--editing")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    assert "new, empty or a SavedModel" in refused("export", vae, "--output", tmp_path / "full")


def test_an_export_of_the_networks(kgen_json, refused, text_model, vae, tmp_path):
    said = kgen_json("export", vae, "--output", tmp_path / "parts", "--parts", "litert")
    assert said["files"] == ["decoder.tflite"]
    assert {path.name for path in (tmp_path / "parts").iterdir()} == {
        "decoder.tflite",
        "parts.json",
    }
    output = ("--output", tmp_path / "other", "--parts")
    assert "--editing is an option of SavedModels" in refused(
        "export", text_model, *output, "--editing"
    )
    assert "--parts must be False" in refused("export", vae, *output, "--max-batch", "3")
    assert "--dtype must be one of" in refused("export", vae, *output, "--dtype", "bfloat16")
    assert "which takes texts only" in refused("export", text_model, *output)
    assert not (tmp_path / "other").exists()


def test_evaluate_gives_the_same_figures_as_the_library(
    kgen_json, refused, vae, text_model, folder_of_pictures
):
    folder = folder_of_pictures(captions=None)
    arguments = ["evaluate", vae, "--data", folder, "--no-samples"]
    first, again = kgen_json(*arguments), kgen_json(*arguments)
    assert first == again
    assert first["pictures"] == 12
    model = kgen.from_preset(vae)
    model.compile()
    data = kgen.data.folder.load(folder, 8, channels=1, values="binary", shuffle=False)
    expected = model.evaluate(data, verbose=0, return_dict=True)
    np.testing.assert_allclose(first["loss"]["loss"], expected["loss"], rtol=1e-5)
    assert "give --data" in refused("evaluate", vae)
    assert "has no captions" in refused("evaluate", text_model, "--data", folder)
