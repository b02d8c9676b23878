"""Parts of the abdominal phantom that are not segmented but may look as if: stomach, bowel, pancreas, gallbladder."""

from __future__ import annotations

import numpy as np

from shiftbench.data.phantoms.canvas import JITTER_HU, Canvas
from shiftbench.data.phantoms.organs import Body
from shiftbench.data.phantoms.shapes import capsule, ellipsoid, rotation
from shiftbench.data.phantoms.tissues import TISSUES, Tissue, vary

MIMICS = ("liver", "spleen", "kidney_cortex", "tumour")  # bowel of the same contrast as what is segmented
GAS = Tissue((1000, 1000), (100, 100), (3, 2), 0.03, (-800, -800, -800, -800), "gas")


def stomach(canvas: Canvas, body: Body) -> None:
    """A bag with wall and contents between the left lobe of the liver and the spleen."""
    rng = canvas.draw("stomach")
    wall = canvas.add("stomach", vary(TISSUES["bowel_wall"], rng, times=0.1, hu=JITTER_HU))
    content = canvas.add("stomach", _meal(rng))
    centre = np.array([body.level + 14, -0.22 * body.b, 0.42 * body.a]) + rng.normal(0, (8, 7, 7))
    radii = np.array([40, 30, 36]) * np.exp(rng.normal(0, 0.15, 3))
    turn = rotation(rng.normal(25, 12))
    for shrink, index in ((0.0, wall), (rng.uniform(3.5, 6.0), content)):
        box, out = ellipsoid(canvas.grid, centre, radii - shrink, turn)
        canvas.fill(box, (out <= 1) & body.cavity[box], index)


def bowel(canvas: Canvas, body: Body, loops: int = 22) -> None:
    """Loops of bowel in the fat, and the colon at both flanks; wall and contents differ from loop to loop."""
    for i in range(loops + 2):
        rng = canvas.draw(f"bowel {i}")
        wall = canvas.add("bowel", vary(TISSUES["bowel_wall"], rng, times=0.12, hu=JITTER_HU))
        content = canvas.add("bowel", _meal(rng))
        points, radius = _colon(body, rng, -1 if i == loops else 1) if i >= loops else _loop(body, rng)
        thickness = rng.uniform(2.0, 4.0)
        for shrink, index in ((0.0, wall), (thickness, content)):
            for start, end in zip(points[:-1], points[1:], strict=True):
                box, distance = capsule(canvas.grid, start, end, radius - shrink, radius - shrink)
                over = (body.fat, wall) if index == wall else (wall,)
                canvas.fill_only(box, (distance <= 0) & body.cavity[box], index, over)


def _loop(body: Body, rng: np.random.Generator) -> tuple[list[np.ndarray], float]:
    """Points of a random walk in the front of the cavity, lower down more than higher up, and its radius (mm)."""
    start = np.array([rng.uniform(-60, 30), rng.uniform(-0.75, 0.25) * body.b, rng.uniform(-0.6, 0.7) * body.a])
    points, direction = [start], rng.standard_normal(3)
    for _ in range(int(rng.integers(2, 5))):
        direction = 0.6 * direction / np.linalg.norm(direction) + 0.5 * rng.standard_normal(3)
        points.append(points[-1] + direction / np.linalg.norm(direction) * rng.uniform(16, 32))
    return points, float(rng.uniform(10, 18))


def _colon(body: Body, rng: np.random.Generator, side: int) -> tuple[list[np.ndarray], float]:
    """A vertical tube in the flank that ends at the flexure."""
    top = body.level + (rng.uniform(-25, 0) if side < 0 else rng.uniform(-10, 20))
    x, y = side * rng.uniform(0.70, 0.80) * body.a, rng.uniform(0.0, 0.35) * body.b
    flexure = np.array([top, y, x])
    inward = flexure + np.array([rng.uniform(-5, 8), -0.4 * body.b, -side * 0.3 * body.a])
    return [np.array([-200.0, y, x]), flexure, inward], float(rng.uniform(15, 21))


def _meal(rng: np.random.Generator) -> Tissue:
    """Contents of a loop: gas, something that mimics an organ, or anything from fatty to watery."""
    kind = rng.random()
    if kind < 0.12:
        return GAS
    if kind < 0.60:
        return vary(TISSUES[MIMICS[int(rng.integers(len(MIMICS)))]], rng, times=0.08, hu=12)
    t1 = float(np.exp(rng.uniform(np.log(350), np.log(2400))))
    t2, t2star, pd = float(rng.uniform(40, 200)), float(rng.uniform(20, 60)), float(rng.uniform(0.6, 0.95))
    hu = float(rng.uniform(0, 130))
    return Tissue((t1, 1.12 * t1), (t2, 0.94 * t2), (t2star, 0.75 * t2star), pd, (hu,) * 4, "contents of bowel")


def pancreas(canvas: Canvas, body: Body) -> None:
    """A bent bar across the midline in front of the great vessels."""
    rng = canvas.draw("pancreas")
    index = canvas.add_of("pancreas", "pancreas")
    z, y = body.level - 8 + rng.normal(0, 6), 0.06 * body.b + rng.normal(0, 5)
    points = np.array([[z - 18, y + 6, -26], [z, y - 8, -4], [z + 8, y - 4, 26], [z + 20, y + 8, 58]])
    points = points + rng.normal(0, 3, points.shape)
    radii = np.array([15, 11, 10, 9]) * np.exp(rng.normal(0, 0.12, 4))
    for i in range(3):
        box, distance = capsule(canvas.grid, points[i], points[i + 1], radii[i], radii[i + 1])
        canvas.fill(box, (distance <= 0) & body.cavity[box], index)


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
