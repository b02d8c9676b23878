"""The literal table of metrics; importing it imports neither scipy nor torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Scorer:
    """A metric: raise `version` when any of its values changes.

    Attributes:
        unit: "1" for a ratio; "mm" stands for the unit of the spacing, which is "px" where an image has none.
        direction: which values are better: "higher", "lower", or "zero" for a signed error.
        worst: the value of a missed structure or a failure; None where the metric has none.
        undefined: the rule for empty masks, in words.
        definition: what is counted: voxels ("counts") or surface elements ("S").
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
