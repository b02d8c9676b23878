"""One pass over a case: every metric of every structure, with the status that says what each value means."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from shiftbench.metrics.distances import DEFINITIONS, Definition, bounding_box
from shiftbench.metrics.geometry import geometry_fault
from shiftbench.metrics.instance import overlaps, segment_values
from shiftbench.metrics.lesions import lesion_values
from shiftbench.metrics.maps import Box, counted, id_fault, label_fault, union
from shiftbench.metrics.overlap import MM3_PER_ML, Counts, as_array, checked_spacing
from shiftbench.metrics.policy import Values, fixed_values, status_of
from shiftbench.metrics.scorers import METRICS, ScoredStructure, metrics_of, unit_of
from shiftbench.metrics.surface import surface_values
from shiftbench.metrics.tubes import cldice
from shiftbench.tasks import Task
from shiftbench.types import FAILURES, Geometry, Status

REFERENCE_EMPTY = "reference_empty"  # detail of a failure on a negative case, which counts as a false positive
TAU_BELOW_RESOLUTION = "tau_below_resolution"  # detail of an NSD whose tolerance is under half the largest voxel side


@dataclass(frozen=True)
class Score:
    """One value, or the reason why there is none; an infinite distance is value None with bound "inf"."""

    structure: str
    metric: str
    definition: str
    tolerance: float | None
    unit: str
    value: float | None
    bound: str | None
    status: Status
    detail: str = ""


def score_case(
    prediction: ArrayLike | None,
    reference: ArrayLike,
    spacing: Sequence[float],
    structures: Sequence[ScoredStructure | tuple],
    *,
    unit: Literal["mm", "px"] = "mm",
    annotated: Collection[str] | None = None,
    failure: Status | None = None,
    layout: Task | None = None,
    instances: ArrayLike | None = None,
    reference_instances: ArrayLike | None = None,
    region: ArrayLike | None = None,
    definitions: Sequence[Definition] = DEFINITIONS,
    geometries: tuple[Geometry, Geometry] | None = None,
) -> list[Score]:
    """Scores of every structure and metric; a case has the same list of them whatever the prediction.

    Args:
        prediction: integer label map (*s), label i + 1 for `structures[i]`, or None where there is none. A map of
            another shape is scored as `invalid_geometry`, one that is no label map as `invalid_output`.
        reference: integer label map (*s).
        spacing: voxel size per axis, in `unit`.
        structures: in label order; a tuple holds the fields of `ScoredStructure`.
        unit: of spacing, tolerances and distances.
        annotated: structures that the reference marks; None for all.
        failure: why the prediction does not count, where it does not.
        layout: of the task; where it counts instances, `metrics_of` its things, and of stuff in panoptic tasks, are
            scored too.
        instances: predicted ids (*s), 0 where there is no thing; a prediction without them, or whose ids are no
            instances of its things, is scored as `invalid_output` where they are counted.
        reference_instances: ids (*s) of the reference.
        region: bool (*s), the fixed anatomical region of the nDSC of lesions; without it they have none.
        definitions: of surfaces; the scores of the others are left out.
        geometries: of prediction and reference, where both are known. A prediction that does not lie on the reference
            (another spacing or affine) is scored as `invalid_geometry`; nothing is resampled.

    Raises:
        ValueError: the reference is no label map of these structures, spacing or region does not fit it, a tolerance
            is negative, `failure` is no failure status, or instances are counted and the reference has none that
            fit it.
    """
    reference = as_array(reference)
    layout = layout if layout is not None and layout.counts_instances else None
    known = [ScoredStructure(*structure) for structure in structures]
    _refuse(reference, known, definitions)
    spacing = checked_spacing(spacing, reference.ndim)
    expected_ids = _reference_ids(reference, reference_instances, layout)
    within = _region(region, reference)
    labels = None if prediction is None else as_array(prediction)
    ids = None if instances is None else as_array(instances)
    fault = ""
    if failure is None:
        failure, fault = _fault(labels, ids, reference, len(known), layout, geometries)
    if failure is not None or labels is None:
        labels, ids = reference, None  # the reference alone is counted
    counts, boxes = counted(labels, reference, len(known))
    maps = _Maps(labels, reference, spacing, unit, layout, ids, expected_ids, within, tuple(definitions))
    scores: list[Score] = []
    for label, structure in enumerate(known, start=1):
        number = counts[label]
        listed = annotated is None or structure.name in annotated
        status = status_of(number.prediction, number.reference, failure, listed)
        values = maps.values(number, boxes[label], label, structure, status)
        notes = [REFERENCE_EMPTY] * (status in FAILURES and not number.reference) + [fault] * bool(fault and listed)
        scores += maps.scores(structure, label, status, values, notes)
    return scores


@dataclass(frozen=True)
class _Maps:
    """Label maps (*s) of a case, the ids where instances are counted, and the fixed region."""

    labels: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]
    unit: Literal["mm", "px"]
    layout: Task | None
    ids: np.ndarray | None
    reference_ids: np.ndarray | None
    region: np.ndarray | None
    definitions: tuple[Definition, ...]

    def values(self, counts: Counts, box: Box, label: int, structure: ScoredStructure, status: Status) -> Values:
        """Every metric of a structure."""
        values = fixed_values(status, reference_empty=not counts.reference)
        if status is Status.CLASS_NOT_ANNOTATED:
            return values
        if status not in FAILURES:
            values |= self.of_counts(counts)
        if structure.form == "lesions" and (counts.reference or status not in FAILURES):
            values |= self.of_lesions(box, label, status)
        if status is Status.OK:
            masks = self.labels[box] == label, self.reference[box] == label
            values |= surface_values(*masks, self.spacing, structure.tolerance, self.definitions)
            if structure.form == "tube":
                values["cldice", METRICS["cldice"].definition] = cldice(*masks)
            values |= self.of_segments(box, *masks, label)
        return values

    def of_counts(self, counts: Counts) -> Values:
        """What is counted in voxels."""
        in_ml = unit_of(METRICS["volume_error_ml"], self.unit, len(self.spacing)) == "mL"
        voxel = math.prod(self.spacing) / (MM3_PER_ML if in_ml else 1)
        return {
            ("dsc", "counts"): counts.dsc(),
            ("iou", "counts"): counts.iou(),
            ("volume_bias_percent", "counts"): counts.volume_bias_percent(),
            ("volume_error_ml", "counts"): counts.volume_error(voxel),
        }

    def of_lesions(self, box: Box, label: int, status: Status) -> Values:
        """What only scattered lesions have; a failure found none of them, and is charged with no false positive."""
        if self.region is not None:
            around = bounding_box(self.region)
            box = union(box, around) if box else around
        box = box or (slice(0, 1),) * self.reference.ndim
        region = None if self.region is None else self.region[box]
        reference = self.reference[box] == label
        if status not in FAILURES:
            return lesion_values(self.labels[box] == label, reference, self.spacing, region)
        values = lesion_values(np.zeros_like(reference), reference, self.spacing, region)
        return {key: value for key, value in values.items() if METRICS[key[0]].worst is not None}

    def of_segments(self, box: Box, prediction: np.ndarray, reference: np.ndarray, label: int) -> Values:
        """Panoptic quality and its parts, where the task counts segments of this label."""
        if self.layout is None or "pq" not in metrics_of(label, self.layout):
            return {}
        if label in self.layout.things and self.ids is not None and self.reference_ids is not None:
            found = overlaps(self.ids[box] * prediction, self.reference_ids[box] * reference)
        else:
            found = overlaps(prediction, reference)  # a stuff region is one segment
        return {(name, METRICS[name].definition): value for name, value in segment_values(found).items()}

    def scores(
        self, structure: ScoredStructure, label: int, status: Status, values: Values, notes: list[str]
    ) -> list[Score]:
        """The values in the order of the metrics, with units and notes."""
        resolved = structure.tolerance >= max(self.spacing) / 2
        scores = []
        for metric, scorer in metrics_of(label, self.layout, structure.form).items():
            of_metric = [] if metric != "nsd" or resolved else [TAU_BELOW_RESOLUTION]
            for definition in scorer.definitions:
                if definition in DEFINITIONS and definition not in self.definitions:
                    continue
                value = values[metric, definition]
                infinite = value is not None and math.isinf(value)
                scores.append(
                    Score(
                        structure=structure.name,
                        metric=metric,
                        definition=definition,
                        tolerance=structure.tolerance if metric == "nsd" else None,
                        unit=unit_of(scorer, self.unit, len(self.spacing)),
                        value=None if infinite else value,
                        bound="inf" if infinite else None,
                        status=status,
                        detail="; ".join([*notes, *of_metric]),
                    )
                )
        return scores


def _refuse(reference: np.ndarray, structures: Sequence[ScoredStructure], definitions: Sequence[str]) -> None:
    """Raises ValueError where a reference or what is asked of it makes no sense."""
    fault = label_fault(reference, len(structures))
    if fault:
        raise ValueError(f"reference {fault}")
    for structure in structures:
        if not structure.tolerance >= 0:
            raise ValueError(f"tolerance of {structure.name} is {structure.tolerance}; it must be zero or more")
    for definition in definitions:
        if definition not in DEFINITIONS:
            raise ValueError(f"definition is {definition!r}; known: {', '.join(DEFINITIONS)}")


def _reference_ids(reference: np.ndarray, instances: ArrayLike | None, layout: Task | None) -> np.ndarray | None:
    """Ids (*s) of the reference, where instances are counted."""
    if layout is None:
        return None
    if instances is None:
        raise ValueError("the task counts instances: give reference_instances on the reference's grid")
    ids = as_array(instances)
    fault = id_fault(ids, reference, layout.things)
    if fault:
        raise ValueError(f"reference_instances {fault}")
    return ids


def _region(region: ArrayLike | None, reference: np.ndarray) -> np.ndarray | None:
    if region is None:
        return None
    inside = as_array(region)
    if inside.shape != reference.shape:
        raise ValueError(f"region has shape {inside.shape}, reference {reference.shape}")
    return inside.astype(bool, copy=False)


def _fault(
    labels: np.ndarray | None,
    ids: np.ndarray | None,
    reference: np.ndarray,
    n_structures: int,
    layout: Task | None,
    geometries: tuple[Geometry, Geometry] | None,
) -> tuple[Status | None, str]:
    """Why a prediction cannot be scored: a status and a sentence."""
    if labels is None:
        return Status.PREDICTION_MISSING, ""
    if labels.shape != reference.shape:
        return Status.INVALID_GEOMETRY, f"prediction has shape {labels.shape}, reference {reference.shape}"
    fault = geometry_fault(*geometries, reference.shape) if geometries is not None else ""
    if fault:
        return Status.INVALID_GEOMETRY, fault
    fault = label_fault(labels, n_structures)
    if fault:
        return Status.INVALID_OUTPUT, f"prediction {fault}"
    if layout is None:
        return None, ""
    if ids is None:
        return Status.INVALID_OUTPUT, "the task counts instances, of which the prediction has none"
    fault = id_fault(ids, labels, layout.things)
    return (Status.INVALID_OUTPUT, f"instances {fault}") if fault else (None, "")
