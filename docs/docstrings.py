"""Makes the examples of docstrings code in the reference, as mkdocstrings knows them."""

import re

import griffe


class Examples(griffe.Extension):
    """Names the section `Example:` as Griffe does, which would take its code for text."""

    def on_object(self, *, obj, **kwargs):
        """Changes the docstring of an object when it has been read."""
        if obj.docstring is not None:
            pattern = re.compile(r"^Example:$", re.MULTILINE)
            obj.docstring.value = pattern.sub("Examples:", obj.docstring.value)
