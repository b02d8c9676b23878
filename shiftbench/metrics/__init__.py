"""Scores of a prediction against a reference: overlap, surfaces, lesions, instances, calibration, features, a case."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from shiftbench.metrics.scorers import (
    CALIBRATION_SCORERS,
    CONFIDENCE_SCORERS,
    INSTANCE_SCORERS,
    LESION_SCORERS,
    METRICS,
    SCORERS,
    SEGMENT_SCORERS,
    TUBE_SCORERS,
    ScoredStructure,
    Scorer,
    metrics_of,
    unit_of,
)

if TYPE_CHECKING:
    from shiftbench.metrics.calibration import ace, brier, ece, nll
    from shiftbench.metrics.case import Score, score_case
    from shiftbench.metrics.instance import Overlaps, PanopticQuality, overlaps, panoptic_quality
    from shiftbench.metrics.lesions import cc_dice, lesion_f1, ndsc
    from shiftbench.metrics.overlap import dsc, iou, volume_bias_percent, volume_error_ml
    from shiftbench.metrics.parallel import score_cases
    from shiftbench.metrics.radiomics import contamination
    from shiftbench.metrics.selective import augrc, aurc, e_aurc, fpr_at_tpr, ood_auroc
    from shiftbench.metrics.surface import assd_mm, hd95_mm, hd_mm, masd_mm, nsd
    from shiftbench.metrics.tubes import cldice

__all__ = [
    "CALIBRATION_SCORERS",
    "CONFIDENCE_SCORERS",
    "INSTANCE_SCORERS",
    "LESION_SCORERS",
    "METRICS",
    "SCORERS",
    "SEGMENT_SCORERS",
    "TUBE_SCORERS",
    "Overlaps",
    "PanopticQuality",
    "Score",
    "ScoredStructure",
    "Scorer",
    "ace",
    "assd_mm",
    "augrc",
    "aurc",
    "brier",
    "cc_dice",
    "cldice",
    "contamination",
    "dsc",
    "e_aurc",
    "ece",
    "fpr_at_tpr",
    "hd95_mm",
    "hd_mm",
    "iou",
    "lesion_f1",
    "masd_mm",
    "metrics_of",
    "ndsc",
    "nll",
    "nsd",
    "ood_auroc",
    "overlaps",
    "panoptic_quality",
    "score_case",
    "score_cases",
    "unit_of",
    "volume_bias_percent",
    "volume_error_ml",
]

_ROOMS = {
    "calibration": ("ace", "brier", "ece", "nll"),
    "case": ("Score", "score_case"),
    "instance": ("Overlaps", "PanopticQuality", "overlaps", "panoptic_quality"),
    "lesions": ("cc_dice", "lesion_f1", "ndsc"),
    "overlap": ("dsc", "iou", "volume_bias_percent", "volume_error_ml"),
    "parallel": ("score_cases",),
    "radiomics": ("contamination",),
    "selective": ("augrc", "aurc", "e_aurc", "fpr_at_tpr", "ood_auroc"),
    "surface": ("assd_mm", "hd95_mm", "hd_mm", "masd_mm", "nsd"),
    "tubes": ("cldice",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    """The functions, imported at first use so that the table of metrics is at hand at once."""
    if name not in _HOME:
        raise AttributeError(f"module 'shiftbench.metrics' has no attribute '{name}'")
    return getattr(import_module(f"shiftbench.metrics.{_HOME[name]}"), name)
