"""Conditions: what a generative model is told, and how it learns to do without."""

from kgen.conditioning.clip_text import CLIPText
from kgen.conditioning.clip_tower import CLIPTower
from kgen.conditioning.conditioner import Conditioner
from kgen.conditioning.dropout import drop_condition
from kgen.conditioning.labels import Labels
from kgen.conditioning.text_encoder import TextEncoder

__all__ = ["CLIPText", "CLIPTower", "Conditioner", "Labels", "TextEncoder", "drop_condition"]
