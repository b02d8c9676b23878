"""Rows of radiomic features in the reference's and in the prediction's outline, where the scenario asks for them.

A feature has two rows per case and structure, of the definitions "reference" and "predicted": its values in the two
outlines on the case's own image. Of scattered lesions it has two more for every lesion of the reference
("reference:3", "predicted:3"), and their detail names the lesion's type.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import astuple
from typing import Any

import numpy as np

from shiftbench.errors import DataError
from shiftbench.metrics.case import REFERENCE_EMPTY
from shiftbench.metrics.components import components
from shiftbench.metrics.features import (
    CONTAMINATION,
    FORMULA,
    IBSI_UNIT,
    LESION_FEATURES,
    PREDICTED,
    PREFIX,
    REFERENCE,
    TYPE,
    Feature,
    features_of,
)
from shiftbench.metrics.ibsi import IBSI, MOST_VOXELS, ibsi_features
from shiftbench.metrics.policy import status_of
from shiftbench.metrics.radiomics import contamination, features
from shiftbench.metrics.scorers import ScoredStructure
from shiftbench.scoring.case import ScoredCase, row
from shiftbench.scoring.kinds import LesionTypes
from shiftbench.types import FAILURES, Status

UNDEFINED = "undefined"  # detail of a feature that has no value in an outline: of one voxel, of equal intensities
TOO_LARGE = f"more than {MOST_VOXELS} voxels"

Rows = list[dict[str, Any]]
Values = Mapping[str, float | None]
Box = tuple[slice, ...]


def radiomics_rows(case: ScoredCase) -> Rows:
    """Every feature of every structure; no row where the scenario has no [radiomics].

    Values in the reference's outline are there whatever became of the prediction. Where the reference is empty neither
    outline has a value, for there is nothing to compare.
    """
    asked = case.options.get("radiomics")
    if asked is None:
        return []
    image, labels, failure = _channel(case, asked["channel"]), case.prediction.get("labels"), case.status
    if labels is None and failure is Status.OK:
        failure = Status.PREDICTION_MISSING
    if labels is not None and labels.shape != case.reference.shape:
        failure = Status.INVALID_GEOMETRY
    if labels is None or failure is not Status.OK:
        labels = np.zeros_like(case.reference)
    types = LesionTypes(case)
    rows: Rows = []
    for label, structure in enumerate(case.structures, start=1):
        reference, prediction = case.reference == label, labels == label
        sizes = (int(prediction.sum()), int(reference.sum()))
        status = status_of(*sizes, None if failure is Status.OK else failure, True)
        outlines = _Outlines(case, structure, image, prediction, reference, status)
        rows += outlines.whole()
        if asked["features"] == "ibsi":
            rows += outlines.ibsi()
        if structure.form == "lesions":
            rows += outlines.lesions(types, asked["lesion_min_voxels"])
    return rows


def absent_radiomics_rows(case: ScoredCase, reason: str) -> Rows:
    """Rows of a case that a method or an acquisition has no meaning for."""
    asked = case.options.get("radiomics")
    if asked is None:
        return []
    defined: dict[str, str] = {name: feature.unit for name, feature in _defined(case).items()}
    if asked["features"] == "ibsi" and _has_shape(case):
        defined |= dict.fromkeys(IBSI, IBSI_UNIT)
    kinds = [(name, definition, unit) for name, unit in defined.items() for definition in (REFERENCE, PREDICTED)]
    kinds += [(name, FORMULA, feature.unit) for name, feature in CONTAMINATION.items()]
    return [
        row(structure.name, PREFIX + name, definition, unit, Status.NOT_APPLICABLE, detail=reason)
        for structure in case.structures
        for name, definition, unit in kinds
    ]


def _channel(case: ScoredCase, channel: int) -> np.ndarray:
    """The channel (*s) of the image that is measured, in double precision."""
    if channel >= len(case.image):
        raise DataError(
            f"case {case.case} has {len(case.image)} channels, and channel {channel} is to be measured",
            remedy="mend channel of [radiomics]; the first is 0",
        )
    return case.image[channel].astype(float)


def _defined(case: ScoredCase) -> Mapping[str, Feature]:
    return features_of(case.reference.ndim, case.unit)


def _has_shape(case: ScoredCase) -> bool:
    return any(feature.kind == "shape" for feature in _defined(case).values())


class _Outlines:
    """The two outlines of one structure in one image (*s), and the rows that are made of them.

    A prediction that does not count is empty.
    """

    def __init__(
        self,
        case: ScoredCase,
        structure: ScoredStructure,
        image: np.ndarray,
        prediction: np.ndarray,
        reference: np.ndarray,
        status: Status,
    ):
        self.case, self.structure, self.status = case, structure, status
        self.box = _box(prediction | reference)
        self.image, self.prediction, self.reference = image[self.box], prediction[self.box], reference[self.box]
        self.defined = _defined(case)
        empty = REFERENCE_EMPTY if status in FAILURES and not self.reference.any() else ""
        self.detail = "; ".join(text for text in (empty, case.entry.get("detail", "")) if text)

    def whole(self) -> Rows:
        """Features of the structure as a whole, and what its contamination with background must do to them."""
        rows: Rows = []
        for definition, mask in ((REFERENCE, self.reference), (PREDICTED, self.prediction)):
            rows += self.rows({name: feature.unit for name, feature in self.defined.items()}, definition, self.of(mask))
        mixed = contamination(self.image, self.prediction, self.reference) if self.status is Status.OK else None
        values: Values = {} if mixed is None else dict(zip(CONTAMINATION, astuple(mixed), strict=True))
        units = {name: feature.unit for name, feature in CONTAMINATION.items()}
        return rows + self.rows(units, FORMULA, values)

    def ibsi(self) -> Rows:
        """All that MIRP has, of outlines that are not too large."""
        if not _has_shape(self.case):
            return []
        units = dict.fromkeys(IBSI, IBSI_UNIT)
        if self.reference.sum() > MOST_VOXELS:
            return [
                row(self.structure.name, PREFIX + name, kind, IBSI_UNIT, Status.NOT_APPLICABLE, detail=TOO_LARGE)
                for kind in (REFERENCE, PREDICTED)
                for name in units
            ]
        rows: Rows = []
        for definition, mask in ((REFERENCE, self.reference), (PREDICTED, self.prediction)):
            compared = mask.any() and self.reference.any()
            values = ibsi_features(self.image, mask, self.case.spacing) if compared else {}
            rows += self.rows(units, definition, values)
        return rows

    def lesions(self, types: LesionTypes, fewest: int) -> Rows:
        """Features of every lesion of the reference, against the predicted lesion that holds most of its voxels."""
        rows: Rows = []
        units = {name: self.defined[name].unit for name in LESION_FEATURES if name in self.defined}
        for number, lesion, found, place in self.pairs(fewest):
            status = self.status if found.any() or self.status in FAILURES else Status.MISSED
            detail = f"{TYPE}{types.of(place, self.structure.name)}"
            for definition, mask in ((REFERENCE, lesion), (PREDICTED, found)):
                numbered = f"{definition}:{number}"
                rows += self.rows(units, numbered, self.of(mask), status=status, detail=detail)
        return rows

    def pairs(self, fewest: int) -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        """Number, mask and match of each lesion of the reference in its box, and its mask on the whole grid."""
        ids, others = components(self.reference), components(self.prediction)
        for number in range(1, int(ids.max(initial=0)) + 1):
            lesion = ids == number
            if lesion.sum() < fewest:
                continue
            touched = np.bincount(others[lesion], minlength=1)
            touched[0] = 0
            found = others == touched.argmax() if touched.any() else np.zeros_like(lesion)
            yield number, lesion, found, self.placed(lesion)

    def placed(self, mask: np.ndarray) -> np.ndarray:
        """A mask of the box on the whole grid."""
        whole = np.zeros(self.case.reference.shape, bool)
        whole[self.box] = mask
        return whole

    def of(self, mask: np.ndarray) -> Values:
        """Features of one of the two outlines; none where there is nothing to compare."""
        if not mask.any() or not self.reference.any():
            return {}
        return features(self.image, mask, self.case.spacing, self.case.unit)

    def rows(
        self,
        units: Mapping[str, str],
        definition: str,
        values: Values,
        *,
        status: Status | None = None,
        detail: str = "",
    ) -> Rows:
        """One row per name in `units`."""
        status = status or self.status
        told = "; ".join(text for text in (detail, self.detail) if text)
        return [
            row(
                *(self.structure.name, PREFIX + name, definition, unit, status),
                value=values.get(name),
                detail=UNDEFINED if name in values and values[name] is None and not told else told,
            )
            for name, unit in units.items()
        ]


def _box(mask: np.ndarray) -> Box:
    """The bounding box of a mask (*s); of nothing, one voxel."""
    where = np.argwhere(mask)
    if not len(where):
        return (slice(0, 1),) * mask.ndim
    return tuple(slice(a, b) for a, b in zip(where.min(0), where.max(0) + 1, strict=True))
