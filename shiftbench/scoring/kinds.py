"""What type a lesion is of, as far as the data set knows: the question that features of lesions are measured for."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from shiftbench.data.phantoms.abdomen import FINE_LABELS
from shiftbench.data.phantoms.lesions import CONSPICUITY
from shiftbench.data.phantoms.tissues import TISSUES
from shiftbench.domains import load_anatomy
from shiftbench.scoring.case import ScoredCase
from shiftbench.types import Anatomy

ATTRIBUTE = "lesion_type"  # of a case, where all of a patient's lesions are of one type
_PHASES = ("HU_late_arterial", "HU_portal_venous")
_OF_ABDOMEN = {"tumours", "cysts"}  # attributes that this phantom alone has


class LesionTypes:
    """The types of the lesions of one case; the anatomy is read when the first is asked for."""

    def __init__(self, case: ScoredCase):
        self.case = case

    def of(self, lesion: np.ndarray, structure: str) -> str:
        """The type of a lesion of the reference, bool (*s).

        That is, in this order: the case's attribute `lesion_type`; in the abdominal phantom "cyst", "hcc" or
        "metastasis", by the tissue that most of the lesion's voxels hold; the name of the structure. In the impossible
        control the reference is another patient's, and so is the phantom's tissue under an outline that an operator has
        moved altogether away: then it is the name of the structure.
        """
        attributes = self.case.info.get("attributes", {})
        if ATTRIBUTE in attributes:
            return str(attributes[ATTRIBUTE])
        own = self.case.drawn[0] == self.case.case
        found = phantom_type(self.anatomy, lesion) if own and set(attributes) >= _OF_ABDOMEN else None
        return found or structure

    @cached_property
    def anatomy(self) -> Anatomy:
        """What the case was made of."""
        return load_anatomy(self.case.store, self.case.keys[0], self.case.case)


def phantom_type(anatomy: Anatomy, lesion: np.ndarray) -> str | None:
    """The abdominal phantom's "cyst", "hcc" or "metastasis", by the most frequent tissue in a lesion, bool (d, h, w).

    None where the mask holds no core of a lesion. Two lesions that touch are one here, of the type of the larger.
    """
    if anatomy.tissue is None or anatomy.values is None or anatomy.fine.shape != lesion.shape or not lesion.any():
        return None
    where = np.argwhere(lesion)
    box = [(a, b) for a, b in zip(where.min(0), where.max(0) + 1, strict=True)]
    fine = tuple(slice(a * n, b * n) for (a, b), n in zip(box, anatomy.supersampling, strict=True))
    inside = lesion[tuple(slice(a, b) for a, b in box)]
    for axis, times in enumerate(anatomy.supersampling):
        inside = inside.repeat(times, axis)
    labels = anatomy.values["fine_label"].astype(int)
    counts = np.bincount(anatomy.tissue[fine][inside], minlength=labels.size).astype(float)
    counts[~np.isin(labels, [FINE_LABELS.index(name) for name in ("tumour", "cyst")])] = 0
    most = int(counts.argmax())
    if not counts[most]:
        return None
    return "cyst" if FINE_LABELS[labels[most]] == "cyst" else _vascularity(anatomy, most)


def _vascularity(anatomy: Anatomy, tissue: int) -> str:
    """Which of the two tumours a tissue is, by how its CT number falls from the arterial to the portal venous phase.

    A patient's variation moves all phases alike, and the phantom exaggerates a tumour's difference from the liver by a
    factor of `CONSPICUITY`: the type is the one for which that factor comes out within its range.
    """
    assert anatomy.values is not None
    arterial, portal = (float(anatomy.values[phase][tissue]) for phase in _PHASES)
    liver = _fall("liver")
    factors = {kind: (arterial - portal - liver) / (_fall(kind) - liver) for kind in ("hcc", "metastasis")}
    middle = sum(CONSPICUITY) / 2
    return min(factors, key=lambda kind: abs(factors[kind] - middle))


def _fall(tissue: str) -> float:
    """CT number in the arterial minus that in the portal venous phase."""
    _, arterial, portal, _ = TISSUES[tissue].hu
    return arterial - portal
