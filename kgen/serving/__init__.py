"""Models as functions of a SavedModel."""
