"""One pass over a case: every metric of every structure, with the status that says what each value means."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

from shiftbench.metrics.instance import overlaps, segment_values
from shiftbench.metrics.lesions import lesion_values
from shiftbench.metrics.overlap import overlap_values
from shiftbench.metrics.scorers import METRICS, Form, ScoredStructure, Scorer, metrics_of
from shiftbench.metrics.surface import checked_spacing, surface_values
from shiftbench.metrics.tubes import cldice
from shiftbench.tasks import Task
from shiftbench.types import FAILURES, Status

REFERENCE_EMPTY = "reference_empty"  # detail of a failure on a negative case, which counts as a false positive
TAU_BELOW_RESOLUTION = "tau_below_resolution"  # detail of an NSD whose tolerance is under half the largest voxel side

Values = dict[tuple[str, str], float | None]  # by metric and definition


def _each(values: Mapping[str, float | None]) -> Values:
    return {(name, definition): values[name] for name, scorer in METRICS.items() for definition in scorer.definitions}


_NULL = _each(dict.fromkeys(METRICS, None))
_WORST = _each({name: scorer.worst for name, scorer in METRICS.items()})
_NO_RECALL = {key: None for key in _WORST if key[0] in ("instance_recall", "lesion_recall") or "recall_" in key[0]}


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
    unit: Literal["mm", "px"],
    structures: Sequence[ScoredStructure | tuple],
    *,
    annotated: Collection[str] | None = None,
    failure: Status | None = None,
    layout: Task | None = None,
    instances: ArrayLike | None = None,
    reference_instances: ArrayLike | None = None,
    region: ArrayLike | None = None,
) -> list[Score]:
    """Scores of every structure and metric; a case has the same list of them whatever the prediction.

    Args:
        prediction: integer label map (*s), label i + 1 for `structures[i]`, or None where there is none. A map of
            another shape is scored as `invalid_geometry`, one that is no label map as `invalid_output`.
        reference: integer label map (*s).
        spacing: voxel size per axis, in `unit`.
        unit: of spacing, tolerances and distances.
        structures: in label order; a tuple holds the fields of `ScoredStructure`.
        annotated: structures that the reference marks; None for all.
        failure: why the prediction does not count, where it does not.
        layout: of the task; where it counts instances, `metrics_of` its things, and of stuff in panoptic tasks, are
            scored too.
        instances: predicted ids (*s), 0 where there is no thing; a prediction without them, where they are counted, is
            scored as `invalid_output`.
        reference_instances: ids (*s) of the reference.
        region: bool (*s), the fixed anatomical region of the nDSC of lesions; without it they have none.

    Raises:
        ValueError: the reference is no label map of these structures, spacing does not fit it, `failure` is no
            failure status, or instances are counted and the reference has none that fit it.
    """
    reference = np.asarray(reference)
    spacing = checked_spacing(spacing, reference.ndim)
    fault = _label_fault(reference, len(structures))
    if fault:
        raise ValueError(f"reference {fault}")
    if failure is not None and failure not in FAILURES:
        raise ValueError(f"'{failure}' is not a failure status")
    ids = _id_maps(reference, instances, reference_instances, layout)
    labels = reference if prediction is None else np.asarray(prediction)
    failure = failure or (
        Status.PREDICTION_MISSING if prediction is None else _failure(labels, reference, len(structures))
    )
    if failure is None and ids is None and layout is not None and layout.counts_instances:
        failure = Status.INVALID_OUTPUT
    known = None if region is None else np.asarray(region, bool)
    maps = _Maps(labels, reference, spacing, unit, layout, ids, known)
    boxes_r = ndimage.find_objects(reference.astype(np.int32), len(structures))
    boxes_p = boxes_r if failure else ndimage.find_objects(labels.astype(np.int32), len(structures))
    scores: list[Score] = []
    for label, structure in enumerate((ScoredStructure(*s) for s in structures), start=1):
        box_p, box_r = boxes_p[label - 1], boxes_r[label - 1]
        absent = annotated is not None and structure.name not in annotated
        status = Status.CLASS_NOT_ANNOTATED if absent else failure or _status(box_p, box_r)
        values = maps.values(box_p, box_r, label, structure, status)
        detail = REFERENCE_EMPTY if status in FAILURES and box_r is None else ""
        flagged = structure.tolerance < max(spacing) / 2
        metrics = metrics_of(label, layout, structure.form)
        scores += _scores(structure, unit, status, values, detail, flagged, metrics)
    return scores


@dataclass(frozen=True)
class _Maps:
    """Label maps (*s) of a case, the ids (predicted, reference) where instances are counted, and the fixed region."""

    labels: np.ndarray
    reference: np.ndarray
    spacing: tuple[float, ...]
    unit: Literal["mm", "px"]
    layout: Task | None
    ids: tuple[np.ndarray, np.ndarray] | None
    region: np.ndarray | None

    def values(self, box_p, box_r, label: int, structure: ScoredStructure, status: Status) -> Values:
        """Every metric of a structure."""
        if status is not Status.OK:
            return _fixed(status, box_r is None)
        box = _union(box_p, box_r)
        prediction, reference = self.labels[box] == label, self.reference[box] == label
        values = overlap_values(prediction, reference, self.spacing)
        values |= surface_values(prediction, reference, self.spacing, structure.tolerance)
        values |= self.of_form(prediction, reference, structure.form, None if self.region is None else self.region[box])
        return values | self.of_segments(box, prediction, reference, label)

    def of_form(self, prediction: np.ndarray, reference: np.ndarray, form: Form, region: np.ndarray | None) -> Values:
        """What only tubes or only lesions have."""
        if form == "tube":
            return {("cldice", "skeleton"): cldice(prediction, reference)}
        return lesion_values(prediction, reference, self.spacing, region) if form == "lesions" else {}

    def of_segments(self, box, prediction: np.ndarray, reference: np.ndarray, label: int) -> Values:
        """Panoptic quality and its parts, where the task counts segments of this label."""
        if self.ids is None or self.layout is None or "pq" not in metrics_of(label, self.layout):
            return {}
        if label in self.layout.things:
            predicted, expected = (ids[box] for ids in self.ids)
            found = segment_values(overlaps(predicted * prediction, expected * reference))
        else:
            found = segment_values(overlaps(prediction, reference))  # a stuff region is one segment
        return {(name, METRICS[name].definition): value for name, value in found.items()}


def _id_maps(
    reference: np.ndarray,
    instances: ArrayLike | None,
    reference_instances: ArrayLike | None,
    layout: Task | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Predicted and reference ids (*s); None where none are counted or the prediction has none on the right grid."""
    if layout is None or not layout.counts_instances:
        return None
    expected = None if reference_instances is None else np.asarray(reference_instances)
    if expected is None or expected.shape != reference.shape:
        raise ValueError("the task counts instances: give reference_instances on the reference's grid")
    found = None if instances is None else np.asarray(instances)
    if found is None or found.shape != reference.shape or not np.issubdtype(found.dtype, np.integer):
        return None
    return found, expected


def _label_fault(labels: np.ndarray, n_structures: int) -> str:
    """What keeps `labels` from being a map of 0 to n_structures, or an empty string."""
    if labels.ndim not in (2, 3):
        return f"has {labels.ndim} dimensions; a label map has 2 or 3"
    if not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
        return f"has values of type {labels.dtype}; labels are integers"
    if labels.size and (labels.min() < 0 or labels.max() > n_structures):
        return f"has labels from {labels.min()} to {labels.max()}; known: 0 to {n_structures}"
    return ""


def _failure(labels: np.ndarray, reference: np.ndarray, n_structures: int) -> Status | None:
    if labels.shape != reference.shape:
        return Status.INVALID_GEOMETRY
    return Status.INVALID_OUTPUT if _label_fault(labels, n_structures) else None


def _status(box_p: tuple[slice, ...] | None, box_r: tuple[slice, ...] | None) -> Status:
    if box_r is None:
        return Status.BOTH_EMPTY if box_p is None else Status.FP_ON_NEGATIVE
    return Status.MISSED if box_p is None else Status.OK


def _union(box_p: tuple[slice, ...], box_r: tuple[slice, ...]) -> tuple[slice, ...]:
    return tuple(slice(min(p.start, r.start), max(p.stop, r.stop)) for p, r in zip(box_p, box_r, strict=True))


def _fixed(status: Status, no_reference: bool) -> Values:
    if status in (Status.BOTH_EMPTY, Status.CLASS_NOT_ANNOTATED):
        return _NULL
    if status is Status.MISSED:
        return {**_WORST, ("volume_bias_percent", "counts"): -100.0}
    if status is Status.FP_ON_NEGATIVE:
        return {**_WORST, **_NO_RECALL, ("instance_precision", "iou>0.5"): 0.0}
    return {**_WORST, **_NO_RECALL} if no_reference else _WORST


def _scores(
    structure: ScoredStructure,
    unit: str,
    status: Status,
    values: Values,
    detail: str,
    flagged: bool,
    metrics: Mapping[str, Scorer],
) -> list[Score]:
    scores = []
    for metric, definition in ((name, d) for name, scorer in metrics.items() for d in scorer.definitions):
        value = values[metric, definition]
        infinite = value is not None and math.isinf(value)
        notes = [detail] if detail else []
        if metric == "nsd" and flagged:
            notes.append(TAU_BELOW_RESOLUTION)
        scores.append(
            Score(
                structure=structure.name,
                metric=metric,
                definition=definition,
                tolerance=structure.tolerance if metric == "nsd" else None,
                unit=unit if metrics[metric].unit == "mm" else metrics[metric].unit,
                value=None if infinite else value,
                bound="inf" if infinite else None,
                status=status,
                detail="; ".join(notes),
            )
        )
    return scores
