"""The size and shape of a patient's ventricles, as numbers: what disease and the phase of the beat make of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from shiftbench.data.phantoms.canvas import Canvas

ABOVE = 0.35  # height of the mitral plane above the centre of the endocardial ellipsoid, in semi-axes
FILLED = 2 / 3 + ABOVE - ABOVE**3 / 3  # volume below the mitral plane / (pi * radius**2 * semi-axis)
SHORTENING = 0.16  # of the long axis from end-diastole to end-systole, at an ejection fraction of 0.6
APICAL = 0.62  # thickness of the wall at the apex, relative to the base


@dataclass(frozen=True)
class Scar:
    """An infarct: where its centre is, how far it reaches, and what share of the wall's depth it takes."""

    angle: float  # from lateral (0) over anterior (pi / 2), in radians
    height: float  # of its centre, 0 at the apex and 1 at the mitral plane
    half_width: float  # radians
    half_height: float
    depth: float  # share of the thickness, from the endocardium
    thinning: float  # share of the thickness that is lost at the centre

    def outside(self, height: np.ndarray, lateral: np.ndarray, anterior: np.ndarray) -> np.ndarray:
        """Below 1 inside, growing as the squared relative distance from the centre; direction as a unit vector."""
        along = lateral * np.float32(np.cos(self.angle)) + anterior * np.float32(np.sin(self.angle))
        across = (1 - along) * np.float32(1 / (1 - np.cos(self.half_width)))
        return across + ((height - np.float32(self.height)) * np.float32(1 / self.half_height)) ** 2


@dataclass(frozen=True)
class Wall:
    """Relative thickness of the left ventricle's wall: thinner at the apex, uneven, thinner where it is scarred."""

    uneven: tuple[float, float, float, float]
    scar: Scar | None = None

    def relative(self, height: np.ndarray, lateral: np.ndarray, anterior: np.ndarray) -> np.ndarray:
        """Thickness (*s) at a height (0 apex, 1 mitral plane) in a direction (unit vector), about 1 at the base."""
        up = np.clip(height * np.float32(1 / 0.4), 0, 1)
        taper = np.float32(APICAL) + np.float32(1 - APICAL) * up * up * (3 - 2 * up)
        a, b, c, d = (np.float32(value) for value in self.uneven)
        thickness = taper * (1 + a * lateral + b * anterior + c * (2 * lateral**2 - 1) + d * lateral * anterior)
        if self.scar is not None:
            inner = np.clip(1.3 - self.scar.outside(height, lateral, anterior), 0, 1)
            thickness = thickness * (1 - np.float32(self.scar.thinning) * inner)
        return thickness


@dataclass(frozen=True)
class Ventricles:
    """The ventricles of a patient at one phase of the beat, lengths in mm.

    Attributes:
        length: of the left cavity, from the endocardial apex to the mitral plane.
        radius: of the left cavity where it is widest.
        thickness: of the left wall where `wall` is 1.
        wall: relative thickness.
        right_mm: width of the right cavity, from the septum to the free wall.
        right_wall_mm: thickness of its wall.
        atria: size of the atria, relative to end-diastole.
        wall_ml: volume of the left wall.
        diastolic_length: `length` at end-diastole.
    """

    length: float
    radius: float
    thickness: float
    wall: Wall
    right_mm: float
    right_wall_mm: float
    atria: float
    wall_ml: float
    diastolic_length: float

    @property
    def semi(self) -> float:
        """Semi-axis of the endocardial ellipsoid along the long axis."""
        return self.length / (1 + ABOVE)

    @property
    def outer(self) -> float:
        """Epicardial radius where the left ventricle is widest."""
        return self.radius + self.thickness


def ventricles(
    canvas: Canvas,
    population: Mapping[str, float],
    scale: float,
    sex: str,
    ejection_fraction: float,
    scar: Scar | None,
) -> Ventricles:
    """The ventricles of a patient in a population, at its phase of the beat, in a frame that is enlarged by `scale`.

    From end-diastole (phase 0) to end-systole (phase 1) the cavity loses its ejection fraction, the long axis shortens
    and the wall thickens so that its volume stays what it was.
    """
    rng = canvas.draw("ventricles")
    shift = rng.standard_normal(4).clip(-2.2, 2.2)
    uneven = 0.09 * rng.standard_normal(4).clip(-2, 2)
    male = sex == "M"
    dilation = population["dilation"]
    volume_ml = (148 if male else 120) * np.exp(0.17 * shift[0]) * dilation**2.5
    length = (79 + 5 * shift[1] if male else 73 + 5 * shift[1]) * dilation**0.5
    thickness = (9.6 if male else 8.4) * np.exp(0.12 * shift[2])
    thickness += population["wall_thickness_mm_added"] / scale
    wall = Wall((uneven[0], uneven[1], 0.7 * uneven[2], uneven[3]), scar)
    start = _with_volume(length, volume_ml, wall, right_mm=float(27 + 3.5 * shift[3]))
    wall_ml = float(np.polyval(_wall_ml(start), thickness))
    return _beaten(
        replace(start, thickness=float(thickness), wall_ml=wall_ml), volume_ml, population["phase"], ejection_fraction
    )


def _with_volume(length: float, volume_ml: float, wall: Wall, right_mm: float) -> Ventricles:
    semi = length / (1 + ABOVE)
    radius = float(np.sqrt(volume_ml * 1000 / (np.pi * semi * FILLED)))
    return Ventricles(float(length), radius, 0.0, wall, right_mm, 3.2, 1.0, 0.0, float(length))


def _beaten(start: Ventricles, volume_ml: float, phase: float, ejection_fraction: float) -> Ventricles:
    """The ventricles `start` (at end-diastole) at another phase, with the same volume of the wall."""
    if phase == 0:
        return start
    part = phase * ejection_fraction
    length = start.length * (1 - SHORTENING * part / 0.6)
    right = start.right_mm * (1 - 0.75 * part)
    now = _with_volume(length, volume_ml * (1 - part), start.wall, right)
    a, b, c, _ = _wall_ml(now)
    roots = np.roots((a, b, c, -start.wall_ml))
    thickness = float(roots[np.isreal(roots) & (roots.real > 0)].real.min())
    return replace(
        now,
        thickness=thickness,
        wall_ml=start.wall_ml,
        right_wall_mm=start.right_wall_mm * (1 + 0.6 * part),
        atria=1 + 0.3 * part,
        diastolic_length=start.length,
    )


def _wall_ml(shape: Ventricles) -> np.ndarray:
    """Coefficients (third to zeroth power) of the wall's volume in mL as a polynomial in its thickness in mm.

    A layer of thickness t on a surface with curvatures k1 and k2 has t + (k1 + k2) t**2 / 2 + k1 k2 t**3 / 3 per area
    (Steiner); integrated over the endocardial ellipsoid up to the mitral plane.
    """
    semi, radius = shape.semi, shape.radius
    top = np.arccos(-ABOVE)
    angle = (np.arange(48) + 0.5) / 48 * top
    around = np.arange(32) / 32 * 2 * np.pi
    speed = np.sqrt((semi * np.sin(angle)) ** 2 + (radius * np.cos(angle)) ** 2)
    area = radius * np.sin(angle) * speed * (top / 48) * (2 * np.pi / 32)
    along, across = semi * radius / speed**3, semi / (radius * speed)
    height = (semi - semi * np.cos(angle)) / shape.length
    t = shape.wall.relative(height[:, None], np.cos(around)[None], np.sin(around)[None])
    cubic = (area * along * across / 3) @ (t**3).sum(1)
    square = (area * (along + across) / 2) @ (t**2).sum(1)
    return np.array([cubic, square, area @ t.sum(1), 0.0]) / 1000
