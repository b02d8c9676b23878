"""Panoptic quality against brute force, the theorem that makes matching unique, and what each status is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shiftbench.metrics import INSTANCE_SCORERS, SCORERS, SEGMENT_SCORERS, metrics_of, overlaps, score_case
from shiftbench.metrics.instance import panoptic_quality
from shiftbench.rng import generator
from shiftbench.tasks import Task
from shiftbench.types import FAILURES, Status

STRUCTURES = (("liver", 2.0), ("tumour", 1.0))
PANOPTIC, INSTANCE = Task(3, "panoptic", (2,)), Task(3, "instance", (2,))
ADDED = (*SEGMENT_SCORERS, *INSTANCE_SCORERS)

pairs = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6).flatmap(
    lambda s: st.tuples(*(hnp.arrays(np.int32, s, elements=st.sampled_from([0, 1, 2, 5, 900])) for _ in range(2)))
)


def brute_force(predicted, reference) -> dict[str, float | None]:
    """Every value by loops over all pairs of masks."""
    ps, rs = ([ids == i for i in np.unique(ids) if i] for ids in (predicted, reference))
    ious = [(p & r).sum() / (p | r).sum() for p in ps for r in rs]
    hits = [iou for iou in ious if iou > 0.5]
    tp, fp, fn = len(hits), len(ps) - len(hits), len(rs) - len(hits)
    total = tp + fp / 2 + fn / 2
    return {
        "pq": sum(hits) / total if total else None,
        "sq": sum(hits) / tp if tp else None,
        "rq": tp / total if total else None,
        "instance_precision": tp / (tp + fp) if ps else None,
        "instance_recall": tp / (tp + fn) if rs else None,
    }


def values(predicted, reference) -> dict[str, float | None]:
    found = overlaps(predicted, reference)
    return {
        "pq": found.pq(),
        "sq": found.sq(),
        "rq": found.rq(),
        "instance_precision": found.precision(),
        "instance_recall": found.recall(),
    }


@settings(max_examples=200, deadline=None)
@given(pair=pairs)
def test_every_value_equals_brute_force(pair):
    assert values(*pair) == pytest.approx(brute_force(*pair))


@settings(max_examples=200, deadline=None)
@given(pair=pairs)
def test_no_instance_has_two_partners_above_one_half(pair):
    found = overlaps(*pair)
    matched = found.matches()
    for side in (found.predicted[matched], found.reference[matched]):
        assert len(np.unique(side)) == len(side)


@settings(max_examples=100, deadline=None)
@given(pair=pairs, data=st.data())
def test_pq_is_sq_times_rq_symmetric_and_blind_to_names_of_ids_padding_and_axis_order(pair, data):
    predicted, reference = pair
    known = values(predicted, reference)
    if known["sq"] is not None:
        assert known["pq"] == pytest.approx(known["sq"] * known["rq"])
    swapped = values(reference, predicted)
    assert [swapped[n] for n in ("pq", "sq", "rq")] == pytest.approx([known[n] for n in ("pq", "sq", "rq")])
    assert swapped["instance_precision"] == known["instance_recall"]
    renamed = np.where(predicted > 0, 1000 - predicted, 0)
    order = data.draw(st.permutations(range(predicted.ndim)))
    assert values(np.pad(renamed.transpose(order), 2), np.pad(reference.transpose(order), 2)) == pytest.approx(known)


def test_an_iou_of_exactly_one_half_is_no_match():
    reference, predicted = np.array([1, 1, 1, 0, 2, 2]), np.array([1, 1, 1, 1, 0, 0])
    wide = np.array([1, 1, 1, 1, 1, 1])
    assert overlaps(predicted, reference).counts() == (1, 0, 1)
    assert overlaps(wide, reference).counts() == (0, 1, 2) and overlaps(wide, reference).pq() == 0.0
    assert overlaps(wide, reference).sq() is None


def test_a_split_and_a_merged_instance_are_counted_as_panoptic_quality_does():
    reference = np.repeat([[1] * 10 + [2] * 10], 2, axis=0)
    split = np.repeat([[1] * 6 + [3] * 4 + [2] * 10], 2, axis=0)
    assert values(split, reference)["pq"] == pytest.approx((0.6 + 1.0) / 2.5)
    assert values(np.ones_like(reference), reference)["pq"] == 0.0


def test_ids_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="shapes"):
        overlaps(np.zeros((2, 3), int), np.zeros((3, 2), int))


def label_map(tumours=((1, 1), (6, 6)), liver=True) -> tuple[np.ndarray, np.ndarray]:
    """Labels and ids: a liver with tumours of 2 by 2 in it."""
    labels, ids = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.int32)
    if liver:
        labels[:10, :10] = 1
    for i, (y, x) in enumerate(tumours, start=1):
        labels[y : y + 2, x : x + 2], ids[y : y + 2, x : x + 2] = 2, i
    return labels, ids


def scored(predicted, expected, layout=PANOPTIC, **options) -> dict[tuple[str, str], tuple]:
    (labels, ids), (reference, reference_ids) = predicted, expected
    options = {"instances": ids, "reference_instances": reference_ids, **options}
    scores = score_case(labels, reference, (1, 1), STRUCTURES, layout=layout, **options, unit="px")
    return {(s.structure, s.metric): (s.value, s.status) for s in scores}


def added(scores, structure="tumour") -> list[float | None]:
    return [scores[structure, metric][0] for metric in ADDED]


def test_things_are_scored_by_instance_and_stuff_as_one_segment():
    scores = scored(label_map([(1, 1), (6, 6), (0, 8)]), label_map([(1, 1), (6, 6)]))
    assert added(scores) == pytest.approx([2 / 2.5, 1.0, 2 / 2.5, 2 / 3, 1.0])
    iou = 88 / 92
    assert [scores["liver", name] for name in SEGMENT_SCORERS] == [(pytest.approx(v), Status.OK) for v in (iou, iou, 1)]
    assert ("liver", "instance_recall") not in scores


def test_instances_of_one_thing_do_not_count_for_another_that_lies_beside_them():
    labels, ids = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.int32)
    labels[0:4, 0:4], labels[2:4, 4:8], labels[8:10, 6:10] = 1, 2, 1
    ids[0:4, 0:4], ids[2:4, 4:8], ids[8:10, 6:10] = 1, 2, 3
    split = ids.copy()
    split[2:4, 6:8] = 4
    found = scored((labels, split), (labels, ids), Task(3, "instance", (1, 2)))
    assert added(found, "liver") == [1.0] * 5
    assert added(found, "tumour") == [0.0, None, 0.0, 0.0, 0.0]


def test_stuff_that_overlaps_by_less_than_half_is_not_recognised_although_its_dsc_is_positive():
    labels, ids = label_map(())
    small = np.where(np.arange(12) < 4, labels, 0)
    scores = scored((small, ids), (labels, ids))
    assert scores["liver", "dsc"][0] > 0.5 and scores["liver", "pq"][0] == 0.0 and scores["liver", "sq"][0] is None


def test_two_merged_tumours_lose_quality_that_overlap_does_not_show():
    touching = label_map([(2, 2), (2, 4)])
    merged = touching[0], (touching[1] > 0).astype(np.int32)
    scores = scored(merged, touching)
    assert scores["tumour", "dsc"][0] == 1.0 and scores["tumour", "pq"][0] == 0.0


def test_semantic_tasks_keep_their_rows_and_instance_tasks_leave_stuff_alone():
    labels, ids = label_map()
    plain = score_case(labels, labels, (1, 1), STRUCTURES, unit="px")
    assert plain == score_case(labels, labels, (1, 1), STRUCTURES, layout=Task(3), unit="px")
    every = [(metric, definition) for metric, scorer in SCORERS.items() for definition in scorer.definitions]
    assert [(s.metric, s.definition) for s in plain] == [*every, *every]
    scores = scored((labels, ids), (labels, ids), INSTANCE)
    assert ("liver", "pq") not in scores and scores["tumour", "pq"] == (1.0, Status.OK)
    assert list(metrics_of(2, INSTANCE)) == [*SCORERS, *ADDED] and list(metrics_of(1, INSTANCE)) == list(SCORERS)


@pytest.mark.parametrize(
    ("predicted", "expected", "status", "result"),
    [
        ((), ((1, 1),), Status.MISSED, [0.0, None, 0.0, None, 0.0]),
        (((1, 1),), (), Status.FP_ON_NEGATIVE, [0.0, None, 0.0, 0.0, None]),
        ((), (), Status.BOTH_EMPTY, [None] * 5),
    ],
)
def test_empty_things_follow_the_policy_table(predicted, expected, status, result):
    scores = scored(label_map(predicted), label_map(expected))
    assert added(scores) == result and scores["tumour", "pq"][1] is status
    found = values(label_map(predicted)[1], label_map(expected)[1])
    assert [found[name] for name in ADDED] == result


@pytest.mark.parametrize("failure", sorted(FAILURES))
def test_a_failure_has_the_worst_quality_and_no_recall_where_there_is_nothing_to_recall(failure):
    expected = label_map(())
    scores = score_case(
        None,
        expected[0],
        (1, 1),
        STRUCTURES,
        unit="px",
        failure=failure,
        layout=PANOPTIC,
        reference_instances=expected[1],
    )
    by_name = {(s.structure, s.metric): (s.value, s.status) for s in scores}
    assert [by_name["liver", name] for name in SEGMENT_SCORERS] == [(v, failure) for v in (0.0, None, 0.0)]
    assert added(by_name) == [0.0, None, 0.0, None, None]


def test_a_prediction_without_ids_is_invalid_where_they_are_counted_and_a_reference_without_is_refused():
    labels, ids = label_map()
    for wrong in (None, ids[:-1], ids.astype(float)):
        scores = scored((labels, wrong), (labels, ids))
        assert scores["tumour", "pq"] == (0.0, Status.INVALID_OUTPUT) == scores["tumour", "dsc"]
    with pytest.raises(ValueError, match="reference_instances"):
        scored((labels, ids), (labels, None))


def test_deleting_a_prediction_never_improves_quality_or_recall():
    rng = generator(0, "deletion")
    for _ in range(20):
        places = [tuple(p) for p in rng.choice([0, 3, 6], size=(3, 2))]
        expected, predicted = label_map(set(places[:2])), label_map(set(places[1:]))
        kept, deleted = scored(predicted, expected), scored((None, None), expected)
        for metric in ("pq", "rq", "instance_recall"):
            assert deleted["tumour", metric][0] <= kept["tumour", metric][0]


def test_a_large_image_with_many_instances_needs_no_table_of_all_pairs():
    ids = np.arange(250_000, dtype=np.int32).reshape(500, 500) // 4 + 1
    found = overlaps(ids, np.roll(ids.ravel(), 2).reshape(ids.shape))
    assert found.n_predicted == 62_500 and len(found.iou) == 125_000 and found.counts()[0] == 0
    assert overlaps(ids, ids).counts() == (62_500, 0, 0)


def split_in_four() -> tuple[np.ndarray, np.ndarray]:
    """Reference ids of four instances and predicted ones: two alike, and two of which exactly half is found."""
    reference = np.zeros((8, 8), np.int32)
    reference[0:2, 0:4], reference[0:2, 5:8], reference[4, 0:4], reference[6, 0:4] = 1, 2, 3, 4
    return np.where((reference < 3) | (np.arange(8) < 2), reference, 0), reference


def test_panoptic_quality_of_ids_has_no_match_at_one_half():
    assert panoptic_quality(*split_in_four()) == (0.5, 1.0, 0.5)
    nearly = split_in_four()[1].copy()
    nearly[4, 0] = 0
    assert panoptic_quality(nearly, split_in_four()[1]) == (pytest.approx(3.75 / 4), pytest.approx(3.75 / 4), 1.0)


@settings(max_examples=100, deadline=None)
@given(pair=pairs)
def test_panoptic_quality_is_that_of_the_overlaps_and_of_a_list_of_masks(pair):
    found = overlaps(*pair)
    expected = (found.pq(), found.sq(), found.rq())
    assert panoptic_quality(*pair) == expected
    masks = [[ids == i for i in np.unique(ids) if i] for ids in pair]
    if all(masks):
        assert panoptic_quality(*masks) == expected == panoptic_quality(pair[0], masks[1])


def test_masks_are_split_into_components_that_share_a_corner():
    mask = np.zeros((6, 6), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = mask[5, 0] = True
    ids = np.zeros((6, 6), int)
    ids[mask], ids[5, 0] = 1, 2
    assert panoptic_quality(mask, ids) == (1.0, 1.0, 1.0) == panoptic_quality(ids, mask)
    missing = mask & (np.arange(6)[:, None] < 5)
    assert panoptic_quality(missing, mask) == (pytest.approx(2 / 3), 1.0, pytest.approx(2 / 3))
    assert panoptic_quality(mask & False, mask & False) == (None, None, None)
    assert panoptic_quality(mask & False, mask) == (0.0, None, 0.0)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (np.full((8, 8), -1), "the id -1"),
        (np.zeros((8, 8)), "integers"),
        (np.zeros((8, 9), int), "shapes"),
        (np.zeros(8, int), "dimensions"),
        ([np.ones((8, 8), bool), np.eye(8, dtype=bool)], "masks 1 and 2 of prediction overlap"),
        ([np.ones((8, 8), bool), np.ones((4, 8), bool)], "mask 2"),
        ([np.full((8, 8), 3)], "mask 1"),
    ],
)
def test_instances_that_mean_nothing_are_refused_with_one_sentence(wrong, words):
    with pytest.raises(ValueError, match=words):
        panoptic_quality(wrong, split_in_four()[1])


@pytest.mark.parametrize("shape", [(24, 20), (12, 10, 8)])
def test_panoptic_quality_equals_an_independent_library_with_a_threshold_just_above_one_half(shape):
    panoptica = pytest.importorskip("panoptica")
    for i in range(4):
        rng = generator(0, "panoptica", list(shape), i)
        reference = rng.integers(0, 2, [-(-n // 4) for n in shape])
        reference = np.where(reference, np.arange(1, reference.size + 1).reshape(reference.shape), 0)
        for axis, n in enumerate(shape):
            reference = np.repeat(reference, 4, axis).take(range(n), axis)
        predicted = np.where(rng.random(shape) < 0.85, np.roll(reference, int(rng.integers(0, 2)), 0), 0)
        found = overlaps(predicted, reference)
        assert found.matches().any()
        matcher = panoptica.NaiveThresholdMatching(matching_metric=panoptica.Metric.IOU, matching_threshold=0.5 + 1e-9)
        evaluator = panoptica.Panoptica_Evaluator(
            expected_input=panoptica.InputType.UNMATCHED_INSTANCE,
            instance_matcher=matcher,
            instance_metrics=[panoptica.Metric.IOU],
            global_metrics=[],
            log_times=False,
        )
        result = evaluator.evaluate(predicted.astype(np.uint16), reference.astype(np.uint16))
        result = result["ungrouped"] if isinstance(result, dict) else result
        assert panoptic_quality(predicted, reference) == pytest.approx((result.pq, result.sq, result.rq), abs=1e-6)
