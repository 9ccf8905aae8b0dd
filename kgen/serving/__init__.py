"""The functions that models offer in a SavedModel, and an HTTP server of models."""
