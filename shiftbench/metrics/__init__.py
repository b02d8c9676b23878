"""Scores of a prediction against a reference: overlap, surfaces, instances, and one pass over a whole case."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shiftbench.metrics.scorers import (
    CALIBRATION_SCORERS,
    INSTANCE_SCORERS,
    LESION_SCORERS,
    METRICS,
    SCORERS,
    SEGMENT_SCORERS,
    TUBE_SCORERS,
    ScoredStructure,
    Scorer,
    metrics_of,
)

if TYPE_CHECKING:
    from shiftbench.metrics.case import Score, score_case
    from shiftbench.metrics.instance import Overlaps, overlaps
    from shiftbench.metrics.overlap import dsc, volume_bias_percent
    from shiftbench.metrics.surface import hd95_mm, nsd

__all__ = [
    "CALIBRATION_SCORERS",
    "INSTANCE_SCORERS",
    "LESION_SCORERS",
    "METRICS",
    "SCORERS",
    "SEGMENT_SCORERS",
    "TUBE_SCORERS",
    "Overlaps",
    "Score",
    "ScoredStructure",
    "Scorer",
    "dsc",
    "hd95_mm",
    "metrics_of",
    "nsd",
    "overlaps",
    "score_case",
    "volume_bias_percent",
]

_HOME = {
    "Overlaps": "instance",
    "overlaps": "instance",
    "Score": "case",
    "score_case": "case",
    "dsc": "overlap",
    "volume_bias_percent": "overlap",
    "hd95_mm": "surface",
    "nsd": "surface",
}


def __getattr__(name: str) -> Any:
    """The functions, imported at first use so that the table of metrics is at hand at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'shiftbench.metrics' has no attribute '{name}'")
    return getattr(import_module(f"shiftbench.metrics.{_HOME[name]}"), name)
