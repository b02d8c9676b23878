"""Distances between the surfaces of two masks, in two definitions of a surface, which must never be mixed.

S   surface elements: one point in each 2x2(x2) neighbourhood that is partly inside, weighted by its length or area
    (Nikolov et al., Deep learning to achieve clinically applicable segmentation of head and neck anatomy, 2018).
V   voxel borders: the voxels of the mask with a face neighbour outside, each of weight one (MONAI, Metrics Reloaded).

What lies outside the array is background, so an object cut by the field of view has a surface there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
from surface_distance import lookup_tables

from shiftbench.metrics.nearest import margin, nearest_distances

Definition = Literal["S", "V"]
DEFINITIONS: tuple[Definition, ...] = ("S", "V")
PERCENTILE = 95.0
SLACK = 1e-6  # relative, so that d <= tolerance does not hang on the last bit of a single-precision distance
_BINS = 512  # of distances at most, in one of which a weighted percentile is looked for


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances from each surface point of one mask to the nearest of the other, with the weights of the points."""

    from_prediction: np.ndarray
    from_reference: np.ndarray
    prediction_weights: np.ndarray
    reference_weights: np.ndarray
    definition: Definition

    @property
    def directions(self) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
        """Distances and weights from the prediction to the reference, and back."""
        return (self.from_prediction, self.prediction_weights), (self.from_reference, self.reference_weights)

    @cached_property
    def sizes(self) -> tuple[float, float]:
        """Weight of each surface: its area, its length, or its number of voxels."""
        return float(self.prediction_weights.sum()), float(self.reference_weights.sum())

    @cached_property
    def moments(self) -> tuple[float, float]:
        """Weighted sum of the distances of each direction."""
        one, other = (float(distances @ weights) for distances, weights in self.directions)
        return one, other

    def maximum(self) -> float:
        """HD: the largest distance of either direction."""
        return max(float(distances.max()) for distances, _ in self.directions)

    def percentile_95(self) -> float:
        """HD95: the larger of the two directed (S: area-weighted, V: linearly interpolated) 95th percentiles."""
        if self.definition == "V":
            return max(_percentile(distances) for distances, _ in self.directions)
        return max(_weighted_percentile(distances, weights) for distances, weights in self.directions)

    def pooled_mean(self) -> float:
        """ASSD: the mean distance of all points of both surfaces."""
        return sum(self.moments) / sum(self.sizes)

    def mean_of_means(self) -> float:
        """MASD: the mean of the mean distances of the two directions."""
        return sum(moment / size for moment, size in zip(self.moments, self.sizes, strict=True)) / 2

    def overlap(self, tolerance: float) -> float:
        """NSD: the weighted share of both surfaces that lies within `tolerance` of the other one."""
        reach = tolerance * (1.0 + SLACK)
        near = sum(float(weights[distances <= reach].sum()) for distances, weights in self.directions)
        return near / sum(self.sizes)


def surface_distances(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], definition: Definition = "S"
) -> SurfaceDistances:
    """All distances between the surfaces of two non-empty boolean masks (*s), in the unit of `spacing`.

    The work and the memory are bounded by the box around the union of the masks.
    """
    box = bounding_box(prediction | reference)
    return between(padded(prediction[box], spacing), padded(reference[box], spacing), spacing, definition)


def bounding_box(values: np.ndarray) -> tuple[slice, ...]:
    """The smallest box around what is not 0 in an array (*s); an empty one if all is 0."""
    extents = []
    while values.ndim:
        filled = np.flatnonzero(values.max(axis=tuple(range(1, values.ndim))))
        extents.append(slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0))
        values = values.max(axis=0)
    return tuple(extents)


def padded(mask: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """The mask in a grid with room for what `nearest_distances` looks at around its surface."""
    room = [width + 1 for width in margin(spacing)]
    padded = np.zeros([size + 2 * width for size, width in zip(mask.shape, room, strict=True)], bool)
    padded[tuple(slice(width, -width) for width in room)] = mask
    return padded


def between(
    prediction: np.ndarray, reference: np.ndarray, spacing: tuple[float, ...], definition: Definition
) -> SurfaceDistances:
    """The same of two masks that have been `padded` in one box."""
    surface = _ELEMENTS[definition]
    border_p, points_p, weights_p = surface(prediction, spacing)
    border_r, points_r, weights_r = surface(reference, spacing)
    return SurfaceDistances(
        nearest_distances(points_p, points_r, border_r, spacing),
        nearest_distances(points_r, points_p, border_p, spacing),
        weights_p,
        weights_r,
        definition,
    )


Elements = tuple[np.ndarray, np.ndarray, np.ndarray]  # bool (*s), and the flat indices (n,) and weights (n,) of points


def _surface_elements(mask: np.ndarray, spacing: tuple[float, ...]) -> Elements:
    """Definition S: where on the grid of voxel corners the surface passes, and the length or area of each element."""
    code = mask.view(np.uint8)
    bits = 1
    for axis in reversed(range(mask.ndim)):  # the bit order of the table: the last axis varies fastest
        low = (slice(None),) * axis + (slice(None, -1),)
        high = (slice(None),) * axis + (slice(1, None),)
        shifted = code[low] * np.uint8(2**bits)
        shifted |= code[high]
        code = shifted
        bits *= 2
    border = code - np.uint8(1) < 2**bits - 2  # neither 0, which wraps around, nor all ones
    points = np.flatnonzero(border)
    return border, points, _element_sizes(spacing)[code.ravel()[points]]


@lru_cache(maxsize=256)
def _element_sizes(spacing: tuple[float, ...]) -> np.ndarray:
    """Length (2-D) or area (3-D) of the surface in each of the 16 or 256 neighbourhoods."""
    if len(spacing) == 2:
        return lookup_tables.create_table_neighbour_code_to_contour_length(spacing)
    return lookup_tables.create_table_neighbour_code_to_surface_area(spacing)


def _voxel_borders(mask: np.ndarray, spacing: tuple[float, ...]) -> Elements:
    """Definition V: voxels of the mask with a face neighbour outside it, each of weight one."""
    centre = (slice(1, -1),) * mask.ndim
    interior = mask[centre].copy()
    for axis in range(mask.ndim):
        for side in (slice(None, -2), slice(2, None)):
            interior &= mask[tuple(side if a == axis else slice(1, -1) for a in range(mask.ndim))]
    border = mask.copy()
    border[centre] ^= interior
    points = np.flatnonzero(border)
    return border, points, np.ones(points.size)


_ELEMENTS: dict[str, Callable[[np.ndarray, tuple[float, ...]], Elements]] = {
    "S": _surface_elements,
    "V": _voxel_borders,
}


def _percentile(distances: np.ndarray) -> float:
    """`numpy.percentile` with its linear interpolation, without what that does for other shapes and methods."""
    place = (distances.size - 1) * PERCENTILE / 100.0
    below = int(place)
    above = min(below + 1, distances.size - 1)
    ordered = np.partition(distances, (below, above))
    return float(ordered[below] + (ordered[above] - ordered[below]) * (place - below))


def _weighted_percentile(distances: np.ndarray, weights: np.ndarray) -> float:
    """The smallest distance up to which 95 % of the weight lies; only one bin of the distances is sorted."""
    largest = float(distances.max())
    if not largest:
        return 0.0
    n_bins = min(_BINS, 1 + distances.size // _BINS)
    bins = (distances * ((n_bins - 1) / largest)).astype(np.intp)
    covered = np.cumsum(np.bincount(bins, weights))
    needed = covered[-1] * PERCENTILE / 100.0 * (1.0 - SLACK)
    chosen = int(np.searchsorted(covered, needed))
    inside = bins == chosen
    order = np.argsort(distances[inside])
    before = covered[chosen - 1] if chosen else 0.0
    index = np.searchsorted(before + np.cumsum(weights[inside][order]), needed)
    return float(distances[inside][order[min(index, order.size - 1)]])
