"""Networks: one U-Net, any other torch module, and the wrapper that carries normalisation with the weights."""

from shiftbench.networks.build import build
from shiftbench.networks.unet import UNet
from shiftbench.networks.wrapper import Normalise, Normalised, Outputs, percentiles

__all__ = ["Normalise", "Normalised", "Outputs", "UNet", "build", "percentiles"]
