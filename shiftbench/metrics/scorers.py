"""The literal table of metrics; importing it imports neither scipy nor torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shiftbench.tasks import Task


@dataclass(frozen=True)
class Scorer:
    """A metric: raise `version` when any of its values changes.

    Attributes:
        unit: "1" for a ratio; "mm" stands for the unit of the spacing, which is "px" where an image has none.
        direction: which values are better: "higher", "lower", or "zero" for a signed error.
        worst: the value of a missed structure or a failure; None where the metric has none.
        undefined: the rule for empty masks, in words.
        definition: what is counted: voxels ("counts"), surface elements ("S") or segments ("iou>0.5").
    """

    version: int
    unit: str
    direction: Literal["higher", "lower", "zero"]
    worst: float | None
    undefined: str
    definition: str


SCORERS: Mapping[str, Scorer] = {
    "dsc": Scorer(1, "1", "higher", 0.0, "null if both masks are empty, 0 if exactly one is", "counts"),
    "nsd": Scorer(1, "1", "higher", 0.0, "null if both masks are empty, 0 if exactly one is", "S"),
    "hd95_mm": Scorer(1, "mm", "lower", math.inf, "null if both masks are empty, inf if exactly one is", "S"),
    "volume_bias_percent": Scorer(1, "%", "zero", None, "null if the reference is empty", "counts"),
}

# Of tasks that count instances, on top of SCORERS (a stuff region is one segment). RQ is the F1 of detection.
SEGMENT_SCORERS: Mapping[str, Scorer] = {
    "pq": Scorer(1, "1", "higher", 0.0, "null if there is no segment at all, 0 if nothing is matched", "iou>0.5"),
    "sq": Scorer(1, "1", "higher", None, "null if nothing is matched", "iou>0.5"),
    "rq": Scorer(1, "1", "higher", 0.0, "null if there is no segment at all, 0 if nothing is matched", "iou>0.5"),
}
INSTANCE_SCORERS: Mapping[str, Scorer] = {
    "instance_precision": Scorer(1, "1", "higher", None, "null if nothing is predicted", "iou>0.5"),
    "instance_recall": Scorer(1, "1", "higher", 0.0, "null if the reference is empty", "iou>0.5"),
}
METRICS: Mapping[str, Scorer] = {**SCORERS, **SEGMENT_SCORERS, **INSTANCE_SCORERS}


def metrics_of(label: int, task: Task | None) -> Mapping[str, Scorer]:
    """The metrics that a structure is scored by; more than SCORERS where a task counts its segments.

    Args:
        label: of the structure.
        task: the layout; None for a semantic task.
    """
    if task is not None and task.counts_instances and label in task.things:
        return METRICS
    if task is not None and task.kind == "panoptic":
        return {**SCORERS, **SEGMENT_SCORERS}
    return SCORERS
