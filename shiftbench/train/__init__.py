"""Training: patches from a bank of cases, augmentation on the device, and a loop that fits on a screen."""

from shiftbench.train.augment import AUGMENTATIONS, augment
from shiftbench.train.average import Average, refresh_statistics_
from shiftbench.train.bank import IGNORE
from shiftbench.train.checkpoint import Checkpoint
from shiftbench.train.failures import NonFiniteLoss, OutOfMemory
from shiftbench.train.loop import fit, precision, seeded
from shiftbench.train.patches import PatchSampler
from shiftbench.train.progress import Observed, Progress
from shiftbench.train.speed import Speed
from shiftbench.train.state import one_cycle
from shiftbench.train.supervised import Supervised, fit_supervised

__all__ = [
    "AUGMENTATIONS",
    "IGNORE",
    "Average",
    "Checkpoint",
    "NonFiniteLoss",
    "Observed",
    "OutOfMemory",
    "PatchSampler",
    "Progress",
    "Speed",
    "Supervised",
    "augment",
    "fit",
    "fit_supervised",
    "one_cycle",
    "precision",
    "refresh_statistics_",
    "seeded",
]
