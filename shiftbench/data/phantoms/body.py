"""The trunk of the abdominal phantom: skin, fat, muscles, ribs, and the cavity in which the organs lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.canvas import JITTER, Canvas
from shiftbench.data.phantoms.shapes import Box, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, vary
from shiftbench.data.phantoms.traits import MUSCLE_SIZE, Patient

TALL = 1e4  # a semi-axis that makes an ellipsoid a cylinder
SKIN_MM = 2.0


@dataclass(frozen=True)
class Body:
    """What the organs need to know of the body: semi-axes of the cavity (mm), its mask and its fat."""

    a: float  # left-right
    b: float  # front-back
    level: float  # height of the liver's hilum in the field of view
    cavity: np.ndarray  # bool (*f), where organs may be
    subcutaneous: int  # tissue indices of the fat outside the muscles, the first tissue inside the skin,
    fat: int  # and of the visceral fat


def body_wall(canvas: Canvas, patient: Patient) -> Body:
    """Skin to cavity: subcutaneous fat, muscles, ribs, visceral fat; more habitus adds fat outside and nothing else."""
    rng = canvas.draw("body")
    a, b = np.clip(rng.normal((130, 84), (11, 8)) * (1.02 if patient.male else 0.98), (105, 66), (152, 102))
    muscle_mm = float(np.clip(rng.normal(10, 2), 6, 15)) * patient.sized(MUSCLE_SIZE, 0.05)
    fat_mm = float(np.clip(rng.normal(16 if patient.male else 20, 6), 5, 38)) + patient.population["habitus_mm"]
    level = float(np.clip(rng.normal(0, 10), -20, 20))
    skin, subcutaneous = canvas.add_of("skin", "skin"), canvas.add_of("fat", "fat")
    muscle = canvas.add("muscle", patient.muscle(canvas.varied("muscle")))
    visceral = canvas.add("fat", vary(TISSUES["fat"], canvas.draw("tissue visceral fat"), times=JITTER, hu=5))

    def ring(thickness: float, index: int, front: float = 1.0) -> tuple[Box, np.ndarray]:
        radii = (TALL, b + thickness * front, a + thickness)
        box, out = ellipsoid(canvas.grid, (0, 0, 0), radii, power=2.3)
        canvas.fill(box, out <= 1, index)
        return box, out

    ring(muscle_mm + fat_mm + SKIN_MM, skin, 0.85)
    ring(muscle_mm + fat_mm, subcutaneous, 0.85)
    ring(muscle_mm, muscle)
    _ribs(canvas, a + muscle_mm / 2, b + muscle_mm / 2, patient)
    box, out = ring(0.0, visceral)
    cavity = np.zeros(canvas.grid.shape, bool)
    cavity[box] = out <= 0.97
    return Body(float(a), float(b), level, cavity, subcutaneous, visceral)


def _ribs(canvas: Canvas, a: float, b: float, patient: Patient) -> None:
    """Eight pairs of ribs in an ellipse of semi-axes `a` and `b` (mm), three pieces each."""
    rng = canvas.draw("ribs")
    cortex = canvas.add_of("bone", "cortical_bone")
    marrow = canvas.add("bone", patient.marrow(canvas.varied("marrow")))
    height = rng.uniform(-15, 15)
    bend, shift = rng.normal(0, 3, (2, 8)), rng.normal(0, 3, (2, 8, 3))
    for side, angles, heights in zip((-1, 1), bend, shift, strict=True):
        for i in range(8):
            angle = np.radians(-35 + 16 * i + angles[i])
            for step, moved in zip((-48, 0, 48), heights[i], strict=True):
                z = height + step + 6 * i + moved
                if not canvas.grid.at_height(z, 7):
                    continue
                centre = (z, b * np.sin(angle), side * a * np.cos(angle))
                turn = rotation(np.degrees(np.arctan2(b * np.cos(angle), -side * a * np.sin(angle))))
                for radii, index in (((7, 5.5, 13), cortex), ((4.5, 3.5, 11), marrow)):
                    box, out = ellipsoid(canvas.grid, centre, radii, turn)
                    canvas.fill(box, out <= 1, index)
