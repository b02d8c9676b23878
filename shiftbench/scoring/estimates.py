"""Rows of estimators: the DSC that they expect of the source-only model, per case and structure."""

from __future__ import annotations

from typing import Any

from shiftbench.metrics.scorers import ESTIMATE
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.types import Status

METRIC = "dsc_estimate"


def estimate_rows(case: ScoredCase) -> list[dict[str, Any]]:
    """One row per structure, whatever became of the estimate; none of it looks at the reference."""
    values = case.entry.get("estimate") or [None] * len(case.structures)
    detail = case.entry.get("detail", "")
    return [
        _row(structure.name, case.status, value=value, detail=detail)
        for structure, value in zip(case.structures, values, strict=True)
    ]


def absent_estimate_rows(case: ScoredCase, reason: str) -> list[dict[str, Any]]:
    """Rows of a case that an estimator or an acquisition has no meaning for."""
    return [_row(structure.name, Status.NOT_APPLICABLE, detail=reason) for structure in case.structures]


def _row(structure: str, status: Status, **known: Any) -> dict[str, Any]:
    scorer = ESTIMATE[METRIC]
    return row(structure, METRIC, scorer.definition, scorer.unit, status, **known)
