"""The embedded brain phantom: seeded heads with folded cortex, ventricles, deep grey matter and MS-like lesions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from shiftbench.data.phantoms.brain_folds import Surface, Waves
from shiftbench.data.phantoms.brain_head import Head, skull_and_scalp
from shiftbench.data.phantoms.brain_lesions import Burden, lesions
from shiftbench.data.phantoms.brain_parts import NUCLEI, Inner
from shiftbench.data.phantoms.brain_tissues import BRAIN_TISSUES, patient_tissues
from shiftbench.data.phantoms.canvas import Canvas
from shiftbench.data.phantoms.cohort import Cohort
from shiftbench.data.phantoms.shapes import Grid, rotation, warped_grid
from shiftbench.data.phantoms.tissues import Tissue
from shiftbench.types import Anatomy

YOUNGEST, OLDEST = 20, 75
FLUIDS = ("csf", "ventricle", "eye")
FLUID_EVENNESS = np.float32(0.9)  # share of the texture that fluids do not have
AXES = ((-1, 1, 1), (1, -1, 1), (1, 1, -1))  # shapes that broadcast positions along each axis
LINING = 1.6  # mm of white matter at the least around the ventricles
PAINTED = {  # tissue -> fine label
    "fat": "scalp",
    "muscle": "muscle",
    "eye": "eye",
    "cortical_bone": "skull",
    "marrow": "skull",
    "csf": "csf",
    "dura": "dura",
    "sinus": "dura",
    "cortex": "cortex",
    "white_matter": "white_matter",
    "caudate": "deep_grey",
    "putamen": "deep_grey",
    "pallidum": "deep_grey",
    "thalamus": "deep_grey",
    "hippocampus": "deep_grey",
    "brainstem": "brainstem",
    "cerebellar_grey": "cerebellum",
    "cerebellar_white": "cerebellum",
    "ventricle": "ventricle",
    "choroid_plexus": "choroid_plexus",
}


@dataclass(frozen=True)
class BrainPhantom(Cohort):
    """Seeded heads of adults, with lesions in the white matter.

    The frame in which anatomy is drawn is that of an adult: `head_scale` scales the whole head.
    """

    shape: tuple[int, int, int] = (24, 128, 128)
    spacing_mm: tuple[float, float, float] = (5.0, 1.8, 1.8)

    name: ClassVar[str] = "phantom/brain"
    version: ClassVar[int] = 1
    fine_labels: ClassVar[tuple[str, ...]] = (
        "outside",
        "scalp",
        "muscle",
        "eye",
        "skull",
        "dura",
        "csf",
        "cortex",
        "white_matter",
        "deep_grey",
        "brainstem",
        "cerebellum",
        "ventricle",
        "choroid_plexus",
        "lesion_rim",
        "lesion",
    )
    members: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "white_matter": ("white_matter", "lesion_rim", "lesion"),  # painted over by the lesion where both are asked for
        "grey_matter": ("cortex",),
        "deep_grey": ("deep_grey",),
        "ventricles": ("ventricle",),
        "cerebellum": ("cerebellum",),
        "brainstem": ("brainstem",),
        "lesion": ("lesion",),
    }
    optional_members: ClassVar[Mapping[str, tuple[str, str]]] = {
        "deep_grey": ("grey_matter", "deep_grey"),
        "choroid_plexus": ("ventricles", "choroid_plexus"),
        "lesion_rim": ("lesion", "penumbra"),
    }
    things: ClassVar[tuple[str, ...]] = ("lesion",)
    reference_label: ClassVar[str] = "white_matter"
    population_keys: ClassVar[Mapping[str, tuple[float, float, float]]] = {
        "lesion_load": (1.0, 0.01, 32.0),
        "lesion_median_mm3": (600.0, 10.0, 3000.0),
        "periventricular_share": (0.6, 0.0, 1.0),
        "empty_prevalence": (0.1, 0.0, 1.0),
        "age_years_added": (0.0, 0.0, 60.0),
        "head_scale": (1.0, 0.6, 1.0),
    }
    warp: ClassVar[Sequence[tuple[float, float]]] = ((80.0, 3.0), (28.0, 1.0))
    texture_sd: ClassVar[float] = 0.018
    texture_mm: ClassVar[float] = 3.5

    def anatomy(self, case_id: str, population: Mapping[str, float]) -> Anatomy:
        """The patient `case_id` in a population, as `Cohort.anatomy`, with even fluids."""
        anatomy = super().anatomy(case_id, population)
        assert anatomy.tissue is not None and anatomy.values is not None and anatomy.texture is not None
        fluid = np.isin(anatomy.values["fine_label"], [self.fine_labels.index(name) for name in FLUIDS])
        blocks = [size for pair in zip(self.shape, self.supersampling, strict=True) for size in pair]
        share = fluid[anatomy.tissue].reshape(blocks).mean(axis=(1, 3, 5), dtype=np.float32)
        np.multiply(anatomy.texture, 1 - FLUID_EVENNESS * share, out=anatomy.texture)
        return anatomy

    def _tissues(self) -> Mapping[str, Tissue]:
        return BRAIN_TISSUES

    def _attributes(self, case_id: str) -> dict[str, str | float]:
        rng = self._draw(case_id, "person")
        return {"age": float(rng.integers(YOUNGEST, OLDEST + 1)), "sex": "FM"[int(rng.random() < 0.5)]}

    def _grid(self, case_id: str, population: Mapping[str, float]) -> Grid:
        """The warped grid of a tilted and shifted head, in mm of an adult's head."""
        rng = self._draw(case_id, "pose")
        turn = rotation(*(rng.standard_normal(3) * (3.5, 2.5, 3.5)))
        shift = rng.standard_normal(3) * (4.0, 4.0, 4.0) + (-2.0, 0.0, 0.0)
        grid = warped_grid(
            self.shape, self.spacing_mm, self.supersampling, self._draw(case_id, "warp"), scales=self.warp
        )
        scale = np.float32(population["head_scale"])
        where = ((turn / scale) @ grid.where.reshape(3, -1)).reshape(grid.where.shape)
        where -= shift.astype(np.float32).reshape(3, 1, 1, 1)
        axes = grid.axes[0] / scale, grid.axes[1] / scale, grid.axes[2] / scale
        moved = (w - a.reshape(shape) for w, a, shape in zip(where, axes, AXES, strict=True))
        z, y, x = ((float(u.min()), float(u.max())) for u in moved)
        return Grid(axes, where, (z, y, x))

    def _paint(
        self, canvas: Canvas, population: Mapping[str, float], case_id: str
    ) -> tuple[Sequence[Sequence[int]], dict[str, str | float]]:
        person = self._attributes(case_id)
        age = float(person["age"]) + population["age_years_added"]
        tissues = dict(patient_tissues(canvas.draw, age))
        tissues |= {"cerebellar_white": tissues["white_matter"], "ventricle": tissues["csf"]}
        index = {name: canvas.add(label, tissues[name]) for name, label in PAINTED.items()} | {"air": 0}
        male = person["sex"] == "M"
        surface = _surface(canvas, age, male)
        inner, inner_young = _inner(canvas, (age, YOUNGEST))
        thickness, thickness_young = _thickness(canvas, (age, YOUNGEST))
        inside, hull = skull_and_scalp(canvas, index, surface, _head(canvas))
        points = np.take(canvas.grid.where.reshape(3, -1), inside, axis=1)
        canvas.tissue.reshape(-1)[inside] = _brain(points, hull, index, surface, inner, thickness)
        young = replace(surface, shrink_mm=0.0, widening_mm=0.0), inner_young, thickness_young
        burden = Burden(
            population["lesion_load"],
            population["lesion_median_mm3"],
            population["periventricular_share"],
            population["empty_prevalence"],
        )
        found = lesions(
            canvas, index["white_matter"], tissues, lambda p: _depths(p, *young), burden, population["head_scale"]
        )
        return found, {"age": age, "lesions": float(len(found))}


def _head(canvas: Canvas) -> Head:
    rng = canvas.draw("head")
    fluid, inner, outer, diploe, scalp, face = rng.standard_normal(6)
    return Head(
        fluid=1.3 + 0.3 * float(np.clip(fluid, -2, 2)),
        tables=(1.8 + 0.2 * float(np.clip(inner, -2, 2)), 1.9 + 0.25 * float(np.clip(outer, -2, 2))),
        diploe=3.0 + 0.7 * float(np.clip(diploe, -2, 2)),
        scalp=5.0 + 0.8 * float(np.clip(scalp, -2, 2)),
        face=1.0 + 0.03 * float(np.clip(face, -2, 2)),
        planes=Waves.drawn(rng, 22.0, 12),
    )


def _surface(canvas: Canvas, age: float, male: bool) -> Surface:
    rng = canvas.draw("surface")
    size = np.exp(0.03 * rng.standard_normal(3) + 0.015 * rng.standard_normal() + (0.015 if male else -0.015))
    years = age - YOUNGEST
    shrink, widening = np.exp(0.3 * rng.standard_normal(2)) * (0.018, 0.007) * years
    return Surface(
        size=size.astype(np.float32),
        sulci=Waves.drawn(rng, 23.5, 24),
        minor=Waves.drawn(rng, 15.0, 16),
        depth=Waves.drawn(rng, 55.0, 6),
        wander=Waves.drawn(rng, 36.0, 5),
        shrink_mm=float(shrink),
        widening_mm=float(widening),
    )


def _inner(canvas: Canvas, ages: Sequence[float]) -> list[Inner]:
    """The inner parts of one patient at several ages."""
    rng = canvas.draw("inner")
    common, side, middle, speed, nuclei, cerebellum = rng.standard_normal(6)
    shift = rng.normal(0, 0.8, (len(NUCLEI), 3))
    folia = Waves.drawn(rng, 40.0, 6)

    def at(years: float) -> Inner:
        growth = np.exp(0.0045 * np.exp(0.3 * np.clip(speed, -2, 2)) * years)
        size = np.exp(0.12 * common) * growth
        return Inner(
            ventricle=(
                float(size * np.exp(0.05 * side)),
                float(size * np.exp(-0.05 * side)),
                float(np.exp(0.1 * middle) * growth),
            ),
            widening_mm=0.012 * years,
            nuclei=float(np.exp(0.05 * np.clip(nuclei, -2, 2)) * (1.11 - 0.0006 * years)),
            shift=shift,
            folia=folia,
            cerebellum=float(np.exp(0.03 * np.clip(cerebellum, -2, 2))),
        )

    return [at(age - YOUNGEST) for age in ages]


def _thickness(canvas: Canvas, ages: Sequence[float]) -> list[float]:
    """Thickness of the cortex in mm: 2.85 (SD 0.12) at 20 years, 0.004 less each year."""
    own = 2.85 + 0.12 * canvas.draw("cortex").standard_normal()
    return [float(own - 0.004 * (age - YOUNGEST)) for age in ages]


def _brain(
    points: np.ndarray, hull: np.ndarray, index: Mapping[str, int], surface: Surface, inner: Inner, thickness: float
) -> np.ndarray:
    """Tissue index (n,) of points inside the skull, with `hull_mm` of them; what comes later lies on top."""
    cerebellum, folia = inner.cerebellum_mm(points)
    depth, outer = surface.depths_mm(points, hull, cerebellum)
    out = np.full(points.shape[1], index["csf"], np.uint8)

    def paint(name: str, where: np.ndarray) -> None:
        np.copyto(out, np.uint8(index[name]), where=where)

    paint("cortex", depth > 0)
    paint("white_matter", depth > thickness)
    middle = np.abs(points[2])
    falx = (outer < 0) & (middle < 0.7) & (np.hypot((points[0] - 7) / 32, (points[1] - 3) / 50) > 1) & (points[0] > -12)
    paint("dura", falx)
    sinus = (hull > -3.0) & (middle + 1.3 * np.maximum(-hull, 0) < 4.5) & (points[0] > -12) & (points[1] > -60)
    paint("sinus", sinus & (outer < 0))
    hind = (cerebellum < 0) & (cerebellum < hull)  # the tentorium lies between
    paint("cerebellar_grey", hind & (folia > 0))
    paint("cerebellar_white", hind & (folia > 2.0))
    paint("brainstem", inner.brainstem_mm(points) < 0)
    lateral = inner.ventricles_mm(points)
    for name in NUCLEI:
        (z0, y0, x0), (z1, y1, x1) = inner.nucleus_box(name)
        near = (points[0] > z0) & (points[0] < z1) & (points[1] > y0) & (points[1] < y1) & (middle > x0) & (middle < x1)
        some = np.flatnonzero(near & (depth > 0))
        out[some[inner.nucleus_level(name, points[:, some]) < 1]] = index[name]
    paint("white_matter", (lateral < LINING) & (hull < 0) & (out == index["cortex"]))
    fluid = lateral < 0
    paint("ventricle", fluid)
    paint("choroid_plexus", fluid & (inner.choroid_mm(points) < 0))
    return out


def _depths(
    points: np.ndarray, surface: Surface, inner: Inner, thickness: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distances (n,) in mm into the white matter, from the ventricles, and from the cortex."""
    cerebellum, _ = inner.cerebellum_mm(points)
    depth, _ = surface.depths_mm(points, surface.hull_mm(points), cerebellum)
    cortex, ventricle = depth - np.float32(thickness), inner.ventricles_mm(points)
    nuclei = np.minimum.reduce([inner.nucleus_level(name, points) for name in NUCLEI])
    free = np.minimum(cortex, ventricle)
    hind = np.minimum(inner.brainstem_mm(points), cerebellum)
    return np.minimum(np.minimum(free, 4 * (nuclei - 1)), hind), ventricle, cortex
