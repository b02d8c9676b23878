"""From a fold's predictions and references to its rows, whatever became of each case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from shiftbench.domains import Part, about, load_instances, load_reference, not_applicable
from shiftbench.metrics import SCORERS, Score, metrics_of, score_case
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.types import BETWEEN_PATIENTS, Status

BLOCK = 1 << 20  # voxels per block of a product of masks


def score_fold(
    store: Store,
    prediction: Mapping[str, Any],
    predict_key: str,
    test: Part,
    structures: Sequence[Sequence[Any]],
    *,
    names: Mapping[str, str] | None = None,
    donors: Mapping[str, str] | None = None,
    layout: Task | None = None,
) -> list[dict[str, Any]]:
    """Every score of every test case, whatever became of the prediction.

    Args:
        store: where references and predictions lie.
        prediction: the record of the predict task, or of its failed attempt; `cases` holds a status per case.
        predict_key: of that task.
        test: the cases to score.
        structures: (name, tolerance) in label order.
        names: case to the name that its prediction was stored under, where that is not the case's own (streams).
        donors: case to the case of another patient whose reference it is scored against (the impossible control). Then
            the DSC between the references of different patients is among the rows, under its own metric.
        layout: of the task; instances are scored where it counts them.
    """
    unreachable = not_applicable(store, test)
    whole = prediction.get("not_applicable")
    where = test.where()
    rows = []
    for case, (anatomy_key, _, _) in where.items():
        info = about(store, anatomy_key, case)
        stored = (names or {}).get(case, case)
        entry = prediction["cases"].get(stored, {"status": str(Status.PREDICTION_MISSING), "detail": ""})
        reason = whole or unreachable.get(case)
        if reason:
            scores = _absent(structures, info, reason, layout)
        else:
            drawn = (donors or {}).get(case, case)
            counted = layout is not None and layout.counts_instances
            ids = load_instances(store, where[drawn][2], drawn) if counted else None
            references = load_reference(store, where[drawn][2], drawn), ids
            scores = _scored(store, predict_key, stored, entry, references, info, structures, layout)
        extra = {
            "case": case,
            "patient": info["patient"],
            "seconds": entry.get("seconds", 0.0),
            "peak_mb": entry.get("peak_mb"),
        }
        rows += [{**extra, **score} for score in scores]
    if donors and not whole:
        rows += between_patients(store, test, donors, [name for name, _ in structures])
    return rows


def _scored(store, predict_key, stored, entry, references, info, structures, layout) -> list[dict[str, Any]]:
    reference, reference_instances = references
    spacing = info["spacing"] or [1.0] * reference.ndim
    unit: Literal["mm", "px"] = "mm" if info["spacing"] else "px"
    pairs = [(name, tolerance) for name, tolerance in structures]
    counting = {"layout": layout, "reference_instances": reference_instances}
    if entry["status"] == Status.OK:
        folder = store.artifact("predict", predict_key)
        labels, counting["instances"] = load_prediction(folder, stored), load_predicted_instances(folder, stored)
        return [_as_dict(s) for s in score_case(labels, reference, spacing, unit, pairs, **counting)]
    failure = Status(entry["status"])
    scores = score_case(None, reference, spacing, unit, pairs, failure=failure, **counting)
    return [_as_dict(s, entry.get("detail", "")) for s in scores]


def _absent(structures, info, reason: str, layout: Task | None) -> list[dict[str, Any]]:
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
        for label, (name, tolerance) in enumerate(structures, start=1)
        for metric, scorer in metrics_of(label, layout).items()
    ]


def _as_dict(score: Score, detail: str = "") -> dict[str, Any]:
    words = "; ".join(text for text in (score.detail, detail) if text)
    return {**score.__dict__, "status": str(score.status), "detail": words}


def load_prediction(folder: Path, case: str) -> np.ndarray:
    """Predicted labels (*s), uint8."""
    with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
        return arrays["labels"]


def load_predicted_instances(folder: Path, case: str) -> np.ndarray | None:
    """Predicted instance ids (*s), int32, 0 where there is no thing; None where none were stored."""
    with np.load(folder / f"{case}.npz", allow_pickle=False) as arrays:
        return arrays["instances"] if "instances" in arrays.files else None


def between_patients(
    store: Store, test: Part, donors: Mapping[str, str], structures: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows with the mean DSC between each case's borrowed reference and those of all patients but its owner.

    Over the test set that is the mean DSC between different patients: what a method gets that knows the anatomy and
    nothing of the patient. A structure that the borrowed reference does not hold has no row.
    """
    where = test.where()
    cases = list(where)
    patients = np.array([about(store, where[case][0], case)["patient"] for case in cases])
    labels = np.stack([load_reference(store, where[case][2], case).reshape(-1) for case in cases])  # (n, v)
    rows = []
    for label, structure in enumerate(structures, start=1):
        scores, sizes = _pairwise_dsc(labels == label)
        for i, case in enumerate(cases):
            j = cases.index(donors[case])
            if sizes[j]:
                mine = {"case": case, "patient": str(patients[i]), "structure": structure}
                rows.append({**_BETWEEN, **mine, "value": float(scores[j, patients != patients[j]].mean())})
    return rows


_BETWEEN = {
    "metric": BETWEEN_PATIENTS,
    "definition": SCORERS["dsc"].definition,
    "tolerance": None,
    "unit": SCORERS["dsc"].unit,
    "bound": None,
    "status": str(Status.OK),
    "detail": "",
    "seconds": 0.0,
    "peak_mb": None,
}


def _pairwise_dsc(masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """DSC (n, n) of every mask with every other, 0 where one or both are empty, and the sizes (n,) of masks (n, v)."""
    shared = np.zeros((len(masks), len(masks)))
    for start in range(0, masks.shape[1], BLOCK):
        block = masks[:, start : start + BLOCK].astype(np.float32)  # exact: counts of a block stay below 2^24
        shared += block @ block.T
    sizes = np.diagonal(shared)
    return 2 * shared / np.maximum(sizes[:, None] + sizes[None, :], 1), sizes
