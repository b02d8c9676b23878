"""Rows of the label-free score by which one of several configurations of a method is chosen."""

from __future__ import annotations

from typing import Any

from shiftbench.metrics.scorers import SELECTION
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.types import FAILURES, Status

ALL = "all"  # the score is one number for all structures
PARTS = ("entropy", "divergence", "consistency")


def selection_rows(case: ScoredCase) -> list[dict[str, Any]]:
    """The score of a case, and per structure whether it vanished; no rows where there is nothing to choose between."""
    if "selection" not in case.options:
        return []
    if case.status in FAILURES:
        return _without_value(case, case.status, case.entry.get("detail", ""))
    facts = case.entry.get("selection", {"failed": "it was not computed"})
    if "failed" in facts:
        return _without_value(case, Status.NOT_APPLICABLE, f"no label-free score: {facts['failed']}")
    parts = ", ".join(f"{name} {facts[name]:.4f}" for name in PARTS)
    return [
        _row(ALL, "selection_score", Status.OK, value=facts["score"], detail=parts),
        *(
            _row(structure.name, "vanished", Status.OK, value=float(gone))
            for structure, gone in zip(case.structures, facts["vanished"], strict=True)
        ),
    ]


def absent_selection_rows(case: ScoredCase, reason: str) -> list[dict[str, Any]]:
    """Rows of a case that a method or an acquisition has no meaning for."""
    return _without_value(case, Status.NOT_APPLICABLE, reason) if "selection" in case.options else []


def _without_value(case: ScoredCase, status: Status, detail: str) -> list[dict[str, Any]]:
    vanished = [_row(structure.name, "vanished", status, detail=detail) for structure in case.structures]
    return [_row(ALL, "selection_score", status, detail=detail), *vanished]


def _row(structure: str, metric: str, status: Status, **known: Any) -> dict[str, Any]:
    scorer = SELECTION[metric]
    return row(structure, metric, scorer.definition, scorer.unit, status, **known)
