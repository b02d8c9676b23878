"""Networks: one U-Net, any other torch module, the wrapper around either, and what a network sees and needs."""

from shiftbench.networks.build import build
from shiftbench.networks.checkerboard import checkerboard_energy
from shiftbench.networks.field import in_mm, receptive_field
from shiftbench.networks.memory import activation_memory, total_bytes
from shiftbench.networks.unet import UNet
from shiftbench.networks.wrapper import Normalise, Normalised, Outputs, percentiles

__all__ = [
    "Normalise",
    "Normalised",
    "Outputs",
    "UNet",
    "activation_memory",
    "build",
    "checkerboard_energy",
    "in_mm",
    "percentiles",
    "receptive_field",
    "total_bytes",
]
