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

Span = tuple[float, float]  # lowest, highest
THIN = 3  # fine slices; the warp moves so few of them past most of the boxes that they meet


@dataclass(frozen=True)
class Grid:
    """A supersampled voxel grid and where each of its voxels lies in the unwarped patient.

    Attributes:
        axes: voxel centres per axis in mm.
        where: float32 (3, *f), position of every voxel in the unwarped patient in mm.
        reach: lowest and highest displacement per axis in mm, by which bounding boxes are moved and widened.
    """

    axes: tuple[np.ndarray, np.ndarray, np.ndarray]
    where: np.ndarray
    reach: tuple[Span, Span, Span]

    @property
    def shape(self) -> tuple[int, ...]:
        """Supersampled voxels per axis."""
        return self.where.shape[1:]

    def box(self, low: Point, high: Point) -> Box:
        """Slices that hold every voxel whose unwarped position is between `low` and `high`."""
        slices = []
        for axis, a, b, (least, most) in zip(self._positions, low, high, self.reach, strict=True):
            start = bisect_left(axis, a - most)
            slices.append(slice(start, max(start, bisect_left(axis, b - least))))
        return slices[0], slices[1], slices[2]

    @cached_property
    def _positions(self) -> list[list[float]]:
        return [axis.tolist() for axis in self.axes]  # to search in a list is faster than in an array

    def at_height(self, z: float, half: float) -> bool:
        """Whether any voxel may lie within `half` mm of the height `z`: what is not near need not be drawn."""
        low, high = self._corners
        return bool(low[0] - half <= z <= high[0] + half)

    def meets(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Which of n boxes from `low` to `high`, both (n, 3) in mm, may hold a voxel, bool (n,)."""
        first, last = self._corners
        return np.all((high >= first) & (low <= last), axis=1)

    @cached_property
    def _corners(self) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest unwarped position of any voxel per axis in mm, both (3,)."""
        return self.where.min(axis=(1, 2, 3)), self.where.max(axis=(1, 2, 3))

    def scaled(self, factor: float) -> Grid:
        """The grid in which the same patient is `factor` times as large, about the centre of the field of view."""
        if factor == 1:
            return self
        z, y, x = (axis / factor for axis in self.axes)
        near, wide, deep = ((low / factor, high / factor) for low, high in self.reach)
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
    z, y, x = ((float(u.min()), float(u.max())) for u in total)
    for i, axis in enumerate(axes):
        total[i] += axis.astype(np.float32).reshape([-1 if j == i else 1 for j in range(3)])
    return Grid((axes[0], axes[1], axes[2]), total, (z, y, x))


def _smooth_field(axes: list[np.ndarray], distance: float, sd: float, rng: np.random.Generator) -> np.ndarray:
    """A displacement field (3, *f) of cubic B-splines with control points on a lattice of +-320 mm around the centre.

    The lattice does not depend on the grid, so one patient is warped alike on every grid.
    """
    half = int(320 / distance) + 2
    control = rng.standard_normal((3, *(2 * half + 1,) * 3), dtype=np.float32)
    knots = np.arange(-half, half + 1) * distance
    bases = [_cubic(np.abs(axis[:, None] - knots[None, :]) / distance) for axis in axes]
    z, y, x = (np.flatnonzero(basis.any(axis=0)) for basis in bases)
    control = control[:, z[0] : z[-1] + 1, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
    for basis, used in zip(bases, (z, y, x), strict=True):
        # contract the leading spatial axis each time; it returns as the last one
        control = np.tensordot(control, basis[:, used[0] : used[-1] + 1], axes=([1], [1]))
    return control * np.float32(sd / 0.33)  # 0.33: SD of a sum of cubic B-splines of unit normal control points


def _cubic(t: np.ndarray) -> np.ndarray:
    """The cubic B-spline at distance `t` in knots, float32."""
    wide, narrow = np.maximum(2 - t, 0), np.maximum(1 - t, 0)
    return ((wide * wide * wide - 4 * narrow * narrow * narrow) / 6).astype(np.float32)


def rotation(degrees_z: float, degrees_y: float = 0.0, degrees_x: float = 0.0) -> np.ndarray:
    """Rotation matrix (3, 3) in (z, y, x) order: in the axial plane first, then about the two other axes."""
    matrix = np.eye(3)
    for degrees, (i, j) in ((degrees_z, (1, 2)), (degrees_y, (0, 2)), (degrees_x, (0, 1))):
        if not degrees:
            continue
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
    if _is_empty(grid, box, centre[0] - extent[0], centre[0] + extent[0]):
        return (slice(0, 0),) * 3, np.zeros((0, 0, 0), np.float32)
    offset, shape = _offsets(grid, box, centre)
    scale = (1 / radii).astype(np.float32)[:, None]
    along = offset * scale if turn is None else (turn.T.astype(np.float32) * scale) @ offset
    if power != 2:
        return box, (np.abs(along) ** np.float32(power)).sum(axis=0).reshape(shape)
    return box, np.einsum("in,in->n", along, along).reshape(shape)


def capsule(grid: Grid, start: Point, end: Point, radius: float, end_radius: float) -> tuple[Box, np.ndarray]:
    """Level function of a tapering tube with round ends in its box: negative inside, in mm."""
    widest = max(radius, end_radius)
    ends = tuple(zip(start, end, strict=True))
    low, high = [min(pair) - widest for pair in ends], [max(pair) + widest for pair in ends]
    box = grid.box(low, high)
    if _is_empty(grid, box, low[0], high[0]):
        return (slice(0, 0),) * 3, np.zeros((0, 0, 0), np.float32)
    offset, shape = _offsets(grid, box, start)
    direction = np.array([b - a for a, b in ends])
    t = (direction / max(float(direction @ direction), 1e-6)).astype(np.float32) @ offset
    np.clip(t, 0, 1, out=t)
    offset -= direction.astype(np.float32)[:, None] * t
    distance = np.sqrt(np.einsum("in,in->n", offset, offset))
    distance -= t * np.float32(end_radius - radius) + np.float32(radius)
    return box, distance.reshape(shape)


def _offsets(grid: Grid, box: Box, origin: Point) -> tuple[np.ndarray, tuple[int, ...]]:
    """Position of every voxel of the box relative to `origin`, float32 (3, n), and the shape of the box."""
    where = grid.where[(slice(None), *box)]
    offset = where - np.asarray(origin, np.float32)[:, None, None, None]
    return offset.reshape(3, -1), where.shape[1:]


def _is_empty(grid: Grid, box: Box, low: float, high: float) -> bool:
    """Whether no voxel of the box lies between two heights; a thick box is not looked into, it seldom is empty."""
    if any(part.start >= part.stop for part in box):
        return True
    if box[0].stop - box[0].start > THIN:
        return False
    heights = grid.where[0][box]
    return bool(heights.min() > high or heights.max() < low)


def majority(labels: np.ndarray, supersampling: Sequence[int], classes: int) -> np.ndarray:
    """The most frequent label of each reference voxel, (*f) -> (*s); ties go to the later label."""
    if all(factor == 1 for factor in supersampling):
        return labels.copy()
    fz, fy, fx = supersampling
    blocks = [labels[i::fz, j::fy, k::fx] for i in range(fz) for j in range(fy) for k in range(fx)]
    best = blocks[0].copy()
    mixed = np.logical_or.reduce([block != best for block in blocks[1:]])
    some = np.stack([block[mixed] for block in blocks])  # (n_fine, n), the few voxels with more than one label
    winner = np.zeros(some.shape[1], labels.dtype)
    most = np.zeros(some.shape[1], np.intp)
    for label in np.flatnonzero(np.bincount(some.ravel(), minlength=classes)):
        count = np.count_nonzero(some == label, axis=0)
        wins = (count >= most) & (count > 0)
        winner[wins], most[wins] = label, count[wins]
    best[mixed] = winner
    return best
