"""The head around the brain: scalp, skull, meninges, orbits and face; painted before the brain, from the outside in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.brain_folds import Surface, Waves, capsule_mm, ellipsoid_mm, joined
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import ellipsoid

# centre (z, y, distance from the middle) and radii of the air in the face, in mm
SINUSES = (
    ((-50, -66, 4.5), (22, 26, 3.2)),
    ((-56, -60, 27), (15, 13, 11)),
    ((-30, -36, 6), (8, 11, 6)),
    ((-32, -62, 9), (9, 15, 4)),
)


@dataclass(frozen=True)
class Head:
    """Thicknesses of one patient's head in mm, and the field that mottles muscle with fat.

    Attributes:
        fluid: cerebrospinal fluid between skull and a young brain.
        tables: of the inner and outer table of the skull.
        diploe: of the marrow between them.
        scalp: of fat and skin.
        face: factor of the face's radii.
        planes: field of the fat between the muscles.
    """

    fluid: float
    tables: tuple[float, float]
    diploe: float
    scalp: float
    face: float
    planes: Waves

    @property
    def skull(self) -> float:
        """Thickness of the vault."""
        return sum(self.tables) + self.diploe


def skull_and_scalp(
    canvas: Canvas, index: Mapping[str, int], surface: Surface, head: Head
) -> tuple[np.ndarray, np.ndarray]:
    """Paints the head up to the fluid around the brain.

    Returns:
        Which voxels, counted through the grid, are inside the skull (n,), and `Surface.hull_mm` of them.
    """
    points = canvas.grid.where.reshape(3, -1)
    hull = surface.hull_mm(points)
    inside = _inside_skull_mm(points, hull, head)
    face = _face_mm(points, head)
    out = np.zeros(points.shape[1], np.uint8)
    inner, outer = head.tables
    vault = inside - np.float32(head.skull)
    skin = joined(vault - np.float32(head.scalp), face, 8.0)
    out[skin < 0] = index["fat"]
    deep = np.flatnonzero((face < -4) & (vault > 0))
    fatty = head.planes.value(points[:, deep]) > 0.75
    out[deep] = np.where(fatty, index["fat"], index["muscle"])
    np.copyto(out, np.uint8(index["cortical_bone"]), where=vault < 0)
    np.copyto(out, np.uint8(index["marrow"]), where=(inside > inner) & (inside < inner + head.diploe))
    canvas.tissue[...] = out.reshape(canvas.grid.shape)
    _face_parts(canvas, index, head)
    fluid = np.flatnonzero(inside < 0)
    canvas.tissue.reshape(-1)[fluid] = index["csf"]
    return fluid, hull[fluid]


def _inside_skull_mm(points: np.ndarray, hull: np.ndarray, head: Head) -> np.ndarray:
    fossa = ellipsoid_mm(points, (-40, 43, 0), (26, 39, 56))
    canal = capsule_mm(points, (-40, 17, 0), (-110, 36, 0), 17.0, 10.0)
    return joined(np.minimum(hull - np.float32(head.fluid), fossa), canal, 6.0)


def _face_mm(points: np.ndarray, head: Head) -> np.ndarray:
    f = head.face
    face = ellipsoid_mm(points, (-52, -28, 0), (70 * f, 70 * f, 62 * f))
    neck = capsule_mm(points, (-55, 20, 0), (-150, 20, 0), 64 * f, 56 * f)
    return joined(face, neck, 15.0)


def _face_parts(canvas: Canvas, index: Mapping[str, int], head: Head) -> None:
    """Temporal muscles, sinuses, orbits with eyes; never through the inner table of the skull."""
    soft = [index["fat"], index["muscle"]]
    for side in (-1, 1):
        for centre, radii, name, over in (
            ((-14, -28, 68), (34, 36, 10), "muscle", soft),
            ((-30, -58, 27), (15, 25, 16), "fat", [*soft, index["marrow"]]),
            ((-30, -74, 29.5), (12.2, 12.2, 12.2), "eye", soft),
            ((-30, -84, 29.5), (2.2, 1.6, 4.4), "muscle", [index["eye"]]),
            *((c, r, "air", soft) for c, r in SINUSES),
        ):
            z, y, x = centre
            box, level = ellipsoid(canvas.grid, (z, y, side * x), np.asarray(radii) * head.face)
            canvas.fill_only(box, level <= 1, index[name], over)
