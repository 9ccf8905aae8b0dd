"""Plain Keras networks that know no probability."""

from kgen.networks.conv import decoder, encoder
from kgen.networks.unet import UNet

__all__ = ["UNet", "decoder", "encoder"]
