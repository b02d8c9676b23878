"""DSC, NSD, HD95 and volume bias against brute force, closed forms and two independent libraries."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shiftbench.metrics import dsc, hd95_mm, nsd, surface, volume_bias_percent
from shiftbench.rng import generator

BOTH = pytest.mark.parametrize("definition", ["S", "V"])


def box(shape, low, high) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return mask


def blob(shape, name, threshold=0.55) -> np.ndarray:
    """A random mask of several connected parts, some of them at the border of the array."""
    noise = generator(0, "blob", list(shape), name).random(shape)
    for axis in range(len(shape)):
        noise = (noise + np.roll(noise, 1, axis) + np.roll(noise, 2, axis)) / 3
    return noise > np.quantile(noise, threshold)


def surface_points(mask, spacing, definition) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights of a surface, by loops over every voxel or corner (definition S in 2-D only)."""
    padded = np.pad(mask, 1)
    points, weights = [], []
    if definition == "V":
        for index in zip(*np.nonzero(padded), strict=True):
            faces = [tuple(np.add(index, step)) for axis in range(mask.ndim) for step in _steps(mask.ndim, axis)]
            if not all(padded[face] for face in faces):
                points.append(np.multiply(index, spacing))
                weights.append(1.0)
        return np.array(points), np.array(weights)
    dy, dx = spacing
    for y, x in itertools.product(range(padded.shape[0] - 1), range(padded.shape[1] - 1)):
        corner = padded[y : y + 2, x : x + 2]
        inside = int(corner.sum())
        if inside in (0, 4):
            continue
        if inside in (1, 3):
            length = math.hypot(dx, dy) / 2
        elif corner[0].all() or corner[1].all():
            length = dx
        elif corner[:, 0].all() or corner[:, 1].all():
            length = dy
        else:  # two opposite voxels: two diagonal elements
            length = math.hypot(dx, dy)
        points.append(np.multiply((y, x), spacing))
        weights.append(length)
    return np.array(points), np.array(weights)


def _steps(ndim, axis):
    return [[side if other == axis else 0 for other in range(ndim)] for side in (-1, 1)]


def brute_force(prediction, reference, spacing, tolerance, definition) -> tuple[float, float, float]:
    """(HD95, NSD, HD) from the matrix of all distances."""
    p, wp = surface_points(prediction, spacing, definition)
    r, wr = surface_points(reference, spacing, definition)
    matrix = np.sqrt(((p[:, None] - r[None]) ** 2).sum(-1))
    percentiles = []
    for distances, weights in ((matrix.min(1), wp), (matrix.min(0), wr)):
        if definition == "V":
            percentiles.append(np.percentile(distances, 95))
            continue
        reached = [
            d for d in sorted(distances) if weights[distances <= d + 1e-9].sum() >= (0.95 - 1e-6) * weights.sum()
        ]
        percentiles.append(reached[0])
    near = wp[matrix.min(1) <= tolerance + 1e-6].sum() + wr[matrix.min(0) <= tolerance + 1e-6].sum()
    hd = max(matrix.min(1).max(), matrix.min(0).max())
    return max(percentiles), near / (wp.sum() + wr.sum()), hd


def masks(ndim: int):
    shapes = hnp.array_shapes(min_dims=ndim, max_dims=ndim, min_side=1, max_side=7 if ndim == 2 else 5)
    return shapes.flatmap(lambda s: st.tuples(hnp.arrays(bool, s), hnp.arrays(bool, s))).filter(
        lambda pair: pair[0].any() and pair[1].any()
    )


sides = st.sampled_from([0.5, 0.7, 1.0, 1.5, 3.0])


@settings(max_examples=150, deadline=None)
@given(pair=masks(2), spacing=st.tuples(sides, sides), tolerance=st.sampled_from([0.0, 0.7, 1.4, 2.1, 3.0]))
def test_two_dimensional_scores_equal_brute_force_in_both_definitions(pair, spacing, tolerance):
    for definition in ("S", "V"):
        hd95, share, hd = brute_force(*pair, spacing, tolerance, definition)
        assert hd95_mm(*pair, spacing, definition) == pytest.approx(hd95, rel=1e-5)
        assert nsd(*pair, spacing, tolerance, definition) == pytest.approx(share, abs=1e-6)
        assert hd95_mm(*pair, spacing, definition) <= hd * (1 + 1e-5)


@settings(max_examples=60, deadline=None)
@given(pair=masks(3), spacing=st.tuples(sides, sides, sides), tolerance=st.sampled_from([0.0, 1.0, 2.1]))
def test_three_dimensional_voxel_border_scores_equal_brute_force(pair, spacing, tolerance):
    hd95, share, _ = brute_force(*pair, spacing, tolerance, "V")
    assert hd95_mm(*pair, spacing, "V") == pytest.approx(hd95, rel=1e-5)
    assert nsd(*pair, spacing, tolerance, "V") == pytest.approx(share, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(pair=st.one_of(masks(2), masks(3)), data=st.data())
def test_scores_do_not_depend_on_padding_axis_order_flips_or_who_is_the_reference(pair, data):
    prediction, reference = pair
    ndim = prediction.ndim
    spacing = data.draw(st.tuples(*[sides] * ndim))
    order = data.draw(st.permutations(range(ndim)))
    width = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=ndim, max_size=ndim))
    changed = [np.pad(np.flip(mask, 0).transpose(order), width) for mask in pair]
    new_spacing = [spacing[axis] for axis in order]
    for definition in ("S", "V"):
        hd95 = hd95_mm(prediction, reference, spacing, definition)
        share = nsd(prediction, reference, spacing, 1.4, definition)
        assert hd95_mm(*changed, new_spacing, definition) == pytest.approx(hd95, rel=1e-5)
        assert nsd(*changed, new_spacing, 1.4, definition) == pytest.approx(share, abs=1e-9)
        assert hd95_mm(reference, prediction, spacing, definition) == pytest.approx(hd95, rel=1e-9)
        assert nsd(reference, prediction, spacing, 1.4, definition) == pytest.approx(share, abs=1e-12)
    assert dsc(*changed) == dsc(reference, prediction) == dsc(prediction, reference)


@settings(max_examples=60, deadline=None)
@given(pair=st.one_of(masks(2), masks(3)), factor=st.sampled_from([0.5, 2.0, 4.0]))
def test_a_larger_tolerance_never_lowers_nsd_and_units_scale_distances(pair, factor):
    spacing = (0.7, 1.5, 3.0)[: pair[0].ndim]
    scaled = [factor * side for side in spacing]
    for definition in ("S", "V"):
        shares = [nsd(*pair, spacing, tau, definition) for tau in (0, 0.5, 1, 2, 4, 100)]
        assert shares == sorted(shares) and shares[-1] == 1.0
        assert hd95_mm(*pair, scaled, definition) == pytest.approx(
            factor * hd95_mm(*pair, spacing, definition), rel=1e-5
        )
        assert nsd(*pair, scaled, factor * 1.4, definition) == pytest.approx(nsd(*pair, spacing, 1.4, definition))


@BOTH
@pytest.mark.parametrize("shape", [(40, 44), (12, 20, 22)])
def test_the_tree_and_the_distance_transform_give_the_same_scores(definition, shape, monkeypatch):
    pair, spacing = (blob(shape, "p"), blob(shape, "r")), (3.0, 0.8, 0.7)[: len(shape)]
    results = []
    for threshold in (0.0, 1e9):
        monkeypatch.setattr(surface, "TREE_BELOW", threshold)
        results.append([hd95_mm(*pair, spacing, definition), *(nsd(*pair, spacing, t, definition) for t in (0.8, 2.1))])
    assert results[0] == pytest.approx(results[1], rel=1e-6)


def test_a_box_one_thick_slice_away_has_the_published_values():
    reference = box((22, 22, 13), (1, 1, 1), (21, 21, 11))
    prediction = box((22, 22, 13), (1, 1, 2), (21, 21, 12))
    spacing = (0.7, 0.7, 5.0)
    assert nsd(prediction, reference, spacing, 2.0, "V") == pytest.approx(0.577, abs=5e-4)
    assert nsd(prediction, reference, spacing, 2.0, "S") == pytest.approx(0.864, abs=5e-4)
    means = []
    for definition in ("V", "S"):
        d = surface.surface_distances(prediction, reference, spacing, definition)
        total = (d.from_prediction * d.prediction_weights).sum() + (d.from_reference * d.reference_weights).sum()
        means.append(total / (d.prediction_weights.sum() + d.reference_weights.sum()))
    assert means == pytest.approx([1.978, 0.647], abs=5e-4)


def test_a_sheet_one_slice_off_shares_half_its_surface_elements_and_no_voxel_border():
    reference = box((22, 22, 6), (1, 1, 2), (21, 21, 3))
    prediction = box((22, 22, 6), (1, 1, 3), (21, 21, 4))
    assert nsd(prediction, reference, (1, 1, 4), 3.9, "V") == 0.0
    assert nsd(prediction, reference, (1, 1, 4), 3.9, "S") == pytest.approx(0.5, abs=1e-12)
    assert hd95_mm(prediction, reference, (1, 1, 4), "V") == hd95_mm(prediction, reference, (1, 1, 4), "S") == 4.0


@BOTH
def test_an_object_cut_by_the_field_of_view_has_a_surface_there(definition):
    reference = box((16, 16, 8), (4, 4, 0), (12, 12, 5))
    prediction = box((16, 16, 8), (4, 4, 0), (12, 12, 6))
    wider = [np.pad(mask, 3) for mask in (prediction, reference)]
    cut = nsd(prediction, reference, (1, 1, 3), 1.0, definition)
    assert cut == pytest.approx(nsd(*wider, (1, 1, 3), 1.0, definition))
    assert hd95_mm(prediction, reference, (1, 1, 3), definition) == 3.0
    if definition == "V":  # by hand: faces of 64 voxels, sides of 28 voxels per slice
        near_prediction = 64 + 28 * 4  # all but its top face
        near_reference = 64 + 28 * 3 + 28 + 20  # of its top face the rim (shared) and the next ring (1 mm from it)
        assert cut == pytest.approx((near_prediction + near_reference) / (64 * 2 + 28 * 4 + 64 * 2 + 28 * 3))


@BOTH
def test_a_far_island_counts_by_direction_and_is_not_diluted_by_the_other_surface(definition):
    reference = box((50, 20, 20), (2, 2, 2), (12, 18, 18))
    prediction = reference.copy()
    prediction[44:48, 8:12, 8:12] = True  # 7 % of the prediction's border, under 4 % of both borders together
    hd95 = hd95_mm(prediction, reference, (1, 1, 3), definition)
    assert 32 <= hd95 <= 36
    distances = surface.surface_distances(prediction, reference, (1.0, 1.0, 3.0), definition)
    assert np.percentile(np.concatenate([distances.from_prediction, distances.from_reference]), 95) == 0.0


def test_an_interior_hole_is_a_surface_whose_distance_is_that_to_the_outer_wall():
    reference = box((13, 13, 9), (1, 1, 1), (12, 12, 8))
    prediction = reference.copy()
    prediction[6, 6, 4] = False
    distances = surface.surface_distances(prediction, reference, (1.0, 1.0, 2.5), "V")
    assert np.unique(distances.from_prediction) == pytest.approx([0.0, 4.0, 5.0])  # four walls at 4 mm, two at 5 mm
    assert (distances.from_prediction > 0).sum() == 6 and not distances.from_reference.any()
    elements = surface.surface_distances(prediction, reference, (1.0, 1.0, 2.5), "S")
    assert (elements.from_prediction > 0).sum() == 8 and hd95_mm(prediction, reference, (1, 1, 2.5)) == 0.0


def test_an_anisotropic_rectangle_shifted_in_plane_has_its_closed_form():
    reference, prediction = box((44, 30), (2, 2), (42, 22)), box((44, 30), (2, 4), (42, 24))
    spacing = (0.5, 1.5)  # 20 mm x 30 mm, shifted by 3 mm along the long side
    exact = 1 - (2 * 20 + 2) / (
        2 * (20 + 30)
    )  # two ends of 20 mm are far but for 1 mm at each corner, 2 mm sides jut out
    assert hd95_mm(prediction, reference, spacing, "S") == hd95_mm(prediction, reference, spacing, "V") == 3.0
    assert nsd(prediction, reference, spacing, 1.0, "S") == pytest.approx(exact, abs=0.02)


@BOTH
def test_a_reference_that_fills_the_array_still_has_a_surface(definition):
    full = np.ones((6, 6, 5), bool)
    less = full.copy()
    less[..., -1] = False
    assert hd95_mm(less, full, (1, 1, 4), definition) == 4.0
    assert hd95_mm(full, full, (1, 1, 4), definition) == 0.0
    assert nsd(full, full, (1, 1, 4), 0.0, definition) == 1.0


@BOTH
@pytest.mark.parametrize("corner", [(0, 0, 0), (2, 2, 2), (5, 6, 7)])
def test_empty_masks_are_undefined_or_worst_wherever_the_structure_lies(definition, corner):
    empty, some = np.zeros((6, 7, 8), bool), np.zeros((6, 7, 8), bool)
    some[corner] = True
    for prediction, reference in ((empty, some), (some, empty), (empty, np.ones_like(empty))):
        assert dsc(prediction, reference) == 0.0
        assert nsd(prediction, reference, (1, 1, 3), 100.0, definition) == 0.0
        assert hd95_mm(prediction, reference, (1, 1, 3), definition) == math.inf
    assert dsc(empty, empty) is None
    assert nsd(empty, empty, (1, 1, 3), 1.0, definition) is None
    assert hd95_mm(empty, empty, (1, 1, 3), definition) is None
    assert volume_bias_percent(some, empty) is None and volume_bias_percent(empty, empty) is None
    assert volume_bias_percent(empty, some) == -100.0
    assert nsd(some, some, (1, 1, 3), 0.0, definition) == dsc(some, some) == 1.0


def test_overlap_and_volume_bias_are_counted_by_hand():
    reference, prediction = box((1, 10), (0, 0), (1, 4)), box((1, 10), (0, 2), (1, 8))
    assert dsc(prediction, reference) == pytest.approx(2 * 2 / 10)
    assert volume_bias_percent(prediction, reference) == pytest.approx(50.0)
    assert volume_bias_percent(reference, prediction) == pytest.approx(-100 / 3)


@pytest.mark.parametrize("shape", [(24, 30), (10, 16, 18)])
def test_voxel_border_scores_agree_with_monai_on_random_anisotropic_masks(shape):
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    for name in range(6):
        pair, spacing = (blob(shape, f"p{name}", 0.8), blob(shape, f"r{name}", 0.8)), (3.0, 0.8, 0.7)[: len(shape)]
        tensors = [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.uint8)) for mask in pair]
        hd95 = compute_hausdorff_distance(*tensors, percentile=95, spacing=spacing).item()
        share = compute_surface_dice(*tensors, class_thresholds=[2.0], spacing=spacing).item()
        assert hd95_mm(*pair, spacing, "V") == pytest.approx(hd95, abs=1e-4)
        assert nsd(*pair, spacing, 2.0, "V") == pytest.approx(share, abs=1e-4)


@pytest.mark.parametrize("shape", [(24, 30), (10, 16, 18)])
def test_surface_element_scores_agree_with_surface_distance_on_random_anisotropic_masks(shape, monkeypatch):
    import surface_distance
    from scipy import ndimage

    monkeypatch.setattr(ndimage, "filters", ndimage, raising=False)  # its release names modules that are gone
    monkeypatch.setattr(ndimage, "morphology", ndimage, raising=False)
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    for name in range(6):
        pair, spacing = (blob(shape, f"p{name}", 0.8), blob(shape, f"r{name}", 0.8)), (3.0, 0.8, 0.7)[: len(shape)]
        distances = surface_distance.compute_surface_distances(pair[1], pair[0], spacing)
        hd95 = surface_distance.compute_robust_hausdorff(distances, 95)
        share = surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)
        assert hd95_mm(*pair, spacing, "S") == pytest.approx(hd95, abs=1e-4)
        assert nsd(*pair, spacing, 2.0, "S") == pytest.approx(share, abs=1e-4)


def test_tensors_and_zero_one_integers_are_masks_too():
    prediction, reference = blob((9, 9), "p"), blob((9, 9), "r")
    tensors = torch.from_numpy(prediction), torch.from_numpy(reference.astype(np.int64))
    assert dsc(*tensors) == dsc(prediction, reference)
    assert nsd(*tensors, (1, 2), 1.0) == nsd(prediction, reference, (1, 2), 1.0)


@pytest.mark.parametrize(
    ("shapes", "spacing", "tolerance", "definition", "complaint"),
    [
        (((4, 4), (4, 5)), (1, 1), 1, "S", "shape"),
        (((4,), (4,)), (1,), 1, "S", "dimensions"),
        (((4, 4), (4, 4)), (1, 1, 1), 1, "S", "3 entries for 2 axes"),
        (((4, 4), (4, 4)), (1, 0), 1, "S", "positive"),
        (((4, 4), (4, 4)), (1, float("nan")), 1, "V", "positive"),
        (((4, 4), (4, 4)), (1, 1), -1, "S", "tolerance"),
        (((4, 4), (4, 4)), (1, 1), 1, "M", "known: S, V"),
    ],
)
def test_what_cannot_be_measured_is_refused(shapes, spacing, tolerance, definition, complaint):
    prediction, reference = (np.ones(shape, bool) for shape in shapes)
    with pytest.raises(ValueError, match=complaint):
        nsd(prediction, reference, spacing, tolerance, definition)


def test_a_label_map_or_probabilities_are_no_mask():
    for wrong in (np.full((3, 3), 2), np.full((3, 3), 0.5)):
        with pytest.raises(ValueError, match="not binary"):
            dsc(wrong, np.ones((3, 3), bool))


def test_metrics_and_statistics_are_imported_without_torch():
    code = "import sys, shiftbench.metrics, shiftbench.robustness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
