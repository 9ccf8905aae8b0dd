"""Models run operation by operation, for tests of what is around a model.

Tracing a U-Net takes longer than running it a few times. A test whose claims do not depend on the
graph (such as that the code of a page runs) saves the tracing; graphs are tested with the models,
the samplers and the exports.
"""

import contextlib
import warnings

import tensorflow as tf


@contextlib.contextmanager
def eagerly():
    """Runs every `tf.function` that is called inside without tracing it."""
    tf.config.run_functions_eagerly(True)
    try:
        with warnings.catch_warnings():
            message = "Even though the `tf.config.experimental_run_functions_eagerly`"
            warnings.filterwarnings("ignore", message, UserWarning)  # tf.data still traces
            yield
    finally:
        tf.config.run_functions_eagerly(False)
