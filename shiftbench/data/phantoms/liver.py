"""The liver of the abdominal phantom: two lobes, the porta hepatis, the portal tree and the hepatic veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.body import Body
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, Tissue, mix
from shiftbench.data.phantoms.traits import LIVER_LOG_SD, LIVER_SIZE, Patient
from shiftbench.data.phantoms.vessels import Paint, cava_course, tree, tube, unit


@dataclass(frozen=True)
class Lobe:
    """An ellipsoid: centre (z, y, x) and semi-axes in mm, and its rotation (3, 3)."""

    centre: np.ndarray
    radii: np.ndarray
    turn: np.ndarray


@dataclass(frozen=True)
class Liver:
    """Tissue indices of all parts of the liver, its parenchyma with and without diffuse disease, and its shape.

    The lobes are those of a liver of average size for this patient, so that a lesion stays where it is in a larger one.
    """

    parts: tuple[int, ...]
    tissue: Tissue
    healthy: Tissue
    lobes: tuple[Lobe, Lobe]
    porta: np.ndarray


def liver(canvas: Canvas, body: Body, patient: Patient) -> Liver:
    """Right and left lobe, the porta hepatis, the portal tree and the hepatic veins."""
    rng = canvas.draw("liver")
    healthy = canvas.varied("liver")
    parenchyma = canvas.add("liver", patient.liver(healthy))
    scale = float(np.exp(rng.normal(0, LIVER_LOG_SD))) * patient.sized(LIVER_SIZE, 0.02)
    lobes = _lobes(body, scale, rng)
    larger = float(np.exp(LIVER_LOG_SD * patient.population["liver_z"]))
    mask = np.zeros(canvas.grid.shape, bool)
    for lobe in lobes:
        box, out = ellipsoid(canvas.grid, lobe.centre, lobe.radii * larger, lobe.turn)
        mask[box] |= (out <= 1) & body.cavity[box]
    everywhere = (slice(None),) * 3
    canvas.fill(everywhere, mask, parenchyma)
    porta = np.array([body.level - 2, -0.14 * body.b, -0.26 * body.a]) + rng.normal(0, (5, 4, 5))
    hilum = _hilum(canvas, porta, scale * larger, parenchyma)
    portal = canvas.add_of("portal_vessel", "blood_portal")
    in_hilum = canvas.add("hilum", canvas.tissues[portal])
    hepatic = canvas.add_of("hepatic_vessel", "blood_venous")
    _portal_tree(canvas, porta, {parenchyma: portal, hilum: in_hilum})
    _hepatic_veins(canvas, body, {parenchyma: hepatic})
    parts = (parenchyma, hilum, portal, in_hilum, hepatic)
    return Liver(parts, canvas.tissues[parenchyma], healthy, lobes, porta)


def _lobes(body: Body, scale: float, rng: np.random.Generator) -> tuple[Lobe, Lobe]:
    right = np.array([body.level + 8, 0.02 * body.b, -0.54 * body.a]) + rng.normal(0, (8, 5, 5))
    left = np.array([body.level + 22, -0.52 * body.b, -0.02 * body.a]) + rng.normal(0, (9, 5, 10))
    sizes = (np.array([72, 0.80 * body.b, 0.50 * body.a]), np.array([46, 0.40 * body.b, 0.50 * body.a]))
    turns = (
        rotation(rng.normal(-10, 7), rng.normal(0, 6)),
        rotation(rng.normal(-8, 7), rng.normal(-8, 6)),
    )
    shapes = [size * scale * np.exp(rng.normal(0, 0.06, 3)) for size in sizes]
    return Lobe(right, shapes[0], turns[0]), Lobe(left, shapes[1], turns[1])


def _hilum(canvas: Canvas, porta: np.ndarray, scale: float, parenchyma: int) -> int:
    """Connective tissue, fat and small vessels around the porta hepatis, as one mixture."""
    rng = canvas.draw("hilum")
    fat = rng.uniform(0.3, 0.55)
    parts = ((canvas.tissues[parenchyma], 0.8 - fat), (TISSUES["fat"], fat), (TISSUES["blood_portal"], 0.2))
    index = canvas.add("hilum", mix(parts, "liver, fat and blood in one voxel"))
    radii = np.array([40.5, 32, 44]) * scale * np.exp(rng.normal(0, 0.08, 3))
    box, out = ellipsoid(canvas.grid, porta, radii, rotation(rng.normal(-15, 8)))
    canvas.fill_only(box, out <= 1, index, [parenchyma])
    return index


def _portal_tree(canvas: Canvas, porta: np.ndarray, paint: Paint) -> None:
    rng = canvas.draw("portal tree")
    trunk = porta + np.array([-22, 14, 26]) + rng.normal(0, 4, 3)
    tube(canvas, (trunk, porta), (8.5, 8.5), paint)
    directions = np.array([(0.55, -0.1, -0.9), (-0.45, 0.35, -0.9), (0.35, -0.75, 0.75)])
    tree(canvas, porta, unit(directions + rng.normal(0, 0.12, (3, 3))), 8.2, 5, paint, rng)


def _hepatic_veins(canvas: Canvas, body: Body, paint: Paint) -> None:
    rng = canvas.draw("hepatic veins")
    cava = cava_course(canvas, body)[0]
    directions = np.array([(-0.45, 0.05, -1.0), (-0.6, -0.7, -0.5), (-0.35, -1.0, 0.35)])
    # from where the cava nearly reaches the diaphragm; and the inferior right vein, lower down
    tree(canvas, cava[2], unit(directions + rng.normal(0, 0.1, (3, 3))), 7.4, 5, paint, rng)
    tree(canvas, cava[1], unit(np.array([(-0.25, -0.15, -1.0)]) + rng.normal(0, 0.1, (1, 3))), 6.0, 4, paint, rng)
