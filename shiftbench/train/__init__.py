"""Training: patches from a bank of cases, augmentation on the device, and a loop that fits on a screen."""

from shiftbench.train.augment import augment
from shiftbench.train.loop import NonFiniteLoss, fit, one_cycle, seeded
from shiftbench.train.patches import PatchSampler
from shiftbench.train.supervised import fit_supervised

__all__ = ["NonFiniteLoss", "PatchSampler", "augment", "fit", "fit_supervised", "one_cycle", "seeded"]
