"""Scores of scattered lesions, which are the connected components of a mask (8-connected in 2-D, 26-connected in 3-D).

A predicted and a reference lesion match if their IoU is strictly above a threshold, one to one (`matching.matched`):
no predicted lesion is credited with two reference lesions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree

from shiftbench.metrics.components import components, diameters, sizes
from shiftbench.metrics.instance import Overlaps, overlaps
from shiftbench.metrics.matching import matched
from shiftbench.metrics.overlap import as_array, checked_masks, checked_spacing

THRESHOLDS = (0.1, 0.25, 0.5)
FOUND_ABOVE = 0.1  # IoU above which a lesion counts as found where recall is split by size
# Diameters in the unit of the spacing: 10 mm is measurable disease (RECIST 1.1, Eisenhauer et al., Eur J Cancer 45,
# 2009; RANO-BM, Lin et al., Lancet Oncol 16, 2015), 5 mm the least that RANO-BM lets thin slices measure.
MEDIUM_FROM, LARGE_FROM = 5.0, 10.0
LESION_LOAD = 0.001  # r of the nDSC, as Shifts 2.0 has it: the share of the region that lesions are taken to hold
EQUALLY_NEAR = 1e-9  # relative difference of two distances that are the same but for rounding
CHUNK = 2**17  # voxels per query, which bounds the memory


def lesion_values(
    prediction: np.ndarray, reference: np.ndarray, spacing: Sequence[float], region: np.ndarray | None = None
) -> dict[tuple[str, str], float | None]:
    """Every metric of `shiftbench.metrics.scorers.LESION_SCORERS` by name and definition.

    Args:
        prediction: bool (*s), which may be empty.
        reference: bool (*s), which may be empty.
        spacing: voxel size per axis; sizes of lesions are diameters in its unit.
        region: bool (*s), where the nDSC counts: all of it must lie in these arrays, for its voxels count.
    """
    predicted, expected = components(prediction), components(reference)
    pairs, voxels = overlaps(predicted, expected), sizes(expected)
    values: dict[tuple[str, str], float | None] = {
        ("ndsc", "region"): None if region is None else ndsc(prediction, reference, region),
        ("cc_dice", "components"): _cc_dice(prediction, expected, voxels, spacing),
        ("lesion_splits", "overlap"): float(_shared(pairs.reference)),
        ("lesion_merges", "overlap"): float(_shared(pairs.predicted)),
    }
    for above in THRESHOLDS:
        definition, found = f"iou>{above:g}", matched(pairs, above, voxels)
        hits, total = int(found.sum()), pairs.n_predicted + pairs.n_reference
        values |= {
            ("lesion_f1", definition): 2 * hits / total if total else None,
            ("lesion_recall", definition): hits / pairs.n_reference if pairs.n_reference else None,
            ("lesion_false_positives", definition): float(pairs.n_predicted - hits),
        }
    return values | _recall_by_size(pairs, voxels, spacing)


def lesion_f1(prediction: ArrayLike, reference: ArrayLike, iou: float = 0.1) -> float | None:
    """F1 of detection: twice the matched lesions over all lesions, predicted and reference.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D.
        reference: bool, shape (*s).
        iou: threshold in [0, 1) that the IoU of a matched pair must exceed.

    Returns:
        A value in [0, 1]; None if both masks are empty, 0 if exactly one is.

    Raises:
        ValueError: shapes differ, a mask is not binary, or the threshold is not in [0, 1).
    """
    predicted, expected = (components(mask) for mask in checked_masks(prediction, reference))
    if not 0 <= iou < 1:
        raise ValueError(f"iou is {iou}; a threshold is at least 0 and less than 1")
    pairs = overlaps(predicted, expected)
    total = pairs.n_predicted + pairs.n_reference
    return 2 * int(matched(pairs, iou, sizes(expected)).sum()) / total if total else None


def ndsc(prediction: ArrayLike, reference: ArrayLike, region: ArrayLike, r: float = LESION_LOAD) -> float | None:
    """Normalised DSC: what the DSC would be if lesions held the share `r` of the region, precision and recall kept.

    False positives are weighted by (1 - r) / r times the ratio of lesion to other voxels of the region, so that
    patients of unlike lesion load can be compared. Its value depends on how many voxels the region has: give a fixed
    anatomical region (the brain) that no prediction decides, and state its size.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; what lies outside the region does not count.
        reference: bool, shape (*s); the same.
        region: bool, shape (*s).
        r: the effective lesion load, in (0, 1).

    Returns:
        A value in [0, 1]; None if the reference has no voxel in the region.

    Raises:
        ValueError: shapes differ, a mask is not binary, or r is not in (0, 1).

    Reference:
        Raina et al., Tackling bias in the Dice similarity coefficient: introducing nDSC for white matter lesion
        segmentation, ISBI 2023; Malinin et al., Shifts 2.0, arXiv:2206.15407, 2022 (r = 0.001).
    """
    predicted, expected = checked_masks(prediction, reference)
    inside = as_array(region)
    if inside.shape != expected.shape or not np.isin(inside, (0, 1)).all():
        raise ValueError(f"region is no binary mask of the shape {expected.shape}")
    if not 0 < r < 1:
        raise ValueError(f"r is {r}; a lesion load lies between 0 and 1")
    inside = inside.astype(bool)
    predicted, expected = predicted & inside, expected & inside
    lesion = np.count_nonzero(expected)
    if not lesion:
        return None
    hits, alarms = np.count_nonzero(predicted & expected), np.count_nonzero(predicted & ~expected)
    other = np.count_nonzero(inside) - lesion
    weight = (1 - r) / r * lesion / other if other else 0.0  # without other voxels there are no false positives
    return float(2 * hits / (hits + lesion + weight * alarms))


def cc_dice(prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float] | None = None) -> float | None:
    """CC-Metrics' Dice: the mean over reference components of the DSC in the part of space nearest to each.

    Every lesion counts the same, however small. The prediction is not split into components: it is counted where it
    lies. A voxel as near to two components lies in the part of both, so that nothing depends on the order of axes.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D.
        reference: bool, shape (*s).
        spacing: voxel size per axis, by which "nearest" is meant; None for cubes.

    Returns:
        A value in [0, 1]; None if the reference is empty.

    Raises:
        ValueError: shapes differ, a mask is not binary, or spacing has not one positive entry per axis.

    Reference:
        Jaus et al., Every component counts: rethinking the measure of success for medical semantic segmentation in
        multi-instance segmentation tasks, arXiv:2410.18684, AAAI 2025.
    """
    predicted, mask = checked_masks(prediction, reference)
    checked = checked_spacing((1.0,) * mask.ndim if spacing is None else spacing, mask.ndim)
    expected = components(mask)
    return _cc_dice(predicted, expected, sizes(expected), checked)


def _cc_dice(
    prediction: np.ndarray, expected: np.ndarray, voxels: np.ndarray, spacing: Sequence[float]
) -> float | None:
    """Of the reference components' ids (*s) and their voxels (n,)."""
    if not len(voxels):
        return None
    hits = np.bincount(expected[prediction], minlength=len(voxels) + 1)[1:]
    alarms = _alarms(np.argwhere(prediction & (expected == 0)), expected, len(voxels), spacing)
    return float(np.mean(2 * hits / (voxels + hits + alarms)))


def _alarms(points: np.ndarray, expected: np.ndarray, n: int, spacing: Sequence[float]) -> np.ndarray:
    """How many voxels, of which `points` (m, d) are the indices, lie nearest to each of n components."""
    if n == 1 or not len(points):
        return np.full(n, len(points))
    places = _border(expected)
    tree = cKDTree(places * np.asarray(spacing), balanced_tree=False, compact_nodes=False)
    label = expected[tuple(places.T)] - 1
    counts = np.zeros(n, np.int64)
    for start in range(0, len(points), CHUNK):
        counts += _nearest_counts(tree, label, points[start : start + CHUNK] * np.asarray(spacing), n)
    return counts


def _border(ids: np.ndarray) -> np.ndarray:
    """Indices (m, d) of component voxels with a face neighbour in none: the nearest voxel of any outside voxel."""
    inside = np.pad(ids > 0, 1)
    deep = inside.copy()
    for axis in range(ids.ndim):
        deep &= np.roll(inside, 1, axis) & np.roll(inside, -1, axis)
    return np.argwhere(inside & ~deep) - 1


def _nearest_counts(tree: cKDTree, label: np.ndarray, points: np.ndarray, n: int) -> np.ndarray:
    """How many points (m, d) are nearest to each of n labels of the tree's points; with a tie, to each that ties."""
    counts, neighbours = np.zeros(n, np.int64), 2
    while len(points):
        neighbours = min(neighbours, tree.n)
        distance, index = tree.query(points, k=neighbours)
        tied = distance <= distance[:, :1] * (1 + EQUALLY_NEAR)
        settled = ~tied[:, -1] | (neighbours == tree.n)  # else more may be as near as the last that was asked for
        row, column = np.nonzero(tied & settled[:, None])
        nearest = np.unique(row * np.int64(n) + label[index[row, column]])
        counts += np.bincount(nearest % n, minlength=n)
        points, neighbours = points[~settled], 4 * neighbours
    return counts


def _shared(ids: np.ndarray) -> int:
    """How many components overlap two or more of the other side."""
    return int((np.unique(ids, return_counts=True)[1] > 1).sum())


def _recall_by_size(
    pairs: Overlaps, voxels: np.ndarray, spacing: Sequence[float]
) -> dict[tuple[str, str], float | None]:
    """Share of the reference lesions of each size that are found; None where there is none of a size."""
    found = np.zeros(len(voxels), bool)
    found[pairs.reference[matched(pairs, FOUND_ABOVE, voxels)] - 1] = True
    stratum = np.digitize(diameters(voxels, spacing), (MEDIUM_FROM, LARGE_FROM))
    values: dict[tuple[str, str], float | None] = {}
    for i, size in enumerate(("small", "medium", "large")):
        these = found[stratum == i]
        values[f"lesion_recall_{size}", f"iou>{FOUND_ABOVE:g}"] = float(these.mean()) if these.size else None
    return values
