"""Plain Keras networks that know no probability."""

from kgen.networks.conv import decoder, encoder
from kgen.networks.dit import DiT
from kgen.networks.mlp import KSparse, TimeMLP, mlp
from kgen.networks.unet import UNet

__all__ = ["DiT", "KSparse", "TimeMLP", "UNet", "decoder", "encoder", "mlp"]
