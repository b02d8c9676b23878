"""The impossible control: how alike the references of different patients are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from shiftbench.domains import Part, about, load_reference
from shiftbench.metrics import SCORERS
from shiftbench.store import Store
from shiftbench.types import BETWEEN_PATIENTS, Status

BLOCK = 1 << 20  # voxels per block of a product of masks


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
