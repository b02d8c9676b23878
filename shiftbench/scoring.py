"""From a fold's predictions and references to its rows, whatever became of each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shiftbench.domains import Part, about, load_reference, not_applicable
from shiftbench.metrics import SCORERS, Score, score_case
from shiftbench.store import Store
from shiftbench.types import Status


def score_fold(
    store: Store, prediction: Mapping[str, Any], predict_key: str, test: Part, structures: Sequence[Sequence[Any]]
) -> list[dict[str, Any]]:
    """Every score of every test case, whatever became of the prediction.

    Args:
        prediction: the record of the predict task, or of its failed attempt; `cases` holds a status per case.
        structures: (name, tolerance) in label order.
    """
    unreachable = not_applicable(store, test)
    whole = prediction.get("not_applicable")
    rows = []
    for case, (anatomy_key, _, references_key) in test.where().items():
        info = about(store, anatomy_key, case)
        entry = prediction["cases"].get(case, {"status": str(Status.PREDICTION_MISSING), "detail": ""})
        reason = whole or unreachable.get(case)
        if reason:
            scores = _absent(structures, info, reason)
        else:
            reference = load_reference(store, references_key, case)
            scores = _scored(store, predict_key, case, entry, reference, info, structures)
        extra = {
            "case": case,
            "patient": info["patient"],
            "seconds": entry.get("seconds", 0.0),
            "peak_mb": entry.get("peak_mb"),
        }
        rows += [{**extra, **score} for score in scores]
    return rows


def _scored(store, predict_key, case, entry, reference, info, structures) -> list[dict[str, Any]]:
    spacing = info["spacing"] or [1.0] * reference.ndim
    unit: Literal["mm", "px"] = "mm" if info["spacing"] else "px"
    pairs = [(name, tolerance) for name, tolerance in structures]
    if entry["status"] == Status.OK:
        labels = load_prediction(store.artifact("predict", predict_key), case)
        return [_as_dict(s) for s in score_case(labels, reference, spacing, unit, pairs)]
    failure = Status(entry["status"])
    scores = score_case(None, reference, spacing, unit, pairs, failure=failure)
    return [_as_dict(s, entry.get("detail", "")) for s in scores]


def _absent(structures, info, reason: str) -> list[dict[str, Any]]:
    """Rows of a case that a method or an acquisition has no meaning for."""
    unit = "mm" if info["spacing"] else "px"
    return [
        {
            "structure": name,
            "metric": metric,
            "definition": scorer.definition,
            "tolerance": tolerance if metric == "nsd" else None,
            "unit": unit if scorer.unit == "mm" else scorer.unit,
            "value": None,
            "bound": None,
            "status": str(Status.NOT_APPLICABLE),
            "detail": reason,
        }
        for name, tolerance in structures
        for metric, scorer in SCORERS.items()
    ]


def _as_dict(score: Score, detail: str = "") -> dict[str, Any]:
    words = "; ".join(text for text in (score.detail, detail) if text)
    return {**score.__dict__, "status": str(score.status), "detail": words}


def load_prediction(folder: Path, case: str) -> np.ndarray:
    """Predicted labels (*s), uint8."""
    with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
        return arrays["labels"]
