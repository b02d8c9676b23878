"""The chest around the heart phantom, in its short-axis plane: wall, lungs, diaphragm, upper abdomen, vessels, spine.

Up in the image is towards the anterior wall of the heart, left is towards the sternum, right towards the left back.
Coordinates are (z, y, x) in mm in the plane of the scene, from the centre of the left ventricle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.heart_space import column
from shiftbench.data.phantoms.heart_tissues import HEART_TISSUES
from shiftbench.data.phantoms.shapes import capsule, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import Tissue, vary


@dataclass(frozen=True)
class Scene:
    """Where the picture lies in the field of view: the centre of the heart (z, y, x), and its rotation (3, 3)."""

    centre: np.ndarray
    own: np.ndarray

    def at(self, z: float, y: float, x: float) -> np.ndarray:
        """Position (z, y, x) in the field of view of a point of the scene."""
        return self.centre + self.own @ np.array([z, y, x])

    def turn(self, z: float = 0.0, y: float = 0.0, x: float = 0.0) -> np.ndarray:
        """Rotation of a body that is turned by these angles within the scene."""
        return self.own @ rotation(z, y, x)


def scene(canvas: Canvas) -> Scene:
    """How the technologist placed the stack."""
    rng = canvas.draw("scene")
    shift = np.clip(rng.normal(0, (3, 21, 21)), (-6, -40, -40), (6, 40, 40))
    return Scene(shift + np.array([0, 2, 10]), rotation(float(np.clip(rng.normal(0, 16), -35, 35))))


@dataclass(frozen=True)
class Chest:
    """Tissue indices of the lung and of the fat behind the pericardium."""

    lung: int
    fat: int


def chest_wall(canvas: Canvas, where: Scene, habitus_mm: float, sex: str) -> Chest:
    """Skin to lung: subcutaneous fat, muscles, ribs and sternum; more habitus adds fat outside and nothing else."""
    rng = canvas.draw("chest wall")
    a, b = np.clip(rng.normal((91, 156), (6, 10)), (78, 136), (106, 178))
    muscle_mm = float(np.clip(rng.normal(11, 2), 7, 16))
    fat_mm = float(np.clip(rng.normal(10 if sex == "M" else 16, 5), 3, 32)) + habitus_mm
    centre = where.at(0, rng.normal(22, 6), rng.normal(6, 5))
    turn = where.turn(rng.normal(-8, 6), rng.normal(-12, 3), rng.normal(-4, 4))
    fat, muscle = canvas.add_of("chest_wall", "fat"), canvas.add_of("chest_wall", "muscle")
    lung = canvas.add_of("lung", "lung")
    box, outside = column(canvas.grid, centre, turn, (b, a), muscle_mm + fat_mm)
    for thickness, index in ((muscle_mm + fat_mm, fat), (muscle_mm, muscle), (0.0, lung)):
        canvas.fill(box, outside <= thickness, index)
    _bones(canvas, centre, turn, (a + muscle_mm / 2, b + muscle_mm / 2), (muscle, lung))
    return Chest(lung, canvas.add_of("mediastinum", "fat"))


def _bones(
    canvas: Canvas, centre: np.ndarray, turn: np.ndarray, radii: tuple[float, float], over: tuple[int, ...]
) -> None:
    """Ribs, cut across, at regular distances along the wall, and the sternum at its left."""
    rng = canvas.draw("bones")
    cortex, marrow = canvas.add_of("bone", "cortical_bone"), canvas.add_of("bone", "marrow")
    a, b = radii
    start = rng.uniform(-8, 8)
    ribs = [(start + step, 8.5, 4.0) for step in (-84, -66, -49, -33, -17, 0, 17, 33, 49, 66, 112, 128, 232, 248)]
    for degrees, long, thick in [*ribs, (180 + rng.normal(0, 5), 17.0, 6.0)]:
        angle = np.radians(degrees + rng.normal(0, 2))
        y, x = np.sin(angle), np.cos(angle)
        along = np.degrees(np.arctan2(b * np.cos(angle), -a * np.sin(angle)))
        place = centre + turn @ np.array([rng.uniform(-20, 20), b * y, a * x])
        lean = rng.normal(14, 4)
        for shrink, index in ((0.0, cortex), (1.6, marrow)):
            own = turn @ rotation(along, lean)
            box, out = ellipsoid(canvas.grid, place, (70, thick - shrink, long - shrink), own)
            canvas.fill_only(box, out <= 1, index, (*over, cortex))


def mediastinum(canvas: Canvas, where: Scene, chest: Chest) -> None:
    """Fat between heart and sternum and behind the heart, and branches of the pulmonary vessels in the lung."""
    rng = canvas.draw("mediastinum")
    blood = canvas.add_of("great_vessel", "blood_arterial")
    for z, y, x, tall, ry, rx in ((-4, -2, -74, 150, 60, 27), (48, 30, 22, 46, 38, 36)):
        place = where.at(z, y + rng.normal(0, 6), x + rng.normal(0, 4))
        turn = where.turn(rng.normal(-14, 6), rng.normal(-15, 2))
        size = np.exp(rng.normal(0, 0.12, 2))
        box, out = ellipsoid(canvas.grid, place, (tall, ry * size[0], rx * size[1]), turn)
        canvas.fill_only(box, out <= 1, chest.fat, [chest.lung])
    for _ in range(20):
        hilum = where.at(rng.uniform(10, 60), rng.uniform(-50, 30), rng.uniform(35, 60))
        away = where.at(rng.uniform(-60, 60), rng.uniform(-110, 40), rng.uniform(30, 95))
        radius = float(rng.uniform(1.6, 5.0))
        box, distance = capsule(canvas.grid, hilum, away, radius, 0.4 * radius)
        canvas.fill_only(box, distance <= 0, blood, [chest.lung])


def abdomen(canvas: Canvas, where: Scene, chest: Chest) -> None:
    """What lies under the diaphragm, higher towards the apex of the heart: liver dome, stomach, spleen, colon."""
    rng = canvas.draw("abdomen")
    diaphragm, fat = canvas.add_of("diaphragm", "muscle"), canvas.add_of("abdominal_fat", "fat")
    liver, spleen = canvas.add_of("liver_dome", "liver"), canvas.add_of("spleen", "spleen")
    vessel = canvas.add_of("great_vessel", "blood_mixed_venous")
    top = 47 + rng.normal(0, 6)
    tilt = rotation(rng.normal(4, 6), rng.normal(0, 5), rng.normal(-17, 5))
    turn = where.turn() @ tilt
    over = [chest.lung, chest.fat]
    box, outside = column(canvas.grid, where.at(0, top + 95, 4), turn, (95, 150))
    for depth, index in ((0.0, diaphragm), (3.0, fat)):
        canvas.fill_only(box, outside <= -depth, index, over)
        over = [diaphragm]
    place = where.at(0, top + rng.normal(72, 3), rng.normal(-42, 8))
    box, outside = column(canvas.grid, place, turn, (68, float(rng.normal(66, 6))))
    canvas.fill_only(box, outside <= 0, liver, [fat])
    for _ in range(4):
        start, end = (where.at(*rng.uniform((-60, top + 20, -85), (60, top + 75, 5))) for _ in range(2))
        box, distance = capsule(canvas.grid, start, end, rng.uniform(2.5, 6), 2.0)
        canvas.fill_only(box, distance <= 0, vessel, [liver])
    place = where.at(rng.normal(-10, 15), top + rng.normal(62, 5), rng.normal(84, 6))
    box, out = ellipsoid(canvas.grid, place, (70, 42, 24), where.turn(rng.normal(20, 10)))
    canvas.fill_only(box, out <= 1, spleen, [fat])
    _stomach(canvas, where, fat, top)


def _stomach(canvas: Canvas, where: Scene, fat: int, top: float) -> None:
    """A bag with a dark wall, and a bend of the colon; their contents may look like blood, or be gas."""
    rng = canvas.draw("stomach")
    for y, x, radii in ((34, 34, (48, 27, 34)), (62, 62, (40, 17, 20)), (88, 10, (60, 18, 20))):
        wall = canvas.add("stomach", vary(HEART_TISSUES["bowel_wall"], rng, times=0.1, hu=7.0))
        content = canvas.add("stomach", _meal(rng))
        place = where.at(rng.normal(-15, 15), top + y + rng.normal(0, 6), x + rng.normal(0, 9))
        size = np.array(radii) * np.exp(rng.normal(0, 0.15, 3))
        turn = where.turn(rng.normal(10, 15))
        over = [fat]
        for shrink, index in ((0.0, wall), (rng.uniform(3.5, 7), content)):
            box, out = ellipsoid(canvas.grid, place, size - shrink, turn)
            canvas.fill_only(box, out <= 1, index, over)
            over = [wall]


def _meal(rng: np.random.Generator) -> Tissue:
    """Contents of the stomach: gas, something as bright as blood, or anything from fatty to watery."""
    kind, spread, hu = rng.random(), rng.uniform(size=4), float(rng.uniform(0, 60))
    if kind < 0.25:
        return Tissue((1000, 1000), (100, 100), (3, 2), 0.03, (-800, -800, -800, -800), "gas")
    if kind < 0.6:
        return vary(HEART_TISSUES["blood_arterial"], rng, times=0.15, hu=12)
    t1 = float(400 * 6 ** spread[0])
    t2 = min(t1, float(40 * 5 ** spread[1]))
    t2star, pd = min(t2, float(20 + 40 * spread[2])), float(0.6 + 0.35 * spread[3])
    return Tissue((t1, 1.12 * t1), (t2, 0.94 * t2), (t2star, 0.75 * t2star), pd, (hu,) * 4, "a meal", adc=2.0)


def spine_and_aorta(canvas: Canvas, where: Scene) -> None:
    """The descending aorta beside a vertebra with its canal and muscles, lower in the image towards the apex."""
    rng = canvas.draw("spine")
    muscle, cortex = canvas.add_of("chest_wall", "muscle"), canvas.add_of("bone", "cortical_bone")
    marrow, csf = canvas.add_of("bone", "marrow"), canvas.add_of("bone", "csf")
    fat = canvas.add_of("mediastinum", "fat")
    wall, blood = canvas.add_of("aorta", "myocardium"), canvas.add_of("aorta", "blood_arterial")
    turn = where.turn(rng.normal(38, 8), 0, rng.normal(-14, 4))
    centre = where.at(0, 82 + rng.normal(0, 5), 72 + rng.normal(0, 4))
    for y, radii, inner in (
        (26, (18, 34), ((0.0, muscle),)),
        (0, (19, 22), ((0.0, cortex), (2.0, marrow))),
        (24, (11, 12), ((0.0, cortex), (3.0, csf))),
    ):
        box, outside = column(canvas.grid, centre + turn @ np.array([0, y, 0]), turn, radii)
        for depth, index in inner:
            canvas.fill_only(box, outside <= -depth, index, range(1, len(canvas.tissues)))
    radius = float(rng.uniform(9.5, 13))
    high, low = where.at(70, 30 + rng.normal(0, 4), 46 + rng.normal(0, 4)), where.at(-70, 74, 38 + rng.normal(0, 4))
    for thickness, index in ((4.5, fat), (1.5, wall), (0.0, blood)):
        box, distance = capsule(canvas.grid, high, low, radius + thickness, radius + thickness)
        canvas.fill(box, distance <= 0, index)
