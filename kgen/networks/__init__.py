"""Plain Keras networks that know no probability."""

from kgen.networks.conv import decoder, encoder
from kgen.networks.mlp import KSparse, mlp
from kgen.networks.unet import UNet

__all__ = ["KSparse", "UNet", "decoder", "encoder", "mlp"]
