"""What each status means: the policy table, the flags, and the deletion test."""

from __future__ import annotations

import math
import tracemalloc
from functools import partial

import numpy as np
import pytest
from masks import blob

from shiftbench.metrics import (
    INSTANCE_SCORERS,
    LESION_SCORERS,
    METRICS,
    SCORERS,
    SEGMENT_SCORERS,
    TUBE_SCORERS,
    assd_mm,
    dsc,
    hd95_mm,
    hd_mm,
    iou,
    maps,
    masd_mm,
    nsd,
    score_case,
    score_cases,
    unit_of,
    volume_bias_percent,
    volume_error_ml,
)
from shiftbench.metrics.components import components
from shiftbench.metrics.lesions import ndsc
from shiftbench.metrics.policy import OF_REFERENCE
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.types import FAILURES, Geometry, Status

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
    """(value, bound, status) by structure and metric, in the primary definition."""
    scores = score_case(prediction, reference, SPACING, options.pop("structures", STRUCTURES), **options)
    primary = [s for s in scores if s.definition == METRICS[s.metric].definition]
    return {(s.structure, s.metric): (s.value, s.bound, s.status) for s in primary}


def four(scores, structure) -> list[tuple]:
    return [scores[structure, metric] for metric in ("dsc", "nsd", "hd95_mm", "volume_bias_percent")]


def plain(prediction, reference, spacing, tolerance) -> dict[tuple[str, str], float]:
    """Every metric of SCORERS by the function of its name."""
    values = {
        ("dsc", "counts"): dsc(prediction, reference),
        ("iou", "counts"): iou(prediction, reference),
        ("volume_bias_percent", "counts"): volume_bias_percent(prediction, reference),
        ("volume_error_ml", "counts"): volume_error_ml(prediction, reference, spacing),
    }
    for definition in ("S", "V"):
        values["nsd", definition] = nsd(prediction, reference, spacing, tolerance, definition)
        for distance in (hd_mm, hd95_mm, assd_mm, masd_mm):
            values[distance.__name__, definition] = distance(prediction, reference, spacing, definition)
    return values


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_pass_over_a_case_equals_the_plain_functions(dtype, order):
    prediction, reference = (np.asarray(m, dtype, order=order) for m in (label_map(shift=1), label_map()))
    scores = score_case(prediction, reference, SPACING, STRUCTURES)
    for label, (name, tolerance) in enumerate(STRUCTURES, start=1):
        values = plain(prediction == label, reference == label, SPACING, tolerance)
        found = {(s.metric, s.definition): s.value for s in scores if s.structure == name}
        assert found == pytest.approx(values, rel=1e-12) and {s.status for s in scores} == {Status.OK}


@pytest.mark.parametrize("shape", [(7, 20, 22), (24, 30)])
def test_one_pass_does_not_depend_on_padding_cropping_axis_order_or_flips(shape):
    draw = generator(0, "labels")
    spacing = (3.0, 0.7, 1.1)[: len(shape)]
    reference = blob(shape, "r1", 0.8) + 2 * (blob(shape, "r2", 0.9) & ~blob(shape, "r1", 0.8))
    prediction = np.where(draw.random(shape) < 0.05, draw.integers(0, 3, shape), np.roll(reference, 1, -1))

    def values(prediction, reference, spacing):
        lesions = [(name, tolerance, "lesions") for name, tolerance in STRUCTURES]
        scores = score_case(prediction, reference, spacing, lesions)
        return {(s.structure, s.metric, s.definition): (s.value, s.bound) for s in scores}

    known = values(prediction, reference, spacing)
    assert any(value is not None for value, _ in known.values())
    padded = [np.pad(m, 5) for m in (prediction, reference)]
    turned = [np.flip(m, 0).transpose(range(m.ndim)[::-1]) for m in (prediction, reference)]
    strided = [np.repeat(np.repeat(m, 2, 0), 3, 1)[::2, ::3] for m in (prediction, reference)]
    for pair, sides in ((padded, spacing), (turned, spacing[::-1]), (strided, spacing)):
        for key, (value, bound) in values(*pair, sides).items():
            expected, infinite = known[key]
            assert bound == infinite and (value is None) == (expected is None), key
            assert value is None or value == pytest.approx(expected, rel=1e-6), key


def test_many_labels_are_counted_without_wrapping_around():
    names = [(f"s{i}", 1.0) for i in range(40)]
    reference = np.repeat(np.arange(41), 12).reshape(41, 12)
    prediction = np.roll(reference, 4, axis=1)
    prediction[40] = 39
    scores = score_case(prediction, reference, (1, 1), names, unit="px")
    found = [s.value for s in scores if s.metric == "dsc"]
    assert found == [1.0] * 38 + [2 * 12 / 36, 0.0]
    assert [s.status for s in scores if s.metric == "dsc"][-1] is Status.MISSED


def test_the_order_of_structures_changes_no_score():
    prediction, reference = label_map(shift=1), label_map()
    swapped = [np.choose(labels, [0, 2, 1]) for labels in (prediction, reference)]
    known = score_case(prediction, reference, SPACING, STRUCTURES)
    found = score_case(*swapped, SPACING, STRUCTURES[::-1])
    assert sorted(found, key=str) == sorted(known, key=str) and found != known


def test_the_memory_of_a_small_structure_in_a_large_volume_is_that_of_one_map_of_bytes():
    reference = np.zeros((160, 160, 160), np.int64)
    reference[80:86, 80:86, 80:86] = 1
    prediction = np.roll(reference, 1, axis=0)
    score_case(prediction[70:90], reference[70:90], (1, 1, 1), [("lesion", 1.0)])  # imports and tables
    tracemalloc.start()
    score_case(prediction, reference, (1, 1, 1), [("lesion", 1.0)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2.2 * reference.size  # the joint map and the reference as bytes; boxes need hardly more


def test_blocks_of_the_count_add_up(monkeypatch):
    prediction, reference = label_map(shift=1), label_map()
    known = score_case(prediction, reference, SPACING, STRUCTURES)
    monkeypatch.setattr(maps, "BLOCK", 7)
    assert score_case(prediction, reference, SPACING, STRUCTURES) == known


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
    for prediction in (None, label_map(), label_map()[:-1]):
        scores = score_case(prediction, label_map(tumour=False), SPACING, STRUCTURES, failure=failure)
        for structure, detail in (("liver", ""), ("tumour", "reference_empty")):
            own = [s for s in scores if s.structure == structure]
            assert len(own) == 14 and {s.status for s in own} == {failure}
            for s in own:
                worst = METRICS[s.metric].worst
                assert (s.value, s.bound) == ((None, "inf") if worst == math.inf else (worst, None))
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


@pytest.mark.parametrize(
    ("prediction", "sentence"),
    [
        (label_map()[:-1], "prediction has shape (4, 12, 14), reference (5, 12, 14)"),
        (label_map().astype(float), "prediction has values of type float64; labels are integers"),
        (label_map() * 2, "prediction has labels from 0 to 4; known: 0 to 2"),
        (label_map() - np.int8(1), "prediction has labels from -1 to 1; known: 0 to 2"),
    ],
)
def test_a_prediction_that_cannot_be_scored_says_why_in_one_sentence(prediction, sentence):
    scores = score_case(prediction, label_map(), SPACING, STRUCTURES)
    assert {s.detail for s in scores if s.metric == "dsc"} == {sentence}


def test_a_structure_that_was_not_annotated_has_no_score_whatever_happened():
    for prediction, failure in ((label_map(), None), (label_map(tumour=False), None), (None, Status.TIMEOUT)):
        scores = scored(prediction, label_map(), annotated=("liver",), failure=failure)
        assert four(scores, "tumour") == [(None, None, Status.CLASS_NOT_ANNOTATED)] * 4
        assert scores["liver", "dsc"][2] in (Status.OK, Status.TIMEOUT)


def test_volume_errors_are_counted_wherever_there_is_a_prediction():
    voxel = math.prod(SPACING) / 1000
    n = {name: int((label_map() == label).sum()) for label, (name, _) in enumerate(STRUCTURES, start=1)}
    missed = scored(label_map(tumour=False), label_map())
    assert missed["tumour", "volume_error_ml"][0] == pytest.approx(-n["tumour"] * voxel)
    made_up = scored(label_map(), label_map(tumour=False))
    assert made_up["tumour", "volume_error_ml"][0] == pytest.approx(n["tumour"] * voxel)
    neither = scored(label_map(tumour=False), label_map(tumour=False))
    assert neither["tumour", "volume_error_ml"] == (0.0, None, Status.BOTH_EMPTY)
    failed = scored(None, label_map())
    assert failed["liver", "volume_error_ml"] == failed["liver", "volume_bias_percent"]
    assert failed["liver", "volume_error_ml"][0] is None


@pytest.mark.parametrize(
    ("unit", "axes", "name", "factor"),
    [("mm", 3, "mL", 0.001), ("mm", 2, "mm2", 1), ("px", 2, "px2", 1), ("px", 3, "px3", 1)],
)
def test_a_volume_error_has_the_unit_of_what_is_measured(unit, axes, name, factor):
    reference, prediction = (np.ones((5,) * axes, int), np.ones((5,) * axes, int))
    prediction[0] = 0
    spacing = (2.0,) * axes if unit == "mm" else (1.0,) * axes
    (score,) = [
        s
        for s in score_case(prediction, reference, spacing, [("all", 2.0)], unit=unit)
        if s.metric == "volume_error_ml"
    ]
    assert score.unit == name and score.value == pytest.approx(-(5 ** (axes - 1)) * math.prod(spacing) * factor)
    assert unit_of(METRICS["hd95_mm"], unit, axes) == unit and unit_of(METRICS["dsc"], unit, axes) == "1"


def test_every_case_has_one_score_per_structure_metric_and_definition():
    every = [(m, d) for m, scorer in SCORERS.items() for d in scorer.definitions]
    for prediction in (label_map(), None, label_map(liver=False, tumour=False)):
        scores = score_case(prediction, label_map(), SPACING, STRUCTURES)
        assert [(s.structure, s.metric, s.definition) for s in scores] == [
            (n, *k) for n, _ in STRUCTURES for k in every
        ]
        assert {s.tolerance for s in scores if s.structure == "liver"} == {None, 2.0}
        assert all((s.metric == "nsd") == (s.tolerance is not None) for s in scores)
        only = score_case(prediction, label_map(), SPACING, STRUCTURES, definitions=["V"])
        assert only == [s for s in scores if s.definition != "S"]
    pixels = score_case(label_map(), label_map(), (1, 1, 1), STRUCTURES, unit="px")
    assert {s.unit for s in pixels if s.metric == "hd95_mm"} == {"px"}


def test_a_tolerance_under_half_the_largest_voxel_side_is_flagged():
    details = {
        s.structure: s.detail for s in score_case(label_map(), label_map(), SPACING, STRUCTURES) if s.metric == "nsd"
    }
    assert details == {"liver": "", "tumour": "tau_below_resolution"}


def test_the_reference_must_be_a_label_map_of_the_structures():
    for reference, complaint in (
        (label_map().astype(float), "integers"),
        (label_map() + 1, "labels from 1 to 3"),
        (label_map().ravel(), "1 dimensions"),
        (label_map()[:0], "without a voxel"),
        (label_map().astype(np.int8) - np.int8(1), "labels from -1 to 1"),
    ):
        with pytest.raises(ValueError, match=complaint):
            score_case(label_map(), reference, SPACING, STRUCTURES)
    with pytest.raises(ValueError, match="not a failure status"):
        score_case(None, label_map(), SPACING, STRUCTURES, failure=Status.OK)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"spacing": (1, 1)}, "2 entries for 3 axes"),
        ({"spacing": (1, 1, 0)}, "not a positive number"),
        ({"spacing": (1, -1, 1)}, "not a positive number"),
        ({"structures": [("liver", -1.0), ("tumour", 1.0)]}, "tolerance of liver is -1.0"),
        ({"structures": [("liver", math.nan), ("tumour", 1.0)]}, "tolerance of liver is nan"),
        ({"region": np.ones((5, 12, 13), bool)}, "region has shape"),
        ({"definitions": ["M"]}, "known: S, V"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(change, complaint):
    arguments = {"spacing": SPACING, "unit": "mm", "structures": STRUCTURES, **change}
    with pytest.raises(ValueError, match=complaint) as caught:
        score_case(label_map(), label_map(), **arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    [
        (lambda ids: -ids, "hold -2; ids are 0 or more"),
        (lambda ids: ids.astype(float), "are of type float64; ids are integers"),
        (lambda ids: ids[:-1], "have the shape"),
        (lambda ids: np.minimum(ids, 1), "overlap: 1 is an instance of label 1 and of label 2"),
    ],
)
def test_ids_that_are_no_instances_are_refused_of_a_reference_and_invalid_of_a_prediction(fault, complaint):
    labels, layout = label_map(), Task(3, "instance", (1, 2))
    ids = labels.astype(np.int32)
    counting = {"layout": layout, "instances": ids, "reference_instances": ids}
    with pytest.raises(ValueError, match=f"reference_instances {complaint}"):
        score_case(labels, labels, SPACING, STRUCTURES, **{**counting, "reference_instances": fault(ids)})
    scores = score_case(labels, labels, SPACING, STRUCTURES, **{**counting, "instances": fault(ids)})
    assert {s.status for s in scores} == {Status.INVALID_OUTPUT}
    assert f"instances {complaint}" in scores[0].detail


FORMS = (("liver", 2.0, "tube"), ("tumour", 1.0, "lesions"))
LAYOUT = Task(3, "panoptic", (2,))


def deletion_cases() -> list[dict]:
    """Six cases, some without a tumour, predicted ever worse."""
    draw = generator(0, "deletion")
    cases = []
    for i in range(6):
        reference = label_map(tumour=bool(i % 3))
        noisy = np.where(draw.random(reference.shape) < 0.1 * i, draw.integers(0, 3, reference.shape), reference)
        things = [components(labels == 2) for labels in (noisy.astype(np.uint8), reference)]
        region = np.ones(reference.shape, bool)
        cases.append(
            {
                "prediction": noisy.astype(np.uint8),
                "reference": reference,
                **{"spacing": SPACING, "unit": "mm", "structures": FORMS, "layout": LAYOUT, "region": region},
                **{"instances": things[0], "reference_instances": things[1]},
            }
        )
    return cases


def changed(case: dict, change: str) -> dict:
    if change == "empty":
        return {**case, "prediction": np.zeros_like(case["reference"]), "instances": np.zeros_like(case["instances"])}
    return {**case, "prediction": None, "instances": None, "failure": Status.FAILED if change == "fail" else None}


def values_of(case: dict) -> dict[tuple, float | None]:
    """Of structures whose reference is not empty."""
    present = [name for label, (name, *_) in enumerate(FORMS, start=1) if (case["reference"] == label).any()]
    return {
        (s.structure, s.metric, s.definition): math.inf if s.bound == "inf" else s.value
        for s in score_case(**case)
        if s.structure in present
    }


@pytest.mark.parametrize("change", ["delete", "empty", "fail"])
def test_deleting_or_failing_a_prediction_never_improves_any_mean(change):
    counted = set()
    for case in deletion_cases():
        kept, deleted = values_of(case), values_of(changed(case, change))
        assert kept.keys() == deleted.keys()
        for key, value in kept.items():
            scorer = METRICS[key[1]]
            if scorer.worst is None:
                continue
            # Neither enters or leaves a mean: what is undefined depends on the reference alone.
            assert (value is None) == (deleted[key] is None), key
            if value is not None:
                assert deleted[key] == scorer.worst, key
                assert value >= deleted[key] if scorer.direction == "higher" else value <= deleted[key], key
                counted.add(key[1])
    expected = {*SCORERS, *TUBE_SCORERS, *LESION_SCORERS, *SEGMENT_SCORERS, *INSTANCE_SCORERS}
    bounded = {name for name in expected if METRICS[name].worst is not None}
    assert counted >= bounded - {"lesion_recall_small", "lesion_recall_medium", "lesion_recall_large"}
    assert len(counted & {"lesion_recall_small", "lesion_recall_medium", "lesion_recall_large"}) >= 1


@pytest.mark.parametrize("metric", ["dsc", "nsd", "iou", "cc_dice", "lesion_f1", "hd95_mm"])
def test_the_mean_of_a_table_gets_worse_with_every_prediction_that_is_deleted(metric):
    cases = deletion_cases()

    def mean(gone: int) -> float:
        """With the first predictions deleted."""
        tables = [values_of(changed(case, "delete") if i < gone else case) for i, case in enumerate(cases)]
        found = [value for table in tables for (_, name, d), value in table.items() if (name, d) == (metric, primary)]
        assert None not in found and len(found) == count
        return sum(found) / len(found)

    primary = METRICS[metric].definition
    count = 10 if metric in SCORERS else 4
    means = [mean(gone) for gone in range(len(cases) + 1)]
    assert means == sorted(means, reverse=METRICS[metric].direction == "higher") and means[0] != means[-1]


@pytest.mark.parametrize("failure", [None, *sorted(FAILURES)])
def test_lesions_of_a_failure_on_a_negative_case_are_a_false_positive_without_recall(failure):
    prediction = label_map() if failure is None else None
    scores = score_case(prediction, label_map(tumour=False), SPACING, FORMS, failure=failure, region=label_map() > 0)
    found = {
        s.metric: s.value for s in scores if s.structure == "tumour" and s.definition == METRICS[s.metric].definition
    }
    assert found["lesion_f1"] == 0.0
    assert [found[name] for name in LESION_SCORERS if name in OF_REFERENCE] == [None] * 6
    assert found["lesion_false_positives"] == (1.0 if failure is None else None)


def test_a_missed_lesion_has_no_recall_in_sizes_that_the_reference_has_not():
    reference = label_map()
    for options in ({}, {"failure": Status.TIMEOUT}):
        scores = score_case(label_map(tumour=False), reference, SPACING, FORMS, **options)
        found = {s.metric: s.value for s in scores if s.structure == "tumour"}
        sizes = [found[f"lesion_recall_{size}"] for size in ("small", "medium", "large")]
        assert sorted(sizes, key=str) == [0.0, None, None]
        assert found["lesion_false_positives"] == (None if options else 0.0)


def test_a_region_wider_than_the_masks_counts_whole_in_the_ndsc():
    reference, prediction = label_map(), label_map(shift=1)
    cut = np.s_[:, :, 1:]  # without a border that has neither structures nor region
    region = np.zeros(reference.shape, bool)
    region[:, :, 1:] = True
    wide = scored(prediction, reference, structures=FORMS, region=region)["tumour", "ndsc"][0]
    assert wide == ndsc(prediction == 2, reference == 2, region)
    cropped = scored(prediction[cut], reference[cut], structures=FORMS, region=region[cut])["tumour", "ndsc"][0]
    narrow = scored(prediction, reference, structures=FORMS, region=(reference > 0) | (prediction > 0))
    assert wide == cropped != narrow["tumour", "ndsc"][0]
    assert scored(prediction, reference, structures=FORMS)["tumour", "ndsc"][0] is None


def test_cases_scored_in_parallel_are_those_scored_one_by_one_in_their_order():
    cases = [*deletion_cases(), changed(deletion_cases()[1], "fail")]
    serial = [score_case(**case) for case in cases]
    assert list(score_cases(iter(cases))) == serial
    assert list(score_cases(iter(cases), jobs=2)) == serial
    read_there = [partial(dict, **case) for case in cases]
    assert list(score_cases(read_there)) == list(score_cases(read_there, jobs=2)) == serial
    with pytest.raises(ValueError, match="jobs is 0"):
        score_cases(cases, jobs=0)
    with pytest.raises(ValueError, match="not a positive number"):
        list(score_cases([cases[0], {**cases[1], "spacing": (0, 1, 1)}], jobs=2))


AFFINE = np.array([[-0.8, 0, 0, 90], [0, -0.8, 0, 120], [0, 0, 2.5, -40], [0, 0, 0, 1.0]])


def on_grids(prediction: Geometry, reference: Geometry) -> set[tuple[str, str]]:
    labels = np.zeros((6, 8, 10), np.uint8)
    labels[1:4, 2:6, 3:8] = 1
    scores = score_case(labels, labels, (0.8, 0.8, 2.5), [("liver", 2.0)], geometries=(prediction, reference))
    return {(str(score.status), score.detail) for score in scores if score.metric == "dsc"}


def test_a_prediction_on_another_grid_is_a_failure_and_is_not_resampled():
    own = Geometry((0.8, 0.8, 2.5), AFFINE)
    assert on_grids(own, own) == {("ok", "")}
    assert on_grids(Geometry((0.8, 0.8, 2.5)), own) == {("ok", "")}
    rounded = AFFINE.astype(np.float32).astype(float) + 1e-4
    assert on_grids(Geometry((0.80001, 0.8, 2.5), rounded), own) == {("ok", "")}
    ((status, detail),) = on_grids(Geometry((0.8, 0.8, 5.0)), own)
    assert status == "invalid_geometry" and "spacing (0.8, 0.8, 5.0)" in detail
    moved = AFFINE.copy()
    moved[2, 3] += 2.5
    ((status, detail),) = on_grids(Geometry((0.8, 0.8, 2.5), moved), own)
    assert status == "invalid_geometry" and "up to 2.5 mm beside" in detail
    flipped = AFFINE * np.array([-1, 1, 1, 1])
    assert {status for status, _ in on_grids(Geometry((0.8, 0.8, 2.5), flipped), own)} == {"invalid_geometry"}
    assert {status for status, _ in on_grids(Geometry(None), own)} == {"invalid_geometry"}
