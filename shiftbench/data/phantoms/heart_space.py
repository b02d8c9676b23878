"""Coordinates of the heart: along the long axis of the left ventricle, and its short-axis plane."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.shapes import Box, Grid


@dataclass(frozen=True)
class Pose:
    """Where the heart lies: its endocardial apex (z, y, x) in mm, and the rotation (3, 3) of its axes."""

    apex: np.ndarray
    turn: np.ndarray

    def at(self, height: float, anterior: float, lateral: float) -> np.ndarray:
        """Position (z, y, x) in mm of a point of the heart."""
        return self.apex + self.turn @ np.array([height, -anterior, lateral])


@dataclass(frozen=True)
class Space:
    """A part of the grid in coordinates of the heart, in mm.

    Attributes:
        box: which part.
        height: along the long axis, from the endocardial apex of the left ventricle to its base, float32 (*b).
        anterior: away from the long axis towards the anterior wall.
        lateral: away from the long axis towards the lateral wall; the septum is on the negative side.
    """

    box: Box
    height: np.ndarray
    anterior: np.ndarray
    lateral: np.ndarray

    def direction(self) -> tuple[np.ndarray, np.ndarray]:
        """Lateral and anterior component of the unit vector away from the long axis."""
        inverse = 1 / np.maximum(np.sqrt(self.anterior**2 + self.lateral**2), np.float32(0.1))
        return self.lateral * inverse, self.anterior * inverse

    def distance(self, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
        """Distance (*b) in mm to an ellipsoid along the axes, negative inside; of first order, exact on its axes."""
        square, slope = np.zeros((2, *self.height.shape), np.float32)
        for values, c, r in zip((self.height, self.anterior, self.lateral), centre, radii, strict=True):
            scaled = (values - np.float32(c)) * np.float32(1 / r)
            scaled *= scaled
            square += scaled
            slope += scaled * np.float32(1 / r**2)
        return _to_surface(square, slope)


def space(grid: Grid, pose: Pose, low: Sequence[float], high: Sequence[float]) -> Space:
    """The part of the grid whose (height, anterior, lateral) may be between `low` and `high`."""
    corners = [pose.at(h, a, x) for h in (low[0], high[0]) for a in (low[1], high[1]) for x in (low[2], high[2])]
    box = grid.box(np.min(corners, axis=0), np.max(corners, axis=0))
    offset = [grid.where[i][box] - np.float32(pose.apex[i]) for i in range(3)]
    turn = pose.turn.astype(np.float32)
    height, back, lateral = (sum(offset[i] * turn[i, j] for i in range(3)) for j in range(3))
    return Space(box, height, -back, lateral)


def column(
    grid: Grid, centre: np.ndarray, turn: np.ndarray, radii: tuple[float, float], margin_mm: float = 0.0
) -> tuple[Box, np.ndarray]:
    """Distance in mm to an endless elliptic cylinder in its box, negative inside; of first order, exact on its axes.

    Args:
        grid: where to evaluate.
        centre: a point (z, y, x) of its axis in mm.
        turn: rotation (3, 3); the cylinder lies along its z.
        radii: semi-axes along its y and x in mm.
        margin_mm: the box holds the cylinder widened by this.
    """
    axis, z, (low, high) = turn[:, 0], grid.axes[0], grid.reach[0]
    ends = [centre + axis * ((height - centre[0]) / axis[0]) for height in (z[0] + low, z[-1] + high)]
    widened = np.array(radii) + 1.1 * margin_mm
    cut = np.linalg.inv(turn[1:, 1:].T / widened[:, None])  # the unit circle to the cylinder's cut at one height
    extent = np.array([0, *np.sqrt((cut**2).sum(axis=1))])
    box = grid.box(np.min(ends, axis=0) - extent, np.max(ends, axis=0) + extent)
    offset = [grid.where[i][box] - np.float32(centre[i]) for i in range(3)]
    square, slope = np.zeros((2, *offset[0].shape), np.float32)
    for j, r in enumerate(radii, start=1):
        scaled = sum(offset[i] * np.float32(turn[i, j] / r) for i in range(3))
        scaled *= scaled
        square += scaled
        slope += scaled * np.float32(1 / r**2)
    return box, _to_surface(square, slope)


def _to_surface(square: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Distance to a quadric of level `square` whose squared half gradient is `slope`."""
    level = np.sqrt(square)
    return (level - 1) * level / np.sqrt(np.maximum(slope, np.float32(1e-6)))


def united(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    """Distance to the union of two bodies whose groove is filled over `blend` mm (polynomial smooth minimum)."""
    share = np.clip(np.float32(0.5) + (b - a) * np.float32(0.5 / blend), 0, 1)
    return b + (a - b) * share - np.float32(blend) * share * (1 - share)
