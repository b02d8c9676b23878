"""Scores of surfaces: Hausdorff distances, mean surface distances, and the overlap of surfaces at a tolerance.

What a surface is, and how far one is from another, is said in `shiftbench.metrics.distances`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from shiftbench.metrics.distances import (
    DEFINITIONS,
    Definition,
    SurfaceDistances,
    between,
    padded,
    surface_distances,
)
from shiftbench.metrics.overlap import checked_masks, checked_spacing


def hd_mm(
    prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], definition: Definition = "S"
) -> float | None:
    """Hausdorff distance, the largest distance of a point of one surface to the other surface, in mm.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array, or a tensor on any device.
        reference: bool, shape (*s).
        spacing_mm: voxel size per spatial axis, in axis order.
        definition: "S" surface elements or "V" voxel borders.

    Returns:
        Distance in mm; None if both masks are empty; inf if exactly one is.

    Raises:
        ValueError: shapes differ, a mask is not binary, or spacing has not one positive entry per axis.
    """
    return _distance(SurfaceDistances.maximum, prediction, reference, spacing_mm, definition)


def hd95_mm(
    prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], definition: Definition = "S"
) -> float | None:
    """95th percentile of the surface distances, the larger of the two directions, in mm.

    Arguments, undefined values and errors are those of `hd_mm`. The percentile is the smallest distance that covers
    95 % of the area ("S") or interpolated linearly ("V").

    Reference:
        Maier-Hein, Reinke et al., Metrics Reloaded, Nature Methods 21, 2024.
    """
    return _distance(SurfaceDistances.percentile_95, prediction, reference, spacing_mm, definition)


def assd_mm(
    prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], definition: Definition = "S"
) -> float | None:
    """Average symmetric surface distance, the mean over the points of both surfaces together, in mm.

    Arguments, undefined values and errors are those of `hd_mm`.
    """
    return _distance(SurfaceDistances.pooled_mean, prediction, reference, spacing_mm, definition)


def masd_mm(
    prediction: ArrayLike, reference: ArrayLike, spacing_mm: Sequence[float], definition: Definition = "S"
) -> float | None:
    """Mean average surface distance, the mean of the two directed means, in mm.

    Arguments, undefined values and errors are those of `hd_mm`.
    """
    return _distance(SurfaceDistances.mean_of_means, prediction, reference, spacing_mm, definition)


def nsd(
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing_mm: Sequence[float],
    tolerance_mm: float,
    definition: Definition = "S",
) -> float | None:
    """Normalised surface distance: the share of both surfaces within `tolerance_mm` of each other.

    Args:
        prediction: bool, shape (*s), 2-D or 3-D; an array, or a tensor on any device.
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
    if not tolerance_mm >= 0:
        raise ValueError(f"tolerance is {tolerance_mm}; it must be zero or more")
    prediction, reference, spacing = _checked(prediction, reference, spacing_mm, definition)
    if not (prediction.any() and reference.any()):
        return 0.0 if prediction.any() or reference.any() else None
    return surface_distances(prediction, reference, spacing, definition).overlap(tolerance_mm)


def surface_values(
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, ...],
    tolerance: float,
    definitions: Sequence[Definition] = DEFINITIONS,
) -> dict[tuple[str, str], float | None]:
    """Every metric of surfaces by name and definition, of two non-empty boolean masks (*s) in their common box."""
    masks = padded(prediction, spacing), padded(reference, spacing)
    values: dict[tuple[str, str], float | None] = {}
    for definition in definitions:
        surfaces = between(*masks, spacing, definition)
        values |= {
            ("nsd", definition): surfaces.overlap(tolerance),
            ("hd_mm", definition): surfaces.maximum(),
            ("hd95_mm", definition): surfaces.percentile_95(),
            ("assd_mm", definition): surfaces.pooled_mean(),
            ("masd_mm", definition): surfaces.mean_of_means(),
        }
    return values


def _distance(
    summary: Callable[[SurfaceDistances], float],
    prediction: ArrayLike,
    reference: ArrayLike,
    spacing: Sequence[float],
    definition: Definition,
) -> float | None:
    prediction, reference, spacing = _checked(prediction, reference, spacing, definition)
    if not (prediction.any() and reference.any()):
        return float("inf") if prediction.any() or reference.any() else None
    return summary(surface_distances(prediction, reference, spacing, definition))


def _checked(
    prediction: ArrayLike, reference: ArrayLike, spacing: Sequence[float], definition: str
) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    if definition not in DEFINITIONS:
        raise ValueError(f"definition is {definition!r}; known: {', '.join(DEFINITIONS)}")
    prediction, reference = checked_masks(prediction, reference)
    return prediction, reference, checked_spacing(spacing, reference.ndim)
