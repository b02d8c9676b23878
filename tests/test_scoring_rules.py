"""What each status means: the policy table, the flags, and the deletion test."""

from __future__ import annotations

import math

import numpy as np
import pytest

from shiftbench.metrics import SCORERS, dsc, hd95_mm, nsd, score_case, volume_bias_percent
from shiftbench.rng import generator
from shiftbench.types import FAILURES, Status

STRUCTURES = (("liver", 2.0), ("tumour", 1.0))
SPACING = (3.0, 1.0, 1.0)


def label_map(liver=True, tumour=True, shift=0) -> np.ndarray:
    labels = np.zeros((5, 12, 14), np.uint8)
    if liver:
        labels[1:4, 2 + shift : 9 + shift, 2:10] = 1
    if tumour:
        labels[2:3, 0:2, 11 + shift : 13 + shift] = 2
    return labels


def scored(prediction, reference, **options) -> dict[tuple[str, str], tuple]:
    scores = score_case(prediction, reference, SPACING, "mm", STRUCTURES, **options)
    return {(s.structure, s.metric): (s.value, s.bound, s.status) for s in scores}


def four(scores, structure) -> list[tuple]:
    return [scores[structure, metric] for metric in ("dsc", "nsd", "hd95_mm", "volume_bias_percent")]


def test_one_pass_over_a_case_equals_the_plain_functions():
    prediction, reference = label_map(shift=1), label_map()
    scores = scored(prediction, reference)
    for label, (name, tolerance) in enumerate(STRUCTURES, start=1):
        pair = prediction == label, reference == label
        values = dsc(*pair), nsd(*pair, SPACING, tolerance), hd95_mm(*pair, SPACING), volume_bias_percent(*pair)
        assert four(scores, name) == [(value, None, Status.OK) for value in values]


@pytest.mark.parametrize(
    ("predicted", "present", "status", "expected"),
    [
        (False, True, Status.MISSED, [(0.0, None), (0.0, None), (None, "inf"), (-100.0, None)]),
        (True, False, Status.FP_ON_NEGATIVE, [(0.0, None), (0.0, None), (None, "inf"), (None, None)]),
        (False, False, Status.BOTH_EMPTY, [(None, None)] * 4),
    ],
)
def test_empty_masks_follow_the_policy_table(predicted, present, status, expected):
    scores = scored(label_map(tumour=predicted), label_map(tumour=present))
    assert four(scores, "tumour") == [(*pair, status) for pair in expected]
    assert scores["liver", "dsc"] == (1.0, None, Status.OK)


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_a_failure_is_worst_on_a_positive_case_and_a_false_positive_on_a_negative_one(failure):
    worst = [(0.0, None, failure), (0.0, None, failure), (None, "inf", failure), (None, None, failure)]
    for prediction in (None, label_map()):
        scores = score_case(prediction, label_map(tumour=False), SPACING, "mm", STRUCTURES, failure=failure)
        for structure, detail in (("liver", ""), ("tumour", "reference_empty")):
            own = [s for s in scores if s.structure == structure]
            assert [(s.value, s.bound, s.status) for s in own] == worst
            assert all(s.detail.startswith(detail) for s in own) and (detail or "reference_empty" not in own[0].detail)


def test_a_prediction_that_cannot_be_scored_is_a_status_and_not_an_exception():
    reference = label_map()
    faults = [
        (None, Status.PREDICTION_MISSING),
        (reference[:-1], Status.INVALID_GEOMETRY),
        (reference.astype(float), Status.INVALID_OUTPUT),
        (np.where(reference == 2, 3, reference), Status.INVALID_OUTPUT),
        (-reference.astype(int), Status.INVALID_OUTPUT),
    ]
    for prediction, status in faults:
        assert scored(prediction, reference)["liver", "dsc"] == (0.0, None, status)


def test_a_structure_that_was_not_annotated_has_no_score_whatever_happened():
    for prediction, failure in ((label_map(), None), (label_map(tumour=False), None), (None, Status.TIMEOUT)):
        scores = scored(prediction, label_map(), annotated=("liver",), failure=failure)
        assert four(scores, "tumour") == [(None, None, Status.CLASS_NOT_ANNOTATED)] * 4
        assert scores["liver", "dsc"][2] in (Status.OK, Status.TIMEOUT)


def test_every_case_has_one_score_per_structure_and_metric_with_unit_and_definition():
    for prediction in (label_map(), None, label_map(liver=False, tumour=False)):
        scores = score_case(prediction, label_map(), SPACING, "mm", STRUCTURES)
        assert [(s.structure, s.metric) for s in scores] == [(n, m) for n, _ in STRUCTURES for m in SCORERS]
        assert {(s.metric, s.definition, s.unit, s.tolerance) for s in scores if s.structure == "liver"} == {
            ("dsc", "counts", "1", None),
            ("nsd", "S", "1", 2.0),
            ("hd95_mm", "S", "mm", None),
            ("volume_bias_percent", "counts", "%", None),
        }
    pixels = score_case(label_map(), label_map(), (1, 1, 1), "px", STRUCTURES)
    assert {s.unit for s in pixels if s.metric == "hd95_mm"} == {"px"}


def test_a_tolerance_under_half_the_largest_voxel_side_is_flagged():
    details = {
        s.structure: s.detail
        for s in score_case(label_map(), label_map(), SPACING, "mm", STRUCTURES)
        if s.metric == "nsd"
    }
    assert details == {"liver": "", "tumour": "tau_below_resolution"}


def test_the_reference_must_be_a_label_map_of_the_structures():
    for reference, complaint in (
        (label_map().astype(float), "integers"),
        (label_map() + 1, "labels from 1 to 3"),
        (label_map().ravel(), "entries for 1 axes"),
    ):
        with pytest.raises(ValueError, match=complaint):
            score_case(label_map(), reference, SPACING, "mm", STRUCTURES)
    with pytest.raises(ValueError, match="not a failure status"):
        score_case(None, label_map(), SPACING, "mm", STRUCTURES, failure=Status.OK)


@pytest.mark.parametrize("change", ["delete", "empty", "fail"])
def test_deleting_or_failing_a_prediction_never_improves_any_mean(change):
    draw = generator(0, "deletion")
    references = [label_map(tumour=bool(i % 3)) for i in range(6)]
    predictions = [
        np.where(draw.random(r.shape) < 0.1 * i, draw.integers(0, 3, r.shape), r) for i, r in enumerate(references)
    ]

    def mean(changed: int | None, metric: str) -> float:
        values = []
        for i, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
            prediction = prediction if i != changed else {"empty": np.zeros_like(reference)}.get(change)
            failure = Status.FAILED if i == changed and change == "fail" else None
            for score in score_case(prediction, reference, SPACING, "mm", STRUCTURES, failure=failure):
                if (
                    score.metric == metric
                    and (reference == [n for n, _ in STRUCTURES].index(score.structure) + 1).any()
                ):
                    values.append(math.inf if score.bound == "inf" else score.value)
        assert len(values) == 10 and None not in values
        return sum(values) / len(values)

    for deleted in range(6):
        assert mean(deleted, "dsc") < mean(None, "dsc")
        assert mean(deleted, "nsd") < mean(None, "nsd")
        assert mean(deleted, "hd95_mm") > mean(None, "hd95_mm")
