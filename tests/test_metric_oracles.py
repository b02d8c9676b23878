"""Agreement with other libraries where they are right, and our answer where they are known to fail (METRICS.md 1.2)."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from masks import blob, box

from shiftbench.metrics import assd_mm, dsc, hd95_mm, hd_mm, iou, masd_mm, nsd, score_case
from shiftbench.types import Status

SHAPES = pytest.mark.parametrize("shape", [(24, 30), (10, 16, 18)])
BOTH = pytest.mark.parametrize("definition", ["S", "V"])


def masks_of(shape, n=6):
    """Random pairs with an anisotropic spacing, of which the last ones share little."""
    for name in range(n):
        spacing = [(3.0, 0.8, 0.7), (0.9, 2.1, 5.0)][name % 2][: len(shape)]
        threshold = 0.8 if name < n - 2 else 0.97
        yield blob(shape, f"p{name}", threshold), blob(shape, f"r{name}", threshold), spacing


def as_monai(*masks) -> list[torch.Tensor]:
    """One-hot (1, 2, *s)."""
    return [torch.from_numpy(np.stack([~mask, mask])[None].astype(np.uint8)) for mask in masks]


@SHAPES
def test_voxel_border_scores_agree_with_monai_on_random_anisotropic_masks(shape):
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

    for prediction, reference, spacing in masks_of(shape):
        pair, tensors = (prediction, reference), as_monai(prediction, reference)
        for percentile, ours in ((95, hd95_mm), (None, hd_mm)):
            theirs = compute_hausdorff_distance(*tensors, percentile=percentile, spacing=spacing).item()
            assert ours(*pair, spacing, "V") == pytest.approx(theirs, abs=1e-4)
        assd = compute_average_surface_distance(*tensors, symmetric=True, spacing=spacing).item()
        assert assd_mm(*pair, spacing, "V") == pytest.approx(assd, abs=1e-4)
        for tolerance in (1.0, 2.0):
            share = compute_surface_dice(*tensors, class_thresholds=[tolerance], spacing=spacing).item()
            assert nsd(*pair, spacing, tolerance, "V") == pytest.approx(share, abs=1e-4)


@SHAPES
def test_surface_element_scores_agree_with_surface_distance_on_random_anisotropic_masks(shape, monkeypatch):
    import surface_distance
    from scipy import ndimage

    monkeypatch.setattr(ndimage, "filters", ndimage, raising=False)  # its release names modules that are gone
    monkeypatch.setattr(ndimage, "morphology", ndimage, raising=False)
    monkeypatch.setattr(np, "Inf", np.inf, raising=False)
    for prediction, reference, spacing in masks_of(shape):
        pair = prediction, reference
        distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
        for percent, ours in ((95, hd95_mm), (100, hd_mm)):
            theirs = surface_distance.compute_robust_hausdorff(distances, percent)
            assert ours(*pair, spacing, "S") == pytest.approx(theirs, abs=1e-4)
        share = surface_distance.compute_surface_dice_at_tolerance(distances, 2.0)
        assert nsd(*pair, spacing, 2.0, "S") == pytest.approx(share, abs=1e-4)
        directed = surface_distance.compute_average_surface_distance(distances)
        areas = [distances[f"surfel_areas_{side}"].sum() for side in ("gt", "pred")]
        assert masd_mm(*pair, spacing, "S") == pytest.approx(np.mean(directed), abs=1e-4)
        assert assd_mm(*pair, spacing, "S") == pytest.approx(np.average(directed, weights=areas), abs=1e-4)


@SHAPES
def test_overlap_and_voxel_border_distances_agree_with_simpleitk_on_random_anisotropic_masks(shape):
    import SimpleITK as sitk

    for prediction, reference, spacing in masks_of(shape):
        pair = prediction, reference
        images = [sitk.GetImageFromArray(np.pad(mask, 1).astype(np.uint8)) for mask in pair]  # room for the contour
        for image in images:
            image.SetSpacing(spacing[::-1])
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert dsc(*pair) == pytest.approx(overlap.GetDiceCoefficient(), abs=1e-9)
        assert iou(*pair) == pytest.approx(overlap.GetJaccardCoefficient(), abs=1e-9)
        contours = [sitk.BinaryContour(image, fullyConnected=False) for image in images]
        maps = [
            sitk.Abs(sitk.SignedMaurerDistanceMap(c, squaredDistance=False, useImageSpacing=True)) for c in contours
        ]
        borders, away = ([sitk.GetArrayFromImage(image) for image in found] for found in (contours, maps))
        directions = away[1][borders[0] > 0], away[0][borders[1] > 0]
        assert hd_mm(*pair, spacing, "V") == pytest.approx(max(d.max() for d in directions), abs=1e-4)
        assert hd95_mm(*pair, spacing, "V") == pytest.approx(max(np.percentile(d, 95) for d in directions), abs=1e-4)
        assert assd_mm(*pair, spacing, "V") == pytest.approx(np.concatenate(directions).mean(), abs=1e-4)


@SHAPES
def test_distances_agree_with_medpy_and_with_panoptica_whose_assd_is_the_mean_of_two_means(shape):
    binary = pytest.importorskip("medpy.metric.binary")
    for prediction, reference, spacing in masks_of(shape):
        pair = prediction, reference
        assert hd_mm(*pair, spacing, "V") == pytest.approx(binary.hd(*pair, spacing), abs=1e-4)
        assert assd_mm(*pair, spacing, "V") == pytest.approx(binary.assd(*pair, spacing), abs=1e-4)
        assert dsc(*pair) == pytest.approx(binary.dc(*pair), abs=1e-9)
    assd = pytest.importorskip("panoptica.metrics.assd")
    hausdorff = pytest.importorskip("panoptica.metrics.hausdorff_distance")
    for prediction, reference, spacing in masks_of(shape):
        pair = prediction, reference
        theirs = assd._average_symmetric_surface_distance(reference, prediction, spacing)
        assert masd_mm(*pair, spacing, "V") == pytest.approx(theirs, abs=1e-4)
        theirs = hausdorff._compute_hausdorff_distance(reference, prediction, spacing)
        assert hd_mm(*pair, spacing, "V") == pytest.approx(theirs, abs=1e-4)


def four_cases_of_which_some_are_missed(n_missed) -> list[tuple[np.ndarray, np.ndarray]]:
    reference = box((12, 12, 12), (3, 3, 3), (9, 9, 9))
    found = np.roll(reference, 1, axis=0)
    return [(np.zeros_like(reference) if i < n_missed else found, reference) for i in range(4)]


@pytest.mark.parametrize("n_missed", [1, 4])
def test_missed_structures_are_not_dropped_from_a_mean_that_monai_makes_perfect(n_missed):
    from monai.metrics import HausdorffDistanceMetric

    monai, ours = HausdorffDistanceMetric(include_background=False, percentile=95), []
    for prediction, reference in four_cases_of_which_some_are_missed(n_missed):
        monai(*as_monai(prediction, reference))
        ours.append(hd95_mm(prediction, reference, (1, 1, 1), "V"))
    if n_missed == 4:
        assert float(monai.aggregate()) == 0.0  # the best distance there is; if this fails, MONAI has been mended
    assert [math.isinf(d) for d in ours] == [True] * n_missed + [False] * (4 - n_missed)
    assert np.mean(ours) == math.inf


@BOTH
@pytest.mark.parametrize("corner", [(0, 0, 0), (1, 1, 1), (8, 8, 8)])
def test_an_empty_prediction_near_a_corner_has_no_surface_that_is_near(definition, corner):
    """A distance transform of an array without background measures to a phantom voxel beside its first corner."""
    reference = box((12, 12, 12), corner, [c + 3 for c in corner])
    empty = np.zeros_like(reference)
    assert nsd(empty, reference, (1, 1, 1), 2.0, definition) == nsd(reference, empty, (1, 1, 1), 2.0, definition) == 0.0
    assert hd95_mm(empty, reference, (1, 1, 1), definition) == math.inf


@BOTH
def test_a_distance_is_never_zero_for_a_missed_or_a_made_up_structure(definition):
    some, empty = box((9, 9), (2, 2), (5, 6)), np.zeros((9, 9), bool)
    for pair in ((empty, some), (some, empty)):
        for metric in (hd_mm, hd95_mm, assd_mm, masd_mm):
            assert metric(*pair, (1, 1), definition) == math.inf


@BOTH
def test_a_far_false_positive_is_seen_by_its_direction_although_pooled_points_hide_it(definition):
    binary = pytest.importorskip("medpy.metric.binary")
    reference = box((50, 20, 20), (2, 2, 2), (12, 18, 18))
    prediction = reference | box((50, 20, 20), (44, 8, 8), (48, 12, 12))
    assert binary.hd95(prediction, reference, (1, 1, 3)) == 0.0
    assert 32 <= hd95_mm(prediction, reference, (1, 1, 3), definition) <= 36


@BOTH
def test_masks_of_one_slice_have_a_surface_in_two_and_in_three_dimensions(definition):
    """Some meshes of a volume of one slice are empty, which made every distance 0 and every NSD 1."""
    reference, prediction = box((30, 40), (5, 5), (25, 20)), box((30, 40), (5, 8), (25, 23))
    assert hd95_mm(prediction, reference, (1, 1), definition) == 3.0
    assert nsd(prediction, reference, (1, 1), 1.0, definition) < 0.9
    thick = [mask[None] for mask in (prediction, reference)]
    assert hd_mm(*thick, (5, 1, 1), definition) == 3.0


def test_images_wider_or_higher_than_the_other_are_scored_alike():
    for shape in ((12, 40), (40, 12)):
        reference, prediction = box(shape, (3, 3), (9, 9)), box(shape, (4, 3), (10, 9))
        assert hd_mm(prediction, reference, (1, 1)) == 1.0


def test_an_absent_structure_is_no_perfect_dice_as_in_libraries_that_call_it_one():
    empty = np.zeros((9, 9), np.uint8)
    assert dsc(empty, empty) is None
    score = score_case(empty, empty, (1, 1), (("lesion", 1.0),), unit="px")[0]
    assert (score.metric, score.value, score.status) == ("dsc", None, Status.BOTH_EMPTY)
