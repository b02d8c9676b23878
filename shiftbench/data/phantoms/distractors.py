"""Parts of the abdominal phantom that are not segmented but may look as if: stomach and bowel."""

from __future__ import annotations

import numpy as np

from shiftbench.data.phantoms.body import Body
from shiftbench.data.phantoms.canvas import JITTER_HU, Canvas
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
        starts, ends = np.array(points[:-1]), np.array(points[1:])
        seen = canvas.grid.meets(np.minimum(starts, ends) - radius, np.maximum(starts, ends) + radius)
        tubes = [capsule(canvas.grid, starts[k], ends[k], radius, radius) for k in np.flatnonzero(seen)]
        for box, distance in tubes:
            canvas.fill_only(box, (distance <= 0) & body.cavity[box], wall, (body.fat, wall))
        for box, distance in tubes:
            canvas.fill_only(box, (distance <= -thickness) & body.cavity[box], content, (wall,))


def _loop(body: Body, rng: np.random.Generator) -> tuple[list[np.ndarray], float]:
    """Points of a random walk in the front of the cavity, lower down more than higher up, and its radius (mm)."""
    start = np.array([rng.uniform(-60, 30), rng.uniform(-0.75, 0.25) * body.b, rng.uniform(-0.6, 0.7) * body.a])
    points, direction = [start], rng.standard_normal(3)
    for _ in range(int(rng.integers(2, 5))):
        direction = 0.6 * direction / np.linalg.norm(direction) + 0.5 * rng.standard_normal(3)
        points.append(points[-1] + direction / np.linalg.norm(direction) * rng.uniform(16, 32))
    for point in points:
        point[1] = min(point[1], (0.25 if abs(point[2]) > 48 else -0.10) * body.b)  # in front of the great vessels
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
    if kind < 0.50:
        return vary(TISSUES[MIMICS[int(rng.integers(len(MIMICS)))]], rng, times=0.08, hu=12)
    t1 = float(np.exp(rng.uniform(np.log(350), np.log(2400))))
    t2, t2star, pd = float(rng.uniform(40, 200)), float(rng.uniform(20, 60)), float(rng.uniform(0.6, 0.95))
    hu = float(rng.uniform(0, 130))
    return Tissue((t1, 1.12 * t1), (t2, 0.94 * t2), (t2star, 0.75 * t2star), pd, (hu,) * 4, "contents of bowel")
