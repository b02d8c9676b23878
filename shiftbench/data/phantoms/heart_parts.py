"""Parts of the heart phantom: each draws its own numbers and paints its tissues on a canvas, from the outside in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.heart_shape import Scar, Ventricles
from shiftbench.data.phantoms.heart_space import Pose, Space, space, united
from shiftbench.data.phantoms.shapes import capsule, ellipsoid
from shiftbench.data.phantoms.tissues import mix

RIGHT_APEX = 0.14  # height of the right ventricle's apex, relative to the length of the left cavity
PERICARDIUM_MM = 1.5


@dataclass(frozen=True)
class Heart:
    """What the parts of a heart need to know of it.

    Attributes:
        pose: where it lies.
        shape: size of its ventricles.
        mitral: rise of the mitral plane per mm towards the anterior and the lateral wall.
    """

    pose: Pose
    shape: Ventricles
    mitral: tuple[float, float]

    def around(self, canvas: Canvas) -> Space:
        """Everything inside the pericardium."""
        wide, top = self.shape.outer + 16, self.shape.length + 62
        return space(canvas.grid, self.pose, (-28, -wide - 14, -wide - 36), (top, wide + 14, wide + 6))

    def left(self, canvas: Canvas) -> Space:
        """The left ventricle alone."""
        wide, top = 1.25 * self.shape.outer, self.shape.length + 24
        return space(canvas.grid, self.pose, (-1.5 * self.shape.thickness, -wide, -wide), (top, wide, wide))

    def above_mitral(self, where: Space) -> np.ndarray:
        """Height above the mitral plane in mm."""
        a, b = (np.float32(slope) for slope in self.mitral)
        return where.height - (np.float32(self.shape.length) + a * where.anterior + b * where.lateral)

    def cavity(self, where: Space) -> np.ndarray:
        """Distance to the left endocardium in mm, negative inside; it goes on above the mitral plane."""
        s = self.shape
        return where.distance((s.semi, 0, 0), (s.semi, s.radius, s.radius))

    def thickness(self, where: Space) -> np.ndarray:
        """Thickness of the left wall in mm."""
        s = self.shape
        height = np.clip(where.height * np.float32(1 / s.length), 0, 1)
        return np.float32(s.thickness) * s.wall.relative(height, *where.direction())

    def right(self, where: Space) -> np.ndarray:
        """Distance to the outline of the right cavity in mm, the left ventricle not yet cut out."""
        s = self.shape
        inner = 0.74 * s.outer
        radii = ((0.82 - RIGHT_APEX) * s.length, 1.22 * s.outer, s.outer + s.right_mm - inner)
        return where.distance((0.82 * s.length, -0.06 * s.outer, -inner), radii)


def pericardial_sac(canvas: Canvas, heart: Heart) -> None:
    """Epicardial fat, thicker in the grooves, inside the pericardium with fat on its outside."""
    rng = canvas.draw("epicardial fat")
    fat, line = canvas.add_of("epicardial_fat", "fat"), canvas.add_of("pericardium", "pericardium")
    where, s = heart.around(canvas), heart.shape
    left = heart.cavity(where) - heart.thickness(where)
    body = united(left, heart.right(where) - np.float32(s.right_wall_mm), 9.0)
    atria = where.distance((s.length + 20, -6, -8), (26 * s.atria, 34 * s.atria, 44 * s.atria))
    body = united(body, atria, 12.0)
    lateral, anterior = where.direction()
    amount, phase = rng.uniform(0.5, 4.0), rng.uniform(0, 2 * np.pi, 2)
    c, d = (np.cos(phase) * np.float32(0.6)).astype(np.float32), (np.sin(phase) * np.float32(0.6)).astype(np.float32)
    ripple = c[0] * anterior + d[0] * lateral + c[1] * (2 * lateral**2 - 1) + d[1] * 2 * lateral * anterior
    depth = np.float32(amount) * np.clip(np.float32(0.6) + ripple - np.float32(0.4) * lateral, 0.05, None)
    outside = np.float32(rng.uniform(0.0, 5.0)) * np.clip(np.float32(0.2) - lateral, 0, None)
    for limit, index in ((depth + PERICARDIUM_MM + outside, fat), (depth + PERICARDIUM_MM, line), (depth, fat)):
        canvas.fill(where.box, body <= limit, index)


def atria(canvas: Canvas, heart: Heart) -> None:
    """Left and right atrium behind the base, with the pulmonary trunk and the root of the aorta in front."""
    rng = canvas.draw("atria")
    s, at = heart.shape, heart.pose.at
    wall = canvas.add_of("atrial_wall", "myocardium")
    arterial, venous = canvas.add_of("atrium", "blood_arterial"), canvas.add_of("atrium", "blood_mixed_venous")
    size = s.atria * np.exp(rng.normal(0, 0.08, 2))
    for (h, a, x), radii, scale, blood in (
        ((s.length + 10, -16, -40), (24, 24, 21), size[0], venous),
        ((s.length + 20, -5, 3), (25, 25, 28), size[1], arterial),
    ):
        centre = at(h, a + rng.normal(0, 2), x + rng.normal(0, 2))
        for thickness, index in ((2.2, wall), (0.0, blood)):
            box, out = ellipsoid(canvas.grid, centre, np.array(radii) * scale + thickness, heart.pose.turn)
            canvas.fill(box, out <= 1, index)
    vessel = canvas.add_of("great_vessel", "myocardium")
    aortic = canvas.add_of("great_vessel", "blood_arterial")
    start, end = at(s.length - 2, 12, -13), at(s.length + 60, 24, -30)
    _vessel(canvas, start, end, float(rng.uniform(11.5, 14)), vessel, aortic)


def _vessel(canvas: Canvas, start: np.ndarray, end: np.ndarray, radius: float, wall: int, blood: int) -> None:
    for thickness, index in ((1.6, wall), (0.0, blood)):
        box, distance = capsule(canvas.grid, start, end, radius + thickness, radius + thickness)
        canvas.fill(box, distance <= 0, index)


def right_ventricle(canvas: Canvas, heart: Heart) -> None:
    """The right ventricle around the septum: thin wall, outflow tract, and coarse trabeculae in its cavity."""
    rng = canvas.draw("right ventricle")
    s, at = heart.shape, heart.pose.at
    wall, blood = canvas.add_of("rv_wall", "myocardium"), canvas.add_of("rv_cavity", "blood_mixed_venous")
    pulmonary = canvas.add_of("great_vessel", "blood_mixed_venous")
    trabecular = mix(((canvas.tissues[wall], 0.6), (canvas.tissues[blood], 0.4)), "muscle and blood in one voxel")
    bands = canvas.add("rv_cavity", trabecular)
    jets = _jets(canvas, "rv_cavity", blood)
    where = heart.around(canvas)
    out = heart.right(where)
    tricuspid = heart.above_mitral(where) + np.float32(4)
    below = tricuspid < 0
    conus = (at(s.length - 16, 0.8 * s.outer, -0.85 * s.outer), at(s.length + 16, 1.1 * s.outer, -0.42 * s.outer))
    trunk = at(s.length + 60, 1.25 * s.outer, -0.1 * s.outer)
    radius = float(rng.uniform(11, 14)) * (0.6 + 0.4 * s.right_mm / 27)
    for thickness, index in ((s.right_wall_mm, wall), (0.0, blood)):
        canvas.fill(where.box, (out <= thickness) & below, index)
        for start, end, last in ((conus[1], trunk, pulmonary), (*conus, blood)):
            box, distance = capsule(canvas.grid, start, end, radius + thickness, radius + thickness)
            canvas.fill(box, distance <= 0, last if index == blood else wall)
    _swirl(canvas, heart, rng, jets, blood, (-1.0 * s.outer - 0.4 * s.right_mm, 0.5 * s.right_mm))
    ripple = np.sin(np.float32(0.35) * where.anterior + np.float32(0.2) * where.height + np.float32(rng.uniform(0, 6)))
    depth = np.float32(rng.uniform(1.5, 4.0)) * (1 + np.float32(0.8) * ripple)
    canvas.fill_only(where.box, (out > -depth) & (out <= 0), bands, [blood, *jets])
    for _ in range(10):
        h, a = rng.uniform(0.18, 0.6) * s.length, rng.uniform(-0.9, 0.8) * s.outer
        inner, outer = at(h, a, -0.6 * s.outer), at(h - 8, a + rng.normal(0, 6), -1.1 * s.outer - s.right_mm)
        box, distance = capsule(canvas.grid, inner, outer, rng.uniform(1.5, 3.2), rng.uniform(1.5, 3.2))
        canvas.fill_only(box, distance <= 0, bands, [blood, *jets])


def _jets(canvas: Canvas, label: str, blood: int) -> list[int]:
    """Tissues of blood whose turbulence dephases the signal, from the rim to the core of a jet."""
    rng = canvas.draw(f"jets {label}")
    tissue = canvas.tissues[blood]
    loss = float(rng.uniform(0.2, 0.6))
    return [canvas.add(label, tissue._replace(pd=tissue.pd * (1 - share * loss))) for share in (0.25, 0.6, 1.0)]


def _swirl(
    canvas: Canvas, heart: Heart, rng: np.random.Generator, jets: list[int], blood: int, lateral: tuple[float, float]
) -> None:
    """Jets in the blood of one ventricle, around a lateral position with a spread in mm."""
    s = heart.shape
    for _ in range(4):
        h, a, x = rng.uniform(0.3, 0.95), rng.normal(0, 0.45) * s.radius, lateral[0] + rng.normal(0, lateral[1])
        start, end = heart.pose.at(h * s.length, a, x), heart.pose.at(h * s.length + 22, *(a, x) + rng.normal(0, 8, 2))
        box, distance = capsule(canvas.grid, start, end, rng.uniform(3, 6), rng.uniform(5, 9))
        for depth, index in zip((0.0, 1.6, 3.2), jets, strict=True):
            canvas.fill_only(box, distance <= -depth, index, [blood, *jets])


def left_ventricle(canvas: Canvas, heart: Heart) -> tuple[int, ...]:
    """Myocardium, cavity and the slices beyond the mitral plane; returns the tissue indices of the scar, if any."""
    s, rng = heart.shape, canvas.draw("left ventricle")
    muscle, blood = canvas.add_of("myocardium", "myocardium"), canvas.add_of("lv_cavity", "blood_arterial")
    basal, annulus = canvas.add("basal_lv", canvas.tissues[blood]), canvas.add_of("atrial_wall", "myocardium")
    inside = {name: canvas.add_of(name, "myocardium") for name in ("trabeculae", "papillary")}
    jets = _jets(canvas, "lv_cavity", blood)
    reach = float(rng.uniform(10, 14))
    where = heart.left(canvas)
    cavity, above = heart.cavity(where), heart.above_mitral(where)
    below, slab = above < 0, (above >= 0) & (above < np.float32(reach))
    thickness = heart.thickness(where)
    canvas.fill(where.box, slab & (cavity <= 2.5), annulus)
    canvas.fill(where.box, slab & (cavity <= 0), basal)
    canvas.fill(where.box, below & (cavity <= thickness), muscle)
    canvas.fill(where.box, below & (cavity <= 0), blood)
    _swirl(canvas, heart, canvas.draw("left flow"), jets, blood, (0.0, 0.5 * s.radius))
    _trabeculae(canvas, heart, where, cavity, inside["trabeculae"], [blood, *jets])
    _papillary(canvas, heart, inside["papillary"], [blood, *jets, inside["trabeculae"]])
    if s.wall.scar is None:
        return ()
    scarred = canvas.add_of("scar", "scar")
    _scar(canvas, heart, where, cavity / thickness, s.wall.scar, scarred, [muscle])
    return (scarred,)


def _trabeculae(canvas: Canvas, heart: Heart, where: Space, cavity: np.ndarray, index: int, over: list[int]) -> None:
    """Ridges along the endocardium, deeper towards the apex."""
    rng = canvas.draw("trabeculae")
    s = heart.shape
    height = np.clip(where.height * np.float32(1 / s.length), 0, 1)
    angle = np.arctan2(where.anterior, where.lateral)
    phase = rng.uniform(0, 2 * np.pi, 2)
    ridges = np.sin(11 * angle + np.float32(phase[0]) + 4 * height) + np.sin(
        7 * angle + np.float32(phase[1]) - 5 * height
    )
    depth = np.float32(0.135 * s.radius * rng.uniform(0.85, 1.15)) * np.clip(1.1 - height * np.float32(1.35), 0, 1)
    canvas.fill_only(where.box, cavity > -depth * np.clip(0.4 + 0.6 * ridges, 0, 1), index, over)


def _papillary(canvas: Canvas, heart: Heart, index: int, over: list[int]) -> None:
    """The anterolateral and the posteromedial papillary muscle, each with two heads, in proportion to the wall."""
    rng = canvas.draw("papillary")
    s, at = heart.shape, heart.pose.at
    volume = rng.uniform(0.082, 0.100) * s.wall_ml * 1000
    radius = float(np.sqrt(volume / (2 * np.pi * 0.50 * s.length * 0.83)))

    def inner(height: float) -> float:
        return s.radius * float(np.sqrt(1 - (height * s.length / s.semi - 1) ** 2))

    for angle in np.radians((28, -112) + rng.normal(0, 9, 2)):
        foot, tip = 0.20 + rng.normal(0, 0.02), 0.70 + rng.normal(0, 0.02)
        for side in (-0.4, 0.4):
            turned = angle + side * radius / s.radius
            low, high = max(inner(foot) - 0.4 * radius, 0.0), max(inner(tip) - 1.35 * radius, 0.3 * s.radius)
            bend = turned + rng.normal(0, 0.08)
            start = at(foot * s.length, low * np.sin(turned), low * np.cos(turned))
            end = at((tip + rng.normal(0, 0.03)) * s.length, high * np.sin(bend), high * np.cos(bend))
            box, distance = capsule(canvas.grid, start, end, 0.88 * radius, 0.66 * radius)
            canvas.fill_only(box, distance <= 0, index, over)


def _scar(
    canvas: Canvas, heart: Heart, where: Space, depth: np.ndarray, scar: Scar, index: int, over: list[int]
) -> None:
    height = np.clip(where.height * np.float32(1 / heart.shape.length), 0, 1)
    inside = (scar.outside(height, *where.direction()) <= 1) & (depth <= np.float32(scar.depth))
    canvas.fill_only(where.box, inside, index, over)
