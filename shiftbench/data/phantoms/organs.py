"""Organs of the abdominal phantom: each draws its own numbers and paints its tissues on a canvas.

Coordinates are (z, y, x) in mm from the centre of the field of view: up, towards the back, towards the patient's left.
Every organ has a generator of its own, so that changing one moves no other.
"""

from __future__ import annotations

import numpy as np

from shiftbench.data.phantoms.body import Body
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import capsule, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, vary
from shiftbench.data.phantoms.traits import KIDNEY_SIZE, PANCREAS_SIZE, Patient


def spleen(canvas: Canvas, body: Body) -> None:
    """An elongated, bent organ under the left posterior wall."""
    rng = canvas.draw("spleen")
    index = canvas.add_of("spleen", "spleen")
    scale = float(np.exp(rng.normal(0, 0.14)))
    centre = np.array([body.level + 18, 0.28 * body.b, 0.74 * body.a]) + rng.normal(0, (12, 7, 5))
    radii = np.array([48, 44, 23]) * scale * np.exp(rng.normal(0, 0.08, 3))
    box, out = ellipsoid(canvas.grid, centre, radii, rotation(rng.normal(22, 9), rng.normal(0, 8), rng.normal(15, 8)))
    dent = centre + np.array([0, -14, -34]) * scale + rng.normal(0, 3, 3)
    hollow, level = ellipsoid(canvas.grid, dent, (60, 30 * scale, 24 * scale))
    mask = np.zeros(canvas.grid.shape, bool)
    mask[box] = (out <= 1) & body.cavity[box]
    mask[hollow] &= level > 1
    canvas.fill(box, mask[box], index)


def pancreas(canvas: Canvas, body: Body, patient: Patient) -> int:
    """A bent bar across the midline in front of the great vessels; returns its tissue index."""
    rng = canvas.draw("pancreas")
    index = canvas.add("pancreas", patient.pancreas(canvas.varied("pancreas")))
    z, y = body.level - 8 + rng.normal(0, 6), 0.06 * body.b + rng.normal(0, 5)
    points = np.array([[z - 18, y + 6, -26], [z, y - 8, -4], [z + 8, y - 4, 26], [z + 20, y + 8, 58]])
    points = points + rng.normal(0, 3, points.shape)
    radii = np.array([18, 14, 13, 11]) * np.exp(rng.normal(0, 0.12, 4)) * patient.sized(PANCREAS_SIZE)
    for i in range(3):
        box, distance = capsule(canvas.grid, points[i], points[i + 1], radii[i], radii[i + 1])
        canvas.fill(box, (distance <= 0) & body.cavity[box], index)
    return index


def gallbladder(canvas: Canvas, body: Body) -> None:
    """A pear of bile at the lower surface of the right lobe; one patient in eight has none."""
    rng = canvas.draw("gallbladder")
    absent = rng.random() < 0.125
    bile = canvas.add("gallbladder", vary(TISSUES["bile"], rng, times=0.35, hu=5))
    centre = np.array([body.level - 34, -0.36 * body.b, -0.40 * body.a]) + rng.normal(0, (8, 6, 8))
    radii = np.array([26, 14, 13]) * np.exp(rng.normal(0, 0.15, 3))
    if absent:
        return
    box, out = ellipsoid(canvas.grid, centre, radii, rotation(rng.normal(0, 15), 0, rng.normal(20, 10)))
    canvas.fill(box, (out <= 1) & body.cavity[box], bile)


def kidneys(canvas: Canvas, body: Body, patient: Patient) -> None:
    """Two kidneys in perirenal fat, each with cortex, medullary pyramids and a sinus of fat with the renal pelvis."""
    cortex = canvas.add_of("kidney_cortex", "kidney_cortex")
    medulla = canvas.add_of("kidney_medulla", "kidney_medulla")
    sinus, pelvis = canvas.add("renal_sinus", canvas.tissues[body.fat]), canvas.add_of("renal_sinus", "urine")
    for side, name in ((-1, "right kidney"), (1, "left kidney")):
        rng = canvas.draw(name)
        scale = float(np.exp(rng.normal(0, 0.10))) * patient.sized(KIDNEY_SIZE, 0.02)
        centre = np.array([body.level - 22 + 8 * side, 0.50 * body.b, side * (62 + 0.06 * (body.a - 130))])
        centre = centre + rng.normal(0, (12, 6, 6))
        turn = rotation(side * rng.normal(-25, 10), 0, rng.normal(-8, 5))
        radii = np.array([52, 30, 25]) * scale * np.exp(rng.normal(0, 0.06, 3))
        box, out = ellipsoid(canvas.grid, centre, radii + rng.uniform(1.5, 7), turn)
        canvas.fill(box, (out <= 1) & body.cavity[box], body.fat)
        box, out = ellipsoid(canvas.grid, centre, radii, turn)
        canvas.fill(box, out <= 1, cortex)
        _pyramids(canvas, centre, radii, turn, {cortex: medulla}, rng)
        hilum = centre + turn @ (np.array([0, -0.2, -side * 0.62]) * radii)
        for size, index in ((1.0, sinus), (0.45, pelvis)):
            box, out = ellipsoid(canvas.grid, hilum, np.array([24, 10, 13]) * scale * size, turn)
            canvas.fill_only(box, out <= 1, index, [cortex, medulla, sinus])


def _pyramids(
    canvas: Canvas,
    centre: np.ndarray,
    radii: np.ndarray,
    turn: np.ndarray,
    paint: dict[int, int],
    rng: np.random.Generator,
) -> None:
    """Medullary pyramids in five rows from pole to pole, their bases towards the cortex, which dips between them."""
    for row in (-0.66, -0.36, 0.0, 0.36, 0.66):
        ring = 0.56 * np.sqrt(1 - row**2)
        angles = np.arange(0, 2 * np.pi, 2 * np.pi / 6) + rng.uniform(0, 1) + rng.normal(0, 0.08, 6)
        scale = radii[1] / 30 * rng.uniform(0.85, 1.15, 6)
        local = np.stack([np.full(6, row), ring * np.sin(angles), ring * np.cos(angles)], axis=1) * radii
        for middle, angle, k in zip(centre + local @ turn.T, angles, scale, strict=True):
            if canvas.grid.at_height(middle[0], 9 * k):
                along = rotation(np.degrees(np.arctan2(np.cos(angle) * radii[2], np.sin(angle) * radii[1])))
                box, out = ellipsoid(canvas.grid, middle, np.array([6.5, 9.0, 5.5]) * k, turn @ along)
                for over, index in paint.items():
                    canvas.fill_only(box, out <= 1, index, [over])
