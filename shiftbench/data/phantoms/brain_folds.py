"""The folded surface of the brain: hull, fissures, sulci; distances in mm at any points of the unwarped patient.

Points are float32 (3, n): (z, y, x) in mm from the centre of the field of view: up, towards the back, towards the left.
A sulcus is a zero of a band-limited random field that hardly changes along the radius of its hemisphere, so that it
cuts in at a right angle to the surface; its depth follows a second, smoother field.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

DEEPEST = 23.0  # mm below hull or fissure where no sulcus reaches any more
SHALLOW = 14.0  # mm below which secondary sulci, which end above 9.3 mm, are too far to matter to the cortex


@dataclass(frozen=True)
class Waves:
    """A smooth Gaussian random field as a sum of plane waves: the same at a point whatever the grid.

    Attributes:
        vector: wave vectors (3, m) in rad/mm.
        phase: phases (m, 1).
    """

    vector: np.ndarray
    phase: np.ndarray

    @classmethod
    def drawn(cls, rng: np.random.Generator, wavelength_mm: float, number: int, spread: float = 0.22) -> Waves:
        """Waves in all directions, with a relative SD `spread` of the wave number."""
        direction = rng.standard_normal((3, number))
        size = 2 * np.pi / wavelength_mm * np.exp(spread * rng.standard_normal(number))
        vector = direction / np.linalg.norm(direction, axis=0) * size
        return cls(vector.astype(np.float32), rng.uniform(0, 2 * np.pi, (number, 1)).astype(np.float32))

    def value(self, points: np.ndarray) -> np.ndarray:
        """Field of unit variance, (3, n) to (n,)."""
        return self._sum(np.cos(self.vector.T @ points + self.phase))

    def with_gradient(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Field (n,) of unit variance and its gradient (3, n) per mm."""
        angle = self.vector.T @ points + self.phase
        scale = np.float32(np.sqrt(2 / len(self.phase)))
        value = self._sum(np.cos(angle))
        return value, (-scale * self.vector) @ np.sin(angle, out=angle)

    def _sum(self, terms: np.ndarray) -> np.ndarray:
        return np.full(len(terms), np.sqrt(2 / len(terms)), np.float32) @ terms


def ellipsoid_mm(points: np.ndarray, centre: Sequence[float], radii: Sequence[float]) -> np.ndarray:
    """Approximate signed distance (n,) to an ellipsoid in mm, negative inside."""
    inverse = (1 / np.asarray(radii)).astype(np.float32)[:, None]
    scaled = points - np.asarray(centre, np.float32)[:, None]
    scaled *= inverse
    # the small numbers: at the centre the distance is that to the nearest pole
    level = np.sqrt(np.einsum("in,in->n", scaled, scaled) + np.float32(1e-6))
    scaled *= inverse
    slope = np.sqrt(np.einsum("in,in->n", scaled, scaled) + np.float32(1e-6 / min(radii) ** 2))
    return level * (level - 1) / slope


def capsule_mm(
    points: np.ndarray, start: Sequence[float], end: Sequence[float], radius: float, end_radius: float
) -> np.ndarray:
    """Signed distance (n,) to a tapering tube with round ends in mm, negative inside."""
    along = np.subtract(end, start).astype(np.float32)
    offset = points - np.asarray(start, np.float32)[:, None]
    t = np.clip((along @ offset) * np.float32(1 / (along @ along)), 0, 1)
    offset -= along[:, None] * t
    return np.sqrt(np.einsum("in,in->n", offset, offset)) - (np.float32(radius) + t * np.float32(end_radius - radius))


def joined(a: np.ndarray, b: np.ndarray, blend_mm: float) -> np.ndarray:
    """Union of two signed distances with a smooth seam."""
    seam = np.maximum(np.float32(blend_mm) - np.abs(a - b), 0)
    return np.minimum(a, b) - seam * seam * np.float32(0.25 / blend_mm)


@dataclass(frozen=True)
class Surface:
    """The cerebral surface of one patient.

    Attributes:
        size: relative size of the hull (z, y, x).
        sulci, minor, depth: fields of the primary and secondary sulci, and of the depth of the primary ones.
        wander: field that bends the fissures.
        shrink_mm: by how much the brain lies below the hull of a young one.
        widening_mm: by how much sulci and fissures are wider at each side than in a young brain.
    """

    size: np.ndarray
    sulci: Waves
    minor: Waves
    depth: Waves
    wander: Waves
    shrink_mm: float
    widening_mm: float

    def hull_mm(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,) to the smooth hull of a young cerebrum, negative inside: vault and temporal lobes."""
        z, y, x = points * (1 / self.size)[:, None]
        narrow = x / (1 - 1.1e-5 * (y - 25) ** 2).clip(0.6)  # an egg, narrower in front
        blunt = y * (0.86 + 0.14 / 84**2 * np.minimum(y * y, 1e4))
        low = (z - 6) * np.where(z < 6, np.float32(64 / 38), np.float32(1)) + 6  # a flat base
        vault = ellipsoid_mm(np.stack([low, blunt, narrow]), (6, 0, 0), (64, 84, 67))
        temporal = ellipsoid_mm(np.stack([z, y, np.abs(x)]), (-25, -6, 39), (21, 38, 24))
        return joined(vault, temporal, 10.0)

    def fissures_mm(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (n,) to the mid-plane of the interhemispheric fissure, and to the other fissures and cisterns."""
        z, y, x = points * (1 / self.size)[:, None]
        side = np.abs(x)
        uneven = self.wander.value(points)
        bent = x + np.float32(0.8) * uneven
        callosum = ellipsoid_mm(np.stack([z, y, np.zeros_like(x)]), (7, 3, 0), (22, 39, 1e3))
        middle = np.hypot(bent, np.maximum(-callosum, 0))
        sheet = side - 40 + 0.010 * (y + 2) ** 2 + 1.2 * uneven
        insula = np.hypot(sheet, np.maximum(np.hypot((z - 3) / 15, (y + 1) / 20) - 1, 0) * 15) + 0.25
        slope = (y + 12 - 1.6 * (z + 4) + 0.55 * (side - 50)) * np.float32(0.5)  # runs up, and outwards to the front
        opening = np.hypot(slope + 1.2 * uneven, np.maximum(40 - side, 0) + np.maximum(np.abs(y - 2) - 24, 0))
        lateral = np.minimum(insula, opening)
        cistern = np.minimum(
            ellipsoid_mm(points, (-25, -1, 0), (11, 17, 13)), ellipsoid_mm(points, (-7, 32, 0), (8, 5, 8))
        )
        return middle, np.minimum(lateral, cistern)

    def depths_mm(self, points: np.ndarray, hull: np.ndarray, cerebellum: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth (n,) below the cerebrospinal fluid, negative in it, and below hull and fissures alone.

        Args:
            points: (3, n) inside the hull or near it.
            hull: `hull_mm` of them.
            cerebellum: signed distance (n,) to it; where both overlap, the tentorium is half-way.
        """
        middle, other = self.fissures_mm(points)
        wide = np.float32(self.widening_mm)
        outer = np.minimum(np.minimum(-hull - np.float32(self.shrink_mm), middle - 1.1 - wide), other - 0.9 - wide)
        outer = np.minimum(outer, 0.5 * (cerebellum - hull) - 0.8)
        depth = outer.copy()
        near = np.flatnonzero((outer > 0) & (outer < DEEPEST))
        if near.size:
            below = np.minimum(-hull[near], 1.7 * middle[near])  # sulci are shallower in the middle
            depth[near] = np.minimum(outer[near], self._sulci_mm(points[:, near], below))
        return depth, outer

    def _sulci_mm(self, points: np.ndarray, outer: np.ndarray) -> np.ndarray:
        """Distance (n,) to the fluid in the nearest sulcus, negative in it; `outer` is the depth it is limited in."""
        unfolded, stretch, radial = _unfolded(points)
        reach = 16.5 + 5.5 * np.clip(self.depth.value(points), -1.2, 1.2)
        nearest = self._sheet_mm(self.sulci, unfolded, stretch, radial, outer, reach)
        shallow = np.flatnonzero(outer < SHALLOW)
        some = unfolded[:, shallow], stretch[shallow], radial[:, shallow], outer[shallow]
        secondary = self._sheet_mm(self.minor, *some, np.float32(0.4) * reach[shallow])
        nearest[shallow] = np.minimum(nearest[shallow], secondary + 0.15)
        return nearest - (0.35 + 0.9 * np.exp(-outer * np.float32(1 / 3.5)) + np.float32(self.widening_mm))

    def _sheet_mm(
        self,
        waves: Waves,
        unfolded: np.ndarray,
        stretch: np.ndarray,
        radial: np.ndarray,
        outer: np.ndarray,
        reach: np.ndarray,
    ) -> np.ndarray:
        value, gradient = waves.with_gradient(unfolded)
        gradient -= np.einsum("in,in->n", gradient, radial) * radial
        steepness = np.einsum("in,in->n", gradient, gradient)
        floor = np.float32(0.05 * (waves.vector**2).sum() / len(waves.phase))
        across = np.abs(value) / (np.sqrt(steepness + floor) * stretch)
        return np.hypot(across, np.maximum(outer - reach, 0))


def _unfolded(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the fields are read: points moved outwards along the radius of their hemisphere.

    Returns:
        Positions (3, n), mm of them per mm along the surface (n,), unit vectors (3, n) along the radius.
    """
    axis = np.empty_like(points)
    axis[0], axis[1] = 4, np.clip(0.6 * points[1], -46, 46)
    axis[2] = np.copysign(np.float32(20), points[2])
    offset = points - axis
    radius = np.maximum(np.sqrt(np.einsum("in,in->n", offset, offset)), 1.0)
    stretch = (48 / radius) ** np.float32(0.75)
    radial = offset / radius
    return axis + offset * stretch, stretch, radial
