"""What a label protocol did to a reference: volume change, agreement and shift of the surface."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shiftbench.shifts.distances import distance_to, window


def protocol_effects(
    before: np.ndarray, after: np.ndarray, structures: Sequence[str], spacing: Sequence[float] | None
) -> dict[str, dict[str, float | None]]:
    """How far two references of the same patient differ, per structure.

    Args:
        before: labels (*s), i + 1 for `structures[i]`.
        after: labels (*s) under the other protocol.
        structures: names in label order.
        spacing: per axis in mm, or None (then shifts are in pixels).

    Returns:
        Structure -> `volume_change_percent` (None where it was not there before), `agreement` (DSC; None where it is in
        neither), `shift_mean_mm` and `shift_p95_mm`: mean and 95th percentile of the distances from each surface to the
        other, taken together (None where it is missing from one of them).

    Raises:
        ValueError: the shapes differ.
    """
    if before.shape != after.shape:
        raise ValueError(f"references of shapes {before.shape} and {after.shape}")
    mm = tuple(float(s) for s in spacing) if spacing is not None else (1.0,) * before.ndim
    return {name: _effect(before == i, after == i, mm) for i, name in enumerate(structures, start=1)}


def _effect(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> dict[str, float | None]:
    volumes = int(one.sum()), int(other.sum())
    shifts = _surface_shifts(one, other, spacing) if all(volumes) else None
    return {
        "volume_change_percent": 100.0 * (volumes[1] / volumes[0] - 1) if volumes[0] else None,
        "agreement": 2.0 * int((one & other).sum()) / sum(volumes) if any(volumes) else None,
        "shift_mean_mm": float(shifts.mean()) if shifts is not None else None,
        "shift_p95_mm": float(np.percentile(shifts, 95)) if shifts is not None else None,
    }


def _surface_shifts(one: np.ndarray, other: np.ndarray, spacing: tuple[float, ...]) -> np.ndarray:
    """Distances from the surface voxels of each mask to those of the other."""
    box = window(one | other, 0.0, spacing)
    edges = [_surface(mask[box]) for mask in (one, other)]  # type: ignore[index]
    return np.concatenate([distance_to(edges[1], spacing)[edges[0]], distance_to(edges[0], spacing)[edges[1]]])


def _surface(mask: np.ndarray) -> np.ndarray:
    """Voxels with a face towards the outside; the edge of the image is no surface."""
    padded = np.pad(mask, 1, mode="edge")
    inside = mask.copy()
    for axis in range(mask.ndim):
        for start in (0, 2):
            neighbour = [slice(1, -1)] * mask.ndim
            neighbour[axis] = slice(start, start + mask.shape[axis])
            inside &= padded[tuple(neighbour)]
    return mask & ~inside
