"""Vessels of the abdominal phantom: branching trees, the aorta, the vena cava and their branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from shiftbench.data.phantoms.body import TALL, Body
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import capsule, ellipsoid

Paint = dict[int, int]  # tissue that a vessel runs through -> tissue of the vessel there


def tree(
    canvas: Canvas,
    start: np.ndarray,
    directions: np.ndarray,
    radius: float,
    generations: int,
    paint: Paint,
    rng: np.random.Generator,
) -> None:
    """Vessels that leave `start` in `directions` (n, 3), each with two children of 0.78 to 0.90 of its radius."""
    starts, radii = np.repeat(start[None], len(directions), 0), np.full(len(directions), radius)
    for _ in range(generations + 1):
        n = len(radii)
        ends = starts + directions * (radii * rng.uniform(3.2, 4.4, n))[:, None]
        shrink = rng.uniform(0.78, 0.90, (n, 2))
        wide = radii[:, None]
        seen = canvas.grid.meets(np.minimum(starts, ends) - wide, np.maximum(starts, ends) + wide)
        for i in np.flatnonzero(seen):
            tube(canvas, (starts[i], ends[i]), (radii[i], radii[i] * shrink[i].max()), paint)
        side = unit(np.cross(directions, rng.standard_normal((n, 3))))[:, None]
        angle = np.radians(rng.uniform(22, 42, (n, 2)))[..., None] * np.array([[1.0], [-1.0]])
        directions = (directions[:, None] * np.cos(angle) + side * np.sin(angle)).reshape(-1, 3)  # (2n, 3)
        starts, radii = np.repeat(ends, 2, axis=0), (radii[:, None] * shrink).ravel()


def tube(
    canvas: Canvas, points: Sequence | np.ndarray, radii: Sequence[float], paint: Paint | None, index: int = 0
) -> None:
    """A tube through `points`, tapering from radius to radius: painted by `paint`, or `index` over everything."""
    for i in range(len(points) - 1):
        box, distance = capsule(canvas.grid, points[i], points[i + 1], radii[i], radii[i + 1])
        inside = distance <= 0
        if not inside.any():
            continue
        if paint is None:
            canvas.fill(box, inside, index)
            continue
        for over, own in paint.items():
            canvas.fill_only(box, inside, own, [over])


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def cava_course(canvas: Canvas, body: Body) -> tuple[np.ndarray, float]:
    """Points (n, 3) of the inferior vena cava from the renal veins to the diaphragm, and its radius (mm)."""
    rng = canvas.draw("cava")
    y, x = body.b - 72 + rng.normal(0, 2), -20 + rng.normal(0, 3)
    z = body.level + np.array([2.0, 26.0, 50.0, 90.0])
    forward, right = np.array([0.0, -3.0, -12.0, -26.0]), np.array([0.0, -5.0, -9.0, -4.0])
    return np.stack([z, y + forward, x + right], axis=1), float(rng.uniform(9, 13))


def aorta_course(canvas: Canvas, body: Body) -> tuple[float, float, float]:
    """Where the aorta runs, (y, x), and its radius (mm)."""
    rng = canvas.draw("aorta")
    return float(body.b - 72 + rng.normal(0, 2)), float(9 + rng.normal(0, 3)), float(rng.uniform(8.5, 12))


def great_vessels(canvas: Canvas, body: Body) -> None:
    """Aorta in front of the spine, and the vena cava, oval below and round where it passes behind the liver."""
    arterial, venous = canvas.add_of("aorta", "blood_arterial"), canvas.add_of("vena_cava", "blood_venous")
    behind = canvas.add("retrohepatic_cava", canvas.tissues[venous])
    y, x, radius = aorta_course(canvas, body)
    box, out = ellipsoid(canvas.grid, (0, y, x), (TALL, radius, radius))
    canvas.fill(box, out <= 1, arterial)
    points, radius = cava_course(canvas, body)
    low, y, x = points[0]
    box, out = ellipsoid(canvas.grid, (0, y, x), (TALL, 0.75 * radius, 1.15 * radius))
    canvas.fill(box, (out <= 1) & (canvas.grid.where[0][box] < low), venous)
    tube(canvas, points, [radius, radius, radius * 1.1, radius * 1.1], None, behind)


def branches(canvas: Canvas, body: Body, through: Sequence[int]) -> None:
    """Branches of the aorta and the cava and tributaries of the portal vein, in the fat and tissues `through` alone."""
    rng = canvas.draw("branches")
    artery, vein = canvas.add_of("vessel", "blood_arterial"), canvas.add_of("vessel", "blood_portal")
    renal = canvas.add_of("vessel", "blood_venous")
    y, x, _ = aorta_course(canvas, body)
    cava, _ = cava_course(canvas, body)
    z = body.level
    off = rng.normal(0, 3, (4, 3))
    coeliac = np.array([z + 22, y - 26, x - 4]) + off[0]
    tube(
        canvas,
        [(z + 24, y, x), coeliac, (z + 20, y - 22, 0.55 * body.a)],
        (3.5, 3.0, 2.2),
        dict.fromkeys(through, artery),
    )
    tube(canvas, [coeliac, (z + 4, y - 34, -38.0)], (2.8, 2.2), dict.fromkeys(through, artery))
    root = np.array([z - 10, y - 22, x]) + off[1]
    mesenteric = [(z + 8, y - 4, x), root, (-400.0, y - 28, x + 2)]
    tube(canvas, mesenteric, (3.6, 3.4, 3.2), dict.fromkeys(through, artery))
    beside = root + np.array([0, -4, -14])
    confluence = np.array([z - 20, y - 24, -2.0]) + off[2]
    splenic = [confluence, (z, y - 22, 34.0), (z + 14, 0.20 * body.b, 0.56 * body.a)]
    tube(canvas, splenic, (5.0, 4.5, 4.0), dict.fromkeys(through, vein))
    tube(
        canvas, [confluence, beside + (-30, 0, 0), (-400.0, *beside[1:])], (6.0, 5.5, 5.0), dict.fromkeys(through, vein)
    )
    for side, origin in ((-1, cava[0]), (1, cava[0])):
        hilum = np.array([z - 22 + 8 * side, 0.46 * body.b, side * 50.0]) + off[3]
        front = np.array([hilum[0] + 2, y - 13, x + 4]) if side > 0 else hilum
        tube(canvas, [origin + (-22, 0, 0), front, hilum], (5.0, 4.5, 4.0), dict.fromkeys(through, renal))
        tube(canvas, [(hilum[0] + 6, y, x), hilum + (4, 4, 0)], (2.8, 2.5), dict.fromkeys(through, artery))
    _mesentery(canvas, body, beside, {body.fat: vein}, rng)


def _mesentery(canvas: Canvas, body: Body, root: np.ndarray, paint: Paint, rng: np.random.Generator) -> None:
    """Thin vessels that fan out from the root of the mesentery into the fat in front."""
    for _ in range(16):
        z, y, x = rng.uniform(-70, 25), rng.uniform(-0.85, -0.1) * body.b, rng.uniform(-0.7, 0.8) * body.a
        half = 0.5 * (root + (z, y, x)) + rng.normal(0, 10, 3)
        tube(canvas, [root, half, (z, y, x)], (1.9, 1.5, 1.0), paint)
