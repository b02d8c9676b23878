"""Shapes in millimetres on a smoothly warped grid, each evaluated in its bounding box only."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

Box = tuple[slice, slice, slice]
Point = (
    Sequence[float] | np.ndarray
)  # (z, y, x) in mm: up, towards the back, towards the patient's left; the centre is (0, 0, 0)


@dataclass(frozen=True)
class Grid:
    """A supersampled voxel grid and where each of its voxels lies in the unwarped patient.

    Attributes:
        axes: voxel centres per axis in mm.
        where: float32 (3, *f), position of every voxel in the unwarped patient in mm.
        reach: largest displacement per axis in mm, by which bounding boxes are widened.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    where: np.ndarray
    reach: tuple[float, float, float]

    @property
    def shape(self) -> tuple[int, ...]:
        """Supersampled voxels per axis."""
        return self.where.shape[1:]

    def box(self, low: Point, high: Point) -> Box:
        """Slices that hold every voxel whose unwarped position is between `low` and `high`."""
        slices = []
        for axis, a, b, reach in zip(self._positions, low, high, self.reach, strict=True):
            start = bisect_left(axis, a - reach)
            slices.append(slice(start, max(start, bisect_left(axis, b + reach))))
        return slices[0], slices[1], slices[2]

    @cached_property
    def _positions(self) -> list[list[float]]:
        return [axis.tolist() for axis in self.axes]  # to search in a list is faster than in an array

    def scaled(self, factor: float) -> Grid:
        """The grid in which the same patient is `factor` times as large, about the centre of the field of view."""
        if factor == 1:
            return self
        z, y, x = (axis / factor for axis in self.axes)
        near, wide, deep = (reach / factor for reach in self.reach)
        return Grid((z, y, x), self.where / np.float32(factor), (near, wide, deep))


def warped_grid(
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    supersampling: Sequence[int],
    rng: np.random.Generator,
    *,
    scales: Sequence[tuple[float, float]],
) -> Grid:
    """The supersampled grid with a smooth random warp.

    Args:
        shape: reference grid (d, h, w).
        spacing_mm: reference voxel size.
        supersampling: fine voxels per reference voxel and axis.
        rng: draws the control points.
        scales: pairs of (distance of control points, SD of the displacement), in mm, one per component of the warp.
    """
    axes = []
    for n, mm, factor in zip(shape, spacing_mm, supersampling, strict=True):
        axes.append(((np.arange(n * factor) + 0.5) / factor - n / 2) * mm)
    total = np.zeros((3, *(len(a) for a in axes)), np.float32)
    for distance, sd in scales:
        total += _smooth_field(axes, distance, sd, rng)
    z, y, x = (float(np.abs(u).max()) for u in total)
    for i, axis in enumerate(axes):
        total[i] += axis.astype(np.float32).reshape([-1 if j == i else 1 for j in range(3)])
    return Grid((axes[0], axes[1], axes[2]), total, (z, y, x))


def _smooth_field(axes: list[np.ndarray], distance: float, sd: float, rng: np.random.Generator) -> np.ndarray:
    """A displacement field (3, *f) of cubic B-splines with control points on a lattice of +-320 mm around the centre.

    The lattice does not depend on the grid, so one patient is warped alike on every grid.
    """
    half = int(320 / distance) + 2
    control = rng.standard_normal((3, *(2 * half + 1,) * 3))
    knots = np.arange(-half, half + 1) * distance
    bases = [_cubic(np.abs(axis[:, None] - knots[None, :]) / distance) for axis in axes]
    z, y, x = (np.flatnonzero(basis.any(axis=0)) for basis in bases)
    control = control[:, z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1].astype(np.float32)
    for basis, used in zip(bases, (z, y, x), strict=True):
        # contract the leading spatial axis each time; it returns as the last one
        control = np.tensordot(control, basis[:, used[0] : used[-1] + 1], axes=([1], [1]))
    return control * np.float32(sd / 0.33)  # 0.33: SD of a sum of cubic B-splines of unit normal control points


def _cubic(t: np.ndarray) -> np.ndarray:
    """The cubic B-spline at distance `t` in knots, float32."""
    return np.where(t < 1, 2 / 3 - t**2 + t**3 / 2, np.where(t < 2, (2 - t) ** 3 / 6, 0)).astype(np.float32)


def rotation(degrees_z: float, degrees_y: float = 0.0, degrees_x: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3) in (z, y, x) order: in the axial plane first, then about the two other axes."""
    matrix = np.eye(3)
    for degrees, (i, j) in ((degrees_z, (1, 2)), (degrees_y, (0, 2)), (degrees_x, (0, 1))):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        step = np.eye(3)
        step[i, i], step[i, j], step[j, i], step[j, j] = c, -s, s, c
        matrix = step @ matrix
    return matrix.astype(np.float32)


def ellipsoid(
    grid: Grid, centre: Point, radii: Point, turn: np.ndarray | None = None, *, power: float = 2.0, margin: float = 1.0
) -> tuple[Box, np.ndarray]:
    """Level function of a (super-)ellipsoid in its box: below 1 inside, about relative radius**2 elsewhere.

    Args:
        grid: where to evaluate.
        centre: (z, y, x) in mm.
        radii: semi-axes in mm, before turning.
        turn: rotation (3, 3) of the body, or None.
        power: 2 for an ellipsoid, more for a rounder box.
        margin: the box holds the ellipsoid times this.
    """
    centre, radii = np.asarray(centre, float), np.asarray(radii, float)
    if turn is None:
        extent = margin * radii
    else:
        extent = margin * (np.sqrt(((turn * radii) ** 2).sum(axis=1)) if power == 2 else np.abs(turn) @ radii)
    box = grid.box((centre - extent).tolist(), (centre + extent).tolist())
    if _is_empty(box):
        return box, _nothing(box)
    offset = [grid.where[i][box] - np.float32(centre[i]) for i in range(3)]
    level = np.zeros(offset[0].shape, np.float32)
    for j in range(3):
        along = offset[j] if turn is None else sum(offset[i] * turn[i, j] for i in range(3) if turn[i, j])
        along = along * np.float32(1 / radii[j])
        level += along * along if power == 2 else np.abs(along) ** np.float32(power)
    return box, level


def capsule(grid: Grid, start: Point, end: Point, radius: float, end_radius: float) -> tuple[Box, np.ndarray]:
    """Level function of a tapering tube with round ends in its box: negative inside, in mm."""
    widest = max(radius, end_radius)
    ends = tuple(zip(start, end, strict=True))
    box = grid.box([min(pair) - widest for pair in ends], [max(pair) + widest for pair in ends])
    if _is_empty(box):
        return box, _nothing(box)
    direction = np.subtract(end, start).astype(np.float32)
    offset = [grid.where[i][box] - np.float32(start[i]) for i in range(3)]
    length2 = float(direction @ direction)
    t = sum(offset[i] * direction[i] for i in range(3)) * np.float32(1 / max(length2, 1e-6))
    t = np.clip(t, 0, 1)
    distance2 = sum((offset[i] - t * direction[i]) ** 2 for i in range(3))
    return box, np.sqrt(distance2) - (np.float32(radius) + t * np.float32(end_radius - radius))


def _is_empty(box: Box) -> bool:
    return any(part.start >= part.stop for part in box)


def _nothing(box: Box) -> np.ndarray:
    return np.zeros([part.stop - part.start for part in box], np.float32)


def majority(labels: np.ndarray, supersampling: Sequence[int], classes: int) -> np.ndarray:
    """The most frequent label of each reference voxel, (*f) -> (*s); ties go to the later label."""
    if all(factor == 1 for factor in supersampling):
        return labels.copy()
    fz, fy, fx = supersampling
    blocks = [labels[i::fz, j::fy, k::fx] for i in range(fz) for j in range(fy) for k in range(fx)]
    best = np.zeros(blocks[0].shape, labels.dtype)
    most = np.zeros(blocks[0].shape, np.uint8)
    for label in range(classes):
        count = sum((block == label).view(np.uint8) for block in blocks)
        wins = (count >= most) & (count > 0)
        np.copyto(best, labels.dtype.type(label), where=wins)
        np.copyto(most, count, where=wins)
    return best
