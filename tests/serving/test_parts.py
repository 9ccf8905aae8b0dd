"""Parts in LiteRT and ONNX Runtime, drawn with by `examples/parts.py`, against the models."""

import json
import pathlib
import subprocess
import sys
import types

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf

import kgen
from kgen.conditioning import Labels, tokenizers
from kgen.conditioning.packing import Packer
from kgen.diffusion import CosineLogSNR, GaussianDiffusion, LinearLogSNR, time_grid
from kgen.diffusion.discrete_beta import DiscreteBeta, LevelIndex
from kgen.networks import mlp
from kgen.networks.attention import Attention
from kgen.networks.conv import decoder, encoder
from kgen.networks.norm import GroupNorm
from kgen.networks.unet import UNet
from kgen.serving.parts import litert, onnx_file
from kgen.serving.parts.functions import decoder_part, numeric_inputs
from kgen.serving.signature import with_signature
from kgen.solvers import DDIM, DPMSolver, solve
from tools.tokenizer_references import VOCABULARY, sentences

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NEEDS = {"litert": ["ai_edge_litert"], "onnx": ["tf2onnx", "onnxruntime"]}
RUNTIMES = [*NEEDS]
PROMPTS = ["a red apple", "", "apples"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s"]
LENGTH = 6


def need(runtime):
    for package in NEEDS[runtime]:
        pytest.importorskip(package, reason=f"of the extra `runtimes`, for {runtime}")


@pytest.fixture
def parts(monkeypatch):
    """The module `examples/parts.py`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return __import__("parts")


def randomise(model, seed):
    """Sets all weights, those of outputs too, which begin at zero; averages differ from them."""
    rng = np.random.default_rng(seed)
    for again in range(2):
        for variable in model.trainable_variables:
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            variable.assign(rng.normal(0, 1.2 / np.sqrt(fan_in), variable.shape))
        if not again:
            model.averages.reset()


def tiny_networks():
    """An encoder, a decoder, and a denoising network with attention to the text."""
    x, z = keras.Input((16, 16, 3)), keras.Input((8, 8, 4))
    down = keras.layers.Conv2D(8, 3, strides=2, padding="same")(x)
    up = keras.layers.Conv2DTranspose(3, 4, strides=2, padding="same", activation="tanh")(z)
    shapes = {"z": (8, 8, 4), "log_snr": (), "tokens": (LENGTH, 8), "pooled": (8,)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    inputs["mask"] = keras.Input((LENGTH,), dtype="bool", name="mask")
    level = keras.layers.Reshape((1,))(inputs["log_snr"] / 10)
    level = keras.layers.Dense(16)(keras.layers.Concatenate()([level, inputs["pooled"]]))
    h = keras.layers.Dense(16)(inputs["z"]) + keras.layers.Reshape((1, 1, 16))(level)
    h = GroupNorm(4, activation="silu")(h)
    pixels = keras.layers.Reshape((64, 16))(h)
    pixels += Attention(2)(pixels, inputs["tokens"], inputs["mask"])
    pixels = keras.layers.Dense(16, activation="gelu")(pixels)
    out = keras.layers.Reshape((8, 8, 4))(keras.layers.Dense(4)(pixels))
    return keras.Model(x, down), keras.Model(z, up), keras.Model(inputs, out)


def kgen_networks():
    network = UNet(
        (8, 8, 4),
        channels=(16,),
        blocks=1,
        attention=(True,),
        heads=2,
        tokens=(LENGTH, 8),
        pooled=8,
    )
    return encoder((16, 16, 3), 4, channels=(8, 16)), decoder((8, 8, 4), channels=(8, 16)), network


@pytest.fixture(
    scope="module", params=[tiny_networks, pytest.param(kgen_networks, marks=pytest.mark.slow)]
)
def model(request):
    keras.utils.set_random_seed(4)
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=len(WORDS),
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=WORDS, lowercase=True)
    text = kgen.TextEncoder(backbone, tokenizer, sequence_length=LENGTH, activation="gelu_erf")
    *halves, network = request.param()
    autoencoder = kgen.KLAutoencoder(*halves, ema_decay=0.9)
    randomise(autoencoder, 0)
    autoencoder.latent_mean.assign([0.1, -0.2, 0.3, 0.0])
    autoencoder.latent_std.assign([0.5, 2.0, 1.0, 1.5])
    process = GaussianDiffusion(CosineLogSNR(12.0, -9.0))
    model = kgen.LatentDiffusion(autoencoder, network, process, text)
    randomise(model, 3)
    return model


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """A function that returns the folder of the parts for a runtime, written once."""
    written = {}

    def of(runtime):
        need(runtime)
        if runtime not in written:
            written[runtime] = tmp_path_factory.mktemp(runtime)
            model.export(written[runtime], parts=runtime)
        return written[runtime]

    return of


def drawn(model, noise, condition, num_steps, scale, solver=None):
    """What `generate` draws from noise, before it is rounded to 8 bits: the solver by itself."""
    with model.averaged():
        cond = model.conditioner(condition)
        null = model.conditioner.null(len(noise))

    def denoise(z, t):
        shown, hidden = (model.denoise(z, t, given) for given in (cond, null))
        return hidden + scale * (shown - hidden)

    times = time_grid(model.process, num_steps)
    z = solve(solver or DPMSolver(), denoise, model.process, noise, times)
    return denoise(z, times[-1])


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize(("num_steps", "scale"), [(None, None), (3, 2.0)])
def test_text_to_image_from_the_same_noise(model, folders, parts, runtime, num_steps, scale):
    client = parts.Parts(folders(runtime), runtime)
    noise = client.noise(len(PROMPTS), seed=1)
    cond = client.condition(PROMPTS)
    images = client.generate(noise, cond, num_steps=num_steps, guidance_scale=scale)
    steps, scale = num_steps or model.default_num_steps, scale or model.default_guidance_scale
    latents = drawn(model, noise, PROMPTS, steps, scale)
    expected = model.autoencoder.decode(latents).numpy()
    np.testing.assert_allclose(images, expected, atol=1e-4)
    assert expected.std() > 0.1
    assert np.abs(expected[0] - expected[2]).max() > 1e-2  # the text matters
    options = {"num_steps": steps, "guidance_scale": scale, "noise": noise}
    pictures = model.generate(PROMPTS, **options).astype(int)
    assert np.abs(client.to_uint8(images) - pictures).max() <= 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_no_guidance_and_one_example(model, folders, parts, runtime):
    client = parts.Parts(folders(runtime), runtime)
    noise = client.noise(1)
    images = client.generate(noise, client.condition(["red"]), num_steps=2, guidance_scale=1.0)
    pictures = model.generate("red", num_steps=2, guidance_scale=1.0, noise=noise).astype(int)
    assert np.abs(client.to_uint8(images) - pictures).max() <= 1


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_process_without_kgen_and_tensorflow(model, folders, tmp_path, runtime):
    code = f"""
import sys
sys.modules["kgen"] = sys.modules["keras"] = sys.modules["tensorflow"] = None
sys.path.insert(0, {str(EXAMPLES)!r})
import parts
parts.main(sys.argv[1:])
"""
    options = ["--runtime", runtime, "--num-steps", "2", "--output", str(tmp_path / "a.png")]
    command = [sys.executable, "-c", code, str(folders(runtime)), "a red apple", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    picture = tf.io.decode_png(tf.io.read_file(str(tmp_path / "a.png"))).numpy()
    noise = np.random.default_rng(0).normal(size=(1, 8, 8, 4))
    noise = noise.astype("float32") * model.process.prior(()).std.numpy()
    expected = model.generate("a red apple", num_steps=2, noise=noise)[0]
    assert np.abs(picture.astype(int) - expected).max() <= 1


def test_litert_has_built_in_operators_only(folders):
    need("litert")
    from ai_edge_litert.interpreter import Interpreter

    for name in ("conditioner", "denoiser", "decoder"):
        interpreter = Interpreter(str(folders("litert") / f"{name}.tflite"))
        operators = {detail["op_name"] for detail in interpreter._get_ops_details()}
        assert operators
        assert not [name for name in operators if "Flex" in name or "CUSTOM" in name.upper()]


def test_what_the_files_say(model, folders):
    said = json.loads((folders("litert") / "parts.json").read_text())
    assert said["shapes"] == {"z": [8, 8, 4], "images": [16, 16, 3]}
    assert said["process"]["scaling"] == "vp"
    assert said["process"]["log_snr_max"] == pytest.approx(12.0, abs=1e-4)
    assert said["process"]["log_snr_min"] == pytest.approx(-9.0, abs=1e-4)
    sampling = said["sampling"]
    assert (sampling["order"], sampling["grid"], sampling["num_steps"]) == (2, "log_snr", 20)
    np.testing.assert_allclose(sampling["log_snr"], np.linspace(-9, 12, 21), atol=1e-3)
    assert said["parts"]["denoiser"]["inputs"]["tokens"] == {
        "shape": [None, LENGTH, 8],
        "dtype": "float32",
    }
    files = {path.name for path in folders("litert").iterdir()}
    assert {part["files"]["litert"] for part in said["parts"].values()} < files
    assert (folders("litert") / "vocabulary" / "vocabulary.txt").read_text().split() == WORDS
    null = json.loads((folders("litert") / "null_condition.json").read_text())
    empty = model.conditioner([""])
    assert set(null) == set(empty)
    for key, value in null.items():
        np.testing.assert_allclose(value, empty[key], atol=1e-5)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_weights_in_eight_bits(parts, tmp_path, runtime):
    """The largest error of a weight is half a step of its channel; that of x_hat is as small."""
    need(runtime)
    for dtype in (None, "int8"):
        network = mlp((64,), (64,), hidden=(256,))
        randomise_layers(network)
        vae = kgen.VAE(mlp((64,), (128,)), network, "bernoulli")
        kgen.export_parts(vae, tmp_path / str(dtype), runtimes=runtime, dtype=dtype)
    sizes = [
        sum(path.stat().st_size for path in (tmp_path / name).glob("decoder.*"))
        for name in ("None", "int8")
    ]
    assert sizes[1] < 0.35 * sizes[0]
    z = np.random.default_rng(0).normal(size=(4, 64)).astype("float32")
    exact, rounded = (parts.Parts(tmp_path / name, runtime).decode(z) for name in ("None", "int8"))
    np.testing.assert_allclose(exact, vae.decode(z), atol=1e-5)
    error = np.sqrt(np.mean((exact - rounded) ** 2)) / exact.std()
    assert 1e-4 < error < 0.02


def randomise_layers(network):
    rng = np.random.default_rng(0)
    for variable in network.trainable_variables:
        variable.assign(rng.normal(0, 1 / 8, variable.shape))


def test_eight_bits_are_the_nearest_codes():
    value = np.random.default_rng(0).normal(size=(5, 7, 3)).astype("float32")
    codes, scale = onnx_file.quantize(value, axis=2)
    np.testing.assert_allclose(scale, np.abs(value).max(axis=(0, 1)) / 127, rtol=1e-6)
    assert (np.abs(value - codes * scale).max(axis=(0, 1)) <= 0.501 * scale).all()


@pytest.mark.parametrize("rounding", [False, True])
def test_the_noise_of_published_networks_in_onnx(tmp_path, rounding):
    """Their index of the noise is computed in float64, in ONNX Runtime too."""
    need("onnx")
    import onnxruntime

    schedule = DiscreteBeta()

    @with_signature([tf.TensorSpec([None], tf.float32, "log_snr")])
    def index(log_snr):
        return {"index": LevelIndex(schedule, rounding)(log_snr)}

    session = onnxruntime.InferenceSession(onnx_file.convert(index))
    levels = np.array([0.0, 1.0, 500.25, 998.75, 999.0])
    log_snr = schedule.log_snr(levels / 999).numpy().astype("float32")
    (found,) = session.run(["index"], {"log_snr": log_snr})
    expected = [0, 1, 500, 999, 999] if rounding else levels
    np.testing.assert_allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_model_of_pixels_told_a_class(parts, tmp_path, runtime):
    need(runtime)
    shapes = {"z": (4, 4, 1), "log_snr": (), "pooled": (4,)}
    inputs = {name: keras.Input(shape, name=name) for name, shape in shapes.items()}
    level = keras.layers.Reshape((1,))(inputs["log_snr"])
    level = keras.layers.Dense(8)(keras.layers.Concatenate()([level, inputs["pooled"]]))
    h = keras.layers.Dense(8)(inputs["z"]) + keras.layers.Reshape((1, 1, 8))(level)
    network = keras.Model(inputs, keras.layers.Conv2D(1, 3, padding="same")(keras.ops.tanh(h)))
    process = GaussianDiffusion(LinearLogSNR(6.0, -5.0), "flow")
    model = kgen.DiffusionModel(network, process, prediction="flow", conditioner=Labels(3, 4))
    randomise(model, 3)
    model.export(tmp_path, parts=runtime, solver=DDIM(grid="karras"))
    client = parts.Parts(tmp_path, runtime)
    noise, labels = client.noise(3), [2, 0, 1]
    images = client.generate(noise, client.condition(labels), num_steps=4, guidance_scale=2.0)
    options = {"num_steps": 4, "guidance_scale": 2.0, "noise": noise, "solver": DDIM(grid="karras")}
    expected = model.generate(labels, **options)
    assert expected.std() > 10
    assert np.abs(client.to_uint8(images) - expected.astype(int)).max() <= 1


def test_a_name_of_a_class_is_in_the_description(tmp_path):
    names = ["cat", "dog"]
    vae = kgen.VAE(
        mlp((8,), (4,), hidden=(4,)),
        mlp([(2,), (2,)], (8,), hidden=(4,)),
        "bernoulli",
        conditioner=Labels(2, 2, names=names),
    )
    kgen.export_parts(vae, tmp_path, runtimes="litert")
    said = json.loads((tmp_path / "parts.json").read_text())
    assert said["names"] == names
    assert [*said["parts"]] == ["conditioner", "decoder"]
    assert [*said["parts"]["decoder"]["inputs"]] == ["latents", "pooled"]
    assert said["pictures"] is None


def test_the_pieces_of_the_example_are_those_of_kgen(parts):
    names = VOCABULARY.read_text("utf-8").splitlines()
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=names, lowercase=True, strip_accents=True)
    said = {"kind": "WordPiece", "new_words": {}, "length": 64, "suffix_indicator": "##"}
    said |= {"start": tokenizer.start_token_id, "end": tokenizer.end_token_id}
    said |= {"pad": tokenizer.pad_token_id, "oov_token": "[UNK]"}
    said |= {"lowercase": True, "strip_accents": True}
    texts = [text for text in sentences() if "[" not in text]
    assert len(texts) > 400
    ids, mask, _ = Packer(tokenizer, 64)(tf.constant(texts))
    cut = parts.WordPieces(VOCABULARY.parent, said)(texts)
    np.testing.assert_array_equal(cut["token_ids"], ids)
    np.testing.assert_array_equal(cut["padding_mask"], mask)
    with pytest.raises(ValueError, match="tokenizes by WordPiece"):
        parts.WordPieces(VOCABULARY.parent, said | {"kind": "BytePair"})


class TestErrors:
    def test_what_has_no_parts(self, tmp_path):
        with pytest.raises(TypeError, match="`model` must have a method `part_functions`.*type"):
            kgen.export_parts(keras.Sequential(), tmp_path)
        hvae = types.SimpleNamespace(latent_names=("latents_0", "latents_1"))
        with pytest.raises(ValueError, match="codes of one tensor.*a SimpleNamespace, with 2"):
            decoder_part(hvae)

    def test_options(self, vae, tmp_path):
        for options, match in (
            ({"runtimes": "tensorrt"}, "`runtimes` must be one of"),
            ({"runtimes": ()}, "`runtimes` must be some of"),
            ({"dtype": "bfloat16"}, "`dtype` must be one of"),
        ):
            with pytest.raises(ValueError, match=match):
                kgen.export_parts(vae, tmp_path / "new", **options)
        with pytest.raises(ValueError, match="`parts` must be False with `warm_up`"):
            vae.export(tmp_path / "new", parts=True, warm_up=True)
        with pytest.raises(TypeError, match="solver"):
            vae.export(tmp_path / "new", parts=True, solver="dpm")
        assert not (tmp_path / "new").exists()

    def test_a_folder_of_other_files(self, vae, tmp_path):
        kgen.export_parts(vae, tmp_path, runtimes="litert")
        before = (tmp_path / "decoder.tflite").read_bytes()
        kgen.export_parts(vae, tmp_path, runtimes="litert")
        assert (tmp_path / "decoder.tflite").stat().st_size == len(before)
        (tmp_path / "mine.txt").touch()
        with pytest.raises(FileExistsError, match=r"empty or parts.*mine\.txt"):
            kgen.export_parts(vae, tmp_path, runtimes="litert")

    def test_a_solver_that_the_client_does_not_know(self):
        model = pixels()
        for solver in (DDIM(eta=1.0), DPMSolver(order=3), "heun"):
            with pytest.raises(ValueError, match="`solver` must be a deterministic DPMSolver"):
                model.part_functions(solver=solver)
        _, said = pixels(default_solver="heun").part_functions()
        assert said["sampling"]["order"] == 2

    def test_a_conditioner_of_texts_alone(self, hashed_words):
        with pytest.raises(ValueError, match="conditioner that takes numbers.*HashedWords"):
            numeric_inputs(hashed_words)

    def test_a_tokenizer_of_another_class(self, tmp_path):
        with pytest.raises(ValueError, match="LISTED.*a SimpleNamespace"):
            tokenizers.write(types.SimpleNamespace(), tmp_path / "new")
        assert not (tmp_path / "new").exists()

    def test_an_operation_without_an_operator(self, tmp_path):
        process = GaussianDiffusion(LinearLogSNR(), "sub_vp")
        with pytest.raises(ValueError, match=r"no built-in operator.*model: Asinh\."):
            kgen.export_parts(pixels(process), tmp_path / "new", runtimes="litert")
        assert not (tmp_path / "new").exists()

    def test_double_precision(self):
        @with_signature([tf.TensorSpec([None, 2], tf.float64, "x")])
        def halved(x):
            return {"y": tf.exp(x)}

        with pytest.raises(ValueError, match=r"no built-in operator.*: Exp \(in float64\)"):
            litert.convert(halved)

    def test_half_precision(self, tmp_path):
        model = pixels()
        model.network.layers[-1].dtype_policy = keras.DTypePolicy("mixed_bfloat16")
        with pytest.raises(ValueError, match="compute in float32.*layers in bfloat16"):
            kgen.export_parts(model, tmp_path / "new")

    def test_a_missing_package(self, vae, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tf2onnx", None)
        with pytest.raises(ImportError, match=r"kgen-keras\[runtimes\]"):
            kgen.export_parts(vae, tmp_path / "new", runtimes="onnx")
        assert not (tmp_path / "new").exists()

    def test_an_operation_unknown_to_onnx(self):
        need("onnx")

        @with_signature([tf.TensorSpec([None, 2], tf.float64, "x")])
        def place(x):
            return {"i": tf.searchsorted(tf.zeros([tf.shape(x)[0], 2], tf.float64), x)}

        with pytest.raises(ValueError, match="ONNX has no operator.*LowerBound"):
            onnx_file.convert(place)


@pytest.fixture
def vae():
    return kgen.VAE(mlp((8,), (4,), hidden=(4,)), mlp((2,), (8,), hidden=(4,)), "bernoulli")


def pixels(process=None, **options):
    """A model of pictures of 4 x 4 pixels without a condition."""
    process = process or GaussianDiffusion(LinearLogSNR())
    z, log_snr = keras.Input((4, 4, 1), name="z"), keras.Input((), name="log_snr")
    level = keras.layers.Reshape((1, 1, 1))(log_snr)
    output = keras.layers.Conv2D(1, 3, padding="same")(z + level)
    return kgen.DiffusionModel(keras.Model([z, log_snr], output), process, **options)
