"""SavedModels in fresh processes that know neither kgen nor Keras, against the models."""

import pathlib
import subprocess
import sys

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_text

import kgen
from kgen.conditioning import Labels as ClassLabels
from kgen.diffusion import CosineLogSNR, GaussianDiffusion
from kgen.networks import TimeMLP
from kgen.networks.blocks import dtype_policy
from kgen.networks.conv import decoder, encoder
from kgen.networks.unet import UNet

# Keras 3.15 turns TensorFlow variables into arrays in a way that numpy 2.4 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

PROMPTS = ["a red apple", "", "apples"]
# (number of prompts, num_steps, guidance_scale, seed)
CALLS = [(3, 2, 3.0, 7), (3, 1, 3.0, 7), (1, 5, 3.0, 7), (3, 2, 1.0, 7), (3, 2, 3.0, 8)]
LENGTH = 6

RUN = """
import sys
sys.modules["kgen"] = sys.modules["keras"] = sys.modules["tensorflow_text"] = None
import numpy as np
import tensorflow as tf
{operations}
folder, output, prompts = sys.argv[1], sys.argv[2], sys.argv[3:]
loaded = tf.saved_model.load(folder)
inputs = {inputs}
results = {{}}
for index, (count, num_steps, guidance_scale, seed) in enumerate({calls}):
    arguments = {{key: tf.constant(value[:count]) for key, value in inputs.items()}}
    arguments |= {{
        "num_steps": tf.constant(num_steps),
        "guidance_scale": tf.constant(guidance_scale),
        "seed": tf.constant([seed, 0]),
    }}
    images = loaded.signatures["serving_default"](**arguments)["images"]
    png = loaded.signatures["generate_png"](**arguments)["png_bytes"]
    results[f"images_{{index}}"] = images.numpy()
    results[f"png_{{index}}"] = np.stack([tf.io.decode_png(p).numpy() for p in png])
{extra}
np.savez(output, **results)
"""
# The operations of TensorFlow Text without its Python package, which imports Keras.
TEXT_OPERATIONS = """
import pathlib
for library in sorted(pathlib.Path({path!r}).glob("python/ops/*.so")):
    tf.load_op_library(str(library))
"""


def tiny_text_encoder():
    backbone = keras_hub.models.BertBackbone(
        vocabulary_size=9,
        num_layers=1,
        num_heads=2,
        hidden_dim=8,
        intermediate_dim=16,
        max_sequence_length=8,
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "apple", "##s"]
    tokenizer = keras_hub.models.BertTokenizer(vocabulary=vocabulary, lowercase=True)
    return kgen.TextEncoder(backbone, tokenizer, sequence_length=LENGTH)


def tiny_autoencoder():
    return kgen.KLAutoencoder(
        encoder((16, 16, 3), 4, channels=(8, 16)),
        decoder((8, 8, 4), channels=(8, 16)),
        ema_decay=0.9,
    )


def randomise(variables, seed):
    """The output layer of a new U-Net is zero and biases are: nothing would depend on the text."""
    rng = np.random.default_rng(seed)
    for variable in variables:
        fan_in = max(1, int(np.prod(variable.shape[:-1])))
        variable.assign(rng.normal(0, 1.5 / np.sqrt(fan_in), variable.shape))


@pytest.fixture(scope="module")
def model():
    """Its averaged weights, the autoencoder's too, differ from the trained ones."""
    autoencoder = tiny_autoencoder()
    randomise(autoencoder.trainable_variables, 0)
    autoencoder.averages.reset()
    randomise(autoencoder.trainable_variables, 1)
    autoencoder.latent_mean.assign([0.1, -0.2, 0.3, 0.0])
    autoencoder.latent_std.assign([0.5, 2.0, 1.0, 1.5])
    keras.utils.set_random_seed(4)
    text_encoder = tiny_text_encoder()
    network = UNet(
        autoencoder.latent_shape,
        channels=(16, 32),
        blocks=1,
        attention=(False, True),
        heads=2,
        tokens=(LENGTH, 8),
        pooled=8,
    )
    process = GaussianDiffusion(CosineLogSNR())
    model = kgen.LatentDiffusion(autoencoder, network, process, text_encoder)
    randomise(network.trainable_variables, 3)
    model.averages.reset()
    randomise(network.trainable_variables, 4)
    return model


@pytest.fixture(scope="module")
def expected(model):
    return [
        model.generate(PROMPTS[:count], num_steps=steps, guidance_scale=scale, seed=seed)
        for count, steps, scale, seed in CALLS
    ]


def run(folder, output, operations="", inputs="{'prompts': prompts}", extra=""):
    """Calls the SavedModel in a process in which an import of kgen or Keras fails."""
    code = RUN.format(operations=operations, inputs=inputs, calls=CALLS, extra=extra)
    command = [sys.executable, "-c", code, str(folder), str(output), *PROMPTS]
    done = subprocess.run(command, cwd=output.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(output) as results:
        return dict(results)


def assert_same_pictures(images, expected):
    """Equal, up to the last bit of a float that falls on the border between two of 256 values."""
    difference = np.abs(images.astype(int) - expected.astype(int))
    assert images.dtype == np.uint8
    assert images.shape == expected.shape
    assert difference.max() <= 1
    assert (difference > 0).mean() < 3e-3  # two of the 768 values of a picture


KNOWN = np.random.default_rng(5).uniform(-1, 1, (len(PROMPTS), 16, 16, 3)).astype("float32")
MASK = np.zeros((1, 16, 16, 1), "float32")
MASK[:, :, 10:] = 1.0
NOISE = np.random.default_rng(6).normal(size=(len(PROMPTS), 8, 8, 4)).astype("float32")


@pytest.fixture(scope="module")
def from_prompts(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    kgen.export_saved_model(model, folder / "models" / "1")
    return run(
        folder / "models" / "1",
        folder / "results.npz",
        operations=TEXT_OPERATIONS.format(path=tensorflow_text.__path__[0]),
        extra="""
try:
    loaded.serving_default(tf.constant(prompts), 0, 3.0, tf.constant([7, 0]))
except tf.errors.InvalidArgumentError as error:
    results["error"] = str(error)
seeds = tf.constant([[7, 0], [9, 0], [7, 0]])
drawn = loaded.generate_with_seeds(tf.constant(prompts), 2, 3.0, seeds)["images"]
alone = loaded.generate_with_seeds(tf.constant(prompts[1:2]), 2, 3.0, seeds[1:2])["images"]
results["of_seeds"], results["alone"] = drawn, alone
""",
    )


@pytest.fixture(scope="module")
def from_tokens(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    offered = {"editing": True, "negatives": True, "from_noise": True}
    kgen.export_saved_model(model, folder, inputs="token_ids", **offered)
    np.savez(folder.with_suffix(".npz"), **model.conditioner.tokenize(PROMPTS))
    np.savez(folder.with_suffix(".edit.npz"), images=KNOWN, mask=MASK, noise=NOISE)
    return run(
        folder,
        folder.with_suffix(".results.npz"),
        inputs="dict(np.load(folder + '.npz'))",
        extra="""
ids, mask = (inputs[key] for key in ("token_ids", "padding_mask"))
results["method"] = loaded.generate_from_tokens(ids, mask, 2, 3.0, [7, 0])["images"]
results["away"] = loaded.generate_with_negatives_from_tokens(
    ids, mask, ids[::-1], mask[::-1], 2, 3.0, [7, 0]
)["images"]
begin = dict(np.load(folder + ".edit.npz"))
for name, strength, paint in (("again", 0.6, begin["mask"] ** 0), ("part", 1.0, begin["mask"])):
    edited = loaded.edit_from_tokens(
        **inputs, images=begin["images"], mask=paint, strength=strength,
        num_steps=2, guidance_scale=3.0, seed=tf.constant([7, 0]),
    )
    results[name] = edited["images"]
call = loaded.signatures["generate_from_noise_from_tokens"]
options = {"num_steps": tf.constant(2), "guidance_scale": tf.constant(3.0)}
for name, seed in (("from_noise", 7), ("from_noise_again", 8)):
    given = {**inputs, **options, "noise": begin["noise"], "seed": [seed, 0]}
    results[name] = call(**{key: tf.constant(value) for key, value in given.items()})["images"]
for name, noise in (("few", begin["noise"][:2]), ("infinite", begin["noise"] * np.inf)):
    try:
        loaded.generate_from_noise_from_tokens(ids, mask, noise, 2, 3.0, [7, 0])
    except tf.errors.InvalidArgumentError as error:
        results[name] = str(error)
""",
    )


@pytest.mark.parametrize("form", ["from_prompts", "from_tokens"])
class TestTextToImage:
    def test_equals_generate_for_every_number_of_steps(self, request, form, expected):
        results = request.getfixturevalue(form)
        for index, images in enumerate(expected):
            assert_same_pictures(results[f"images_{index}"], images)

    def test_png_is_the_picture(self, request, form):
        results = request.getfixturevalue(form)
        for index in range(len(CALLS)):
            np.testing.assert_array_equal(results[f"png_{index}"], results[f"images_{index}"])


def test_pictures_depend_on_text_seed_steps_and_guidance(expected):
    """Or the comparisons above would say nothing."""
    first, one_step, five_steps, unguided, other_seed = expected
    for other in (one_step, unguided, other_seed):
        assert np.abs(first.astype(int) - other).mean() > 2
    assert np.abs(one_step[:1].astype(int) - five_steps).mean() > 2
    assert first.std() > 10


def test_prompts_matter(model):
    images = [model.generate(p, num_steps=2, seed=7).astype(int) for p in ("a red apple", "a")]
    assert np.abs(images[0] - images[1]).mean() > 0.5


def test_number_of_steps_is_checked(from_prompts):
    assert "`num_steps` must be at least 1" in str(from_prompts["error"])


def test_a_seed_for_each_example(model, from_prompts):
    images = from_prompts["of_seeds"]
    expected = model.generate(PROMPTS, num_steps=2, guidance_scale=3.0, seed=[7, 9, 7])
    assert_same_pictures(images, expected)
    assert_same_pictures(from_prompts["alone"], images[1:2])


def test_method_with_positional_arguments(from_tokens, expected):
    assert_same_pictures(from_tokens["method"], expected[0])


def test_negatives(model, from_tokens, expected):
    options = {"negative": PROMPTS[::-1], "num_steps": 2, "guidance_scale": 3.0, "seed": 7}
    away = model.generate(PROMPTS, **options)
    assert_same_pictures(from_tokens["away"], away)
    assert np.abs(away.astype(int) - expected[0])[0].mean() > 2


def test_given_noise(model, from_tokens, expected):
    options = {"noise": NOISE, "num_steps": 2, "guidance_scale": 3.0}
    assert_same_pictures(from_tokens["from_noise"], model.generate(PROMPTS, **options))
    np.testing.assert_array_equal(from_tokens["from_noise"], from_tokens["from_noise_again"])
    assert np.abs(from_tokens["from_noise"].astype(int) - expected[0]).mean() > 2
    assert "`token_ids` must be one for each example" in str(from_tokens["few"])
    assert "`noise` must be finite" in str(from_tokens["infinite"])


def test_edit_is_image_to_image_and_inpainting(model, from_tokens):
    options = {"images": KNOWN, "num_steps": 2, "guidance_scale": 3.0, "seed": 7}
    assert_same_pictures(from_tokens["again"], model.generate(PROMPTS, strength=0.6, **options))
    assert_same_pictures(from_tokens["part"], model.generate(PROMPTS, mask=MASK, **options))
    known = np.round((KNOWN + 1) * 127.5)
    np.testing.assert_array_equal(from_tokens["part"][:, :, :10], known[:, :, :10])
    assert np.abs(from_tokens["part"] - known)[:, :, 10:].mean() > 10


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("autoencoder")
    kgen.export_saved_model(model.autoencoder, folder)
    return folder


class TestAutoencoder:
    def test_is_the_averaged_model(self, model, folder):
        x = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype("float32")
        loaded = tf.saved_model.load(folder)
        with model.autoencoder.averaged():
            z = model.autoencoder.encode(x)
            x_hat = model.autoencoder.decode(z)
        encoded = loaded.signatures["encode"](images=x)["latents"]
        np.testing.assert_allclose(encoded, z, atol=1e-4)
        decoded = loaded.signatures["decode"](latents=z)["images"]
        np.testing.assert_allclose(decoded, x_hat, atol=1e-4)
        for name in ("reconstruct", "serving_default"):
            pictures = loaded.signatures[name](images=x)["images"]
            np.testing.assert_allclose(pictures, x_hat, atol=1e-4)
        raw = model.autoencoder.decoder(model.autoencoder.encoder(x)[..., :4])
        assert np.abs(raw - x_hat).max() > 0.1

    def test_holds_each_weight_once(self, model, folder):
        """Neither the trained weights beside the averaged ones, nor seeds, nor an optimizer."""
        stored = tf.train.list_variables(str(folder / "variables" / "variables"))
        numbers = sum(int(np.prod(shape)) for name, shape in stored if "weights" in name)
        parts = (model.autoencoder.encoder, model.autoencoder.decoder)
        assert numbers == sum(part.count_params() for part in parts) + 2 * 4

    def test_replaces_a_saved_model(self, folder):
        (folder / "variables" / "stale").touch()
        kgen.export_saved_model(tiny_autoencoder(), folder)
        assert not (folder / "variables" / "stale").exists()
        loaded = tf.saved_model.load(folder)
        assert loaded.reconstruct(tf.zeros([1, 16, 16, 3]))["images"].shape == (1, 16, 16, 3)
        assert [path.name for path in folder.parent.iterdir() if "partial" in path.name] == []


@pytest.mark.parametrize(("kind", "width"), [(kgen.Autoencoder, 3), (kgen.KLAutoencoder, 6)])
def test_networks_that_end_in_half_precision(tmp_path, kind, width):
    """Numbers are doubled and halved again, which half precision does exactly."""
    with dtype_policy("mixed_bfloat16"):
        half = [
            keras.Sequential([keras.Input((3,)), keras.layers.Dense(size, use_bias=False)])
            for size in (width, 3)
        ]
    half[0].set_weights([2 * np.eye(3, width)])
    half[1].set_weights([0.5 * np.eye(3)])
    kgen.export_saved_model(kind(*half), tmp_path)
    loaded, x = tf.saved_model.load(tmp_path), tf.constant([[0.25, -0.5, 1.0]])
    np.testing.assert_array_equal(loaded.encode(x)["latents"], 2 * x)
    images = loaded.reconstruct(x)["images"]
    assert images.dtype == tf.float32
    np.testing.assert_array_equal(images, x)


PIXELS = """
import sys
sys.modules["kgen"] = sys.modules["keras"] = sys.modules["tensorflow_text"] = None
import numpy as np
import tensorflow as tf
folder, labels = sys.argv[1], [int(v) for v in sys.argv[2:]]
loaded = tf.saved_model.load(folder)
first = [tf.constant(labels)] if labels else [tf.constant(3)]
seed, results = tf.constant([7, 0]), {}
for num_steps, scale in ((2, 3.0), (5, 1.0)):
    options = [tf.constant(num_steps), *([tf.constant(scale)] if labels else [])]
    results[f"images_{num_steps}"] = loaded.generate(*first, *options, seed)["images"]
    begin = [np.load(folder + "/x.npy"), np.load(folder + "/mask.npy"), 0.8]
    edited = loaded.edit(*(first if labels else []), *begin, *options, seed)
    results[f"edited_{num_steps}"] = edited["images"]
x = tf.constant(np.load(folder + "/x.npy"))
condition = {"labels": first[0]} if labels else {}
measured = loaded.log_likelihood(images=x, **condition, seed=seed)
np.savez(folder + "/results.npz", log_p=measured["log_likelihood"], **results)
"""


@pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (kgen.DiffusionModel, [1, 0, 2]),
        pytest.param(kgen.DiffusionModel, [], marks=pytest.mark.slow),
        pytest.param(kgen.ScoreModel, [1, 0, 2], marks=pytest.mark.slow),
        pytest.param(kgen.ScoreModel, [], marks=pytest.mark.slow),
    ],
)
def test_models_of_pixels(tmp_path, kind, labels):
    """Pictures and likelihoods in a process without kgen are those of the model here."""
    pooled = {"pooled": 4} if labels else {}
    network = UNet((8, 8, 1), channels=(8,), blocks=1, attention=(False,), heads=2, **pooled)
    conditioner = ClassLabels(3, 4) if labels else None
    process = GaussianDiffusion(CosineLogSNR(5.0, -5.0))
    model = kind(network, process, conditioner=conditioner, ema_decay=0.9)
    randomise(model.trainable_variables, 3)
    output = network.graph.get_layer("conv_out")
    # Small, so that an adaptive solver soon follows the flow, and no picture is all white.
    output.kernel.assign(0.2 * output.kernel)
    output.bias.assign([0.0])
    model.averages.reset()
    randomise(model.trainable_variables, 4)
    folder, x = tmp_path / "1", np.linspace(-1, 1, 192).reshape(3, 8, 8, 1).astype("float32")
    kgen.export_saved_model(model, folder, editing=True)
    mask = (np.indices((3, 8, 8))[2] > 3)[..., None].astype("float32")
    np.save(folder / "x.npy", x)
    np.save(folder / "mask.npy", mask)
    command = [sys.executable, "-c", PIXELS, str(folder), *map(str, labels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = np.load(folder / "results.npz")
    who = {"condition": labels} if labels else {"num_samples": 3}
    for num_steps, scale in ((2, 3.0), (5, 1.0)):
        scale = {"guidance_scale": scale} if labels else {}
        images = model.generate(**who, num_steps=num_steps, seed=7, **scale)
        assert_same_pictures(results[f"images_{num_steps}"], images)
        assert images.std() > 10
        begin = {"images": x, "mask": mask, "strength": 0.8}
        edited = model.generate(**who, num_steps=num_steps, seed=7, **begin, **scale)
        assert_same_pictures(results[f"edited_{num_steps}"], edited)
        np.testing.assert_array_equal(edited[:, :, :4], np.round((x[:, :, :4] + 1) * 127.5))
    # The step that `log_likelihood` runs once it has folded an index into its seed.
    step = model.flow_log_likelihood(kgen.solvers.DormandPrince(), 1)
    cond = None
    if labels:
        with model.averaged():
            cond = conditioner(tf.constant(labels))
    log_p = step(tf.constant(x), cond, tf.constant([7, 0]))
    np.testing.assert_allclose(results["log_p"], log_p, rtol=1e-3)


def test_a_model_of_points_told_a_text(tmp_path):
    """Strings in, as in `generate`, of a `DiffusionModel` with a text encoder."""
    keras.utils.set_random_seed(4)
    text, process = tiny_text_encoder(), GaussianDiffusion(CosineLogSNR(5.0, -5.0))
    randomise(text.parts.backbone.trainable_variables, 2)
    model = kgen.DiffusionModel(
        TimeMLP(2, width=8, blocks=1, pooled=8), process, conditioner=text, grey_levels=None, seed=0
    )
    x = np.random.default_rng(0).normal(size=(60, 2)).astype("float32")
    data = {"images": x, "prompts": ["a", "apple", "red"] * 20}
    model.compile(keras.optimizers.Adam(0.03))
    model.fit(tf.data.Dataset.from_tensor_slices(data).batch(20), epochs=2, verbose=0)
    options = {"num_steps": 3, "seed": 7}
    expected = model.generate(PROMPTS, guidance_scale=2.0, **options)
    other = model.generate(PROMPTS[::-1], guidance_scale=2.0, **options)
    assert np.abs(expected[0] - other[0]).max() > 1e-3
    away = model.generate(PROMPTS, guidance_scale=2.0, negative="red", **options)
    assert np.abs(expected - away).max() > 1e-3
    kgen.export_saved_model(model, tmp_path / "1")
    loaded = tf.saved_model.load(str(tmp_path / "1"))
    seed = tf.constant([7, 0])
    drawn = loaded.generate(tf.constant(PROMPTS), tf.constant(3), tf.constant(2.0), seed)["images"]
    np.testing.assert_allclose(drawn, expected, atol=1e-4)
    nats = loaded.log_likelihood(tf.constant(x[:3]), tf.constant(PROMPTS), seed)["log_likelihood"]
    assert np.isfinite(nats).all()


class TestErrors:
    @pytest.mark.parametrize("other", [None, "saved_models/text_to_image", keras.Sequential()])
    def test_model(self, tmp_path, other):
        with pytest.raises(TypeError, match="`model` must have a method `export_functions`.*type"):
            kgen.export_saved_model(other, tmp_path / "new")
        assert list(tmp_path.iterdir()) == []

    def test_options(self, model, tmp_path):
        with pytest.raises(ValueError, match="`inputs` must be None or one of.*inputs='text'"):
            kgen.export_saved_model(model, tmp_path / "new", inputs="text")
        with pytest.raises(ValueError, match="`solver` must be.*'euler'"):
            kgen.export_saved_model(model, tmp_path / "new", solver="euler")
        with pytest.raises(TypeError, match="'sampler'"):
            kgen.export_saved_model(model, tmp_path / "new", sampler="dpm")
        with pytest.raises(TypeError, match="inputs"):
            kgen.export_saved_model(model.autoencoder, tmp_path / "new", inputs="prompts")
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("names", [["notes.txt"], ["saved_model.pb", "notes.txt"], ["assets"]])
    def test_folder_that_is_not_a_saved_model(self, model, tmp_path, names):
        for name in names:
            (tmp_path / name).write_text("precious")
        with pytest.raises(FileExistsError, match="new, empty or a SavedModel.*" + names[-1]):
            kgen.export_saved_model(model, tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)

    def test_file(self, model, tmp_path):
        (tmp_path / "file").write_text("precious")
        with pytest.raises(FileExistsError, match="`directory` must be a folder. Received:.*file"):
            kgen.export_saved_model(model, tmp_path / "file")


SHIPPED = """
import sys
sys.modules["kgen"] = sys.modules["keras"] = None
import numpy as np
import tensorflow as tf
folder, data, output = sys.argv[1:]
loaded, x = tf.saved_model.load(folder), np.load(data)
points = loaded.generate(num_samples=500, num_steps=30, seed=[0, 0])["images"]
nats = loaded.log_likelihood(images=x, seed=[0, 0])["log_likelihood"]
np.savez(output, points=points, nats=nats)
"""


def test_the_shipped_export_knows_its_spirals(tmp_path):
    """Both arms and nothing else, and their density: noise of 0.05 about two curves."""
    folder = pathlib.Path(__file__).parents[2] / "saved_models" / "spirals" / "1"
    turn = 3 * np.pi * np.sqrt(np.linspace(0.05, 1, 2000))
    arm = np.stack([turn * np.cos(turn), turn * np.sin(turn)], -1) / 4.5
    arms = np.concatenate([arm, -arm])
    rng = np.random.default_rng(1)
    x = arms[rng.integers(0, len(arms), 200)] + 0.05 * rng.normal(size=(200, 2))
    np.save(tmp_path / "x.npy", x.astype("float32"))
    files = [str(folder), str(tmp_path / "x.npy"), str(tmp_path / "results.npz")]
    command = [sys.executable, "-c", SHIPPED, *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    results = np.load(tmp_path / "results.npz")
    distance = np.linalg.norm(results["points"][:, None] - arms, axis=-1)
    assert (distance.min(1) < 0.2).mean() > 0.95
    assert (distance.min(0) < 0.2).mean() > 0.95
    squares = ((x[:, None] - arms) ** 2).sum(-1)
    density = np.exp(-squares / (2 * 0.05**2)).mean(1) / (2 * np.pi * 0.05**2)
    assert results["nats"].mean() == pytest.approx(np.log(density).mean(), abs=0.15)
