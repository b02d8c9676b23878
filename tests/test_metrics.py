"""Overlap and volume against counts, surfaces of shapes that are counted by hand, undefined cases, bad input."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from masks import blob, box, pairs

from shiftbench.metrics import (
    assd_mm,
    dsc,
    hd95_mm,
    hd_mm,
    iou,
    masd_mm,
    nsd,
    volume_bias_percent,
    volume_error_ml,
)
from shiftbench.metrics.distances import surface_distances

BOTH = pytest.mark.parametrize("definition", ["S", "V"])


@settings(max_examples=60, deadline=None)
@given(pair=st.one_of(pairs(2), pairs(3)), data=st.data())
def test_overlap_and_volume_are_counts_that_no_padding_axis_order_or_flip_changes(pair, data):
    prediction, reference = pair
    both, either = (prediction & reference).sum(), (prediction | reference).sum()
    n, m = prediction.sum(), reference.sum()
    assert dsc(*pair) == pytest.approx(2 * both / (n + m)) and iou(*pair) == pytest.approx(both / either)
    assert iou(*pair) == pytest.approx(dsc(*pair) / (2 - dsc(*pair)))
    assert volume_bias_percent(*pair) == pytest.approx(100 * (n - m) / m)
    order = data.draw(st.permutations(range(prediction.ndim)))
    changed = [np.pad(np.flip(mask, 0).transpose(order), 2) for mask in pair]
    for metric in (dsc, iou, volume_bias_percent):
        assert metric(*changed) == metric(*pair)
    assert dsc(reference, prediction) == dsc(*pair) and iou(reference, prediction) == iou(*pair)


@settings(max_examples=60, deadline=None)
@given(pair=st.one_of(pairs(2), pairs(3)), factor=st.sampled_from([0.5, 2.0, 4.0]))
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


def test_a_box_one_thick_slice_away_has_the_published_values():
    reference = box((22, 22, 13), (1, 1, 1), (21, 21, 11))
    prediction = box((22, 22, 13), (1, 1, 2), (21, 21, 12))
    spacing = (0.7, 0.7, 5.0)
    assert nsd(prediction, reference, spacing, 2.0, "V") == pytest.approx(0.577, abs=5e-4)
    assert nsd(prediction, reference, spacing, 2.0, "S") == pytest.approx(0.864, abs=5e-4)
    assert assd_mm(prediction, reference, spacing, "V") == pytest.approx(1.978, abs=5e-4)
    assert assd_mm(prediction, reference, spacing, "S") == pytest.approx(0.647, abs=5e-4)


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
    distances = surface_distances(prediction, reference, (1.0, 1.0, 3.0), definition)
    assert np.percentile(np.concatenate([distances.from_prediction, distances.from_reference]), 95) == 0.0


def test_an_interior_hole_is_a_surface_whose_distance_is_that_to_the_outer_wall():
    reference = box((13, 13, 9), (1, 1, 1), (12, 12, 8))
    prediction = reference.copy()
    prediction[6, 6, 4] = False
    distances = surface_distances(prediction, reference, (1.0, 1.0, 2.5), "V")
    assert np.unique(distances.from_prediction) == pytest.approx([0.0, 4.0, 5.0])  # four walls at 4 mm, two at 5 mm
    assert (distances.from_prediction > 0).sum() == 6 and not distances.from_reference.any()
    elements = surface_distances(prediction, reference, (1.0, 1.0, 2.5), "S")
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
        assert dsc(prediction, reference) == iou(prediction, reference) == 0.0
        assert nsd(prediction, reference, (1, 1, 3), 100.0, definition) == 0.0
        for distance in (hd_mm, hd95_mm, assd_mm, masd_mm):
            assert distance(prediction, reference, (1, 1, 3), definition) == math.inf
            assert distance(empty, empty, (1, 1, 3), definition) is None
            assert distance(some, some, (1, 1, 3), definition) == 0.0
    assert dsc(empty, empty) is None and iou(empty, empty) is None
    assert nsd(empty, empty, (1, 1, 3), 1.0, definition) is None
    assert volume_error_ml(empty, empty, (1, 1, 3)) == 0.0
    assert volume_bias_percent(some, empty) is None and volume_bias_percent(empty, empty) is None
    assert volume_bias_percent(empty, some) == -100.0
    assert nsd(some, some, (1, 1, 3), 0.0, definition) == dsc(some, some) == 1.0


def test_overlap_and_volume_bias_are_counted_by_hand():
    reference, prediction = box((1, 10), (0, 0), (1, 4)), box((1, 10), (0, 2), (1, 8))
    assert dsc(prediction, reference) == pytest.approx(2 * 2 / 10)
    assert volume_bias_percent(prediction, reference) == pytest.approx(50.0)
    assert volume_bias_percent(reference, prediction) == pytest.approx(-100 / 3)


def test_a_volume_error_is_signed_and_in_millilitres_and_a_slice_has_none():
    reference, prediction = box((10, 10, 10), (0, 0, 0), (10, 10, 10)), box((10, 10, 10), (0, 0, 0), (5, 10, 10))
    assert volume_error_ml(prediction, reference, (2.0, 1.0, 0.5)) == pytest.approx(-0.5)
    assert volume_error_ml(reference, prediction, (2.0, 1.0, 0.5)) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="only a 3-D mask has a volume"):
        volume_error_ml(prediction[0], reference[0], (1.0, 1.0))


def test_tensors_and_zero_one_integers_are_masks_too():
    prediction, reference = blob((9, 9), "p"), blob((9, 9), "r")
    tensors = torch.from_numpy(prediction), torch.from_numpy(reference.astype(np.int64))
    assert dsc(*tensors) == dsc(prediction, reference)
    assert nsd(*tensors, (1, 2), 1.0) == nsd(prediction, reference, (1, 2), 1.0)
    assert hd_mm(tensors[0].float().requires_grad_(), reference, (1, 2)) == hd_mm(prediction, reference, (1, 2))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_tensors_on_a_cuda_device_are_masks_too():
    prediction, reference = blob((9, 9), "p"), blob((9, 9), "r")
    tensors = [torch.from_numpy(mask).cuda() for mask in (prediction, reference)]
    assert dsc(*tensors) == dsc(prediction, reference)
    assert assd_mm(*tensors, (1, 2)) == assd_mm(prediction, reference, (1, 2))


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
    for wrong in (np.full((3, 3), 2), np.full((3, 3), 0.5), np.full((3, 3), -1), np.full((3, 3), np.nan)):
        for metric in (dsc, iou, volume_bias_percent):
            with pytest.raises(ValueError, match="not binary"):
                metric(wrong, np.ones((3, 3), bool))


def test_metrics_and_statistics_are_imported_without_torch():
    code = "import sys, shiftbench.metrics, shiftbench.robustness; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
