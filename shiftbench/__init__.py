"""ShiftBench: medical image segmentation under domain shift."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from shiftbench.version import __version__

if TYPE_CHECKING:
    from shiftbench import metrics, shifts
    from shiftbench.runner import read_rows, run
    from shiftbench.spec import load_scenario

__all__ = ["__version__", "load_scenario", "metrics", "read_rows", "run", "shifts"]

_FUNCTIONS = {"load_scenario": "shiftbench.spec", "run": "shiftbench.runner", "read_rows": "shiftbench.runner"}


def __getattr__(name: str) -> Any:
    """The public names, imported at first use so that the command line starts fast."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(_FUNCTIONS[name]), name)
    if name in ("metrics", "shifts"):
        return importlib.import_module(f"shiftbench.{name}")
    raise AttributeError(f"module 'shiftbench' has no attribute '{name}'")
