"""The spine of the abdominal phantom and the muscles beside it."""

from __future__ import annotations

from shiftbench.data.phantoms.body import TALL, Body
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.shapes import ellipsoid
from shiftbench.data.phantoms.traits import MUSCLE_SIZE, Patient

VERTEBRA_MM = 34.0  # from disc to disc
FURTHEST = 10  # vertebrae above and below the centre of the field of view


def spine(canvas: Canvas, body: Body, patient: Patient) -> None:
    """Paraspinal and psoas muscles, vertebrae with their processes, discs and the canal."""
    rng = canvas.draw("spine")
    y, size = body.b - 42 + rng.normal(0, 3), rng.normal(1, 0.06)
    first = rng.uniform(0, VERTEBRA_MM)
    deep = range(body.subcutaneous + 1, 256)  # nothing of the spine reaches into the skin's fat
    muscle = canvas.add("muscle", patient.muscle(canvas.varied("muscle")))
    bulk = size * patient.sized(MUSCLE_SIZE, 0.05)
    for side in (-1, 1):
        for dy, dx, ry, rx in ((34.0, 32.0, 21.0, 30.0), (6.0, 33.0, 17.0, 13.0)):
            centre = (0, y + dy * size, side * (dx + rng.normal(0, 2)))
            box, out = ellipsoid(canvas.grid, centre, (TALL, ry * bulk, rx * bulk))
            canvas.fill_only(box, out <= 1, muscle, deep)
    _vertebrae(canvas, patient, y, size, first, deep)


def _vertebrae(canvas: Canvas, patient: Patient, y: float, size: float, first: float, deep: range) -> None:
    """Bodies with cortex and marrow, cut by discs; arch and canal along the whole spine; processes at each level."""
    marrow = canvas.add("vertebra", patient.marrow(canvas.varied("marrow")))
    cortex, disc = canvas.add_of("vertebra", "cortical_bone"), canvas.add_of("disc", "disc")
    canal = canvas.add_of("spinal_canal", "csf")

    def column(dy: float, ry: float, rx: float, index: int) -> None:
        box, out = ellipsoid(canvas.grid, (0, y + dy * size, 0), (TALL, ry * size, rx * size), power=2.4)
        canvas.fill_only(box, out <= 1, index, deep)

    levels = [first + VERTEBRA_MM * k for k in range(-FURTHEST, FURTHEST)]
    for z in (z for z in levels if canvas.grid.at_height(z, 12)):
        for dy, radii in ((41, (12, 20, 4.5)), (25, (8, 6, 36))):  # spinous and transverse processes
            box, out = ellipsoid(canvas.grid, (z, y + dy * size, 0), (radii[0], radii[1] * size, radii[2] * size))
            canvas.fill_only(box, out <= 1, cortex, deep)
            box, out = ellipsoid(canvas.grid, (z, y + dy * size, 0), [max(r * size - 2.5, 1) for r in radii])
            canvas.fill_only(box, out <= 1, marrow, deep)
    column(24, 14, 16, cortex)
    column(0, 19, 23, cortex)
    column(0, 17.5, 21.5, marrow)
    column(22, 8.5, 10, canal)
    for z in (z + VERTEBRA_MM / 2 for z in levels if canvas.grid.at_height(z + VERTEBRA_MM / 2, 6)):
        for height, index in ((6.0, cortex), (4.5, disc)):
            box, out = ellipsoid(canvas.grid, (z, y, 0), (height, 19.5 * size, 23.5 * size), power=4)
            canvas.fill_only(box, out <= 1, index, (marrow, cortex))
