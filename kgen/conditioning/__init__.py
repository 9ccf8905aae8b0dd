"""Conditioners, which encode the condition of a model: labels, text, vectors or pictures."""

from kgen.conditioning.clip_text import CLIPText
from kgen.conditioning.clip_tower import CLIPTower
from kgen.conditioning.conditioner import Conditioner
from kgen.conditioning.dropout import drop_condition
from kgen.conditioning.labels import Labels
from kgen.conditioning.picture import Picture
from kgen.conditioning.prompt_weights import mixed, weighted
from kgen.conditioning.several import Several
from kgen.conditioning.text_encoder import TextEncoder
from kgen.conditioning.vector import Vector

__all__ = [
    "CLIPText",
    "CLIPTower",
    "Conditioner",
    "Labels",
    "Picture",
    "Several",
    "TextEncoder",
    "Vector",
    "drop_condition",
    "mixed",
    "weighted",
]
