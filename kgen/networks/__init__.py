"""Keras networks and layers: U-Net, diffusion transformer, autoencoders and dense networks."""

from kgen.networks.attention import Attention
from kgen.networks.blocks import (
    attention_block,
    downsample,
    geglu,
    group_norm,
    residual_block,
    transformer_block,
    upsample,
)
from kgen.networks.conditional import ConditionalNetwork, dtype_policy
from kgen.networks.conv import decoder, encoder
from kgen.networks.dit import DiT
from kgen.networks.embeddings import SinusoidalEmbedding, noise_position
from kgen.networks.hierarchy import conv_hierarchy, dense_hierarchy
from kgen.networks.mlp import KSparse, TimeMLP, mlp
from kgen.networks.norm import GroupNorm
from kgen.networks.resize import resized
from kgen.networks.shapes import Crop, CropTo, Fold, Pad, Pixels, Unfold, fold, unfold
from kgen.networks.unet import UNet
from kgen.networks.upsample import UpsampleConv

__all__ = [
    "Attention",
    "ConditionalNetwork",
    "Crop",
    "CropTo",
    "DiT",
    "Fold",
    "GroupNorm",
    "KSparse",
    "Pad",
    "Pixels",
    "SinusoidalEmbedding",
    "TimeMLP",
    "UNet",
    "Unfold",
    "UpsampleConv",
    "attention_block",
    "conv_hierarchy",
    "decoder",
    "dense_hierarchy",
    "downsample",
    "dtype_policy",
    "encoder",
    "fold",
    "geglu",
    "group_norm",
    "mlp",
    "noise_position",
    "residual_block",
    "resized",
    "transformer_block",
    "unfold",
    "upsample",
]
