"""Parts inside the brain: ventricles, deep grey matter, brainstem and cerebellum, as signed distances at points.

Points are float32 (3, n): (z, y, x) in mm, up, towards the back, towards the left, in the unwarped patient.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.brain_folds import Waves, capsule_mm, ellipsoid_mm

# start, end (z, y, distance from the middle) and radii of the parts of a lateral ventricle, in mm
LATERAL = (
    ((7, -33, 13.5), (15, -12, 6.5), 3.2, 4.0),  # frontal horn
    ((15, -12, 6.5), (22, 10, 9.5), 4.0, 4.6),  # body
    ((22, 10, 9.5), (15, 34, 19), 4.6, 6.4),
    ((15, 34, 19), (7, 43, 25), 6.4, 6.2),  # atrium
    ((7, 43, 25), (6, 63, 23), 5.0, 2.0),  # occipital horn
    ((7, 43, 25), (-11, 24, 33), 4.6, 2.6),  # temporal horn
    ((-11, 24, 33), (-20, 0, 32), 2.6, 1.8),
)
# name -> centre (z, y, distance from the middle), radii, and turn in the axial plane in degrees
NUCLEI = {
    "thalamus": ((6.5, 16, 11.2), (11.5, 16.5, 8.6), -24.0),
    "putamen": ((3, -2, 27.5), (13.5, 18.5, 5.9), -14.0),
    "pallidum": ((0, -1, 20.0), (8.0, 10.5, 4.0), -24.0),
    "caudate": ((10, -18, 14.6), (12.0, 11.0, 5.6), -18.0),
    "hippocampus": ((-20, -3, 25), (8.0, 8.5, 7.5), 0.0),  # its head and the amygdala
}
# nucleus -> (start, end (z, y, distance from the middle), radii) of the tubes that belong to it
TAILS = {
    "caudate": (((17, -10, 14.5), (23, 12, 18.5), 3.4, 2.8), ((23, 12, 18.5), (15, 30, 26.5), 2.8, 2.0)),
    "hippocampus": (((-20, 2, 26), (-14, 22, 28.5), 5.4, 4.4), ((-14, 22, 28.5), (-4, 32, 24), 4.4, 3.0)),
}


@dataclass(frozen=True)
class Inner:
    """Sizes of one patient's inner parts.

    Attributes:
        ventricle: factor of the ventricles' radii, per side (right, left), and of the third and fourth.
        widening_mm: what is added to the ventricles' radii beside.
        nuclei: factor of the nuclei's radii.
        shift: (n, 3) displacement of the nuclei in mm, in the order of `NUCLEI`.
        folia: field that bends the folia of the cerebellum.
        cerebellum: factor of its radii.
    """

    ventricle: tuple[float, float, float]
    widening_mm: float
    nuclei: float
    shift: np.ndarray
    folia: Waves
    cerebellum: float

    def ventricles_mm(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,) to lateral, third and fourth ventricle and the aqueduct, negative inside."""
        z, y, x = points
        folded = np.stack([z, y, np.abs(x)])
        right, left, middle = self.ventricle
        factor = np.where(x < 0, np.float32(right), np.float32(left))
        out = np.full(len(x), 1e3, np.float32)
        for start, end, radius, end_radius in LATERAL:
            tube = capsule_mm(folded, start, end, radius, end_radius)
            along = np.float32(0.5 * (radius + end_radius))
            np.minimum(out, tube + along - along * factor, out=out)
        np.maximum(out, 1.0 - folded[2], out=out)  # the septum
        third = ellipsoid_mm(points, (0, 8, 0), (12, 14, 2.2 * middle))
        fourth = ellipsoid_mm(points, (-37, 28, 0), (11, 4.0 * middle, 6.0 * middle))
        aqueduct = capsule_mm(points, (-8, 20, 0), (-28, 27, 0), 1.2 * middle, 1.4 * middle)
        out = np.minimum(np.minimum(out, third), np.minimum(fourth, aqueduct))
        return out - np.float32(self.widening_mm)

    def choroid_mm(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,) to the choroid plexus in bodies and atria, to be cut by the ventricles."""
        folded = np.stack([points[0], points[1], np.abs(points[2])])
        grown = 0.5 * (self.ventricle[0] + self.ventricle[1]) ** 0.7 + 0.3 * self.widening_mm
        body = capsule_mm(folded, (19, 2, 8.0), (13, 36, 19.5), 2.35 * grown, 3.2 * grown)
        glomus = ellipsoid_mm(folded, (8, 41, 23), (5.9 * grown, 5.9 * grown, 3.75 * grown))
        horn = capsule_mm(folded, (4, 38, 26.5), (-11, 24, 32), 2.6 * grown, 1.6 * grown)
        return np.minimum(np.minimum(body, glomus), horn)

    def nucleus_level(self, name: str, points: np.ndarray) -> np.ndarray:
        """Level function (n,) of a nucleus on both sides: below 1 inside."""
        centre, radii, degrees = NUCLEI[name]
        folded = np.stack([points[0], points[1], np.abs(points[2])])
        offset = folded - (np.asarray(centre) + self.shift[list(NUCLEI).index(name)]).astype(np.float32)[:, None]
        c, s = np.float32(np.cos(np.radians(degrees))), np.float32(np.sin(np.radians(degrees)))
        y, x = c * offset[1] - s * offset[2], s * offset[1] + c * offset[2]
        scale = 1 / (np.asarray(radii) * self.nuclei)
        level = (offset[0] * np.float32(scale[0])) ** 2
        level += (y * np.float32(scale[1])) ** 2 + (x * np.float32(scale[2])) ** 2
        for start, end, radius, end_radius in TAILS.get(name, ()):
            tail = capsule_mm(folded, start, end, radius * self.nuclei, end_radius * self.nuclei)
            np.minimum(level, 1 + tail, out=level)
        return level

    def nucleus_box(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Corners (z, y, distance from the middle) of a box in mm that holds a nucleus."""
        centre, radii, _ = NUCLEI[name]
        middle = np.asarray(centre) + self.shift[list(NUCLEI).index(name)]
        flat = np.array([radii[0], max(radii[1:]), max(radii[1:])]) * self.nuclei
        low, high = [middle - flat], [middle + flat]
        for start, end, *wide in TAILS.get(name, ()):
            low.append(np.minimum(start, end) - max(wide) * self.nuclei)
            high.append(np.maximum(start, end) + max(wide) * self.nuclei)
        return np.min(low, axis=0), np.max(high, axis=0)

    def brainstem_mm(self, points: np.ndarray) -> np.ndarray:
        """Signed distance (n,) to midbrain, pons and medulla."""
        out = ellipsoid_mm(points, (-36, 13, 0), (14, 13.5, 17))
        peduncle = capsule_mm(np.stack([points[0], points[1], np.abs(points[2])]), (-6, 8, 9), (-30, 12, 7), 7, 8)
        tectum = capsule_mm(points, (-8, 20, 0), (-30, 20, 0), 8.0, 9.0)
        medulla = capsule_mm(points, (-40, 17, 0), (-100, 34, 0), 9.5, 6.0)
        return np.minimum(np.minimum(out, peduncle), np.minimum(tectum, medulla))

    def cerebellum_mm(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Signed distance (n,) to the cerebellum, and depth (n,) of its cortex below the fluid between the folia."""
        folded = np.stack([points[0], points[1], np.abs(points[2])])
        f = self.cerebellum
        lobes = ellipsoid_mm(folded, (-40, 49, 22), (22 * f, 29 * f, 31 * f))
        vermis = ellipsoid_mm(points, (-36, 50, 0), (20 * f, 23 * f, 12 * f))
        hull = np.minimum(lobes, vermis)
        # folia lie around the fourth ventricle, one behind the other
        radius = np.sqrt((1.4 * (points[0] + 36)) ** 2 + (points[1] - 26) ** 2 + (0.35 * points[2]) ** 2)
        lamella = np.abs(np.sin((radius + 2.5 * self.folia.value(points)) * np.float32(np.pi / 6.0))) * np.float32(1.9)
        reach = 11 + 4.0 * self.folia.value(points[::-1])
        between = np.hypot(lamella, np.maximum(-hull - reach, 0)) - 0.35
        return hull, np.minimum(-hull, between)
