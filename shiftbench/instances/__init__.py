"""Telling instances apart: what heads are taught, their loss, and how their outputs become instance ids."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shiftbench.instances.decoding import decode, separate
    from shiftbench.instances.ids import settled, without_small
    from shiftbench.instances.loss import head_loss
    from shiftbench.instances.targets import head_targets

__all__ = ["decode", "head_loss", "head_targets", "separate", "settled", "without_small"]

_HOME = {
    "decode": "decoding",
    "head_loss": "loss",
    "head_targets": "targets",
    "separate": "decoding",
    "settled": "ids",
    "without_small": "ids",
}


def __getattr__(name: str) -> Any:
    """The functions, imported at first use: contracts and data tasks that need one of them start without torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'shiftbench.instances' has no attribute '{name}'")
    return getattr(import_module(f"shiftbench.instances.{_HOME[name]}"), name)
