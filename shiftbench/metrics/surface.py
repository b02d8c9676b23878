"""Scores of surfaces: the 95th percentile of the distances and the surface overlap at a tolerance.

Two definitions of a surface, which must never be mixed:

S   surface elements: one point in each 2x2(x2) neighbourhood that is partly inside, weighted by its length or area
    (Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy, 2018).
V   voxel borders: the voxels of the mask with a face neighbour outside, each of weight one (MONAI, Metrics Reloaded).

What lies outside the array is background, so an object cut by the field of view has a surface there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import edt
import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import cKDTree
from surface_distance import lookup_tables

from shiftbench.metrics.overlap import checked_masks

Definition = Literal["S", "V"]
PERCENTILE = 95.0
TREE_BELOW = 0.025  # border points of both masks per voxel of the box, under which a KD-tree is the faster engine
SLACK = 1e-6  # relative, so that d <= tolerance does not hang on the last bit of a single-precision distance


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances from each surface point of one mask to the nearest of the other, with the weights of the points."""

    from_prediction: np.ndarray
    from_reference: np.ndarray
    prediction_weights: np.ndarray
    reference_weights: np.ndarray
    definition: Definition

    def percentile_95(self) -> float:
        """HD95: the larger of the two directed (S: area-weighted, V: linearly interpolated) 95th percentiles."""
        directions = (
            (self.from_prediction, self.prediction_weights),
            (self.from_reference, self.reference_weights),
        )
        if self.definition == "V":
            return max(float(np.percentile(distances, PERCENTILE)) for distances, _ in directions)
        return max(_weighted_percentile(distances, weights) for distances, weights in directions)

    def overlap(self, tolerance: float) -> float:
        """NSD: the weighted share of both surfaces that lies within `tolerance` of the other one."""
        reach = tolerance * (1.0 + SLACK)
        near = self.prediction_weights[self.from_prediction <= reach].sum()
        near += self.reference_weights[self.from_reference <= reach].sum()
        return float(near / (self.prediction_weights.sum() + self.reference_weights.sum()))


def hd95_mm(
    prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], definition: Definition = "S"
) -> float | None:
    """95th percentile of the surface distances, the larger of the two directions, in mm.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array or a tensor on the CPU.
        reference: bool, shape (*s).
        spacing_mm: voxel size per spatial axis, in axis order.
        definition: "S" surface elements (the smallest distance that covers 95 % of the area) or "V" voxel borders
            (numpy's linear interpolation).

    Returns:
        Distance in mm; None if both masks are empty; inf if exactly one is.

    Raises:
        ValueError: shapes differ, a mask is not binary, or spacing has not one positive entry per axis.

    Reference:
        Maier-Hein, Reinke et al., Metrics Reloaded, Nature Methods 21, 2024.
    """
    prediction, reference, spacing = _checked(prediction, reference, spacing_mm, definition)
    if not (prediction.any() and reference.any()):
        return float("inf") if prediction.any() or reference.any() else None
    return surface_distances(prediction, reference, spacing, definition).percentile_95()


def nsd(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    definition: Definition = "S",
) -> float | None:
    """Normalised surface distance: the share of both surfaces within `tolerance_mm` of each other.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array or a tensor on the CPU.
        reference: bool, shape (*s).
        spacing_mm: voxel size per spatial axis, in axis order.
        tolerance_mm: distance up to which (inclusive) a surface point counts as right.
        definition: "S" surface elements weighted by area, or "V" voxel borders counted.

    Returns:
        A value in [0, 1]; None if both masks are empty; 0 if exactly one is.

    Raises:
        ValueError: shapes differ, a mask is not binary, spacing has not one positive entry per axis, or the tolerance
            is negative.
    """
    prediction, reference, spacing = _checked(prediction, reference, spacing_mm, definition)
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance is {tolerance_mm}; it must be zero or more")
    if not (prediction.any() and reference.any()):
        return 0.0 if prediction.any() or reference.any() else None
    return surface_distances(prediction, reference, spacing, definition).overlap(tolerance_mm)


def checked_spacing(spacing: Sequence[float], ndim: int) -> tuple[float, ...]:
    """Spacing as a tuple of floats.

    Raises:
        ValueError: not one finite positive entry per axis.
    """
    checked = tuple(float(size) for size in spacing)
    if len(checked) != ndim:
        raise ValueError(f"spacing has {len(checked)} entries for {ndim} axes")
    if not all(np.isfinite(size) and size > 0 for size in checked):
        raise ValueError(f"spacing {checked} has an entry that is not a positive number")
    return checked


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], definition: Definition = "S"
) -> SurfaceDistances:
    """All distances between the surfaces of two non-empty boolean masks (*s), in the unit of `spacing`.

    The work and the memory are bounded by the box around the union of the masks.
    """
    box = _union_box(prediction, reference)
    surface = _ELEMENTS[definition]
    border_p, weights_p = surface(_padded(prediction[box]), spacing)
    border_r, weights_r = surface(_padded(reference[box]), spacing)
    points_p, points_r = np.flatnonzero(border_p), np.flatnonzero(border_r)
    sparse = points_p.size + points_r.size < TREE_BELOW * border_p.size
    engine = _directed_by_tree if sparse else _directed_by_transform
    return SurfaceDistances(
        engine(points_p, border_r, points_r, spacing),
        engine(points_r, border_p, points_p, spacing),
        weights_p,
        weights_r,
        definition,
    )


def _checked(
    prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float], definition: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    if definition not in _ELEMENTS:
        raise ValueError(f"definition is {definition!r}; known: S, V")
    prediction, reference = checked_masks(prediction, reference)
    return prediction, reference, checked_spacing(spacing, reference.ndim)


def _union_box(prediction: np.ndarray, reference: np.ndarray) -> tuple[slice, ...]:
    union = prediction | reference
    box = []
    for axis in range(union.ndim):
        inside = np.flatnonzero(union.any(axis=tuple(other for other in range(union.ndim) if other != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1))
    return tuple(box)


def _padded(mask: np.ndarray) -> np.ndarray:
    padded = np.zeros([size + 2 for size in mask.shape], np.uint8)
    padded[(slice(1, -1),) * mask.ndim] = mask
    return padded


def _surface_elements(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Definition S: where on the grid of voxel corners the surface passes, and the length or area of each element."""
    code = mask
    bits = 1
    for axis in reversed(range(mask.ndim)):  # the bit order of the table: the last axis varies fastest
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        code = np.left_shift(code[low], np.uint8(bits)) | code[high]
        bits *= 2
    border = (code != 0) & (code != 2**bits - 1)
    return border, _element_sizes(spacing)[code[border]]


@lru_cache(maxsize=256)
def _element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Length (2-D) or area (3-D) of the surface in each of the 16 or 256 neighbourhoods."""
    if len(spacing) == 2:
        return lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing)


def _voxel_borders(mask: np.ndarray, spacing: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Definition V: voxels of the mask with a face neighbour outside it, each of weight one."""
    interior = mask.astype(bool)
    centre = interior[(slice(1, -1),) * mask.ndim].copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            centre &= mask[tuple(side if a == axis else slice(1, -1) for a in range(mask.ndim))].astype(bool)
    border = interior.copy()
    border[(slice(1, -1),) * mask.ndim] &= ~centre
    return border, np.ones(np.count_nonzero(border))


_ELEMENTS: dict[str, Callable[[np.ndarray, tuple[float, ...]], tuple[np.ndarray, np.ndarray]]] = {
    "S": _surface_elements,
    "V": _voxel_borders,
}


def _directed_by_tree(
    points: np.ndarray, border: np.ndarray, border_points: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    """Distances from `points` to `border` (both flat indices of one grid); shared points need no search."""
    distances = np.zeros(points.size)
    alone = ~border.ravel()[points]
    if alone.any():
        tree = cKDTree(_positions(border_points, border.shape, spacing), balanced_tree=False, compact_nodes=False)
        distances[alone] = tree.query(_positions(points[alone], border.shape, spacing))[0]
    return distances


def _directed_by_transform(
    points: np.ndarray, border: np.ndarray, border_points: np.ndarray, spacing: tuple[float, ...]
) -> np.ndarray:
    squared = edt.edtsq(~border, anisotropy=spacing, black_border=False, parallel=1)
    return np.sqrt(squared.ravel()[points].astype(np.float64))


def _positions(points: np.ndarray, shape: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    return np.stack(np.unravel_index(points, shape), axis=1) * np.asarray(spacing)


def _weighted_percentile(distances: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(distances)
    covered = np.cumsum(weights[order])
    index = np.searchsorted(covered, covered[-1] * PERCENTILE / 100.0 * (1.0 - SLACK))
    return float(distances[order[min(index, order.size - 1)]])


def surface_values(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], tolerance: float
) -> dict[tuple[str, str], float | None]:
    """The metrics of surfaces by name and definition, of two non-empty boolean masks (*s)."""
    values: dict[tuple[str, str], float | None] = {}
    for definition in ("S", "V"):
        surfaces = surface_distances(prediction, reference, spacing, definition)  # type: ignore[arg-type]
        sides = (
            (surfaces.from_prediction, surfaces.prediction_weights),
            (surfaces.from_reference, surfaces.reference_weights),
        )
        sums = [(float((d * w).sum()), float(w.sum())) for d, w in sides]
        values |= {
            ("nsd", definition): surfaces.overlap(tolerance),
            ("hd95_mm", definition): surfaces.percentile_95(),
            ("hd_mm", definition): max(float(d.max()) for d, _ in sides),
            ("assd_mm", definition): sum(s for s, _ in sums) / sum(w for _, w in sums),
            ("masd_mm", definition): sum(s / w for s, w in sums) / 2,
        }
    return values
