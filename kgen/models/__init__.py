"""The generative models, `keras.Model` subclasses, one per file."""
