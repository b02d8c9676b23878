"""The liver of the abdominal phantom: two lobes, the porta hepatis, the portal tree and the hepatic veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.organs import Body
from shiftbench.data.phantoms.shapes import capsule, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, Tissue, mix


@dataclass(frozen=True)
class Liver:
    """Tissue indices of the parenchyma and of all parts of the liver, and the properties of its parenchyma."""

    parenchyma: int
    parts: tuple[int, ...]
    tissue: Tissue


def liver(canvas: Canvas, body: Body) -> Liver:
    """Right and left lobe, the porta hepatis, the portal tree and the hepatic veins."""
    rng = canvas.draw("liver")
    parenchyma = canvas.add_of("liver", "liver")
    scale = float(np.exp(rng.normal(0, 0.08)))
    right = np.array([body.level + 8, 0.02 * body.b, -0.54 * body.a]) + rng.normal(0, (8, 5, 5))
    left = np.array([body.level + 22, -0.52 * body.b, -0.02 * body.a]) + rng.normal(0, (9, 5, 10))
    lobes = (
        (right, np.array([72, 0.80 * body.b, 0.50 * body.a]), rotation(rng.normal(-10, 7), rng.normal(0, 6))),
        (left, np.array([46, 0.40 * body.b, 0.50 * body.a]), rotation(rng.normal(-8, 7), rng.normal(-8, 6))),
    )
    mask = np.zeros(canvas.grid.shape, bool)
    for centre, radii, turn in lobes:
        box, out = ellipsoid(canvas.grid, centre, radii * scale * np.exp(rng.normal(0, 0.06, 3)), turn)
        mask[box] |= (out <= 1) & body.cavity[box]
    everywhere = (slice(None),) * 3
    canvas.fill(everywhere, mask, parenchyma)
    porta = np.array([body.level - 2, -0.14 * body.b, -0.26 * body.a]) + rng.normal(0, (5, 4, 5))
    hilum = _hilum(canvas, porta, scale, parenchyma)
    portal = canvas.add_of("portal_vessel", "blood_portal")
    in_hilum = canvas.add("hilum", canvas.tissues[portal])
    hepatic = canvas.add_of("hepatic_vessel", "blood_venous")
    _portal_tree(canvas, porta, {parenchyma: portal, hilum: in_hilum})
    _hepatic_veins(canvas, body, {parenchyma: hepatic})
    return Liver(parenchyma, (parenchyma, hilum, portal, in_hilum, hepatic), canvas.tissues[parenchyma])


def _hilum(canvas: Canvas, porta: np.ndarray, scale: float, parenchyma: int) -> int:
    """Connective tissue, fat and small vessels around the porta hepatis, as one mixture."""
    rng = canvas.draw("hilum")
    fat = rng.uniform(0.3, 0.55)
    parts = ((canvas.tissues[parenchyma], 0.8 - fat), (TISSUES["fat"], fat), (TISSUES["blood_portal"], 0.2))
    index = canvas.add("hilum", mix(parts, "liver, fat and blood in one voxel"))
    radii = np.array([36, 28, 39]) * scale * np.exp(rng.normal(0, 0.08, 3))
    box, out = ellipsoid(canvas.grid, porta, radii, rotation(rng.normal(-15, 8)))
    canvas.fill_only(box, out <= 1, index, [parenchyma])
    return index


def _portal_tree(canvas: Canvas, porta: np.ndarray, paint: dict[int, int]) -> None:
    rng = canvas.draw("portal tree")
    trunk = porta + np.array([-22, 14, 26]) + rng.normal(0, 4, 3)
    _tube(canvas, trunk, porta, 8.5, 8.5, paint)
    for direction in ((0.25, 0.25, -1.0), (0.35, -0.75, 0.75)):
        _branch(canvas, porta, _unit(np.array(direction) + rng.normal(0, 0.12, 3)), 7.4, 5, paint, rng)


def _hepatic_veins(canvas: Canvas, body: Body, paint: dict[int, int]) -> None:
    rng = canvas.draw("hepatic veins")
    start = np.array([body.level + 46, 0.30 * body.b, -0.20 * body.a]) + rng.normal(0, 4, 3)
    for direction in ((-0.45, 0.05, -1.0), (-0.6, -0.7, -0.5), (-0.35, -1.0, 0.35)):
        _branch(canvas, start, _unit(np.array(direction) + rng.normal(0, 0.1, 3)), 6.5, 4, paint, rng)


def _branch(
    canvas: Canvas,
    start: np.ndarray,
    direction: np.ndarray,
    radius: float,
    generations: int,
    paint: dict[int, int],
    rng: np.random.Generator,
) -> None:
    """One vessel and, at its end, its two children with 0.78 to 0.90 of its radius."""
    end = start + direction * radius * rng.uniform(3.2, 4.4)
    shrink = rng.uniform(0.78, 0.90, 2)
    _tube(canvas, start, end, radius, radius * float(shrink.max()), paint)
    if generations == 0:
        return
    side = _unit(np.cross(direction, rng.standard_normal(3)))
    for sign, ratio in zip((1, -1), shrink, strict=True):
        angle = np.radians(rng.uniform(22, 42))
        turned = _unit(direction * np.cos(angle) + sign * side * np.sin(angle))
        _branch(canvas, end, turned, radius * float(ratio), generations - 1, paint, rng)


def _tube(
    canvas: Canvas, start: np.ndarray, end: np.ndarray, radius: float, end_radius: float, paint: dict[int, int]
) -> None:
    box, distance = capsule(canvas.grid, start, end, radius, end_radius)
    for over, index in paint.items():
        canvas.fill_only(box, distance <= 0, index, [over])


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)
