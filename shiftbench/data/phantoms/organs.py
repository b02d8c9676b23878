"""Organs of the abdominal phantom: each draws its own numbers and paints its tissues on a canvas.

Coordinates are (z, y, x) in mm from the centre of the field of view: up, towards the back, towards the patient's left.
Every organ has a generator of its own, so that changing one moves no other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.canvas import JITTER, Canvas
from shiftbench.data.phantoms.shapes import Box, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, vary

FINE_LABELS = (
    "outside",
    "fat",
    "muscle",
    "bone",
    "spine",
    "bowel",
    "stomach",
    "pancreas",
    "gallbladder",
    "great_vessel",
    "liver",
    "hilum",
    "portal_vessel",
    "hepatic_vessel",
    "tumour",
    "spleen",
    "kidney",
)
TALL = 1e4  # a semi-axis that makes an ellipsoid a cylinder


@dataclass(frozen=True)
class Body:
    """What the organs need to know of the body: semi-axes of the cavity (mm), its mask and its fat."""

    a: float  # left-right
    b: float  # front-back
    level: float  # height of the liver's hilum in the field of view
    cavity: np.ndarray  # bool (*f), where organs may be
    subcutaneous: int  # tissue indices of the fat outside the muscles, the first tissue inside the skin,
    fat: int  # and of the visceral fat


def body_wall(canvas: Canvas, habitus_mm: float) -> Body:
    """Skin to cavity: subcutaneous fat, muscles, ribs, visceral fat; more habitus adds fat outside and nothing else."""
    rng = canvas.draw("body")
    a, b = np.clip(rng.normal((130, 84), (11, 8)), (105, 66), (152, 102))
    muscle_mm = float(np.clip(rng.normal(10, 2), 6, 15))
    fat_mm = float(np.clip(rng.normal(18, 7), 5, 38)) + habitus_mm
    level = float(np.clip(rng.normal(0, 10), -20, 20))
    subcutaneous, muscle = canvas.add_of("fat", "fat"), canvas.add_of("muscle", "muscle")
    visceral = canvas.add("fat", vary(TISSUES["fat"], canvas.draw("tissue visceral fat"), times=JITTER, hu=5))

    def ring(thickness: float, index: int, front: float = 1.0) -> tuple[Box, np.ndarray]:
        radii = (TALL, b + thickness * front, a + thickness)
        box, out = ellipsoid(canvas.grid, (0, 0, 0), radii, power=2.3)
        canvas.fill(box, out <= 1, index)
        return box, out

    ring(muscle_mm + fat_mm, subcutaneous, 0.85)
    ring(muscle_mm, muscle)
    _ribs(canvas, a + muscle_mm / 2, b + muscle_mm / 2)
    box, out = ring(0.0, visceral)
    cavity = np.zeros(canvas.grid.shape, bool)
    cavity[box] = out <= 0.97
    return Body(float(a), float(b), level, cavity, subcutaneous, visceral)


def _ribs(canvas: Canvas, a: float, b: float) -> None:
    rng = canvas.draw("ribs")
    cortex, marrow = canvas.add_of("bone", "cortical_bone"), canvas.add_of("bone", "marrow")
    height = rng.uniform(-15, 15)
    for side in (-1, 1):
        for i in range(8):
            angle = np.radians(-35 + 16 * i + rng.normal(0, 3))
            for step in (-48, 0, 48):
                z = height + step + 6 * i + rng.normal(0, 3)
                centre = (z, b * np.sin(angle), side * a * np.cos(angle))
                turn = rotation(np.degrees(np.arctan2(b * np.cos(angle), -side * a * np.sin(angle))))
                for radii, index in (((7, 13, 5.5), cortex), ((4.5, 11, 3.5), marrow)):
                    box, out = ellipsoid(canvas.grid, centre, (radii[0], radii[2], radii[1]), turn)
                    canvas.fill(box, out <= 1, index)


def spine(canvas: Canvas, body: Body) -> None:
    """Vertebra with canal and processes, paraspinal and psoas muscles."""
    rng = canvas.draw("spine")
    muscle, marrow = canvas.add_of("muscle", "muscle"), canvas.add_of("spine", "marrow")
    cortex, csf = canvas.add_of("spine", "cortical_bone"), canvas.add_of("spine", "csf")
    y, size = body.b - 42 + rng.normal(0, 3), rng.normal(1, 0.06)
    deep = range(body.subcutaneous + 1, 256)  # nothing of the spine reaches into the skin's fat
    for side in (-1, 1):
        for dy, dx, ry, rx in ((34.0, 32.0, 21.0, 30.0), (6.0, 33.0, 17.0, 13.0)):
            centre = (0, y + dy * size, side * (dx + rng.normal(0, 2)))
            box, out = ellipsoid(canvas.grid, centre, (TALL, ry * size, rx * size))
            canvas.fill_only(box, out <= 1, muscle, deep)
    for dy, dx, ry, rx, index in (
        (40, 0, 22, 5, cortex),
        (24, 0, 6, 34, cortex),
        (24, 0, 15, 17, cortex),
        (0, 0, 19, 23, cortex),
        (0, 0, 17, 21, marrow),
        (22, 0, 8.5, 10, csf),
    ):
        box, out = ellipsoid(canvas.grid, (0, y + dy * size, dx), (TALL, ry * size, rx * size), power=2.4)
        canvas.fill_only(box, out <= 1, index, deep)


def great_vessels(canvas: Canvas, body: Body) -> None:
    """Aorta and inferior vena cava in front of the spine."""
    rng = canvas.draw("great vessels")
    arterial, venous = canvas.add_of("great_vessel", "blood_arterial"), canvas.add_of("great_vessel", "blood_venous")
    y = body.b - 42 - 30
    aorta, cava = rng.uniform(8.5, 12), rng.uniform(9, 13)
    for x, ry, rx, index in ((9, aorta, aorta, arterial), (-20, cava * 0.75, cava * 1.15, venous)):
        box, out = ellipsoid(canvas.grid, (0, y + rng.normal(0, 2), x + rng.normal(0, 3)), (TALL, ry, rx))
        canvas.fill(box, out <= 1, index)


def spleen(canvas: Canvas, body: Body) -> None:
    """An elongated, bent organ under the left posterior wall."""
    rng = canvas.draw("spleen")
    index = canvas.add_of("spleen", "spleen")
    scale = float(np.exp(rng.normal(0, 0.14)))
    centre = np.array([body.level + 18, 0.28 * body.b, 0.74 * body.a]) + rng.normal(0, (12, 7, 5))
    radii = np.array([48, 44, 23]) * scale * np.exp(rng.normal(0, 0.08, 3))
    box, out = ellipsoid(canvas.grid, centre, radii, rotation(rng.normal(22, 9), rng.normal(0, 8), rng.normal(15, 8)))
    inside = (out <= 1) & body.cavity[box]
    dent = centre + np.array([0, -14, -34]) * scale + rng.normal(0, 3, 3)
    hollow, level = ellipsoid(canvas.grid, dent, (60, 30 * scale, 24 * scale))
    mask = np.zeros(canvas.grid.shape, bool)
    mask[box] = inside
    mask[hollow] &= level > 1
    canvas.fill(box, mask[box], index)


def kidneys(canvas: Canvas, body: Body) -> None:
    """Two kidneys in perirenal fat, each with cortex, medullary pyramids and a fatty sinus."""
    cortex, medulla = canvas.add_of("kidney", "kidney_cortex"), canvas.add_of("kidney", "kidney_medulla")
    for side, name in ((-1, "right kidney"), (1, "left kidney")):
        rng = canvas.draw(name)
        scale = float(np.exp(rng.normal(0, 0.10)))
        centre = np.array([body.level - 22 + 8 * side, 0.50 * body.b, side * (62 + 0.06 * (body.a - 130))])
        centre = centre + rng.normal(0, (12, 6, 6))
        turn = rotation(side * rng.normal(-25, 10), 0, rng.normal(-8, 5))
        radii = np.array([52, 30, 25]) * scale * np.exp(rng.normal(0, 0.06, 3))
        box, out = ellipsoid(canvas.grid, centre, radii + rng.uniform(1.5, 7), turn)
        canvas.fill(box, (out <= 1) & body.cavity[box], body.fat)
        box, out = ellipsoid(canvas.grid, centre, radii, turn)
        canvas.fill(box, out <= 1, cortex)
        for _ in range(14):
            z, angle = rng.uniform(-0.62, 0.62), rng.uniform(0, 2 * np.pi)
            local = np.array([z, 0.55 * np.sin(angle), 0.55 * np.cos(angle)]) * radii
            size = rng.uniform(6, 9.5) * scale
            box, out = ellipsoid(canvas.grid, centre + turn @ local, (size, size, size))
            canvas.fill_only(box, out <= 1, medulla, [cortex])
        hilum = centre + turn @ (np.array([0, -0.2, -side * 0.62]) * radii)
        box, out = ellipsoid(canvas.grid, hilum, np.array([24, 10, 13]) * scale, turn)
        canvas.fill_only(box, out <= 1, body.fat, [cortex, medulla])
