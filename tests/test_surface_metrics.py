"""Every metric of surfaces against brute force, the invariances, the golden geometry, and the engines that agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import SIDES, ball, blob, box, distances, pairs

from shiftbench.metrics import assd_mm, hd95_mm, hd_mm, masd_mm, nearest, nsd
from shiftbench.metrics.distances import bounding_box
from shiftbench.metrics.surface import surface_values
from shiftbench.rng import generator

BOTH = pytest.mark.parametrize("definition", ["S", "V"])
DISTANCES = (hd_mm, hd95_mm, assd_mm, masd_mm)


def brute_force(prediction, reference, spacing, tolerance, definition) -> list[float]:
    """[HD, HD95, ASSD, MASD, NSD]."""
    directions = distances(prediction, reference, spacing, definition)
    percentiles = []
    for away, weights in directions:
        if definition == "V":
            percentiles.append(np.percentile(away, 95))
            continue
        shares = {d: weights[away <= d + 1e-9].sum() / weights.sum() for d in away}
        percentiles.append(min(d for d, share in shares.items() if share >= 0.95 - 1e-6))
    near = sum(weights[away <= tolerance + 1e-6].sum() for away, weights in directions)
    total = sum(weights.sum() for _, weights in directions)
    return [
        max(away.max() for away, _ in directions),
        max(percentiles),
        sum((away * weights).sum() for away, weights in directions) / total,
        sum(np.average(away, weights=weights) for away, weights in directions) / 2,
        near / total,
    ]


def measured(prediction, reference, spacing, tolerance, definition) -> list[float]:
    found = [metric(prediction, reference, spacing, definition) for metric in DISTANCES]
    return [*found, nsd(prediction, reference, spacing, tolerance, definition)]


@settings(max_examples=80, deadline=None)
@given(pair=pairs(2), spacing=st.tuples(SIDES, SIDES), tolerance=st.sampled_from([0.0, 0.7, 1.4, 3.0]))
def test_every_metric_equals_brute_force_in_two_dimensions(pair, spacing, tolerance):
    for definition in ("S", "V"):
        expected = brute_force(*pair, spacing, tolerance, definition)
        assert measured(*pair, spacing, tolerance, definition) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@settings(max_examples=25, deadline=None)
@given(pair=pairs(3), spacing=st.tuples(SIDES, SIDES, SIDES), tolerance=st.sampled_from([0.0, 1.0, 2.1]))
def test_every_metric_equals_brute_force_in_three_dimensions(pair, spacing, tolerance):
    for definition in ("S", "V"):
        expected = brute_force(*pair, spacing, tolerance, definition)
        assert measured(*pair, spacing, tolerance, definition) == pytest.approx(expected, rel=1e-5, abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(pair=st.one_of(pairs(2), pairs(3)), data=st.data())
def test_no_metric_depends_on_padding_axis_order_flips_or_who_is_the_reference(pair, data):
    ndim = pair[0].ndim
    spacing = data.draw(st.tuples(*[SIDES] * ndim))
    order = data.draw(st.permutations(range(ndim)))
    axis = data.draw(st.integers(0, ndim - 1))
    width = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=ndim, max_size=ndim))
    changed = [np.pad(np.flip(mask, axis).transpose(order), width) for mask in pair]
    for definition in ("S", "V"):
        known = pytest.approx(measured(*pair, spacing, 1.4, definition), rel=1e-6, abs=1e-9)
        assert measured(*changed, [spacing[a] for a in order], 1.4, definition) == known
        assert measured(*pair[::-1], spacing, 1.4, definition) == known


@settings(max_examples=40, deadline=None)
@given(pair=st.one_of(pairs(2), pairs(3)), factor=st.sampled_from([0.25, 2.0, 8.0]))
def test_distances_scale_with_the_voxels_and_are_ordered(pair, factor):
    spacing = (0.7, 1.5, 3.0)[: pair[0].ndim]
    for definition in ("S", "V"):
        hd, hd95, assd, masd, _ = found = measured(*pair, spacing, 1.4, definition)
        assert 0 <= assd <= hd and 0 <= masd <= hd and 0 <= hd95 <= hd
        scaled = measured(*pair, [factor * side for side in spacing], factor * 1.4, definition)
        assert scaled == pytest.approx([*(factor * value for value in found[:4]), found[4]], rel=1e-6)


def engines(monkeypatch, name: str) -> None:
    """Leaves one way of finding the nearest point."""
    values = {
        "tree": {"LOOKS_PER_POINT": 0, "TREE_BELOW": math.inf, "DENSE": math.inf},
        "transform": {"DENSE": -1.0},
        "transform of the rest": {"LOOKS_PER_POINT": 0, "TREE_BELOW": -1.0, "DENSE": math.inf},
        "looking first, then the tree": {"REACH": {2: 1, 3: 1}, "TREE_BELOW": math.inf, "DENSE": math.inf},
        "looking alone": {"REACH": {2: 60, 3: 30}, "LOOKS_PER_POINT": math.inf, "DENSE": math.inf},
    }[name]
    for constant, value in values.items():
        monkeypatch.setattr(nearest, constant, value)
    nearest.places.cache_clear(), nearest.margin.cache_clear()


@BOTH
@pytest.mark.parametrize("shape", [(40, 44), (9, 16, 14)])
def test_looking_around_the_tree_and_the_distance_transform_give_the_same_scores(definition, shape, monkeypatch):
    pair, spacing = (blob(shape, "p", 0.8), blob(shape, "r", 0.8)), (3.0, 0.8, 0.7)[: len(shape)]
    away = [mask.copy() for mask in pair]
    away[0][..., 8:] = False  # so that some points have their nearest far off
    names = ("tree", "transform", "transform of the rest", "looking first, then the tree", "looking alone")
    for masks in (pair, away):
        known = measured(*masks, spacing, 2.1, definition)
        assert known == pytest.approx(brute_force(*masks, spacing, 2.1, definition), rel=1e-6, abs=1e-7)
        for name in names:
            with monkeypatch.context() as patch:
                engines(patch, name)
                assert measured(*masks, spacing, 2.1, definition) == pytest.approx(known, rel=1e-6, abs=1e-7), name
            nearest.places.cache_clear(), nearest.margin.cache_clear()


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 5.0), (1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 0.4, 0.9)])
def test_places_are_in_order_and_none_within_reach_is_left_out(spacing):
    steps, lengths = nearest.places(spacing)
    assert (np.diff(lengths) >= 0).all() and len(np.unique(steps, axis=0)) == len(steps)
    reach = nearest.REACH[len(spacing)] * min(spacing)
    grid = np.indices([41] * len(spacing)).reshape(len(spacing), -1).T - 20
    inside = (np.linalg.norm(grid * spacing, axis=1) <= reach * (1 + 1e-9)) & grid.any(axis=1)
    assert {tuple(step) for step in grid[inside]} <= {tuple(step) for step in steps.tolist()}
    assert nearest.margin(spacing) == tuple(np.abs(steps).max(axis=0))


@BOTH
def test_noise_all_over_the_volume_is_scored_as_by_brute_force(definition):
    reference = ball((9, 12, 12), (2.0, 1.0, 1.0), 4.0)
    prediction = reference ^ (generator(0, "speckle").random(reference.shape) < 0.2)
    expected = brute_force(prediction, reference, (2.0, 1.0, 1.0), 1.0, definition)
    assert measured(prediction, reference, (2.0, 1.0, 1.0), 1.0, definition) == pytest.approx(expected, rel=1e-6)


# Distances and shares that follow from the geometry of the boxes, and what either definition makes of them.
GOLDEN = {
    "a box one thick slice away": (
        *(box((22, 22, 13), (1, 1, 2), (21, 21, 12)), box((22, 22, 13), (1, 1, 1), (21, 21, 11)), (0.7, 0.7, 5.0), 2.0),
        {"exact": (0.666, 0.855), "within": 0.02, "S": (0.647, 0.864), "V": (1.978, 0.577)},
    ),
    "a box 4.9 mm away in the plane": (
        *(box((30, 22, 12), (8, 1, 1), (28, 21, 11)), box((30, 22, 12), (1, 1, 1), (21, 21, 11)), (0.7, 0.7, 5.0), 2.0),
        {"exact": (2.198, 0.520), "within": 0.02, "S": (2.187, 0.505), "V": (1.615, 0.619)},
    ),
    "a sheet one slice off": (
        *(box((22, 22, 6), (1, 1, 3), (21, 21, 4)), box((22, 22, 6), (1, 1, 2), (21, 21, 3)), (1.0, 1.0, 4.0), 3.9),
        {"exact": (2.0, 0.636), "within": 0.14, "S": (2.0, 0.5), "V": (4.0, 0.0)},
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_assd_and_nsd_of_boxes_have_their_published_values_and_s_is_close_to_the_geometry(name):
    prediction, reference, spacing, tolerance, values = GOLDEN[name]
    for definition in ("S", "V"):
        found = (
            assd_mm(prediction, reference, spacing, definition),
            nsd(prediction, reference, spacing, tolerance, definition),
        )
        assert found == pytest.approx(values[definition], abs=5e-4)
        if definition == "S":
            assert found == pytest.approx(values["exact"], abs=values["within"])
        else:
            assert found != pytest.approx(values["exact"], abs=values["within"])


def test_a_rectangle_shifted_along_its_long_side_has_the_nsd_of_its_geometry():
    height, width, shift, tolerance = 15.0, 63.0, 3.0, 1.0
    reference, prediction = box((34, 48), (2, 2), (32, 44)), box((34, 48), (2, 4), (32, 46))
    far_end_in_front = height + 2 * (shift - tolerance)  # with the part of the sides that juts out
    far_end_inside = height - 2 * tolerance  # its corners are near the long sides
    exact = 1 - (far_end_in_front + far_end_inside) / (2 * (height + width))
    assert exact == pytest.approx(0.795, abs=5e-4)
    assert nsd(prediction, reference, (0.5, 1.5), tolerance, "S") == pytest.approx(exact, abs=0.002)
    assert hd95_mm(prediction, reference, (0.5, 1.5), "S") == hd95_mm(prediction, reference, (0.5, 1.5), "V") == 3.0


@BOTH
def test_balls_a_known_gap_apart_have_distances_within_a_voxel_of_it(definition):
    spacing = (0.7, 0.7, 5.0)
    pair = [ball((74, 74, 12), spacing, radius) for radius in (23.0, 20.0)]
    assert 2.0 <= assd_mm(*pair, spacing, definition) <= 2.6  # the true gap is 3 mm: no definition on a grid is exact
    assert 3.0 <= hd95_mm(*pair, spacing, definition) <= 5.0
    fine = [ball((60, 60, 60), (1.0, 1.0, 1.0), radius) for radius in (25.0, 22.0)]
    staircase = {"V": 0.2, "S": 0.5}[definition]  # elements are shorter from voxel corner to voxel corner
    assert assd_mm(*fine, (1.0, 1.0, 1.0), definition) == pytest.approx(3.0, abs=staircase)


@BOTH
def test_single_voxels_are_apart_by_the_distance_of_their_centres(definition):
    one, other = np.zeros((9, 9, 9), bool), np.zeros((9, 9, 9), bool)
    one[1, 1, 1], other[4, 5, 1] = True, True
    spacing = (2.0, 3.0, 1.0)
    assert hd_mm(one, other, spacing, definition) == pytest.approx(math.hypot(6, 12))
    if definition == "V":
        assert {metric(one, other, spacing, "V") for metric in DISTANCES} == {math.hypot(6, 12)}


@BOTH
def test_the_pooled_mean_weighs_points_and_the_mean_of_means_weighs_directions(definition):
    reference = box((40, 40), (5, 5), (35, 35))
    prediction = box((40, 40), (5, 5), (8, 8))
    assd, masd = (metric(prediction, reference, (1.0, 1.0), definition) for metric in (assd_mm, masd_mm))
    (away_p, _), (away_r, _) = distances(prediction, reference, (1.0, 1.0), definition)
    assert assd > 1.5 * masd and away_r.mean() > 10 * away_p.mean()  # the larger surface is the one that is far


@BOTH
def test_the_95th_percentile_of_s_is_a_distance_that_occurs_and_that_of_v_is_interpolated(definition):
    reference, prediction = box((6, 60), (2, 2), (3, 42)), box((6, 60), (2, 2), (3, 45))
    found = hd95_mm(prediction, reference, (1.0, 1.0), definition)
    away, weights = distances(prediction, reference, (1.0, 1.0), definition)[0]
    if definition == "V":
        assert found == np.percentile(away, 95) and found not in away
    else:
        assert found in away and weights[away <= found].sum() >= 0.95 * weights.sum() > weights[away < found].sum()


@BOTH
def test_a_whole_array_of_foreground_has_no_point_outside_that_is_near(definition):
    full = np.ones((8, 8, 8), bool)
    point = box((8, 8, 8), (4, 4, 4), (5, 5, 5))
    hd = hd_mm(point, full, (1.0, 1.0, 1.0), definition)
    assert hd == pytest.approx(max(away.max() for away, _ in distances(point, full, (1.0, 1.0, 1.0), definition)))
    assert hd_mm(full, full, (1.0, 1.0, 1.0), definition) == 0.0


def test_one_pass_equals_the_functions_and_can_be_asked_for_one_definition():
    pair, spacing = (blob((9, 16, 14), "p"), blob((9, 16, 14), "r")), (3.0, 0.8, 0.7)
    found = surface_values(*pair, spacing, 2.0)
    for definition in ("S", "V"):
        own = surface_values(*pair, spacing, 2.0, [definition])
        assert own == {key: value for key, value in found.items() if key[1] == definition}
        names = ("hd_mm", "hd95_mm", "assd_mm", "masd_mm", "nsd")
        assert [own[name, definition] for name in names] == measured(*pair, spacing, 2.0, definition)


def test_a_box_is_the_smallest_that_holds_everything():
    mask = np.zeros((5, 6, 7), np.uint8)
    assert bounding_box(mask) == (slice(0), slice(0), slice(0))
    mask[1, 2, 6] = mask[3, 2, 0] = 200
    assert bounding_box(mask) == (slice(1, 4), slice(2, 3), slice(0, 7))
    assert bounding_box(mask[1:3, :, 5] > 0) == (slice(0), slice(0))
