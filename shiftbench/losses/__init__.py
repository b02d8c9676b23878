"""Training losses in one signature: `loss(logits, reference, *, ignore=None, class_weights=None, **options)`.

Where torch-free code asks which losses there are and which options they take, it imports `shiftbench.losses.terms`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shiftbench.losses.terms import OPTIONS, check_terms

if TYPE_CHECKING:
    from shiftbench.losses.gradients import background_gradient_share
    from shiftbench.losses.objective import LOSSES, Objective, dice_ce, dice_focal
    from shiftbench.losses.overlap import dice, tversky
    from shiftbench.losses.surface import boundary, hausdorff, signed_distances
    from shiftbench.losses.voxel import bce, cross_entropy, focal

__all__ = [
    "LOSSES",
    "OPTIONS",
    "Objective",
    "background_gradient_share",
    "bce",
    "boundary",
    "check_terms",
    "cross_entropy",
    "dice",
    "dice_ce",
    "dice_focal",
    "focal",
    "hausdorff",
    "signed_distances",
    "tversky",
]

_HOME = {
    "LOSSES": "objective",
    "Objective": "objective",
    "background_gradient_share": "gradients",
    "bce": "voxel",
    "boundary": "surface",
    "cross_entropy": "voxel",
    "dice": "overlap",
    "dice_ce": "objective",
    "dice_focal": "objective",
    "focal": "voxel",
    "hausdorff": "surface",
    "signed_distances": "surface",
    "tversky": "overlap",
}


def __getattr__(name: str) -> Any:
    """The functions, imported at first use so that a plan can check terms without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'shiftbench.losses' has no attribute '{name}'")
    return getattr(import_module(f"shiftbench.losses.{_HOME[name]}"), name)
