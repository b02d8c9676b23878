"""Rows of the metrics of masks: overlap, surfaces, lesions, instances."""

from __future__ import annotations

from typing import Any

from shiftbench.metrics import Score, metrics_of, score_case, unit_of
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.types import Status


def mask_rows(case: ScoredCase) -> list[dict[str, Any]]:
    """Every metric of every structure of a case, whatever became of its prediction."""
    lesions = any(structure.form == "lesions" for structure in case.structures)
    counting: dict[str, Any] = {
        "layout": case.layout,
        "reference_instances": case.reference_instances,
        "region": case.body if lesions else None,
    }
    failure = None if case.status is Status.OK else case.status
    scores = score_case(
        *(case.prediction.get("labels"), case.reference, case.spacing, case.structures),
        unit=case.unit,
        failure=failure,
        instances=case.prediction.get("instances"),
        **counting,
    )
    return [_as_row(score, case.entry.get("detail", "")) for score in scores]


def absent_mask_rows(case: ScoredCase, reason: str) -> list[dict[str, Any]]:
    """Rows of a case that a method or an acquisition has no meaning for."""
    return [
        row(
            *(structure.name, metric, definition, unit_of(scorer, case.unit, len(case.spacing))),
            Status.NOT_APPLICABLE,
            tolerance=structure.tolerance if metric == "nsd" else None,
            detail=reason,
        )
        for label, structure in enumerate(case.structures, start=1)
        for metric, scorer in metrics_of(label, case.layout, structure.form).items()
        for definition in scorer.definitions
    ]


def _as_row(score: Score, detail: str) -> dict[str, Any]:
    words = "; ".join(text for text in (score.detail, detail) if text)
    return {**score.__dict__, "status": str(score.status), "detail": words}
