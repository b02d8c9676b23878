"""Lesion-wise scores against brute force, closed forms, and two independent libraries."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.sparse import coo_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from shiftbench.metrics import LESION_SCORERS, dsc
from shiftbench.metrics.components import components, diameters, sizes
from shiftbench.metrics.instance import overlaps
from shiftbench.metrics.lesions import cc_dice, lesion_f1, lesion_values, ndsc
from shiftbench.metrics.matching import matched
from shiftbench.rng import generator

KEYS = {(name, definition) for name, scorer in LESION_SCORERS.items() for definition in scorer.definitions}

shapes = hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=6)
pairs = shapes.flatmap(lambda shape: st.tuples(*(hnp.arrays(bool, shape) for _ in range(2))))
id_pairs = st.tuples(*(hnp.arrays(int, (4, 5), elements=st.integers(0, 5)) for _ in range(2)))
spacings = st.lists(st.sampled_from([0.5, 1.0, 2.0, 5.0]), min_size=3, max_size=3)


def parts(mask) -> list[set[tuple[int, ...]]]:
    """Connected components by flooding from voxel to voxel, corners included."""
    left, found = {tuple(map(int, v)) for v in np.argwhere(mask)}, []
    steps = list(itertools.product((-1, 0, 1), repeat=mask.ndim))
    while left:
        part, front = set(), [left.pop()]
        while front:
            voxel = front.pop()
            part.add(voxel)
            near = {tuple(a + b for a, b in zip(voxel, step, strict=True)) for step in steps} & left
            left -= near
            front += near
        found.append(part)
    return found


def best_matching(iou, fits) -> tuple[int, float]:
    """(pairs, sum of IoUs) of the best one-to-one matching, by trying all of them."""
    if not len(fits):
        return 0, 0.0
    best = best_matching(iou[1:], fits[1:])
    for j in np.flatnonzero(fits[0]):
        rest = fits[1:].copy()
        rest[:, j] = False
        n, total = best_matching(iou[1:], rest)
        best = max(best, (n + 1, total + iou[0, j]))
    return best


def brute_force(prediction, reference, spacing) -> dict[tuple[str, str], float | None]:
    """Lesion-wise scores by sets of voxels; without recall by size."""
    ps, rs = parts(prediction), parts(reference)
    iou = np.array([[len(p & r) / len(p | r) for r in rs] for p in ps]).reshape(len(ps), len(rs))
    found: dict[tuple[str, str], float | None] = {}
    for above in (0.1, 0.25, 0.5):
        hits, _ = best_matching(iou, iou > above)
        name = f"iou>{above:g}"
        found["lesion_f1", name] = 2 * hits / (len(ps) + len(rs)) if ps or rs else None
        found["lesion_recall", name] = hits / len(rs) if rs else None
        found["lesion_false_positives", name] = len(ps) - hits
    found["lesion_splits", "overlap"] = sum((iou[:, j] > 0).sum() > 1 for j in range(len(rs)))
    found["lesion_merges", "overlap"] = sum((iou[i] > 0).sum() > 1 for i in range(len(ps)))
    found["cc_dice", "components"] = brute_force_cc_dice(prediction, rs, spacing)
    return found


def brute_force_cc_dice(prediction, rs, spacing) -> float | None:
    if not rs:
        return None
    voxels = np.argwhere(prediction)
    distances = np.array([[min(math.dist(np.multiply(v, spacing), np.multiply(u, spacing)) for u in r) for r in rs]
                          for v in voxels]).reshape(len(voxels), len(rs))  # fmt: skip
    near = distances <= distances.min(1, keepdims=True) * (1 + 1e-9) if len(voxels) else distances
    scores = []
    for j, r in enumerate(rs):
        mine = [tuple(map(int, v)) for v, here in zip(voxels, near[:, j] if len(voxels) else [], strict=True) if here]
        scores.append(2 * len(r & set(mine)) / (len(r) + len(mine)))
    return float(np.mean(scores))


def same(first, second) -> bool:
    return first.keys() == second.keys() and all(
        (first[key] is None) == (second[key] is None)
        and (first[key] is None or first[key] == pytest.approx(second[key]))
        for key in first
    )


def box(shape, *corners) -> np.ndarray:
    """A mask of boxes, each (low, high)."""
    mask = np.zeros(shape, bool)
    for low, high in corners:
        mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def scattered(shape, name, share=0.15) -> np.ndarray:
    """A random mask of many small parts."""
    noise = generator(0, "scattered", list(shape), name).random(shape)
    for axis in range(len(shape)):
        noise = noise + np.roll(noise, 1, axis)
    return noise > np.quantile(noise, 1 - share)


@settings(max_examples=200, deadline=None)
@given(pair=pairs, spacing=spacings)
def test_every_value_equals_brute_force(pair, spacing):
    prediction, reference = pair
    spacing = spacing[: reference.ndim]
    found = lesion_values(prediction, reference, spacing)
    expected = brute_force(prediction, reference, spacing)
    assert same({key: found[key] for key in expected}, expected)


@settings(max_examples=100, deadline=None)
@given(pair=pairs, spacing=spacings, data=st.data())
def test_padding_flips_and_axis_order_change_nothing(pair, spacing, data):
    spacing = spacing[: pair[0].ndim]
    order = data.draw(st.permutations(range(pair[0].ndim)))
    flipped = data.draw(st.sets(st.sampled_from(range(pair[0].ndim))))
    moved = (np.flip(np.pad(mask, 2), tuple(flipped)).transpose(order) for mask in pair)
    assert same(lesion_values(*moved, [spacing[axis] for axis in order]), lesion_values(*pair, spacing))


@settings(max_examples=100, deadline=None)
@given(pair=pairs)
def test_f1_is_symmetric_and_stricter_thresholds_find_no_more(pair):
    prediction, reference = pair
    scores = [lesion_f1(prediction, reference, iou) for iou in (0.0, 0.1, 0.25, 0.5, 0.75)]
    assert scores == [lesion_f1(reference, prediction, iou) for iou in (0.0, 0.1, 0.25, 0.5, 0.75)]
    assert scores[0] is None or scores == sorted(scores, reverse=True)
    forth, back = (lesion_values(*masks, (1,) * reference.ndim) for masks in (pair, pair[::-1]))
    assert forth["lesion_splits", "overlap"] == back["lesion_merges", "overlap"]


@settings(max_examples=100, deadline=None)
@given(pair=pairs)
def test_every_metric_of_the_table_has_its_value_and_it_lies_in_its_range(pair):
    prediction, reference = pair
    values = lesion_values(prediction, reference, (1,) * reference.ndim, np.ones_like(reference))
    assert values.keys() == KEYS
    for (name, _), value in values.items():
        assert value is None or (value >= 0 and (LESION_SCORERS[name].unit == "count" or value <= 1)), name
    perfect = lesion_values(reference, reference, (1,) * reference.ndim, np.ones_like(reference))
    expected = {"higher": 1.0, "lower": 0.0}
    for (name, _), value in perfect.items():
        if reference.any() and name != "lesion_merges" and value is not None:
            assert value == expected[LESION_SCORERS[name].direction], name


@settings(max_examples=50, deadline=None)
@given(pair=pairs)
def test_deleting_a_prediction_never_improves_a_score(pair):
    prediction, reference = pair
    region, spacing = np.ones_like(reference), (1,) * reference.ndim
    kept = lesion_values(prediction, reference, spacing, region)
    deleted = lesion_values(np.zeros_like(prediction), reference, spacing, region)
    for key, value in deleted.items():
        if reference.any() and LESION_SCORERS[key[0]].direction == "higher":
            assert (value is None) == (kept[key] is None), key
            assert value is None or value <= kept[key], key


def test_one_prediction_over_several_lesions_finds_one_of_them():
    reference = box((3, 11), ((1, 1), (2, 5)), ((1, 6), (2, 10)))
    merged = box((3, 11), ((1, 1), (2, 10)))
    values = lesion_values(merged, reference, (1, 1))
    assert [values["lesion_recall", f"iou>{t}"] for t in (0.1, 0.25, 0.5)] == [0.5, 0.5, 0.0]
    assert values["lesion_f1", "iou>0.1"] == pytest.approx(2 / 3) and values["lesion_merges", "overlap"] == 1
    split = lesion_values(reference, merged, (1, 1))
    assert split["lesion_recall", "iou>0.1"] == 1.0 and split["lesion_false_positives", "iou>0.1"] == 1.0
    assert split["lesion_splits", "overlap"] == 1 and split["lesion_merges", "overlap"] == 0


def test_as_many_lesions_as_can_be_are_found_not_the_best_pair_first():
    reference = np.array([[1] * 7 + [0] + [1] * 2 + [0] * 2], bool)
    predicted = np.array([[1] * 2 + [0] + [1] * 9], bool)  # the second fits the first lesion best, and finds both
    assert lesion_f1(predicted, reference, 0.1) == 1.0
    assert lesion_values(predicted, reference, (1, 1))["lesion_false_positives", "iou>0.25"] == 1.0


def test_an_iou_equal_to_the_threshold_is_no_match():
    for share, threshold in ((1, 0.1), (2.5, 0.25), (5, 0.5)):
        reference, prediction = np.ones((1, 20), bool), np.arange(20)[None] < 2 * share
        assert lesion_f1(prediction, reference, threshold) == 0.0
        assert lesion_f1(prediction | (np.arange(20) == 2 * share), reference, threshold) == 1.0


@pytest.mark.parametrize("above", [0.1, 0.25])
def test_the_matching_has_as_many_pairs_as_an_independent_algorithm_finds(above):
    rng = generator(0, "matching")
    for _ in range(30):
        width = rng.integers(2, 6, 2)
        predicted, reference = (np.repeat(rng.integers(0, 60, 100), w)[:200].reshape(10, 20) for w in width)
        reference = np.unique(reference, return_inverse=True)[1].reshape(10, 20)
        found = overlaps(predicted, reference)
        chosen = matched(found, above, np.bincount(reference.ravel())[1:])
        for side in (found.predicted[chosen], found.reference[chosen]):
            assert len(np.unique(side)) == len(side)
        assert (found.iou[chosen] > above).all()
        fits = found.iou > above
        graph = coo_array((np.ones(fits.sum()), (found.predicted[fits], found.reference[fits])), shape=(60, 60))
        assert chosen.sum() == (maximum_bipartite_matching(graph.tocsr()) >= 0).sum()


@settings(max_examples=150, deadline=None)
@given(pair=id_pairs, above=st.sampled_from([0.0, 0.1, 0.25]))
def test_the_matching_is_the_best_of_all(pair, above):
    found = overlaps(*pair)
    voxels = np.bincount(pair[1].ravel(), minlength=6)[1:]
    chosen = matched(found, above, voxels)
    iou = np.zeros((6, 6))
    iou[found.predicted, found.reference] = found.iou
    assert (chosen.sum(), pytest.approx(found.iou[chosen].sum())) == best_matching(iou, iou > above)


@pytest.mark.parametrize("first", [1, 2])
def test_of_two_lesions_that_fit_a_prediction_alike_the_larger_is_found(first):
    predicted = np.repeat([0, 1, 0], [2, 10, 5])
    reference = np.repeat(
        [first, 3 - first], [6, 11]
    )  # of 6 voxels with 4 shared, and of 10 with 5: an IoU of 1/3 each
    reference[6] = 0
    found = overlaps(predicted, reference)
    assert found.iou == pytest.approx([1 / 3, 1 / 3])
    assert found.reference[matched(found, 0.1, np.bincount(reference)[1:])] == [3 - first]


def test_lesions_that_share_a_corner_are_one():
    corner = np.zeros((4, 4, 4), bool)
    corner[:2, :2, :2] = corner[2:, 2:, 2:] = True
    assert components(corner).max() == 1 and components(np.eye(5, dtype=bool)).max() == 1
    apart = corner.copy()
    apart[1, 1, 1] = False
    assert components(apart).max() == 2 and sorted(sizes(components(apart))) == [7, 8]


def test_components_of_random_masks_are_those_of_flooding():
    for shape in ((40, 30), (12, 14, 9)):
        for share in (0.1, 0.3):
            mask = scattered(shape, f"components {share}", share)
            assert sorted(sizes(components(mask))) == sorted(map(len, parts(mask)))


def test_recall_is_split_by_the_diameter_of_the_sphere_or_circle_as_large_as_the_lesion():
    assert diameters(np.array([1000]), (0.5, 1.0, 2.0)) == pytest.approx([(6000 / math.pi) ** (1 / 3)])
    assert diameters(np.array([100]), (0.5, 2.0)) == pytest.approx([2 * math.sqrt(100 / math.pi)])
    edges = [654, 655, 5235, 5236]  # in 0.1 mm3; a sphere of 5 mm has 65.45 mm3, one of 10 mm has 523.599
    reference = np.zeros((2 * len(edges), 6000, 1), bool)
    for i, volume in enumerate(edges):
        reference[2 * i, :volume] = True
    found = lesion_values(reference & (np.arange(8) < 6)[:, None, None], reference, (1, 1, 0.1))
    sized = [found[f"lesion_recall_{size}", "iou>0.1"] for size in ("small", "medium", "large")]
    assert sized == [1.0, 1.0, 0.0]
    without = lesion_values(reference & (np.arange(8) != 2)[:, None, None], reference, (1, 1, 0.1))
    assert without["lesion_recall_medium", "iou>0.1"] == 0.5
    thick = lesion_values(reference, reference, (1, 1, 0.8003))
    assert thick["lesion_recall_small", "iou>0.1"] is None and thick["lesion_recall_medium", "iou>0.1"] == 1.0


def test_every_lesion_counts_the_same_in_cc_dice():
    reference = box((20, 20), ((0, 0), (10, 10)), ((18, 18), (19, 19)))
    large_only = box((20, 20), ((0, 0), (10, 10)))
    assert cc_dice(large_only, reference) == 0.5 and dsc(large_only, reference) > 0.99
    alarm = large_only | box((20, 20), ((18, 15), (19, 16)))
    assert cc_dice(alarm, reference) == 0.5  # a false positive near the missed one costs nothing more
    near_large = large_only | box((20, 20), ((0, 11), (1, 12)))
    assert cc_dice(near_large, reference) == pytest.approx((200 / 201) / 2)


def test_nearest_is_meant_in_millimetres_in_cc_dice():
    reference = box((5, 11), ((0, 0), (1, 1)), ((4, 10), (5, 11)))
    prediction = reference | box((5, 11), ((3, 1), (4, 2)))
    assert cc_dice(prediction, reference, (1, 1)) == pytest.approx((2 / 3 + 1) / 2)
    lopsided = reference | box((5, 11), ((3, 1), (4, 3)))
    assert cc_dice(lopsided, reference, (10, 1)) == pytest.approx((1 + 2 / 4) / 2)
    assert cc_dice(lopsided, reference, (1, 10)) == pytest.approx((2 / 4 + 1) / 2)


def test_a_voxel_as_near_to_two_lesions_lies_in_the_part_of_both():
    reference = np.array([[1, 0, 0, 0, 1, 0, 0, 0, 0, 1]], bool)
    prediction = np.array([[1, 0, 1, 0, 1, 0, 0, 0, 0, 0]], bool)
    assert cc_dice(prediction, reference) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


@pytest.mark.parametrize("shape", [(40, 36), (20, 18, 12)])
def test_cc_dice_equals_an_independent_library(shape):
    torch, metrics = pytest.importorskip("torch"), pytest.importorskip("monai.metrics")
    for i in range(4):
        reference, prediction = scattered(shape, f"r{i}", 0.02), scattered(shape, f"p{i}", 0.05)
        reference[(3,) * len(shape)] = reference[(9,) * len(shape)] = True
        prediction |= reference & (np.indices(shape)[0] % 3 > 0)
        prediction &= ~ties(reference)  # it gives those to one of the components
        pair = (torch.from_numpy(np.stack([~mask, mask])[None].astype(np.int64)) for mask in (prediction, reference))
        measure = metrics.DiceMetric(include_background=False, per_component=True)
        assert float(measure(*pair)) == pytest.approx(cc_dice(prediction, reference), abs=1e-6)


def ties(reference) -> np.ndarray:
    """Voxels outside that are as near to two components."""
    ids, outside = components(reference), np.argwhere(~reference)
    nearest = np.stack(
        [((outside[:, None] - np.argwhere(ids == i)) ** 2).sum(-1).min(1) for i in range(1, ids.max() + 1)]
    )
    tied = (nearest == nearest.min(0)).sum(0) > 1
    mask = np.zeros(reference.shape, bool)
    mask[tuple(outside[tied].T)] = True
    return mask


def shifts_ndsc(prediction, reference, r=0.001) -> float:
    """The score as Raina et al. write it: false positives times (1 - r) / r * h / (1 - h), h the lesion load."""
    tp, fp = (prediction & reference).sum(), (prediction & ~reference).sum()
    h = reference.mean()
    return float(2 * tp / (2 * tp + (1 / r - 1) * h / (1 - h) * fp + (reference & ~prediction).sum()))


@settings(max_examples=100, deadline=None)
@given(pair=pairs)
def test_ndsc_is_the_papers_formula_on_the_region(pair):
    prediction, reference = pair
    everywhere = np.ones_like(reference)
    if not reference.any():
        assert ndsc(prediction, reference, everywhere) is None
    elif not reference.all():
        assert ndsc(prediction, reference, everywhere) == pytest.approx(shifts_ndsc(prediction, reference))
        region = np.pad(everywhere, 2)
        outside = np.pad(prediction, 2, constant_values=True)  # beyond the region nothing counts
        assert ndsc(outside, np.pad(reference, 2), region) == pytest.approx(shifts_ndsc(prediction, reference))


def test_ndsc_compares_patients_of_unlike_load_and_depends_on_the_region():
    def patient(load: int) -> tuple[np.ndarray, np.ndarray]:
        """Half of the lesions found; false positives as probable per healthy voxel as in any other patient."""
        reference, prediction = np.zeros((100, 1000), bool), np.zeros((100, 1000), bool)
        reference.ravel()[:load], prediction.ravel()[: load // 2] = True, True
        prediction.ravel()[-(100_000 - load) // 1000 :] = True
        return prediction, reference

    region = np.ones((100, 1000), bool)
    few, many = patient(200), patient(20_000)
    assert dsc(*few) < 0.55 < dsc(*many) - 0.1
    assert ndsc(*few, region) == pytest.approx(ndsc(*many, region), abs=0.01)
    smaller = np.arange(1000) < 900
    assert ndsc(*few, region & smaller) != pytest.approx(ndsc(*few, region), abs=0.02)
    everything = np.ones((3, 3), bool)
    assert ndsc(everything, everything, everything) == 1.0
    assert lesion_values(*few, (1, 1))["ndsc", "region"] is None


def test_empty_masks_have_the_values_that_the_table_says():
    full, empty = box((4, 4), ((1, 1), (3, 3))), np.zeros((4, 4), bool)
    missed, false = (lesion_values(*masks, (1, 1), np.ones((4, 4), bool)) for masks in ((empty, full), (full, empty)))
    nothing = lesion_values(empty, empty, (1, 1), np.ones((4, 4), bool))
    for name in ("ndsc", "cc_dice", "lesion_recall", "lesion_f1", "lesion_recall_small"):
        definition = LESION_SCORERS[name].definition
        assert missed[name, definition] == 0.0 and nothing[name, definition] is None
        assert false[name, definition] == (0.0 if name == "lesion_f1" else None)
    counted = [v["lesion_false_positives", "iou>0.1"] for v in (missed, false, nothing)]
    assert counted == [0.0, 1.0, 0.0]
    assert missed["lesion_recall_large", "iou>0.1"] is None


def test_masks_and_settings_that_mean_nothing_are_refused():
    mask = np.ones((3, 3), bool)
    for call in (
        lambda: lesion_f1(mask, mask[:2]),
        lambda: lesion_f1(mask * 2, mask),
        lambda: lesion_f1(mask, mask, 1.0),
        lambda: cc_dice(mask, mask, (1, 1, 1)),
        lambda: cc_dice(mask, mask, (1, 0)),
        lambda: ndsc(mask, mask, mask, 0.0),
        lambda: ndsc(mask, mask, -mask.astype(int)),
    ):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(ValueError, match="region"):
        ndsc(mask, mask, mask[:2])


def test_a_speckled_prediction_of_many_thousand_components_is_scored():
    reference = box((96, 96, 40), *(((x, x, 10), (x + 4, x + 4, 14)) for x in range(4, 90, 12)))
    noise = generator(0, "speckle").random(reference.shape) < 0.03
    values = lesion_values(reference ^ noise, reference, (1, 1, 2.5))
    assert components(reference ^ noise).max() > 3000
    assert values["lesion_recall", "iou>0.1"] == 1.0 and values["cc_dice", "components"] < 0.2
