"""The literal table of metrics; importing it imports neither scipy nor torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from shiftbench.tasks import Task

FORMS = ("organ", "tube", "lesions")  # what a structure is: one body, a tree of tubes, or scattered lesions
Form = Literal["organ", "tube", "lesions"]


class ScoredStructure(NamedTuple):
    """A structure as it is scored: its name, the tolerance of its NSD in the unit of the spacing, and its form."""

    name: str
    tolerance: float
    form: Form = "organ"


@dataclass(frozen=True)
class Scorer:
    """A metric: raise `version` when any of its values changes.

    Attributes:
        unit: "1" for a ratio; "mm" and "mL" stand for what `unit_of` says, which depends on the grid.
        direction: which values are better: "higher", "lower", or "zero" for a signed error.
        worst: the value of a missed structure or a failure; None where the metric has none.
        undefined: the rule for empty masks, in words.
        definitions: what is counted: voxels ("counts"), surface elements ("S"), voxel borders ("V"), segments
            ("iou>0.5"). Each gives a row of its own; tables and ranks use the first.
    """

    version: int
    unit: str
    direction: Literal["higher", "lower", "zero"]
    worst: float | None
    undefined: str
    definitions: tuple[str, ...]

    @property
    def definition(self) -> str:
        """The primary definition."""
        return self.definitions[0]


_OVERLAP = "null if both masks are empty, 0 if exactly one is"
_DISTANCE = "null if both masks are empty, inf if exactly one is"
_COUNTS, _SURFACES = ("counts",), ("S", "V")

# Of every structure.
SCORERS: Mapping[str, Scorer] = {
    "dsc": Scorer(1, "1", "higher", 0.0, _OVERLAP, _COUNTS),
    "iou": Scorer(1, "1", "higher", 0.0, _OVERLAP, _COUNTS),
    "nsd": Scorer(1, "1", "higher", 0.0, _OVERLAP, _SURFACES),
    "hd_mm": Scorer(1, "mm", "lower", math.inf, _DISTANCE, _SURFACES),
    "hd95_mm": Scorer(1, "mm", "lower", math.inf, _DISTANCE, _SURFACES),
    "assd_mm": Scorer(1, "mm", "lower", math.inf, _DISTANCE, _SURFACES),
    "masd_mm": Scorer(1, "mm", "lower", math.inf, _DISTANCE, _SURFACES),
    "volume_bias_percent": Scorer(1, "%", "zero", None, "null if the reference is empty", _COUNTS),
    "volume_error_ml": Scorer(1, "mL", "zero", None, "null where there is no prediction", _COUNTS),
}

# Of tubes, on top of SCORERS.
TUBE_SCORERS: Mapping[str, Scorer] = {
    "cldice": Scorer(1, "1", "higher", 0.0, _OVERLAP, ("skeleton",)),
}

# Of scattered lesions, which are the connected components of a mask, on top of SCORERS.
_THRESHOLDS = ("iou>0.1", "iou>0.25", "iou>0.5")
_NO_SIZE = "null if the reference has no lesion of this size"
LESION_SCORERS: Mapping[str, Scorer] = {
    "ndsc": Scorer(1, "1", "higher", 0.0, "null if the reference is empty or no region is known", ("region",)),
    "cc_dice": Scorer(1, "1", "higher", 0.0, "null if the reference is empty", ("components",)),
    "lesion_f1": Scorer(1, "1", "higher", 0.0, "null if there is no lesion on either side", _THRESHOLDS),
    "lesion_recall": Scorer(1, "1", "higher", 0.0, "null if the reference is empty", _THRESHOLDS),
    "lesion_recall_small": Scorer(1, "1", "higher", 0.0, _NO_SIZE, ("iou>0.1",)),
    "lesion_recall_medium": Scorer(1, "1", "higher", 0.0, _NO_SIZE, ("iou>0.1",)),
    "lesion_recall_large": Scorer(1, "1", "higher", 0.0, _NO_SIZE, ("iou>0.1",)),
    "lesion_false_positives": Scorer(1, "count", "lower", None, "null where there is no prediction", _THRESHOLDS),
    "lesion_splits": Scorer(1, "count", "lower", None, "null where there is no prediction", ("overlap",)),
    "lesion_merges": Scorer(1, "count", "lower", None, "null where there is no prediction", ("overlap",)),
}

# Of tasks that count instances, on top of SCORERS (a stuff region is one segment). RQ is the F1 of detection.
_NO_SEGMENT = "null if there is no segment at all, 0 if nothing is matched"
SEGMENT_SCORERS: Mapping[str, Scorer] = {
    "pq": Scorer(1, "1", "higher", 0.0, _NO_SEGMENT, ("iou>0.5",)),
    "sq": Scorer(1, "1", "higher", None, "null if nothing is matched", ("iou>0.5",)),
    "rq": Scorer(1, "1", "higher", 0.0, _NO_SEGMENT, ("iou>0.5",)),
}
INSTANCE_SCORERS: Mapping[str, Scorer] = {
    "instance_precision": Scorer(1, "1", "higher", None, "null if nothing is predicted", ("iou>0.5",)),
    "instance_recall": Scorer(1, "1", "higher", 0.0, "null if the reference is empty", ("iou>0.5",)),
}

# Of scenarios with [calibration]: one structure against the rest, in a region that the prediction does not decide.
_NO_REGION = "null if the reference is empty"
CALIBRATION_SCORERS: Mapping[str, Scorer] = {
    "brier": Scorer(1, "1", "lower", 1.0, _NO_REGION, ("region",)),
    "nll": Scorer(1, "nat", "lower", -math.log(1e-7), _NO_REGION, ("region",)),
    "ece": Scorer(1, "1", "lower", 1.0, _NO_REGION, ("region", "volume")),
    "ace": Scorer(1, "1", "lower", 1.0, _NO_REGION, ("region", "volume")),
}

# Of every structure: how sure a method is of it. It has one row, whose definition says what it was computed from.
CONFIDENCE_SCORERS: Mapping[str, Scorer] = {
    "confidence": Scorer(
        1, "1", "higher", None, "null after a failure, which is the least sure", ("soft_dice", "uncertainty")
    ),
}

# Of estimators: the DSC that one expects of the method that the definition names. It is good or bad by its error only.
ESTIMATE: Mapping[str, Scorer] = {
    "dsc_estimate": Scorer(1, "1", "higher", None, "null after a failure", ("erm",)),
}

# Of methods that are one of several configurations: how good one looks without labels (structure "all"), and whether
# a structure that source-val has is nowhere in the prediction (1) or is there (0).
SELECTION: Mapping[str, Scorer] = {
    "selection_score": Scorer(1, "1", "higher", None, "null after a failure", ("entropy+kl+flip",)),
    "vanished": Scorer(1, "1", "lower", None, "null after a failure", ("predicted",)),
}

# All of them, by what has them; the names differ.
GROUPS: Mapping[str, Mapping[str, Scorer]] = {
    "every structure": SCORERS,
    "tubes": TUBE_SCORERS,
    "lesions": LESION_SCORERS,
    "segments": SEGMENT_SCORERS,
    "instances": INSTANCE_SCORERS,
    "[calibration]": CALIBRATION_SCORERS,
    "every prediction": CONFIDENCE_SCORERS,
    "estimators": ESTIMATE,
    "configurations": SELECTION,
}
METRICS: Mapping[str, Scorer] = {name: scorer for group in GROUPS.values() for name, scorer in group.items()}


def unit_of(scorer: Scorer, spacing_unit: Literal["mm", "px"], axes: int) -> str:
    """The unit that values of a metric have on a grid.

    A distance is in the unit of the spacing. A volume error is in mL on a 3-D grid in mm; on others it is in the
    unit of the spacing to the power of the axes: an area in "mm2", or a number of pixels, "px2", or voxels, "px3".
    """
    if scorer.unit == "mm":
        return spacing_unit
    if scorer.unit == "mL" and (spacing_unit, axes) != ("mm", 3):
        return f"{spacing_unit}{axes}"
    return scorer.unit


def metrics_of(label: int, task: Task | None, form: Form = "organ") -> Mapping[str, Scorer]:
    """The metrics of masks that a structure is scored by.

    Args:
        label: of the structure.
        task: the layout; None for a semantic task.
        form: of the structure.
    """
    metrics = {**SCORERS, **{"tube": TUBE_SCORERS, "lesions": LESION_SCORERS}.get(form, {})}
    if task is not None and task.counts_instances and label in task.things:
        return {**metrics, **SEGMENT_SCORERS, **INSTANCE_SCORERS}
    if task is not None and task.kind == "panoptic":
        return {**metrics, **SEGMENT_SCORERS}
    return metrics
