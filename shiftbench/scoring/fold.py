"""Every row of a fold: who scores a case, and what is said of one that cannot be scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from shiftbench.domains import Part, about, not_applicable
from shiftbench.metrics.scorers import ScoredStructure
from shiftbench.scoring.calibration import absent_calibration_rows, calibration_rows
from shiftbench.scoring.case import ScoredCase
from shiftbench.scoring.confidence import absent_confidence_rows, confidence_rows
from shiftbench.scoring.estimates import absent_estimate_rows, estimate_rows
from shiftbench.scoring.impossible import between_patients
from shiftbench.scoring.masks import absent_mask_rows, mask_rows
from shiftbench.scoring.radiomics import absent_radiomics_rows, radiomics_rows
from shiftbench.scoring.selection import absent_selection_rows, selection_rows
from shiftbench.store import Store
from shiftbench.tasks import Task
from shiftbench.types import Status

Rows = list[dict[str, Any]]

Makers = tuple[tuple[Callable[[ScoredCase], Rows], Callable[[ScoredCase, str], Rows]], ...]

# Who makes rows of a case: from what there is, and where the case has no meaning for the method, from the reason why.
MAKERS: Makers = (
    (mask_rows, absent_mask_rows),
    (confidence_rows, absent_confidence_rows),
    (calibration_rows, absent_calibration_rows),
    (radiomics_rows, absent_radiomics_rows),
    (selection_rows, absent_selection_rows),
)
ESTIMATE_MAKERS: Makers = ((estimate_rows, absent_estimate_rows),)  # of estimators, which predict no mask


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
    options: Mapping[str, Any] | None = None,
) -> Rows:
    """Every score of every test case, whatever became of the prediction.

    Args:
        store: where references and predictions lie.
        prediction: the record of the predict task, or of its failed attempt; `cases` holds a status per case.
        predict_key: of that task.
        test: the cases to score.
        structures: the fields of `ScoredStructure`, in label order.
        names: case to the name that its prediction was stored under, where that is not the case's own (streams).
        donors: case to the case of another patient whose reference it is scored against (the impossible control). Then
            the DSC between the references of different patients is among the rows, under its own metric.
        layout: of the task; instances are scored where it counts them.
        options: what else is asked for, see `ScoredCase`.
    """
    unreachable = not_applicable(store, test)
    whole = prediction.get("not_applicable")
    where = test.where()
    scored = tuple(ScoredStructure(*structure) for structure in structures)
    makers = ESTIMATE_MAKERS if "estimates" in (options or {}) else MAKERS
    rows: Rows = []
    for case, keys in where.items():
        info = about(store, keys[0], case)
        stored = (names or {}).get(case, case)
        entry = prediction["cases"].get(stored, {"status": str(Status.PREDICTION_MISSING), "detail": ""})
        drawn = (donors or {}).get(case, case)
        predicted_in = store.artifact("predict", predict_key) if entry["status"] == Status.OK else None
        seen = ScoredCase(
            *(store, case, entry, stored, predicted_in, info, keys),
            *((drawn, where[drawn][2]), scored, layout, options or {}),
        )
        reason = whole or unreachable.get(case)
        made = [score for make, absent in makers for score in (absent(seen, reason) if reason else make(seen))]
        extra = {
            "case": case,
            "patient": info["patient"],
            "seconds": entry.get("seconds", 0.0),
            "peak_mb": entry.get("peak_mb"),
        }
        rows += [{**extra, **score} for score in made]
    if donors and not whole:
        rows += between_patients(store, test, donors, [structure.name for structure in scored])
    return rows
