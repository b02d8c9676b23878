"""Rows that say how sure a method was of each structure, which failure detection is made of."""

from __future__ import annotations

from typing import Any

from shiftbench.metrics.scorers import METRICS
from shiftbench.scoring.calibration import LABELS_ALONE
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.types import Status

CONFIDENCE = "confidence"


def confidence_rows(case: ScoredCase) -> list[dict[str, Any]]:
    """The recorded confidence of every structure; null after a failure, which is less sure than any value.

    No reference is looked at: a structure that is wrongly or rightly not predicted has a confidence like any other.
    """
    nothing: list[float | None] = [None] * len(case.structures)
    if case.status is not Status.OK:
        return _rows(case, None, nothing, case.status, case.entry.get("detail", ""))
    fact = case.entry.get(CONFIDENCE)
    if fact is None:
        return absent_confidence_rows(case, LABELS_ALONE)
    return _rows(case, fact["definition"], fact["values"], Status.OK, case.entry.get("detail", ""))


def absent_confidence_rows(case: ScoredCase, reason: str) -> list[dict[str, Any]]:
    """Rows of a case that a method or an acquisition has no meaning for, or of a method that gives labels alone."""
    return _rows(case, None, [None] * len(case.structures), Status.NOT_APPLICABLE, reason)


def _rows(
    case: ScoredCase, definition: str | None, values: list[float | None], status: Status, detail: str
) -> list[dict[str, Any]]:
    scorer = METRICS[CONFIDENCE]
    return [
        row(
            *(structure.name, CONFIDENCE, definition or scorer.definition, scorer.unit, status),
            value=value,
            detail=detail,
        )
        for structure, value in zip(case.structures, values, strict=True)
    ]
