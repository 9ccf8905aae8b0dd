"""Private names of Keras, TensorFlow and KerasHub that kgen uses: any version may change them."""

import ast
import pathlib

import keras
import pytest
import tensorflow as tf

import kgen

KGEN = pathlib.Path(kgen.__file__).parent


def optimizer():
    made = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    made.build([keras.Variable(0.0)])
    return made


def dense():
    layer = keras.layers.Dense(2)
    layer.build((None, 3))
    return layer


def block():
    from keras_hub.layers import TransformerEncoder

    layer = TransformerEncoder(4, 2)
    layer.build((None, 3, 8))
    return layer


def model():
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])


def dataset():
    return tf.data.Dataset.range(2).map(lambda x: x)


# What has the name, and the files of kgen that use it. All were seen in Keras 3.13.2 and 3.15.1,
# TensorFlow 2.20 and 2.21, and KerasHub 0.28 and 0.32.
STRATEGIES = "training/replicas.py"  # entered under a strategy of several devices only
NAMES = {
    "_accumulated_gradients": (optimizer, {STRATEGIES}),
    "_all_reduce_sum_gradients": (optimizer, {STRATEGIES}),
    "_apply_weight_decay": (optimizer, {STRATEGIES}),
    "_backend_apply_gradients": (optimizer, {STRATEGIES}),
    "_backend_update_step": (optimizer, {STRATEGIES}),
    "_clip_gradients": (optimizer, {STRATEGIES}),
    "_get_variable_index": (optimizer, {STRATEGIES}),
    "_iterations": (optimizer, {STRATEGIES}),
    "_maybe_symbolic_build": (model, {STRATEGIES}),
    # Layers can add weights after they are built, but not remove any: LoRA, and averages.
    "_untrack_variable": (dense, {"training/averaging.py", "training/lora.py"}),
    "_tracker": (dense, {"training/lora.py"}),
    "_kernel": (dense, {"published/modules.py", "training/lora.py"}),
    "_inputs": (dataset, {"training/data.py"}),
    "_feedforward_intermediate_dense": (block, {"conditioning/text_presets.py"}),
}


def private_names():
    """The private names that kgen uses and does not define, and where."""
    defined, used = set(), {}
    for path in KGEN.rglob("*.py"):
        place = path.relative_to(KGEN).as_posix()
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                defined.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                defined.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                (names.append if node.attr in NAMES else defined.add)(node.attr)
            elif isinstance(node, ast.Attribute):
                names.append(node.attr)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.extend([node.value] * (node.value in NAMES))
            for name in names:
                if name.startswith("_") and not name.startswith("__"):
                    used.setdefault(name, set()).add(place)
    return {name: places for name, places in used.items() if name not in defined or name in NAMES}


def test_those_that_are_used_are_listed():
    ours = {"_exit", "_init_arguments"}  # of `os`; set by `object.__setattr__`
    found = {name: places for name, places in private_names().items() if name not in ours}
    assert found == {name: places for name, (_, places) in NAMES.items()}


@pytest.mark.parametrize("name", NAMES)
def test_it_exists(name):
    make, _ = NAMES[name]
    assert hasattr(make(), name)
