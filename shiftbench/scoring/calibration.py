"""Rows that say how far the probabilities can be believed, where the scenario asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from shiftbench.metrics.calibration import calibration_values
from shiftbench.metrics.case import REFERENCE_EMPTY
from shiftbench.metrics.scorers import CALIBRATION_SCORERS
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.types import Status

LABELS_ALONE = "it gives labels alone"
CLIPPED = "clipped_share="  # in the detail of the NLL: the share of voxels whose loss is larger than what was counted

Rows = list[dict[str, Any]]
Values = dict[tuple[str, str], float | None]


def calibration_rows(case: ScoredCase) -> Rows:
    """Every calibration metric of every structure; no row where the scenario has no [calibration].

    A missed structure keeps what was computed: to miss it with a probability of 0.4 is not as wrong as with 0.
    """
    asked = case.options.get("calibration")
    if asked is None:
        return []
    status, stored = case.status, case.prediction.get("log_probabilities")
    if status is Status.OK and stored is None:
        return absent_calibration_rows(case, LABELS_ALONE)
    if stored is None or stored.shape[1:] != case.reference.shape:
        return _failed_rows(case, status if status is not Status.OK else Status.INVALID_GEOMETRY)
    values = calibration_values(
        probabilities_of(stored), case.reference, case.spacing, asked["region"], bins=asked["bins"]
    )
    return [
        made
        for label, (structure, own) in enumerate(zip(case.structures, values, strict=True), start=1)
        for made in _rows(structure.name, own, _status(case, label), case.entry.get("detail", ""))
    ]


def absent_calibration_rows(case: ScoredCase, reason: str) -> Rows:
    """Rows of a case that a method or an acquisition has no meaning for, or of a method without probabilities."""
    if case.options.get("calibration") is None:
        return []
    nothing: Values = {}
    return [
        made for structure in case.structures for made in _rows(structure.name, nothing, Status.NOT_APPLICABLE, reason)
    ]


def probabilities_of(stored: np.ndarray) -> np.ndarray:
    """Probabilities (k, *s), float64, that add up to one, of log-probabilities kept in half precision."""
    likelihoods = np.exp(stored.astype(np.float32))
    return likelihoods / likelihoods.sum(axis=0, dtype=np.float64)


def _failed_rows(case: ScoredCase, status: Status) -> Rows:
    """The worst values, which say nothing of a structure that the reference has not."""
    rows: Rows = []
    for label, structure in enumerate(case.structures, start=1):
        present = bool((case.reference == label).any())
        worst: Values = {
            (metric, definition): scorer.worst if present else None
            for metric, scorer in CALIBRATION_SCORERS.items()
            for definition in scorer.definitions
        }
        words = ("" if present else REFERENCE_EMPTY, case.entry.get("detail", ""))
        rows += _rows(structure.name, worst, status, "; ".join(text for text in words if text))
    return rows


def _rows(structure: str, values: Values, status: Status, detail: str) -> Rows:
    """One row per metric and definition; a value that is not there is null."""
    clipped = values.get(("clipped_share", "region"))
    share = "" if clipped is None else f"{CLIPPED}{clipped:.4g}"
    return [
        row(
            *(structure, metric, definition, scorer.unit, status),
            value=values.get((metric, definition)),
            detail="; ".join(text for text in (share if metric == "nll" else "", detail) if text),
        )
        for metric, scorer in CALIBRATION_SCORERS.items()
        for definition in scorer.definitions
    ]


def _status(case: ScoredCase, label: int) -> Status:
    predicted, present = ((case.prediction["labels"] == label).any(), (case.reference == label).any())
    if present:
        return Status.OK if predicted else Status.MISSED
    return Status.FP_ON_NEGATIVE if predicted else Status.BOTH_EMPTY
